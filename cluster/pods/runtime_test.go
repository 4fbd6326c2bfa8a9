package pods

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// These tests show what is asked of the API server and what is made of its answers. That a cluster takes it, and that the contract of
// agent.Runtime holds on one, is shown by the end-to-end suite (deploy/e2e).

var update = flag.Bool("update", false, "rewrite the golden files")

const id = agent.ID("019cd20a-0d00-7c31-9a4e-5b1f0d2c7e90")

func spec(incarnation int64) agent.PodSpec {
	return agent.PodSpec{Agent: id, Incarnation: incarnation, Name: agent.PodName(id), SizeBytes: 1 << 30,
		Env: map[string]agent.Secret{"AGENT_UUID": agent.NewSecret(string(id)), "ANTHROPIC_API_KEY": agent.NewSecret("trk_example")}}
}

// place is a runtime on a fake API server, which gives no UIDs and no versions: they are ours.
type place struct {
	*Runtime
	c              *fake.Clientset
	now            time.Time
	uids, versions int
}

func open(t *testing.T, change func(*Options)) *place {
	t.Helper()
	p := &place{c: fake.NewClientset(), now: time.Date(2026, 3, 9, 10, 0, 0, 0, time.UTC)}
	p.c.PrependReactor("create", "*", func(a clienttesting.Action) (bool, k8sruntime.Object, error) {
		if o, ok := a.(clienttesting.CreateAction).GetObject().(metav1.Object); ok {
			p.uids++
			o.SetUID(types.UID(strings.Repeat("0", 3) + string(rune('a'+p.uids))))
			o.SetCreationTimestamp(metav1.NewTime(p.now))
		}
		return false, nil, nil
	})
	watching, once := make(chan struct{}), sync.Once{}
	p.c.PrependWatchReactor("pods", func(a clienttesting.Action) (bool, watch.Interface, error) {
		w, err := p.c.Tracker().Watch(a.GetResource(), a.GetNamespace(), a.(clienttesting.WatchActionImpl).ListOptions)
		once.Do(func() { close(watching) })
		return true, w, err
	})
	o := Options{Client: p.c, Namespace: "agents", Installation: "troupe", Image: "registry.example/troupe-runner:1", Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now: func() time.Time { return p.now }}
	if change != nil {
		change(&o)
	}
	rt, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rt.Close)
	rt.Watch()
	select {
	case <-watching: // what the first list shows is no change: a test's changes come after it
	case <-time.After(10 * time.Second):
		t.Fatal("the pods are not watched")
	}
	p.Runtime = rt
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (p *place) pod(t *testing.T) *corev1.Pod {
	t.Helper()
	got, err := p.c.CoreV1().Pods("agents").Get(t.Context(), agent.PodName(id), metav1.GetOptions{})
	must(t, err)
	return got
}

// status rewrites the status of the agent's Pod, as a kubelet would, and waits until the runtime has seen it.
func (p *place) status(t *testing.T, f func(*corev1.Pod)) {
	t.Helper()
	pod := p.pod(t)
	f(pod)
	p.versions++
	pod.ResourceVersion = strconv.Itoa(p.versions)
	_, err := p.c.CoreV1().Pods("agents").Update(t.Context(), pod, metav1.UpdateOptions{})
	must(t, err)
	p.seen(t, pod.ResourceVersion)
}

// seen waits until the runtime's cache holds that version of the agent's Pod; "": none.
func (p *place) seen(t *testing.T, version string) {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		next, leave := p.next(id)
		got, err := p.pods.Get(agent.PodName(id))
		if err == nil && got.ResourceVersion == version || apierrors.IsNotFound(err) && version == "" {
			leave()
			return
		}
		select {
		case <-next:
			leave()
		case <-late:
			leave()
			t.Fatal("the change was not seen")
		}
	}
}

func (p *place) calls(verb, what string) (n int) {
	for _, a := range p.c.Actions() {
		if a.GetVerb() == verb && a.GetResource().Resource == what {
			n++
		}
	}
	return n
}

