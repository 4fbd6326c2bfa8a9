package workspace

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"troupe/http/runnerproto"
)

// Transfer copies or moves, in order, each operation on its own (FS-7).
func (w *Workspace) Transfer(ctx context.Context, move bool, ops []runnerproto.Transfer) ([]string, error) {
	out := make([]string, len(ops))
	for i, op := range ops {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := w.transfer(ctx, move, op); err != nil {
			out[i] = short(err)
		}
	}
	return out, nil
}

// short is the text of one operation's error.
func short(err error) string {
	var r *Refusal
	switch {
	case errors.As(err, &r):
		return r.Text
	case errors.Is(err, fs.ErrExist), errors.Is(err, syscall.ENOTEMPTY):
		return "Destination exists"
	case errors.Is(err, fs.ErrNotExist):
		return "Source file not found"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "Volume full"
	case errors.Is(err, syscall.ENOTDIR):
		return "Destination lies below a file"
	}
	return "Access denied"
}

func (w *Workspace) transfer(ctx context.Context, move bool, op runnerproto.Transfer) error {
	src, dst := op.Source, op.Destination
	if src == "." || dst == "." || src == "" || dst == "" {
		return fs.ErrPermission
	}
	if move || op.Overwrite { // anything else is decided by the name that appears last
		done, err := w.begin(ctx)
		if err != nil {
			return err
		}
		defer done()
	}
	st, err := w.root.Lstat(src)
	if err != nil {
		return err
	}
	if st.IsDir() && (dst == src || strings.HasPrefix(dst, src+"/")) {
		return &Refusal{Text: "Destination lies within the source"}
	}
	there, err := w.vacant(dst, st, op.Overwrite)
	switch {
	case err != nil:
		return err
	case src == dst:
		return nil
	case !st.IsDir() && !st.Mode().IsRegular() && st.Mode()&fs.ModeSymlink == 0 && !move:
		return fs.ErrPermission
	case move && there != nil && os.SameFile(st, there): // two names of one file: a rename would leave both
		return w.root.Remove(src)
	}
	made, err := w.parents(path.Dir(dst))
	if err == nil {
		err = w.place(ctx, move, src, dst, st, op.Overwrite)
	}
	if err != nil {
		w.undo(made)
	}
	return err
}

// vacant checks what is at a destination, nil for nothing.
func (w *Workspace) vacant(dst string, src fs.FileInfo, overwrite bool) (fs.FileInfo, error) {
	there, err := w.root.Lstat(dst)
	switch {
	case err == nil && (there.IsDir() || src.IsDir() || !overwrite):
		return nil, fs.ErrExist
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	}
	return there, err
}

func (w *Workspace) place(ctx context.Context, move bool, src, dst string, st fs.FileInfo, overwrite bool) error {
	switch {
	case move && (overwrite || st.IsDir() || !st.Mode().IsRegular()):
		return w.root.Rename(src, dst)
	case move: // a name that appears meanwhile is not lost
		if err := w.root.Link(src, dst); err != nil {
			return err
		}
		return w.root.Remove(src)
	case !st.IsDir():
		return w.copyFile(ctx, src, dst, st, !overwrite)
	}
	stage := path.Join(path.Dir(dst), stagePrefix+rand.Text()) // seen under its name when it is whole
	err := w.copyTree(ctx, src, stage, st)
	if err == nil {
		err = w.reveal(ctx, stage, dst, st)
	}
	if err != nil {
		_ = w.root.RemoveAll(stage)
	}
	return err
}

// reveal gives a directory its name.
func (w *Workspace) reveal(ctx context.Context, stage, dst string, st fs.FileInfo) error {
	done, err := w.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if _, err := w.vacant(dst, st, false); err != nil {
		return err
	}
	return w.root.Rename(stage, dst)
}

func (w *Workspace) copyTree(ctx context.Context, src, dst string, st fs.FileInfo) error {
	if err := w.root.Mkdir(dst, 0o700); err != nil {
		return err
	}
	err := w.walk(ctx, src, "", false, true, func(name, full string, st fs.FileInfo) error {
		if st.IsDir() {
			return w.copyTree(ctx, full, path.Join(dst, name), st)
		}
		if err := w.copyFile(ctx, full, path.Join(dst, name), st, true); err != nil && !gone(err) {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.root.Chmod(dst, st.Mode().Perm())
}

// gone says whether a file was deleted while its directory was being read.
func gone(err error) bool {
	var r *Refusal
	return errors.Is(err, fs.ErrNotExist) || errors.As(err, &r) && r.Status == 404
}

// copyFile copies a file with its mode, or a link as it is. What is neither is not copied.
func (w *Workspace) copyFile(ctx context.Context, src, dst string, st fs.FileInfo, exclusive bool) error {
	if st.Mode()&fs.ModeSymlink != 0 {
		to, err := w.root.Readlink(src)
		if err != nil {
			return err
		}
		if exclusive {
			return w.root.Symlink(to, dst)
		}
		stage := path.Join(path.Dir(dst), stagePrefix+rand.Text())
		if err := w.root.Symlink(to, stage); err != nil {
			return err
		}
		return w.root.Rename(stage, dst)
	}
	if !st.Mode().IsRegular() {
		return nil
	}
	f, st, err := w.open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = w.replace(ctx, dst, st.Mode().Perm(), exclusive, func(to *os.File) error { _, err := io.Copy(to, flow{ctx, f}); return err })
	return err
}
