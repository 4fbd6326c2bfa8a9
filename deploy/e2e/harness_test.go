package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"troupe/actors/agent"
	"troupe/cluster/pods"
)

const (
	release = "troupe"
	spaceOf = "troupe" // the namespace of the installation and its agents
)

// settings of the installation under test. The figures of the suite are taken with these: three nodes, Redis and every agent share two
// cores, so pods ask for less than POD-2's defaults, which have a test of their own.
func suiteValues() values {
	return values{
		"replicas": 3,
		"image":    values{"repository": "localhost/troupe", "tag": "e2e", "pullPolicy": "Never"},
		"secrets":  values{"masterKey": base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)), "bootstrapAPIKey": exampleKey},
		"redis":    values{"image": "localhost/redis:e2e", "storage": "1Gi", "password": "end2end", "resources": values{"requests": values{"cpu": "10m", "memory": "32Mi"}, "limits": values{"memory": "512Mi"}}},
		"agents": values{"image": values{"repository": "localhost/troupe-runner", "tag": "e2e", "pullPolicy": "Never"},
			"resources": values{"requests": values{"cpu": "10m", "memory": "16Mi"}, "limits": values{"cpu": "1", "memory": "256Mi"}}},
		"resources": values{"requests": values{"cpu": "10m", "memory": "64Mi"}},
		"settings":  values{"TROUPE_ANTHROPIC_URL": "rehearsal", "TROUPE_RATE_LIMIT": 0, "TROUPE_WARMTH_WINDOW": "1s", "TROUPE_SWEEP_EVERY": "5s", "TROUPE_ORPHAN_GRACE": "1s"},
	}
}

// kubectl runs the command-line client of the cluster.
func kubectl(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func mustKubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := kubectl(stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// system is the installation of the chart inside the cluster.
type system struct {
	t    *testing.T
	c    kubernetes.Interface
	base string
	http *http.Client
}

var install struct {
	once sync.Once
	err  error
	took time.Duration
}

// orphan is a Pod of an agent that does not exist, as a node that was late would start it.
var (
	orphan = podSpec(1)
	plant  sync.Once
)

// installed installs the chart once for all tests.
func installed(t *testing.T) *system {
	t.Helper()
	install.once.Do(func() {
		from := time.Now()
		install.err = doInstall(t)
		install.took = time.Since(from)
		t.Logf("installed by the chart, three nodes ready, in %s", install.took.Round(time.Millisecond))
	})
	if install.err != nil {
		t.Fatal(install.err)
	}
	s := &system{t: t, c: connect(t), http: &http.Client{Timeout: 90 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256, MaxConnsPerHost: 512}}}
	svc, err := s.c.CoreV1().Services(spaceOf).Get(within(t, 10*time.Second), release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.base = "http://" + svc.Spec.ClusterIP + ":8080"
	t.Cleanup(s.http.CloseIdleConnections)
	plant.Do(func() { // the orphan of TestPOD_1_NoOrphans: the sweep touches nothing younger than two minutes
		start(t, runtime(t, pods.Options{Namespace: spaceOf, Installation: release}), orphan)
	})
	return s
}

func doInstall(t *testing.T) error {
	if _, err := kubectl("", "create", "namespace", spaceOf); err != nil && !strings.Contains(err.Error(), "AlreadyExists") {
		return err
	}
	if _, err := kubectl("", "label", "--overwrite", "namespace", spaceOf, "pod-security.kubernetes.io/enforce=restricted"); err != nil {
		return err
	}
	files, err := render(t, release, spaceOf, suiteValues())
	if err != nil {
		return err
	}
	all := strings.Join(documents(files), "---\n")
	if _, err := kubectl(all, "apply", "--server-side", "--dry-run=server", "-f", "-"); err != nil {
		return err
	}
	if _, err := kubectl(all, "apply", "--server-side", "-f", "-"); err != nil {
		return err
	}
	for _, what := range []string{"statefulset/troupe-redis", "deployment/troupe", "daemonset/troupe-prepull"} {
		if _, err := kubectl("", "-n", spaceOf, "rollout", "status", what, "--timeout=150s"); err != nil {
			state, _ := kubectl("", "-n", spaceOf, "describe", "pods")
			logs, _ := kubectl("", "-n", spaceOf, "logs", "deployment/troupe", "--tail=30")
			return fmt.Errorf("%w\n%s\n%s", err, state, logs)
		}
	}
	return nil
}

// answer is a response of the API.
type answer struct {
	status int
	body   []byte
	m      map[string]any
}

func (s *system) try(method, path string, body any) (answer, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		in = bytes.NewReader(b)
	}
	r, err := http.NewRequest(method, s.base+path, in)
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+exampleKey)
	r.Header.Set("Idempotency-Key", agent.NewUUID())
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := s.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		return a, err
	}
	_ = json.Unmarshal(a.body, &a.m) // not everything is JSON
	return a, nil
}

