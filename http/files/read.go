package files

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/http/api"
	"troupe/http/route"
	"troupe/http/runnerproto"
)

// readBody reads a JSON body and reports all faults at once (ERR-4).
func readBody(c *route.Call, read func(rd field.Reader)) error {
	return readRenamed(c, nil, func(_ *field.Value, rd field.Reader) { read(rd) })
}

func readNothing(*route.Call, *fileCall) error { return nil }

func readRead(c *route.Call, f *fileCall) error {
	q := c.Query()
	f.Encoding = q.Enum("encoding", "", "utf-8", "base64")
	q.Enum("download", "false", "true", "false")
	return q.Err()
}

// readContent reads what is to be written.
func readContent(rd field.Reader) []byte {
	rd.Require("content")
	b, _ := agent.ReadFileContent(rd)
	return b
}

func small(b []byte) error {
	if len(b) > maxFile {
		return fault.New(fault.TooLarge, "file_too_large", "content must have at most 10485760 bytes after decoding").At("content", "must have at most 10485760 bytes after decoding")
	}
	return nil
}

// readMode reads octal permissions (FS-11).
func readMode(rd field.Reader, fallback uint32) *uint32 {
	s, ok := rd.String("permissions", field.Text{})
	if !ok {
		return &fallback
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || len(s) < 3 || len(s) > 4 || n > chmodBits {
		rd.Fail("permissions", "must be three octal digits, 000 to 777")
	}
	mode := uint32(n)
	return &mode
}

// at names the instant of a change as the operation does.
func at(name string, size bool) func(json.RawMessage) (any, error) {
	return func(raw json.RawMessage) (any, error) {
		var m runnerproto.FileMade
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, err
		}
		out := map[string]any{"path": m.Path, name: m.At}
		if size {
			out["size"] = m.Size
		}
		return out, nil
	}
}

func says(text string) func(json.RawMessage) (any, error) {
	return func(json.RawMessage) (any, error) { return api.MessageResult{Message: text}, nil }
}

func readCreate(c *route.Call, f *fileCall) error {
	f.status, f.show = 201, at("created_at", true)
	err := readBody(c, func(rd field.Reader) {
		f.Content, f.Mode = readContent(rd), readMode(rd, defaultFile)
		f.Overwrite, _ = rd.Bool("overwrite")
	})
	if err != nil {
		return err
	}
	return small(f.Content)
}

func readUpdate(c *route.Call, f *fileCall) error {
	f.show = at("updated_at", true)
	err := readBody(c, func(rd field.Reader) {
		if f.Content = readContent(rd); rd.Has("permissions") {
			f.Mode = readMode(rd, 0)
		}
	})
	if err != nil {
		return err
	}
	return small(f.Content)
}

func readPatch(c *route.Call, f *fileCall) error {
	f.show = at("updated_at", true)
	err := readBody(c, func(rd field.Reader) {
		rd.Require("operation")
		f.Operation, _ = rd.String("operation", field.Text{Enum: []string{"append", "prepend", "insert", "replace"}})
		f.Content = readContent(rd)
		f.Position, _ = rd.Int("position", 0, 1<<53, false)
		if n, ok := rd.Int("length", 0, 1<<53, false); ok {
			f.Length = n
		}
	})
	if err != nil {
		return err
	}
	return small(f.Content)
}

func readDelete(_ *route.Call, f *fileCall) error {
	f.show = says("File deleted successfully")
	return nil
}

func readList(c *route.Call, f *fileCall) error {
	q := c.Query()
	f.Recursive = q.Enum("recursive", "false", "true", "false") == "true"
	f.Hidden = q.Enum("includeHidden", "false", "true", "false") == "true"
	return q.Err()
}

func readMakeDir(c *route.Call, f *fileCall) error {
	f.status, f.show, f.Recursive = 201, at("created_at", false), true
	return readBody(c, func(rd field.Reader) {
		if deep, ok := rd.Bool("recursive"); ok {
			f.Recursive = deep
		}
		f.Mode = readMode(rd, defaultDir)
	})
}

