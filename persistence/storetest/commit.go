package storetest

import (
	"testing"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

func testCommit(t *testing.T, k *kit) {
	id := k.agent(10)
	f := k.claim(id, "m")
	first, second := k.accept(id, "p"), k.accept(id, "p")
	got, err := k.commit(id, f, func(c *agent.Commit) {
		c.Spec, c.State = []byte(`{"name":"n"}`), []byte(`{"x":1}`)
		c.Take = []agent.MessageID{first.ID}
		c.Marks = []agent.MarkPut{{ID: first.ID, Mark: agent.Mark{Status: agent.Read, Outcome: agent.Completed, DeliveredMS: 5, ReadMS: 6}, Party: "p", Unread: -1}}
		c.Append = []agent.Append{{ID: "reply", Body: agent.Body{Role: agent.RoleAssistant, Content: "hi", Counterparty: "p", Channel: agent.ChannelAPI}, Mark: agent.Mark{Status: agent.Delivered, DeliveredMS: agent.AtCreation}}}
		c.Records = []agent.Record{{Kind: agent.RecordTurn, ID: "t1", Score: 1, Body: []byte(`{"a":1}`)}}
		c.Commands = []agent.Command{{Kind: "turn.start", Body: []byte(`{"t":1}`)}, {Kind: "shutdown", Body: []byte(`{"s":"a b"}`)}}
		c.Events = []agent.Event{{Type: "turn.started", Data: []byte(`{}`)}}
		c.Idem = &agent.Idempotency{Key: "k", Hash: "h", Result: []byte("r")}
		c.Head = map[string]string{agent.HeadTurn: "t1", agent.HeadReason: ""}
	})
	k.must(err)
	if len(got.Appended) != 1 || got.Appended[0].Seq != 3 || got.Appended[0].CreatedMS < second.CreatedMS {
		t.Fatalf("appended %+v", got.Appended)
	}
	sn, err := k.s.Load(k.ctx, id)
	k.must(err)
	if string(sn.Spec) != `{"name":"n"}` || string(sn.State) != `{"x":1}` || sn.Version != got.Version || sn.Figures.Pending != 1 || sn.Figures.Messages != 3 || sn.Figures.CommandSeq != 2 {
		t.Fatalf("snapshot %s %s %+v", sn.Spec, sn.State, sn.Figures)
	}
	reply, err := k.s.Message(k.ctx, id, "reply")
	k.must(err)
	if reply.DeliveredAt() != got.Appended[0].CreatedMS {
		t.Fatalf("reply %+v", reply)
	}
	m, _ := k.s.Message(k.ctx, id, first.ID)
	if m.Status != agent.Read || m.Outcome != agent.Completed || m.Content != "hello" {
		t.Fatalf("marked %+v", m)
	}
	rows, _, _ := k.s.Conversations(k.ctx, id, 0, 5)
	if rows[0].Unread != 1 || rows[0].Total != 3 {
		t.Fatalf("conversation %+v", rows[0])
	}
	cmds, err := k.s.Commands(k.ctx, id, 0)
	k.must(err)
	if len(cmds) != 2 || cmds[0].Kind != "turn.start" || cmds[1].Seq != 2 || string(cmds[1].Body) != `{"s":"a b"}` {
		t.Fatalf("commands %+v", cmds)
	}
	if b, err := k.s.Record(k.ctx, id, agent.RecordTurn, "t1"); err != nil || string(b) != `{"a":1}` {
		t.Fatalf("record %s %v", b, err)
	}
	if x, err := k.s.Replay(k.ctx, id, "k", "h"); err != nil || x == nil || string(x.Result) != "r" {
		t.Fatalf("replay %+v %v", x, err)
	}
	again, err := k.commit(id, f, func(c *agent.Commit) {
		c.Idem, c.State = &agent.Idempotency{Key: "k", Hash: "h", Result: []byte("r2")}, []byte(`{"x":2}`)
	})
	k.must(err)
	if sn, _ = k.s.Load(k.ctx, id); string(again.Done) != "r" || string(sn.State) != `{"x":1}` {
		t.Fatalf("a repeated command took effect again: %s %s", again.Done, sn.State)
	}
	if x, err := k.s.Replay(k.ctx, id, "other", "h"); err != nil || x != nil {
		t.Fatalf("replay of an unknown key: %+v %v", x, err)
	}
	_, err = k.s.Replay(k.ctx, id, "k", "another")
	k.refused(err, fault.Mismatch, "idempotency_key_reused")

	_, err = k.commit(id, f, func(c *agent.Commit) {
		c.Requeue = map[agent.MessageID]agent.Place{first.ID: {Seq: first.Seq}}
		c.Confirm = []int64{agent.ConfirmTurn}
		c.Records = []agent.Record{{Kind: agent.RecordTurn, ID: "t1"}}
	})
	k.must(err)
	q, err := k.s.Queue(k.ctx, id, 10)
	k.must(err)
	if len(q) != 2 || q[0].ID != first.ID || q[1].ID != second.ID {
		t.Fatalf("LIFE-4: the queue lost its order: %+v", q)
	}
	if cmds, _ = k.s.Commands(k.ctx, id, 0); len(cmds) != 1 || cmds[0].Kind != "shutdown" {
		t.Fatalf("commands %+v", cmds)
	}
	if b, err := k.s.Record(k.ctx, id, agent.RecordTurn, "t1"); err != nil || b != nil {
		t.Fatalf("deleted record %s %v", b, err)
	}
	ms, err := k.s.ByID(k.ctx, id, []agent.MessageID{second.ID, "unknown", first.ID})
	k.must(err)
	if len(ms) != 2 || ms[0].ID != second.ID {
		t.Fatalf("by id %+v", ms)
	}
}
