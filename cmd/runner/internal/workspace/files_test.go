package workspace

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"troupe/http/runnerproto"
)

// Components are swapped for links that lead outside while files are read, written, listed and deleted: nothing outside is ever seen
// or touched.
func TestFS_1_NoSwapLeadsOutside(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "f"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, map[string]string{"real/f": "inside"})
	if err := os.Symlink("real", filepath.Join(p.dir, "d")); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		at, link := filepath.Join(p.dir, "d"), filepath.Join(p.dir, "link")
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Symlink("real", link)
			_ = os.Rename(link, at)
			_ = os.Symlink(outside, link)
			_ = os.Rename(link, at)
		}
	})
	ctx := context.Background()
	for range 3000 {
		if c, err := p.w.Read("d/f", ""); err == nil && c.Content == "secret" {
			t.Fatal("read a file outside")
		}
		_, _ = p.w.Create(t.Context(), "d/new", []byte("x"), 0o644, true)
		_, _ = p.w.Update(t.Context(), "d/f", []byte("inside"), nil)
		_, _ = p.w.SetMetadata(t.Context(), "d/f", runnerproto.MetadataChange{Tags: []string{"x"}})
		if l, err := p.w.List(ctx, "d", true, true); err == nil && len(l.Entries) > 0 && strings.Contains(l.Entries[0].Name, "only-outside") {
			t.Fatal("listed a directory outside")
		}
		_, _ = p.w.Transfer(ctx, false, []runnerproto.Transfer{{Source: "d/f", Destination: "copy", Overwrite: true}})
		_ = p.w.Delete(t.Context(), "d/new")
	}
	close(stop)
	wg.Wait()
	if b, err := os.ReadFile(filepath.Join(outside, "f")); err != nil || string(b) != "secret" {
		t.Errorf("%q %v", b, err)
	}
	if names, _ := os.ReadDir(outside); len(names) != 1 {
		t.Errorf("outside: %v", names)
	}
	if b, _ := os.ReadFile(filepath.Join(p.dir, "copy")); string(b) != "inside" {
		t.Errorf("copied %q", b)
	}
}

