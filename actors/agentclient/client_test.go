package agentclient

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"
	"github.com/asynkron/protoactor-go/remote"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
)

// lookup places every identity on one actor of this process.
type lookup struct{ pid *actor.PID }

func (l *lookup) Get(*cluster.ClusterIdentity) *actor.PID      { return l.pid }
func (*lookup) RemovePid(*cluster.ClusterIdentity, *actor.PID) {}
func (*lookup) Setup(*cluster.Cluster, []string, bool)         {}
func (*lookup) Shutdown()                                      {}

// asking returns a client whose every agent is one actor.
func asking(t *testing.T, receive actor.ReceiveFunc) *Client {
	t.Helper()
	sys := actor.NewActorSystem()
	t.Cleanup(func() { sys.Shutdown() })
	l := &lookup{sys.Root.Spawn(actor.PropsFromFunc(receive))}
	c := cluster.New(sys, cluster.Configure("t", nil, l, remote.Configure("127.0.0.1", 0)))
	c.IdentityLookup = l
	ready := make(chan struct{})
	close(ready)
	return asks(c, ready)
}

// TestTrap13_EveryAttemptCarriesTheSameID: what is repeated can only be told from what is new by its id.
func TestTrap13_EveryAttemptCarriesTheSameID(t *testing.T) {
	seen := make(chan string, 100)
	c := asking(t, func(x actor.Context) {
		if cmd, ok := x.Message().(*protocol.Command); ok {
			seen <- cmd.Id
			if len(seen) < 3 {
				x.Respond(protocol.Answer(nil, fault.Lost("agent"))) // this one has lost its claim: ask the next
				return
			}
			x.Respond(protocol.Answer(struct{}{}, nil))
		}
	})
	if _, err := Ask[struct{}](context.Background(), c, agent.ID("a"), protocol.Wake, nil); err != nil {
		t.Fatal(err)
	}
	first := <-seen
	if second, third := <-seen, <-seen; first == "" || second != first || third != first {
		t.Errorf("the attempts were %q, %q, %q", first, second, third)
	}
}

