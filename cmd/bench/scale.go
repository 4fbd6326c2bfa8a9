package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/http/runnerproto"
	"troupe/persistence/redisstore"
	"troupe/persistence/seal"
)

var masterKey = base64.StdEncoding.EncodeToString(make([]byte, 32))

// scale measures a fleet: agents by the hundred thousand, one in a hundred active with a runner of its own that speaks the
// protocol from inside this program, and alarms of idle agents that ring meanwhile.
func (b *bench) scale() error {
	url, err := b.redis("everysec")
	if err != nil {
		return err
	}
	idle, err := b.idleRunner()
	if err != nil {
		return err
	}
	n, err := b.node(url, "TROUPE_PROCESS_LIMIT="+strconv.Itoa(*fleet/100+1), "TROUPE_SANDBOX=off", "TROUPE_START_TIMEOUT=1h", "TROUPE_RUNNER="+idle, "TROUPE_MASTER_KEY="+masterKey, "TROUPE_PASSIVATE_AFTER=20s")
	if err != nil {
		return err
	}
	st, err := redisstore.Open(context.Background(), url, 0)
	if err != nil {
		return err
	}
	defer st.Close()
	rdb := redis.NewClient(&redis.Options{Addr: strings.TrimPrefix(url, "redis://")})
	defer rdb.Close()
	time.Sleep(time.Second)
	empty, before := rss(n.cmd.Process.Pid), redisBytes(rdb)
	active := *fleet / 100
	resting, err := rest(st, *fleet-active, "bench")
	if err != nil {
		return err
	}
	perAgent := float64(redisBytes(rdb)-before) / float64(len(resting))
	quiet := rss(n.cmd.Process.Pid)

	ids, err := n.agents(active, false)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	var runners sync.WaitGroup
	defer runners.Wait()
	defer stop()
	box, err := benchBox()
	if err != nil {
		return err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 4 * active, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext}
	var attached atomic.Int64
	for _, id := range ids {
		runners.Add(1)
		go func() {
			defer runners.Done()
			work(ctx, "http://"+n.addr, id, box.RuntimeKey(agent.ID(id), 1).Reveal(), transport, &attached)
		}()
	}
	for end := time.Now().Add(2 * time.Minute); attached.Load() < int64(active); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d runners attached", attached.Load(), active)
		}
	}
	lateness := make(chan []time.Duration, 1)
	go func() { lateness <- ring(ctx, st, rdb, resting) }()
	lat, err := n.converse(ids, 20*time.Second)
	if err != nil {
		return err
	}
	late := <-lateness
	slices.Sort(late)
	fmt.Printf("%d agents, %d active: node %.0f MiB (empty %.0f, with the idle ones stored %.0f), %.1f KiB per active agent; Redis %.0f bytes per idle agent\n", *fleet, active,
		rss(n.cmd.Process.Pid), empty, quiet, (rss(n.cmd.Process.Pid)-quiet)*1024/float64(active), perAgent)
	fmt.Printf("  accept → reply of active agents: %d, p50 %s p99 %s\n", len(lat), lat[len(lat)/2].Round(100*time.Microsecond), lat[len(lat)*99/100].Round(100*time.Microsecond))
	if len(late) == 0 {
		return errors.New("no alarm rang")
	}
	fmt.Printf("  alarms of idle agents: %d rang, lateness until the agent acts p50 %s p99 %s (target p99 ≤ 1 s)\n", len(late), late[len(late)/2].Round(time.Millisecond), late[len(late)*99/100].Round(time.Millisecond))
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	return nil
}

func benchBox() (*seal.Box, error) {
	key, err := seal.ParseKey(masterKey)
	if err != nil {
		return nil, err
	}
	return seal.New(key)
}

