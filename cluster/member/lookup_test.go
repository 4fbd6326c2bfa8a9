package member

import (
	"fmt"
	"testing"
	"time"

	"troupe/actors/agent"
)

func TestREC_10_TakingOverIsBounded(t *testing.T) {
	l := &Lookup{}
	claims := 0
	for range 5 * claimsPerSecond {
		if l.claimsLeft() {
			claims++
		}
	}
	if claims > 2*claimsPerSecond || claims < claimsPerSecond { // the loop may meet the end of one second
		t.Errorf("%d claims in a moment, the bound is %d a second", claims, claimsPerSecond)
	}
}

func TestPlacementIsEvenAndLeavesOutWhoDrains(t *testing.T) {
	v := &View{}
	for i := range 4 {
		v.Members = append(v.Members, agent.Member{ID: fmt.Sprintf("m%d", i), Kinds: []string{"agent"}, Draining: i == 3})
	}
	count := map[string]int{}
	for i := range 9000 {
		m, ok := v.owner("agent", fmt.Sprintf("id-%d", i), nil)
		if !ok {
			t.Fatal("nobody")
		}
		count[m.ID]++
	}
	for _, id := range []string{"m0", "m1", "m2"} {
		if count[id] < 2700 || count[id] > 3300 {
			t.Errorf("%v", count)
		}
	}
	if count["m3"] != 0 {
		t.Errorf("a draining member got %d", count["m3"])
	}
	if _, ok := v.owner("bot", "x", nil); ok {
		t.Error("a kind that nobody takes was placed")
	}
}

// TestASuspectIsLeftOutForAWhile: a member that does not answer gets nothing that nobody holds, and nothing else moves.
func TestASuspectIsLeftOutForAWhile(t *testing.T) {
	v := &View{}
	for i := range 3 {
		v.Members = append(v.Members, agent.Member{ID: fmt.Sprintf("m%d", i), Kinds: []string{"agent"}})
	}
	l := &Lookup{}
	l.suspected("m1")
	moved := 0
	for i := range 3000 {
		id := fmt.Sprintf("id-%d", i)
		before, _ := v.owner("agent", id, nil)
		after, ok := v.owner("agent", id, l.suspect)
		if !ok || after.ID == "m1" || before.ID != "m1" && after.ID != before.ID {
			t.Fatalf("%s went from %s to %s", id, before.ID, after.ID)
		}
		if before.ID == "m1" {
			moved++
		}
	}
	if moved < 900 || moved > 1100 {
		t.Errorf("%d of 3000 moved", moved)
	}
	l.suspects["m1"] = time.Now().Add(-time.Second)
	if l.suspect("m1") {
		t.Error("it is suspected for ever")
	}
}
