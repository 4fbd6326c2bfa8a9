package e2e

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"troupe/actors/agent"
	"troupe/cluster/pods"
)

// The tests of this file come last: go test runs files in the order of their names.

// TestPOD_1_APodOnALostNodeIsGivenUp binds a Pod to a node that has no kubelet and is known to be silent.
func TestPOD_1_APodOnALostNodeIsGivenUp(t *testing.T) {
	c := connect(t)
	ctx := within(t, 2*time.Minute)
	ns := namespace(t, c, "lost")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "ghost", Labels: map[string]string{"ghost": "yes"}}}
	if _, err := c.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.CoreV1().Nodes().Delete(context.Background(), "ghost", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		mustKubectl(t, "", "delete", "persistentvolume", "ghost", "--wait=false", "--ignore-not-found")
	}()
	silent := func(since time.Duration) {
		room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("10")}
		status := corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown,
			Reason: "NodeStatusUnknown", LastHeartbeatTime: metav1.NewTime(time.Now().Add(-since)), LastTransitionTime: metav1.NewTime(time.Now().Add(-since))}}}
		patch, err := json.Marshal(map[string]any{"status": status})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.CoreV1().Nodes().Patch(ctx, "ghost", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	silent(time.Minute)
	mustKubectl(t, `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ghost}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: Immediate
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: ghost}
spec: {storageClassName: ghost, accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /tmp/ghost}, persistentVolumeReclaimPolicy: Retain}
`, "apply", "-f", "-")
	var tolerate []corev1.Toleration
	tolerate = append(tolerate, corev1.Toleration{Operator: corev1.TolerationOpExists})
	rt := runtime(t, pods.Options{Namespace: ns, StorageClass: "ghost", NodeSelector: map[string]string{"ghost": "yes"}, Tolerations: tolerate})
	s := podSpec(1)
	start(t, rt, s)
	observe(t, rt, s.Agent, "it is bound to the lost node", func(o agent.Observation) bool { return o.Node == "ghost" })
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := rt.Stop(short, s.Agent, 1, time.Second); err == nil {
		t.Error("given up after a minute of silence")
	}
	silent(6 * time.Minute)
	if err := rt.Stop(within(t, 20*time.Second), s.Agent, 1, time.Second); err != nil {
		t.Error(err)
	}
	if o, err := rt.Observe(ctx, s.Agent); err != nil || o.Phase != agent.PhaseNone {
		t.Errorf("%+v, %v", o, err)
	}
	remove(t, rt, s.Agent)
}

// TestPOD_1_NoOrphans: what nobody wants is swept away, and after the whole suite nothing of any agent is left.
func TestPOD_1_NoOrphans(t *testing.T) {
	s := installed(t)
	for _, item := range s.call(200, "GET", "/v1/agent/list?limit=100", nil).m["agents"].([]any) {
		a, _ := item.(map[string]any)
		id, _ := a["id"].(string)
		s.drop(id)
	}
	t.Cleanup(func() {
		if t.Failed() {
			s.explain(s.belongings())
		}
	})
	took := s.until("nothing of any agent is left", 5*time.Minute, func() bool { return len(s.belongings()) == 0 })
	t.Logf("orphan pods, volumes and secrets after the whole suite, one planted at its start: %d, %s after the last agent was deleted", len(s.belongings()), took.Round(time.Second))
}
