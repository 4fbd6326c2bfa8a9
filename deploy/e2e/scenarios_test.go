package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"troupe/actors/agent"
	"troupe/cluster/pods"
)

// The tests of this file use the installation in the cluster through its Service, as a caller would: three nodes and a Redis, installed
// by the chart.

func TestTheMainJob(t *testing.T) {
	s := installed(t)
	if a := s.call(200, "GET", "/health/deep", nil); a.str("status") != "healthy" || a.m["kubernetes"] == nil {
		t.Errorf("%s", a.body)
	}
	id := s.create(values{"initial_files": []any{values{"path": "notes/a.txt", "content": "from the start"}}, "configuration": values{"custom_env": values{"GREETING": "good day"}}})
	s.awaitReady(id)
	// What the shell may, and what it may not.
	text := s.ask(id, `!tool shell {"command":"(cat notes/a.txt; echo; echo $GREETING; id -u; touch /nope 2>&1; ls /var/run/secrets 2>&1; env | cut -d= -f1 | sort | tr '\\n' ' '; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs|Seccomp:') > out.txt"}`+"\n!say done")
	if !strings.HasSuffix(text, "done") {
		t.Errorf("reply %q", text)
	}
	out := s.call(200, "GET", "/v1/agent/"+id+"/filesystem/files/out.txt", nil).str("content")
	for _, want := range []string{"from the start", "good day", "1000", "Read-only file system", "/var/run/secrets: No such file", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "HOME", "WORKSPACE_PATH"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the shell's output:\n%s", want, out)
		}
	}
	for _, never := range []string{"DATABASE_URL", "ANTHROPIC_API_KEY", "SHINZO_API_KEY"} {
		if strings.Contains(out, never) {
			t.Errorf("the shell sees %s", never)
		}
	}
	if rt := s.call(200, "GET", "/v1/agent/"+id+"/runtime", nil).m["pod"].(map[string]any); rt["name"] != agent.PodName(agent.ID(id)) || rt["node"] != "kubelab" {
		t.Errorf("%v", rt)
	}
}

func TestFilesOnAVolume(t *testing.T) {
	s := installed(t)
	id := s.create(nil)
	fs := "/v1/agent/" + id + "/filesystem/"
	s.call(201, "POST", fs+"files/src/main.txt", values{"content": "needle in a haystack\n"})
	s.call(200, "PATCH", fs+"files/src/main.txt", values{"operation": "append", "content": "more\n"})
	if got := s.call(200, "GET", fs+"files/src/main.txt", nil).str("content"); got != "needle in a haystack\nmore\n" {
		t.Errorf("%q", got)
	}
	if got := s.call(200, "GET", fs+"directories/src", nil); !strings.Contains(string(got.body), "main.txt") {
		t.Errorf("%s", got.body)
	}
	if got := s.call(200, "POST", fs+"operations/search", values{"query": "needle", "type": "content"}); !strings.Contains(string(got.body), "src/main.txt") {
		t.Errorf("%s", got.body)
	}
	// A volume has a size: the runner says 507 and goes on.
	s.ask(id, `!tool shell {"command":"head -c 2000000000 /dev/zero > big; true"}`+"\n!say full")
	a, err := s.try("POST", fs+"files/more.bin", values{"content": base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 4<<20)), "encoding": "base64"})
	if err != nil || a.status != 507 {
		t.Errorf("a full volume: %v %d %.200s", err, a.status, a.body)
	}
	s.call(200, "DELETE", fs+"files/big", nil)
	s.call(201, "POST", fs+"files/more.bin", values{"content": "bW9yZQ==", "encoding": "base64"})
}

