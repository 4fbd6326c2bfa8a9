package runnerproto

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Workspace reaches the file servers of runners. It implements agent.Workspace.
type Workspace struct{ HTTP *http.Client }

// Apply implements agent.Workspace.
func (w *Workspace) Apply(ctx context.Context, endpoint string, key agent.Secret, id string, c agent.FileChange) (agent.DiskUsage, error) {
	change := FileChange{ID: id, Delete: c.Delete}
	for _, f := range c.Add {
		change.Add = append(change.Add, File(f))
	}
	for _, f := range c.Update {
		change.Update = append(change.Update, File(f))
	}
	body, err := json.Marshal(change)
	if err != nil {
		return agent.DiskUsage{}, err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", endpoint+"/v1/files/apply", bytes.NewReader(body))
	if err != nil {
		return agent.DiskUsage{}, err
	}
	req.Header.Set("Authorization", "Bearer "+key.Reveal())
	req.Header.Set("Content-Type", "application/json")
	res, err := w.HTTP.Do(req)
	if err != nil {
		return agent.DiskUsage{}, unreachable(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return agent.DiskUsage{}, unreachable(err)
	}
	if res.StatusCode != http.StatusOK {
		return agent.DiskUsage{}, refused(res.StatusCode, b)
	}
	var u DiskUsage
	if err := json.Unmarshal(b, &u); err != nil {
		return agent.DiskUsage{}, unreachable(err)
	}
	out := agent.DiskUsage{Files: u.TotalFiles, Bytes: u.TotalBytes}
	if u.LastModified != nil {
		if t, err := time.Parse(time.RFC3339, *u.LastModified); err == nil {
			out.ModifiedMS = t.UnixMilli()
		}
	}
	return out, nil
}

func unreachable(err error) error {
	return fault.New(fault.Unavailable, "pod_not_running", "The agent's pod could not be reached").After(10 * time.Second).Because(err)
}

// refused turns the file server's answer into a fault. What is not the caller's doing may be tried again.
func refused(status int, body []byte) error {
	var e Error
	_ = json.Unmarshal(body, &e)
	kinds := map[int]fault.Kind{400: fault.Invalid, 403: fault.Forbidden, 409: fault.Conflict, 507: fault.Full}
	if k, ok := kinds[status]; ok && e.Code != "" {
		return fault.New(k, e.Code, e.Message)
	}
	return unreachable(&e)
}
