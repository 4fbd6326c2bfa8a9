package simtest

import (
	"troupe/actors/agent"
	"troupe/actors/fault"
)

// node is one control-plane process.
type node struct {
	name   string
	up     bool
	frozen bool
	member string      // new with every start
	lease  int64       // until when the others take it for alive, by the store's clock
	act    *activation // of the agent, if it has one
	cut    bool        // off from the store
	later  []func()    // what a frozen node has still in its hands
	lives  int         // starts
}

// activation is what a node remembers of the agent.
type activation struct {
	fence   agent.Fence
	version int64
	state   []byte
	loaded  bool
}

const nodeLease = 6000 // ms (FENCE-1)

func (w *World) boot(n *node) {
	n.lives++
	n.up, n.frozen, n.act, n.later = true, false, nil, nil
	n.member = n.name + "." + string(rune('a'+n.lives%26))
	n.lease = w.st.clock + nodeLease
}

// beat renews the leases of the nodes that can. A node whose lease ran out drops what it remembers and starts anew.
func (w *World) beat() {
	for _, n := range w.nodes {
		if !n.up || n.frozen || n.cut {
			continue
		}
		if n.lease < w.st.clock {
			w.boot(n)
		}
		n.lease = w.st.clock + nodeLease
	}
}

// owner finds the node that acts for the agent: the one that holds the claim while its lease lasts, else any other claims. Nil
// when the owner cannot be asked now.
func (w *World) owner(via *node) *node {
	for _, n := range w.nodes {
		if n.member == w.st.fence.Member && n.lease >= w.st.clock && n.member != "" {
			if !n.up {
				return nil // dead, but not known to be
			}
			if n.act == nil || n.act.fence != w.st.fence {
				return w.activate(n)
			}
			return n
		}
	}
	return w.activate(via)
}

func (w *World) activate(n *node) *node {
	if n == nil || !n.up || n.frozen || n.cut {
		return nil
	}
	f, won := w.st.claim(w.st.fence, n.member)
	if !won {
		return nil
	}
	n.act = &activation{fence: f}
	return n
}

// some is a node that a call could be made through.
func (w *World) some() *node {
	var ok []*node
	for _, n := range w.nodes {
		if n.up && !n.frozen && !n.cut {
			ok = append(ok, n)
		}
	}
	if len(ok) == 0 {
		return nil
	}
	return ok[w.r.IntN(len(ok))]
}

// decision is what a command asks of the machine.
type decision func(m *agent.Machine) error

// command reaches the agent's activation and is carried out there: at once, or, by a frozen node, when it wakes. Nobody gets an
// answer from a frozen node.
func (w *World) command(d decision) error {
	n := w.owner(w.some())
	if n == nil {
		return errStore
	}
	if n.frozen {
		act := n.act
		n.later = append(n.later, func() { _ = w.step(n, act, d) })
		return errStore
	}
	return w.step(n, n.act, d)
}

// step is one turn of read, decide, commit, act.
func (w *World) step(n *node, act *activation, d decision) error {
	if n.cut {
		return errStore
	}
	fault := w.storeFault()
	if fault == storeDown {
		act.loaded = false
		return errStore
	}
	f := w.st.figures()
	if (agent.Fence{Member: f.Member, Epoch: f.Epoch}) != act.fence && !w.Blind {
		w.Stale++
		w.drop(n, act)
		return errFenced
	}
	if !act.loaded || f.Version != act.version && !w.Blind {
		act.state, act.version, act.loaded = w.st.state, w.st.version, true
	}
	m := &agent.Machine{F: f, Set: w.set, Now: f.NowMS, NewID: w.id, Loaded: map[agent.MessageID]agent.Message{}}
	if err := m.Restore(w.spec, act.state); err != nil {
		return err
	}
	for id, x := range w.st.msgs { // what is asked for by Missing in the real one
		m.Loaded[id] = *x
	}
	if err := d(m); err != nil {
		return err
	}
	guard := m.C.Guard
	m.Look(w.st.waiting())
	m.C.Guard = guard
	if len(m.Missing) > 0 {
		w.broken("messages %v are nowhere", m.Missing)
	}
	c := m.Finish()
	c.Fence, c.Version = act.fence, act.version
	if w.r.IntN(200) < w.Rates.Freeze && n.up { // between the decision and its commit
		n.frozen = true
		n.later = append(n.later, func() { _ = w.finish(n, act, m, c, storeFine) })
		return errStore
	}
	return w.finish(n, act, m, c, fault)
}

func (w *World) finish(n *node, act *activation, m *agent.Machine, c *agent.Commit, answer int) error {
	if string(c.State) != string(act.state) || len(c.Commands)+len(c.Take)+len(c.Marks)+len(c.Append)+len(c.Records) > 0 || c.Attach > 0 || c.Clear {
		done, err := w.st.commit(c)
		if err != nil {
			act.loaded = false
			if fault.Is(err, fault.Fenced) {
				w.drop(n, act)
			}
			return err
		}
		w.Commits++
		if answer == storeSilent {
			act.loaded = false
			return errStore
		}
		act.version, act.state = done.Version, c.State
	}
	if w.r.IntN(100) < w.Rates.Cut { // the node dies between its commit and what follows from it
		w.kill(n)
		return errStore
	}
	if due := m.Alarm(); due > 0 {
		w.st.alarm = due
	} else {
		w.st.alarm = 0
	}
	w.act(n, act, m)
	w.notify(n, act, m)
	return nil
}

// drop ends an activation.
func (w *World) drop(n *node, act *activation) {
	if n.act == act {
		n.act = nil
	}
}

func (w *World) kill(n *node) { n.up, n.frozen, n.act, n.later, n.cut = false, false, nil, nil, false }

// act does what the committed state asks for.
func (w *World) act(n *node, act *activation, m *agent.Machine) {
	p := m.S.Pod
	switch p.Phase {
	case agent.PodStarting:
		if w.pods.start(p.Incarnation) {
			_ = w.step(n, act, func(m *agent.Machine) error {
				m.Observed(agent.Observation{Incarnation: p.Incarnation, Phase: agent.PhaseUp})
				return nil
			})
		}
	case agent.PodStopping:
		w.pods.stop(p.Incarnation)
		_ = w.step(n, act, func(m *agent.Machine) error {
			m.Observed(agent.Observation{Incarnation: p.Incarnation, Phase: agent.PhaseGone, Reason: "stopped"})
			return nil
		})
	case agent.PodUp:
		if !w.pods.lives(p.Incarnation) {
			_ = w.step(n, act, func(m *agent.Machine) error {
				m.Observed(agent.Observation{Incarnation: p.Incarnation, Phase: agent.PhaseGone, Reason: "crashed"})
				return nil
			})
		}
	}
}
