package redisstore

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"troupe/actors/fault"
)

// Limits of the pipelines.
const (
	lanes      = 4    // pipelines in flight at once
	laneQueue  = 4096 // calls that may wait per lane; more are refused
	maxBatch   = 128  // calls per pipeline
	callExpiry = 2 * time.Second
)

// ackWithin is how long a batch waits for its replicas.
const ackWithin = time.Second

// errAcks is why a write counts as not durable although the primary has it.
var errAcks = errors.New("too few replicas have acknowledged the write")

// call is one or more commands that travel together. All their keys lie in one slot.
type call struct {
	cmds  []redis.Cmder
	write bool
	err   error // why its writes are not durable, whatever the commands returned
	done  chan struct{}
}

// batcher collects concurrent calls into pipelines.
type batcher struct {
	rdb    redis.UniversalClient
	acks   int           // replicas that must have a write before it counts as durable
	within time.Duration // so long they may take
	lanes  []chan *call
	stop   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
}

func newBatcher(rdb redis.UniversalClient, acks int) *batcher {
	b := &batcher{rdb: rdb, acks: acks, within: ackWithin, stop: make(chan struct{})}
	for range lanes {
		ch := make(chan *call, laneQueue)
		b.lanes = append(b.lanes, ch)
		b.wg.Add(1)
		go b.serve(ch)
	}
	return b
}

func (b *batcher) close() {
	b.once.Do(func() { close(b.stop) })
	b.wg.Wait()
}

func (b *batcher) serve(ch chan *call) {
	defer b.wg.Done()
	batch := make([]*call, 0, maxBatch)
	for {
		select {
		case <-b.stop:
			return
		case c := <-ch:
			batch = append(batch[:0], c)
		}
	fill:
		for len(batch) < maxBatch {
			select {
			case c := <-ch:
				batch = append(batch, c)
			default:
				break fill
			}
		}
		b.flush(batch)
	}
}

func (b *batcher) flush(batch []*call) {
	ctx, cancel := context.WithTimeout(context.Background(), callExpiry)
	defer cancel()
	if cc, ok := b.rdb.(*redis.ClusterClient); ok && b.acks > 0 {
		b.flushByMaster(ctx, cc, batch)
	} else {
		b.send(ctx, b.rdb.Pipeline(), batch)
	}
	for _, c := range batch {
		close(c.done)
	}
}

// send runs a batch on one connection. With acks, that connection waits for the replicas: what they acknowledge is
// everything that was written on it.
func (b *batcher) send(ctx context.Context, pipe redis.Pipeliner, batch []*call) {
	writes := false
	for _, c := range batch {
		writes = writes || c.write
		for _, cmd := range c.cmds {
			_ = pipe.Process(ctx, cmd)
		}
	}
	var acked *redis.IntCmd
	if b.acks > 0 && writes {
		acked = redis.NewIntCmd(ctx, "wait", b.acks, b.within.Milliseconds())
		_ = pipe.Process(ctx, acked)
	}
	_, _ = pipe.Exec(ctx) // each command carries its own error
	if acked == nil || acked.Err() == nil && acked.Val() >= int64(b.acks) {
		return
	}
	for _, c := range batch {
		if c.write {
			c.err = errAcks
		}
	}
}

// flushByMaster sends a batch to the masters of its keys, so that writes and their wait share a connection.
func (b *batcher) flushByMaster(ctx context.Context, cc *redis.ClusterClient, batch []*call) {
	parts := map[*redis.Client][]*call{}
	for _, c := range batch {
		master, err := cc.MasterForKey(ctx, c.key())
		if err != nil {
			c.err = err
			continue
		}
		parts[master] = append(parts[master], c)
	}
	var wg sync.WaitGroup
	for master, calls := range parts {
		wg.Add(1)
		go func() {
			defer wg.Done()
			b.send(ctx, master.Pipeline(), calls)
		}()
	}
	wg.Wait()
	for _, c := range batch {
		for _, cmd := range c.cmds {
			if err := cmd.Err(); err != nil && (strings.HasPrefix(err.Error(), "MOVED") || strings.HasPrefix(err.Error(), "ASK") || c.err == nil && !isReply(err)) {
				cc.ReloadState(ctx) // the slots have moved: the caller is told, the next call finds them
				return
			}
		}
	}
}