// TestTrap10_AnEmptyAnswerIsNotAskedForAgainAndAgain: the library repeats at once, thousands of times, and its pauses are nanoseconds.
func TestTrap10_AnEmptyAnswerIsNotAskedForAgainAndAgain(t *testing.T) {
	asked := make(chan struct{}, 10000)
	c := asking(t, func(x actor.Context) {
		if _, ok := x.Message().(*protocol.Command); ok {
			asked <- struct{}{}
			x.Respond(nil)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, err := Ask[struct{}](ctx, c, agent.ID("a"), protocol.Wake, nil)
	if f := fault.Of(err); f.Kind != fault.Unavailable || f.Retry == 0 {
		t.Errorf("got %v", err)
	}
	if n := len(asked); n > 12 {
		t.Errorf("asked %d times", n)
	}
}

// past is a context whose time has run out, which has not been told yet.
type past struct{ context.Context }

func (past) Deadline() (time.Time, bool) { return time.Now().Add(-time.Millisecond), true }

// TestAskingEndsWhenItsTimeIsOverBeforeItIsAsked: the library gives a future without a rest no time-out at all.
func TestAskingEndsWhenItsTimeIsOverBeforeItIsAsked(t *testing.T) {
	c := asking(t, func(x actor.Context) {
		if _, ok := x.Message().(*protocol.Command); ok {
			t.Error("it was asked")
		}
	})
	if _, err := Ask[struct{}](past{t.Context()}, c, "a", protocol.Wake, nil); fault.Of(err).Kind != fault.Unavailable {
		t.Errorf("an agent: %v", err)
	}
	if _, sent, err := AskBot[struct{}](past{t.Context()}, c, "b", protocol.Send, nil); sent || fault.Of(err).Kind != fault.Unavailable {
		t.Errorf("a bot: %v, sent %v", err, sent)
	}
}

// TestTrap12_OneAttemptDoesNotUseUpTheWholeTime: the library gives each attempt the whole time-out, so that a lost message is the last.
func TestTrap12_OneAttemptDoesNotUseUpTheWholeTime(t *testing.T) {
	n := 0
	c := asking(t, func(x actor.Context) {
		if _, ok := x.Message().(*protocol.Command); ok {
			if n++; n == 1 {
				return // lost
			}
			x.Respond(protocol.Answer(struct{}{}, nil))
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), total)
	defer cancel()
	if _, err := Ask[struct{}](ctx, c, agent.ID("a"), protocol.Wake, nil); err != nil {
		t.Error(err)
	}
}

// TestTrap14_AddressesAreForgotten: the library's cache of addresses is never trimmed, and believes in activations that ended.
func TestTrap14_AddressesAreForgotten(t *testing.T) {
	c := asking(t, func(actor.Context) {})
	pid := c.find("a")
	if pid == nil || c.remembered("a") == nil {
		t.Fatal("nothing is remembered")
	}
	_ = c.c.ActorSystem.Root.StopFuture(pid).Wait()
	if c.remembered("a") != nil {
		t.Error("an activation that ended here is still believed in")
	}
	c.known["far"] = known{actor.NewPID("elsewhere:1", "x"), time.Now().Add(-time.Second)}
	if c.remembered("far") != nil {
		t.Error("one elsewhere is believed in for ever")
	}
	for i := range maxCached {
		c.known[agent.ID(fmt.Sprint(i))] = known{pid, time.Now()}
	}
	c.find("b")
	if len(c.known) > maxCached {
		t.Errorf("%d addresses are kept", len(c.known))
	}
}

// watcher tells of no change.
type watcher struct{}

func (watcher) Watch(agent.ID, func()) (stop func()) { return func() {} }

// TestPOD_6_AThousandThatWaitAskOnce: calls for one workspace share one question, and one that gives up leaves it to the others.
func TestPOD_6_AThousandThatWaitAskOnce(t *testing.T) {
	var asked atomic.Int64
	release := make(chan struct{})
	c := asking(t, func(x actor.Context) {
		if _, ok := x.Message().(*protocol.Command); ok {
			asked.Add(1)
			<-release
			x.Respond(protocol.Answer(protocol.WakeResult{Ready: true, Endpoint: "http://here"}, nil))
		}
	})
	impatient, giveUp := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := Awaken(impatient, c, watcher{}, "a")
		gone <- err
	}()
	for asked.Load() == 0 {
		time.Sleep(time.Millisecond) // until the first one asks
	}
	const n = 1000
	ends, begun := make(chan error, n), sync.WaitGroup{}
	begun.Add(n)
	for range n {
		go func() {
			begun.Done()
			res, err := Awaken(t.Context(), c, watcher{}, "a")
			if err == nil && res.Endpoint != "http://here" {
				err = fmt.Errorf("awake at %q", res.Endpoint)
			}
			ends <- err
		}()
	}
	giveUp()
	if err := <-gone; fault.Of(err).Code != "pod_not_running" {
		t.Errorf("one that gave up: %v", err)
	}
	begun.Wait()
	close(release)
	for range n {
		if err := <-ends; err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() > n/2 { // those that came after the answer ask again, together
		t.Errorf("asked %d times for %d", asked.Load(), n)
	}
}

// TestAwakenTellsWhatItIsTold: a refusal at once, an activation that does not answer after a while.
func TestAwakenTellsWhatItIsTold(t *testing.T) {
	c := asking(t, func(x actor.Context) {
		if _, ok := x.Message().(*protocol.Command); ok {
			x.Respond(protocol.Answer(nil, fault.New(fault.Unavailable, "agent_unavailable", "Agent is stopped")))
		}
	})
	if _, err := Awaken(t.Context(), c, watcher{}, "a"); fault.Of(err).Code != "agent_unavailable" {
		t.Errorf("%v", err)
	}
}
