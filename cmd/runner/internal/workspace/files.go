package workspace

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"troupe/http/runnerproto"
)

// Limits of the filesystem API.
const (
	maxRead    = 10 << 20 // of a file that is read or written as JSON (FS-5)
	maxEntries = 10000    // of a listing (FS-6)
	maxLinks   = 40       // symbolic links on the way to one file
)

// shown is a path as the API prints it.
func shown(p string) string {
	if p == "." {
		return "/workspace"
	}
	return "/workspace/" + p
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func missing() error { return &Refusal{404, "not_found", "File not found"} }

// refuse is classify for single files: one that is not there is not found.
func refuse(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return missing()
	}
	return classify(err)
}

// open opens a regular file for reading.
func (w *Workspace) open(p string) (*os.File, fs.FileInfo, error) {
	f, err := w.root.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not hold the call up
	if err != nil {
		return nil, nil, refuse(err)
	}
	st, err := f.Stat()
	switch {
	case err == nil && st.IsDir():
		err = &Refusal{400, "is_directory", shown(p) + " is a directory"}
	case err == nil && !st.Mode().IsRegular():
		err = &Refusal{400, "validation_failed", shown(p) + " is no regular file"}
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, refuse(err)
	}
	return f, st, nil
}

// Read returns a file as JSON carries it (FS-5). Without an encoding, one that is not UTF-8 is returned as base64.
func (w *Workspace) Read(p, encoding string) (*runnerproto.FileContent, error) {
	f, st, err := w.open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st.Size() > maxRead {
		return nil, &Refusal{413, "file_too_large", "The file is larger than 10 MiB; use download=true"}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	switch {
	case err != nil:
		return nil, refuse(err)
	case len(b) > maxRead: // it has grown meanwhile
		return nil, &Refusal{413, "file_too_large", "The file is larger than 10 MiB; use download=true"}
	}
	if encoding == "" {
		if encoding = "utf-8"; !utf8.Valid(b) {
			encoding = "base64"
		}
	}
	out := &runnerproto.FileContent{Path: shown(p), Encoding: encoding, Size: int64(len(b)), MimeType: mediaType(p, b), ModifiedAt: stamp(st.ModTime())}
	switch {
	case encoding == "base64":
		out.Content = base64.StdEncoding.EncodeToString(b)
	case !utf8.Valid(b):
		return nil, &Refusal{400, "not_utf8", "The file is not UTF-8; read it with encoding=base64"}
	default:
		out.Content = string(b)
	}
	return out, nil
}

// mediaType goes by the extension, then by the content.
func mediaType(p string, head []byte) string {
	if t := mime.TypeByExtension(path.Ext(p)); t != "" {
		return t
	}
	return http.DetectContentType(head)
}

// real follows symbolic links to the file that a write is meant for, component by component. What it returns is checked again when it
// is used.
func (w *Workspace) real(p string) (string, error) {
	rest, at := strings.Split(p, "/"), "."
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if at == "." {
				return p, &Refusal{403, "path_outside_workspace", "The path leads outside the workspace"}
			}
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		st, err := w.root.Lstat(next)
		if err != nil {
			return path.Join(next, path.Join(rest...)), err
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		to, err := w.root.Readlink(next)
		switch links++; {
		case err != nil:
			return p, err
		case links > maxLinks:
			return p, syscall.ELOOP
		case path.IsAbs(to):
			return p, &Refusal{403, "path_outside_workspace", "The path leads outside the workspace"}
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return at, nil
}

// flow ends a copy with its context.
type flow struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (f flow) Read(b []byte) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.r.Read(b)
}

// inherit gives a file that takes another's place its tags and owner, as far as that may be.
func inherit(old, f *os.File) {
	if st, err := old.Stat(); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			_ = f.Chown(int(sys.Uid), int(sys.Gid))
		}
	}
	if t := tags(old); t != nil {
		_ = setTags(f, t)
	}
}

// replace writes a file beside its target, syncs it and renames it there (FS-2). Exclusive fails if there is one already. Nothing is
// replaced once ctx has ended.
func (w *Workspace) replace(ctx context.Context, p string, mode fs.FileMode, exclusive bool, write func(*os.File) error) (size int64, err error) {
	name := path.Join(path.Dir(p), stagePrefix+rand.Text())
	f, err := w.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode|0o200)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil || exclusive {
			_ = w.root.Remove(name)
		}
	}()
	err = write(f)
	st, serr := f.Stat()
	if err = errors.Join(err, serr, f.Chmod(mode), f.Sync(), f.Close(), ctx.Err()); err != nil { // the mode whatever the umask says
		return 0, err
	}
	if exclusive {
		return st.Size(), w.root.Link(name, p)
	}
	return st.Size(), w.root.Rename(name, p)
}