func TestREC_2_AKilledContainerIsResumedInItsPod(t *testing.T) {
	s := installed(t)
	id := s.create(nil)
	s.awaitReady(id)
	uid := s.pod(id).UID
	msg := s.send(id, `!tool shell {"command":"echo x >> log; touch started; sleep 4"}`+"\n!say survived")
	s.until("the tool runs", time.Minute, func() bool {
		a, err := s.try("GET", "/v1/agent/"+id+"/filesystem/files/started", nil)
		return err == nil && a.status == 200
	})
	pid, err := strconv.Atoi(process(id))
	if err != nil {
		t.Fatal("no runner among this machine's processes")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.reply(id, msg)
	if n := s.attempts(id); n != 2.0 {
		t.Errorf("%v attempts", n)
	}
	var p *corev1.Pod
	s.until("the restart is counted", time.Minute, func() bool {
		p = s.pod(id)
		return p != nil && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	if p.UID != uid || p.Status.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("pod %s (was %s), %d restarts", p.UID, uid, p.Status.ContainerStatuses[0].RestartCount)
	}
	if n := s.call(200, "GET", "/v1/agent/"+id+"/runtime", nil).m["pod"].(map[string]any)["incarnation"]; n != 1.0 {
		t.Errorf("incarnation %v", n)
	}
}

func TestREC_3_ADeletedPodIsReplaced(t *testing.T) {
	s := installed(t)
	id := s.create(nil)
	s.awaitReady(id)
	uid := s.pod(id).UID
	s.call(201, "POST", "/v1/agent/"+id+"/filesystem/files/kept.txt", values{"content": "kept"})
	msg := s.send(id, `!tool shell {"command":"touch started; sleep 15"}`+"\n!say survived")
	s.until("the tool runs", time.Minute, func() bool {
		a, err := s.try("GET", "/v1/agent/"+id+"/filesystem/files/started", nil)
		return err == nil && a.status == 200
	})
	mustKubectl(t, "", "-n", spaceOf, "delete", "pod", agent.PodName(agent.ID(id)), "--wait=false")
	s.reply(id, msg)
	if n := s.attempts(id); n != 2.0 {
		t.Errorf("%v attempts", n)
	}
	if p := s.pod(id); p == nil || p.UID == uid || p.Labels[pods.LabelIncarnation] != "2" {
		t.Errorf("%+v", p)
	}
	if got := s.call(200, "GET", "/v1/agent/"+id+"/filesystem/files/kept.txt", nil).str("content"); got != "kept" {
		t.Errorf("%q", got)
	}
}

func TestREC_3_ADrainedNode(t *testing.T) {
	s := installed(t)
	id := s.create(nil)
	s.awaitReady(id)
	uid := s.pod(id).UID
	defer func() { mustKubectl(t, "", "uncordon", "kubelab") }()
	// The agents of the only node are drained; without --force, as they belong to their claims.
	out := mustKubectl(t, "", "drain", "kubelab", "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector="+pods.LabelName+"=troupe-agent", "--timeout=60s")
	if !strings.Contains(out, "evicting pod troupe/"+agent.PodName(agent.ID(id))) {
		t.Errorf("%s", out)
	}
	msg := s.send(id, "!say after the drain")
	var phase string
	s.until("the runtime view says what is missing", time.Minute, func() bool {
		pod, _ := s.call(200, "GET", "/v1/agent/"+id+"/runtime", nil).m["pod"].(map[string]any)
		phase, _ = pod["phase"].(string)
		return strings.Contains(phase, "Unschedulable")
	})
	t.Logf("while cordoned: %s", phase)
	mustKubectl(t, "", "uncordon", "kubelab")
	if text := s.reply(id, msg); !strings.HasSuffix(text, "after the drain") {
		t.Errorf("%q", text)
	}
	if p := s.pod(id); p.UID == uid {
		t.Error("the same pod")
	}
}

func TestPOD_4_ScaledToZeroAndWoken(t *testing.T) {
	s := installed(t)
	id := s.create(values{"cold": true})
	s.awaitReady(id)
	s.call(201, "POST", "/v1/agent/"+id+"/filesystem/files/kept.txt", values{"content": "kept"})
	for _, cause := range []struct {
		name string
		wake func()
	}{
		{"a message", func() { s.ask(id, "!say awake") }},
		{"a filesystem call", func() {
			if got := s.call(200, "GET", "/v1/agent/"+id+"/filesystem/files/kept.txt", nil).str("content"); got != "kept" {
				t.Errorf("%q", got)
			}
		}},
		{"a resume", func() {
			s.call(200, "POST", "/v1/agent/"+id+"/stop", nil)
			s.call(200, "POST", "/v1/agent/"+id+"/resume", nil)
			s.awaitReady(id)
		}},
	} {
		s.until("its pod is gone", time.Minute, func() bool { return s.pod(id) == nil })
		s.until("it says so", 10*time.Second, func() bool {
			a := s.call(200, "GET", "/v1/agent/"+id+"/ready", nil)
			return a.str("status") == "active" && a.str("pod_status") == "not_running"
		})
		cause.wake()
		if s.pod(id) == nil {
			t.Errorf("%s did not wake it", cause.name)
		}
	}
}

func TestCFG_8_AVolumeGrows(t *testing.T) {
	s := installed(t)
	id := s.create(values{"pvc_size": "400Mi"})
	s.awaitReady(id)
	s.call(400, "POST", "/v1/agent/update/"+id, values{"pvc_size": "300Mi"})
	s.call(200, "POST", "/v1/agent/update/"+id, values{"pvc_size": "800Mi"})
	claim := func() *corev1.PersistentVolumeClaim {
		c, err := s.c.CoreV1().PersistentVolumeClaims(spaceOf).Get(within(t, 10*time.Second), agent.PodName(agent.ID(id)), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	want := resource.MustParse("800Mi")
	took := s.until("the volume has grown", 2*time.Minute, func() bool {
		have := claim().Status.Capacity[corev1.ResourceStorage]
		return have.Cmp(want) >= 0
	})
	t.Logf("grown under a running pod in %s", took.Round(time.Millisecond))
	s.ask(id, `!tool shell {"command":"dd if=/dev/zero of=big bs=1M count=600 2>/dev/null; stat -c %s big > size"}`+"\n!say ok")
	if got := s.call(200, "GET", "/v1/agent/"+id+"/filesystem/files/size", nil).str("content"); strings.TrimSpace(got) != strconv.Itoa(600<<20) {
		t.Errorf("%q of 600 MiB fit", got)
	}
	// While the pod is at zero, growing starts at once too.
	s.call(200, "POST", "/v1/agent/"+id+"/stop", nil)
	s.until("its pod is gone", time.Minute, func() bool { return s.pod(id) == nil })
	s.call(200, "POST", "/v1/agent/update/"+id, values{"pvc_size": "1Gi"})
	s.until("more is asked for", 20*time.Second, func() bool {
		have := claim().Spec.Resources.Requests[corev1.ResourceStorage]
		return have.Value() == 1<<30
	})
	s.call(200, "POST", "/v1/agent/"+id+"/resume", nil)
	s.ask(id, `!tool shell {"command":"dd if=/dev/zero of=big bs=1M count=850 2>/dev/null; stat -c %s big > size"}`+"\n!say ok")
	if got := s.call(200, "GET", "/v1/agent/"+id+"/filesystem/files/size", nil).str("content"); strings.TrimSpace(got) != strconv.Itoa(850<<20) {
		t.Errorf("%q of 850 MiB fit", got)
	}
}

func TestCFG_8_AClassWhoseVolumesCannotGrow(t *testing.T) {
	s := installed(t)
	mustKubectl(t, "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: fixed}\nprovisioner: kubelab.local/volumes\nparameters: {kind: dir}\nvolumeBindingMode: Immediate\n", "apply", "-f", "-")
	ns := namespace(t, s.c, "fixed")
	rt := runtime(t, pods.Options{Namespace: ns, StorageClass: "fixed"})
	spec := podSpec(1)
	start(t, rt, spec)
	if err := rt.Resizable(within(t, 10*time.Second), spec.Agent); err == nil || !strings.Contains(err.Error(), "fixed cannot grow") {
		t.Errorf("%v", err)
	}
	remove(t, rt, spec.Agent)
}

func TestAQuotaIsToldAndWaitedFor(t *testing.T) {
	s := installed(t)
	quota := "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: full}\nspec: {hard: {pods: \"1\"}}\n"
	mustKubectl(t, quota, "-n", spaceOf, "apply", "-f", "-")
	defer kubectl("", "-n", spaceOf, "delete", "resourcequota", "full")
	s.until("the quota is counted", 20*time.Second, func() bool {
		q, err := s.c.CoreV1().ResourceQuotas(spaceOf).Get(within(t, 5*time.Second), "full", metav1.GetOptions{})
		return err == nil && len(q.Status.Used) > 0
	})
	id := s.create(nil)
	msg := s.send(id, "!say at last")
	var phase string
	s.until("the runtime view says what is missing", time.Minute, func() bool {
		pod, _ := s.call(200, "GET", "/v1/agent/"+id+"/runtime", nil).m["pod"].(map[string]any)
		phase, _ = pod["phase"].(string)
		return strings.Contains(phase, "exceeded quota")
	})
	t.Logf("under the quota: %s", phase)
	mustKubectl(t, "", "-n", spaceOf, "delete", "resourcequota", "full")
	if text := s.reply(id, msg); !strings.HasSuffix(text, "at last") {
		t.Errorf("%q", text)
	}
}

// killed ends every process of this machine that runs that program.
func killed(t *testing.T, program string) (n int) {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cmd, _ := os.ReadFile(d + "/cmdline")
		if name, _, _ := strings.Cut(string(cmd), "\x00"); name != program {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(d))
		if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
			n++
		}
	}
	return n
}

func TestTheAPIServerIsRestarted(t *testing.T) {
	s := installed(t)
	warm, cold := s.create(nil), s.create(values{"cold": true})
	s.awaitReady(warm)
	s.awaitReady(cold)
	s.until("one pod is gone", time.Minute, func() bool { return s.pod(cold) == nil })
	if killed(t, "kube-apiserver") == 0 {
		t.Fatal("no API server among this machine's processes")
	}
	first, second := s.send(warm, "!say warm"), s.send(cold, "!say cold") // accepted all the same
	if text := s.reply(warm, first); !strings.HasSuffix(text, "warm") {
		t.Errorf("%q", text)
	}
	if text := s.reply(cold, second); !strings.HasSuffix(text, "cold") {
		t.Errorf("%q", text)
	}
	s.until("the API server is back", time.Minute, func() bool { return s.pod(warm) != nil })
}

func TestANodeOfTheControlPlaneDiesWhilePodsStart(t *testing.T) {
	s := installed(t)
	var ids, msgs []string
	for i := range 9 {
		ids = append(ids, s.create(values{"name": fmt.Sprintf("start-%d", i)}))
		msgs = append(msgs, s.send(ids[i], "!say here"))
		if i == 4 {
			name := strings.Fields(mustKubectl(t, "", "-n", spaceOf, "get", "pods", "-l", "app.kubernetes.io/name=troupe", "-o", "name"))[0]
			mustKubectl(t, "", "-n", spaceOf, "delete", name, "--grace-period=0", "--force")
		}
	}
	for i, id := range ids {
		if text := s.reply(id, msgs[i]); !strings.HasSuffix(text, "here") {
			t.Errorf("%q", text)
		}
	}
	mustKubectl(t, "", "-n", spaceOf, "rollout", "status", "deployment/troupe", "--timeout=90s")
}

func TestFiftyAgentsAtOnce(t *testing.T) {
	s := installed(t)
	const n = 50
	from := time.Now()
	ids, replies := make([]string, n), make([]time.Duration, n)
	var wg sync.WaitGroup
	for i := range n {
		a := s.call(201, "POST", "/v1/agent/create", values{"name": fmt.Sprintf("many-%d", i), "warmth_window_ms": nil, "pvc_size": "300Mi"})
		ids[i] = a.str("id")
	}
	created := time.Since(from)
	defer func() {
		from := time.Now()
		for _, id := range ids {
			s.drop(id)
		}
		s.until("they are gone", 3*time.Minute, func() bool {
			left := strings.Join(s.belongings(), " ")
			for _, id := range ids {
				if strings.Contains(left, id) {
					return false
				}
			}
			return true
		})
		t.Logf("50 agents deleted, with pods and volumes, in %s", time.Since(from).Round(time.Millisecond))
	}()
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			a, err := s.try("POST", "/v1/agent/"+ids[i]+"/messages", values{"content": "!say hello"})
			if err != nil || a.status != 201 {
				t.Errorf("send: %v %d", err, a.status)
				return
			}
			for end := time.Now().Add(4 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
				if m, err := s.try("GET", "/v1/agent/"+ids[i]+"/messages/"+a.str("id"), nil); err == nil && m.str("outcome") == "completed" {
					replies[i] = time.Since(from)
					return
				}
			}
			t.Errorf("agent %d did not answer", i)
		}()
	}
	wg.Wait()
	t.Logf("50 agents created in %s; create to reply %s", created.Round(time.Millisecond), quantiles(replies))
}

