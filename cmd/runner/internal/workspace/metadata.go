package workspace

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"troupe/http/runnerproto"
)

// tagsAttribute holds a file's tags as a JSON array. It follows a move, and a copy does not have it (FS-11).
const tagsAttribute = "user.troupe.tags"

// Metadata describes a file or directory.
func (w *Workspace) Metadata(p string) (*runnerproto.Metadata, error) {
	st, err := w.root.Lstat(p)
	if err != nil {
		return nil, refuse(err)
	}
	out := &runnerproto.Metadata{Path: shown(p)}
	var at time.Time
	out.Type, out.Size, at = w.look(p, st)
	out.ModifiedAt, out.CreatedAt = stamp(at), stamp(at)
	if to, err := w.root.Stat(p); err == nil {
		st = to
	} else if st.Mode()&fs.ModeSymlink == 0 {
		return nil, refuse(err)
	}
	out.Permissions = octal(st.Mode())
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		out.CreatedAt = stamp(time.Unix(sys.Ctim.Unix()))
		out.Owner, out.Group = owner(sys.Uid), group(sys.Gid)
	}
	f, err := w.root.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil { // what may not be read has no tags to show
		return out, nil
	}
	defer f.Close()
	var x unix.Statx_t
	if unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &x) == nil && x.Mask&unix.STATX_BTIME != 0 {
		out.CreatedAt = stamp(time.Unix(x.Btime.Sec, int64(x.Btime.Nsec)))
	}
	out.Tags = tags(f)
	return out, nil
}

func octal(m fs.FileMode) string {
	s := strconv.FormatUint(uint64(m.Perm()), 8)
	for len(s) < 3 {
		s = "0" + s
	}
	return s
}

func owner(id uint32) string {
	n := strconv.FormatUint(uint64(id), 10)
	if u, err := user.LookupId(n); err == nil {
		return u.Username
	}
	return n
}

func group(id uint32) string {
	n := strconv.FormatUint(uint64(id), 10)
	if g, err := user.LookupGroupId(n); err == nil {
		return g.Name
	}
	return n
}

func tags(f *os.File) (out []string) {
	buf := make([]byte, 64<<10)
	n, err := unix.Fgetxattr(int(f.Fd()), tagsAttribute, buf)
	if err != nil || json.Unmarshal(buf[:n], &out) != nil {
		return nil
	}
	return out
}

func setTags(f *os.File, t []string) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	err = unix.Fsetxattr(int(f.Fd()), tagsAttribute, b, 0)
	switch {
	case errors.Is(err, unix.ENOTSUP):
		return &Refusal{400, "validation_failed", "The volume does not keep tags"}
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.E2BIG), errors.Is(err, unix.ERANGE): // there is room for about 4 KiB of them
		return &Refusal{400, "validation_failed", "tags are longer than the volume can keep with a file"}
	case err != nil:
		return refuse(err)
	}
	return nil
}

func notPermitted() error {
	return &Refusal{400, "chown_not_permitted", "The owner of files cannot be changed in this workspace"}
}

// SetMetadata changes what is given.
func (w *Workspace) SetMetadata(ctx context.Context, p string, c runnerproto.MetadataChange) (*runnerproto.Metadata, error) {
	done, err := w.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	f, err := w.root.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) && c.Mode != nil { // what its owner may not read he may make readable
		if err = w.root.Chmod(p, fs.FileMode(*c.Mode)|0o400); err == nil {
			f, err = w.root.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		}
	}
	if err != nil {
		return nil, refuse(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode()&(fs.ModeIrregular|fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return nil, &Refusal{400, "validation_failed", shown(p) + " is no regular file"}
	}
	if c.Owner != "" || c.Group != "" {
		uid, gid, err := ids(st, c)
		if err != nil {
			return nil, err
		}
		if err := f.Chown(uid, gid); err != nil {
			return nil, notPermitted()
		}
	}
	if c.Tags != nil {
		if err := setTags(f, c.Tags); err != nil {
			return nil, err
		}
	}
	if c.Mode != nil {
		if err := f.Chmod(fs.FileMode(*c.Mode)); err != nil {
			return nil, refuse(err)
		}
	}
	return w.Metadata(p)
}

// ids finds the numbers of an owner and a group; -1 leaves the present one.
func ids(st fs.FileInfo, c runnerproto.MetadataChange) (uid, gid int, err error) {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, notPermitted()
	}
	uid, gid = -1, -1
	if c.Owner != "" && c.Owner != owner(sys.Uid) {
		u, err := user.Lookup(c.Owner)
		if err != nil {
			return 0, 0, notPermitted()
		}
		if uid, err = strconv.Atoi(u.Uid); err != nil {
			return 0, 0, err
		}
	}
	if c.Group != "" && c.Group != group(sys.Gid) {
		g, err := user.LookupGroup(c.Group)
		if err != nil {
			return 0, 0, notPermitted()
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return 0, 0, err
		}
	}
	return uid, gid, nil
}
