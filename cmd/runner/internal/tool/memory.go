package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const flatFile = "memory.md"

func memoryTools() []Tool {
	return []Tool{
		{"memory_read", "Read your long-term memory: one entry by path, or the list of entries without a path.",
			schema(nil, `{"path":{"type":"string"}}`), of(memoryRead)},
		{"memory_write", "Keep something in your long-term memory. With append it is added to the entry, otherwise the entry is replaced; empty content removes it.",
			schema([]string{"content"}, `{"path":{"type":"string","description":"such as people/ann.md"},"content":{"type":"string"},"append":{"type":"boolean"}}`), of(memoryWrite)},
	}
}

// memory opens the memory directory, confined to it.
func memory(h *Host) (*os.Root, error) {
	dir := filepath.Join(h.Home, ".memory")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

func (h *Host) entry(p string) (string, error) {
	if h.FlatMemory {
		return flatFile, nil
	}
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "", errors.New("path is needed")
	}
	return p, nil
}

type memoryInput struct {
	Path    string `json:"path"`
	Content string `json:"content"`
	Append  bool   `json:"append"`
}

func memoryRead(h *Host, _ context.Context, _ *Call, in memoryInput) (string, error) {
	root, err := memory(h)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if in.Path == "" && !h.FlatMemory {
		var names []string
		err := fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				names = append(names, p)
			}
			return err
		})
		return strings.Join(names, "\n"), err
	}
	p, err := h.entry(in.Path)
	if err != nil {
		return "", err
	}
	b, err := root.ReadFile(p)
	return string(b), err
}

func memoryWrite(h *Host, _ context.Context, _ *Call, in memoryInput) (string, error) {
	root, err := memory(h)
	if err != nil {
		return "", err
	}
	defer root.Close()
	p, err := h.entry(in.Path)
	if err != nil {
		return "", err
	}
	old, _ := root.ReadFile(p)
	content := in.Content
	if in.Append {
		content = string(old) + content
	}
	if content == "" {
		return "Removed", root.Remove(p)
	}
	used, err := size(root)
	if err != nil {
		return "", err
	}
	if used-int64(len(old))+int64(len(content)) > h.MemoryBytes {
		return "", fmt.Errorf("the memory is full: %d of %d bytes are used; remove or shorten entries first", used, h.MemoryBytes)
	}
	if dir := path.Dir(p); dir != "." {
		if err := root.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
	}
	if err := root.WriteFile(p+".tmp", []byte(content), 0o600); err != nil {
		return "", err
	}
	return "Kept", root.Rename(p+".tmp", p)
}

func size(root *os.Root) (n int64, err error) {
	err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if st, err := d.Info(); err == nil {
				n += st.Size()
			}
		}
		return err
	})
	return n, err
}

// SetMemory takes in the agent's memory configuration (CFG-11).
func (h *Host) SetMemory(raw json.RawMessage) {
	var c struct {
		Type      string `json:"type"`
		MaxSizeMB int64  `json:"max_size_mb"`
	}
	if json.Unmarshal(raw, &c) == nil && c.MaxSizeMB > 0 {
		h.MemoryBytes, h.FlatMemory = c.MaxSizeMB<<20, c.Type == "flat"
	}
}
