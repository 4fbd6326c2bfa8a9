package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// settle is how long the cluster may take to work off what was accepted, once it is whole again.
const settle = 3 * time.Minute

// sheet is the balance of a run.
type sheet struct {
	accepted, stored    int
	outcomes            map[string]int
	lost, twice, open   int
	late                int           // turns that were open for too long
	longest             time.Duration // turn
	refused             int           // stale writes
	statuses            map[int]int   // of calls that were not accepted
	attempts            map[int]int
	retries, unanswered int64
	settled             time.Duration
	fired               int // slots of schedules
	events, repeated    int // of webhooks; calls beyond one per event
	untold              int // messages whose events are not as they should be
	problems            []string
}

// outcome is how a message of an agent ended.
type outcome struct{ agent, how string }

// check waits until every message has its outcome and reads the whole history.
func check(ctx context.Context, w *world, ids []string, l *load) (*sheet, error) {
	s := &sheet{outcomes: map[string]int{}, attempts: map[int]int{}, retries: l.retries.Load(), unanswered: l.open.Load(), statuses: l.statuses}
	if err := w.healthy(ctx); err != nil {
		return nil, err
	}
	for id, schedule := range w.slots { // else there is always another message
		if _, err := w.ask(ctx, "PATCH", "/v1/agent/"+id+"/schedules/"+schedule, map[string]any{"enabled": false}); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	for _, id := range ids {
		for {
			msgs, err := w.messages(ctx, id)
			if err != nil {
				return nil, err
			}
			waiting := 0
			for _, m := range msgs {
				if m["role"] == "user" && m["outcome"] == nil {
					waiting++
				}
			}
			if waiting == 0 {
				break
			}
			if time.Since(began) > settle {
				s.open += waiting
				s.problems = append(s.problems, fmt.Sprintf("agent %s: %d messages have no outcome", id, waiting))
				break
			}
			select {
			case <-ctx.Done():
				return nil, errors.New("interrupted")
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	s.settled = time.Since(began)
	outcomes := map[string]outcome{} // of every message
	for _, id := range ids {
		if err := s.read(ctx, w, id, l.acked[id], outcomes); err != nil {
			return nil, err
		}
		if err := s.slots(ctx, w, id, w.slots[id], outcomes); err != nil {
			return nil, err
		}
	}
	s.told(ctx, w, outcomes)
	return s, nil
}

// read takes in one agent's messages and turns.
func (s *sheet) read(ctx context.Context, w *world, id string, acked map[string]bool, outcomes map[string]outcome) error {
	msgs, err := w.messages(ctx, id)
	if err != nil {
		return err
	}
	stored := map[string]bool{}
	for _, m := range msgs {
		msg, _ := m["id"].(string)
		if m["role"] != "user" {
			continue
		}
		stored[msg] = true
		how, _ := m["outcome"].(string)
		outcomes[msg] = outcome{id, how}
		if reason, _ := m["failure_reason"].(string); reason != "" {
			how += " (" + reason + ")"
		}
		s.outcomes[how]++
	}
	s.accepted += len(acked)
	s.stored += len(stored)
	for msg := range acked {
		if !stored[msg] {
			s.lost++
			s.problems = append(s.problems, fmt.Sprintf("agent %s: message %s was acknowledged and is not there", id, msg))
		}
	}
	done := map[string]string{} // message → the turn that completed it
	for page := 1; ; page++ {
		list, err := w.ask(ctx, "GET", fmt.Sprintf("/v1/agent/%s/sessions?limit=100&page=%d", id, page), nil)
		if err != nil {
			return err
		}
		sessions, _ := list["sessions"].([]any)
		for _, x := range sessions {
			session, _ := x.(map[string]any)["id"].(string)
			detail, err := w.ask(ctx, "GET", "/v1/agent/"+id+"/sessions/"+session, nil)
			if err != nil {
				return err
			}
			turns, _ := detail["turns"].([]any)
			for _, x := range turns {
				s.turn(id, x.(map[string]any), done)
			}
		}
		if len(sessions) < 100 {
			return nil
		}
	}
}

func (s *sheet) turn(id string, t map[string]any, done map[string]string) {
	turn, _ := t["id"].(string)
	attempt, _ := t["attempt"].(float64)
	s.attempts[int(attempt)]++
	if t["status"] == "running" {
		s.open++
		s.problems = append(s.problems, fmt.Sprintf("agent %s: turn %s is still running", id, turn))
	}
	started, _ := t["started_at"].(string)
	ended, _ := t["ended_at"].(string)
	from, _ := time.Parse(time.RFC3339, started)
	to, _ := time.Parse(time.RFC3339, ended)
	took := to.Sub(from)
	s.longest = max(s.longest, took)
	if took > turnLimit+time.Minute {
		s.late++
		s.problems = append(s.problems, fmt.Sprintf("TURN-7: agent %s: turn %s was open for %s", id, turn, took))
	}
	if t["status"] != "completed" {
		return
	}
	ids, _ := t["message_ids"].([]any)
	for _, x := range ids {
		msg, _ := x.(string)
		if other := done[msg]; other != "" {
			s.twice++
			s.problems = append(s.problems, fmt.Sprintf("agent %s: message %s was completed by the turns %s and %s", id, msg, other, turn))
		}
		done[msg] = turn
	}
}

func (w *world) messages(ctx context.Context, id string) (out []map[string]any, err error) {
	for after := ""; ; {
		path := "/v1/agent/" + id + "/messages?limit=100"
		if after != "" {
			path += "&after=" + after
		}
		doc, err := w.ask(ctx, "GET", path, nil)
		if err != nil {
			return nil, err
		}
		rows, _ := doc["messages"].([]any)
		for _, r := range rows {
			m, _ := r.(map[string]any)
			out = append(out, m)
			after, _ = m["id"].(string)
		}
		if more, _ := doc["has_more"].(bool); !more {
			return out, nil
		}
	}
}

func (s *sheet) good() bool { return s.lost+s.twice+s.open+s.late+s.untold == 0 && s.accepted > 0 }

func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[min(len(ds)-1, int(q*float64(len(ds))))].Round(10 * time.Millisecond)
}

func (s *sheet) print(d drawn, took time.Duration) {
	fmt.Printf("\nfaults in %s:\n", took.Round(time.Second))
	for _, name := range slices.Sorted(maps.Keys(d.counts)) {
		fmt.Printf("  %4d  %s\n", d.counts[name], name)
	}
	fmt.Printf("messages: %d accepted (%d repeats, %d calls never answered), %d stored\n", s.accepted, s.retries, s.unanswered, s.stored)
	for _, o := range slices.Sorted(maps.Keys(s.outcomes)) {
		fmt.Printf("  %6d  %s\n", s.outcomes[o], o)
	}
	fmt.Printf("calls that were not accepted, by status (0: no answer): %v\n", s.statuses)
	fmt.Printf("turns by attempt: %v, the longest %s; settled %s after the last fault\n", s.attempts, s.longest.Round(10*time.Millisecond), s.settled.Round(10*time.Millisecond))
	fmt.Printf("slots of schedules that fired: %d; events taken: %d, taken again: %d\n", s.fired, s.events, s.repeated)
	fmt.Printf("stale writes refused: %d; takeovers of agents with work: %d, p50 %s, p99 %s, longest %s\n", s.refused, len(d.times), quantile(d.times, 0.5), quantile(d.times, 0.99), quantile(d.times, 1))
	for _, p := range s.problems[:min(len(s.problems), 20)] {
		fmt.Println("! " + p)
	}
	fmt.Printf("lost %d, completed twice %d, open %d, open too long %d, events wrong %d\n", s.lost, s.twice, s.open, s.late, s.untold)
}