// A write goes to the file that a reader of the same path sees, however many links lead there.
func TestFS_2_WritesFollowLinksAsReadsDo(t *testing.T) {
	p := newPlace(t, map[string]string{"x": "other", "a/x": "meant", "a/b/keep": "k"})
	for name, to := range map[string]string{"link": "a/b", "a/b/f": "../x", "deep": "link/../x", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(p.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for i, at := range []string{"link/f", "deep", "a/x"} {
		text := strings.Repeat("n", i+1)
		if _, err := p.w.Update(t.Context(), at, []byte(text), nil); err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		if c, err := p.w.Read(at, ""); err != nil || c.Content != text {
			t.Errorf("%s: %+v %v", at, c, err)
		}
	}
	if c, err := p.w.Read("x", ""); err != nil || c.Content != "other" {
		t.Errorf("another file was written: %+v %v", c, err)
	}
	var r *Refusal
	if _, err := p.w.Create(t.Context(), "link", nil, 0o644, true); !errors.As(err, &r) || r.Status != 409 {
		t.Errorf("a link to a directory: %v", err)
	}
	if _, err := p.w.Update(t.Context(), "loop", nil, nil); !errors.As(err, &r) || r.Status != 403 {
		t.Errorf("a loop of links: %v", err)
	}
}

func TestNothingIsChangedForACallerWhoHasGone(t *testing.T) {
	p := newPlace(t, map[string]string{"a": "old", "d/f": "x"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.w.Update(ctx, "a", []byte("new"), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := p.w.transfer(ctx, false, runnerproto.Transfer{Source: "d", Destination: "copy"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := p.tree(); got["a"] != "old" || len(got) != 4 {
		t.Errorf("%v", got)
	}
}

func TestAPipeHoldsNobodyUp(t *testing.T) {
	p := newPlace(t, map[string]string{"a": "x"})
	if err := syscall.Mkfifo(filepath.Join(p.dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	var r *Refusal
	if _, err := p.w.Read("pipe", ""); !errors.As(err, &r) || r.Status != 400 {
		t.Error(err)
	}
	if _, err := p.w.Search(t.Context(), runnerproto.Search{Query: "x", Type: "content", Path: ".", MaxResults: 5}); err != nil {
		t.Error(err)
	}
	if _, err := p.w.Pack(t.Context(), runnerproto.Archive{Paths: []string{"."}, Output: "all.tar", Format: "tar"}); err != nil {
		t.Error(err)
	}
}

// TestFS_9_AFullVolume runs itself with a small volume of its own.
func TestFS_9_AFullVolume(t *testing.T) {
	if os.Getenv("TROUPE_TEST_VOLUME") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFS_9_AFullVolume$", "-test.v")
		cmd.Env = append(os.Environ(), "TROUPE_TEST_VOLUME="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir := os.Getenv("TROUPE_TEST_VOLUME")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	w, err := Open(dir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Create(t.Context(), "kept", []byte("old"), 0o644, false); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Create(t.Context(), "most", bytes.Repeat([]byte("x"), 600<<10), 0o644, false); err != nil {
		t.Fatal(err)
	}
	var zip bytes.Buffer
	tw := tar.NewWriter(&zip)
	_ = tw.WriteHeader(&tar.Header{Name: "a/first", Size: 1, Typeflag: tar.TypeReg})
	_, _ = tw.Write([]byte("1"))
	_ = tw.WriteHeader(&tar.Header{Name: "a/big", Size: 300 << 10, Typeflag: tar.TypeReg})
	_, _ = tw.Write(make([]byte, 300<<10))
	_ = tw.Close()
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "x"), zip.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	full := func(what string, err error) {
		t.Helper()
		var r *Refusal
		if !errors.As(refuse(err), &r) || r.Status != 507 || r.Code != "workspace_full" {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = w.Create(t.Context(), "dir/new", make([]byte, 500<<10), 0o644, false)
	full("create", err)
	_, err = w.Update(t.Context(), "kept", make([]byte, 500<<10), nil)
	full("update", err)
	_, err = w.Patch(t.Context(), "most", "append", []byte("y"), 0, -1)
	full("patch", err)
	_, err = w.Pack(t.Context(), runnerproto.Archive{Paths: []string{"most"}, Output: "out/x.tar", Format: "tar"})
	full("archive", err)
	f, err := os.Open(filepath.Join(home, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := w.Create(t.Context(), "fill", make([]byte, 200<<10), 0o644, false); err != nil {
		t.Fatal(err)
	}
	_, err = w.unpack(t.Context(), f, int64(zip.Len()), ".", false)
	full("unpack", err)
	if res, err := w.Transfer(t.Context(), false, []runnerproto.Transfer{{Source: "most", Destination: "sub/copy"}}); err != nil || res[0] != "Volume full" {
		t.Errorf("%v %v", res, err)
	}
	if c, err := w.Read("kept", ""); err != nil || c.Content != "old" {
		t.Errorf("%v %v", c, err)
	}
	l, err := w.List(t.Context(), ".", true, true)
	if err != nil || len(l.Entries) != 3 {
		t.Errorf("half-written: %+v %v", l, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, stagePrefix+"*")); len(left) > 0 {
		t.Error(left)
	}
}

// What a crash leaves of a copy or an archive is removed when the next runner starts.
func TestStagedDirectoriesAreSwept(t *testing.T) {
	p := newPlace(t, map[string]string{stagePrefix + "x/deep/file": "x", "sub/" + stagePrefix + "y": "y", "sub/kept": "k"})
	if got := p.tree(); len(got) != 3 || got["sub/kept"] != "k" {
		t.Errorf("%v", got)
	}
}

func FuzzUnpack(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "a/b", Size: 1, Typeflag: tar.TypeReg})
	_, _ = w.Write([]byte("x"))
	_ = w.WriteHeader(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a/b"})
	_ = w.Close()
	f.Add(b.Bytes())
	f.Add([]byte("PK\x05\x06" + strings.Repeat("\x00", 18)))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		root := t.TempDir()
		dir := filepath.Join(root, "ws")
		if err := os.MkdirAll(filepath.Join(dir, "target"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "x"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		ws, err := Open(dir, filepath.Join(root))
		if err != nil {
			t.Fatal(err)
		}
		_, err = ws.Unpack(t.Context(), "x", "target", false)
		var r *Refusal
		if err != nil && !errors.As(err, &r) {
			t.Errorf("%v", err)
		}
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, _ error) error {
			rel, _ := filepath.Rel(dir, p)
			if rel != "." && rel != "x" && rel != "target" && !strings.HasPrefix(rel, "target/") {
				t.Errorf("%s is outside the target", rel)
			}
			if err != nil && strings.HasPrefix(rel, "target/") {
				t.Errorf("%s was left of an archive that was refused", rel)
			}
			return nil
		})
	})
}
