package simtest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

var errFenced = fault.Lost("agent")

// Rates say how often something fails, each in percent of its occasions.
type Rates struct {
	Store  int // a call of the store that fails, half of them after they took effect
	Cut    int // a node that dies right after a commit
	Freeze int // a node that freezes between a decision and its commit, in half percent
}

// World is one agent and everything around it.
type World struct {
	Rates Rates
	// Blind makes nodes trust what they remember: no look at claim and version before they decide. Only the fence is left.
	Blind bool
	// Unfenced takes the fence away, to prove that its absence is seen.
	Unfenced bool
	// Figures of the run.
	Accepted, Commits, Refused, Stale, Starts, Faults int
	Problems                                          []string

	r      *rand.Rand
	spec   agent.Spec
	set    agent.Settings
	st     *store
	nodes  []*node
	pods   *pods
	to     receiver
	ids    int
	outage int64 // ms that nobody could act
	acked  map[agent.MessageID]bool
	sent   map[string]int // commands to the runner, by kind
}

// New returns a world of three nodes.
func New(seed uint64) *World {
	w := &World{r: rand.New(rand.NewPCG(seed, 1)), set: agent.Settings{}.WithDefaults(), acked: map[agent.MessageID]bool{}, sent: map[string]int{}, Rates: Rates{Store: 5, Cut: 3, Freeze: 3}}
	w.spec = agent.NewSpec("agent", w.set)
	w.spec.Config.TimeoutSeconds = 300
	if seed%2 == 0 {
		w.spec.SessionMode = agent.Persistent
	}
	w.spec.Config.Webhooks = map[string]string{agent.EventComplete: "https://receiver.test/done", agent.EventFailed: "https://receiver.test/failed"}
	w.to.up = seed%5 > 0
	w.st, w.pods = newStore(w, 1_000_000), &pods{w: w}
	for _, name := range []string{"a", "b", "c"} {
		n := &node{name: name}
		w.nodes = append(w.nodes, n)
		w.boot(n)
	}
	return w
}

func (w *World) id() string { w.ids++; return fmt.Sprintf("id-%d", w.ids) }

func (w *World) broken(format string, args ...any) {
	w.Problems = append(w.Problems, fmt.Sprintf(format, args...))
}

func (w *World) storeFault() int {
	if w.r.IntN(100) >= w.Rates.Store {
		return storeFine
	}
	return storeDown + w.r.IntN(2)
}

func decode[T any](b []byte) (v T) {
	if err := json.Unmarshal(b, &v); err != nil {
		panic(err)
	}
	return v
}

// look is a wake-up of the agent: a hint, an alarm, or the sweep.
func (w *World) look() { _ = w.command(func(*agent.Machine) error { return nil }) }

// Send accepts a message through any node. The hint that follows may be lost.
func (w *World) Send(interrupt bool) bool {
	n := w.some()
	if n == nil {
		return false
	}
	id, answer := agent.MessageID(w.id()), w.storeFault()
	if answer == storeDown || w.st.accept(id, interrupt) != nil {
		return false
	}
	if answer != storeSilent { // else the sender does not know, and nothing is promised
		w.acked[id] = true
	}
	w.Accepted++
	if w.r.IntN(4) > 0 {
		w.look()
	}
	return true
}

// Tick lets time pass: leases are renewed, the clock rings, the sweep finds what waits.
func (w *World) Tick(ms int64) {
	for end := w.st.clock + ms; w.st.clock < end; {
		step := min(end-w.st.clock, 1500)
		w.st.clock += step
		if w.some() == nil {
			w.outage += step
		}
		w.beat()
		if w.st.alarm != 0 && w.st.alarm <= w.st.clock {
			w.st.alarm = w.st.clock + 2000 // it comes again unless the agent arms it anew
			w.look()
		}
		if w.st.pending != 0 && w.st.pending <= w.st.clock-5000 {
			if len(w.st.queue) == 0 {
				w.st.pending = 0
			} else {
				w.st.pending = w.st.clock - 1000
				w.look()
			}
		}
	}
}

// Status gives a command of the owner.
func (w *World) Status(v agent.Verb) error {
	return w.command(func(m *agent.Machine) error { return m.Command(v) })
}

// Kill ends a node like a crash; Boot starts one that is down.
func (w *World) Kill(i int) { w.kill(w.nodes[i]) }

