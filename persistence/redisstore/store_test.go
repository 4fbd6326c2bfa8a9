package redisstore

import (
	"context"
	"strings"
	"testing"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/persistence/redistest"
	"troupe/persistence/storetest"
)

func open(t *testing.T, url string) *Store { return openAcks(t, url, 0) }

func openAcks(t *testing.T, url string, acks int) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := Open(ctx, url, acks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestContract(t *testing.T) {
	srv := redistest.Start(t)
	storetest.Run(t, func(t *testing.T) storetest.Store { return open(t, srv.URL()) })
}

func TestContractOnCluster(t *testing.T) {
	url := redistest.Cluster(t)
	storetest.Run(t, func(t *testing.T) storetest.Store { return open(t, url) })
}

func TestERR_6_AStoreThatIsDownIsUnavailable(t *testing.T) {
	srv := redistest.Start(t)
	s := open(t, srv.URL())
	srv.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := s.Accept(ctx, &agent.Acceptance{Agent: "a", ID: "m"})
	if f := fault.Of(err); f.Kind != fault.Unavailable || f.Code != "store_unavailable" || f.Retry != time.Second {
		t.Fatalf("got %+v", f)
	}
	srv.Up(t) // the scripts are gone with the process
	ctx, cancel = context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := s.Accept(ctx, &agent.Acceptance{Agent: "a", ID: "m", Limit: 1}); !fault.Is(err, fault.NotFound) {
		t.Fatalf("after the restart: %v", err)
	}
}

func TestParseURL(t *testing.T) {
	for _, c := range []struct{ url, addrs, want string }{
		{"redis://h", "h:6379", ""},
		{"redis://u:p@h:1/2", "h:1", ""},
		{"rediss://h:1?addr=i:2&addr=j", "h:1 i:2 j:6379", ""},
		{"redis://s:26379?master_name=m", "s:26379", ""},
		{"http://h", "", "must be redis://"},
		{"redis://h?x=1", "", `unknown option "x"`},
		{"redis://h/x", "", "not a number"},
	} {
		o, err := parseURL(c.url)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %q", c.url, err, c.want)
			}
			continue
		}
		if err != nil || strings.Join(o.Addrs, " ") != c.addrs {
			t.Errorf("%s: got %v %v, want %s", c.url, o, err, c.addrs)
		}
	}
}
