package agentclient

import (
	"context"
	"errors"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
)

// WakeWait is how long a call that needs the workspace waits for the pod (FS-8).
const WakeWait = 60 * time.Second

// patience is how long an activation may not answer before that is told.
const patience = 10 * time.Second

// Awaken waits until the agent's workspace can be reached, and says where it is (FILE-2, FS-8). Errors: fault.Unavailable
// pod_not_running when the pod does not start in time, agent_unavailable when it may not. Those who wait for one agent on one node
// share one question: a thousand of them are one to the agent.
func Awaken(ctx context.Context, c *Client, w agent.Watcher, id agent.ID) (protocol.WakeResult, error) {
	late := fault.New(fault.Unavailable, "pod_not_running", "The agent's pod did not start in time").After(10 * time.Second)
	mine, cancel := context.WithTimeout(ctx, WakeWait)
	defer cancel()
	for {
		res, err := shared(mine, c, w, id)
		switch {
		case mine.Err() != nil:
			return res, late
		case err == nil || !errors.Is(err, context.DeadlineExceeded): // else: the question of somebody who came earlier was over
			return res, err
		}
	}
}

// shared joins the question that is being asked, or asks it.
func shared(ctx context.Context, c *Client, w agent.Watcher, id agent.ID) (protocol.WakeResult, error) {
	answer := c.wakes.DoChan(string(id), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), WakeWait) // it ends by itself, whoever began it
		defer cancel()
		res, err := awaken(ctx, c, w, id)
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return res, err
	})
	select {
	case <-ctx.Done():
		return protocol.WakeResult{}, ctx.Err()
	case a := <-answer:
		res, _ := a.Val.(protocol.WakeResult)
		return res, a.Err
	}
}

// awaken asks until the agent is awake or ctx is done.
func awaken(ctx context.Context, c *Client, w agent.Watcher, id agent.ID) (protocol.WakeResult, error) {
	changed := make(chan struct{}, 1)
	stop := w.Watch(id, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer stop()
	var failing time.Time
	for {
		res, err := Ask[protocol.WakeResult](ctx, c, id, protocol.Wake, nil)
		if err != nil && !fault.Is(err, fault.Unavailable) || err != nil && fault.Of(err).Code != "dependency_unavailable" || res.Ready {
			return res, err
		}
		pause := time.Second
		switch {
		case err == nil:
			failing = time.Time{}
		case failing.IsZero(): // it is overloaded, or on its way to another member
			failing, pause = time.Now(), 200*time.Millisecond
		case time.Since(failing) > patience:
			return res, err
		default:
			pause = 200 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return res, ctx.Err()
		case <-changed:
		case <-time.After(pause):
		}
	}
}
