package channels

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"troupe/actors/fault"
)

// Conversation is the far end of a binding, for a network whose gaps are read.
type Conversation struct {
	User, Team string
	Chat       string    // "" where the bot has not met it yet
	Since      time.Time // when it was linked
	Taken      []string  // Event.ID of the newest that was stored, and of the newest that was dealt with otherwise
}

// Lanes do what there is to do for each sender in its order, and for some senders at once: nobody waits for the agent of another.
type Lanes struct {
	mu   sync.Mutex
	of   map[string][]func() // by sender; the first is being done
	n    int
	max  int
	busy chan struct{}
	wg   sync.WaitGroup
	log  *slog.Logger
}

// lanePause is how long Add waits before it looks for room again.
const lanePause = 50 * time.Millisecond

// NewLanes returns lanes for some senders at once, with at most so much to do.
func NewLanes(atOnce, most int, log *slog.Logger) *Lanes {
	return &Lanes{busy: make(chan struct{}, atOnce), max: most, of: map[string][]func(){}, log: log}
}

// Add puts something to do behind what the sender has. It waits where too much is to be done, and gives up with ctx; so does what is to be done.
func (l *Lanes) Add(ctx context.Context, sender string, do func()) {
	for l.depth() >= l.max {
		if Pause(ctx, lanePause); ctx.Err() != nil {
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	if l.of[sender] = append(l.of[sender], do); len(l.of[sender]) > 1 {
		return
	}
	l.wg.Add(1)
	go func() { // ends when nothing is left to do for this sender
		defer l.wg.Done()
		for l.next(ctx, sender) {
		}
	}()
}

// Gaps puts the reading of every conversation of a bot behind what its sender has to do. It tries until they can be listed.
func (l *Lanes) Gaps(ctx context.Context, bot string, list func(ctx context.Context, bot string) ([]Conversation, error), log *slog.Logger, read func(Conversation)) {
	for ctx.Err() == nil {
		all, err := list(ctx, bot)
		if err != nil {
			log.Warn("conversations could not be listed", "bot", bot, "err", err)
			Pause(ctx, time.Second)
			continue
		}
		for _, conv := range all {
			l.Add(ctx, conv.User, func() { read(conv) })
		}
		return
	}
}

// Pause waits, unless ctx ends first.
func Pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Wait waits for all of them to end. Nothing may be added meanwhile.
func (l *Lanes) Wait() { l.wg.Wait() }

func (l *Lanes) depth() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// next does the first thing of a sender and says whether there is more.
func (l *Lanes) next(ctx context.Context, sender string) bool {
	l.mu.Lock()
	do := l.of[sender][0]
	l.mu.Unlock()
	select {
	case l.busy <- struct{}{}:
		if err := fault.Caught(func() error { do(); return nil }); err != nil { // it must not keep what is behind it
			l.log.Error("something that a sender wrote panicked", "sender", sender, "err", err)
		}
		<-l.busy
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n--
	if l.of[sender] = l.of[sender][1:]; len(l.of[sender]) == 0 {
		delete(l.of, sender)
		return false
	}
	return true
}
