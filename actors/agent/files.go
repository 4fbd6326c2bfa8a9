package agent

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"troupe/actors/fault"
	"troupe/actors/field"
)

// File is one file of a create or update request, decoded. Path is relative to the workspace root and clean.
type File struct {
	Path    string `json:"path"`
	Content []byte `json:"content"`
}

// FileChange is the set of file operations of one update; it is applied whole or not at all (FILE-1).
type FileChange struct {
	Add    []File   `json:"add,omitempty"`
	Update []File   `json:"update,omitempty"`
	Delete []string `json:"delete,omitempty"`
}

// Empty says whether there is nothing to do.
func (c FileChange) Empty() bool { return len(c.Add)+len(c.Update)+len(c.Delete) == 0 }

// WorkspacePath cleans a path of the API to one relative to the workspace root: empty segments and "." are dropped,
// ".." is resolved, a leading "workspace" is the root. The root itself is "." (FS-1).
// Errors: fault.Forbidden path_outside_workspace, fault.Invalid for NUL and lengths.
func WorkspacePath(p string) (string, error) {
	if len(p) > MaxPathBytes {
		return "", fault.Newf(fault.Invalid, "validation_failed", "path must have at most %d bytes", MaxPathBytes)
	}
	if strings.ContainsRune(p, 0) || !utf8.ValidString(p) {
		return "", fault.New(fault.Invalid, "validation_failed", "path must be UTF-8 without NUL")
	}
	var out []string
	first := true
	for _, seg := range strings.Split(p, "/") {
		if seg == "" || seg == "." {
			continue
		}
		if first && seg == "workspace" {
			first = false
			continue
		}
		first = false
		if len(seg) > MaxSegmentBytes {
			return "", fault.Newf(fault.Invalid, "validation_failed", "path segments must have at most %d bytes", MaxSegmentBytes)
		}
		if seg != ".." {
			out = append(out, seg)
			continue
		}
		if len(out) == 0 {
			return "", fault.New(fault.Forbidden, "path_outside_workspace", "The path leads outside the workspace")
		}
		out = out[:len(out)-1]
	}
	if len(out) == 0 {
		return ".", nil
	}
	return strings.Join(out, "/"), nil
}

// ReadFileContent reads the members "content" and "encoding" of a file (FILE-5).
func ReadFileContent(r field.Reader) (content []byte, ok bool) {
	enc, _ := r.String("encoding", field.Text{Enum: []string{"utf-8", "base64"}})
	text, ok := r.String("content", field.Text{AllowNUL: true})
	if !ok || enc != "base64" {
		return []byte(text), ok
	}
	content, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		r.Fail("content", "must be standard base64 with padding")
		return nil, false
	}
	return content, true
}

// readFiles reads an array of file objects; paths seen before are reported as repeated (FILE-1).
func readFiles(r field.Reader, name string, seen map[string]bool) []File {
	items, ok := r.Array(name, MaxFiles)
	if !ok {
		return nil
	}
	var out []File
	for i := range items {
		fr := r.Item(name, i, &items[i])
		fr.Only("path", "content", "encoding")
		fr.Require("path", "content")
		path, okPath := readPath(fr, "path", seen)
		content, okContent := ReadFileContent(fr)
		if !okPath || !okContent {
			continue
		}
		if len(content) > MaxFileBytes {
			fr.Fail("content", fmt.Sprintf("must have at most %d bytes after decoding", MaxFileBytes))
			continue
		}
		out = append(out, File{Path: path, Content: content})
	}
	return out
}

func readPath(r field.Reader, name string, seen map[string]bool) (string, bool) {
	raw, ok := r.String(name, field.Text{Min: 1, Max: MaxPathBytes})
	if !ok {
		return "", false
	}
	path, err := WorkspacePath(raw)
	switch {
	case err != nil:
		f := fault.Of(err)
		r.FailCode(name, f.Message, f.Code)
	case path == ".":
		r.Fail(name, "must name a file")
	case seen[path]:
		r.Fail(name, "names a file that is listed before")
	case below(path, seen):
		r.Fail(name, "lies below or above a file that is listed before")
	default:
		seen[path] = true
		for i := range path { // every directory above it, marked as such
			if path[i] == '/' {
				seen[path[:i+1]] = true
			}
		}
		return path, true
	}
	return "", false
}

// below says whether path lies below a path seen before, or above one.
func below(path string, seen map[string]bool) bool {
	for dir := path; ; {
		i := strings.LastIndexByte(dir, '/')
		if i < 0 {
			break
		}
		if dir = dir[:i]; seen[dir] {
			return true
		}
	}
	return seen[path+"/"]
}

// readChange reads the member "files" of an update.
func readChange(r field.Reader) FileChange {
	f, ok := r.Object("files", false)
	if !ok {
		return FileChange{}
	}
	f.Only("add", "update", "delete")
	seen := map[string]bool{}
	c := FileChange{Add: readFiles(f, "add", seen), Update: readFiles(f, "update", seen)}
	items, _ := f.Array("delete", MaxFiles)
	for i := range items {
		holder := field.Value{Kind: field.Object, Offset: items[i].Offset,
			Members: []field.Member{{Name: fmt.Sprintf("delete[%d]", i), Value: items[i]}}}
		if p, ok := readPath(field.Read(&holder, f.Path("")[:len(f.Path(""))-1], f.Errors()), fmt.Sprintf("delete[%d]", i), seen); ok {
			c.Delete = append(c.Delete, p)
		}
	}
	if n := len(c.Add) + len(c.Update) + len(c.Delete); n > MaxFiles {
		r.Fail("files", fmt.Sprintf("must hold at most %d operations", MaxFiles))
	}
	return c
}

// ReadChange reads the file operations of a stored update.
func ReadChange(document []byte, set Settings) (FileChange, error) {
	doc, err := field.Parse(document)
	if err != nil {
		return FileChange{}, err
	}
	p, err := ReadUpdate(&doc, set)
	return p.Files, err
}
