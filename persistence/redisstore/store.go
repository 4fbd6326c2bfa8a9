package redisstore

import (
	"context"
	"crypto/sha1"
	"embed"
	"encoding/hex"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
)

//go:embed scripts/*.lua
var sources embed.FS

// script is a Lua script, called by its hash.
type script struct {
	src  string
	hash string
}

func load(names ...string) *script {
	src := ""
	for _, n := range append([]string{"time"}, names...) {
		b, err := sources.ReadFile("scripts/" + n + ".lua")
		if err != nil {
			panic(err) // embedded at build time
		}
		src += string(b)
	}
	return &script{src: src, hash: hashOf(src)}
}

func inline(src string) *script { return &script{src: src, hash: hashOf(src)} }

// hashOf names a script as Redis does, by SHA-1; no secret is involved.
func hashOf(src string) string {
	sum := sha1.Sum([]byte(src))
	return hex.EncodeToString(sum[:])
}

func (s *script) cmd(ctx context.Context, keys []string, args []any, full bool) *redis.Cmd {
	a := make([]any, 0, 3+len(keys)+len(args))
	if full {
		a = append(a, "eval", s.src)
	} else {
		a = append(a, "evalsha", s.hash)
	}
	a = append(a, len(keys))
	for _, k := range keys {
		a = append(a, k)
	}
	cmd := redis.NewCmd(ctx, append(a, args...)...)
	cmd.SetFirstKeyPos(3)
	return cmd
}

var (
	acceptScript  = load("accept")
	commitScript  = load("commit")
	createScript  = load("create")
	claimScript   = load("claim")
	releaseScript = load("release")
	beatScript    = load("beat")
	reserveScript = load("ledger", "reserve")
	settleScript  = load("ledger", "settle")
	leaseScript   = load("lease")
	placeScript   = load("place")
	countScript   = load("count")
)

// Store is the Redis implementation of every port of actors/agent and actors/account that keeps something.
type Store struct {
	rdb     redis.UniversalClient
	batch   *batcher
	hub     *hub
	stamps  stamps
	turns   atomic.Uint32 // of acceptances among the lanes
	cluster bool
	look    atomic.Pointer[glance]
}

// glance is a look at the store's clock, and when it was, on our monotonic clock: no jump of our own clock matters.
type glance struct{ store, at time.Time }

// now is the store's time, as near as the last look at its clock tells.
func (s *Store) now() time.Time {
	g := s.look.Load()
	if g == nil {
		return time.Now()
	}
	return g.store.Add(time.Since(g.at))
}

// sync takes in a look at the store's clock.
func (s *Store) sync(t time.Time) { s.look.Store(&glance{store: t, at: time.Now()}) }

// Open connects to url: redis:// or rediss://, with several addresses as ?addr=host:port (Cluster) and
// ?master_name=name (Sentinel). With acks above 0 a write counts as durable only when so many replicas have acknowledged it.
// Open fails if no server answers within the deadline of ctx.
func Open(ctx context.Context, url string, acks int) (*Store, error) {
	opt, err := options(url)
	if err != nil {
		return nil, err
	}
	rdb := redis.NewUniversalClient(opt)
	if err := rdb.Ping(ctx).Err(); err != nil {
		_ = rdb.Close()
		return nil, fmt.Errorf("reach the store at %v: %w", opt.Addrs, err)
	}
	s := &Store{rdb: rdb, batch: newBatcher(rdb, acks), hub: newHub(rdb), stamps: stamps{at: map[agent.ID]time.Time{}}}
	_, s.cluster = rdb.(*redis.ClusterClient)
	if t, err := rdb.Time(ctx).Result(); err == nil {
		s.sync(t)
	}
	return s, nil
}

func options(url string) (*redis.UniversalOptions, error) {
	q, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	q.MaxRetries = -1 // a repeated write could take effect twice; callers repeat with their own ids
	q.ReadTimeout, q.WriteTimeout, q.DialTimeout = callExpiry, callExpiry, 2*time.Second
	q.PoolTimeout = callExpiry
	q.PoolSize = 32
	return q, nil
}

// Ping says whether the store answers.
func (s *Store) Ping(ctx context.Context) error { return storeErr(s.rdb.Ping(ctx).Err()) }

// Close ends every subscription and connection. It may be called twice.
func (s *Store) Close() error {
	s.hub.close()
	s.batch.close()
	return s.rdb.Close()
}