func readRemoveDir(c *route.Call, f *fileCall) error {
	f.show = says("Directory deleted successfully")
	if err := readBody(c, func(rd field.Reader) { f.Recursive, _ = rd.Bool("recursive") }); err != nil {
		return err
	}
	q := c.Query()
	f.Recursive = q.Enum("recursive", strconv.FormatBool(f.Recursive), "true", "false") == "true"
	return q.Err()
}

// readTransfers reads one operation, or a list of them. A path that leads nowhere fails its operation only (FS-7).
func readTransfers(c *route.Call, f *fileCall) error {
	var sent []runnerproto.Transfer
	one := func(rd field.Reader) {
		rd.Require("source", "destination")
		t := runnerproto.Transfer{}
		t.Source, _ = rd.String("source", field.Text{Min: 1, Max: agent.MaxPathBytes})
		t.Destination, _ = rd.String("destination", field.Text{Min: 1, Max: agent.MaxPathBytes})
		t.Overwrite, _ = rd.Bool("overwrite")
		sent = append(sent, t)
	}
	err := readBody(c, func(rd field.Reader) {
		if !rd.Has("operations") {
			one(rd)
			return
		}
		items, ok := rd.Array("operations", maxTransfers)
		if ok && len(items) == 0 {
			rd.Fail("operations", "must have at least 1 entry")
		}
		for i := range items {
			one(rd.Item("operations", i, &items[i]))
		}
	})
	if err != nil {
		return err
	}
	clean := func(p *string) string {
		rel, err := agent.WorkspacePath(*p)
		if err != nil {
			return ""
		}
		*p = path.Join("/workspace", rel)
		return rel
	}
	for i := range sent {
		f.Transfers = append(f.Transfers, runnerproto.Transfer{Source: clean(&sent[i].Source), Destination: clean(&sent[i].Destination), Overwrite: sent[i].Overwrite})
	}
	f.show = func(raw json.RawMessage) (any, error) {
		var failed []string
		if err := json.Unmarshal(raw, &failed); err != nil || len(failed) != len(sent) {
			return nil, fmt.Errorf("results of %d operations: %w", len(sent), err)
		}
		out := api.FileTransferResult{Results: []api.FileTransferred{}}
		for i, t := range sent {
			out.Results = append(out.Results, api.FileTransferred{Source: t.Source, Destination: t.Destination, Success: failed[i] == "", Error: failed[i]})
		}
		return out, nil
	}
	return nil
}

// renamed gives the members of a body their present names before it is checked (FS-12). Of two spellings the present one wins.
func renamed(doc *field.Value, names map[string]string) {
	doc.Members = slices.DeleteFunc(doc.Members, func(m field.Member) bool {
		_, both := doc.Get(names[m.Name])
		return names[m.Name] != "" && both
	})
	for i := range doc.Members {
		if now := names[doc.Members[i].Name]; now != "" {
			doc.Members[i].Name = now
		}
	}
}

// readRenamed is readBody for bodies with older names.
func readRenamed(c *route.Call, names map[string]string, read func(doc *field.Value, rd field.Reader)) error {
	doc, err := c.Doc()
	if err != nil {
		return err
	}
	errs := &field.Errors{}
	renamed(doc, names)
	read(doc, field.Read(doc, "", errs))
	return errs.Err()
}

// within reads a path of the workspace.
func within(rd field.Reader, name string, out *string, outside *error) {
	s, ok := rd.String(name, field.Text{Min: 1, Max: agent.MaxPathBytes})
	if !ok {
		return
	}
	p, err := agent.WorkspacePath(s)
	switch {
	case fault.Is(err, fault.Forbidden):
		*outside = err
	case err != nil:
		rd.Fail(name, fault.Of(err).Message)
	default:
		*out = p
	}
}

