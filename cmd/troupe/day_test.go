package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"troupe/actors/agent"
)

// day is a scripted day in the life of five agents on two nodes: people, triggers, tasks and other agents write to them; work is
// interrupted, agents are paused and run out of tokens, sessions are condensed, runners and nodes die.
type day struct {
	*world // of whichever node answers
	t      testing.TB
	nodes  [2]*nodeProcess
	worlds [2]*world
	n      atomic.Int64
	sent   atomic.Int64
	count  struct{ interrupts, kills, pauses, topUps, tasks, triggers, letters atomic.Int64 }
}

// do makes a call on either node, again until one answers.
func (d *day) do(method, path string, body any, header ...string) *answer {
	d.t.Helper()
	key := fmt.Sprint("day-", d.n.Add(1))
	var last string
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, w := range d.worlds {
			a, err := w.try(method, path, body, append([]string{"Idempotency-Key", key}, header...)...)
			if err == nil && a.status < 500 && a.status != 409 {
				return a
			}
			last = fmt.Sprint(err, a)
		}
	}
	d.t.Fatalf("%s %s: %s", method, path, last)
	return nil
}

func (d *day) must(a *answer, status int) *answer {
	d.t.Helper()
	if a.status != status {
		d.t.Fatalf("%d: %s", a.status, a.body)
	}
	return a
}

// life is one agent's day.
type life struct {
	*day
	name   string
	id     string
	next   *life // whom it writes to
	hook   address
	want   map[string]string // message or task → outcome, if not completed
	blocks int
	phases int
	ready  chan<- struct{}
}

// reached tells that the next phase may begin.
func (l *life) reached() {
	l.phases++
	l.ready <- struct{}{}
}

func (l *life) post(content string, more ...string) string {
	l.t.Helper()
	body := map[string]any{"content": content}
	if len(more) > 0 {
		body["queue_mode"] = more[0]
	}
	l.sent.Add(1)
	return l.must(l.do("POST", "/v1/agent/"+l.id+"/messages", body), 201).str("id")
}

// batch sends n messages from people, triggers and programs that submit tasks.
func (l *life) batch(n int, paused bool) {
	for i := range n {
		switch i % 4 {
		case 1:
			l.sent.Add(1)
			l.count.triggers.Add(1)
			l.must(l.do("POST", l.hook.path, fmt.Sprintf(`{"n":%d}`, i), "Authorization", "", "X-Webhook-Secret", l.hook.secret), 202)
		case 3:
			if paused { // it takes no tasks then
				l.post("!say instead of a task")
				continue
			}
			l.sent.Add(1)
			l.count.tasks.Add(1)
			l.must(l.do("POST", "/agent/request/"+l.id, map[string]any{"message": fmt.Sprintf("!say task %d", i)}), 202)
		default:
			l.post(fmt.Sprintf("!say answer to %s %d", l.name, i))
		}
	}
}

// block starts a turn that waits for a file.
func (l *life) block() (id string, goOn func()) {
	l.t.Helper()
	l.blocks++
	space := filepath.Join(l.dir, "agents", l.id, "workspace")
	begun, wait := fmt.Sprintf("begun%d", l.blocks), fmt.Sprintf("go%d", l.blocks)
	id = l.post(fmt.Sprintf("!tool shell {\"command\":\"touch %s; while [ ! -e %s ]; do sleep 0.02; done\"}\n!say went on %d", begun, wait, l.blocks))
	l.eventually("turn "+begun, func() bool { _, err := os.Stat(filepath.Join(space, begun)); return err == nil })
	return id, func() {
		if err := os.WriteFile(filepath.Join(space, wait), nil, 0o644); err != nil {
			l.t.Error(err)
		}
	}
}

func (d *day) eventually(what string, ok func() bool) {
	d.t.Helper()
	for end := time.Now().Add(90 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// messages reads the whole history.
func (l *life) messages() (out []map[string]any) {
	after := ""
	for {
		a := l.must(l.do("GET", "/v1/agent/"+l.id+"/messages?limit=100"+after, nil), 200)
		for _, m := range a.doc["messages"].([]any) {
			out = append(out, m.(map[string]any))
		}
		if a.get("has_more") != true {
			return out
		}
		after = "&after=" + out[len(out)-1]["id"].(string)
	}
}

// settled waits until every message to the agent has its outcome.
func (l *life) settled() {
	l.t.Helper()
	open := func() (out []any) {
		a := l.must(l.do("GET", "/v1/agent/"+l.id+"/messages?role=user&limit=100&order=desc", nil), 200)
		return slices.DeleteFunc(a.doc["messages"].([]any), func(m any) bool { return m.(map[string]any)["outcome"] != nil })
	}
	for end := time.Now().Add(90 * time.Second); len(open()) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("%s's messages are not settled: %.3000v\n%s", l.name, open(), l.do("GET", "/v1/agent/"+l.id+"/runtime", nil).body)
		}
	}
}

