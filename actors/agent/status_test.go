package agent

import (
	"testing"

	"troupe/actors/fault"
)

// TestLIFE_1_TheStatusTable walks every row of §7, and every pair that is no row.
func TestLIFE_1_TheStatusTable(t *testing.T) {
	type row struct {
		from Status
		verb Verb
	}
	want := map[row]Status{ // every pair that is not here is refused
		{Active, Pause}: Paused, {Active, Stop}: Stopped, {Active, SetActive}: Active, {Active, SetPaused}: Paused, {Active, SetStopped}: Stopped,
		{Paused, Resume}: Active, {Paused, Stop}: Stopped, {Paused, SetPaused}: Paused, {Paused, SetActive}: Active, {Paused, SetStopped}: Stopped,
		{Stopped, Resume}: Active, {Stopped, SetStopped}: Stopped, {Stopped, SetActive}: Active, {Stopped, SetPaused}: Paused,
		{Errored, Resume}: Active, {Errored, Stop}: Stopped, {Errored, SetActive}: Active, {Errored, SetPaused}: Paused, {Errored, SetStopped}: Stopped,
	}
	for _, from := range []Status{Active, Paused, Stopped, Errored} {
		for _, verb := range []Verb{Pause, Resume, Stop, SetActive, SetPaused, SetStopped} {
			got, err := from.Next(verb)
			to, legal := want[row{from, verb}]
			if !legal {
				if f := fault.Of(err); f == nil || f.Code != "invalid_state" || got != from {
					t.Errorf("%s from %s: got %s, %v; want invalid_state", verb, from, got, err)
				}
				continue
			}
			if err != nil || got != to {
				t.Errorf("%s from %s: got %s, %v; want %s", verb, from, got, err, to)
			}
		}
	}
	if _, ok := SetVerb("error"); ok {
		t.Error("a caller can set error")
	}
}

func TestMSG_1_StatusesThatAccept(t *testing.T) {
	for status, accepts := range map[Status]bool{Active: true, Paused: true, Stopped: false, Errored: false} {
		err := status.Accepts("out of disk", false)
		if (err == nil) != accepts {
			t.Errorf("%s: %v", status, err)
		}
		if err != nil && fault.Of(err).Code != "agent_unavailable" {
			t.Errorf("%s: code %s", status, fault.Of(err).Code)
		}
	}
}