// isReply says whether an error is the server's answer rather than that of a broken connection.
func isReply(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer)
}

// key is one of the call's keys.
func (c *call) key() string {
	args, at := c.cmds[0].Args(), 1
	if name := c.cmds[0].Name(); name == "evalsha" || name == "eval" {
		at = 3
	}
	key, _ := args[at].(string)
	return key
}

// do runs commands in one pipeline with others and waits for them. Lane keeps the commands of one agent in order.
// Errors: fault.Unavailable when the lane is full or ctx ends first; the commands carry their own.
func (b *batcher) do(ctx context.Context, lane int, cmds ...redis.Cmder) error {
	return b.run(ctx, lane, &call{cmds: cmds, done: make(chan struct{})})
}

// write is do for commands that write: it returns once they are durable (see Open), or an error when that is not known.
func (b *batcher) write(ctx context.Context, lane int, cmds ...redis.Cmder) error {
	return b.run(ctx, lane, &call{cmds: cmds, write: true, done: make(chan struct{})})
}

func (b *batcher) run(ctx context.Context, lane int, c *call) error {
	if err := b.start(lane, c); err != nil {
		return err
	}
	return b.wait(ctx, c)
}

// start puts a call on its way.
func (b *batcher) start(lane int, c *call) error {
	select {
	case b.lanes[lane%lanes] <- c:
		return nil
	default:
		return fault.Store(errors.New("too many calls wait for the store"))
	}
}

// wait waits for one that was started.
func (b *batcher) wait(ctx context.Context, c *call) error {
	select {
	case <-c.done:
		if c.err != nil {
			return fault.Store(c.err)
		}
		return nil
	case <-ctx.Done():
		return fault.Store(ctx.Err())
	case <-b.stop:
		return fault.Store(errors.New("the store is closed"))
	}
}

// script runs a script through the batcher, with more commands before it in the same pipeline. A server that does not
// know the script (it was restarted) is told once.
func (s *Store) script(ctx context.Context, lane int, sc *script, keys []string, args []any, before ...redis.Cmder) (any, error) {
	return s.eval(ctx, s.batch.write, lane, sc, keys, args, before...)
}

// query is script for one that only reads, or whose writes need not be durable.
func (s *Store) query(ctx context.Context, lane int, sc *script, keys []string, args []any) (any, error) {
	return s.eval(ctx, s.batch.do, lane, sc, keys, args)
}

func (s *Store) eval(ctx context.Context, run func(context.Context, int, ...redis.Cmder) error, lane int, sc *script, keys []string, args []any, before ...redis.Cmder) (any, error) {
	for try := 0; ; try++ {
		cmd := sc.cmd(ctx, keys, args, try > 0)
		if err := run(ctx, lane, append(before, cmd)...); err != nil {
			return nil, err
		}
		res, err := cmd.Result()
		switch {
		case err == nil:
			return res, nil
		case try == 0 && isUnknownScript(err):
			before = nil
		default:
			return nil, storeErr(err)
		}
	}
}

// isUnknownScript says that the server does not know a script: it was restarted.
func isUnknownScript(err error) bool { return strings.HasPrefix(err.Error(), "NOSCRIPT") }

// put runs one write on its own and waits until it is durable.
func (s *Store) put(ctx context.Context, cmd redis.Cmder) error {
	if err := s.batch.write(ctx, int(s.turns.Add(1)), cmd); err != nil {
		return err
	}
	return storeErr(cmd.Err())
}

// storeErr classifies what the client library returns.
func storeErr(err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	return fault.Store(err)
}
