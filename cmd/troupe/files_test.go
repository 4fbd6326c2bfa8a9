package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// disk is the filesystem API of one agent.
type disk struct {
	*world
	id  string
	dir string // the workspace on disk
}

func newFiles(w *world) *disk {
	id := w.agent(map[string]any{"name": "files"})
	return &disk{w, id, filepath.Join(w.dir, "agents", id, "workspace")}
}

func (f *disk) fs(method, path string, body any) *answer {
	f.t.Helper()
	return f.call(method, "/v1/agent/"+f.id+"/filesystem/"+path, body)
}

func (f *disk) write(path, content string) {
	f.t.Helper()
	f.want(f.fs("POST", "files/"+path, map[string]any{"content": content, "overwrite": true}), 201)
}

func (f *disk) text(path string) string {
	f.t.Helper()
	return f.want(f.fs("GET", "files/"+path, nil), 200).str("content")
}

func TestFS_1_PathsStayInside(t *testing.T) {
	f := newFiles(startWorld(t, local))
	f.write("a/b.txt", "inside")
	for _, p := range []string{"a/b.txt", "workspace/a/b.txt", "/workspace//a/./b.txt", "a/x/../b.txt", "a%2Fb.txt", "a/%62.txt", "workspace/workspace/../a/b.txt"} {
		if a := f.want(f.fs("GET", "files/"+p, nil), 200); a.str("path") != "/workspace/a/b.txt" || a.str("content") != "inside" {
			t.Errorf("%s: %s", p, a.body)
		}
	}
	for _, p := range []string{"../x", "a/../../x", "%2e%2e/x", "workspace/../../etc/passwd"} {
		f.refused(f.fs("GET", "files/"+p, nil), 403, "path_outside_workspace")
	}
	for _, p := range []string{"a%00b", strings.Repeat("x", 256), strings.Repeat("x/", 2100)} {
		f.refused(f.fs("GET", "files/"+p, nil), 400, "validation_failed")
	}
	for name, to := range map[string]string{"out": "/etc", "up": "../..", "self": "a"} {
		if err := os.Symlink(to, filepath.Join(f.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	f.refused(f.fs("GET", "files/out/passwd", nil), 403, "path_outside_workspace")
	f.refused(f.fs("POST", "files/up/x", map[string]any{"content": ""}), 403, "path_outside_workspace")
	f.refused(f.fs("POST", "files/out", map[string]any{"content": "x", "overwrite": true}), 403, "path_outside_workspace")
	if f.text("self/b.txt") != "inside" {
		t.Error("a link inside")
	}
	f.refused(f.fs("GET", "../runtime", nil), 404, "route_not_found") // no part of a route is a part of a path
	f.refused(f.fs("GET", "files/", nil), 404, "route_not_found")
	other := f.user("other@acme.test")
	other.refused(other.call("GET", "/v1/agent/"+f.id+"/filesystem/files/a/b.txt", nil), 404, "not_found")
}

func TestFS_2_FS_3_Files(t *testing.T) {
	f := newFiles(startWorld(t, local))
	a := f.want(f.fs("POST", "files/deep/er/note.md", map[string]any{"content": "# hi", "permissions": "600"}), 201)
	if a.str("path") != "/workspace/deep/er/note.md" || a.num("size") != 4 {
		t.Errorf("%s", a.body)
	}
	if st, err := os.Stat(filepath.Join(f.dir, "deep/er/note.md")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	f.refused(f.fs("POST", "files/deep/er/note.md", map[string]any{"content": "x"}), 409, "file_exists")
	f.refused(f.fs("POST", "files/deep", map[string]any{"content": "x", "overwrite": true}), 409, "file_exists")
	f.refused(f.fs("POST", "files/deep/er/note.md/x", map[string]any{"content": "x"}), 400, "not_a_directory")
	f.want(f.fs("POST", "files/deep/er/note.md", map[string]any{"content": "two", "overwrite": true}), 201)
	f.want(f.fs("PUT", "files/deep/er/note.md", map[string]any{"content": base64.StdEncoding.EncodeToString([]byte{0xff, 0}), "encoding": "base64"}), 200)
	if a := f.want(f.fs("GET", "files/deep/er/note.md", nil), 200); a.str("encoding") != "base64" || a.str("content") != "/wA=" {
		t.Errorf("%s", a.body)
	}
	f.refused(f.fs("GET", "files/deep/er/note.md?encoding=utf-8", nil), 400, "not_utf8")
	f.refused(f.fs("PUT", "files/missing", map[string]any{"content": ""}), 404, "not_found")
	f.refused(f.fs("PUT", "files/deep", map[string]any{"content": ""}), 400, "is_directory")
	f.refused(f.fs("GET", "files/deep", nil), 400, "is_directory")
	f.refused(f.fs("DELETE", "files/deep", nil), 400, "is_directory")
	f.want(f.fs("DELETE", "files/deep/er/note.md", nil), 200)
	f.refused(f.fs("DELETE", "files/deep/er/note.md", nil), 404, "not_found")
	for _, bad := range []map[string]any{{}, {"content": 1}, {"content": "?", "encoding": "base64"}, {"content": "", "permissions": "4755"}, {"content": "", "permissions": "8"}, {"content": "", "encoding": "latin1"}} {
		f.refused(f.fs("POST", "files/bad", bad), 400, "validation_failed")
	}
	f.refused(f.fs("POST", "files/big", map[string]any{"content": strings.Repeat("x", 10<<20+1)}), 413, "file_too_large")

	f.want(f.fs("POST", "directories/one/two", map[string]any{"permissions": "750"}), 201)
	f.refused(f.fs("POST", "directories/one/two", nil), 409, "file_exists")
	f.refused(f.fs("POST", "directories/no/parent", map[string]any{"recursive": false}), 400, "parent_missing")
	f.write("one/two/file", "x")
	f.refused(f.fs("DELETE", "directories/one", nil), 400, "directory_not_empty")
	f.refused(f.fs("DELETE", "directories/one/two/file", nil), 400, "not_a_directory")
	f.refused(f.fs("DELETE", "directories/workspace", nil), 400, "validation_failed")
	f.refused(f.fs("DELETE", "directories/nowhere", nil), 404, "not_found")
	f.want(f.fs("DELETE", "directories/one", map[string]any{"recursive": true}), 200)
	f.refused(f.fs("GET", "directories/one", nil), 404, "not_found")

	// what was uploaded is seen by the agent, whole, whoever writes at once
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { f.write("race", strings.Repeat(fmt.Sprint(i), 5000)) })
	}
	for range 20 {
		if a := f.fs("GET", "files/race", nil); a.status == 200 && strings.Trim(a.str("content"), a.str("content")[:1]) != "" {
			t.Error("FS-2: a reader saw two writers")
		}
	}
	wg.Wait()
	if left, _ := filepath.Glob(filepath.Join(f.dir, ".troupe-stage-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFS_4_Patch(t *testing.T) {
	f := newFiles(startWorld(t, local))
	f.write("p", "<&>")
	if a := f.fs("GET", "files/p", nil); !bytes.Contains(a.body, []byte(`"<&>"`)) || bytes.HasSuffix(a.body, []byte("\n")) {
		t.Errorf("GEN-5: %q", a.body)
	}
	f.write("p", "0123456789")
	for _, x := range []struct {
		body map[string]any
		want string
	}{
		{map[string]any{"operation": "append", "content": "A"}, "0123456789A"},
		{map[string]any{"operation": "prepend", "content": "P"}, "P0123456789A"},
		{map[string]any{"operation": "insert", "content": "--", "position": 1}, "P--0123456789A"},
		{map[string]any{"operation": "insert", "content": "^"}, "^P--0123456789A"},
		{map[string]any{"operation": "replace", "content": "xy", "position": 2}, "^Pxy0123456789A"},
		{map[string]any{"operation": "replace", "content": "", "position": 0, "length": 4}, "0123456789A"},
		{map[string]any{"operation": "replace", "content": "!", "position": 9, "length": 100}, "012345678!"},
		{map[string]any{"operation": "insert", "content": "Lw==", "encoding": "base64", "position": 10}, "012345678!/"},
	} {
		a := f.want(f.fs("PATCH", "files/p", x.body), 200)
		if got := f.text("p"); got != x.want || a.num("size") != float64(len(x.want)) {
			t.Errorf("%v: %q, not %q", x.body, got, x.want)
		}
	}
	f.refused(f.fs("PATCH", "files/p", map[string]any{"operation": "insert", "content": "x", "position": 12}), 400, "validation_failed")
	f.refused(f.fs("PATCH", "files/p", map[string]any{"operation": "swap", "content": "x"}), 400, "validation_failed")
	f.refused(f.fs("PATCH", "files/none", map[string]any{"operation": "append", "content": "x"}), 404, "not_found")
	if f.text("p") != "012345678!/" {
		t.Error("a refused patch changed the file")
	}
}

func TestFS_5_Downloads(t *testing.T) {
	f := newFiles(startWorld(t, local))
	f.write("x", "")
	big := bytes.Repeat([]byte("0123456789abcdef"), 12<<20/16)
	if err := os.WriteFile(filepath.Join(f.dir, `größe "1".json`), big, 0o644); err != nil {
		t.Fatal(err)
	}
	at := "files/" + url.PathEscape(`größe "1".json`)
	f.refused(f.fs("GET", at, nil), 413, "file_too_large")
	a := f.want(f.fs("GET", at+"?download=true", nil), 200)
	if !bytes.Equal(a.body, big) || a.header.Get("Content-Type") != "application/json" || a.header.Get("Content-Length") != fmt.Sprint(len(big)) ||
		a.header.Get("Content-Disposition") != `attachment; filename="gr__e _1_.json"; filename*=UTF-8''gr%C3%B6%C3%9Fe%20%221%22.json` {
		t.Errorf("%d bytes, %v", len(a.body), a.header)
	}
	if a := f.want(f.fs("GET", "files/x?download=true", nil), 200); len(a.body) != 0 || a.header.Get("Content-Length") != "0" {
		t.Errorf("%q %v", a.body, a.header)
	}
	f.refused(f.fs("GET", "files/x?download=maybe", nil), 400, "validation_failed")
	f.refused(f.fs("GET", "files/none?download=true", nil), 404, "not_found")
	f.refused(f.fs("GET", "files/../none?download=true", nil), 403, "path_outside_workspace")
}

func TestFS_6_Listings(t *testing.T) {
	f := newFiles(startWorld(t, local))
	for _, p := range []string{"l/b/c", "l/B", "l/a", "l/.hidden/x", "l/b/a"} {
		f.write(p, "12")
	}
	for name, to := range map[string]string{"to-dir": "b", "nowhere": "gone"} {
		if err := os.Symlink(to, filepath.Join(f.dir, "l", name)); err != nil {
			t.Fatal(err)
		}
	}
	list := func(query string) string {
		var out []string
		for _, e := range f.want(f.fs("GET", "directories/l"+query, nil), 200).doc["entries"].([]any) {
			m := e.(map[string]any)
			out = append(out, fmt.Sprint(m["name"], ":", m["type"], ":", m["size"]))
		}
		return strings.Join(out, " ")
	}
	if got := list(""); got != "B:file:2 a:file:2 b:directory:0 nowhere:file:0 to-dir:directory:0" {
		t.Error(got)
	}
	if got := list("?recursive=true&includeHidden=true"); got != ".hidden:directory:0 .hidden/x:file:2 B:file:2 a:file:2 b:directory:0 b/a:file:2 b/c:file:2 nowhere:file:0 to-dir:directory:0" {
		t.Error(got)
	}
	f.refused(f.fs("GET", "directories/l/a", nil), 400, "not_a_directory")
	if a := f.want(f.fs("GET", "directories/workspace", nil), 200); a.str("path") != "/workspace" {
		t.Errorf("%s", a.body)
	}
	for i := range 10001 {
		if err := os.WriteFile(filepath.Join(f.dir, fmt.Sprintf("l/b/%05d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if a := f.want(f.fs("GET", "directories/l/b", nil), 200); len(a.doc["entries"].([]any)) != 10000 || a.get("truncated") != true {
		t.Error("10,001 entries are not cut")
	}
}

func TestFS_7_CopyAndMove(t *testing.T) {
	f := newFiles(startWorld(t, local))
	f.write("src/a.sh", "#!")
	f.write("src/sub/b", "b")
	f.want(f.fs("PATCH", "metadata/src/a.sh", map[string]any{"permissions": "755"}), 200)
	result := func(op string, body any) string {
		t.Helper()
		var out []string
		for _, r := range f.want(f.fs("POST", "operations/"+op, body), 200).doc["results"].([]any) {
			m := r.(map[string]any)
			out = append(out, fmt.Sprint(m["source"], ">", m["destination"], " ", m["success"], " ", m["error"]))
		}
		return strings.Join(out, "; ")
	}
	tr := func(from, to string, over bool) map[string]any {
		return map[string]any{"source": from, "destination": to, "overwrite": over}
	}
	if got := result("copy", tr("src", "/workspace/new/copy", false)); got != "/workspace/src>/workspace/new/copy true <nil>" || f.text("new/copy/sub/b") != "b" {
		t.Error(got)
	}
	if a := f.want(f.fs("GET", "metadata/new/copy/a.sh", nil), 200); a.str("permissions") != "755" {
		t.Errorf("%s", a.body)
	}
	got := result("copy", map[string]any{"operations": []any{tr("missing", "x", false), tr("src/a.sh", "src/sub/b", false), tr("src/a.sh", "src/sub/b", true), tr("src", "src/sub/deep", false),
		tr("src", "new/copy", true), tr("../etc", "x", false), tr("src/a.sh", "src/a.sh", true)}})
	want := "/workspace/missing>/workspace/x false Source file not found; /workspace/src/a.sh>/workspace/src/sub/b false Destination exists; /workspace/src/a.sh>/workspace/src/sub/b true <nil>; " +
		"/workspace/src>/workspace/src/sub/deep false Destination lies within the source; /workspace/src>/workspace/new/copy false Destination exists; ../etc>/workspace/x false Access denied; /workspace/src/a.sh>/workspace/src/a.sh true <nil>"
	if got != want || f.text("src/sub/b") != "#!" {
		t.Errorf("%s\n%s", got, want)
	}
	if got := result("move", tr("src", "moved", false)); !strings.Contains(got, "true") || f.text("moved/sub/b") != "#!" {
		t.Error(got)
	}
	f.refused(f.fs("GET", "directories/src", nil), 404, "not_found")
	if got := result("move", tr("moved/a.sh", "moved/sub/b", false)); !strings.Contains(got, "Destination exists") {
		t.Error(got)
	}
	if got := result("move", tr("moved/a.sh", "moved/c.sh", false)); !strings.Contains(got, "true") || f.text("moved/c.sh") != "#!" {
		t.Error(got)
	}
	f.refused(f.fs("POST", "operations/copy", map[string]any{"operations": []any{}}), 400, "validation_failed")
	f.refused(f.fs("POST", "operations/copy", map[string]any{"source": "a"}), 400, "validation_failed")
}

func TestFS_10_FS_12_Search(t *testing.T) {
	f := newFiles(startWorld(t, local))
	f.write("s/Main.go", "package main\nfunc Main() {}\n")
	f.write("s/sub/util.go", "package sub\n// main thing\n")
	f.write("s/.hidden.go", "main")
	f.write("s/bin.go", "main\x00")
	find := func(body map[string]any) string {
		t.Helper()
		var out []string
		a := f.want(f.fs("POST", "operations/search", body), 200)
		for _, r := range a.doc["results"].([]any) {
			m := r.(map[string]any)
			s := strings.TrimPrefix(m["path"].(string), "/workspace/")
			if lines, ok := m["matches"].([]any); ok {
				s += fmt.Sprint(lines)
			}
			out = append(out, s)
		}
		if int(a.num("total")) != len(out) {
			t.Errorf("%s", a.body)
		}
		if a.get("truncated") == true {
			out = append(out, "…")
		}
		return strings.Join(out, " ")
	}
	for _, x := range []struct {
		body map[string]any
		want string
	}{
		{map[string]any{"query": "*.go", "type": "filename"}, "s/Main.go s/bin.go s/sub/util.go"},
		{map[string]any{"query": "*.go", "includeHidden": true, "type": "filename"}, "s/.hidden.go s/Main.go s/bin.go s/sub/util.go"},
		{map[string]any{"query": "main.{go,txt}", "type": "filename"}, "s/Main.go"},
		{map[string]any{"query": "main.go", "type": "filename", "caseSensitive": true}, ""},
		{map[string]any{"query": "**/sub/*.go", "type": "filename"}, "s/sub/util.go"},
		{map[string]any{"query": "sub/*.go", "type": "filename", "path": "/workspace/s"}, "s/sub/util.go"},
		{map[string]any{"query": "main", "type": "content"}, "s/Main.go[package main func Main() {}] s/sub/util.go[// main thing]"},
		{map[string]any{"query": "^func M", "caseSensitive": true, "filePattern": "M*"}, "s/Main.go[func Main() {}]"},
		{map[string]any{"query": "sub"}, "s/sub s/sub/util.go[package sub]"},
		{map[string]any{"query": "*.go", "maxResults": 1}, "s/Main.go …"},
		{map[string]any{"pattern": "*.go", "max_results": 2}, "s/Main.go s/bin.go …"},
		{map[string]any{"pattern": "thing", "content_search": true, "file_pattern": "*.go"}, "s/sub/util.go[// main thing]"},
		{map[string]any{"pattern": "*.txt", "query": "*.go", "type": "filename", "max_results": 1, "maxResults": 3}, "s/Main.go s/bin.go s/sub/util.go"},
	} {
		if got := find(x.body); got != x.want {
			t.Errorf("%v: %q, not %q", x.body, got, x.want)
		}
	}
	f.refused(f.fs("POST", "operations/search", map[string]any{"query": "[", "type": "filename"}), 400, "invalid_pattern")
	f.refused(f.fs("POST", "operations/search", map[string]any{"query": "(", "type": "content"}), 400, "invalid_pattern")
	f.refused(f.fs("POST", "operations/search", map[string]any{}), 400, "validation_failed")
	f.refused(f.fs("POST", "operations/search", map[string]any{"query": "x", "path": "../.."}), 403, "path_outside_workspace")
	f.refused(f.fs("POST", "operations/search", map[string]any{"query": "x", "path": "none"}), 404, "not_found")
}

func TestFS_11_Metadata(t *testing.T) {
	f := newFiles(startWorld(t, local))
	f.write("m", "12345")
	a := f.want(f.fs("PATCH", "metadata/m", map[string]any{"permissions": "0640", "tags": []any{"draft", "größe"}}), 200)
	if a.str("permissions") != "640" || a.num("size") != 5 || a.str("type") != "file" || fmt.Sprint(a.get("tags")) != "[draft größe]" || a.str("owner") == "" {
		t.Errorf("%s", a.body)
	}
	f.want(f.fs("PATCH", "metadata/m", map[string]any{"owner": a.str("owner"), "group": a.str("group")}), 200)
	f.refused(f.fs("PATCH", "metadata/m", map[string]any{"owner": "nobody-of-this-name"}), 400, "chown_not_permitted")
	f.want(f.fs("POST", "operations/copy", map[string]any{"source": "m", "destination": "copy"}), 200)
	f.want(f.fs("POST", "operations/move", map[string]any{"source": "m", "destination": "moved"}), 200)
	if c, m := f.want(f.fs("GET", "metadata/copy", nil), 200), f.want(f.fs("GET", "metadata/moved", nil), 200); c.get("tags") != nil || fmt.Sprint(m.get("tags")) != "[draft größe]" {
		t.Errorf("%s %s", c.body, m.body)
	}
	f.want(f.fs("PUT", "files/moved", map[string]any{"content": "new"}), 200) // tags belong to the file, not to its content
	if m := f.want(f.fs("GET", "metadata/moved", nil), 200); fmt.Sprint(m.get("tags")) != "[draft größe]" || m.str("permissions") != "640" {
		t.Errorf("%s", m.body)
	}
	f.want(f.fs("PUT", "files/moved", map[string]any{"content": "new", "permissions": "000"}), 200)
	if m := f.want(f.fs("PATCH", "metadata/moved", map[string]any{"permissions": "600"}), 200); m.str("permissions") != "600" {
		t.Errorf("%s", m.body)
	}
	long := make([]any, 50)
	for i := range long {
		long[i] = strings.Repeat("x", 100)
	}
	if a := f.fs("PATCH", "metadata/moved", map[string]any{"tags": long}); a.status != 200 { // as the volume has room
		f.refused(a, 400, "validation_failed")
	}
	for _, bad := range []map[string]any{{}, {"permissions": "1777"}, {"permissions": "9"}, {"tags": []any{""}}, {"tags": "x"}} {
		f.refused(f.fs("PATCH", "metadata/moved", bad), 400, "validation_failed")
	}
	f.refused(f.fs("GET", "metadata/none", nil), 404, "not_found")
	if a := f.want(f.fs("GET", "metadata/workspace", nil), 200); a.str("type") != "directory" || a.str("path") != "/workspace" {
		t.Errorf("%s", a.body)
	}
}

func TestFS_13_Archives(t *testing.T) {
	f := newFiles(startWorld(t, local))
	f.write("in/a.txt", strings.Repeat("hello ", 1000))
	f.write("in/sub/b.txt", "b")
	if err := os.Symlink("a.txt", filepath.Join(f.dir, "in/link")); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"zip", "tar", "tar.gz", "tar.bz2"} {
		a := f.want(f.fs("POST", "archives", map[string]any{"paths": []any{"in"}, "output_path": "out/x", "format": format}), 201)
		if a.str("format") != format || a.str("path") != "/workspace/out/x" || a.num("size") < 100 {
			t.Errorf("%s", a.body)
		}
		to := "to-" + format
		b := f.want(f.fs("POST", "archives/extract", map[string]any{"archive_path": "out/x", "destination": to}), 200)
		if b.num("files_extracted") != 3 || b.str("destination") != "/workspace/"+to || len(f.text(to+"/in/link")) != 6000 || f.text(to+"/in/sub/b.txt") != "b" {
			t.Errorf("%s: %s", format, b.body)
		}
		f.refused(f.fs("POST", "archives/extract", map[string]any{"archivePath": "out/x", "outputPath": to}), 409, "file_exists")
		f.want(f.fs("POST", "archives/extract", map[string]any{"archivePath": "out/x", "outputPath": to, "overwrite": true}), 200)
	}
	tarOf := func(hs ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range hs {
			if h.Typeflag == 0 {
				h.Typeflag = tar.TypeReg
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		_ = w.Close()
		return b.Bytes()
	}
	var zipped, bomb bytes.Buffer
	z := zip.NewWriter(&zipped)
	_, _ = z.Create("../up")
	_ = z.Close()
	g := gzip.NewWriter(&bomb)
	tw := tar.NewWriter(g)
	_ = tw.WriteHeader(&tar.Header{Name: "zeros", Size: 64 << 20, Typeflag: tar.TypeReg})
	_, _ = tw.Write(make([]byte, 64<<20))
	_ = tw.Close()
	_ = g.Close()
	many := make([]tar.Header, 10001)
	for i := range many {
		many[i] = tar.Header{Name: fmt.Sprint(i)}
	}
	for name, raw := range map[string][]byte{
		"absolute": tarOf(tar.Header{Name: "/etc/x"}), "up": tarOf(tar.Header{Name: "a/../../x"}), "zip up": zipped.Bytes(), "device": tarOf(tar.Header{Name: "d", Typeflag: tar.TypeChar}),
		"link out": tarOf(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../x"}), "link absolute": tarOf(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}),
		"through a link": tarOf(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d"}, tar.Header{Name: "l/x"}),
		"hard link":      tarOf(tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "x"}), "bomb": bomb.Bytes(), "many": tarOf(many...),
		"damaged": []byte("\x1f\x8bnothing"),
	} {
		f.want(f.fs("POST", "files/bad", map[string]any{"content": base64.StdEncoding.EncodeToString(raw), "encoding": "base64", "overwrite": true}), 201)
		if a := f.fs("POST", "archives/extract", map[string]any{"archivePath": "bad", "outputPath": "target"}); a.status != 400 || a.str("code") != "archive_rejected" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if _, err := os.Stat(filepath.Join(f.dir, "target")); err == nil {
			t.Errorf("%s: something was written", name)
		}
	}
	twice := tarOf(tar.Header{Name: "same"}, tar.Header{Name: "same", Typeflag: tar.TypeSymlink, Linkname: "other"}, tar.Header{Name: "other"})
	f.want(f.fs("POST", "files/twice", map[string]any{"content": base64.StdEncoding.EncodeToString(twice), "encoding": "base64"}), 201)
	if a := f.want(f.fs("POST", "archives/extract", map[string]any{"archivePath": "twice", "outputPath": "once"}), 200); a.num("files_extracted") != 2 {
		t.Errorf("%s", a.body)
	}
	f.write("bad", "plain text")
	f.refused(f.fs("POST", "archives/extract", map[string]any{"archivePath": "bad", "outputPath": "target"}), 400, "unsupported_archive_format")
	f.refused(f.fs("POST", "archives/extract", map[string]any{"archivePath": "none", "outputPath": "target"}), 404, "not_found")
	f.refused(f.fs("POST", "archives", map[string]any{"paths": []any{"none"}, "outputPath": "o"}), 404, "not_found")
	f.refused(f.fs("POST", "archives", map[string]any{"paths": []any{}, "outputPath": "o"}), 400, "validation_failed")
	f.refused(f.fs("POST", "archives", map[string]any{"paths": []any{"../x"}, "outputPath": "o"}), 403, "path_outside_workspace")
}

func TestFILE_2_OneUpdateWithFilesAtATime(t *testing.T) {
	w, r := byHand(t, nil)
	began, goOn := make(chan struct{}, 2), make(chan struct{})
	resume := sync.OnceFunc(func() { close(goOn) })
	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { // a file server that takes its time
		began <- struct{}{}
		<-goOn
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write([]byte(`{"total_files":1,"total_bytes":1}`))
	}))
	defer web.Close()
	defer resume()
	r.files = web.URL
	r.attach("")
	at := "/v1/agent/update/" + r.id
	body := func(name, file string) map[string]any {
		return map[string]any{"name": name, "files": map[string]any{"add": []any{map[string]any{"path": file, "content": "x"}}}}
	}
	first := make(chan *answer, 1)
	go func() {
		a, err := w.try("POST", at, body("first", "a"))
		if err != nil {
			t.Error(err)
		}
		first <- a
	}()
	<-began
	w.refused(w.call("POST", at, body("second", "b")), 409, "update_in_progress")
	w.refused(w.call("POST", at, map[string]any{"name": "third"}), 409, "update_in_progress") // it was checked against the present fields
	resume()
	if a := <-first; a == nil || a.status != 200 || a.str("name") != "first" {
		t.Errorf("%+v", a)
	}
	w.want(w.call("POST", at, map[string]any{"name": "third"}), 200)
	w.want(w.call("POST", "/v1/agent/"+r.id+"/stop", nil), 200)
	w.refused(w.call("POST", at, body("fourth", "c")), 503, "agent_unavailable")
	if a := w.call("GET", "/v1/agent/"+r.id, nil); a.str("name") != "third" {
		t.Errorf("fields were changed without the files: %s", a.body)
	}
}

// What answers at the address of a pod is in the agent's hands: it must not send the node elsewhere.
func TestSEC_5_AFileServerSendsTheNodeNowhere(t *testing.T) {
	var asked atomic.Int64
	inner := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = rw.Write([]byte(`{"secret":1}`))
	}))
	defer inner.Close()
	w, r := byHand(t, nil)
	answer := "redirect"
	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
		if answer != "redirect" {
			_, _ = rw.Write([]byte(answer))
			return
		}
		http.Redirect(rw, q, inner.URL, http.StatusTemporaryRedirect)
	}))
	defer web.Close()
	r.files = web.URL
	r.attach("")
	f := &disk{world: w, id: r.id}
	f.refused(f.fs("GET", "files/x", nil), 503, "pod_not_running")
	f.refused(f.fs("GET", "files/x?download=true", nil), 503, "pod_not_running")
	f.refused(f.fs("POST", "files/x", map[string]any{"content": ""}), 503, "pod_not_running")
	if asked.Load() != 0 {
		t.Error("a redirect was followed")
	}
	answer = "no JSON"
	f.refused(f.fs("GET", "directories/x", nil), 503, "pod_not_running")
}

func TestFILE_4_InitialFilesCountFromTheStart(t *testing.T) {
	w := startWorld(t, local)
	a := w.want(w.call("POST", "/v1/agent/create", map[string]any{"name": "f", "initial_files": []any{map[string]any{"path": "a/b", "content": strings.Repeat("x", 20000)}, map[string]any{"path": "c", "content": ""}}}), 201)
	if a.num("filesystem_summary.total_files") != 2 || a.num("filesystem_summary.total_size_mb") != 0.02 { // rounded up to 0.01
		t.Errorf("%s", a.body)
	}
	f := &disk{w, a.str("id"), filepath.Join(w.dir, "agents", a.str("id"), "workspace")}
	if len(f.text("a/b")) != 20000 {
		t.Error("POD-9: the first call came before the initial files")
	}
	f.want(f.fs("DELETE", "files/a/b", nil), 200)
	f.want(w.call("POST", "/v1/agent/"+f.id+"/stop", nil), 200)
	f.want(w.call("POST", "/v1/agent/"+f.id+"/resume", nil), 200)
	f.refused(f.fs("GET", "files/a/b", nil), 404, "not_found") // applied once
	empty := w.want(w.call("POST", "/v1/agent/create", map[string]any{"name": "g"}), 201)
	if empty.get("filesystem_summary.last_modified") != nil {
		t.Errorf("%s", empty.body)
	}
}

func TestFS_8_TheFirstCallWakesThePod(t *testing.T) {
	w := startWorld(t, local)
	f := newFiles(w)
	f.write("kept", "x")
	f.want(w.call("POST", "/v1/agent/"+f.id+"/stop", nil), http.StatusOK)
	f.refused(f.fs("GET", "files/kept", nil), 503, "pod_not_running")
	f.want(w.call("POST", "/v1/agent/"+f.id+"/status", map[string]any{"status": "paused"}), 200)
	if f.text("kept") != "x" { // waits for the pod
		t.Error("the file is gone")
	}
	// served while a turn runs, and starts none
	f.want(w.call("POST", "/v1/agent/"+f.id+"/resume", nil), 200)
	w.want(w.call("POST", "/v1/agent/"+f.id+"/messages", map[string]any{"content": "!tool shell {\"command\":\"cat kept; echo more >> kept\"}\n!say done"}), 201)
	f.until("the agent's own change", func() bool { return f.text("kept") == "xmore\n" })
}