func redisBytes(rdb *redis.Client) int64 {
	info, _ := rdb.Info(context.Background(), "memory").Result()
	for _, l := range strings.Split(info, "\r\n") {
		if v, ok := strings.CutPrefix(l, "used_memory:"); ok {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

// rest stores agents whose pods are at zero, through the store's own door.
func rest(st *redisstore.Store, count int, owner account.ID) ([]agent.ID, error) {
	ids := make([]agent.ID, count)
	set := agent.Settings{}.WithDefaults()
	return ids, each(count, func(i int) error {
		spec := agent.NewSpec(agent.ID(agent.NewUUID()), set)
		spec.Account, spec.Name = owner, "resting"
		ids[i] = spec.ID
		_, err := st.Create(context.Background(), &agent.Creation{Spec: spec, State: agent.State{Status: agent.Active}, Balance: 1 << 30})
		return err
	})
}

// work is one runner: it attaches, listens, and answers every turn at once.
func work(ctx context.Context, base, id, key string, transport http.RoundTripper, attached *atomic.Int64) {
	c := runnerproto.NewClient(runnerproto.NewNodes(base), key)
	for ctx.Err() == nil {
		if _, err := c.Attach(ctx, runnerproto.AttachRequest{ProtocolVersion: runnerproto.Version, RunnerVersion: "bench", Metering: "gateway"}); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(50+rand.IntN(200)) * time.Millisecond):
		}
	}
	attached.Add(1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Second):
			}
			_, _ = c.Heartbeat(ctx, runnerproto.HeartbeatRequest{ExecutionStatus: "idle"}) // the next one repeats it
		}
	}()
	done := map[string]bool{}
	for ctx.Err() == nil {
		_ = c.Subscribe(ctx, "", func(e runnerproto.Event) {
			if e.Turn == nil || done[e.Turn.TurnID] {
				return
			}
			done = map[string]bool{e.Turn.TurnID: true}
			_ = c.Progress(ctx, e.Turn.TurnID, []runnerproto.ProgressEntry{{Seq: 1, Kind: "accepted"}})
			for ctx.Err() == nil { // as the real one: an end is repeated until it is stored
				_, err := c.End(ctx, e.Turn.TurnID, runnerproto.EndRequest{Outcome: "completed", Replies: []runnerproto.Reply{{Content: "ok"}}})
				if err == nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
}

// converse sends to the active agents at a steady pace and waits for the replies.
func (n *node) converse(ids []string, limit time.Duration) ([]time.Duration, error) {
	var mu sync.Mutex
	var lat []time.Duration
	var failed atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for w := range 32 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := w; time.Since(began) < limit; i += 32 {
				t := time.Now()
				var m struct{ Outcome *string }
				err := n.api.Do(context.Background(), "POST", "/v1/agent/"+ids[i%len(ids)]+"/messages?wait=30", map[string]any{"content": "hello"}, &m)
				if err != nil || m.Outcome == nil {
					failed.Add(1)
					continue
				}
				mu.Lock()
				lat = append(lat, time.Since(t))
				mu.Unlock()
				time.Sleep(time.Duration(50+rand.IntN(100)) * time.Millisecond) // people have pauses
			}
		}()
	}
	wg.Wait()
	slices.Sort(lat)
	if failed.Load() > 0 || len(lat) == 0 {
		return nil, fmt.Errorf("%d messages were not answered, %d were", failed.Load(), len(lat))
	}
	return lat, nil
}

// ring sets alarms of idle agents, a few hundred a second, and watches the claims: an agent that acts has been claimed.
func ring(ctx context.Context, st *redisstore.Store, rdb *redis.Client, ids []agent.ID) (late []time.Duration) {
	count := min(len(ids), 4000)
	start, err := rdb.Time(ctx).Result()
	if err != nil {
		return nil
	}
	offset := time.Until(start) // the store's clock minus ours
	due := map[agent.ID]time.Time{}
	for i, id := range ids[:count] {
		at := start.Add(2*time.Second + time.Duration(i)*12*time.Second/time.Duration(count))
		if st.Arm(ctx, id, at.UnixMilli()) == nil {
			due[id] = at
		}
	}
	for end := time.Now().Add(30 * time.Second); len(due) > 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		now := time.Now().Add(offset)
		pipe := rdb.Pipeline()
		asked := map[agent.ID]*redis.StringCmd{}
		for id, at := range due {
			if !now.Before(at) {
				asked[id] = pipe.HGet(ctx, "a:{"+string(id)+"}:h", "epoch")
			}
		}
		_, _ = pipe.Exec(ctx) // agents without a claim have no such field
		for id, cmd := range asked {
			if cmd.Val() != "" {
				late = append(late, time.Now().Add(offset).Sub(due[id]))
				delete(due, id)
			}
		}
	}
	for range due { // one that never rang is later than any
		late = append(late, time.Hour)
	}
	return late
}
