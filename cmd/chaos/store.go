package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// Shapes of the store under test.
const (
	single   = "single"   // one Redis
	sentinel = "sentinel" // a primary, two replicas and three Sentinels; a write counts when both replicas have it
	clusters = "cluster"  // a Redis Cluster of three masters with a replica each; likewise with that one
)

// server is one redis-server with a clock of its own.
type server struct {
	*process
	addr  string
	clock *os.File // the offset of its clock, ms, as the preloaded library reads it; nil when there is none
}

// store is the Redis under test, in one of its shapes.
type store struct {
	shape   string
	servers []*server // that hold data
	watch   []*server // Sentinels
	rdb     redis.UniversalClient
}

// skew is preloaded into every redis-server: it adds an offset, read from a mapped file, to the wall clock. (Debian's faketime
// does not start under the allocator that Debian's redis-server is linked with.)
const skew = `
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *offset;
__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CHAOS_CLOCK");
  int fd = path ? open(path, O_RDONLY) : -1;
  if (fd < 0) return;
  void *at = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
  if (at != MAP_FAILED) offset = at;
}
int clock_gettime(clockid_t id, struct timespec *t) {
  int r = syscall(SYS_clock_gettime, id, t);
  if (r || !offset || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)) return r;
  long ns = t->tv_nsec + (*offset % 1000) * 1000000;
  t->tv_sec += *offset / 1000;
  if (ns < 0) { ns += 1000000000; t->tv_sec--; }
  if (ns >= 1000000000) { ns -= 1000000000; t->tv_sec++; }
  t->tv_nsec = ns;
  return 0;
}
int gettimeofday(struct timeval *tv, void *tz) {
  struct timespec t;
  int r = clock_gettime(CLOCK_REALTIME, &t);
  if (tv) { tv->tv_sec = t.tv_sec; tv->tv_usec = t.tv_nsec / 1000; }
  return r;
}
time_t time(time_t *out) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (out) *out = t.tv_sec;
  return t.tv_sec;
}
`

// buildSkew compiles the library, "" when there is no C compiler: then clocks do not jump.
func buildSkew(dir string) string {
	src, lib := filepath.Join(dir, "skew.c"), filepath.Join(dir, "skew.so")
	if os.WriteFile(src, []byte(skew), 0o600) != nil {
		return ""
	}
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-O1", "-o", lib, src).CombinedOutput(); err != nil {
		fmt.Printf("no clock jumps: %v %s\n", err, bytes.TrimSpace(out))
		return ""
	}
	return lib
}

// newServer prepares a server with a configuration file of its own: Sentinels write into it who is whose replica.
func newServer(dir, name, lib string, lines ...string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	home := filepath.Join(dir, name)
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	s := &server{addr: addr, process: &process{path: "redis-server", log: filepath.Join(dir, name+".log")}}
	conf := filepath.Join(home, "redis.conf")
	s.args = []string{conf}
	if strings.HasPrefix(name, "sentinel") {
		s.args = append(s.args, "--sentinel")
	}
	lines = append([]string{"port " + port, "bind 127.0.0.1", "dir " + home}, lines...)
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	if lib != "" {
		path := filepath.Join(home, "clock")
		if err := os.WriteFile(path, make([]byte, 8), 0o600); err != nil {
			return nil, err
		}
		if s.clock, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			return nil, err
		}
		s.env = []string{"LD_PRELOAD=" + lib, "CHAOS_CLOCK=" + path}
	}
	return s, nil
}

// jump sets the offset of the server's clock.
func (s *server) jump(by time.Duration) error {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], uint64(by.Milliseconds()))
	_, err := s.clock.WriteAt(b[:], 0)
	return err
}

