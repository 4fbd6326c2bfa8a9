package simtest

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"

	"troupe/actors/agent"
)

// receiver is what the agent's webhooks lead to.
type receiver struct {
	up       bool
	attempts int
	sent     map[string][]byte // what was sent, by delivery
	taken    map[string]int    // and how often it answered with success
}

// outbox is the store's part of deliveries.
type outbox struct {
	log, owed map[string]agent.Delivery
	payloads  map[string][]byte
}

func (s *store) deliver(r agent.Record) {
	o := &s.out
	switch {
	case r.Kind == agent.RecordPayload && r.Body != nil:
		if was, there := o.payloads[r.ID]; there && string(was) != string(r.Body) {
			s.w.broken("OUT-3: what delivery %s sends was changed", r.ID)
		}
		o.payloads[r.ID] = r.Body
	case r.Kind == agent.RecordPayload:
		delete(o.payloads, r.ID)
	case r.Kind == agent.RecordOwed && r.Body == nil:
		delete(o.owed, r.ID)
	case r.Kind == agent.RecordOwed:
		o.owed[r.ID] = decode[agent.Delivery](r.Body)
	case r.Body == nil:
		delete(o.log, r.ID)
	default:
		o.log[r.ID] = decode[agent.Delivery](r.Body)
	}
}

// due lists the outbox, what comes first first.
func (s *store) due() []agent.Delivery {
	return slices.SortedFunc(maps.Values(s.out.owed), func(a, b agent.Delivery) int { return cmp.Or(cmp.Compare(a.NextMS, b.NextMS), cmp.Compare(a.ID, b.ID)) })
}

// notify does what the notifier does: one attempt at what is due first, and the rest after it is stored.
func (w *World) notify(n *node, act *activation, m *agent.Machine) {
	if m.S.Owed == 0 || m.S.NotifyMS == 0 || m.S.NotifyMS > m.Now {
		return
	}
	due := w.st.due()
	if len(due) == 0 || due[0].NextMS > m.Now {
		return
	}
	d, next := due[0], int64(0)
	if len(due) > 1 {
		next = due[1].NextMS
	}
	a := w.to.take(d.ID, w.st.out.payloads[d.ID])
	_ = w.step(n, act, func(m *agent.Machine) error { // a node that dies here has sent it, and nobody knows
		if m.S.Owed > 0 {
			m.Attempted(d, a, next, 0)
		}
		return nil
	})
}

func (r *receiver) take(id string, body []byte) agent.Attempt {
	r.attempts++
	if r.sent == nil {
		r.sent, r.taken = map[string][]byte{}, map[string]int{}
	}
	r.sent[id] = body
	if !r.up {
		return agent.Attempt{Code: 503, Error: "Receiver answered 503"}
	}
	r.taken[id]++
	return agent.Attempt{Code: 200}
}

// checkDeliveries checks that there is one event per message that has an outcome, and none else (OUT-1, OUT-6).
func (w *World) checkDeliveries(quiet bool) {
	events := map[string][]string{}
	for id, body := range w.st.out.payloads {
		var p struct {
			Event   string
			Message string `json:"message_id"`
			ID      string `json:"delivery_id"`
			Error   *string
		}
		if err := json.Unmarshal(body, &p); err != nil || p.ID != agent.DeliveryID(id) {
			w.broken("OUT-3: delivery %s sends %s", id, body)
		}
		events[p.Message] = append(events[p.Message], p.Event)
	}
	for id, msg := range w.st.msgs {
		want := ""
		switch {
		case msg.Role != agent.RoleUser || msg.Outcome == "":
		case msg.Outcome == agent.Completed:
			want = agent.EventComplete
		default:
			want = agent.EventFailed
		}
		if got := events[id.String()]; want == "" && len(got) > 0 || want != "" && (len(got) != 1 || got[0] != want) {
			w.broken("OUT-1: message %s with outcome %q has the events %v", id, msg.Outcome, got)
		}
	}
	if s := w.st.view(); s.Owed != int64(len(w.st.out.owed)) {
		w.broken("OUT-6: %d deliveries are owed, the state says %d", len(w.st.out.owed), s.Owed)
	}
	if !quiet {
		return
	}
	for id, d := range w.st.out.log {
		if d.Status != agent.DeliveryDone || w.to.taken[id] == 0 {
			w.broken("OUT-6: delivery %s is %s and was taken %d times", id, d.Status, w.to.taken[id])
		}
	}
}
