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

// real follows symbolic links to the file that a write is meant for. What it returns is checked again when it is used.
func (w *Workspace) real(p string) (string, error) {
	for range maxLinks {
		st, err := w.root.Lstat(p)
		if err != nil || st.Mode()&fs.ModeSymlink == 0 {
			return p, err
		}
		if _, err := w.root.Stat(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p, err // it leads outside
		}
		to, err := w.root.Readlink(p)
		if err != nil {
			return p, err
		}
		if p = path.Join(path.Dir(p), to); !fs.ValidPath(p) {
			return p, &Refusal{403, "path_outside_workspace", "The path leads outside the workspace"}
		}
	}
	return p, syscall.ELOOP
}

// replace writes a file beside its target, syncs it and renames it there (FS-2). Exclusive fails if there is one already.
func (w *Workspace) replace(p string, mode fs.FileMode, exclusive bool, write func(io.Writer) error) (size int64, err error) {
	name := path.Join(path.Dir(p), stagePrefix+rand.Text())
	f, err := w.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
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
	if err = errors.Join(err, serr, f.Chmod(mode), f.Sync(), f.Close()); err != nil { // whatever the umask says
		return 0, err
	}
	if exclusive {
		return st.Size(), w.root.Link(name, p)
	}
	return st.Size(), w.root.Rename(name, p)
}

// begin takes the lock of writes and finishes what a crash has left, so that every access sees whole changes (FILE-1).
func (w *Workspace) begin() (done func(), err error) {
	w.mu.Lock()
	if err := w.recover(); err != nil {
		w.mu.Unlock()
		return nil, err
	}
	return w.mu.Unlock, nil
}

func content(c []byte) func(io.Writer) error {
	return func(to io.Writer) error { _, err := to.Write(c); return err }
}

// Create makes a file and the directories above it.
func (w *Workspace) Create(p string, c []byte, mode fs.FileMode, overwrite bool) (*runnerproto.FileMade, error) {
	done, err := w.begin()
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
	case !errors.Is(err, fs.ErrNotExist):
		return nil, refuse(err)
	}
	made, err := w.parents(path.Dir(p))
	var n int64
	if err == nil {
		n, err = w.replace(p, mode, !overwrite, content(c))
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

// change rewrites an existing file. Mode 0 leaves its own.
func (w *Workspace) change(p string, mode fs.FileMode, write func(old *os.File, size int64, to io.Writer) error) (*runnerproto.FileMade, error) {
	done, err := w.begin()
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
	if mode == 0 {
		mode = st.Mode().Perm()
	}
	n, err := w.replace(at, mode, false, func(to io.Writer) error { return write(f, st.Size(), to) })
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
func (w *Workspace) Update(p string, c []byte, mode fs.FileMode) (*runnerproto.FileMade, error) {
	return w.change(p, mode, func(_ *os.File, _ int64, to io.Writer) error { return content(c)(to) })
}

// Patch changes a part of a file (FS-4). Length -1: as much as the content has.
func (w *Workspace) Patch(p, op string, c []byte, position, length int64) (*runnerproto.FileMade, error) {
	return w.change(p, 0, func(old *os.File, size int64, to io.Writer) error {
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
		if _, err := io.Copy(to, io.NewSectionReader(old, 0, at)); err != nil {
			return err
		}
		if _, err := to.Write(c); err != nil {
			return err
		}
		_, err := io.Copy(to, io.NewSectionReader(old, at+skip, size-at-skip))
		return err
	})
}

// Delete deletes a file, or a link.
func (w *Workspace) Delete(p string) error {
	done, err := w.begin()
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
			if err := w.walk(ctx, full, name, true, all, f); errors.Is(err, errEnough) || ctx.Err() != nil {
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
func (w *Workspace) MakeDir(p string, parents bool, mode fs.FileMode) (*runnerproto.FileMade, error) {
	done, err := w.begin()
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
func (w *Workspace) RemoveDir(p string, recursive bool) error {
	done, err := w.begin()
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
