package member

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

type overloaded struct{}

// gated spawns an actor behind a gate.
func gated(t *testing.T, held func() bool, receive actor.ReceiveFunc) (*actor.ActorSystem, *actor.PID, *Gate) {
	t.Helper()
	sys := actor.NewActorSystem()
	t.Cleanup(func() { sys.Shutdown() })
	g := newGate(sys.Root, func() any { return overloaded{} }, held)
	pid := sys.Root.Spawn(actor.PropsFromFunc(receive, actor.WithMailbox(func() actor.Mailbox { return g })))
	return sys, pid, g
}

func always() bool { return true }

// TestTrap1_NothingQueuedBehindAStopIsForgotten: the library drops what waits behind a poison pill without a word; behind the gate
// every sender hears at once that it must ask again.
func TestTrap1_NothingQueuedBehindAStopIsForgotten(t *testing.T) {
	work := make(chan struct{})
	sys, pid, g := gated(t, always, func(c actor.Context) {
		if c.Message() == "work" {
			<-work
			c.Respond("done")
		}
	})
	var wg sync.WaitGroup
	var done, bounced, lost atomic.Int32
	for range 200 {
		wg.Add(1)
		f := sys.Root.RequestFuture(pid, "work", 5*time.Second)
		go func() {
			defer wg.Done()
			switch _, err := f.Result(); {
			case err == nil:
				done.Add(1)
			case errors.Is(err, actor.ErrDeadLetter):
				bounced.Add(1)
			default:
				lost.Add(1)
			}
		}()
	}
	g.Shut()
	sys.Root.Poison(pid)
	close(work)
	wg.Wait()
	if lost.Load() != 0 || bounced.Load() == 0 || done.Load()+bounced.Load() != 200 {
		t.Errorf("%d done, %d told to ask again, %d never answered", done.Load(), bounced.Load(), lost.Load())
	}
}

// TestTrap5_AFullMailboxAnswers: the library's bounded mailbox makes senders spin; this one answers them, and drops hints.
func TestTrap5_AFullMailboxAnswers(t *testing.T) {
	work := make(chan struct{})
	sys, pid, _ := gated(t, always, func(c actor.Context) {
		if c.Message() == "work" {
			<-work
			c.Respond("done")
		}
	})
	type result interface{ Result() (any, error) }
	var all []result
	for range 2 * gateLimit {
		all = append(all, sys.Root.RequestFuture(pid, "work", 5*time.Second))
		sys.Root.Send(pid, "hint")
	}
	close(work)
	full := 0
	for _, f := range all {
		res, err := f.Result()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := res.(overloaded); ok {
			full++
		}
	}
	if full < gateLimit/2 {
		t.Errorf("%d of %d senders were told that the activation is overloaded", full, len(all))
	}
}

// TestTrap20_WhatWaitedForAFrozenProcessIsNotCarriedOut: the kernel keeps a frozen process's mail and delivers it when it wakes.
func TestTrap20_WhatWaitedForAFrozenProcessIsNotCarriedOut(t *testing.T) {
	var held atomic.Bool
	held.Store(true)
	var ran atomic.Int32
	frozen, thaw := make(chan struct{}), make(chan struct{})
	sys, pid, _ := gated(t, held.Load, func(c actor.Context) {
		switch c.Message() {
		case "freeze":
			close(frozen)
			<-thaw
		case "command":
			ran.Add(1)
			c.Respond("done")
		}
	})
	sys.Root.Send(pid, "freeze")
	<-frozen
	f := sys.Root.RequestFuture(pid, "command", 5*time.Second)
	sys.Root.Send(pid, "command")
	held.Store(false) // its lease ran out meanwhile
	close(thaw)
	if _, err := f.Result(); !errors.Is(err, actor.ErrDeadLetter) || ran.Load() != 0 {
		t.Errorf("FENCE-1: %d commands were carried out without a lease, %v", ran.Load(), err)
	}
}

// TestTrap20_WhatAnActivationTellsItselfComesAgain: a store that is away for longer than a lease ends no activation, and none may go on waiting
// for its own word.
func TestTrap20_WhatAnActivationTellsItselfComesAgain(t *testing.T) {
	var held atomic.Bool
	got := make(chan any, 4)
	sys, pid, gate := gated(t, held.Load, func(c actor.Context) {
		if s, ok := c.Message().(string); ok {
			got <- s
		}
	})
	sys.Root.Send(pid, "word")
	select {
	case x := <-got:
		t.Fatalf("FENCE-1: %v was carried out without a lease", x)
	case <-time.After(3 * heldAgain / 2):
	}
	held.Store(true)
	select {
	case <-got:
	case <-time.After(10 * time.Second):
		t.Fatal("the word is lost")
	}
	held.Store(false)
	sys.Root.Send(pid, "another")
	gate.Shut()
	held.Store(true)
	select {
	case x := <-got:
		t.Errorf("%v was carried out behind a shut gate", x)
	case <-time.After(3 * heldAgain / 2):
	}
}
