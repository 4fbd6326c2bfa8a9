package tool

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func shellAndFiles() []Tool {
	return []Tool{
		{"shell", "Run a command with bash in the workspace. Output of both streams comes back, with the exit code when it is not 0.",
			schema([]string{"command"}, `{"command":{"type":"string"},"timeout_seconds":{"type":"integer","minimum":1,"maximum":1800,"description":"default 120"}}`), of(shell)},
		{"read_file", "Read a text file of the workspace, with line numbers. offset and limit select lines.",
			schema([]string{"path"}, `{"path":{"type":"string"},"offset":{"type":"integer","minimum":1},"limit":{"type":"integer","minimum":1}}`), of(readFile)},
		{"write_file", "Write a whole file of the workspace; parent directories are made.",
			schema([]string{"path", "content"}, `{"path":{"type":"string"},"content":{"type":"string"}}`), of(writeFile)},
		{"edit_file", "Replace text in a file. old must occur exactly once unless all is true.",
			schema([]string{"path", "old", "new"}, `{"path":{"type":"string"},"old":{"type":"string"},"new":{"type":"string"},"all":{"type":"boolean"}}`), of(editFile)},
		{"list_files", "List a directory of the workspace, recursively if asked.",
			schema(nil, `{"path":{"type":"string"},"recursive":{"type":"boolean"}}`), of(listFiles)},
		{"search_files", "Search the workspace's text files for a regular expression (RE2), line by line.",
			schema([]string{"pattern"}, `{"pattern":{"type":"string"},"path":{"type":"string"}}`), of(searchFiles)},
	}
}

type shellInput struct {
	Command string `json:"command"`
	Timeout int    `json:"timeout_seconds"`
}

// tail keeps the beginning and the end of an output without holding all of it.
type tail struct {
	head, end []byte
	dropped   int
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if room := MaxOutput/2 - len(t.head); room > 0 {
		k := min(room, len(p))
		t.head, p = append(t.head, p[:k]...), p[k:]
	}
	t.end = append(t.end, p...)
	if over := len(t.end) - MaxOutput/2; over > 0 {
		t.dropped += over
		t.end = append(t.end[:0], t.end[over:]...)
	}
	return n, nil
}

func (t *tail) String() string {
	if t.dropped == 0 {
		return string(t.head) + string(t.end)
	}
	return string(t.head) + fmt.Sprintf("\n… [%d bytes left out] …\n", t.dropped) + string(t.end)
}

