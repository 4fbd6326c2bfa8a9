package workspace

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
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
	done, err := w.begin()
	if err != nil {
		return err
	}
	defer done()
	st, err := w.root.Lstat(src)
	if err != nil {
		return err
	}
	if st.IsDir() && (dst == src || strings.HasPrefix(dst, src+"/")) {
		return &Refusal{Text: "Destination lies within the source"}
	}
	there, err := w.root.Lstat(dst)
	switch {
	case err == nil && (there.IsDir() || st.IsDir() || !op.Overwrite):
		return fs.ErrExist
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case src == dst:
		return nil
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
		return w.copyFile(src, dst, st, !overwrite)
	}
	stage := path.Join(path.Dir(dst), stagePrefix+rand.Text()) // seen under its name when it is whole
	err := w.copyTree(ctx, src, stage, st)
	if err == nil {
		err = w.root.Rename(stage, dst)
	}
	if err != nil {
		_ = w.root.RemoveAll(stage)
	}
	return err
}

func (w *Workspace) copyTree(ctx context.Context, src, dst string, st fs.FileInfo) error {
	if err := w.root.Mkdir(dst, 0o700); err != nil {
		return err
	}
	err := w.walk(ctx, src, "", false, true, func(name, full string, st fs.FileInfo) error {
		if st.IsDir() {
			return w.copyTree(ctx, full, path.Join(dst, name), st)
		}
		return w.copyFile(full, path.Join(dst, name), st, false)
	})
	if err != nil {
		return err
	}
	return w.root.Chmod(dst, st.Mode().Perm())
}

// copyFile copies a file with its mode, or a link as it is. What is neither is not copied.
func (w *Workspace) copyFile(src, dst string, st fs.FileInfo, exclusive bool) error {
	if st.Mode()&fs.ModeSymlink != 0 {
		to, err := w.root.Readlink(src)
		if err != nil {
			return err
		}
		if !exclusive {
			if err := w.root.Remove(dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return w.root.Symlink(to, dst)
	}
	if !st.Mode().IsRegular() {
		return nil
	}
	f, st, err := w.open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = w.replace(dst, st.Mode().Perm(), exclusive, func(to io.Writer) error { _, err := io.Copy(to, f); return err })
	return err
}