// call expects that status.
func (s *system) call(status int, method, path string, body any) answer {
	s.t.Helper()
	a, err := s.try(method, path, body)
	for end := time.Now().Add(15 * time.Second); errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(end); { // a Service takes a moment to leave a node out
		time.Sleep(100 * time.Millisecond)
		a, err = s.try(method, path, body)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if a.status != status {
		s.t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, status, a.body)
	}
	return a
}

func (a answer) str(name string) string { v, _ := a.m[name].(string); return v }

// create makes an agent; the test deletes it at its end.
func (s *system) create(extra values) string {
	s.t.Helper()
	body := values{"name": "e2e", "system_prompt": "You are a rehearsal.", "warmth_window_ms": nil}
	for k, v := range extra {
		body[k] = v
	}
	if body["cold"] == true { // at zero after the installation's default, which is shorter than what an owner may choose
		delete(body, "warmth_window_ms")
		delete(body, "cold")
	}
	id := s.call(201, "POST", "/v1/agent/create", body).str("id")
	s.t.Cleanup(func() { s.drop(id) })
	return id
}

func (s *system) drop(id string) {
	if a, err := s.try("POST", "/v1/agent/delete/"+id, values{"force": true}); err != nil || a.status != 200 && a.status != 404 {
		s.t.Errorf("delete %s: %v %d %s", id, err, a.status, a.body)
	}
}