func shell(h *Host, ctx context.Context, _ *Call, in shellInput) (string, error) {
	limit := shellDefault
	if in.Timeout > 0 {
		limit = min(time.Duration(in.Timeout)*time.Second, shellLongest)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.Command("bash", "-c", in.Command)
	cmd.Dir, cmd.Env = h.Workspace.Dir(), h.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		return "", err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // ends when the group is gone
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
		return "", fmt.Errorf("the command was stopped after %s\n%s", limit, out)
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left in the background
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return out.String(), nil
}

// rel makes a path of the model relative to the workspace.
func rel(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	p = strings.TrimPrefix(strings.TrimPrefix(p, "workspace/"), "/")
	if p == "" || p == "workspace" {
		return "."
	}
	return p
}

func open(h *Host, p string) (*os.File, error) {
	f, err := h.Workspace.Root().OpenFile(rel(p), os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not block
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", p)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

type readInput struct {
	Path   string `json:"path"`
	Offset int    `json:"offset"`
	Limit  int    `json:"limit"`
}

func readFile(h *Host, _ context.Context, _ *Call, in readInput) (string, error) {
	f, err := open(h, in.Path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if in.Limit == 0 {
		in.Limit = 2000
	}
	var b strings.Builder
	sc := bufio.NewScanner(f)
	sc.Buffer(make([]byte, 64<<10), 1<<20)
	for n := 1; sc.Scan() && n < max(in.Offset, 1)+in.Limit && b.Len() < MaxOutput; n++ {
		if n >= in.Offset {
			fmt.Fprintf(&b, "%5d\t%s\n", n, sc.Text())
		}
	}
	return b.String(), sc.Err()
}

type writeInput struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

func writeFile(h *Host, _ context.Context, _ *Call, in writeInput) (string, error) {
	p := rel(in.Path)
	if err := put(h, p, []byte(in.Content)); err != nil {
		return "", err
	}
	return fmt.Sprintf("Wrote %d bytes to %s", len(in.Content), p), nil
}

// put writes a file by rename, so that readers see the old or the new content.
func put(h *Host, p string, content []byte) error {
	root := h.Workspace.Root()
	if dir := path.Dir(p); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	mode := fs.FileMode(0o644)
	if st, err := root.Stat(p); err == nil {
		if st.IsDir() {
			return fmt.Errorf("%s is a directory", p)
		}
		mode = st.Mode().Perm()
	}
	tmp := path.Join(path.Dir(p), fmt.Sprintf(".%s.%d.tmp", path.Base(p), os.Getpid()))
	if err := root.WriteFile(tmp, content, mode); err != nil {
		_ = root.Remove(tmp)
		return err
	}
	return root.Rename(tmp, p)
}

// maxEdited is the largest file that edit_file changes, bytes.
const maxEdited = 16 << 20

type editInput struct {
	Path string `json:"path"`
	Old  string `json:"old"`
	New  string `json:"new"`
	All  bool   `json:"all"`
}

func editFile(h *Host, _ context.Context, _ *Call, in editInput) (string, error) {
	f, err := open(h, in.Path)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxEdited+1))
	_ = f.Close()
	if err != nil {
		return "", err
	}
	if len(b) > maxEdited { // what was not read must not be lost
		return "", fmt.Errorf("the file is larger than %d MiB; edit it with the shell", maxEdited>>20)
	}
	n := strings.Count(string(b), in.Old)
	switch {
	case in.Old == "" || n == 0:
		return "", errors.New("old does not occur in the file")
	case n > 1 && !in.All:
		return "", fmt.Errorf("old occurs %d times; give more context or set all", n)
	}
	if err := put(h, rel(in.Path), []byte(strings.ReplaceAll(string(b), in.Old, in.New))); err != nil {
		return "", err
	}
	return fmt.Sprintf("Replaced %d occurrence(s)", n), nil
}

type listInput struct {
	Path      string `json:"path"`
	Recursive bool   `json:"recursive"`
}

const maxListed = 2000

func listFiles(h *Host, _ context.Context, _ *Call, in listInput) (string, error) {
	var b strings.Builder
	n := 0
	err := fs.WalkDir(h.Workspace.Root().FS(), rel(in.Path), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == rel(in.Path) {
			return nil
		}
		if n++; n > maxListed {
			b.WriteString("… more\n")
			return fs.SkipAll
		}
		if d.IsDir() {
			b.WriteString(p + "/\n")
			if !in.Recursive {
				return fs.SkipDir
			}
			return nil
		}
		size := int64(0)
		if st, err := d.Info(); err == nil {
			size = st.Size()
		}
		fmt.Fprintf(&b, "%s\t%d\n", p, size)
		return nil
	})
	return b.String(), err
}

type searchInput struct {
	Pattern string `json:"pattern"`
	Path    string `json:"path"`
}

func searchFiles(h *Host, ctx context.Context, _ *Call, in searchInput) (string, error) {
	re, err := regexp.Compile(in.Pattern)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = fs.WalkDir(h.Workspace.Root().FS(), rel(in.Path), func(p string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if b.Len() > MaxOutput {
			return fs.SkipAll
		}
		if !d.Type().IsRegular() {
			return nil
		}
		f, err := open(h, p)
		if err != nil {
			return nil // gone or unreadable: not a match
		}
		defer f.Close()
		content, err := io.ReadAll(io.LimitReader(f, 5<<20))
		if err != nil || bytes.IndexByte(content[:min(len(content), 8192)], 0) >= 0 {
			return nil
		}
		for i, line := range strings.Split(string(content), "\n") {
			if re.MatchString(line) {
				fmt.Fprintf(&b, "%s:%d:%s\n", p, i+1, line)
			}
		}
		return nil
	})
	return b.String(), err
}
