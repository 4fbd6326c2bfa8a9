// Package simtest runs the decisions of an agent in a small deterministic world: a store, a clock, nodes, pods and runners that
// are driven from one seed and fail on purpose. Nothing in it waits, so thousands of schedules of faults run in a second.
//
//	World ── store    one agent's head, queue and records; commits are all or nothing, under a fence
//	      ├─ node     holds an activation or not; is killed, frozen with work in its hands, cut off, started anew
//	      ├─ runtime  pods of one agent, one at a time, started and stopped late or by a stale owner
//	      ├─ receiver of webhooks, up or down
//	      └─ runner   attaches, confirms, replies, ends turns, dies, repeats its calls, finds that it was replaced
//
// What a node does with a decision is what actors/agentgrain does: read, decide, commit, act. A step may be cut between any two
// of these. What must always hold is checked at every commit; what must hold in the end is checked after Settle.
package simtest