// Boot starts a node that is down.
func (w *World) Boot(i int) {
	if !w.nodes[i].up {
		w.boot(w.nodes[i])
	}
}

// Freeze stops a node with its activation and everything in its hands.
func (w *World) Freeze(i int) { w.nodes[i].frozen = true }

// Thaw lets a frozen node go on where it stood: first it does what it has in its hands, then it learns that its lease is over.
func (w *World) Thaw(i int) {
	n := w.nodes[i]
	if !n.frozen {
		return
	}
	n.frozen = false
	later := n.later
	n.later = nil
	for _, do := range later {
		do()
	}
}

// CutOff parts a node from the store, or joins it again.
func (w *World) CutOff(i int, cut bool) { w.nodes[i].cut = cut }

// KillRunner ends the runner like a crash.
func (w *World) KillRunner() { w.pods.run = nil }

// Runner lets the runner do its next thing.
func (w *World) Runner() {
	if w.pods.run != nil {
		w.pods.run.move()
	}
}

// Jump moves the store's clock.
func (w *World) Jump(ms int64) {
	w.st.clock += ms
	for _, n := range w.nodes { // the lease script: no lease is longer than one granted now, and none ends by a jump alone
		if n.lease > w.st.clock+nodeLease || ms > 0 && n.lease > 0 {
			n.lease = w.st.clock + nodeLease
		}
	}
	w.outage += max(ms, -ms)
}

// Play injects n random events.
func (w *World) Play(n int) {
	for range n {
		i := w.r.IntN(len(w.nodes))
		switch k := w.r.IntN(100); {
		case k < 40:
			w.Runner()
		case k < 55:
			w.Send(w.r.IntN(6) == 0)
		case k < 75:
			w.Tick(int64(w.r.IntN(3000)))
		case k < 79:
			w.Tick(int64(w.r.IntN(60000)))
		case k < 83:
			w.fault(func() { w.Kill(i) })
		case k < 88:
			w.Boot(i)
		case k < 90:
			w.fault(func() { w.Freeze(i) })
		case k < 93:
			w.Thaw(i)
		case k < 94:
			w.fault(func() { w.CutOff(i, true) })
		case k < 96:
			w.CutOff(i, false)
		case k < 98:
			w.fault(w.KillRunner)
		case k < 99:
			_ = w.Status([]agent.Verb{agent.Pause, agent.Resume, agent.Stop, agent.Resume}[w.r.IntN(4)])
		default:
			w.fault(func() { w.Jump(int64(w.r.IntN(40000) - 20000)) })
		}
	}
}

func (w *World) fault(do func()) { w.Faults++; do() }

// Settle repairs everything, lets the agent work until nothing waits, and checks what must hold in the end.
func (w *World) Settle() {
	w.Rates = Rates{}
	for i, n := range w.nodes {
		w.Thaw(i)
		n.cut = false
		w.Boot(i)
	}
	w.Tick(2 * nodeLease)
	quiet := func() bool {
		return len(w.st.queue) == 0 && w.st.view().Turn == nil
	}
	for i := 0; i < 400 && !quiet(); i++ {
		if w.st.f.Status != agent.Active {
			_ = w.Status(agent.Resume)
		}
		w.Runner()
		w.Tick(500)
	}
	w.to.up = true
	for i := 0; i < 300 && len(w.st.out.owed) > 0; i++ {
		w.Tick(60_000)
	}
	w.check(quiet())
	w.checkDeliveries(len(w.st.out.owed) == 0)
}

func (w *World) check(quiet bool) {
	if !quiet {
		w.broken("MSG-2: %d messages wait for ever; state %s", len(w.st.queue), w.st.state)
	}
	done := map[agent.MessageID]string{}
	for id, t := range w.st.turns {
		if t.Outcome != agent.Completed {
			continue
		}
		for _, e := range t.Batch {
			if done[e.ID] != "" {
				w.broken("MSG-2: message %s was completed by the turns %s and %s", e.ID, done[e.ID], id)
			}
			done[e.ID] = id
		}
	}
	for id := range w.acked {
		m := w.st.msgs[id]
		if m == nil {
			w.broken("MSG-2: message %s was acknowledged and is not there", id)
		} else if quiet && m.Outcome == "" {
			w.broken("MSG-2: message %s has no outcome, status %s", id, m.Status)
		}
	}
}
