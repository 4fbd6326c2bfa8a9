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

// call is one or more commands that travel together.
type call struct {
	cmds []redis.Cmder
	done chan struct{}
}

// batcher collects concurrent calls into pipelines.
type batcher struct {
	rdb   redis.UniversalClient
	lanes []chan *call
	stop  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

func newBatcher(rdb redis.UniversalClient) *batcher {
	b := &batcher{rdb: rdb, stop: make(chan struct{})}
	for range lanes {
		ch := make(chan *call, laneQueue)
		b.lanes = append(b.lanes, ch)
		b.wg.Add(1)
		go b.run(ch)
	}
	return b
}

func (b *batcher) close() {
	b.once.Do(func() { close(b.stop) })
	b.wg.Wait()
}

func (b *batcher) run(ch chan *call) {
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
	pipe := b.rdb.Pipeline()
	for _, c := range batch {
		for _, cmd := range c.cmds {
			_ = pipe.Process(ctx, cmd)
		}
	}
	_, _ = pipe.Exec(ctx) // each command carries its own error
	for _, c := range batch {
		close(c.done)
	}
}

// do runs commands in one pipeline with others and waits for them. Lane keeps the commands of one agent in order.
// Errors: fault.Unavailable when the lane is full or ctx ends first; the commands carry their own.
func (b *batcher) do(ctx context.Context, lane int, cmds ...redis.Cmder) error {
	c := &call{cmds: cmds, done: make(chan struct{})}
	select {
	case b.lanes[lane%lanes] <- c:
	default:
		return fault.Store(errors.New("too many calls wait for the store"))
	}
	select {
	case <-c.done:
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
	for try := 0; ; try++ {
		cmd := sc.cmd(ctx, keys, args, try > 0)
		if err := s.batch.do(ctx, lane, append(before, cmd)...); err != nil {
			return nil, err
		}
		res, err := cmd.Result()
		switch {
		case err == nil:
			return res, nil
		case try == 0 && strings.HasPrefix(err.Error(), "NOSCRIPT"):
			before = nil
		default:
			return nil, storeErr(err)
		}
	}
}

// storeErr classifies what the client library returns.
func storeErr(err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	return fault.Store(err)
}
