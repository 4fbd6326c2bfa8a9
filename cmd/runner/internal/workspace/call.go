package workspace

import (
	"context"
	"io/fs"
	"path"

	"troupe/http/runnerproto"
)

// Call runs one operation of the filesystem API and returns its result.
func (w *Workspace) Call(ctx context.Context, c *runnerproto.FileCall) (any, error) {
	for _, p := range c.Names() { // the caller has cleaned them
		if !fs.ValidPath(p) {
			return nil, &Refusal{403, "path_outside_workspace", "The path leads outside the workspace"}
		}
	}
	mode := fs.FileMode(0o644)
	if c.Mode != nil {
		mode = fs.FileMode(*c.Mode).Perm()
	}
	switch c.Op {
	case "readFile":
		return w.Read(c.Path, c.Encoding)
	case "createFile":
		return w.Create(ctx, c.Path, c.Content, mode, c.Overwrite)
	case "updateFile":
		return w.Update(ctx, c.Path, c.Content, c.Mode)
	case "patchFile":
		return w.Patch(ctx, c.Path, c.Operation, c.Content, c.Position, c.Length)
	case "deleteFile":
		return struct{}{}, w.Delete(ctx, c.Path)
	case "listDirectory":
		return w.List(ctx, c.Path, c.Recursive, c.Hidden)
	case "createDirectory":
		return w.MakeDir(ctx, c.Path, c.Recursive, mode)
	case "deleteDirectory":
		return struct{}{}, w.RemoveDir(ctx, c.Path, c.Recursive)
	case "copyFiles":
		return w.Transfer(ctx, false, c.Transfers)
	case "moveFiles":
		return w.Transfer(ctx, true, c.Transfers)
	case "searchFiles":
		return w.Search(ctx, c.Search)
	case "getFileMetadata":
		return w.Metadata(c.Path)
	case "updateFileMetadata":
		return w.SetMetadata(ctx, c.Path, c.Metadata)
	case "createArchive":
		return w.Pack(ctx, c.Archive)
	case "extractArchive":
		return w.Unpack(ctx, c.Path, path.Clean(c.Archive.Output), c.Overwrite)
	}
	return nil, &Refusal{400, "validation_failed", "Unknown operation"}
}
