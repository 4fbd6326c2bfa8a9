package runnerproto

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// answerWithin bounds the wait for a file server to begin its answer.
const answerWithin = 60 * time.Second

// Workspace reaches the file servers of runners. It implements agent.Workspace.
type Workspace struct{ client *http.Client }

// NewWorkspace returns one whose calls go to the address that is named and nowhere else: what answers there is in the agent's hands.
func NewWorkspace() *Workspace {
	return &Workspace{&http.Client{
		Transport:     &http.Transport{ResponseHeaderTimeout: answerWithin, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

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
	res, err := w.client.Do(req)
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

// FileServer is where the file server of one pod is, and its key.
type FileServer struct {
	Endpoint string
	Key      agent.Secret
}

// maxAnswer bounds the result of an operation: 10 MiB of file as base64 or as escaped text.
const maxAnswer = 64 << 20

// Call runs one operation of the filesystem API and returns its result as JSON. Errors: those of the operation;
// fault.Unavailable if the pod cannot be reached or broke off, when it may or may not have been done.
func (w *Workspace) Call(ctx context.Context, at FileServer, c *FileCall) (json.RawMessage, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	res, err := w.ask(ctx, at, "POST", "/v1/files/call", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, unreachable(err)
	}
	if len(b) > maxAnswer || !json.Valid(b) {
		return nil, unreachable(errors.New("its answer is too large or no JSON"))
	}
	return bytes.TrimRight(b, "\n"), nil
}

// Download is a file that is being read. Body must be closed.
type Download struct {
	Type string
	Size int64
	Body io.ReadCloser
}

// Raw starts reading a file as it is.
func (w *Workspace) Raw(ctx context.Context, at FileServer, path string) (*Download, error) {
	res, err := w.ask(ctx, at, "GET", "/v1/files/raw?path="+url.QueryEscape(path), nil)
	if err != nil {
		return nil, err
	}
	if res.ContentLength < 0 {
		_ = res.Body.Close()
		return nil, unreachable(errors.New("a file without its size"))
	}
	return &Download{Type: res.Header.Get("Content-Type"), Size: res.ContentLength, Body: res.Body}, nil
}

func (w *Workspace) ask(ctx context.Context, at FileServer, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, at.Endpoint+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+at.Key.Reveal())
	req.Header.Set("Content-Type", "application/json")
	res, err := w.client.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<16))
		_ = res.Body.Close()
		return nil, refused(res.StatusCode, b)
	}
	return res, nil
}

func unreachable(err error) error {
	return fault.New(fault.Unavailable, "pod_not_running", "The agent's pod could not be reached").After(10 * time.Second).Because(err)
}

// refused turns the file server's answer into a fault. What is not the caller's doing may be tried again.
func refused(status int, body []byte) error {
	var e Error
	_ = json.Unmarshal(body, &e)
	kinds := map[int]fault.Kind{400: fault.Invalid, 403: fault.Forbidden, 404: fault.NotFound, 413: fault.TooLarge, 409: fault.Conflict, 500: fault.Internal, 507: fault.Full}
	if k, ok := kinds[status]; ok && e.Code != "" {
		return fault.New(k, e.Code, e.Message)
	}
	return unreachable(&e)
}
