package workspace

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/bzip2"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	bzip2w "github.com/dsnet/compress/bzip2"

	"troupe/http/runnerproto"
)

// Limits of an archive that is unpacked (FS-13).
const (
	maxItems   = 10000
	maxTotal   = 1 << 30
	maxRatio   = 200
	ratioFloor = 1 << 20 // small archives of zeros are no bombs
)

// packer writes one format. A file's content follows its header.
type packer interface {
	add(name string, st fs.FileInfo, link string) (io.Writer, error)
	Close() error
}

type tarPacker struct {
	*tar.Writer
	under io.Closer // the compression; nil for none
}

func (p *tarPacker) add(name string, st fs.FileInfo, link string) (io.Writer, error) {
	h, err := tar.FileInfoHeader(st, link)
	if err != nil {
		return nil, err
	}
	h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.Format = name, 0, 0, "", "", tar.FormatPAX
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	return p.Writer, p.WriteHeader(h)
}

func (p *tarPacker) Close() error {
	err := p.Writer.Close()
	if p.under != nil {
		err = errors.Join(err, p.under.Close())
	}
	return err
}

type zipPacker struct{ *zip.Writer }

func (p *zipPacker) add(name string, st fs.FileInfo, link string) (io.Writer, error) {
	h, err := zip.FileInfoHeader(st)
	if err != nil {
		return nil, err
	}
	h.Name, h.Method = name, zip.Deflate
	if st.IsDir() {
		h.Name, h.Method = name+"/", zip.Store
	}
	to, err := p.CreateHeader(h)
	if err == nil && link != "" {
		_, err = io.WriteString(to, link)
	}
	return to, err
}

func newPacker(to io.Writer, format string, level int) (packer, error) {
	switch format {
	case "zip":
		z := zip.NewWriter(to)
		z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, level) })
		return &zipPacker{z}, nil
	case "tar":
		return &tarPacker{tar.NewWriter(to), nil}, nil
	case "tar.gz":
		g, err := gzip.NewWriterLevel(to, level)
		if err != nil {
			return nil, err
		}
		return &tarPacker{tar.NewWriter(g), g}, nil
	case "tar.bz2":
		b, err := bzip2w.NewWriter(to, &bzip2w.WriterConfig{Level: max(level, 1)})
		if err != nil {
			return nil, err
		}
		return &tarPacker{tar.NewWriter(b), b}, nil
	}
	return nil, &Refusal{400, "unsupported_archive_format", "The format must be zip, tar, tar.gz or tar.bz2"}
}

// Pack writes an archive of files and directories, under their paths in the workspace.
func (w *Workspace) Pack(ctx context.Context, a runnerproto.Archive) (*runnerproto.Archived, error) {
	if st, err := w.root.Stat(a.Output); err == nil && st.IsDir() {
		return nil, &Refusal{400, "is_directory", shown(a.Output) + " is a directory"}
	}
	for _, p := range a.Paths {
		if _, err := w.root.Lstat(p); err != nil {
			return nil, refuse(err)
		}
	}
	out, err := w.real(a.Output)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, refuse(err)
	}
	made, err := w.parents(path.Dir(out))
	var n int64
	if err == nil {
		n, err = w.replace(ctx, out, 0o644, false, func(to *os.File) error {
			p, err := newPacker(to, a.Format, a.Level)
			if err != nil {
				return err
			}
			for _, at := range a.Paths {
				if err := w.pack(ctx, p, at, out); err != nil {
					return err
				}
			}
			return p.Close()
		})
	}
	if err != nil {
		w.undo(made)
		return nil, refuse(err)
	}
	return &runnerproto.Archived{Path: shown(a.Output), Size: n, Format: a.Format}, nil
}

func (w *Workspace) pack(ctx context.Context, p packer, at, output string) error {
	add := func(name string, st fs.FileInfo) error {
		link := ""
		var err error
		switch {
		case name == output || name == "." || !st.IsDir() && !st.Mode().IsRegular() && st.Mode()&fs.ModeSymlink == 0:
			return nil
		case st.Mode()&fs.ModeSymlink != 0:
			if link, err = w.root.Readlink(name); err != nil {
				return err
			}
		case st.Mode().IsRegular():
			f, st, err := w.open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			to, err := p.add(name, st, "")
			if err != nil {
				return err
			}
			n, err := io.Copy(to, flow{ctx, io.LimitReader(f, st.Size())})
			if err == nil && n < st.Size() { // it has become shorter meanwhile
				_, err = io.CopyN(to, zeros{}, st.Size()-n)
			}
			return err
		}
		_, err = p.add(name, st, link)
		return err
	}
	st, err := w.root.Lstat(at)
	if err != nil {
		return err
	}
	if err := add(at, st); err != nil || !st.IsDir() {
		return err
	}
	return w.each(ctx, at, add)
}

