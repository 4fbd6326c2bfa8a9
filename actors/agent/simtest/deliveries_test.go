package simtest

import (
	"testing"
	"time"

	"troupe/actors/agent"
)

// TestOUT_8_AReceiverThatIsDownForADay gets every event afterwards: the younger ones by themselves, those whose budget ended in the
// meantime when they are redelivered. None is taken twice.
func TestOUT_8_AReceiverThatIsDownForADay(t *testing.T) {
	w := calm()
	w.to.up, w.spec.WarmthMS = false, nil
	began := w.st.clock
	for w.st.clock < began+agent.DeliveryBudget.Milliseconds() {
		w.Send(false)
		w.until(t, "it is answered", func(s *agent.State) bool { return s.Turn == nil && len(w.st.queue) == 0 })
		w.alive((20 * time.Minute).Milliseconds())
	}
	events := len(w.st.out.log)
	if events < 70 || len(w.to.taken) != 0 {
		t.Fatalf("%d events, %d taken while the receiver was down", events, len(w.to.taken))
	}
	down := w.to.attempts
	w.to.up = true
	w.Tick((5 * time.Hour).Milliseconds())
	dead, byThemselves := 0, len(w.to.taken)
	for id, d := range w.st.out.log {
		if d.Status == agent.DeliveryPending {
			t.Errorf("delivery %s is still pending: %+v", id, d)
		}
		if d.Status != agent.DeliveryDead {
			continue
		}
		dead++
		if age := d.CreatedMS - began; age > (5 * time.Hour).Milliseconds() {
			t.Errorf("delivery %s was made %d ms after the receiver went down and was given up", id, age)
		}
		if err := w.command(func(m *agent.Machine) error { _, err := m.Redeliver(d); return err }); err != nil {
			t.Error(err)
		}
	}
	w.Tick((time.Minute).Milliseconds())
	w.check(true)
	w.checkDeliveries(true)
	for id, n := range w.to.taken {
		if n != 1 {
			t.Errorf("delivery %s was taken %d times", id, n)
		}
	}
	if len(w.to.taken) != events || len(w.Problems) > 0 {
		t.Errorf("%d of %d taken; %v", len(w.to.taken), events, w.Problems)
	}
	t.Logf("%d events, %d attempts while the receiver was down (%.1f each), %d taken by themselves afterwards, %d when redelivered", events, down, float64(down)/float64(events), byThemselves, dead)
}

// TestOUT_10_AURLIsRemoved gives up what is pending for it, and nothing that comes after it is set again.
func TestOUT_10_AURLIsRemoved(t *testing.T) {
	w := calm()
	w.to.up = false
	send := func() {
		w.Send(false)
		w.until(t, "it is answered", func(s *agent.State) bool { return s.Turn == nil && len(w.st.queue) == 0 })
	}
	send()
	send()
	set := func(url string) {
		next := w.spec.Clone()
		next.Config.Webhooks = map[string]string{agent.EventFailed: "https://receiver.test/failed"}
		if url != "" {
			next.Config.Webhooks[agent.EventComplete] = url
		}
		if err := w.command(func(m *agent.Machine) error { m.Update(next, []string{"webhooks"}, agent.Opt[int64]{}); return nil }); err != nil {
			t.Fatal(err)
		}
		w.spec = next
	}
	set("")
	send() // owed nothing
	if n := len(w.st.out.log); n != 2 {
		t.Fatalf("%d deliveries", n)
	}
	set("https://receiver.test/again")
	send()
	for _, last := range []bool{false, true} {
		if err := w.command(func(m *agent.Machine) error { m.GiveUp(w.st.due(), last, nil); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	dead := 0
	for _, d := range w.st.out.log {
		if d.Status == agent.DeliveryDead && d.Error != "" && d.NextMS == 0 {
			dead++
		}
	}
	if s := w.st.view(); dead != 2 || s.Owed != 1 || s.Sweeping {
		t.Errorf("%d dead, %d owed, sweeping %v", dead, s.Owed, s.Sweeping)
	}
	w.to.up = true
	w.Tick((10 * time.Minute).Milliseconds())
	if len(w.to.taken) != 1 || w.st.view().Owed != 0 {
		t.Errorf("%d taken, %d owed", len(w.to.taken), w.st.view().Owed)
	}
}