// TestPOD_6_AThousandCausesWakeOnePod counts the Pods that a thousand causes at once make of one agent at zero.
func TestPOD_6_AThousandCausesWakeOnePod(t *testing.T) {
	s := installed(t)
	id := s.create(values{"cold": true})
	s.awaitReady(id)
	s.call(201, "POST", "/v1/agent/"+id+"/filesystem/files/a.txt", values{"content": "a"})
	s.until("its pod is gone", time.Minute, func() bool { return s.pod(id) == nil })
	s.call(200, "POST", "/v1/agent/update/"+id, values{"warmth_window_ms": nil})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w, err := s.c.CoreV1().Pods(spaceOf).Watch(ctx, metav1.ListOptions{LabelSelector: pods.LabelAgent + "=" + id})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok {
				seen[string(p.UID)] = true
			}
		}
	}()
	const n = 1000
	var wg sync.WaitGroup
	var mu sync.Mutex
	var msgs []string
	statuses := map[int]int{}
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var a answer
			var err error
			if i%2 == 0 {
				a, err = s.try("POST", "/v1/agent/"+id+"/messages", values{"content": fmt.Sprintf("!say %d", i)})
			} else {
				a, err = s.try("GET", "/v1/agent/"+id+"/filesystem/files/a.txt", nil)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("cause %d: %v", i, err)
				return
			}
			statuses[a.status]++
			if a.status == 201 {
				msgs = append(msgs, a.str("id"))
			}
		}()
	}
	wg.Wait()
	if statuses[201] != n/2 || statuses[200] != n/2 {
		t.Errorf("answers %v", statuses)
	}
	s.until("every message has an outcome", 3*time.Minute, func() bool {
		a, err := s.try("GET", "/v1/agent/"+id+"/runtime", nil)
		q, _ := a.m["queue"].(map[string]any)
		return err == nil && a.status == 200 && q["pending"] == 0.0 && a.m["turn"] == nil
	})
	for _, m := range []string{msgs[0], msgs[len(msgs)/2], msgs[len(msgs)-1]} {
		if a := s.call(200, "GET", "/v1/agent/"+id+"/messages/"+m, nil); a.str("outcome") != "completed" {
			t.Errorf("%s", a.body)
		}
	}
	w.Stop()
	<-watched
	t.Logf("%d causes at once: %d pod(s), answers %v", n, len(seen), statuses)
	if len(seen) != 1 {
		t.Errorf("%d pods", len(seen))
	}
}

