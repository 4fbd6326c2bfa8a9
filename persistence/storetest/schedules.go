package storetest

import (
	"testing"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// testQueued shows that a message of a commit waits like an accepted one: in its place, counted, unread, and gone with its agent.
func testQueued(t *testing.T, k *kit) {
	id := k.agent(10)
	f := k.claim(id, "m")
	empty := k.agent(10)
	fe := k.claim(empty, "m")
	queue := func(c *agent.Commit) {
		c.Append = []agent.Append{{ID: "slot", Queue: true, Mark: agent.Mark{Status: agent.Pending},
			Body: agent.Body{Role: agent.RoleUser, Content: "digest", Channel: agent.ChannelAPI, Source: "schedule", Counterparty: "p"}}}
		c.Records = []agent.Record{{Kind: agent.RecordSchedule, ID: "s", Score: 1, Body: []byte(`{"id":"s"}`)},
			{Kind: agent.RecordExecution, Group: "s", ID: "e", Score: 2, Body: []byte(`{"id":"e"}`)}}
	}
	first := k.accept(id, "p")
	got, err := k.commit(id, f, queue)
	k.must(err)
	if len(got.Appended) != 1 || got.Appended[0].Seq != first.Seq+1 {
		t.Fatalf("appended %+v", got.Appended)
	}
	last := k.accept(id, "p")
	fig, pending, err := k.s.Peek(k.ctx, id, 10)
	k.must(err)
	if fig.Pending != 3 || len(pending) != 3 || pending[0].ID != first.ID || pending[1].ID != "slot" || pending[2].ID != last.ID || pending[1].Status != agent.Pending || pending[1].Content != "digest" {
		t.Fatalf("%d waiting: %+v", fig.Pending, pending)
	}
	rows, _, err := k.s.Conversations(k.ctx, id, 0, 5)
	k.must(err)
	if rows[0].Unread != 3 || rows[0].Total != 3 {
		t.Fatalf("conversation %+v", rows[0])
	}
	_, err = k.commit(id, f, func(c *agent.Commit) { c.Take = []agent.MessageID{first.ID, "slot"} })
	k.must(err)
	history := agent.RecordPage{Kind: agent.RecordExecution, Group: "s", Limit: 5}
	for _, page := range []agent.RecordPage{{}, history} {
		b, err := k.s.Begin(k.ctx, id, 10, page)
		if err != nil || len(b.Queue) != 1 || b.Queue[0].ID != last.ID || b.Figures.Pending != 1 || len(b.Spec) == 0 || b.Version != k.version(id) {
			t.Fatalf("begun with %+v, %+v, %v", b.Figures, b.Queue, err)
		}
		if page.Limit == 0 && b.Records != nil || page.Limit > 0 && (len(b.Records) != 1 || string(b.Records[0]) != `{"id":"e"}`) {
			t.Fatalf("records %q", b.Records)
		}
	}
	if b, err := k.s.Begin(k.ctx, empty, 10, history); err != nil || len(b.Queue)+len(b.Records) != 0 || len(b.Spec) == 0 {
		t.Fatalf("begun with %+v, %q, %v", b.Queue, b.Records, err)
	}
	_, err = k.s.Begin(k.ctx, "nobody", 10, history)
	k.refused(err, fault.NotFound, "")
	if _, pending, err = k.s.Peek(k.ctx, id, 10); err != nil || len(pending) != 1 || pending[0].ID != last.ID {
		t.Fatalf("after taking two: %+v, %v", pending, err)
	}
	_, err = k.commit(empty, fe, queue) // as the only one of its queue
	k.must(err)
	if fig, pending, err = k.s.Peek(k.ctx, empty, 10); err != nil || fig.Pending != 1 || len(pending) != 1 || pending[0].ID != "slot" {
		t.Fatalf("%d waiting: %+v, %v", fig.Pending, pending, err)
	}
	if history, n, err := k.s.Recorded(k.ctx, id, agent.RecordPage{Kind: agent.RecordExecution, Group: "s", Limit: 5}); err != nil || n != 1 || string(history[0]) != `{"id":"e"}` {
		t.Fatalf("history %q of %d, %v", history, n, err)
	}
	k.must(k.s.Purge(k.ctx, id))
	if _, n, err := k.s.Recorded(k.ctx, id, agent.RecordPage{Kind: agent.RecordExecution, Group: "s", Limit: 5}); err != nil || n != 0 {
		t.Fatalf("%d executions of a deleted agent, %v", n, err)
	}
}
