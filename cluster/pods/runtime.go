package pods

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Runtime implements agent.Runtime on Kubernetes.
type Runtime struct {
	o      Options
	now    func() time.Time
	pods   corelisters.PodNamespaceLister
	synced cache.InformerSynced
	stop   chan struct{}
	once   sync.Once
	infos  informers.SharedInformerFactory

	mu      sync.Mutex
	started map[agent.ID]int64           // incarnations whose Pod and Secret this node has seen made
	waiting map[agent.ID][]chan struct{} // closed at the next change of the agent's Pod
}

const (
	lookAgain = 4 * time.Second // at what is waited for, should a hint be lost
	eachCall  = 15 * time.Second
)

// New returns a runtime. The API server need not be there yet: what asks it fails until it is.
func New(o Options) (*Runtime, error) {
	if o.Image == "" {
		return nil, errors.New("the image of the runner is not set")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.OnChange == nil {
		o.OnChange = func(agent.ID) {}
	}
	if o.Counted == nil {
		o.Counted = func(string, error) {}
	}
	if o.Unreachable == 0 {
		o.Unreachable = DefaultUnreachable
	}
	if o.Size.CPURequest.IsZero() {
		o.Size, _ = ReadSize("", "", "", "") // the defaults are quantities
	}
	r := &Runtime{o: o, now: o.Now, stop: make(chan struct{}), started: map[agent.ID]int64{}, waiting: map[agent.ID][]chan struct{}{}}
	r.infos = informers.NewSharedInformerFactoryWithOptions(o.Client, 0, informers.WithNamespace(o.Namespace),
		informers.WithTweakListOptions(func(l *metav1.ListOptions) { l.LabelSelector = r.selector() }), informers.WithTransform(slim))
	inf := r.infos.Core().V1().Pods()
	r.pods, r.synced = inf.Lister().Pods(o.Namespace), inf.Informer().HasSynced
	if _, err := inf.Informer().AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(x any, initial bool) {
			if p, ok := x.(*corev1.Pod); ok && !initial {
				r.changed(p)
			}
		},
		UpdateFunc: func(was, is any) {
			if a, b := was.(*corev1.Pod), is.(*corev1.Pod); r.observation(a) != r.observation(b) || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) {
				r.changed(b)
			}
		},
		DeleteFunc: func(x any) {
			if gone, ok := x.(cache.DeletedFinalStateUnknown); ok {
				x = gone.Obj
			}
			if p, ok := x.(*corev1.Pod); ok {
				r.changed(p)
			}
		},
	}); err != nil {
		return nil, err
	}
	o.Log.Info("Kubernetes runtime", "namespace", o.Namespace, "image", o.Image, "installation", o.Installation)
	return r, nil
}

// Watch begins to watch and to tell of changes.
func (r *Runtime) Watch() { r.infos.Start(r.stop) }

// Ping asks the API server for something small.
func (r *Runtime) Ping(ctx context.Context) error {
	return r.call(ctx, "ping", func(ctx context.Context) error {
		_, err := r.o.Client.CoreV1().Pods(r.o.Namespace).List(ctx, metav1.ListOptions{LabelSelector: r.selector(), Limit: 1, ResourceVersion: "0"})
		return err
	})
}

// slim keeps of a Pod what somebody here reads.
func slim(x any) (any, error) {
	p, ok := x.(*corev1.Pod)
	if !ok {
		return x, nil
	}
	out := &corev1.Pod{Spec: corev1.PodSpec{NodeName: p.Spec.NodeName}}
	m := &p.ObjectMeta
	out.ObjectMeta = metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp, DeletionGracePeriodSeconds: m.DeletionGracePeriodSeconds}
	s := &p.Status
	out.Status = corev1.PodStatus{Phase: s.Phase, Reason: s.Reason, PodIPs: s.PodIPs, Conditions: s.Conditions, ContainerStatuses: s.ContainerStatuses}
	return out, nil
}

// Close stops watching. Pods go on.
func (r *Runtime) Close() {
	r.once.Do(func() { close(r.stop) })
	r.infos.Shutdown()
}

// Describe says in a word where agents run.
func (r *Runtime) Describe() string { return "pods in namespace " + r.o.Namespace }

// changed hints that something about a Pod is different.
func (r *Runtime) changed(p *corev1.Pod) {
	id := agent.ID(p.Labels[LabelAgent])
	r.mu.Lock()
	for _, c := range r.waiting[id] {
		close(c)
	}
	delete(r.waiting, id)
	r.mu.Unlock()
	r.o.OnChange(id)
}

// next is closed at the next change of the agent's Pod. It must be taken before what it guards is looked at.
func (r *Runtime) next(id agent.ID) (<-chan struct{}, func()) {
	c := make(chan struct{})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting[id] = append(r.waiting[id], c)
	return c, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i, w := range r.waiting[id] {
			if w == c {
				r.waiting[id] = append(r.waiting[id][:i:i], r.waiting[id][i+1:]...)
			}
		}
		if len(r.waiting[id]) == 0 {
			delete(r.waiting, id)
		}
	}
}