func newStore(ctx context.Context, shape, dir string) (*store, error) {
	st := &store{shape: shape}
	lib := buildSkew(dir)
	// With everysec a server puts writes off while a slow fsync runs, and answers all the same: killed then, it comes back without
	// them, and replicas that have them follow it. See the README's promises.
	data := []string{"appendonly yes", "appendfsync always", `save ""`, "repl-diskless-sync-delay 0"}
	count := map[string]int{single: 1, sentinel: 3, clusters: 6}[shape]
	if count == 0 {
		return nil, fmt.Errorf("no store is called %q: single, sentinel or cluster", shape)
	}
	if shape == clusters {
		data = append(data, "cluster-enabled yes", "cluster-node-timeout 2000")
	}
	for i := range count {
		args := data
		if shape == sentinel && i > 0 {
			host, port, _ := net.SplitHostPort(st.servers[0].addr)
			args = append(args[:len(args):len(args)], "replicaof "+host+" "+port)
		}
		s, err := newServer(dir, fmt.Sprintf("redis%d", i), lib, args...)
		if err != nil {
			return nil, err
		}
		st.servers = append(st.servers, s)
		if err := s.start(); err != nil {
			return nil, fmt.Errorf("redis-server (apt-get install redis-server): %w", err)
		}
		if err := s.await(ctx); err != nil {
			return nil, err
		}
	}
	switch shape {
	case sentinel:
		return st, st.guard(ctx, dir)
	case clusters:
		return st, st.join(ctx)
	}
	st.rdb = redis.NewClient(&redis.Options{Addr: st.servers[0].addr})
	return st, nil
}

// await waits until the server answers.
func (s *server) await(ctx context.Context) error {
	c := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1})
	defer c.Close()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := c.Ping(ctx).Err()
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("a redis-server does not answer, see %s: %w", s.log, err)
		}
	}
}

// guard starts the Sentinels.
func (st *store) guard(ctx context.Context, dir string) error {
	host, port, _ := net.SplitHostPort(st.servers[0].addr)
	opt := &redis.FailoverOptions{MasterName: "main"}
	for i := range 3 {
		s, err := newServer(dir, fmt.Sprintf("sentinel%d", i), "", "sentinel monitor main "+host+" "+port+" 2", "sentinel down-after-milliseconds main 1500",
			"sentinel failover-timeout main 6000")
		if err != nil {
			return err
		}
		if err := s.start(); err != nil {
			return err
		}
		if err := s.await(ctx); err != nil {
			return err
		}
		st.watch = append(st.watch, s)
		opt.SentinelAddrs = append(opt.SentinelAddrs, s.addr)
	}
	st.rdb = redis.NewFailoverClient(opt)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		c := redis.NewSentinelClient(&redis.Options{Addr: st.watch[0].addr})
		m, err := c.Master(ctx, "main").Result()
		_ = c.Close()
		if err == nil && m["num-slaves"] == "2" && m["num-other-sentinels"] == "2" {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return errors.New("the Sentinels do not find each other")
		}
	}
}

// join forms the Redis Cluster.
func (st *store) join(ctx context.Context) error {
	var cs []*redis.Client
	opt := &redis.ClusterOptions{}
	for _, s := range st.servers {
		c := redis.NewClient(&redis.Options{Addr: s.addr})
		defer c.Close()
		cs, opt.Addrs = append(cs, c), append(opt.Addrs, s.addr)
	}
	ids := make([]string, 3)
	for i := range 3 {
		ids[i], _ = cs[i].ClusterMyID(ctx).Result()
		if err := cs[i].ClusterAddSlotsRange(ctx, i*16384/3, (i+1)*16384/3-1).Err(); err != nil {
			return err
		}
	}
	for _, s := range st.servers[1:] {
		host, port, _ := net.SplitHostPort(s.addr)
		if err := cs[0].ClusterMeet(ctx, host, port).Err(); err != nil {
			return err
		}
	}
	st.rdb = redis.NewClusterClient(opt)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		ready := 0
		for i, c := range cs {
			if i >= 3 {
				_ = c.ClusterReplicate(ctx, ids[i-3]).Err() // until it knows that master
			}
			info, _ := c.ClusterInfo(ctx).Result()
			role, _ := c.Info(ctx, "replication").Result()
			if strings.Contains(info, "cluster_state:ok") && (i < 3 && strings.Contains(role, "state=online") || i >= 3 && strings.Contains(role, "master_link_status:up")) {
				ready++
			}
		}
		if ready == len(cs) {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return errors.New("the Redis Cluster does not form")
		}
	}
}

