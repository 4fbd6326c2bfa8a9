package api

// FilesystemSummary is the size of the workspace.
type FilesystemSummary struct {
	TotalFiles   int64   `json:"total_files"`
	TotalSizeMB  float64 `json:"total_size_mb"`
	LastModified *string `json:"last_modified"`
}

// FileTransferResult is the outcome of copies or moves, in request order.
type FileTransferResult struct {
	Results []FileTransferred `json:"results"`
}

// FileTransferred is the outcome of one of them.
type FileTransferred struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Success     bool   `json:"success"`
	Error       string `json:"error,omitempty"`
}
