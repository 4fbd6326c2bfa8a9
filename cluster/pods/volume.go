package pods

import (
	"context"
	"errors"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// findClaim asks for the agent's claim. nil, nil: there is none.
func (r *Runtime) findClaim(ctx context.Context, id agent.ID) (c *corev1.PersistentVolumeClaim, err error) {
	err = r.call(ctx, "get volume", func(ctx context.Context) error {
		c, err = r.o.Client.CoreV1().PersistentVolumeClaims(r.o.Namespace).Get(ctx, agent.PodName(id), metav1.GetOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("to look for the volume", err)
	}
	return c, nil
}

// ensure makes the volume, or makes it as big as it must be.
func (r *Runtime) ensure(ctx context.Context, id agent.ID, bytes int64) (types.UID, error) {
	c, err := r.findClaim(ctx, id)
	if err != nil {
		return "", err
	}
	if c == nil {
		err = r.call(ctx, "create volume", func(ctx context.Context) (err error) {
			c, err = r.o.Client.CoreV1().PersistentVolumeClaims(r.o.Namespace).Create(ctx, r.claim(id, bytes), metav1.CreateOptions{})
			return err
		})
		if apierrors.IsAlreadyExists(err) {
			c, err = r.findClaim(ctx, id)
		} else {
			err = unavailable("the volume", err)
		}
		if err != nil {
			return "", err
		}
	}
	if c == nil || c.DeletionTimestamp != nil {
		return "", fault.New(fault.Unavailable, "dependency_unavailable", "The agent's volume is being deleted").After(time.Second)
	}
	if err := r.grow(ctx, c, bytes); err != nil { // an agent starts with the volume it has; Resize is repeated
		r.o.Log.Warn("volume was not grown", "agent_id", id, "err", err)
	}
	return c.UID, nil
}

// grow asks for more room. A claim never shrinks (CFG-8).
func (r *Runtime) grow(ctx context.Context, c *corev1.PersistentVolumeClaim, bytes int64) error {
	have := c.Spec.Resources.Requests[corev1.ResourceStorage]
	want := resource.NewQuantity(bytes, resource.BinarySI)
	if have.Cmp(*want) >= 0 {
		return nil
	}
	patch := `{"spec":{"resources":{"requests":{"storage":"` + want.String() + `"}}}}`
	err := r.call(ctx, "grow volume", func(ctx context.Context) error {
		_, err := r.o.Client.CoreV1().PersistentVolumeClaims(r.o.Namespace).Patch(ctx, c.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	})
	if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "must support resize") { // said by the admission of claims
		return fault.New(fault.Invalid, "pvc_expansion_unsupported", "This volume cannot grow").Because(err)
	}
	return unavailable("to grow the volume", err)
}

// Resize implements agent.Runtime.
func (r *Runtime) Resize(ctx context.Context, id agent.ID, bytes int64) error {
	c, err := r.findClaim(ctx, id)
	if err != nil || c == nil { // made at that size when it is made
		return err
	}
	if c.Status.Phase == corev1.ClaimPending {
		return fault.New(fault.Unavailable, "dependency_unavailable", "The volume is still being made").After(time.Second)
	}
	return r.grow(ctx, c, bytes)
}

// Resizable implements agent.Runtime: storage classes say whether their volumes may grow.
func (r *Runtime) Resizable(ctx context.Context, id agent.ID) error {
	c, err := r.findClaim(ctx, id)
	if err != nil || c == nil || c.Spec.StorageClassName == nil || *c.Spec.StorageClassName == "" {
		return err
	}
	var may *bool
	err = r.call(ctx, "get storage class", func(ctx context.Context) error {
		class, err := r.o.Client.StorageV1().StorageClasses().Get(ctx, *c.Spec.StorageClassName, metav1.GetOptions{})
		if err == nil {
			may = class.AllowVolumeExpansion
		}
		return err
	})
	switch {
	case apierrors.IsNotFound(err), err == nil && (may == nil || !*may):
		return fault.Newf(fault.Invalid, "pvc_expansion_unsupported", "Volumes of storage class %s cannot grow", *c.Spec.StorageClassName).At("pvc_size", "cannot be changed")
	case apierrors.IsForbidden(err): // not ours to know; the API server decides when it is asked to
		return nil
	}
	return unavailable("to look up the storage class", err)
}

// dropClaim removes the volume and waits until it is gone.
func (r *Runtime) dropClaim(ctx context.Context, id agent.ID) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, lookAgain) {
		err := r.call(ctx, "delete volume", func(ctx context.Context) error {
			return r.o.Client.CoreV1().PersistentVolumeClaims(r.o.Namespace).Delete(ctx, agent.PodName(id), metav1.DeleteOptions{})
		})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return unavailable("to delete the volume", err)
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "dependency_unavailable", "The volume is not gone yet").Because(ctx.Err())
		case <-r.stop:
			return errors.New("the runtime is closed")
		case <-time.After(wait):
		}
	}
}