func (l *life) pending() int {
	return len(l.must(l.do("GET", "/v1/agent/"+l.id+"/messages?status=pending&role=user&limit=100", nil), 200).doc["messages"].([]any))
}

func (l *life) command(verb string) { l.must(l.do("POST", "/v1/agent/"+l.id+"/"+verb, nil), 200) }

// killRunner kills the pod with everything in it.
func (l *life) killRunner() {
	l.t.Helper()
	var rec struct{ PID int }
	b, err := os.ReadFile(filepath.Join(l.dir, "agents", l.id, "run", "record.json"))
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	_ = exec.Command("pkill", "-KILL", "-s", fmt.Sprint(rec.PID)).Run() // exits 1 when it is gone already
	l.count.kills.Add(1)
}

// live is the script of one agent's day. Noon is when all agents wait for the nodes to be killed.
func (l *life) live(noon, evening *sync.WaitGroup) {
	defer func() {
		for l.phases < 2 { // it failed: nobody waits for it
			l.reached()
		}
	}()
	// morning: a pause, and everything that came meanwhile
	l.command("pause")
	l.batch(20, true)
	if n := l.pending(); n != 20 {
		l.t.Errorf("%s: %d messages wait while it is paused", l.name, n)
	}
	l.count.pauses.Add(1)
	l.command("resume")
	l.settled()
	// interruptions
	for i := range 4 {
		first, _ := l.block()
		l.want[first] = "cancelled"
		l.post(fmt.Sprintf("!say interruption %d", i), "interrupt")
		l.count.interrupts.Add(1)
		l.settled()
	}
	// the runner dies in the middle of something, others wait behind it
	_, goOn := l.block()
	l.batch(10, false)
	l.killRunner()
	goOn()
	l.settled()
	// no tokens left
	l.must(l.do("POST", "/v1/agent/"+l.id+"/balance", map[string]any{"type": "set", "amount": 0}), 200)
	l.batch(10, false)
	if n := l.pending(); n != 10 {
		l.t.Errorf("%s: %d messages wait without a balance", l.name, n)
	}
	l.must(l.do("POST", "/v1/agent/"+l.id+"/balance", map[string]any{"type": "set", "amount": 1 << 30}), 200)
	l.count.topUps.Add(1)
	l.settled()
	// long material, until the session is condensed
	long := strings.Repeat("words and words ", 6000)
	for range 3 {
		l.post("!say read it\n" + long)
		l.settled()
	}
	l.eventually(l.name+"'s compaction", func() bool { return l.compactions() >= 1 })
	// noon: a node dies while everybody works
	_, goOn = l.block()
	l.batch(20, false)
	l.reached()
	noon.Wait()
	goOn()
	l.settled()
	// afternoon: a letter to a colleague, which goes back and forth; another runner dies
	l.count.letters.Add(1)
	l.post(fmt.Sprintf("!tool send_message {\"type\":\"agent\",\"uuid\":%q,\"content\":\"!say dear colleague\"}\n!say sent", l.next.id))
	_, goOn = l.block()
	l.batch(10, false)
	l.killRunner()
	l.reached()
	evening.Wait()
	goOn()
	l.batch(20, false)
	l.settled()
}

func (l *life) compactions() int {
	s := l.must(l.do("GET", "/v1/agent/"+l.id+"/sessions", nil), 200).doc["sessions"].([]any)[0].(map[string]any)
	return int(s["compaction_count"].(float64))
}

func TestADayInTheLife(t *testing.T) {
	cfg := testConfig(t)
	cfg.RedisURL = startRedisFor(t).URL()
	d := &day{t: t}
	for i, name := range []string{"a", "b"} {
		d.nodes[i] = startProcess(t, cfg, "TROUPE_NODE_NAME="+name, "TROUPE_LEASE_TTL=2s", "TROUPE_SANDBOX=off")
		d.worlds[i] = d.nodes[i].world(cfg)
	}
	d.world = d.worlds[0]
	began := make(chan struct{}, 10)
	var lives []*life
	for _, name := range []string{"ann", "ben", "cleo", "dan", "eve"} {
		l := &life{day: d, name: name, want: map[string]string{}, ready: began}
		l.id = d.agent(map[string]any{"name": name, "session_mode": "persistent", "output_token_balance": 1 << 30,
			"configuration": map[string]any{"compaction": map[string]any{"threshold_trigger": 50000}}})
		_, l.hook = d.trigger(l.id, map[string]any{"name": "hook", "message_template": "!say hooked {{payload.n}}"})
		lives = append(lives, l)
	}
	var noon, evening, all sync.WaitGroup
	noon.Add(1)
	evening.Add(1)
	for i, l := range lives {
		l.next = lives[(i+1)%len(lives)]
		all.Add(1)
		go func() {
			defer all.Done()
			l.live(&noon, &evening)
		}()
	}
	for i, phase := range []*sync.WaitGroup{&noon, &evening} {
		for range lives {
			<-began
		}
		d.nodes[1-i].kill()
		phase.Done()
		time.Sleep(3 * time.Second) // it stays away longer than its lease
		d.nodes[1-i].up()
		d.nodes[1-i].world(cfg)
	}
	all.Wait()
	if t.Failed() {
		return
	}
	total, compactions := 0, 0
	end := agent.Stamp(time.Now().UnixMilli()) // letters still go back and forth
	for _, l := range lives {
		l.settled()
		total += l.check(end)
		compactions += l.compactions()
	}
	c := &d.count
	t.Logf("%d messages (%d sent from outside: %d by triggers, %d tasks; the rest between agents), %d interrupts, %d compactions, %d runners and 2 nodes killed, %d pauses, %d top-ups",
		total, d.sent.Load(), c.triggers.Load(), c.tasks.Load(), c.interrupts.Load(), compactions, c.kills.Load(), c.pauses.Load(), c.topUps.Load())
	if total < 500 || c.interrupts.Load() < 20 || compactions < 5 || c.kills.Load() < 10 {
		t.Error("that was no full day")
	}
}