// until polls the outside world.
func (s *system) until(what string, limit time.Duration, ok func() bool) time.Duration {
	s.t.Helper()
	from := time.Now()
	for !ok() {
		if time.Since(from) > limit {
			state, _ := kubectl("", "-n", spaceOf, "get", "pods,pvc", "-o", "wide")
			s.t.Fatalf("not within %s: %s\n%s", limit, what, state)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(from)
}

func (s *system) ready(id string) bool {
	a, err := s.try("GET", "/v1/agent/"+id+"/ready", nil)
	return err == nil && a.status == 200 && a.m["ready"] == true
}

func (s *system) awaitReady(id string) time.Duration {
	s.t.Helper()
	return s.until("agent "+id+" is ready", 2*time.Minute, func() bool { return s.ready(id) })
}

// ask sends a message and waits for its reply.
func (s *system) ask(id, text string) string {
	s.t.Helper()
	return s.reply(id, s.send(id, text))
}

func (s *system) send(id, text string) string {
	s.t.Helper()
	return s.call(201, "POST", "/v1/agent/"+id+"/messages", values{"content": text}).str("id")
}

// reply waits until the message has an outcome and returns the text of its reply.
func (s *system) reply(id, message string) string {
	s.t.Helper()
	var m answer
	s.until("message "+message+" is answered", 3*time.Minute, func() bool {
		a, err := s.try("GET", "/v1/agent/"+id+"/messages/"+message, nil)
		m = a
		return err == nil && a.status == 200 && a.m["outcome"] != nil
	})
	if m.str("outcome") != "completed" {
		s.t.Fatalf("message %s: %s", message, m.body)
	}
	for _, item := range s.call(200, "GET", "/v1/agent/"+id+"/messages?limit=100", nil).m["messages"].([]any) {
		if m, _ := item.(map[string]any); m["reply_to_id"] == message {
			text, _ := m["content"].(string)
			return text
		}
	}
	s.t.Fatalf("no reply to %s", message)
	return ""
}

// attempts is how often the newest turn of an agent was begun.
func (s *system) attempts(id string) any {
	s.t.Helper()
	at := "/v1/agent/" + id + "/sessions"
	newest, _ := s.call(200, "GET", at, nil).m["sessions"].([]any)[0].(map[string]any)["id"].(string)
	turns := s.call(200, "GET", at+"/"+newest, nil).m["turns"].([]any)
	return turns[len(turns)-1].(map[string]any)["attempt"]
}

func (s *system) pod(id string) *corev1.Pod {
	s.t.Helper()
	p, err := s.c.CoreV1().Pods(spaceOf).Get(within(s.t, 10*time.Second), agent.PodName(agent.ID(id)), metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return p
}

// process finds the runner of an agent among this machine's processes.
func process(id string) (pid string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		if exe, _ := os.Readlink(d + "/exe"); !strings.HasSuffix(exe, "/troupe-runner") {
			continue
		}
		if env, _ := os.ReadFile(d + "/environ"); strings.Contains("\x00"+string(env), "\x00AGENT_UUID="+id+"\x00") {
			return filepath.Base(d)
		}
	}
	return ""
}

// quantiles prints p50 and p95 of some times.
func quantiles(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	slices.Sort(all)
	at := func(q float64) time.Duration {
		d := all[min(int(q*float64(len(all))), len(all)-1)]
		if d < 10*time.Millisecond {
			return d.Round(10 * time.Microsecond)
		}
		return d.Round(time.Millisecond)
	}
	return fmt.Sprintf("p50 %s, p95 %s (n=%d)", at(.5), at(.95), len(all))
}

// belongings lists what of agents is in the cluster.
func (s *system) belongings() (out []string) {
	s.t.Helper()
	sel := metav1.ListOptions{LabelSelector: pods.LabelName + "=troupe-agent"}
	ctx := within(s.t, 30*time.Second)
	p, err := s.c.CoreV1().Pods(spaceOf).List(ctx, sel)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, x := range p.Items {
		out = append(out, "pod "+x.Name)
	}
	c, err := s.c.CoreV1().PersistentVolumeClaims(spaceOf).List(ctx, sel)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, x := range c.Items {
		out = append(out, "claim "+x.Name)
	}
	v, err := s.c.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, x := range v.Items {
		if x.Spec.ClaimRef != nil && x.Spec.ClaimRef.Namespace == spaceOf && strings.HasPrefix(x.Spec.ClaimRef.Name, "agent-") {
			out = append(out, "volume "+x.Name)
		}
	}
	sec, err := s.c.CoreV1().Secrets(spaceOf).List(ctx, sel)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, x := range sec.Items {
		out = append(out, "secret "+x.Name)
	}
	return out
}

// explain prints what is known of things ("pod NAME", "volume NAME") that should be gone: as they are, their events, and what the
// cluster's own parts last said of them.
func (s *system) explain(things []string) {
	s.t.Helper()
	kinds := map[string]string{"pod": "pod", "claim": "pvc", "volume": "pv", "secret": "secret"}
	for _, thing := range things {
		kind, name, _ := strings.Cut(thing, " ")
		object, _ := kubectl("", "-n", spaceOf, "get", kinds[kind], name, "-o", "jsonpath={.metadata}{\"\\n\"}{.status}")
		events, _ := kubectl("", "-n", spaceOf, "get", "events", "--field-selector", "involvedObject.name="+name)
		s.t.Logf("left: %s\n%s\n%s", thing, object, events)
		logs, _ := filepath.Glob(filepath.Join(os.Getenv("KUBE_DIR"), "log", "*.log"))
		for _, path := range logs {
			all, err := os.ReadFile(path)
			if err != nil {
				s.t.Log(err)
				continue
			}
			var of []string
			for line := range strings.Lines(string(all)) {
				if strings.Contains(line, name) {
					of = append(of, line)
				}
			}
			if len(of) > 0 {
				s.t.Logf("%s:\n%s", filepath.Base(path), strings.Join(of[max(0, len(of)-15):], ""))
			}
		}
	}
}
