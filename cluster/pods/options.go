package pods

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"troupe/actors/agent"
)

// Options configure a runtime.
type Options struct {
	Client       kubernetes.Interface
	Namespace    string // where the agents' objects live
	Installation string // name of this installation; others in the same namespace are left alone
	Image        string // of the runner
	PullPolicy   string // "": Kubernetes' own rule
	PullSecrets  []string
	StorageClass string // "": the cluster's default
	RuntimeClass string // "": the node's default; gvisor or kata isolate harder
	Priority     string // PriorityClass; "": the cluster's default
	NodeSelector map[string]string
	Tolerations  []corev1.Toleration
	Size         Size
	Unreachable  time.Duration // after so long a Pod on a node that is silent is given up (POD-1)
	OnChange     func(agent.ID)
	Counted      func(op string, err error) // every call to the API server
	Log          *slog.Logger
	Now          func() time.Time // nil: time.Now
}

// Size is what a Pod asks for and may use (POD-2).
type Size struct {
	CPURequest, CPULimit, MemoryRequest, MemoryLimit resource.Quantity
	Scratch                                          resource.Quantity // of /tmp
}

// DefaultUnreachable is how long a node must be silent before a Pod on it is given up (POD-1).
const DefaultUnreachable = 5 * time.Minute

// ReadSize reads quantities; what is empty gets the default of POD-2.
func ReadSize(cpuRequest, cpuLimit, memoryRequest, memoryLimit string) (s Size, err error) {
	read := func(dst *resource.Quantity, name, text, otherwise string) {
		if text == "" {
			text = otherwise
		}
		q, perr := resource.ParseQuantity(text)
		if perr != nil || q.Sign() <= 0 {
			err = errors.Join(err, fmt.Errorf("the %s must be a Kubernetes quantity above 0, not %q", name, text))
		}
		*dst = q
	}
	read(&s.CPURequest, "CPU request", cpuRequest, "250m")
	read(&s.CPULimit, "CPU limit", cpuLimit, "1")
	read(&s.MemoryRequest, "memory request", memoryRequest, "512Mi")
	read(&s.MemoryLimit, "memory limit", memoryLimit, "2Gi")
	read(&s.Scratch, "scratch size", "", "1Gi")
	if err == nil && (s.CPURequest.Cmp(s.CPULimit) > 0 || s.MemoryRequest.Cmp(s.MemoryLimit) > 0) {
		err = errors.New("a request must not be above its limit")
	}
	return s, err
}

// Connect reaches the API server: with the kubeconfig at path, else as a Pod of the cluster, else as kubectl would. It returns the
// namespace of those credentials too.
func Connect(path, version string) (kubernetes.Interface, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	load := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil)
	cfg, err := load.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("no way to a Kubernetes API server: %w", err)
	}
	ns, _, err := load.Namespace()
	if err != nil {
		return nil, "", err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = callsPerSecond, 2*callsPerSecond
	cfg.UserAgent = "troupe/" + version
	cfg.ContentType, cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	c, err := kubernetes.NewForConfig(cfg)
	return c, ns, err
}

// callsPerSecond bounds what one node asks of the API server; a start takes three calls.
const callsPerSecond = 200