// check reads everything that is left of an agent's day, which ended at end: outcomes, order, and the transcripts.
func (l *life) check(end string) (n int) {
	t := l.t
	order := map[string]string{} // kind of message → when the last one was taken
	turns := map[string][]string{}
	replies := map[string]int{}
	all, late := l.messages(), map[any]bool{}
	for _, m := range all {
		if m["role"] == "user" && m["created_at"].(string) > end {
			late[m["turn_id"]] = true
		}
	}
	all = slices.DeleteFunc(all, func(m map[string]any) bool { return m["role"] == "user" && late[m["turn_id"]] })
	for _, m := range all {
		if m["role"] == "assistant" {
			if to, ok := m["reply_to_id"].(string); ok {
				replies[to]++
			}
			continue
		}
		n++
		id := m["id"].(string)
		want := l.want[id]
		if want == "" {
			want = "completed"
		}
		if m["outcome"] != want || m["status"] != "read" || want == "cancelled" && m["failure_reason"] != "interrupted" {
			t.Errorf("%s: message %s is %v (%v): %.60v", l.name, id, m["outcome"], m["failure_reason"], m["content"])
		}
		kind, _ := m["source"].(string)
		if kind != agent.SourceTask {
			kind = "plain"
		}
		at, _ := m["delivered_at"].(string)
		if at < order[kind] {
			t.Errorf("QUE-2: %s took message %s out of turn", l.name, id)
		}
		order[kind] = at
		turn, _ := m["turn_id"].(string)
		turns[turn] = append(turns[turn], id)
	}
	for _, m := range all {
		if id := m["id"].(string); m["role"] == "user" && replies[id] > 1 {
			t.Errorf("%s answered %s %d times", l.name, id, replies[id])
		}
	}
	for turn, ids := range turns {
		answered := 0
		for _, id := range ids {
			answered += replies[id]
		}
		if answered != 1 && l.want[ids[0]] == "" { // the last of a batch is answered (MSG-7)
			t.Errorf("%s: turn %s has %d answers", l.name, turn, answered)
		}
	}
	l.read(turns)
	return n
}

// read follows the transcripts as the model saw them: every message of every turn in its prompt, roles in turn, every tool call
// with its result.
func (l *life) read(turns map[string][]string) {
	t := l.t
	type block struct {
		Type, Text, ID string
		ToolUseID      string `json:"tool_use_id"`
	}
	found, summaries := map[string]string{}, 0
	for i, f := range l.transcripts(l.id) {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		open := map[string]bool{}
		for n, text := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
			var line struct {
				M *struct {
					Role    string
					Content []block
				}
				T string
			}
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatalf("%s: line %d of transcript %d cannot be read: %v", l.name, n, i, err)
			}
			if line.M == nil {
				continue
			}
			for _, b := range line.M.Content {
				switch {
				case b.Type == "tool_use":
					open[b.ID] = true
				case b.Type == "tool_result":
					delete(open, b.ToolUseID)
				case b.Type == "text" && line.M.Role == "user":
					if i > 0 && n == 0 && strings.Contains(b.Text, "condensed to this summary") {
						summaries++
					}
					for _, id := range turns[line.T] {
						if strings.Contains(b.Text, id) {
							found[id] = line.T
						}
					}
				}
			}
		}
		if len(open) > 0 {
			t.Errorf("%s: transcript %d has calls without a result: %v", l.name, i, open)
		}
	}
	for turn, ids := range turns {
		for _, id := range ids {
			if found[id] != turn {
				t.Errorf("%s: message %s is in no prompt of its turn", l.name, id)
			}
		}
	}
	if summaries == 0 {
		t.Errorf("%s: no transcript begins with a summary", l.name)
	}
}