// span is the time between two stamps of a message.
func span(t *testing.T, a answer, from, to string) time.Duration {
	t.Helper()
	x, err := time.Parse(time.RFC3339Nano, a.str(from))
	if err != nil {
		t.Fatalf("%s: %s", from, a.body)
	}
	y, err := time.Parse(time.RFC3339Nano, a.str(to))
	if err != nil {
		t.Fatalf("%s: %s", to, a.body)
	}
	return y.Sub(x)
}

// TestPOD_10_Figures prints what the suite promises to print; it judges nothing but that everything works.
func TestPOD_10_Figures(t *testing.T) {
	s := installed(t)
	var ready, cold, warm []time.Duration
	var last string
	for range 12 {
		from := time.Now()
		id := s.call(201, "POST", "/v1/agent/create", values{"name": "figures"}).str("id")
		s.awaitReady(id)
		ready = append(ready, time.Since(from))
		s.until("its pod is gone", time.Minute, func() bool { return s.pod(id) == nil })
		m := s.send(id, "!say cold")
		s.reply(id, m)
		cold = append(cold, span(t, s.call(200, "GET", "/v1/agent/"+id+"/messages/"+m, nil), "created_at", "delivered_at"))
		s.drop(id)
	}
	last = s.create(nil)
	s.awaitReady(last)
	for range 40 {
		m := s.send(last, "!say warm")
		s.reply(last, m)
		warm = append(warm, span(t, s.call(200, "GET", "/v1/agent/"+last+"/messages/"+m, nil), "created_at", "delivered_at"))
	}
	t.Logf("create to ready:               %s", quantiles(ready))
	t.Logf("wake to turn.start, pod cold:  %s", quantiles(cold))
	t.Logf("wake to turn.start, warm:      %s", quantiles(warm))
	s.files(last)
}