// each is walk that stops at the first error.
func (w *Workspace) each(ctx context.Context, dir string, f func(full string, st fs.FileInfo) error) error {
	return w.walk(ctx, dir, "", false, true, func(_, full string, st fs.FileInfo) error {
		if err := f(full, st); err != nil && !gone(err) {
			return err
		}
		if !st.IsDir() {
			return nil
		}
		if err := w.each(ctx, full, f); err != nil && !gone(err) {
			return err
		}
		return nil
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// item is one entry of an archive.
type item struct {
	name string // clean, relative
	dir  bool
	link string // of a symbolic link
	mode fs.FileMode
}

func rejected(text string) error { return &Refusal{400, "archive_rejected", text} }

// clean checks an entry's name and link.
func (it *item) clean(name string) error {
	name = strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if name == "" || name == "." {
		it.name = "."
		return nil
	}
	if !fs.ValidPath(name) || strings.ContainsRune(name, 0) || len(name) > 4096 {
		return rejected("An entry leads outside the target: " + clip(name))
	}
	it.name = name
	if it.link == "" {
		return nil
	}
	below := false
	for part := range strings.SplitSeq(it.link, "/") {
		if part == ".." && below {
			return rejected("A link leads through another directory and back: " + clip(name))
		}
		below = below || part != ".." && part != "." && part != ""
	}
	if path.IsAbs(it.link) || !fs.ValidPath(path.Join(path.Dir(name), it.link)) {
		return rejected("A link leads outside the target: " + clip(name))
	}
	return nil
}

// items calls f for every entry of an archive, with its content.
func items(f *os.File, size int64, each func(it item, content io.Reader) error) error {
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	head = head[:n]
	var r io.Reader = io.NewSectionReader(f, 0, size)
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return zipItems(f, size, each)
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		if r, err = gzip.NewReader(r); err != nil {
			return unreadable(err)
		}
	case bytes.HasPrefix(head, []byte("BZh")):
		r = bzip2.NewReader(r)
	case len(head) == 512 && string(head[257:262]) == "ustar":
	default:
		return &Refusal{400, "unsupported_archive_format", "The file is no zip, tar, tar.gz or tar.bz2 archive"}
	}
	return tarItems(tar.NewReader(r), each)
}

func unreadable(err error) error {
	var r *Refusal
	if errors.As(err, &r) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return rejected("The archive is damaged")
}

func tarItems(t *tar.Reader, each func(it item, content io.Reader) error) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return unreadable(err)
		}
		it := item{mode: fs.FileMode(h.Mode).Perm()}
		switch h.Typeflag {
		case tar.TypeReg:
		case tar.TypeDir:
			it.dir = true
		case tar.TypeSymlink:
			it.link = h.Linkname
		case tar.TypeXGlobalHeader:
			it.name = "." // counts, and is nothing
			if err := each(it, t); err != nil {
				return err
			}
			continue
		default:
			return rejected("An entry is neither a file, a directory nor a symbolic link: " + clip(h.Name))
		}
		if err := it.clean(h.Name); err != nil {
			return err
		}
		if err := each(it, t); err != nil {
			return err
		}
	}
}

