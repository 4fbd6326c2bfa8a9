package runnerproto

// What the control plane and the file server of a runner say to each other about files (semantics.md §25). Paths are relative to the
// workspace and clean; "." is the workspace itself. Times are RFC 3339.

// FileContent is a file as JSON carries it.
type FileContent struct {
	Path       string `json:"path"`
	Content    string `json:"content"`
	Encoding   string `json:"encoding"`
	Size       int64  `json:"size"`
	MimeType   string `json:"mime_type"`
	ModifiedAt string `json:"modified_at,omitempty"`
}

// FileMade is a file or directory after a change.
type FileMade struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
	At   string `json:"at"`
}

// Listing is a directory.
type Listing struct {
	Path      string      `json:"path"`
	Entries   []ListEntry `json:"entries"`
	Truncated bool        `json:"truncated,omitempty"`
}

// ListEntry is one name of a Listing.
type ListEntry struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Size       int64  `json:"size"`
	ModifiedAt string `json:"modified_at"`
}

// Transfer is one copy or move.
type Transfer struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Overwrite   bool   `json:"overwrite,omitempty"`
}

// Search is a search by name and content.
type Search struct {
	Query         string `json:"query"`
	Type          string `json:"type"`
	Path          string `json:"path"`
	FilePattern   string `json:"file_pattern,omitempty"`
	CaseSensitive bool   `json:"case_sensitive,omitempty"`
	IncludeHidden bool   `json:"include_hidden,omitempty"`
	MaxResults    int    `json:"max_results"`
}

// Found is what a search has found.
type Found struct {
	Results   []Match `json:"results"`
	Total     int     `json:"total"`
	Truncated bool    `json:"truncated,omitempty"`
}

// Match is one file of it.
type Match struct {
	Path    string   `json:"path"`
	Type    string   `json:"type"`
	Size    int64    `json:"size"`
	Matches []string `json:"matches,omitempty"`
}

// Metadata describes a file or directory.
type Metadata struct {
	Path        string   `json:"path"`
	Type        string   `json:"type"`
	Size        int64    `json:"size"`
	Permissions string   `json:"permissions"`
	Owner       string   `json:"owner,omitempty"`
	Group       string   `json:"group,omitempty"`
	Tags        []string `json:"tags,omitempty"`
	CreatedAt   string   `json:"created_at"`
	ModifiedAt  string   `json:"modified_at"`
}

// MetadataChange names what is to be changed; nil and "" leave what is there.
type MetadataChange struct {
	Mode  *uint32  `json:"mode,omitempty"`
	Owner string   `json:"owner,omitempty"`
	Group string   `json:"group,omitempty"`
	Tags  []string `json:"tags"` // nil: as they are
}

// FileCall is one call of the file server. Op is the operation as the API names it (readFile, createFile, …); the other members are
// those that it needs.
type FileCall struct {
	Op        string         `json:"op"`
	Path      string         `json:"path,omitempty"`
	Encoding  string         `json:"encoding,omitempty"`
	Content   []byte         `json:"content,omitempty"`
	Mode      *uint32        `json:"mode,omitempty"` // nil: as it is
	Overwrite bool           `json:"overwrite,omitempty"`
	Recursive bool           `json:"recursive,omitempty"`
	Hidden    bool           `json:"hidden,omitempty"`
	Operation string         `json:"operation,omitempty"` // of patchFile
	Position  int64          `json:"position,omitempty"`
	Length    int64          `json:"length,omitempty"` // -1: that of the content
	Transfers []Transfer     `json:"transfers,omitempty"`
	Search    Search         `json:"search,omitzero"`
	Metadata  MetadataChange `json:"metadata,omitzero"`
	Archive   Archive        `json:"archive,omitzero"`
}

// Names returns every path that the call names.
func (c *FileCall) Names() (out []string) {
	for _, p := range append([]string{c.Path, c.Search.Path, c.Archive.Output}, c.Archive.Paths...) {
		if p != "" {
			out = append(out, p)
		}
	}
	for _, t := range c.Transfers {
		if t.Source != "" && t.Destination != "" { // one that could not be read fails by itself
			out = append(out, t.Source, t.Destination)
		}
	}
	return out
}

// Archive is what createArchive and extractArchive need besides.
type Archive struct {
	Paths  []string `json:"paths,omitempty"`
	Output string   `json:"output"` // the archive, or the directory it is unpacked to
	Format string   `json:"format,omitempty"`
	Level  int      `json:"level,omitempty"`
}

// Archived is a packed archive.
type Archived struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Format string `json:"format"`
}

// Extracted is an unpacked one.
type Extracted struct {
	Destination string `json:"destination"`
	Files       int    `json:"files_extracted"`
}