// begin takes the lock of changes and finishes what a crash has left, so that every access sees whole changes (FILE-1).
func (w *Workspace) begin(ctx context.Context) (done func(), err error) {
	select {
	case w.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err = w.recover(); err == nil {
		err = ctx.Err()
	}
	if err != nil {
		<-w.lock
		return nil, err
	}
	return func() { <-w.lock }, nil
}

func content(c []byte) func(*os.File) error {
	return func(to *os.File) error { _, err := to.Write(c); return err }
}

// Create makes a file and the directories above it.
func (w *Workspace) Create(ctx context.Context, p string, c []byte, mode fs.FileMode, overwrite bool) (*runnerproto.FileMade, error) {
	done, err := w.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if p == "." {
		return nil, &Refusal{409, "file_exists", "/workspace is a directory"}
	}
	st, err := w.root.Lstat(p)
	switch {
	case err == nil && (st.IsDir() || !overwrite):
		return nil, &Refusal{409, "file_exists", shown(p) + " exists"}
	case err == nil:
		if p, err = w.real(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, refuse(err)
		}
		if st, err := w.root.Stat(p); err == nil && st.IsDir() {
			return nil, &Refusal{409, "file_exists", shown(p) + " is a directory"}
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, refuse(err)
	}
	made, err := w.parents(path.Dir(p))
	var n int64
	if err == nil {
		n, err = w.replace(ctx, p, mode, !overwrite, content(c))
	}
	if err != nil {
		w.undo(made)
		if errors.Is(err, fs.ErrExist) {
			return nil, &Refusal{409, "file_exists", shown(p) + " exists"}
		}
		return nil, refuse(err)
	}
	return w.made(p, n)
}

func (w *Workspace) undo(made []string) {
	for _, d := range slices.Backward(made) {
		_ = w.root.Remove(d)
	}
}

func (w *Workspace) made(p string, size int64) (*runnerproto.FileMade, error) {
	st, err := w.root.Stat(p)
	if err != nil {
		return nil, refuse(err)
	}
	return &runnerproto.FileMade{Path: shown(p), Size: size, At: stamp(st.ModTime())}, nil
}

// change rewrites an existing file, which keeps its tags and, without a mode, its own.
func (w *Workspace) change(ctx context.Context, p string, given *uint32, write func(old *os.File, size int64, to *os.File) error) (*runnerproto.FileMade, error) {
	done, err := w.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	at, err := w.real(p)
	if err != nil {
		return nil, refuse(err)
	}
	f, st, err := w.open(at)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mode := st.Mode().Perm()
	if given != nil {
		mode = fs.FileMode(*given)
	}
	n, err := w.replace(ctx, at, mode, false, func(to *os.File) error {
		inherit(f, to)
		return write(f, st.Size(), to)
	})
	if err != nil {
		return nil, refuse(err)
	}
	out, err := w.made(at, n)
	if out != nil {
		out.Path = shown(p)
	}
	return out, err
}

// Update replaces the content of an existing file.
func (w *Workspace) Update(ctx context.Context, p string, c []byte, mode *uint32) (*runnerproto.FileMade, error) {
	return w.change(ctx, p, mode, func(_ *os.File, _ int64, to *os.File) error { return content(c)(to) })
}

// Patch changes a part of a file (FS-4). Length -1: as much as the content has.
func (w *Workspace) Patch(ctx context.Context, p, op string, c []byte, position, length int64) (*runnerproto.FileMade, error) {
	return w.change(ctx, p, nil, func(old *os.File, size int64, to *os.File) error {
		at, skip := position, int64(0)
		switch op {
		case "append":
			at = size
		case "prepend":
			at = 0
		case "replace":
			if skip = length; skip < 0 {
				skip = int64(len(c))
			}
		}
		if at > size {
			return &Refusal{400, "validation_failed", "position is beyond the end of the file"}
		}
		skip = min(skip, size-at)
		if _, err := io.Copy(to, flow{ctx, io.NewSectionReader(old, 0, at)}); err != nil {
			return err
		}
		if _, err := to.Write(c); err != nil {
			return err
		}
		_, err := io.Copy(to, flow{ctx, io.NewSectionReader(old, at+skip, size-at-skip)})
		return err
	})
}

// Delete deletes a file, or a link.
func (w *Workspace) Delete(ctx context.Context, p string) error {
	done, err := w.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	st, err := w.root.Lstat(p)
	if err != nil {
		return refuse(err)
	}
	if st.IsDir() {
		return &Refusal{400, "is_directory", shown(p) + " is a directory"}
	}
	if err := w.root.Remove(p); err != nil {
		return refuse(err)
	}
	return nil
}

// hidden says whether a name is left out of listings: staged files always are.
func hidden(name string, all bool) bool {
	return strings.HasPrefix(name, stagePrefix) || !all && strings.HasPrefix(name, ".")
}

// look describes what a link leads to; one that leads nowhere is an empty file.
func (w *Workspace) look(p string, st fs.FileInfo) (typ string, size int64, changed time.Time) {
	changed = st.ModTime()
	if st.Mode()&fs.ModeSymlink != 0 {
		var err error
		if st, err = w.root.Stat(p); err != nil {
			return "file", 0, changed
		}
	}
	if st.IsDir() {
		return "directory", 0, st.ModTime()
	}
	return "file", st.Size(), st.ModTime()
}

var errEnough = errors.New("enough")

// walk calls f for everything below a directory, depth first and in byte order of names; links are not followed. A directory that
// cannot be read, or is gone meanwhile, is passed over.
func (w *Workspace) walk(ctx context.Context, dir, rel string, recursive, all bool, f func(rel, full string, st fs.FileInfo) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := w.root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(-1)
	_ = d.Close()
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if hidden(e.Name(), all) {
			continue
		}
		st, err := e.Info()
		if err != nil {
			continue
		}
		full, name := path.Join(dir, e.Name()), path.Join(rel, e.Name())
		if err := f(name, full, st); err != nil {
			return err
		}
		if recursive && st.IsDir() {
			if err := w.walk(ctx, full, name, true, all, f); errors.Is(err, errEnough) {
				return err
			}
		}
	}
	return nil
}

// directory checks that a path is one.
func (w *Workspace) directory(p string) error {
	st, err := w.root.Stat(p)
	switch {
	case err != nil:
		return refuse(err)
	case !st.IsDir():
		return &Refusal{400, "not_a_directory", shown(p) + " is a file"}
	}
	return nil
}

// List lists a directory (FS-6).
func (w *Workspace) List(ctx context.Context, p string, recursive, all bool) (*runnerproto.Listing, error) {
	if err := w.directory(p); err != nil {
		return nil, err
	}
	out := &runnerproto.Listing{Path: shown(p), Entries: []runnerproto.ListEntry{}}
	err := w.walk(ctx, p, "", recursive, all, func(rel, full string, st fs.FileInfo) error {
		if len(out.Entries) == maxEntries {
			out.Truncated = true
			return errEnough
		}
		e := runnerproto.ListEntry{Name: rel}
		var at time.Time
		e.Type, e.Size, at = w.look(full, st)
		e.ModifiedAt = stamp(at)
		out.Entries = append(out.Entries, e)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, refuse(err)
	}
	return out, nil
}

// MakeDir makes a directory (FS-3).
func (w *Workspace) MakeDir(ctx context.Context, p string, parents bool, mode fs.FileMode) (*runnerproto.FileMade, error) {
	done, err := w.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if _, err := w.root.Lstat(p); err == nil {
		return nil, &Refusal{409, "file_exists", shown(p) + " exists"}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, refuse(err)
	}
	var made []string
	if parents {
		if made, err = w.parents(path.Dir(p)); err != nil {
			w.undo(made)
			return nil, refuse(err)
		}
	}
	if err := w.root.Mkdir(p, mode); err != nil {
		w.undo(made)
		switch {
		case errors.Is(err, fs.ErrExist):
			return nil, &Refusal{409, "file_exists", shown(p) + " exists"}
		case errors.Is(err, fs.ErrNotExist):
			return nil, &Refusal{400, "parent_missing", "The parent directory does not exist"}
		}
		return nil, refuse(err)
	}
	if err := w.root.Chmod(p, mode); err != nil {
		return nil, refuse(err)
	}
	return w.made(p, 0)
}

// RemoveDir deletes a directory, with everything in it if recursive.
func (w *Workspace) RemoveDir(ctx context.Context, p string, recursive bool) error {
	done, err := w.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if p == "." {
		return &Refusal{400, "validation_failed", "The workspace itself cannot be deleted"}
	}
	st, err := w.root.Lstat(p)
	switch {
	case err != nil:
		return refuse(err)
	case !st.IsDir():
		return &Refusal{400, "not_a_directory", shown(p) + " is a file"}
	case recursive:
		err = w.root.RemoveAll(p)
	default:
		err = w.root.Remove(p)
	}
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
		return &Refusal{400, "directory_not_empty", shown(p) + " is not empty"}
	}
	if err != nil {
		return refuse(err)
	}
	return nil
}
