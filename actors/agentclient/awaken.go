package agentclient

import (
	"context"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
)

// WakeWait is how long a call that needs the workspace waits for the pod (FS-8).
const WakeWait = 60 * time.Second

// Awaken waits until the agent's workspace can be reached, and says where it is (FILE-2, FS-8). Errors: fault.Unavailable
// pod_not_running when the pod does not start in time, agent_unavailable when it may not.
func Awaken(ctx context.Context, c *Client, w agent.Watcher, id agent.ID) (protocol.WakeResult, error) {
	ctx, cancel := context.WithTimeout(ctx, WakeWait)
	defer cancel()
	changed := make(chan struct{}, 1)
	stop := w.Watch(id, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer stop()
	for {
		res, err := Ask[protocol.WakeResult](ctx, c, id, protocol.Wake, nil)
		if err != nil && ctx.Err() == nil || res.Ready {
			return res, err
		}
		select {
		case <-ctx.Done():
			return res, fault.New(fault.Unavailable, "pod_not_running", "The agent's pod did not start in time").After(10 * time.Second)
		case <-changed:
		case <-time.After(time.Second):
		}
	}
}
