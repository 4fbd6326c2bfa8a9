package pods

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"troupe/actors/agent"
)

// Wanted says what the store knows of an agent: whether there is one, and which incarnation may be there (0: none).
type Wanted func(ctx context.Context, id agent.ID) (exists bool, incarnation int64, err error)

// Swept is what one sweep found.
type Swept struct {
	Pods    int // that nobody wants, deleted
	Volumes int // of agents that the store does not know
	Removed int // of those, deleted
}

const (
	sweepAge  = 2 * time.Minute // what is younger may be in the middle of being started
	sweepPage = 500
)

// Sweep deletes Pods that no agent wants (a node that was late has started them, or the store has lost them) and, once they have been
// orphans for as long as grace, volumes of unknown agents. A volume whose agent is known again by then (a store restored from a
// backup) loses its mark. Grace 0 keeps them for good; a negative one deletes at once.
func (r *Runtime) Sweep(ctx context.Context, wanted Wanted, grace time.Duration) (s Swept, err error) {
	all, err := r.pods.List(labels.Everything())
	if err != nil {
		return s, err
	}
	if !r.synced() {
		return s, errors.New("the pods are not known yet")
	}
	var failed error
	for _, p := range all {
		if r.now().Sub(p.CreationTimestamp.Time) < sweepAge || p.DeletionTimestamp != nil {
			continue
		}
		exists, n, err := wanted(ctx, agent.ID(p.Labels[LabelAgent]))
		if err != nil {
			return s, err
		}
		if exists && n == incarnation(p) {
			continue
		}
		r.o.Log.Warn("a pod that nobody wants", "agent_id", p.Labels[LabelAgent], "incarnation", incarnation(p), "wanted", n)
		if rerr := r.remove(ctx, p, int64(agent.ShutdownGrace.Seconds())); rerr != nil {
			failed = errors.Join(failed, rerr) // the others are looked at all the same
			continue
		}
		s.Pods++
	}
	return s, errors.Join(failed, r.sweepVolumes(ctx, wanted, grace, &s))
}

func (r *Runtime) sweepVolumes(ctx context.Context, wanted Wanted, grace time.Duration, s *Swept) error {
	claims := r.o.Client.CoreV1().PersistentVolumeClaims(r.o.Namespace)
	for more := ""; ; {
		var page *corev1.PersistentVolumeClaimList
		if err := r.call(ctx, "list volumes", func(ctx context.Context) (err error) {
			page, err = claims.List(ctx, metav1.ListOptions{LabelSelector: r.selector(), Limit: sweepPage, Continue: more})
			return err
		}); err != nil {
			return unavailable("to list volumes", err)
		}
		for i := range page.Items {
			if err := r.sweepVolume(ctx, &page.Items[i], wanted, grace, s); err != nil {
				return err
			}
		}
		if more = page.Continue; more == "" {
			return nil
		}
	}
}

func (r *Runtime) sweepVolume(ctx context.Context, c *corev1.PersistentVolumeClaim, wanted Wanted, grace time.Duration, s *Swept) error {
	if c.DeletionTimestamp != nil || r.now().Sub(c.CreationTimestamp.Time) < sweepAge {
		return nil
	}
	exists, _, err := wanted(ctx, agent.ID(c.Labels[LabelAgent]))
	if err != nil {
		return err
	}
	since, marked := time.Parse(time.RFC3339, c.Annotations[annotationOrphan])
	switch {
	case exists && marked != nil:
		return nil
	case exists:
		return r.annotate(ctx, c, "null")
	}
	s.Volumes++
	switch {
	case grace == 0:
		return nil
	case marked != nil && grace > 0:
		r.o.Log.Warn("a volume whose agent is not known", "agent_id", c.Labels[LabelAgent], "volume", c.Name, "deleted_in", grace)
		return r.annotate(ctx, c, `"`+r.now().UTC().Format(time.RFC3339)+`"`)
	case r.now().Sub(since) < grace:
		return nil
	}
	s.Removed++
	r.o.Log.Warn("the volume of an unknown agent is deleted", "agent_id", c.Labels[LabelAgent], "volume", c.Name)
	err = r.call(ctx, "delete volume", func(ctx context.Context) error {
		return r.o.Client.CoreV1().PersistentVolumeClaims(r.o.Namespace).Delete(ctx, c.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &c.UID}})
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return unavailable("to delete a volume", err)
}

func (r *Runtime) annotate(ctx context.Context, c *corev1.PersistentVolumeClaim, value string) error {
	patch := `{"metadata":{"uid":"` + string(c.UID) + `","annotations":{"` + annotationOrphan + `":` + value + `}}}`
	err := r.call(ctx, "mark volume", func(ctx context.Context) error {
		_, err := r.o.Client.CoreV1().PersistentVolumeClaims(r.o.Namespace).Patch(ctx, c.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return unavailable("to mark a volume", err)
}
