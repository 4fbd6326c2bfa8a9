package agent

import (
	"slices"
	"time"
)

// Limits of the relay of replies to chat networks (CHAN-11).
const (
	RelayBudget  = time.Hour
	SendTimeout  = 30 * time.Second // of one part at its network
	relayLook    = 5 * time.Second  // while a part is under way, in case that this activation ends
	maxRelayWait = 5 * time.Minute  // between two attempts
)

// RelayHead is what the state knows of one binding's outbox.
type RelayHead struct {
	Binding string `json:"binding"`
	Owed    int64  `json:"owed"`
	NextMS  int64  `json:"next_ms"` // when its first reply is due
}

// Relay is one reply on its way to a chat network: sent part by part, one reply at a time per binding (CHAN-10).
type Relay struct {
	Message   MessageID `json:"message"`
	Binding   string    `json:"binding"`
	Part      int       `json:"part,omitempty"`      // the first that is not confirmed, from 0
	Sending   bool      `json:"sending,omitempty"`   // it may have been sent: stored before it is
	Uncertain []int     `json:"uncertain,omitempty"` // parts of which nobody knows, from 1
	FirstMS   int64     `json:"first_ms,omitempty"`  // first attempt at this part
	Tries     int       `json:"tries,omitempty"`
	Score     int64     `json:"score"`
}

// relay puts a reply into the outbox of its binding, in the step that stores it.
func (m *Machine) relay(id MessageID, binding string) {
	m.S.RelaySeq++
	r := Relay{Message: id, Binding: binding, Score: m.S.RelaySeq}
	m.putRelay(&r)
	h := m.outgoing(binding)
	h.Owed++
	if h.Owed == 1 || h.NextMS == 0 {
		h.NextMS = m.Now
	}
}

func (m *Machine) putRelay(r *Relay) {
	m.record(Record{Kind: RecordRelay, Group: r.Binding, ID: string(r.Message), Score: r.Score, Body: Encode(r)})
}

// outgoing is the head of a binding's outbox.
func (m *Machine) outgoing(binding string) *RelayHead {
	i := slices.IndexFunc(m.S.Relays, func(h RelayHead) bool { return h.Binding == binding })
	if i < 0 {
		m.S.Relays = append(m.S.Relays, RelayHead{Binding: binding})
		i = len(m.S.Relays) - 1
	}
	return &m.S.Relays[i]
}

// RelayTo is where the replies of a binding go; nil when it is no longer active, or its bot has no credentials now.
func (m *Machine) RelayTo(binding string) *Binding {
	for i := range m.S.Bindings {
		if m.S.Bindings[i].ID == binding {
			return &m.S.Bindings[i]
		}
	}
	return nil
}

// Intend notes that a part is about to be sent, for networks that do not recognise a repetition.
func (m *Machine) Intend(r Relay) Relay {
	r.Sending = true
	m.putRelay(&r)
	m.outgoing(r.Binding).NextMS = m.Now + relayLook.Milliseconds()
	return r
}

// RelayFate is what became of a part.
type RelayFate int

// The fates of a part.
const (
	PartSent      RelayFate = iota + 1
	PartUncertain           // nobody knows whether it arrived
	PartLater               // it did not arrive; try again
	PartRefused             // it will not arrive
	WindowClosed            // the network takes no free text now
	Unbound                 // there is no binding any more
)

// Relayed takes in what became of the present part of the first reply; parts is how many it has, owed what the outbox holds. Whether another
// part follows at once, it says with ok; next is then how it is to be sent.
func (m *Machine) Relayed(r Relay, fate RelayFate, parts int, after time.Duration, owed int64, repeatable bool) (next Relay, ok bool) {
	h := m.outgoing(r.Binding)
	h.Owed = owed
	if r.FirstMS == 0 {
		r.FirstMS = m.Now
	}
	if fate == PartUncertain && repeatable {
		fate = PartLater // the network tells a part that is sent again
	}
	switch fate {
	case PartUncertain:
		r.Uncertain = append(r.Uncertain, r.Part+1)
		r.Part++
	case PartSent:
		r.Part++
	case PartLater:
		r.Tries++
		wait := min(max(time.Second<<min(r.Tries, 9), after), maxRelayWait)
		if after > maxRelayWait {
			wait = after
		}
		if m.Now+wait.Milliseconds()-r.FirstMS > RelayBudget.Milliseconds() {
			m.endRelay(&r, h, "channel_unreachable")
			m.notifyError("channel_unreachable", "A reply could not be delivered for an hour")
			return r, false
		}
		r.Sending = false
		m.putRelay(&r)
		h.NextMS = m.Now + wait.Milliseconds()
		return r, false
	case PartRefused:
		m.endRelay(&r, h, "channel_unreachable")
		m.notifyError("channel_unreachable", "The network refused a reply")
		return r, false
	case WindowClosed:
		m.endRelay(&r, h, "channel_window_closed")
		return r, false
	case Unbound:
		m.endRelay(&r, h, "channel_unreachable")
		return r, false
	}
	r.FirstMS, r.Tries, r.Sending = 0, 0, !repeatable
	if r.Part >= parts {
		m.endRelay(&r, h, "")
		return r, false
	}
	m.putRelay(&r)
	h.NextMS = m.Now + relayLook.Milliseconds()
	return r, true
}

// Rest leaves a part that Relayed said follows at once to a later activation.
func (m *Machine) Rest(next Relay) {
	next.Sending = false
	m.putRelay(&next)
}

// credentialsSet lets replies that rest go at once where the credentials of their bot were set: what they rest for may be over (CHAN-12).
func (m *Machine) credentialsSet(changed []string) {
	for _, b := range m.S.Bindings {
		if m.Spec.Bots[b.Channel] == "" || !slices.Contains(changed, chatSlots[b.Channel]) {
			continue
		}
		for i := range m.S.Relays {
			if h := &m.S.Relays[i]; h.Binding == b.ID {
				h.NextMS = min(h.NextMS, m.Now)
			}
		}
	}
}

// RelaysDone notes that a binding's outbox is empty.
func (m *Machine) RelaysDone(binding string) {
	m.S.Relays = slices.DeleteFunc(m.S.Relays, func(x RelayHead) bool { return x.Binding == binding })
}

// Content is the text of a message that the step needs.
func (m *Machine) Content(id MessageID) string { return m.loaded(id).Content }

// endRelay takes a reply out of the outbox, with its mark (MSG-6).
func (m *Machine) endRelay(r *Relay, h *RelayHead, reason string) {
	m.record(Record{Kind: RecordRelay, Group: r.Binding, ID: string(r.Message)})
	mark := m.loaded(r.Message).Mark
	mark.Uncertain = r.Uncertain
	if reason == "" {
		mark.Status, mark.DeliveredMS = Delivered, m.Now
		m.event("message.delivered", map[string]any{"message_id": r.Message.String(), "role": RoleAssistant})
	} else {
		mark.Reason = reason
		m.event("message.failed", map[string]any{"message_id": r.Message.String(), "role": RoleAssistant, "reason": reason})
	}
	m.C.Marks = append(m.C.Marks, MarkPut{ID: r.Message, Mark: mark, Party: r.Binding})
	h.NextMS = m.Now
	if h.Owed--; h.Owed <= 0 {
		m.S.Relays = slices.DeleteFunc(m.S.Relays, func(x RelayHead) bool { return x.Binding == r.Binding })
	}
}