func golden(t *testing.T, name string, objects ...any) {
	t.Helper()
	var parts []string
	for _, o := range objects {
		b, err := yaml.Marshal(o)
		must(t, err)
		parts = append(parts, string(b))
	}
	got, path := strings.Join(parts, "---\n"), filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if got != string(want) {
		t.Errorf("%s differs:\n%s", path, got)
	}
}

func TestPOD_2_TheObjectsOfAnAgent(t *testing.T) {
	objects := func(p *place, s agent.PodSpec) []any {
		claim, pod, secret := p.claim(id, s.SizeBytes), p.Runtime.pod(&s, "claim-uid"), p.secret(&s, "pod-uid")
		claim.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}
		pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		secret.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
		return []any{claim, pod, secret}
	}
	golden(t, "defaults.yaml", objects(open(t, nil), spec(3))...)
	size, err := ReadSize("100m", "2", "128Mi", "4Gi")
	must(t, err)
	s := spec(1)
	s.Ephemeral = true
	golden(t, "everything.yaml", objects(open(t, func(o *Options) {
		o.Size, o.PullPolicy, o.PullSecrets, o.StorageClass, o.RuntimeClass, o.Priority = size, "Always", []string{"registry"}, "fast", "gvisor", "agents"
		o.NodeSelector = map[string]string{"pool": "agents"}
		o.Tolerations = []corev1.Toleration{{Key: "agents", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
	}), s)...)
}

func TestPOD_2_QuantitiesAreChecked(t *testing.T) {
	for _, bad := range [][4]string{{"x", "", "", ""}, {"0", "", "", ""}, {"-1", "", "", ""}, {"2", "1", "", ""}, {"", "", "3Gi", "2Gi"}} {
		if _, err := ReadSize(bad[0], bad[1], bad[2], bad[3]); err == nil {
			t.Errorf("%v passes", bad)
		}
	}
}

func TestPOD_3_TheEnvironmentLiesInASecretOfThatPod(t *testing.T) {
	p := open(t, nil)
	must(t, p.Start(t.Context(), spec(1)))
	pod := p.pod(t)
	sec, err := p.c.CoreV1().Secrets("agents").Get(t.Context(), agent.PodName(id)+"-1", metav1.GetOptions{})
	must(t, err)
	if string(sec.Data["ANTHROPIC_API_KEY"]) != "trk_example" || sec.OwnerReferences[0].UID != pod.UID || sec.Immutable == nil || !*sec.Immutable {
		t.Errorf("%+v", sec)
	}
	for _, e := range pod.Spec.Containers[0].Env {
		if strings.Contains(e.Value, "trk_") || e.Name == "DATABASE_URL" {
			t.Errorf("the Pod itself shows %s", e.Name)
		}
	}
	must(t, p.Start(t.Context(), spec(1)))
	if n := p.calls("create", "pods"); n != 1 {
		t.Errorf("a repetition asked for another Pod: %d", n)
	}
}

// A Pod deleted by hand is made anew by a repetition of its start; the Secret of the first would be collected with it.
func TestPOD_3_ASecretOfAFormerPodIsReplaced(t *testing.T) {
	p := open(t, nil)
	s := spec(1)
	must(t, p.Start(t.Context(), s))
	first := p.pod(t).UID
	must(t, p.c.CoreV1().Pods("agents").Delete(t.Context(), agent.PodName(id), metav1.DeleteOptions{}))
	second := open(t, nil) // another node
	second.o.Client = p.c
	second.Runtime.o.Client = p.c
	must(t, second.Start(t.Context(), s))
	sec, err := p.c.CoreV1().Secrets("agents").Get(t.Context(), agent.PodName(id)+"-1", metav1.GetOptions{})
	must(t, err)
	if got := p.pod(t).UID; got == first || sec.OwnerReferences[0].UID != got {
		t.Errorf("the secret belongs to %s, the pod is %s", sec.OwnerReferences[0].UID, got)
	}
}

func TestPOD_1_AnotherIncarnation(t *testing.T) {
	for _, tt := range []struct {
		name    string
		was     func(*corev1.Pod)
		there   int64
		deletes int
		fails   bool
	}{
		{name: "an older one that runs is told to go, and waited for", there: 1, was: func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, deletes: 1, fails: true},
		{name: "an older one that goes already is waited for", there: 1, was: func(p *corev1.Pod) { now := metav1.Now(); p.DeletionTimestamp, p.Finalizers = &now, []string{"x/y"} }, fails: true},
		{name: "of an older one that has ended only the object is left", there: 1, was: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, deletes: 1},
		{name: "a later one is another owner's", there: 3, was: func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := open(t, nil)
			must(t, p.Start(t.Context(), spec(tt.there)))
			p.status(t, tt.was)
			err := p.Start(t.Context(), spec(2))
			if tt.fails != fault.Is(err, fault.Conflict) {
				t.Errorf("%v", err)
			}
			if n := p.calls("delete", "pods"); n != tt.deletes {
				t.Errorf("%d deletes", n)
			}
			for _, a := range p.c.Actions() {
				if d, ok := a.(clienttesting.DeleteActionImpl); ok && (d.DeleteOptions.Preconditions == nil || d.DeleteOptions.Preconditions.UID == nil) {
					t.Error("a delete that could hit another Pod of that name")
				}
			}
		})
	}
}