func zipItems(f io.ReaderAt, size int64, each func(it item, content io.Reader) error) error {
	z, err := zip.NewReader(f, size)
	if err != nil {
		return unreadable(err)
	}
	if len(z.File) > maxItems {
		return rejected("The archive has more than 10000 entries")
	}
	for _, e := range z.File {
		it := item{mode: e.Mode().Perm(), dir: e.Mode().IsDir()}
		if !it.dir && e.Mode()&fs.ModeType&^fs.ModeSymlink != 0 {
			return rejected("An entry is neither a file, a directory nor a symbolic link: " + clip(e.Name))
		}
		r, err := e.Open()
		if err != nil {
			return unreadable(err)
		}
		if e.Mode()&fs.ModeSymlink != 0 {
			b, err := io.ReadAll(io.LimitReader(r, 4097))
			if err != nil || len(b) == 0 || len(b) > 4096 {
				_ = r.Close()
				return rejected("A link cannot be read: " + clip(e.Name))
			}
			it.link = string(b)
		}
		if err = it.clean(e.Name); err == nil {
			err = each(it, r)
		}
		_ = r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// Unpack unpacks an archive. Everything is checked before anything is seen: it is unpacked beside its place and renamed there.
func (w *Workspace) Unpack(ctx context.Context, p, target string, overwrite bool) (*runnerproto.Extracted, error) {
	f, st, err := w.open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	made, err := w.parents(target)
	if err != nil {
		w.undo(made)
		return nil, refuse(err)
	}
	n, err := w.unpack(ctx, f, st.Size(), target, overwrite)
	if err != nil {
		w.undo(made)
		return nil, refuse(err)
	}
	return &runnerproto.Extracted{Destination: shown(target), Files: n}, nil
}

func (w *Workspace) unpack(ctx context.Context, f *os.File, size int64, target string, overwrite bool) (int, error) {
	stage := path.Join(target, stagePrefix+rand.Text())
	if err := w.root.Mkdir(stage, 0o700); err != nil {
		return 0, err
	}
	defer func() { _ = w.root.RemoveAll(stage) }()
	var all []item
	links := map[string]bool{}
	total, most := int64(0), min(maxTotal, max(ratioFloor, size*maxRatio))
	err := items(f, size, func(it item, content io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if all = append(all, it); len(all) > maxItems {
			return rejected("The archive has more than 10000 entries")
		}
		for dir := it.name; dir != "."; dir = path.Dir(dir) {
			if links[dir] {
				return rejected("An entry lies below a link: " + clip(it.name))
			}
		}
		if err := w.fits(path.Join(target, it.name), it, overwrite); err != nil {
			return err
		}
		at := path.Join(stage, it.name)
		if _, err := w.parents(path.Dir(at)); err != nil {
			return err
		}
		if !it.dir && it.name != "." { // of two entries with one name the last counts
			if err := w.root.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return rejected("An entry is both a file and a directory: " + clip(it.name))
			}
			delete(links, it.name)
		}
		switch {
		case it.name == ".":
			return nil
		case it.dir:
			if err := w.root.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			return nil
		case it.link != "":
			links[it.name] = true
			return w.root.Symlink(it.link, at)
		}
		n, err := w.unpackFile(at, it.mode, flow{ctx, io.LimitReader(content, most-total+1)})
		if total += n; total > most {
			return rejected("The archive is larger than 1 GiB unpacked, or expands more than 200 times")
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return w.settle(ctx, stage, target, all, overwrite)
}

// fits checks what an entry would be put over.
func (w *Workspace) fits(at string, it item, overwrite bool) error {
	st, err := w.root.Lstat(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case it.name == "." || it.dir && st.IsDir():
		return nil
	case it.dir || st.IsDir() || !overwrite:
		return &Refusal{409, "file_exists", shown(at) + " exists"}
	}
	return nil
}

func (w *Workspace) unpackFile(at string, mode fs.FileMode, content io.Reader) (int64, error) {
	if mode == 0 {
		mode = 0o644
	}
	f, err := w.root.OpenFile(at, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return 0, err
	}
	from := &source{r: content}
	n, err := io.Copy(f, from)
	if from.err != nil {
		err = unreadable(from.err)
	}
	return n, errors.Join(err, f.Chmod(mode), f.Close())
}

// source tells errors of the archive from those of the volume.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// settle puts what was unpacked in its place: directories first, when the volume may be found full, then the files.
func (w *Workspace) settle(ctx context.Context, stage, target string, all []item, overwrite bool) (files int, err error) {
	done, err := w.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	var made []string
	for _, it := range all {
		at, dir := path.Join(target, it.name), path.Join(target, path.Dir(it.name))
		if it.dir || it.name == "." {
			dir = at
		}
		if err = w.fits(at, it, overwrite); err == nil { // it may have appeared meanwhile
			var more []string
			more, err = w.parents(dir)
			made = append(made, more...)
		}
		if err != nil {
			w.undo(made)
			return 0, err
		}
	}
	seen := map[string]bool{}
	for _, it := range all {
		if it.dir || it.name == "." || seen[it.name] {
			continue
		}
		seen[it.name] = true
		at := path.Join(target, it.name)
		if overwrite || it.link != "" {
			err = w.root.Rename(path.Join(stage, it.name), at)
		} else { // the agent may make one at this moment; it stays
			err = w.root.Link(path.Join(stage, it.name), at)
		}
		if err != nil {
			return files, err
		}
		files++
	}
	return files, nil
}
