package api

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pkg is what `go list` says of one package.
type pkg struct {
	ImportPath string
	Dir        string
	Name       string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,GoFiles,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// arrows says which rooms of troupe, and which libraries besides the standard one, a room may import. A room that is
// not listed may import anything.
var arrows = map[string]string{
	"actors/fault":            "",
	"actors/account":          "actors/fault",
	"actors/field":            "actors/fault",
	"actors/cron":             "",
	"actors/agent":            "actors/cron actors/fault actors/account actors/field github.com/google/uuid",
	"actors/protocol":         "actors/agent actors/fault google.golang.org/protobuf",
	"actors/agentclient":      "actors/agent actors/fault actors/protocol cluster/member github.com/asynkron/protoactor-go golang.org/x/sync",
	"actors/agentgrain":       "actors/account actors/agent actors/fault actors/field actors/protocol cluster/member github.com/asynkron/protoactor-go",
	"actors/clockgrain":       "actors/agent actors/fault actors/protocol cluster/member github.com/asynkron/protoactor-go",
	"cluster/member":          "actors/agent actors/fault actors/protocol github.com/asynkron/protoactor-go google.golang.org/grpc",
	"cluster/process":         "actors/agent actors/fault",
	"cluster/pods":            "actors/agent actors/fault k8s.io/client-go k8s.io/api k8s.io/apimachinery",
	"persistence/redisstore":  "actors/agent actors/account actors/fault github.com/redis/go-redis",
	"persistence/sqlitestore": "actors/agent actors/account actors/fault modernc.org/sqlite",
	"persistence/seal":        "actors/agent",
	"http/api":                "",
	"http/client":             "github.com/google/uuid",
	"channels":                "actors/account actors/agent actors/fault actors/protocol github.com/rivo/uniseg github.com/yuin/goldmark",
	"channels/discord":        "channels github.com/bwmarrin/discordgo github.com/gorilla/websocket",
	"channels/slack":          "channels github.com/slack-go/slack",
	"channels/telegram":       "actors/agent channels",
	"channels/whatsapp":       "actors/agent channels",
	"actors/botgrain":         "actors/agent actors/fault actors/protocol cluster/member github.com/asynkron/protoactor-go",
	"channels/webhook":        "actors/agent http/egress github.com/standard-webhooks/standard-webhooks golang.org/x/sync",
	"http/egress":             "actors/agent code.dny.dev/ssrf",
	"http/mcp":                "actors/account actors/agent actors/fault github.com/modelcontextprotocol/go-sdk golang.org/x/oauth2",
	"http/runnerproto":        "actors/agent actors/fault",
	"http/route":              "actors/account actors/agent actors/fault actors/field http/runnerproto github.com/fasthttp/router github.com/valyala/fasthttp",
	"http/auth":               "actors/account actors/agent actors/fault persistence/seal github.com/golang-jwt/jwt golang.org/x/crypto",
	"http/rest":               "actors/account actors/agent actors/agentclient actors/fault actors/field actors/protocol http/api http/auth http/mcp http/route persistence/seal",
	"http/files":              "actors/agent actors/agentclient actors/fault actors/field actors/protocol http/api http/route http/runnerproto",
	"http/gateway":            "actors/account actors/agent actors/agentclient actors/fault actors/protocol http/route persistence/seal github.com/valyala/fasthttp",
	"http/runnerapi":          "actors/account actors/agent actors/agentclient actors/fault actors/field actors/protocol http/mcp http/rest http/route http/runnerproto github.com/valyala/fasthttp",
}

func TestRoomsImportOnlyWhatLiesBelow(t *testing.T) {
	for _, p := range packages(t) {
		room := strings.TrimPrefix(p.ImportPath, "troupe/")
		allowed, listed := arrows[room]
		if !listed {
			continue
		}
		for _, imp := range p.Imports {
			inside, isTroupe := strings.CutPrefix(imp, "troupe/")
			if !isTroupe && !strings.Contains(strings.Split(imp, "/")[0], ".") {
				continue // the standard library
			}
			ok := false
			for _, a := range strings.Fields(allowed) {
				ok = ok || inside == a || imp == a || strings.HasPrefix(imp, a+"/")
			}
			if !ok {
				t.Errorf("%s imports %s", room, imp)
			}
		}
	}
}

// TestTheRunnerLinksNoServerCode keeps the program in the pod small.
func TestTheRunnerLinksNoServerCode(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/runner")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range strings.Fields(string(out)) {
		for _, banned := range []string{"protoactor-go", "go-redis", "fasthttp", "modernc.org", "k8s.io", "troupe/persistence", "troupe/cluster", "troupe/actors/agentgrain"} {
			if strings.Contains(dep, banned) {
				t.Errorf("the runner links %s", dep)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		found := false
		for _, f := range p.GoFiles {
			src, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			found = found || src.Doc != nil && strings.TrimSpace(src.Doc.Text()) != ""
		}
		if !found && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

func TestTheWingsAreTheOnlyTopLevelFolders(t *testing.T) {
	wings := map[string]bool{"actors": true, "http": true, "persistence": true, "cluster": true, "channels": true, "cmd": true, "deploy": true, "bin": true}
	entries, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !wings[e.Name()] {
			t.Errorf("%s is no wing", e.Name())
		}
	}
}

// TestTheLibrarysTrapsAreNotUsed keeps out what was measured to be unsafe (cluster/DESIGN.md): each of these would compile.
func TestTheLibrarysTrapsAreNotUsed(t *testing.T) {
	banned := map[string]string{
		"SetReceiveTimeout": "a data race; fires once", ".Stash(": "replays last in, first out", "ReenterAfter": "runs on the old instance after a restart",
		"actor.Bounded": "senders spin", "plugin/passivation": "a goroutine per actor, log.Fatal", "StartClient()": "its shutdown panics", "persistence.Using": "no errors, no fence",
		"identitylookup/disthash": "two activations at once", "clusterproviders/": "members are lost for good", "WithPubSub": "at most once", "PersistenceMixin": "no errors, no fence",
	}
	for _, p := range packages(t) {
		for _, f := range p.GoFiles {
			src, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range strings.Split(string(src), "\n") {
				if strings.HasPrefix(strings.TrimSpace(line), "//") {
					continue
				}
				for word, why := range banned {
					if strings.Contains(line, word) {
						t.Errorf("%s/%s uses %s: %s", p.ImportPath, f, word, why)
					}
				}
			}
		}
	}
}

// TestNoDecisionRestsOnANodesOwnClock: nodes may be wrong about the time of day. What an agent's life depends on is in the store's
// time; a node's own clock only measures spans (which are monotonic) and stamps what people read.
func TestNoDecisionRestsOnANodesOwnClock(t *testing.T) {
	for _, p := range packages(t) {
		room := strings.TrimPrefix(p.ImportPath, "troupe/")
		if room != "actors/agentgrain" && room != "actors/clockgrain" && room != "actors/agent" && room != "persistence/redisstore" && room != "cluster/member" {
			continue
		}
		for _, f := range p.GoFiles {
			src, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for i, line := range strings.Split(string(src), "\n") {
				if strings.Contains(line, "time.Now().Unix") && !strings.Contains(line, "EndMS") { // the end of a window is what a header says
					t.Errorf("%s/%s:%d reads the time of day", p.ImportPath, f, i+1)
				}
			}
		}
	}
}