// Stop must never drop an object whose containers may still run, unless its node is silent for good.
func TestPOD_1_APodIsGivenUpOnlyWithItsNode(t *testing.T) {
	node := func(status corev1.ConditionStatus, since time.Duration) func(*place) {
		return func(p *place) {
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker"}}
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, LastTransitionTime: metav1.NewTime(p.now.Add(-since))}}
			must(t, p.c.Tracker().Add(n))
		}
	}
	for _, tt := range []struct {
		name  string
		node  func(*place)
		force bool
	}{
		{"a node that answers keeps it, however long it takes", node(corev1.ConditionTrue, time.Hour), false},
		{"a node that says it is not ready still answers", node(corev1.ConditionFalse, time.Hour), false},
		{"a node that was silent for four minutes may come back", node(corev1.ConditionUnknown, 4*time.Minute), false},
		{"after five minutes it is given up", node(corev1.ConditionUnknown, 5*time.Minute), true},
		{"a node that is no more takes it along", func(*place) {}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := open(t, nil)
			must(t, p.Start(t.Context(), spec(1)))
			tt.node(p)
			p.status(t, func(pod *corev1.Pod) {
				now := metav1.NewTime(p.now)
				pod.Spec.NodeName, pod.Status.Phase, pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = "worker", corev1.PodRunning, &now, ptr(int64(1))
			})
			var grace []int64
			p.c.PrependReactor("delete", "pods", func(a clienttesting.Action) (bool, k8sruntime.Object, error) {
				grace = append(grace, *a.(clienttesting.DeleteActionImpl).DeleteOptions.GracePeriodSeconds)
				return false, nil, nil
			})
			ctx, cancel := context.WithCancel(t.Context())
			if !tt.force {
				p.c.PrependReactor("get", "nodes", func(clienttesting.Action) (bool, k8sruntime.Object, error) { cancel(); return false, nil, nil })
			}
			defer cancel()
			err := p.Stop(ctx, id, 1, 30*time.Second)
			if forced := len(grace) == 1 && grace[0] == 0; forced != tt.force || (err == nil) != tt.force {
				t.Errorf("deletes with grace %v, %v", grace, err)
			}
		})
	}
}