// primary picks a server that takes writes.
func (st *store) primary(ctx context.Context, r *rand.Rand) *server {
	from := r.IntN(len(st.servers))
	for i := range st.servers {
		s := st.servers[(from+i)%len(st.servers)]
		c := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1})
		role, _ := c.Info(ctx, "replication").Result()
		_ = c.Close()
		if strings.Contains(role, "role:master") {
			return s
		}
	}
	return st.servers[from]
}

// whole waits until every primary has a replica again, so that the next fault meets a store that can bear it.
func (st *store) whole(ctx context.Context) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		masters, replicas := 0, 0
		for _, s := range st.servers {
			c := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1})
			info, _ := c.Info(ctx, "replication").Result()
			_ = c.Close()
			switch {
			case strings.Contains(info, "role:master"):
				masters++
			case strings.Contains(info, "master_link_status:up"):
				replicas++
			}
		}
		want := map[string][2]int{single: {1, 0}, sentinel: {1, 2}, clusters: {3, 3}}[st.shape]
		if masters == want[0] && replicas == want[1] && st.rdb.Ping(ctx).Err() == nil {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("the store did not become whole: %d primaries, %d replicas", masters, replicas)
		}
	}
}

// url is the store's address as one node sees it: every server behind a gate of its own.
func (st *store) url(gates map[string]*gate) string {
	switch st.shape {
	case sentinel:
		return fmt.Sprintf("redis://%s?master_name=main&addr=%s&addr=%s", gates[st.watch[0].addr].addr, gates[st.watch[1].addr].addr, gates[st.watch[2].addr].addr)
	case clusters:
		return fmt.Sprintf("redis://%s?cluster=true&addr=%s&addr=%s", gates[st.servers[0].addr].addr, gates[st.servers[1].addr].addr, gates[st.servers[2].addr].addr)
	}
	return "redis://" + gates[st.servers[0].addr].addr
}

// acks is how many replicas must have a write: all of a primary's, since any may be promoted. A primary that comes back while
// the Sentinels promote one replica takes writes, with the other, until it is told.
func (st *store) acks() int { return map[string]int{sentinel: 2, clusters: 1}[st.shape] }

// gates opens a gate to every server, for one node. What servers say of each other's ports is rewritten, so that the node
// finds no way around them.
func (st *store) gates() (map[string]*gate, error) {
	out := map[string]*gate{}
	for _, s := range append(st.watch[:len(st.watch):len(st.watch)], st.servers...) {
		g, err := openGate(s.addr)
		if err != nil {
			return nil, err
		}
		out[s.addr] = g
	}
	if st.shape == single {
		return out, nil
	}
	var pairs []string
	for to, g := range out {
		_, real, _ := net.SplitHostPort(to)
		_, seen, _ := net.SplitHostPort(g.addr)
		if st.shape == sentinel {
			pairs = append(pairs, real, seen)
		} else {
			pairs = append(pairs, ":"+real+"\r\n", ":"+seen+"\r\n", "127.0.0.1:"+real, "127.0.0.1:"+seen)
		}
	}
	for addr, g := range out {
		if st.shape == clusters || st.isWatch(addr) {
			g.rewrite = strings.NewReplacer(pairs...)
		}
	}
	return out, nil
}

func (st *store) isWatch(addr string) bool {
	for _, s := range st.watch {
		if s.addr == addr {
			return true
		}
	}
	return false
}

func (st *store) close() {
	if st.rdb != nil {
		_ = st.rdb.Close()
	}
	for _, s := range append(st.watch[:len(st.watch):len(st.watch)], st.servers...) {
		s.end(syscall.SIGKILL, time.Second)
		if s.clock != nil {
			_ = s.clock.Close()
		}
	}
}
