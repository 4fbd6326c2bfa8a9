// Package files serves the filesystem API (semantics.md §25): a call is read and checked here, wakes the pod through the agent's
// actor, and is carried out by the file server of the agent's runner, which alone touches the disk.
package files

import (
	"context"
	"encoding/json"
	"io"
	"path"
	"strings"
	"time"

	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/protocol"
	"troupe/http/route"
	"troupe/http/runnerproto"
)

// Limits of the filesystem API.
const (
	maxFileBody  = 16 << 20
	maxFile      = 10 << 20         // of content, decoded (FS-5)
	fileWithin   = 40 * time.Second // of one operation, after the pod is there
	holdEvery    = 5 * time.Second  // a call that takes long keeps the pod up
	maxTransfers = 1000
	partWithin   = 30 * time.Second // a part of a download
	drainWithin  = 15 * time.Second
	chmodBits    = 0o777
	defaultFile  = 0o644
	defaultDir   = 0o755
)

// Store is what the routes read.
type Store interface {
	agent.Watcher
	Load(ctx context.Context, id agent.ID) (agent.Snapshot, error)
}

// Keys makes the key of a pod's file server.
type Keys interface {
	RuntimeKey(id agent.ID, incarnation int64) agent.Secret
}

// Config is what the routes need.
type Config struct {
	Store     Store
	Agents    *agentclient.Client
	Keys      Keys
	Workspace *runnerproto.Workspace
	Done      <-chan struct{} // the node stops
}

type files struct{ Config }

// fileCall is one operation as read from a request, with what becomes of its result.
type fileCall struct {
	runnerproto.FileCall
	status int
	show   func(raw json.RawMessage) (any, error) // nil: as it is
}

// Routes is the table of this room.
func Routes(cfg Config) []route.Route {
	r := &files{cfg}
	fs := func(method, path, op string, body route.Body, read func(c *route.Call, f *fileCall) error) route.Route {
		return route.Route{Method: method, Path: "/v1/agent/{id}/filesystem/" + path, Op: op, Access: route.Account, Feature: true, Body: body,
			Timeout: agentclient.WakeWait + fileWithin, Limit: maxFileBody, Tail: strings.HasSuffix(path, "{path}"),
			Handle: func(c *route.Call) (route.Response, error) { return r.file(c, read) }}
	}
	raw := fs("GET", "files/{path}", "readFile", route.None, readRead)
	raw.Handle = r.readFile
	return []route.Route{
		raw,
		fs("POST", "files/{path}", "createFile", route.Required, readCreate),
		fs("PUT", "files/{path}", "updateFile", route.Required, readUpdate),
		fs("PATCH", "files/{path}", "patchFile", route.Required, readPatch),
		fs("DELETE", "files/{path}", "deleteFile", route.None, readDelete),
		fs("GET", "directories/{path}", "listDirectory", route.None, readList),
		fs("POST", "directories/{path}", "createDirectory", route.Optional, readMakeDir),
		fs("DELETE", "directories/{path}", "deleteDirectory", route.Optional, readRemoveDir),
		fs("POST", "operations/copy", "copyFiles", route.Required, readTransfers),
		fs("POST", "operations/move", "moveFiles", route.Required, readTransfers),
		fs("POST", "operations/search", "searchFiles", route.Required, readSearch),
		fs("GET", "metadata/{path}", "getFileMetadata", route.None, readNothing),
		fs("PATCH", "metadata/{path}", "updateFileMetadata", route.Required, readMetadata),
		fs("POST", "archives", "createArchive", route.Required, readPack),
		fs("POST", "archives/extract", "extractArchive", route.Required, readUnpack),
	}
}

// load reads the agent named in the path; another account's is 404 (TEN-1). One that may have no pod is refused (FS-8).
func (r *files) load(c *route.Call) (agent.ID, error) {
	id, ok := agent.ParseID(c.Param("id"))
	if !ok {
		return "", agent.Gone()
	}
	sn, err := r.Store.Load(c.Ctx, id)
	if err != nil {
		return "", err
	}
	if sn.Figures.Account != c.Caller.Account.ID || sn.Figures.Deleted {
		return "", agent.Gone()
	}
	return id, nil
}