func TestPOD_8_WhatIsObserved(t *testing.T) {
	waiting := func(reason, message string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
		}
	}
	ended := func(phase corev1.PodPhase, reason string, code int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = phase
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code}}}}
		}
	}
	for _, tt := range []struct {
		name   string
		pod    func(*corev1.Pod)
		phase  agent.PodPhase
		reason string
	}{
		{"new", func(*corev1.Pod) {}, agent.PhaseStarting, ""},
		{"no room", func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available"}}
		}, agent.PhaseStarting, "Unschedulable: 0/3 nodes are available"},
		{"on its way", waiting("ContainerCreating", ""), agent.PhaseStarting, ""},
		{"no image", waiting("ImagePullBackOff", "not found"), agent.PhaseStarting, "ImagePullBackOff: not found"},
		{"running", func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, agent.PhaseUp, ""},
		{"restarting", func(p *corev1.Pod) {
			waiting("CrashLoopBackOff", "")(p)
			p.Status.Phase = corev1.PodRunning
		}, agent.PhaseUp, "CrashLoopBackOff"},
		{"being evicted", func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI"}}
		}, agent.PhaseUp, "evicted"},
		{"evicted by its node", func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted" }, agent.PhaseGone, "Evicted"},
		{"out of memory", ended(corev1.PodFailed, "OOMKilled", 137), agent.PhaseGone, "OOMKilled, exit code 137"},
		{"ended in order", ended(corev1.PodSucceeded, "Completed", 0), agent.PhaseGone, "ended"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := open(t, nil)
			s := spec(7)
			pod := p.Runtime.pod(&s, "")
			tt.pod(pod)
			if o := p.observation(pod); o.Agent != id || o.Incarnation != 7 || o.Phase != tt.phase || o.Reason != tt.reason {
				t.Errorf("%+v", o)
			}
		})
	}
}

// What the API server answers decides whether it is asked again.
func TestPOD_8_AnswersOfTheAPIServer(t *testing.T) {
	for _, tt := range []struct {
		err  error
		kind fault.Kind
		says string
	}{
		{apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "x", nil), fault.Invalid, "refused"},
		{apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "x", errors.New("exceeded quota: agents")), fault.Unavailable, "exceeded quota: agents"},
		{apierrors.NewServiceUnavailable("etcd"), fault.Unavailable, "did not confirm"},
		{errors.New("connection refused"), fault.Unavailable, "did not confirm"},
	} {
		p := open(t, nil)
		var counted []error
		p.o.Counted = func(op string, err error) {
			if op == "create pod" {
				counted = append(counted, err)
			}
		}
		p.c.PrependReactor("create", "pods", func(clienttesting.Action) (bool, k8sruntime.Object, error) { return true, nil, tt.err })
		err := p.Start(t.Context(), spec(1))
		if !fault.Is(err, tt.kind) || !strings.Contains(fault.Of(err).Message, tt.says) || len(counted) != 1 || counted[0] == nil {
			t.Errorf("%v: %v, counted %v", tt.err, err, counted)
		}
	}
}

func TestCFG_8_AVolumeOnlyGrows(t *testing.T) {
	p := open(t, func(o *Options) { o.StorageClass = "fast" })
	must(t, p.Resize(t.Context(), id, 1<<30)) // none yet
	must(t, p.Start(t.Context(), spec(1)))
	size := func() int64 {
		c, err := p.c.CoreV1().PersistentVolumeClaims("agents").Get(t.Context(), agent.PodName(id), metav1.GetOptions{})
		must(t, err)
		q := c.Spec.Resources.Requests[corev1.ResourceStorage]
		return q.Value()
	}
	for _, tt := range []struct{ ask, want int64 }{{1 << 30, 1 << 30}, {1 << 29, 1 << 30}, {3 << 30, 3 << 30}, {1 << 30, 3 << 30}} {
		must(t, p.Resize(t.Context(), id, tt.ask))
		if got := size(); got != tt.want {
			t.Errorf("asked for %d: %d, want %d", tt.ask, got, tt.want)
		}
	}
	if err := p.Resizable(t.Context(), id); fault.Of(err) == nil || fault.Of(err).Code != "pvc_expansion_unsupported" {
		t.Errorf("an unknown class: %v", err)
	}
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}}
	must(t, p.c.Tracker().Add(class))
	if err := p.Resizable(t.Context(), id); fault.Of(err) == nil || fault.Of(err).Code != "pvc_expansion_unsupported" {
		t.Errorf("a class that does not say so: %v", err)
	}
	class.AllowVolumeExpansion = ptr(true)
	_, err := p.c.StorageV1().StorageClasses().Update(t.Context(), class, metav1.UpdateOptions{})
	must(t, err)
	must(t, p.Resizable(t.Context(), id))
	p.c.PrependReactor("get", "storageclasses", func(clienttesting.Action) (bool, k8sruntime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "storageclasses"}, "fast", nil)
	})
	must(t, p.Resizable(t.Context(), id)) // without that right the API server is asked when it comes to it
}