func readSearch(c *route.Call, f *fileCall) error {
	f.Search = runnerproto.Search{Type: "both", Path: ".", MaxResults: 100}
	var outside error
	err := readRenamed(c, map[string]string{"file_pattern": "filePattern", "case_sensitive": "caseSensitive", "max_results": "maxResults", "include_hidden": "includeHidden"}, func(doc *field.Value, rd field.Reader) {
		if _, old := doc.Get("pattern"); old && !rd.Has("query") {
			renamed(doc, map[string]string{"pattern": "query"})
			f.Search.Type = "filename"
			if deep, _ := rd.Bool("content_search"); deep {
				f.Search.Type = "content"
			}
		} else if deep, _ := rd.Bool("content_search"); deep {
			f.Search.Type = "content"
		}
		rd.Require("query")
		f.Search.Query, _ = rd.String("query", field.Text{Min: 1, Max: 1000})
		if t, ok := rd.String("type", field.Text{Enum: []string{"filename", "content", "both"}}); ok {
			f.Search.Type = t
		}
		within(rd, "path", &f.Search.Path, &outside)
		f.Search.FilePattern, _ = rd.String("filePattern", field.Text{Min: 1, Max: 1000})
		f.Search.CaseSensitive, _ = rd.Bool("caseSensitive")
		f.Search.IncludeHidden, _ = rd.Bool("includeHidden")
		if n, ok := rd.Int("maxResults", 1, 1000, false); ok {
			f.Search.MaxResults = int(n)
		}
	})
	if err != nil {
		return err
	}
	return outside
}

func readMetadata(c *route.Call, f *fileCall) error {
	return readBody(c, func(rd field.Reader) {
		if !rd.Has("permissions") && !rd.Has("owner") && !rd.Has("group") && !rd.Has("tags") {
			rd.Fail("permissions", "or owner, group or tags is required")
		}
		if rd.Has("permissions") {
			f.Metadata.Mode = readMode(rd, 0)
		}
		f.Metadata.Owner, _ = rd.String("owner", field.Text{Min: 1, Max: 64})
		f.Metadata.Group, _ = rd.String("group", field.Text{Min: 1, Max: 64})
		items, ok := rd.Array("tags", 50)
		if !ok {
			return
		}
		f.Metadata.Tags = []string{}
		for i := range items {
			if t := (field.Text{Min: 1, Max: 100}); items[i].Kind != field.String || t.Check(items[i].Text) != "" {
				rd.Fail(fmt.Sprintf("tags[%d]", i), "must be a string of 1 to 100 characters")
				continue
			}
			f.Metadata.Tags = append(f.Metadata.Tags, items[i].Text)
		}
	})
}

func readPack(c *route.Call, f *fileCall) error {
	f.status = 201
	f.Archive = runnerproto.Archive{Format: "tar.gz", Level: 6}
	var outside error
	err := readRenamed(c, map[string]string{"output_path": "outputPath", "compression_level": "compressionLevel"}, func(_ *field.Value, rd field.Reader) {
		rd.Require("paths", "outputPath")
		items, ok := rd.Array("paths", maxTransfers)
		if ok && len(items) == 0 {
			rd.Fail("paths", "must have at least 1 entry")
		}
		for i := range items {
			name := fmt.Sprintf("paths[%d]", i)
			holder := field.Value{Kind: field.Object, Offset: items[i].Offset, Members: []field.Member{{Name: name, Value: items[i]}}}
			p := ""
			within(field.Read(&holder, "", rd.Errors()), name, &p, &outside)
			f.Archive.Paths = append(f.Archive.Paths, p)
		}
		within(rd, "outputPath", &f.Archive.Output, &outside)
		if f.Archive.Output == "." {
			rd.Fail("outputPath", "must name a file")
		}
		if s, ok := rd.String("format", field.Text{Enum: []string{"zip", "tar", "tar.gz", "tar.bz2"}}); ok {
			f.Archive.Format = s
		}
		if n, ok := rd.Int("compressionLevel", 0, 9, false); ok {
			f.Archive.Level = int(n)
		}
	})
	if err != nil {
		return err
	}
	return outside
}

func readUnpack(c *route.Call, f *fileCall) error {
	var outside error
	err := readRenamed(c, map[string]string{"archive_path": "archivePath", "destination": "outputPath", "output_path": "outputPath"}, func(_ *field.Value, rd field.Reader) {
		rd.Require("archivePath", "outputPath")
		within(rd, "archivePath", &f.Path, &outside)
		within(rd, "outputPath", &f.Archive.Output, &outside)
		f.Overwrite, _ = rd.Bool("overwrite")
	})
	if err != nil {
		return err
	}
	return outside
}
