package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"troupe/actors/agent"
	"troupe/cluster/pods"
	"troupe/cluster/runtimetest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// connect reaches the cluster of the suite.
func connect(t *testing.T) kubernetes.Interface {
	t.Helper()
	c, _, err := pods.Connect("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// within is the deadline of one call to the cluster.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// namespace makes one that enforces the restricted Pod Security standard, and removes it afterwards.
func namespace(t *testing.T, c kubernetes.Interface, name string) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + agent.NewUUID()[24:], Labels: map[string]string{
		"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}}}
	if _, err := c.CoreV1().Namespaces().Create(within(t, 10*time.Second), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return ns.Name
}

func small(t *testing.T) pods.Size {
	t.Helper()
	s, err := pods.ReadSize("10m", "1", "32Mi", "512Mi")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// runtime opens a runtime of its own for a test.
func runtime(t *testing.T, o pods.Options) *pods.Runtime {
	t.Helper()
	o.Client, o.Log = connect(t), slog.New(slog.NewTextHandler(io.Discard, nil))
	if o.Installation == "" {
		o.Installation = "e2e"
	}
	if o.Image == "" {
		o.Image = "localhost/testagent:e2e"
	}
	if o.Size.CPURequest.IsZero() {
		o.Size = small(t)
	}
	rt, err := pods.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rt.Close)
	rt.Watch()
	return rt
}

// TestContract is the contract of agent.Runtime on Pods: the same suite as on processes.
func TestContract(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c, "contract")
	runtimetest.Run(t, func(t *testing.T) *runtimetest.Place {
		h := runtimetest.NewHints()
		rt := runtime(t, pods.Options{Namespace: ns, StorageClass: "dir", OnChange: h.Changed})
		return &runtimetest.Place{Runtime: rt, Changed: h.Wait, Volume: func(id agent.ID, name string) string { return onNode(t, c, ns, id, name) }}
	})
}

// onNode reads a file of an agent's workspace where its volume lies; volumes of class dir are directories of this machine.
func onNode(t *testing.T, c kubernetes.Interface, ns string, id agent.ID, name string) string {
	t.Helper()
	claim, err := c.CoreV1().PersistentVolumeClaims(ns).Get(within(t, 10*time.Second), agent.PodName(id), metav1.GetOptions{})
	if err != nil || claim.Spec.VolumeName == "" {
		return ""
	}
	pv, err := c.CoreV1().PersistentVolumes().Get(within(t, 10*time.Second), claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(pv.Spec.Local.Path, "workspace", name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

func podSpec(incarnation int64) agent.PodSpec {
	id := agent.ID(agent.NewUUID())
	return agent.PodSpec{Agent: id, Incarnation: incarnation, Name: agent.PodName(id), Env: map[string]agent.Secret{"AGENT_UUID": agent.NewSecret(string(id))}, SizeBytes: 1 << 30}
}

// observe waits until what is observed fits.
func observe(t *testing.T, rt *pods.Runtime, id agent.ID, what string, ok func(agent.Observation) bool) agent.Observation {
	t.Helper()
	ctx := within(t, 2*time.Minute)
	for {
		o, err := rt.Observe(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if ok(o) {
			return o
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: still %+v", what, o)
		case <-time.After(50 * time.Millisecond): // the outside world, polled
		}
	}
}

func start(t *testing.T, rt *pods.Runtime, s agent.PodSpec) {
	t.Helper()
	if err := rt.Start(within(t, 30*time.Second), s); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, rt *pods.Runtime, id agent.ID) {
	t.Helper()
	if err := rt.Delete(within(t, time.Minute), id); err != nil {
		t.Error(err)
	}
}

// TestPOD_2_TheDefaultsByteForByte reads a Pod of the defaults back from the API server, in a namespace that enforces the restricted
// Pod Security standard.
func TestPOD_2_TheDefaultsByteForByte(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c, "defaults")
	size, err := pods.ReadSize("", "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	rt := runtime(t, pods.Options{Namespace: ns, Size: size})
	s := podSpec(1)
	start(t, rt, s)
	p, err := c.CoreV1().Pods(ns).Get(within(t, 10*time.Second), agent.PodName(s.Agent), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	claim, err := c.CoreV1().PersistentVolumeClaims(ns).Get(within(t, 10*time.Second), agent.PodName(s.Agent), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Spec.NodeName = "" // set by whoever is faster
	got, err := json.MarshalIndent(map[string]any{"pod": p.Spec, "volume": claim.Spec.Resources, "modes": claim.Spec.AccessModes}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(string(s.Agent), "AGENT", ns, "NAMESPACE").Replace(string(got)) + "\n"
	if *update {
		if err := os.WriteFile("testdata/defaults.json", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/defaults.json")
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("the Pod differs from testdata/defaults.json:\n%s", text)
	}
	remove(t, rt, s.Agent)
}

func TestPOD_8_AnUnschedulablePodIsReportedAsSuch(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c, "unschedulable")
	size, err := pods.ReadSize("1000", "1000", "32Mi", "64Mi")
	if err != nil {
		t.Fatal(err)
	}
	rt := runtime(t, pods.Options{Namespace: ns, Size: size})
	s := podSpec(1)
	start(t, rt, s)
	o := observe(t, rt, s.Agent, "the scheduler has looked", func(o agent.Observation) bool { return o.Reason != "" })
	if o.Phase != agent.PhaseStarting || !strings.HasPrefix(o.Reason, "Unschedulable: ") || !strings.Contains(o.Reason, "Insufficient cpu") {
		t.Errorf("%+v", o)
	}
	remove(t, rt, s.Agent)
}

func TestPOD_8_AQuotaThatRefusesAPodIsReportedAsSuch(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c, "quota")
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: {}}}}
	if _, err := c.CoreV1().ResourceQuotas(ns).Create(within(t, 10*time.Second), q, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); len(q.Status.Used) == 0; time.Sleep(100 * time.Millisecond) { // until it is counted
		if got, err := c.CoreV1().ResourceQuotas(ns).Get(within(t, 10*time.Second), "none", metav1.GetOptions{}); err == nil {
			q = got
		}
		if time.Now().After(end) {
			t.Fatal("the quota is not counted")
		}
	}
	rt := runtime(t, pods.Options{Namespace: ns})
	s := podSpec(1)
	err := rt.Start(within(t, 10*time.Second), s)
	for end := time.Now().Add(20 * time.Second); err != nil && strings.Contains(err.Error(), "status unknown") && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		err = rt.Start(within(t, 10*time.Second), s) // the admission has not seen the count yet
	}
	if err == nil || !strings.Contains(err.Error(), "exceeded quota: none") {
		t.Errorf("a full quota: %v", err)
	}
	if err := c.CoreV1().ResourceQuotas(ns).Delete(within(t, 10*time.Second), "none", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	start(t, rt, s) // the volume of the first attempt is used
	observe(t, rt, s.Agent, "it runs", func(o agent.Observation) bool { return o.Phase == agent.PhaseUp })
	remove(t, rt, s.Agent)
}