// call runs one call to the API server within its deadline and counts it.
func (r *Runtime) call(ctx context.Context, op string, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, eachCall)
	defer cancel()
	err := f(ctx)
	if apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
		r.o.Counted(op, nil) // an answer
	} else {
		r.o.Counted(op, err)
	}
	return err
}

// unavailable classifies what the API server answered. Refused is what no repetition changes.
func unavailable(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fault.Newf(fault.Invalid, "validation_failed", "Kubernetes refused %s: %s", what, text(err)).Because(err)
	case apierrors.IsForbidden(err): // a quota, a policy, a missing right: it may pass
		return fault.Newf(fault.Unavailable, "dependency_unavailable", "Kubernetes refused %s: %s", what, text(err)).Because(err)
	}
	return fault.Newf(fault.Unavailable, "dependency_unavailable", "Kubernetes did not confirm %s", what).After(time.Second).Because(err)
}

// text is what the API server said, bounded.
func text(err error) string {
	s := err.Error()
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}

func incarnation(p *corev1.Pod) int64 {
	n, _ := strconv.ParseInt(p.Labels[LabelIncarnation], 10, 64)
	return n
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// live asks the API server. nil, nil: there is none.
func (r *Runtime) live(ctx context.Context, id agent.ID) (p *corev1.Pod, err error) {
	err = r.call(ctx, "get pod", func(ctx context.Context) error {
		p, err = r.o.Client.CoreV1().Pods(r.o.Namespace).Get(ctx, agent.PodName(id), metav1.GetOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("to look for the pod", err)
	}
	return p, nil
}

// remove asks for the end of exactly this Pod.
func (r *Runtime) remove(ctx context.Context, p *corev1.Pod, grace int64) error {
	err := r.call(ctx, "delete pod", func(ctx context.Context) error {
		return r.o.Client.CoreV1().Pods(r.o.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &p.UID}})
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or another one by now
		return nil
	}
	return unavailable("to delete the pod", err)
}

// Start implements agent.Runtime.
func (r *Runtime) Start(ctx context.Context, s agent.PodSpec) error {
	if done, err := r.known(ctx, s.Agent, s.Incarnation); done || err != nil {
		return err
	}
	claim, err := r.ensure(ctx, s.Agent, s.SizeBytes)
	if err != nil {
		return err
	}
	uid, err := r.create(ctx, &s, claim)
	if err != nil || uid == "" {
		return err
	}
	if err := r.give(ctx, &s, uid); err != nil {
		return err
	}
	r.mu.Lock()
	if len(r.started) >= mostStarted {
		clear(r.started) // those whose agents have moved on are among them; the others ask the API server once more
	}
	r.started[s.Agent] = s.Incarnation
	r.mu.Unlock()
	return nil
}

// mostStarted bounds what is remembered of starts.
const mostStarted = 20_000

// known says whether this node made that incarnation already: most repetitions of a start end here. One that is gone since is not made
// again, as its keys have been out; Observe tells.
func (r *Runtime) known(ctx context.Context, id agent.ID, n int64) (bool, error) {
	r.mu.Lock()
	made := r.started[id]
	r.mu.Unlock()
	if made != n {
		return false, nil
	}
	if p, err := r.pods.Get(agent.PodName(id)); err == nil && incarnation(p) == n {
		return true, nil
	}
	p, err := r.live(ctx, id)
	return p == nil || incarnation(p) == n, err
}

// create makes the Pod, unless it is there. "": it was started and has ended; Observe tells.
func (r *Runtime) create(ctx context.Context, s *agent.PodSpec, claim types.UID) (types.UID, error) {
	for range 3 {
		var made *corev1.Pod
		err := r.call(ctx, "create pod", func(ctx context.Context) (err error) {
			made, err = r.o.Client.CoreV1().Pods(r.o.Namespace).Create(ctx, r.pod(s, claim), metav1.CreateOptions{})
			return err
		})
		if err == nil {
			return made.UID, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return "", unavailable("the pod", err)
		}
		p, err := r.live(ctx, s.Agent)
		switch {
		case err != nil:
			return "", err
		case p == nil: // gone in between
		case incarnation(p) == s.Incarnation && ended(p):
			return "", nil
		case incarnation(p) == s.Incarnation:
			return p.UID, nil
		case incarnation(p) > s.Incarnation:
			return "", fault.New(fault.Conflict, "pod_not_running", "A later pod is there")
		case ended(p): // its containers are gone; only the object is left
			if err := r.remove(ctx, p, 0); err != nil {
				return "", err
			}
		default: // its keys are revoked; nobody but a node that was late can have made it
			if p.DeletionTimestamp == nil {
				if err := r.remove(ctx, p, int64(agent.ShutdownGrace.Seconds())); err != nil {
					return "", err
				}
			}
			return "", fault.New(fault.Conflict, "pod_not_running", "An older pod is still there")
		}
	}
	return "", fault.New(fault.Conflict, "pod_not_running", "An older pod is still there")
}

// give makes the Secret that the Pod waits for. It comes after the Pod, whose UID it names as its owner; the kubelet asks for it a
// good deal later.
func (r *Runtime) give(ctx context.Context, s *agent.PodSpec, pod types.UID) error {
	secrets := r.o.Client.CoreV1().Secrets(r.o.Namespace)
	for range 2 {
		err := r.call(ctx, "create secret", func(ctx context.Context) error {
			_, err := secrets.Create(ctx, r.secret(s, pod), metav1.CreateOptions{})
			return err
		})
		if err == nil || !apierrors.IsAlreadyExists(err) {
			return unavailable("the pod's environment", err)
		}
		var old *corev1.Secret
		err = r.call(ctx, "get secret", func(ctx context.Context) (err error) {
			old, err = secrets.Get(ctx, secretName(s.Agent, s.Incarnation), metav1.GetOptions{})
			return err
		})
		switch {
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return unavailable("to look for the pod's environment", err)
		case len(old.OwnerReferences) == 1 && old.OwnerReferences[0].UID == pod:
			return nil
		}
		if err := r.call(ctx, "delete secret", func(ctx context.Context) error { // of a Pod that is gone: it would go as well, under this one's feet
			return secrets.Delete(ctx, old.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &old.UID}})
		}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return unavailable("to replace the pod's environment", err)
		}
	}
	return fault.New(fault.Unavailable, "dependency_unavailable", "The pod's environment is being replaced by another node").After(time.Second)
}