// A volume that does not grow must not keep its agent from starting.
func TestCFG_8_ARefusedGrowth(t *testing.T) {
	p := open(t, nil)
	must(t, p.Start(t.Context(), spec(1)))
	must(t, p.Stop(t.Context(), id, 1, time.Second))
	for says, kind := range map[string]fault.Kind{"exceeded quota: disks": fault.Unavailable,
		"only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize": fault.Invalid} {
		p.c.PrependReactor("patch", "persistentvolumeclaims", func(clienttesting.Action) (bool, k8sruntime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "persistentvolumeclaims"}, "x", errors.New(says))
		})
		if err := p.Resize(t.Context(), id, 2<<30); !fault.Is(err, kind) {
			t.Errorf("%s: %v", says, err)
		}
	}
	s := spec(2)
	s.SizeBytes = 2 << 30
	must(t, p.Start(t.Context(), s))
	c, err := p.c.CoreV1().PersistentVolumeClaims("agents").Get(t.Context(), agent.PodName(id), metav1.GetOptions{})
	must(t, err)
	c.Status.Phase = corev1.ClaimPending
	_, err = p.c.CoreV1().PersistentVolumeClaims("agents").Update(t.Context(), c, metav1.UpdateOptions{})
	must(t, err)
	if err := p.Resize(t.Context(), id, 2<<30); !fault.Is(err, fault.Unavailable) {
		t.Errorf("one that is still being made: %v", err)
	}
}

// A Pod that its own node knows to have been made, and that is gone, is not made again: its keys have been out.
func TestPOD_1_AnIncarnationIsMadeOnce(t *testing.T) {
	p := open(t, nil)
	must(t, p.Start(t.Context(), spec(1)))
	p.status(t, func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodRunning })
	must(t, p.c.CoreV1().Pods("agents").Delete(t.Context(), agent.PodName(id), metav1.DeleteOptions{}))
	p.seen(t, "")
	must(t, p.Start(t.Context(), spec(1)))
	if o, err := p.Observe(t.Context(), id); err != nil || o.Phase != agent.PhaseNone {
		t.Errorf("%+v, %v", o, err)
	}
	must(t, p.Ping(t.Context()))
}

