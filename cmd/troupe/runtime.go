package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/cluster/pods"
	"troupe/cluster/process"
)

// runtime is where this node's agents run.
type runtime interface {
	agent.Runtime
	Describe() string
	Close()
}

const (
	runtimeProcess    = "process"
	runtimeKubernetes = "kubernetes"
)

// openRuntime opens the configured one.
func (n *node) openRuntime() (err error) {
	changed := func(id agent.ID) { n.agents.Observe(id) }
	if n.cfg.Runtime == runtimeProcess {
		rt, err := process.New(process.Options{Dir: n.cfg.DataDir, Runner: n.cfg.Runner, Limit: n.cfg.ProcessLimit, Sandbox: process.Mode(n.cfg.Sandbox),
			Log: n.log, OnChange: changed, OnRoom: func(id agent.ID) { n.agents.Yield(id) }})
		if err == nil {
			n.runtime, n.watch = rt, func() {}
		}
		return err
	}
	o, err := n.cfg.pods(n.log)
	if err != nil {
		return err
	}
	o.OnChange, o.Counted = changed, n.metrics.Kubernetes
	rt, err := pods.New(o)
	if err != nil {
		return err
	}
	n.runtime, n.watch, n.reachable = rt, rt.Watch, rt.Ping
	n.sweep = func(ctx context.Context) {
		found, err := rt.Sweep(ctx, n.wanted, n.cfg.OrphanGrace)
		n.metrics.orphans.Set(float64(found.Volumes))
		if err != nil {
			n.log.Warn("sweep of orphans", "err", err)
		}
	}
	return nil
}

// pods are the options of the Kubernetes runtime.
func (c *Config) pods(log *slog.Logger) (o pods.Options, err error) {
	o = pods.Options{Namespace: c.PodNamespace, Installation: c.Installation, Image: c.PodImage, PullPolicy: c.PodPullPolicy, PullSecrets: c.PodPullSecrets,
		StorageClass: c.PodStorageClass, RuntimeClass: c.PodRuntimeClass, Priority: c.PodPriorityClass, Unreachable: c.PodUnreachable, Log: log}
	if o.Size, err = pods.ReadSize(c.PodCPURequest, c.PodCPULimit, c.PodMemRequest, c.PodMemLimit); err != nil {
		return o, err
	}
	if o.NodeSelector, err = selector(c.PodNodeSelector); err != nil {
		return o, err
	}
	if o.Tolerations, err = tolerations(c.PodTolerations); err != nil {
		return o, err
	}
	client, namespace, err := pods.Connect(c.Kubeconfig, version)
	if o.Namespace == "" {
		o.Namespace = namespace
	}
	o.Client = client
	return o, err
}

func selector(pairs []string) (map[string]string, error) {
	var out map[string]string
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("a label must be name=value, not %q", p)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	return out, nil
}

func tolerations(text string) (out []corev1.Toleration, err error) {
	if text != "" {
		err = yaml.UnmarshalStrict([]byte(text), &out)
	}
	return out, err
}

// checkPods adds what is wrong with the settings of the Kubernetes runtime.
func (c *Config) checkPods(bad func(name, format string, args ...any)) {
	if c.PodImage == "" {
		bad("TROUPE_POD_IMAGE", "must be set when agents run on Kubernetes: the image of the runner")
	}
	switch corev1.PullPolicy(c.PodPullPolicy) {
	case "", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		bad("TROUPE_POD_PULL_POLICY", "must be Always, IfNotPresent or Never")
	}
	if _, err := pods.ReadSize(c.PodCPURequest, c.PodCPULimit, c.PodMemRequest, c.PodMemLimit); err != nil {
		bad("TROUPE_POD_CPU_REQUEST and its like", "are wrong: %v", err)
	}
	if _, err := selector(c.PodNodeSelector); err != nil {
		bad("TROUPE_POD_NODE_SELECTOR", "is wrong: %v", err)
	}
	if _, err := tolerations(c.PodTolerations); err != nil {
		bad("TROUPE_POD_TOLERATIONS", "must be a YAML or JSON list of tolerations: %v", err)
	}
}

// wanted says what the store knows of an agent, for the sweep.
func (n *node) wanted(ctx context.Context, id agent.ID) (exists bool, incarnation int64, err error) {
	sn, err := n.st.Load(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return false, 0, nil
	}
	return err == nil, sn.Figures.Incarnation, err
}

// sweepWithin bounds one sweep; the next one begins after it.
const sweepWithin = 10 * time.Minute

// sweeps looks for orphans now and then. One member does it: the first of the list; two for a moment do no harm.
func (n *node) sweeps() {
	defer n.wg.Done()
	t := time.NewTicker(n.cfg.SweepEvery)
	defer t.Stop()
	for {
		select {
		case <-n.quit:
			return
		case <-t.C:
		}
		v := n.cluster.Provider.View()
		if len(v.Members) == 0 || v.Members[0].ID != n.cluster.Provider.Self().ID || !n.cluster.Provider.Held() {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), sweepWithin)
		n.sweep(ctx)
		cancel()
	}
}
