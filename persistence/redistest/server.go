// Package redistest starts real Redis servers for tests, each with a directory and port of its own, and stops them by pid.
package redistest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is one running redis-server.
type Server struct {
	Addr string
	Dir  string
	args []string
	cmd  *exec.Cmd
}

// URL is the address in the form that the store takes.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Start runs a redis-server with an append-only file until the test ends. It fails the test when redis-server is not
// installed: a store that was not tested is not proven.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("redis-server is needed: apt-get install redis-server (make test does it)")
	}
	s := &Server{Addr: FreeAddr(t), Dir: t.TempDir(), args: args}
	s.Up(t)
	t.Cleanup(func() { s.Kill() })
	return s
}

// bus is how far the port of a Redis Cluster's bus is from the server's.
const bus = 10000

var given sync.Map // ports that FreeAddr has returned

// FreeAddr returns a loopback address for a server that is started later, and started again. Its port and that of its bus are below those
// that a system gives to connections (from 32768 on Linux), so that none takes it meanwhile.
func FreeAddr(t testing.TB) string {
	t.Helper()
	free := func(port int) bool {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		return err == nil && l.Close() == nil
	}
	for range 1000 {
		port := 10000 + rand.IntN(bus)
		if _, taken := given.LoadOrStore(port, true); !taken && free(port) && free(port+bus) {
			return fmt.Sprint("127.0.0.1:", port)
		}
	}
	t.Fatal("no port is free")
	return ""
}

// Up starts the server, again after Kill, and waits until it answers.
func (s *Server) Up(t testing.TB) {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", s.Dir, "--appendonly", "yes", "--save", "", "--daemonize", "no"}, s.args...)
	s.cmd = exec.Command("redis-server", args...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(s.Dir+"/redis.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: s.Addr})
	defer rdb.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if info, err := rdb.Info(context.Background(), "server").Result(); err == nil {
			if !strings.Contains(info, fmt.Sprintf("process_id:%d\r\n", s.Pid())) {
				t.Fatalf("another Redis is at %s", s.Addr)
			}
			return
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(s.Dir + "/redis.log")
			t.Fatalf("redis-server did not start:\n%s", b)
		}
	}
}

// Kill ends the server like a crash. What its append-only file holds survives.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Pid is the server's process.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Cluster starts a Redis Cluster of three masters and returns its address for the store.
func Cluster(t testing.TB) string {
	t.Helper()
	var nodes []*Server
	for range 3 {
		nodes = append(nodes, Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"))
	}
	ctx := context.Background()
	var clients []*redis.Client
	for i, n := range nodes {
		c := redis.NewClient(&redis.Options{Addr: n.Addr})
		t.Cleanup(func() { _ = c.Close() })
		clients = append(clients, c)
		from, to := i*16384/3, (i+1)*16384/3-1
		if err := c.ClusterAddSlotsRange(ctx, from, to).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes[1:] {
		host, port, _ := net.SplitHostPort(n.Addr)
		if err := clients[0].ClusterMeet(ctx, host, port).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ready := 0
		for _, c := range clients {
			info, _ := c.ClusterInfo(ctx).Result()
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3") {
				ready++
			}
		}
		if ready == 3 {
			return fmt.Sprintf("redis://%s?addr=%s&addr=%s", nodes[0].Addr, nodes[1].Addr, nodes[2].Addr)
		}
		if time.Now().After(deadline) {
			t.Fatal("the Redis Cluster did not form")
		}
	}
}

// Sentinel starts one Sentinel that watches a primary as "main" and promotes a replica soon after its death. It returns the
// Sentinel's address.
func Sentinel(t testing.TB, primary *Server) string {
	t.Helper()
	host, port, _ := net.SplitHostPort(primary.Addr)
	s := &Server{Addr: FreeAddr(t), Dir: t.TempDir()}
	_, own, _ := net.SplitHostPort(s.Addr)
	conf := s.Dir + "/sentinel.conf"
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 3000\nsentinel failover-timeout main 3000\n", own, s.Dir, host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command("redis-server", conf, "--sentinel")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c := redis.NewSentinelClient(&redis.Options{Addr: s.Addr})
		m, err := c.Master(context.Background(), "main").Result()
		_ = c.Close()
		if err == nil && m["num-slaves"] == "1" {
			return s.Addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("the Sentinel does not find the replica: %v %v", m, err)
		}
	}
}

// Primary asks a Sentinel who the primary is.
func Primary(t testing.TB, sentinel string) string {
	t.Helper()
	c := redis.NewSentinelClient(&redis.Options{Addr: sentinel})
	defer c.Close()
	a, err := c.GetMasterAddrByName(context.Background(), "main").Result()
	if err != nil || len(a) != 2 {
		t.Fatal(a, err)
	}
	return net.JoinHostPort(a[0], a[1])
}
