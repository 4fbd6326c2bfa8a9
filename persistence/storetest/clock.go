package storetest

import (
	"fmt"
	"testing"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

func testClock(t *testing.T, k *kit) {
	id := k.agent(10)
	owners := map[int]agent.Fence{}
	home := -1 // the shard of the agent, once it was found
	for shard := range k.s.Shards() {
		former, err := k.s.Owner(k.ctx, agent.KindClock, fmt.Sprint(shard))
		k.must(err)
		got, won, err := k.s.Claim(k.ctx, agent.KindClock, fmt.Sprint(shard), former, agent.Claim{Member: "m", Address: "127.0.0.1:1", PID: "p"})
		k.must(err)
		if !won {
			t.Fatalf("shard %d was not claimed", shard)
		}
		owners[shard] = agent.Fence{Member: "m", Epoch: got.Epoch}
	}
	var upcoming int64 // ms, of the shard that was looked at last
	find := func(pending bool) *agent.Alarm {
		t.Helper()
		for shard, f := range owners {
			if home >= 0 && shard != home {
				continue
			}
			all, next, err := k.s.Sweep(k.ctx, shard, f, 10000)
			k.must(err)
			if upcoming = -1; next >= 0 {
				upcoming = next
			}
			for _, a := range all {
				if a.ID == id && a.Pending == pending {
					home = shard
					return &a
				}
			}
		}
		return nil
	}
	if find(false) != nil {
		t.Fatal("an alarm nobody armed")
	}
	k.must(k.s.Arm(k.ctx, id, 1000))
	a := find(false)
	if a == nil {
		t.Fatal("a due alarm was not found")
	}
	if upcoming < 1000 || upcoming > 2000 { // what was handed out comes again after two seconds
		t.Fatalf("the next alarm of the shard is due in %d ms", upcoming)
	}
	if find(false) != nil {
		t.Fatal("an alarm that was handed out came again at once")
	}
	k.must(k.s.Arm(k.ctx, id, 2000))
	k.must(k.s.Clear(k.ctx, home, owners[home], []agent.Alarm{*a})) // it has changed since it was read
	if find(false) == nil {
		t.Fatal("an alarm that was armed anew was cleared")
	}
	k.must(k.s.Arm(k.ctx, id, 0))
	f := k.claim(id, "m")
	_, err := k.commit(id, f, func(c *agent.Commit) { c.Due = 3000 })
	k.must(err)
	_, err = k.commit(id, f, func(c *agent.Commit) { c.Due = 1 << 50 })
	k.must(err)
	if find(false) == nil {
		t.Fatal("a commit moved an alarm back")
	}
	for _, due := range []int64{1 << 50, 3000, 0} { // later, earlier, gone
		k.must(k.s.Arm(k.ctx, id, 2000))
		done, err := k.commit(id, f, func(c *agent.Commit) { c.Due, c.Rearm = due, true })
		k.must(err)
		if got := find(false) != nil; done.Rearmed && got != (due == 3000) || !done.Rearmed && !got {
			t.Fatalf("armed anew to %d by a commit (done %v): found due %v", due, done.Rearmed, got)
		}
	}
	k.accept(id, "p")
	if find(true) != nil {
		t.Fatal("a fresh acceptance is swept before its hint had time")
	}
	stale := owners[home] // the owner before the last one neither hands out nor clears (FENCE-8)
	stale.Epoch--
	_, _, err = k.s.Sweep(k.ctx, home, stale, 10)
	k.refused(err, fault.Fenced, "")
	k.refused(k.s.Clear(k.ctx, home, stale, []agent.Alarm{*a}), fault.Fenced, "")
}
