package sqlitestore

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/persistence/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("SQLITESTORE_WRITER"); dir != "" {
		writer(dir)
	}
	os.Exit(m.Run())
}

func open(t *testing.T) storetest.Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestContract(t *testing.T) { storetest.Run(t, open) }

func TestOneProcessOwnsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Fatal("a second owner was let in")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

func TestAStoreOfAnotherFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.write(context.Background(), func(t *tx) error { t.exec(`PRAGMA user_version=99`); return nil }); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if s, err = Open(dir); err == nil {
		_ = s.Close()
		t.Fatal("a store of format 99 was opened")
	}
	if !strings.Contains(err.Error(), "format 99") {
		t.Error(err)
	}
}

// writer accepts messages and prints each id once it was acknowledged, until it is killed.
func writer(dir string) {
	s, err := Open(dir)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	spec := agent.NewSpec("a", agent.Settings{}.WithDefaults())
	spec.Account = account.ID("acct")
	if _, err := s.Create(ctx, &agent.Creation{Spec: spec, State: agent.State{Status: agent.Active}}); err != nil {
		panic(err)
	}
	for {
		id := agent.MessageID(agent.NewUUID())
		if _, err := s.Accept(ctx, &agent.Acceptance{Agent: "a", ID: id, Limit: 1 << 30, Body: agent.Body{Counterparty: "p"}}); err != nil {
			panic(err)
		}
		fmt.Println(string(id))
	}
}

func TestMSG_2_AcknowledgedMessagesSurviveKill(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SQLITESTORE_WRITER="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var acked []string
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if acked = append(acked, sc.Text()); len(acked) == 30 {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range acked {
			if _, err := s.Message(context.Background(), "a", agent.MessageID(id)); err != nil {
				t.Errorf("round %d: acknowledged message %s: %v", round, id, err)
			}
		}
		_ = s.Close()
	}
}

// BenchmarkAccept measures acceptance by 64 callers at once, spread over agents.
func BenchmarkAccept(b *testing.B) {
	for _, agents := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d agents", agents), func(b *testing.B) {
			s, err := Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			for i := range agents {
				spec := agent.NewSpec(agent.ID(fmt.Sprint(i)), agent.Settings{}.WithDefaults())
				if _, err := s.Create(context.Background(), &agent.Creation{Spec: spec, State: agent.State{Status: agent.Active}}); err != nil {
					b.Fatal(err)
				}
			}
			var next atomic.Int64
			b.SetParallelism(64)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					a := &agent.Acceptance{Agent: agent.ID(fmt.Sprint(next.Add(1) % int64(agents))), ID: agent.MessageID(agent.NewUUID()), Limit: 1 << 30, Body: agent.Body{Content: "hello", Counterparty: "p"}}
					if _, err := s.Accept(context.Background(), a); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
