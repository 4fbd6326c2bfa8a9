package pods

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"troupe/actors/agent"
)

// observation reads a Pod. One that is being deleted is there until it is gone (POD-1).
func (r *Runtime) observation(p *corev1.Pod) agent.Observation {
	o := agent.Observation{Agent: agent.ID(p.Labels[LabelAgent]), Incarnation: incarnation(p), Name: p.Name, Node: p.Spec.NodeName}
	switch p.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed:
		o.Phase, o.Reason = agent.PhaseGone, why(p)
	case corev1.PodRunning:
		o.Phase, o.Reason = agent.PhaseUp, held(p)
	default:
		o.Phase, o.Reason = agent.PhaseStarting, held(p)
	}
	return o
}

// disruptions are Kubernetes' names for ends that were not the runner's doing.
var disruptions = map[string]string{"EvictionByEvictionAPI": "evicted", "PreemptionByScheduler": "preempted", "DeletionByTaintManager": "node lost",
	"DeletionByPodGC": "node lost", "TerminationByKubelet": "evicted"}

func disrupted(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			if short := disruptions[c.Reason]; short != "" {
				return short
			}
			return c.Reason
		}
	}
	return ""
}

// why says how a Pod came to its end.
func why(p *corev1.Pod) string {
	if s := disrupted(p); s != "" {
		return s
	}
	if p.Status.Reason != "" {
		return p.Status.Reason
	}
	for _, c := range p.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil {
			if t.ExitCode == 0 {
				return "ended"
			}
			return t.Reason + ", exit code " + strconv.Itoa(int(t.ExitCode))
		}
	}
	return "crashed"
}

// held says what keeps a Pod from running; "" when nothing does.
func held(p *corev1.Pod) string {
	if s := disrupted(p); s != "" {
		return s
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return bounded(c.Reason, c.Message)
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			return bounded(w.Reason, w.Message)
		}
	}
	return ""
}

func bounded(reason, message string) string {
	if message == "" {
		return reason
	}
	if len(message) > 300 {
		message = strings.ToValidUTF8(message[:300], "") + "…"
	}
	return reason + ": " + message
}

// Serves says whether an agent's file server may be where its runner says: at the Pod's address, as far as that is known here already
// (the kubelet reports it after the container has started), and at the one port in any case. So a runner cannot aim a node's calls at
// other machines' services.
func (r *Runtime) Serves(id agent.ID, n int64, endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" || u.Port() != strconv.Itoa(FilesPort) || u.User != nil || u.Path != "" || u.RawQuery != "" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil || ip.IsLoopback() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() {
		return false
	}
	p, err := r.pods.Get(agent.PodName(id))
	if err != nil || incarnation(p) != n || len(p.Status.PodIPs) == 0 {
		return true
	}
	for _, known := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(known.IP); err == nil && a == ip {
			return true
		}
	}
	return false
}
