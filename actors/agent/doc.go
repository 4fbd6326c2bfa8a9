// Package agent says what an agent is: its nouns, limits, state tables, the decisions of its grain and the ports that
// several rooms share. It does no I/O, reads no clock and starts no goroutine, so everything in it is tested with tables.
//
//	owner ──patch──▶ Spec      what the owner configured      (changes by create and update)
//	grain ─decide──▶ State     what the runtime is doing      (changes by commands, turns and pods)
//	store ─counts──▶ Figures   balance, sequences, runner lease (changed by guarded scripts, never part of a snapshot)
//
// A decision takes Spec, State, Figures and the present instant, and returns the Commit to store and the acts that
// follow it. It never fails half way: what it returns is stored whole or not at all.
package agent