// files prints the rates of the filesystem API beside those of a direct read where the volume is mounted.
func (s *system) files(id string) {
	const size, parts = 10 << 20, 6
	s.t.Helper()
	body := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("0123456789abcdef"), size/16))
	at := "/v1/agent/" + id + "/filesystem/files/"
	from := time.Now()
	for i := range parts {
		s.call(201, "POST", fmt.Sprintf("%sbig-%d", at, i), values{"content": body, "encoding": "base64"})
	}
	write := time.Since(from)
	from = time.Now()
	for i := range parts {
		r, err := http.NewRequest("GET", fmt.Sprintf("%s%sbig-%d?download=true", s.base, at, i), nil)
		if err != nil {
			s.t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+exampleKey)
		res, err := s.http.Do(r)
		if err != nil {
			s.t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || n != size {
			s.t.Fatalf("%d bytes, %v", n, err)
		}
	}
	read := time.Since(from)
	root := "/proc/" + process(id) + "/root/workspace/"
	from = time.Now()
	for i := range parts {
		if b, err := os.ReadFile(fmt.Sprintf("%sbig-%d", root, i)); err != nil || len(b) != size {
			s.t.Fatal(len(b), err)
		}
	}
	direct := time.Since(from)
	s.call(201, "POST", at+"small.txt", values{"content": "small"})
	var api, disk []time.Duration
	for range 200 {
		from := time.Now()
		s.call(200, "GET", at+"small.txt", nil)
		api = append(api, time.Since(from))
		from = time.Now()
		if _, err := os.ReadFile(root + "small.txt"); err != nil {
			s.t.Fatal(err)
		}
		disk = append(disk, time.Since(from))
	}
	rate := func(d time.Duration) float64 { return parts * size / float64(1<<20) / d.Seconds() }
	s.t.Logf("files of 10 MiB:               write (JSON, base64) %.0f MiB/s, read (download) %.0f MiB/s, direct read on the node %.0f MiB/s", rate(write), rate(read), rate(direct))
	s.t.Logf("a small file:                  through the API %s, direct read on the node %s", quantiles(api), quantiles(disk))
}
