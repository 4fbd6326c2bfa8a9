package api

// Health is the short health.
type Health struct {
	Status   string `json:"status"`
	Database string `json:"database"`
}

// DependencyHealth is the health of one dependency.
type DependencyHealth struct {
	Status    string   `json:"status"`
	LatencyMS *float64 `json:"latency_ms"`
}

// DeepHealth is the health with dependencies.
type DeepHealth struct {
	Status     string            `json:"status"`
	Database   DependencyHealth  `json:"database"`
	Cluster    *DependencyHealth `json:"cluster,omitempty"`
	Kubernetes *DependencyHealth `json:"kubernetes,omitempty"`
	Timestamp  string            `json:"timestamp"`
}

// Cluster is the state of the cluster as one node sees it.
type Cluster struct {
	Name        string          `json:"cluster_name"`
	Node        string          `json:"node"`
	GeneratedAt string          `json:"generated_at"`
	Members     []ClusterMember `json:"members"`
	Grains      map[string]int  `json:"grains"`
	Shards      []ClusterShard  `json:"shards"`
}

// ClusterMember is one node of the cluster.
type ClusterMember struct {
	ID        string         `json:"id"`
	Address   string         `json:"address"`
	Status    string         `json:"status"`
	Version   string         `json:"version"`
	StartedAt string         `json:"started_at"`
	Kinds     []string       `json:"kinds"`
	Grains    map[string]int `json:"grains"`
}

// ClusterShard is one shard of the clock.
type ClusterShard struct {
	Shard          int     `json:"shard"`
	Owner          *string `json:"owner"`
	Epoch          int64   `json:"epoch"`
	LeaseExpiresAt *string `json:"lease_expires_at"`
}
