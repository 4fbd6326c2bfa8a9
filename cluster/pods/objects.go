package pods

import (
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"troupe/actors/agent"
)

// Labels and annotations of what belongs to agents.
const (
	LabelName         = "app.kubernetes.io/name"
	LabelInstance     = "app.kubernetes.io/instance"
	LabelManaged      = "app.kubernetes.io/managed-by"
	LabelAgent        = "troupe.internal/agent"
	LabelIncarnation  = "troupe.internal/incarnation"
	annotationOrphan  = "troupe.internal/orphaned-at"
	annotationEvict   = "cluster-autoscaler.kubernetes.io/safe-to-evict"
	annotationDefault = "kubectl.kubernetes.io/default-container"
)

// Fixed places inside a Pod.
const (
	FilesPort = 7070 // of the runner's file server
	user      = 1000 // in the runner's image, and group of the volume
	workspace = "/workspace"
	home      = "/agent/home"
	runDir    = "/agent/run"
	container = "runner"
)

func (r *Runtime) labels(id agent.ID) map[string]string {
	return map[string]string{LabelName: "troupe-agent", LabelInstance: r.o.Installation, LabelManaged: "troupe", LabelAgent: string(id)}
}

// selector matches everything that belongs to agents of this installation.
func (r *Runtime) selector() string {
	return metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: map[string]string{LabelName: "troupe-agent", LabelInstance: r.o.Installation, LabelManaged: "troupe"}})
}

func secretName(id agent.ID, incarnation int64) string {
	return agent.PodName(id) + "-" + strconv.FormatInt(incarnation, 10)
}

// claim is the agent's volume (POD-2).
func (r *Runtime) claim(id agent.ID, bytes int64) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: agent.PodName(id), Namespace: r.o.Namespace, Labels: r.labels(id)}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(bytes, resource.BinarySI)}
	if r.o.StorageClass != "" {
		c.Spec.StorageClassName = &r.o.StorageClass
	}
	return c
}

// secret is the environment of one incarnation (POD-3). It cannot be changed and goes with its Pod.
func (r *Runtime) secret(s *agent.PodSpec, pod types.UID) *corev1.Secret {
	out := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secretName(s.Agent, s.Incarnation), Namespace: r.o.Namespace, Labels: r.labels(s.Agent)},
		Type: corev1.SecretTypeOpaque, Immutable: ptr(true), Data: map[string][]byte{}}
	out.Labels[LabelIncarnation] = strconv.FormatInt(s.Incarnation, 10)
	out.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: agent.PodName(s.Agent), UID: pod}}
	for name, v := range s.Env {
		out.Data[name] = []byte(v.Reveal())
	}
	return out
}

// pod is one incarnation. It is owned by its claim, so that a drain does not take it for one that nobody would start again.
func (r *Runtime) pod(s *agent.PodSpec, claim types.UID) *corev1.Pod {
	name := agent.PodName(s.Agent)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: r.o.Namespace, Labels: r.labels(s.Agent),
		Annotations:     map[string]string{annotationEvict: "true", annotationDefault: container},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "PersistentVolumeClaim", Name: name, UID: claim, Controller: ptr(true)}}}}
	p.Labels[LabelIncarnation] = strconv.FormatInt(s.Incarnation, 10)
	p.Spec = corev1.PodSpec{
		RestartPolicy:                 corev1.RestartPolicyOnFailure, // REC-2; one that ends in order is not started again
		TerminationGracePeriodSeconds: ptr(int64(agent.ShutdownGrace.Seconds())),
		AutomountServiceAccountToken:  ptr(false),
		EnableServiceLinks:            ptr(false),
		PriorityClassName:             r.o.Priority,
		NodeSelector:                  r.o.NodeSelector,
		Tolerations:                   r.o.Tolerations,
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(user)), RunAsGroup: ptr(int64(user)), FSGroup: ptr(int64(user)),
			FSGroupChangePolicy: ptr(corev1.FSGroupChangeOnRootMismatch), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{
			Name: container, Image: r.o.Image, ImagePullPolicy: corev1.PullPolicy(r.o.PullPolicy), WorkingDir: workspace,
			Ports:     []corev1.ContainerPort{{Name: "files", ContainerPort: FilesPort, Protocol: corev1.ProtocolTCP}},
			EnvFrom:   []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secretName(s.Agent, s.Incarnation)}}}},
			Env:       environment(s),
			Resources: r.o.Size.requirements(),
			VolumeMounts: []corev1.VolumeMount{{Name: "volume", MountPath: workspace, SubPath: "workspace"}, {Name: "volume", MountPath: home, SubPath: "home"},
				{Name: "scratch", MountPath: runDir, SubPath: "run"}, {Name: "scratch", MountPath: "/tmp", SubPath: "tmp"}},
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true), Privileged: ptr(false),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		}},
		Volumes: []corev1.Volume{
			{Name: "volume", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}},
			{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &r.o.Size.Scratch}}}},
	}
	for _, n := range r.o.PullSecrets {
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: n})
	}
	if r.o.RuntimeClass != "" {
		p.Spec.RuntimeClassName = &r.o.RuntimeClass
	}
	return p
}

// environment is what is no secret. It wins over names of the Secret.
func environment(s *agent.PodSpec) []corev1.EnvVar {
	fixed := map[string]string{"HOME": home, "WORKSPACE_PATH": workspace, "TROUPE_RUN_DIR": runDir,
		"TROUPE_FILES_LISTEN": "[$(TROUPE_POD_IP)]:" + strconv.Itoa(FilesPort)}
	if s.Ephemeral {
		fixed["TROUPE_EMPTY_MEMORY"] = "true" // CFG-11
	}
	out := []corev1.EnvVar{{Name: "TROUPE_POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "status.podIP"}}}}
	for _, name := range slices.Sorted(maps.Keys(fixed)) {
		out = append(out, corev1.EnvVar{Name: name, Value: fixed[name]})
	}
	return out
}

func (s *Size) requirements() corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: s.CPURequest, corev1.ResourceMemory: s.MemoryRequest},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: s.CPULimit, corev1.ResourceMemory: s.MemoryLimit},
	}
}

func ptr[T any](v T) *T { return &v }
