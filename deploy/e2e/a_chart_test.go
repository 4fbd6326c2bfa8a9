package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// home is the folder deploy; the suite's binary runs in deploy/e2e.
const home = ".."

type values = map[string]any

// render is `helm template` by Helm's own engine.
func render(t *testing.T, release, namespace string, v values) (map[string]string, error) {
	t.Helper()
	c, err := loader.LoadDir(filepath.Join(home, "chart"))
	if err != nil {
		t.Fatal(err)
	}
	vals, err := util.ToRenderValues(c, v, common.ReleaseOptions{Name: release, Namespace: namespace, IsInstall: true, Revision: 1}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	out, err := engine.Engine{}.Render(c, vals)
	delete(out, "troupe/templates/NOTES.txt")
	return out, err
}

// documents are the objects of a rendering, in the order of their files.
func documents(files map[string]string) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, d := range strings.Split("\n"+files[name], "\n---\n") {
			if strings.TrimSpace(stripComments(d)) != "" {
				out = append(out, strings.Trim(d, "\n")+"\n")
			}
		}
	}
	return out
}

func stripComments(s string) string {
	var b strings.Builder
	for _, l := range strings.Split(s, "\n") {
		if !strings.HasPrefix(strings.TrimSpace(l), "#") {
			b.WriteString(l + "\n")
		}
	}
	return b.String()
}

const (
	exampleMaster = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	exampleKey    = "sk_shinzo_test_ExampleExampleExampleExampleExampleExample"
)

// everything switches every part of the chart on.
func everything() values {
	return values{"secrets": values{"masterKey": exampleMaster, "bootstrapAPIKey": exampleKey, "anthropicAPIKey": "sk-ant-x"}, "imagePullSecrets": []any{"registry"},
		"nodeSelector": values{"pool": "control"}, "tolerations": []any{values{"key": "control", "operator": "Exists"}}, "priorityClassName": "high",
		"podAnnotations": values{"a": "b"}, "ipFamily": "IPv6", "publicURL": "https://troupe.example.org", "settings": values{"TROUPE_LOG": "debug", "TROUPE_AGENT_LIMIT": 5},
		"ingress": values{"enabled": true, "className": "nginx", "tlsSecret": "tls", "annotations": values{"a": "b"}},
		"redis":   values{"password": "pw", "storageClass": "fast", "minReplicaAcks": 1, "command": []any{"redis-server"}},
		"agents": values{"namespace": "agents", "storageClass": "fast", "runtimeClass": "gvisor", "priorityClass": "low", "imagePullSecrets": []any{"registry"},
			"nodeSelector": values{"pool": "agents", "disk": "ssd"}, "tolerations": []any{values{"key": "agents", "operator": "Exists", "effect": "NoSchedule"}}},
		"metrics": values{"serviceMonitor": values{"enabled": true, "labels": values{"release": "prometheus"}}}}
}