// file runs one operation: read and checked first, then the pod is woken, then the runner does it.
func (r *files) file(c *route.Call, read func(c *route.Call, f *fileCall) error) (route.Response, error) {
	id, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	f := &fileCall{status: 200}
	f.Op, f.Length = c.Route.Op, -1
	if f.Path, err = target(c); err != nil {
		return route.Response{}, err
	}
	if err := read(c, f); err != nil {
		return route.Response{}, err
	}
	at, err := r.reach(c.Ctx, id)
	if err != nil {
		return route.Response{}, err
	}
	ctx, cancel := context.WithTimeout(c.Ctx, fileWithin)
	defer cancel()
	defer r.hold(ctx, id)()
	raw, err := r.Workspace.Call(ctx, at, &f.FileCall)
	if err != nil {
		return route.Response{}, err
	}
	res := route.Response{Status: f.status, Body: []byte(raw)}
	if f.show != nil {
		res.Body, err = f.show(raw)
	}
	return res, err
}

// target is the path that the URL names, "" for routes without one.
func target(c *route.Call) (string, error) {
	if !c.Route.Tail {
		return "", nil
	}
	p, err := c.Tail()
	if err != nil {
		return "", err
	}
	return agent.WorkspacePath(p)
}

// reach waits until the agent's file server can be reached and says where it is.
func (r *files) reach(ctx context.Context, id agent.ID) (runnerproto.FileServer, error) {
	res, err := agentclient.Awaken(ctx, r.Agents, r.Store, id)
	if f := fault.Of(err); err != nil && f.Code == "agent_unavailable" {
		err = fault.New(fault.Unavailable, "pod_not_running", f.Message+"; set its status to paused to reach its files")
	}
	return runnerproto.FileServer{Endpoint: res.Endpoint, Key: r.Keys.RuntimeKey(id, res.Incarnation)}, err
}

// hold keeps the pod up while a call lasts (POD-4). The goroutine ends soon after release; it is not waited for, as the caller is
// not to wait for the agent once more.
func (r *files) hold(ctx context.Context, id agent.ID) (release func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		t := time.NewTicker(holdEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				_, _ = agentclient.Ask[protocol.WakeResult](ctx, r.Agents, id, protocol.Wake, nil) // the next one tells
			}
		}
	}()
	return cancel
}

// readFile answers with JSON, or streams the file as it is (FS-5).
func (r *files) readFile(c *route.Call) (route.Response, error) {
	if c.Query().Enum("download", "false", "true", "false") != "true" {
		return r.file(c, readRead)
	}
	id, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	p, err := target(c)
	if err != nil {
		return route.Response{}, err
	}
	if err := readRead(c, &fileCall{}); err != nil {
		return route.Response{}, err
	}
	at, err := r.reach(c.Ctx, id)
	if err != nil {
		return route.Response{}, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.Ctx)) // the body outlives the handler; each part of it has its own deadline
	release := r.hold(ctx, id)
	late := time.AfterFunc(fileWithin, cancel)
	d, err := r.Workspace.Raw(ctx, at, p)
	if !late.Stop() && err == nil {
		_ = d.Body.Close()
		err = fault.New(fault.Unavailable, "pod_not_running", "The agent's pod did not answer in time").After(10 * time.Second)
	}
	if err != nil {
		cancel()
		release()
		return route.Response{}, err
	}
	go func() { // ends with the body; a stopping node leaves it the time that requests have
		select {
		case <-ctx.Done():
			return
		case <-r.Done:
		}
		select {
		case <-ctx.Done():
		case <-time.After(drainWithin):
			cancel()
		}
	}()
	return route.Download(path.Base(p), d.Type, d.Size, &download{d.Body, func() { cancel(); release() }, cancel}), nil
}

// download is a file on its way to the caller.
type download struct {
	io.ReadCloser
	end  func()
	late func()
}

// Read implements io.Reader.
func (d *download) Read(b []byte) (int, error) {
	t := time.AfterFunc(partWithin, d.late) // a runner that stopped talking
	defer t.Stop()
	return d.ReadCloser.Read(b)
}

// Close implements io.Closer; the server calls it when the response has ended, however it has.
func (d *download) Close() error {
	d.end()
	return d.ReadCloser.Close()
}
