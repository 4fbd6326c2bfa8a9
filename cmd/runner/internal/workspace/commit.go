// Package workspace serves the agent's files to the control plane and applies file changes whole or not at all.
//
// A change is staged beside its targets, then a journal is written: that is the instant from which it counts. Then every
// target is renamed into place. A crash before the journal leaves only staged files, which are removed; a crash after it
// is completed from the journal before the next access (FILE-1). Paths are resolved by os.Root, so no component can be
// swapped for a link between check and use.
package workspace

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"troupe/http/runnerproto"
)

const stagePrefix = ".troupe-stage-"

// Refusal is a change that cannot be applied; nothing of it was.
type Refusal struct {
	Status int    `json:"-"`
	Code   string `json:"code"`
	Text   string `json:"error"`
}

func (r *Refusal) Error() string { return r.Text }

// Workspace is the agent's working directory.
type Workspace struct {
	root    *os.Root
	dir     string
	journal string        // path of the journal, in the home directory
	applied string        // path of the id of the change applied last
	lock    chan struct{} // held by changes
}

// entry is one target of the journal. An empty Stage deletes it.
type entry struct {
	Target string `json:"target"`
	Stage  string `json:"stage,omitempty"`
}

type journal struct {
	ID      string  `json:"id"`
	Entries []entry `json:"entries"`
}

// Open opens the workspace and finishes what an earlier process left.
func Open(dir, home string) (*Workspace, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	w := &Workspace{root: root, dir: dir, journal: filepath.Join(home, ".troupe-journal"), applied: filepath.Join(home, ".troupe-applied"), lock: make(chan struct{}, 1)}
	if err = w.recover(); err == nil {
		err = w.sweep()
	}
	if err != nil {
		_ = root.Close()
		return nil, err
	}
	return w, nil
}

// Root gives access to the files, confined to the workspace.
func (w *Workspace) Root() *os.Root { return w.root }

// Dir is the workspace's directory.
func (w *Workspace) Dir() string { return w.dir }

func (w *Workspace) recover() error {
	b, err := os.ReadFile(w.journal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var j journal
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("journal: %w", err) // it was written by rename, so it is whole
	}
	return w.finish(j)
}

// sweep removes what is staged and no journal names.
func (w *Workspace) sweep() error {
	return fs.WalkDir(w.root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasPrefix(d.Name(), stagePrefix) {
			return nil
		}
		_ = w.root.RemoveAll(p)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// Apply applies a change. One that was applied last already is not applied again.
func (w *Workspace) Apply(c runnerproto.FileChange) error {
	w.lock <- struct{}{}
	defer func() { <-w.lock }()
	if err := w.recover(); err != nil { // an earlier change whose commit was cut comes first
		return err
	}
	if b, err := os.ReadFile(w.applied); err == nil && string(b) == c.ID {
		return nil
	}
	if err := w.check(c); err != nil {
		return err
	}
	j, undo, err := w.stage(c)
	if err == nil {
		err = writeDurable(w.journal, j)
	}
	if err != nil {
		undo()
		return classify(err)
	}
	return w.finish(j)
}

func (w *Workspace) check(c runnerproto.FileChange) error {
	if err := nested(c); err != nil {
		return err
	}
	for _, f := range c.Add {
		if _, err := w.root.Lstat(f.Path); err == nil {
			return &Refusal{409, "file_exists", "/workspace/" + f.Path + " exists"}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return classify(err)
		}
	}
	var existing []string
	for _, f := range c.Update {
		existing = append(existing, f.Path)
	}
	for _, p := range append(existing, c.Delete...) {
		st, err := w.root.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return &Refusal{400, "file_not_found", "/workspace/" + p + " does not exist"}
		case err != nil:
			return classify(err)
		case st.IsDir():
			return &Refusal{400, "is_directory", "/workspace/" + p + " is a directory"}
		}
	}
	return nil
}

// nested refuses a change in which one file would lie below another.
func nested(c runnerproto.FileChange) error {
	files := map[string]bool{}
	for _, f := range append(append([]runnerproto.File{}, c.Add...), c.Update...) {
		files[f.Path] = true
	}
	for p := range files {
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if files[dir] {
				return &Refusal{400, "not_a_directory", "/workspace/" + dir + " is listed as a file"}
			}
		}
	}
	return nil
}

