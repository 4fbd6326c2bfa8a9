package turn

import (
	"context"
	"sync"
	"time"

	"troupe/http/runnerproto"
)

const (
	progressEvery = 100 * time.Millisecond // well below 20 calls a second (RUN-12)
	progressBatch = 100
	progressHeld  = 1000 // entries kept while the control plane does not answer; older ones are dropped
)

// progress sends the reports of one turn attempt in batches. A report that is lost is harmless, "accepted" apart, which
// flush waits for.
type progress struct {
	client *runnerproto.Client
	turn   string
	mu     sync.Mutex
	seq    int64
	held   []runnerproto.ProgressEntry
	sendMu sync.Mutex
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

func newProgress(client *runnerproto.Client, turn string) *progress {
	ctx, cancel := context.WithCancel(context.Background())
	p := &progress{client: client, turn: turn, stop: cancel}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		t := time.NewTicker(progressEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				p.flush(ctx)
			}
		}
	}()
	return p
}

func (p *progress) close() {
	p.stop()
	p.wg.Wait()
}

func (p *progress) add(e runnerproto.ProgressEntry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	e.Seq = p.seq
	if len(p.held) < progressHeld {
		p.held = append(p.held, e)
	}
}

// flush sends what is held. A refusal drops it; the turn's end will meet the same refusal.
func (p *progress) flush(ctx context.Context) {
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	for {
		p.mu.Lock()
		batch := p.held[:min(len(p.held), progressBatch)]
		p.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		err := p.client.Progress(ctx, p.turn, batch)
		if err != nil && !runnerproto.Refused(err) {
			return // kept for the next round
		}
		p.mu.Lock()
		p.held = append([]runnerproto.ProgressEntry(nil), p.held[len(batch):]...)
		p.mu.Unlock()
	}
}