func TestPOD_1_WhatNobodyWantsIsSweptAway(t *testing.T) {
	type store map[agent.ID]int64
	known := store{}
	wanted := func(_ context.Context, id agent.ID) (bool, int64, error) { n, ok := known[id]; return ok, n, nil }
	setup := func(t *testing.T) *place {
		p := open(t, nil)
		must(t, p.Start(t.Context(), spec(2)))
		p.status(t, func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodRunning })
		return p
	}
	t.Run("one that is wanted stays", func(t *testing.T) {
		p := setup(t)
		known = store{id: 2}
		p.now = p.now.Add(time.Hour)
		if s, err := p.Sweep(t.Context(), wanted, time.Hour); err != nil || s != (Swept{}) {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("a young one may be in the middle of its start", func(t *testing.T) {
		p := setup(t)
		known = store{}
		if s, err := p.Sweep(t.Context(), wanted, time.Hour); err != nil || s != (Swept{}) {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("another incarnation goes, the volume stays", func(t *testing.T) {
		p := setup(t)
		known = store{id: 0}
		p.now = p.now.Add(time.Hour)
		if s, err := p.Sweep(t.Context(), wanted, time.Hour); err != nil || s != (Swept{Pods: 1}) {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("a volume of an unknown agent goes after its grace, unless the agent is back", func(t *testing.T) {
		p := setup(t)
		known = store{}
		for i, tt := range []struct {
			after time.Duration
			back  bool
			want  Swept
		}{{time.Hour, false, Swept{Pods: 1, Volumes: 1}}, {30 * time.Minute, false, Swept{Volumes: 1}}, {0, true, Swept{}}, {time.Hour, false, Swept{Volumes: 1}},
			{59 * time.Minute, false, Swept{Volumes: 1}}, {time.Minute, false, Swept{Volumes: 1, Removed: 1}}, {time.Hour, false, Swept{}}} {
			p.now = p.now.Add(tt.after)
			known = store{}
			if tt.back {
				known = store{id: 0}
			}
			if i > 0 {
				tt.want.Pods = 0
			}
			if s, err := p.Sweep(t.Context(), wanted, time.Hour); err != nil || s != tt.want {
				t.Errorf("sweep %d: %+v, %v, want %+v", i, s, err, tt.want)
			}
			p.seen(t, "")
		}
	})
	t.Run("what the store cannot answer changes nothing", func(t *testing.T) {
		p := setup(t)
		p.now = p.now.Add(time.Hour)
		s, err := p.Sweep(t.Context(), func(context.Context, agent.ID) (bool, int64, error) { return false, 0, errors.New("away") }, time.Hour)
		if err == nil || s != (Swept{}) || p.calls("delete", "pods") > 0 {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

func TestARunnerCannotAimItsNodeElsewhere(t *testing.T) {
	p := open(t, nil)
	for endpoint, want := range map[string]bool{"http://10.244.0.5:7070": true, "http://[fd00::5]:7070": true, "http://10.244.0.5:80": false, "https://10.244.0.5:7070": false,
		"http://127.0.0.1:7070": false, "http://169.254.169.254:7070": false, "http://0.0.0.0:7070": false, "http://redis:7070": false, "http://u@10.244.0.5:7070": false,
		"http://10.244.0.5:7070/x": false, "": false} {
		if p.Serves(id, 1, endpoint) != want {
			t.Errorf("%s: %v", endpoint, !want)
		}
	}
	must(t, p.Start(t.Context(), spec(1)))
	p.status(t, func(pod *corev1.Pod) {
		pod.Status.Phase, pod.Status.PodIPs = corev1.PodRunning, []corev1.PodIP{{IP: "10.244.0.5"}, {IP: "fd00::5"}}
	})
	for endpoint, want := range map[string]bool{"http://10.244.0.5:7070": true, "http://[fd00::5]:7070": true, "http://10.244.0.6:7070": false} {
		if p.Serves(id, 1, endpoint) != want {
			t.Errorf("with the address known, %s: %v", endpoint, !want)
		}
	}
}

func TestWhatTheCacheHoldsIsSmall(t *testing.T) {
	p := open(t, nil)
	s := spec(1)
	pod := p.Runtime.pod(&s, "")
	pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "x"}}
	pod.Spec.NodeName = "worker"
	out, err := slim(pod)
	must(t, err)
	b, err := yaml.Marshal(out)
	must(t, err)
	if pod := out.(*corev1.Pod); pod.Spec.NodeName != "worker" || pod.Labels[LabelAgent] != string(id) || len(b) > 900 {
		t.Errorf("%d bytes:\n%s", len(b), b)
	}
	if _, err := slim(&corev1.Node{}); err != nil {
		t.Error(err)
	}
}