// TestTheChartFitsTheSchemas decodes every object of the chart strictly: an unknown field or a wrong type fails.
func TestTheChartFitsTheSchemas(t *testing.T) {
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for name, v := range map[string]values{
		"defaults":            {"secrets": values{"masterKey": exampleMaster}},
		"everything":          everything(),
		"external redis":      {"secrets": values{"masterKey": exampleMaster}, "redis": values{"enabled": false, "url": "rediss://redis.example.org:6379"}, "networkPolicy": values{"enabled": false}, "agents": values{"prePull": false}},
		"secret of one's own": {"secrets": values{"existing": "mine"}},
	} {
		files, err := render(t, "troupe", "troupe", v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, d := range documents(files) {
			if strings.Contains(d, "monitoring.coreos.com") { // not one of Kubernetes' own
				var m map[string]any
				if err := yaml.UnmarshalStrict([]byte(d), &m); err != nil || m["kind"] != "ServiceMonitor" {
					t.Errorf("%s: %v\n%s", name, err, d)
				}
				continue
			}
			if _, _, err := strict.Decode([]byte(d), nil, nil); err != nil {
				t.Errorf("%s: %v\n%s", name, err, d)
			}
		}
	}
}

func TestTheChartIsLinted(t *testing.T) {
	l := lint.RunAll(filepath.Join(home, "chart"), everything(), "troupe")
	for _, m := range l.Messages {
		if m.Severity > 1 { // above information
			t.Errorf("%s: %v", m.Path, m.Err)
		}
	}
}

func TestTheChartRefusesWrongValues(t *testing.T) {
	for want, v := range map[string]values{
		"masterKey":       {},
		"replicas":        {"replicas": 0, "secrets": values{"masterKey": exampleMaster}},
		"replicaz":        {"replicaz": 3, "secrets": values{"masterKey": exampleMaster}},
		"bootstrapAPIKey": {"secrets": values{"masterKey": exampleMaster, "bootstrapAPIKey": "short"}},
		"cpu":             {"secrets": values{"masterKey": exampleMaster}, "agents": values{"resources": values{"requests": values{"cpu": "much"}}}},
		"redis.url":       {"secrets": values{"masterKey": exampleMaster}, "redis": values{"enabled": false}},
		"appendfsync":     {"secrets": values{"masterKey": exampleMaster}, "redis": values{"appendfsync": "no"}},
	} {
		if _, err := render(t, "troupe", "troupe", v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestTheManifestsAreTheCharts keeps the plain manifests true: they are the chart's rendering (-update makes them anew).
func TestTheManifestsAreTheCharts(t *testing.T) {
	base, err := render(t, "troupe", "troupe", values{"secrets": values{"existing": "troupe"}, "redis": values{"enabled": false}})
	if err != nil {
		t.Fatal(err)
	}
	redis, err := render(t, "troupe", "troupe", values{"secrets": values{"existing": "troupe"}})
	if err != nil {
		t.Fatal(err)
	}
	var extra []string
	for _, d := range documents(redis) {
		if strings.Contains(d, "name: troupe-redis\n  namespace") {
			extra = append(extra, d)
		}
	}
	for path, docs := range map[string][]string{"kustomize/base/troupe.yaml": documents(base), "kustomize/redis/redis.yaml": extra} {
		path = filepath.Join(home, path)
		text := "# Rendered from deploy/chart; `make manifests` makes it anew.\n" + strings.Join(docs, "---\n")
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(path); err != nil || string(have) != text {
			t.Errorf("%s is not what the chart renders (%v)", path, err)
		}
	}
}

// TestADryRunOfEverything hands chart and manifests, with every part switched on, to the real API server before anything is installed.
func TestADryRunOfEverything(t *testing.T) {
	for _, ns := range []string{"dry", "troupe"} {
		if out, err := kubectl("", "create", "namespace", ns); err != nil && !strings.Contains(out, "AlreadyExists") {
			t.Fatal(err)
		}
		mustKubectl(t, "", "label", "--overwrite", "namespace", ns, "pod-security.kubernetes.io/enforce=restricted")
	}
	defer func() { mustKubectl(t, "", "delete", "namespace", "dry", "--wait=false") }()
	v := everything()
	v["agents"].(values)["namespace"] = "dry"
	v["ipFamily"] = "IPv4"
	files, err := render(t, "troupe", "dry", v)
	if err != nil {
		t.Fatal(err)
	}
	delete(files, "troupe/templates/servicemonitor.yaml") // of the Prometheus operator, which is not there
	out := mustKubectl(t, strings.Join(documents(files), "---\n"), "apply", "--server-side", "--dry-run=server", "-f", "-")
	for _, dir := range []string{"base", "redis"} {
		out += mustKubectl(t, "", "apply", "--server-side", "--dry-run=server", "-k", filepath.Join(home, "kustomize", dir))
	}
	if strings.Contains(out, "Warning") {
		t.Errorf("the API server warns:\n%s", out)
	}
	t.Logf("%d objects accepted", strings.Count(out, "serverside-applied (server dry run)"))
}