// Stop implements agent.Runtime.
func (r *Runtime) Stop(ctx context.Context, id agent.ID, upTo int64, grace time.Duration) error {
	seconds := max(1, int64(grace.Seconds())) // 0 would drop the object without waiting for its containers
	var asked types.UID
	for {
		next, leave := r.next(id)
		p, err := r.live(ctx, id)
		if err != nil {
			leave()
			return err
		}
		if p == nil || upTo != 0 && incarnation(p) > upTo {
			leave()
			r.forget(id)
			return nil
		}
		switch {
		case ended(p):
			err = r.remove(ctx, p, 0)
		case r.abandoned(ctx, p):
			r.o.Log.Warn("pod given up with its node", "agent_id", id, "node", p.Spec.NodeName)
			err = r.remove(ctx, p, 0)
		case p.DeletionTimestamp == nil, asked != p.UID && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds > seconds:
			err = r.remove(ctx, p, seconds)
		}
		asked = p.UID
		if err == nil {
			err = r.pause(ctx, next)
		}
		leave()
		if err != nil {
			return err
		}
	}
}

// pause waits for the next change, or a moment.
func (r *Runtime) pause(ctx context.Context, next <-chan struct{}) error {
	t := time.NewTimer(lookAgain)
	defer t.Stop()
	select {
	case <-next:
	case <-t.C:
	case <-r.stop:
		return errors.New("the runtime is closed")
	case <-ctx.Done():
		return fault.New(fault.Unavailable, "dependency_unavailable", "The pod is not gone yet").Because(ctx.Err())
	}
	return nil
}

func (r *Runtime) forget(id agent.ID) {
	r.mu.Lock()
	delete(r.started, id)
	r.mu.Unlock()
}

// abandoned says whether a Pod will never be confirmed gone: it was asked to end and its node has been silent for long, or is no more.
// A node that answers keeps its Pods, however long they take.
func (r *Runtime) abandoned(ctx context.Context, p *corev1.Pod) bool {
	if p.DeletionTimestamp == nil || p.Spec.NodeName == "" || r.now().Before(p.DeletionTimestamp.Time) {
		return false // its time is not over
	}
	var n *corev1.Node
	err := r.call(ctx, "get node", func(ctx context.Context) (err error) {
		n, err = r.o.Client.CoreV1().Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		return true
	}
	if err != nil {
		return false
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown {
			return r.now().Sub(c.LastTransitionTime.Time) >= r.o.Unreachable
		}
	}
	return false
}

// Delete implements agent.Runtime.
func (r *Runtime) Delete(ctx context.Context, id agent.ID) error {
	if err := r.Stop(ctx, id, 0, 0); err != nil {
		return err
	}
	return r.dropClaim(ctx, id)
}

// Observe implements agent.Runtime.
func (r *Runtime) Observe(ctx context.Context, id agent.ID) (agent.Observation, error) {
	p, err := r.pods.Get(agent.PodName(id))
	if err != nil || !r.synced() { // not in the cache: it may have been made a moment ago
		if p, err = r.live(ctx, id); err != nil {
			return agent.Observation{}, err
		}
	}
	if p == nil {
		return agent.Observation{Agent: id, Phase: agent.PhaseNone}, nil
	}
	return r.observation(p), nil
}

// Idle implements agent.Runtime. The scheduler finds room; nobody has to give way.
func (r *Runtime) Idle(agent.ID, time.Time) {}

// Live is how many Pods of the installation this node sees.
func (r *Runtime) Live() int { return len(r.infos.Core().V1().Pods().Informer().GetStore().ListKeys()) }
