package e2e

import (
	"context"
	"fmt"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"troupe/actors/agent"
	"troupe/cluster/pods"
)

// TestThousandsOfPods starts and removes many agents' Pods with the defaults of POD-2 on nodes that exist in the API alone: everything
// above the kubelet is real. It prints rates.
func TestThousandsOfPods(t *testing.T) {
	const n, workers = 1000, 32
	c := connect(t)
	nodes, err := c.CoreV1().Nodes().List(within(t, 10*time.Second), metav1.ListOptions{LabelSelector: "kubelab/hollow"})
	if err != nil || len(nodes.Items) == 0 {
		t.Fatalf("no hollow nodes (KUBE_HOLLOW_NODES): %v", err)
	}
	ns := namespace(t, c, "scale")
	mustKubectl(t, "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: hollow}\nprovisioner: kubernetes.io/no-provisioner\nvolumeBindingMode: Immediate\n", "apply", "-f", "-")
	each := func(what string, f func(ctx context.Context, i int) error) time.Duration {
		t.Helper()
		from := time.Now()
		var wg sync.WaitGroup
		var next atomic.Int64
		for range workers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
					ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
					if err := f(ctx, i); err != nil {
						t.Errorf("%s %d: %v", what, i, err)
					}
					cancel()
				}
			}()
		}
		wg.Wait()
		return time.Since(from)
	}
	each("volume", func(ctx context.Context, i int) error { // what a provisioner would make
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("hollow-%d", i)}}
		pv.Spec = corev1.PersistentVolumeSpec{StorageClassName: "hollow", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp/hollow"}},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain}
		_, err := c.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{})
		return err
	})
	defer each("volume", func(ctx context.Context, i int) error {
		return c.CoreV1().PersistentVolumes().Delete(ctx, fmt.Sprintf("hollow-%d", i), metav1.DeleteOptions{})
	})
	size, err := pods.ReadSize("", "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	rt := runtime(t, pods.Options{Namespace: ns, StorageClass: "hollow", Size: size, NodeSelector: map[string]string{"kubelab/hollow": "true"},
		Tolerations: []corev1.Toleration{{Key: "kubelab/hollow", Operator: corev1.TolerationOpExists}}})
	specs := make([]agent.PodSpec, n)
	for i := range specs {
		specs[i] = podSpec(1)
	}
	before := resident()
	starting := each("start", func(ctx context.Context, i int) error { return rt.Start(ctx, specs[i]) })
	from := time.Now()
	for i := range specs {
		observe(t, rt, specs[i].Agent, "it runs", func(o agent.Observation) bool { return o.Phase == agent.PhaseUp })
	}
	rest := time.Since(from)
	after := resident()
	gone := each("delete", func(ctx context.Context, i int) error { return rt.Delete(ctx, specs[i].Agent) })
	t.Logf("%d agents: started in %s (%.0f/s), all observed running %s later, gone with their claims in %s; cache of a node +%.1f MiB",
		n, starting.Round(time.Millisecond), n/starting.Seconds(), rest.Round(time.Millisecond), gone.Round(time.Millisecond), float64(after-before)/(1<<20))
	left, err := c.CoreV1().Pods(ns).List(within(t, 20*time.Second), metav1.ListOptions{})
	if err != nil || len(left.Items) > 0 {
		t.Errorf("%d pods are left (%v)", len(left.Items), err)
	}
	claims, err := c.CoreV1().PersistentVolumeClaims(ns).List(within(t, 20*time.Second), metav1.ListOptions{})
	if err != nil || len(claims.Items) > 0 {
		t.Errorf("%d claims are left (%v)", len(claims.Items), err)
	}
}

// resident is the heap in use after a collection, in bytes.
func resident() int64 {
	debug.FreeOSMemory()
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}
