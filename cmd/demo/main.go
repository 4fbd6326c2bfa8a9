// Command demo shows the main job end to end on the embedded store: an agent is created, uses a tool and a file, and
// answers; the node is killed in the middle of a second message and started again; the second answer arrives once.
// It exits 0 only if everything it says was seen.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"troupe/http/api"
	"troupe/http/client"
)

func main() {
	bin := flag.String("bin", "bin", "directory of troupe and troupe-runner")
	flag.Parse()
	if err := run(*bin); err != nil {
		fmt.Fprintln(os.Stderr, "demo: "+err.Error())
		os.Exit(1)
	}
}

// demo is one run: a node process and a client of it.
type demo struct {
	bin, dir, addr string
	node           *exec.Cmd
	api            *client.Client
	ctx            context.Context
}

func say(format string, args ...any) { fmt.Printf("\n▸ "+format+"\n", args...) }

func run(bin string) (err error) {
	dir, err := os.MkdirTemp("", "troupe-demo")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	d := &demo{bin: bin, dir: dir, ctx: ctx}
	defer func() {
		d.cleanup()
		if err == nil {
			_ = os.RemoveAll(dir)
		} else {
			fmt.Fprintln(os.Stderr, "the node's log and data are in", dir)
		}
	}()
	if d.addr, err = freeAddr(); err != nil {
		return err
	}
	say("Start a node: everything embedded, nothing installed")
	if err := d.start(); err != nil {
		return err
	}
	id, err := d.create()
	if err != nil {
		return err
	}
	if err := d.first(id); err != nil {
		return err
	}
	return d.second(id)
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// start runs the node and waits until it answers.
func (d *demo) start() error {
	log, err := os.OpenFile(filepath.Join(d.dir, "node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	d.node = exec.Command(filepath.Join(d.bin, "troupe"), "dev")
	d.node.Env = append(os.Environ(), "TROUPE_LISTEN="+d.addr, "TROUPE_DATA_DIR="+filepath.Join(d.dir, "data"), "TROUPE_ANTHROPIC_URL=rehearsal",
		"TROUPE_REDIS_URL=", "TROUPE_BOOTSTRAP_API_KEY=")
	d.node.Stdout, d.node.Stderr = log, log
	began := time.Now()
	if err := d.node.Start(); err != nil {
		return fmt.Errorf("start the node (make build first): %w", err)
	}
	d.api = client.New("http://"+d.addr, "")
	for {
		var h struct{ Status string }
		if err := d.api.Do(d.ctx, "GET", "/health", nil, &h); err == nil && h.Status == "healthy" {
			break
		}
		if d.ctx.Err() != nil || time.Since(began) > 20*time.Second {
			return errors.New("the node does not answer")
		}
	}
	key, err := os.ReadFile(filepath.Join(d.dir, "data", "api.key"))
	if err != nil {
		return err
	}
	d.api.Key = strings.TrimSpace(string(key))
	fmt.Printf("  ready at %s after %s\n", d.api.Base, time.Since(began).Round(time.Millisecond))
	return nil
}

// create makes the agent of the contract's own create example.
func (d *demo) create() (string, error) {
	say("Create the agent of the contract's create example")
	var doc struct {
		Components struct {
			Examples map[string]struct{ Value map[string]any }
		}
	}
	if err := yaml.Unmarshal(api.OpenAPI, &doc); err != nil {
		return "", err
	}
	var a struct {
		ID, Name, Status string
		Balance          int64 `json:"output_token_balance"`
		Files            struct {
			Total int `json:"total_files"`
		} `json:"filesystem_summary"`
	}
	if err := d.api.Do(d.ctx, "POST", "/v1/agent/create", doc.Components.Examples["AgentCreateFull"].Value, &a); err != nil {
		return "", err
	}
	fmt.Printf("  %s %q is %s with %d output tokens and %d files\n", a.ID, a.Name, a.Status, a.Balance, a.Files.Total)
	return a.ID, nil
}

// message is what the demo reads of a message.
type message struct {
	ID, Content, Status string
	Outcome             *string
	ReplyTo             *string `json:"reply_to_id"`
	Reply               *message
}

func (d *demo) send(id, content string) (message, error) {
	var m message
	return m, d.api.Do(d.ctx, "POST", "/v1/agent/"+id+"/messages", map[string]string{"content": content}, &m)
}

// runtime is the agent's view of itself, shown while a turn lives.
type runtime struct {
	Pod struct {
		Status      string
		Incarnation int
	}
	Queue struct{ Pending, Delivered int }
	Turn  *struct {
		ID      string
		Attempt int
	}
}

// follow prints the life of a message until it has an outcome.
func (d *demo) follow(id, msg string) (message, error) {
	var m message
	last := ""
	for d.ctx.Err() == nil {
		var rt runtime
		if err := d.api.Do(d.ctx, "GET", "/v1/agent/"+id+"/messages/"+msg, nil, &m); err != nil {
			return m, err
		}
		if err := d.api.Do(d.ctx, "GET", "/v1/agent/"+id+"/runtime", nil, &rt); err != nil {
			return m, err
		}
		turn := "no turn"
		if rt.Turn != nil {
			turn = fmt.Sprintf("turn %s attempt %d", rt.Turn.ID[len(rt.Turn.ID)-6:], rt.Turn.Attempt)
		}
		if now := fmt.Sprintf("  message %-9s pod %s #%d, %s", m.Status, rt.Pod.Status, rt.Pod.Incarnation, turn); now != last {
			fmt.Println(now)
			last = now
		}
		if m.Outcome != nil {
			return m, nil
		}
		time.Sleep(30 * time.Millisecond)
	}
	return m, errors.New("the message has no outcome")
}

// replies returns the replies to a message.
func (d *demo) replies(id, msg string) ([]message, error) {
	var list struct{ Messages []message }
	if err := d.api.Do(d.ctx, "GET", "/v1/agent/"+id+"/messages?limit=100&role=assistant", nil, &list); err != nil {
		return nil, err
	}
	var out []message
	for _, m := range list.Messages {
		if m.ReplyTo != nil && *m.ReplyTo == msg {
			out = append(out, m)
		}
	}
	return out, nil
}

func (d *demo) first(id string) error {
	say("Send a message that needs a file and a tool")
	m, err := d.send(id, "Note the urgent tickets, please.\n"+
		`!tool write_file {"path":"tickets.md","content":"4711 urgent\n4702 can wait\n"}`+"\n"+
		`!tool shell {"command":"cat playbook/tone.md; grep urgent tickets.md"}`+"\n!say Ticket 4711 is urgent.")
	if err != nil {
		return err
	}
	if m, err = d.follow(id, m.ID); err != nil {
		return err
	}
	got, err := d.replies(id, m.ID)
	if err != nil {
		return err
	}
	if *m.Outcome != "completed" || len(got) != 1 {
		return fmt.Errorf("outcome %s, %d replies", *m.Outcome, len(got))
	}
	var s struct {
		Balance int64 `json:"output_token_balance"`
		Used    int64 `json:"total_output_tokens_used"`
	}
	if err := d.api.Do(d.ctx, "GET", "/v1/agent/"+id+"/summary", nil, &s); err != nil {
		return err
	}
	note, err := os.ReadFile(filepath.Join(d.dir, "data", "agents", id, "workspace", "tickets.md"))
	if err != nil {
		return err
	}
	fmt.Printf("  reply: %s\n  file:  %q\n  used %d output tokens, %d left\n", got[0].Content, note, s.Used, s.Balance)
	if s.Used == 0 || s.Used+s.Balance != 2500000 {
		return errors.New("the balance does not add up")
	}
	return nil
}

func (d *demo) second(id string) error {
	say("Send a second message and kill the node (kill -9) in the middle of its turn")
	m, err := d.send(id, `!tool shell {"command":"sleep 2; echo once >> count.txt"}`+"\n!say Done, exactly once.")
	if err != nil {
		return err
	}
	for { // until the turn runs
		var rt runtime
		if err := d.api.Do(d.ctx, "GET", "/v1/agent/"+id+"/runtime", nil, &rt); err != nil {
			return err
		}
		if rt.Turn != nil {
			fmt.Printf("  turn %s is running\n", rt.Turn.ID)
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := d.node.Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	_ = d.node.Wait()
	fmt.Println("  node killed")
	say("Start the node again on the same directory")
	if err := d.start(); err != nil {
		return err
	}
	if m, err = d.follow(id, m.ID); err != nil {
		return err
	}
	got, err := d.replies(id, m.ID)
	if err != nil {
		return err
	}
	count, err := os.ReadFile(filepath.Join(d.dir, "data", "agents", id, "workspace", "count.txt"))
	if err != nil {
		return err
	}
	if *m.Outcome != "completed" || len(got) != 1 || string(count) != "once\n" {
		return fmt.Errorf("outcome %s, %d replies, tool ran %d times", *m.Outcome, len(got), strings.Count(string(count), "once"))
	}
	fmt.Printf("  reply: %s (1 reply, the tool ran once)\n", got[0].Content)
	say("All of it was seen. The node stored every step before it acted.")
	return nil
}

// cleanup stops the node and deletes its agents, which ends their runners.
func (d *demo) cleanup() {
	if d.node == nil || d.node.Process == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var list struct{ Agents []struct{ ID string } }
	if d.api.Do(ctx, "GET", "/v1/agent/list", nil, &list) == nil {
		for _, a := range list.Agents {
			_ = d.api.Do(ctx, "POST", "/v1/agent/delete/"+a.ID, json.RawMessage(`{"force":true}`), nil)
		}
	}
	for ctx.Err() == nil { // until their directories are gone
		if left, _ := filepath.Glob(filepath.Join(d.dir, "data", "agents", "*")); len(left) == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = d.node.Process.Signal(syscall.SIGTERM)
	_ = d.node.Wait()
}