// stage writes new contents beside their targets. Undo removes everything it made.
func (w *Workspace) stage(c runnerproto.FileChange) (j journal, undo func(), err error) {
	j.ID = c.ID
	var made []string
	undo = func() {
		for i := len(made) - 1; i >= 0; i-- {
			_ = w.root.Remove(made[i])
		}
	}
	sum := sha256.Sum256([]byte(c.ID))
	tag := hex.EncodeToString(sum[:6])
	for i, f := range append(append([]runnerproto.File{}, c.Add...), c.Update...) {
		dir := path.Dir(f.Path)
		dirs, err := w.parents(dir)
		made = append(made, dirs...)
		if err != nil {
			return j, undo, err
		}
		name := path.Join(dir, fmt.Sprintf("%s%s-%d", stagePrefix, tag, i))
		made = append(made, name)
		mode := fs.FileMode(0o644)
		if st, err := w.root.Stat(f.Path); err == nil {
			mode = st.Mode().Perm()
		}
		if err := w.write(name, f.Path, f.Content, mode); err != nil {
			return j, undo, err
		}
		j.Entries = append(j.Entries, entry{Target: f.Path, Stage: name})
	}
	for _, p := range c.Delete {
		j.Entries = append(j.Entries, entry{Target: p})
	}
	return j, undo, nil
}

// parents makes the directories above a file and returns those that were not there.
func (w *Workspace) parents(dir string) (made []string, err error) {
	if dir == "." {
		return nil, nil
	}
	at := ""
	for _, part := range strings.Split(dir, "/") {
		at = path.Join(at, part)
		err := w.root.Mkdir(at, 0o755)
		if err == nil {
			made = append(made, at)
		} else if !errors.Is(err, fs.ErrExist) {
			return made, err
		}
	}
	return made, nil
}

// write stages a file; what it is to replace passes its tags and its owner on.
func (w *Workspace) write(name, target string, content []byte, mode fs.FileMode) error {
	f, err := w.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if old, oerr := w.root.OpenFile(target, os.O_RDONLY|syscall.O_NONBLOCK, 0); oerr == nil {
		inherit(old, f)
		_ = old.Close()
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// finish carries a journal out. Every step may be repeated.
func (w *Workspace) finish(j journal) error {
	for _, e := range j.Entries {
		var err error
		if e.Stage == "" {
			err = w.root.Remove(e.Target)
		} else {
			err = w.root.Rename(e.Stage, e.Target)
		}
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist): // a step that is done finds nothing to do
		case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EEXIST):
			// The agent has put a directory in the way since the check. Its own work stands; the change is finished without this file.
			if e.Stage != "" {
				_ = w.root.Remove(e.Stage)
			}
		default:
			return err // the journal stays: the next access goes on
		}
	}
	if err := writeDurable(w.applied, j.ID); err != nil {
		return err
	}
	return os.Remove(w.journal)
}

// writeDurable writes a file that is either whole or not there. A string is written as it is, anything else as JSON.
func writeDurable(name string, v any) error {
	b, ok := v.(string)
	if !ok {
		enc, err := json.Marshal(v)
		if err != nil {
			return err
		}
		b = string(enc)
	}
	tmp := name + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// classify turns what the file system says into an answer for the caller.
func classify(err error) error {
	var r *Refusal
	switch {
	case errors.As(err, &r):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &Refusal{507, "workspace_full", "The agent's volume is full"}
	case errors.Is(err, syscall.ENOTDIR):
		return &Refusal{400, "not_a_directory", "A part of the path is a file"}
	case errors.Is(err, syscall.EISDIR):
		return &Refusal{400, "is_directory", "The path is a directory"}
	case errors.Is(err, fs.ErrExist), errors.Is(err, syscall.ENOTEMPTY):
		return &Refusal{409, "file_exists", "The path exists"}
	case errors.Is(err, syscall.ENAMETOOLONG):
		return &Refusal{400, "validation_failed", "The path is too long"}
	case errors.Is(err, fs.ErrNotExist):
		return &Refusal{400, "file_not_found", "The file does not exist"}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return &Refusal{403, "forbidden", "The file may not be written"}
	case strings.Contains(err.Error(), "path escapes"), errors.Is(err, syscall.ELOOP):
		return &Refusal{403, "path_outside_workspace", "The path leads outside the workspace"}
	}
	return err
}

// Usage measures the workspace.
func (w *Workspace) Usage() (u runnerproto.DiskUsage) {
	var newest time.Time
	_ = fs.WalkDir(w.root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), stagePrefix) {
			return nil
		}
		if st, err := d.Info(); err == nil && st.Mode().IsRegular() {
			u.TotalFiles++
			u.TotalBytes += st.Size()
			if st.ModTime().After(newest) {
				newest = st.ModTime()
			}
		}
		return nil
	})
	if !newest.IsZero() {
		s := newest.UTC().Format("2006-01-02T15:04:05.000Z")
		u.LastModified = &s
	}
	return u
}
