package serve

import (
	"context"
	"errors"
	"testing"

	"troupe/http/runnerproto"
)

func TestFENCE_6_CommandsOfAnOlderActivationAreIgnored(t *testing.T) {
	r := &runner{epoch: 7}
	var cause error
	stop := func(err error) { cause = err }
	r.handle(context.Background(), runnerproto.Event{Event: "shutdown", Seq: 3, Epoch: 6}, stop)
	if cause != nil || r.lastID != "" {
		t.Errorf("a shutdown of an older activation was obeyed: %v", cause)
	}
	r.handle(context.Background(), runnerproto.Event{Event: "turn.cancel", Seq: 4, Epoch: 9, TurnID: "x"}, stop)
	r.handle(context.Background(), runnerproto.Event{Event: "shutdown", Seq: 5, Epoch: 8}, stop)
	if cause != nil || r.epoch != 9 {
		t.Errorf("the highest epoch seen counts: %d, %v", r.epoch, cause)
	}
	r.handle(context.Background(), runnerproto.Event{Event: "shutdown", Seq: 6, Epoch: 9}, stop)
	if !errors.Is(cause, errShutdown) {
		t.Errorf("the present activation is obeyed: %v", cause)
	}
}
