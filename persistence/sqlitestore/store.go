package sqlitestore

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	_ "modernc.org/sqlite" // the driver

	"troupe/actors/agent"
	"troupe/actors/fault"
)

//go:embed schema.sql
var schema string

// Store is the embedded implementation of every port of actors/agent and actors/account that keeps something.
type Store struct {
	w, r  *sql.DB
	lock  *os.File
	queue chan *op
	stop  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
	hub   hub
}

// options: what is acknowledged is on disk (synchronous FULL); the write-ahead log is folded back every 32 MiB.
const options = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_pragma=wal_autocheckpoint(8192)"

// schemaVersion grows with every change of schema.sql that older code cannot read.
const schemaVersion = 3

// Open opens or creates the store in dir. It fails at once when another process owns the directory.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the store's directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "store.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the store's lock: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("another process owns the store in %s", dir)
	}
	s := &Store{lock: lock, queue: make(chan *op, 4096), stop: make(chan struct{}), hub: hub{subs: map[string]map[int]func(){}}}
	if err := s.open(filepath.Join(dir, "troupe.db")); err != nil {
		_ = lock.Close()
		return nil, err
	}
	conn, err := s.w.Conn(context.Background())
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("open the store's writer: %w", err)
	}
	s.wg.Add(1)
	go s.run(conn)
	return s, nil
}

func (s *Store) open(path string) (err error) {
	if s.w, err = sql.Open("sqlite", "file:"+path+options+"&_pragma=cache_size(-4096)"); err != nil {
		return err
	}
	s.w.SetMaxOpenConns(1)
	var version, tables int
	err = s.w.QueryRow(`SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version`).Scan(&version, &tables)
	if err == nil && tables > 0 && version != schemaVersion {
		err = fmt.Errorf("it has format %d, this build reads format %d", version, schemaVersion)
	}
	if err != nil {
		_ = s.w.Close()
		return fmt.Errorf("prepare the store: %w", err)
	}
	// No member of an earlier process can live: the lock on the directory is ours.
	if _, err := s.w.Exec(schema + `; DELETE FROM member; UPDATE grain SET member='', addr='', pid=''; PRAGMA user_version=` + strconv.Itoa(schemaVersion)); err != nil {
		_ = s.w.Close()
		return fmt.Errorf("prepare the store: %w", err)
	}
	if s.r, err = sql.Open("sqlite", "file:"+path+options+"&_pragma=query_only(1)"); err != nil {
		return err
	}
	s.r.SetMaxOpenConns(4)
	return nil
}

// Close ends the writer and releases the directory. It may be called twice.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.stop)
		s.wg.Wait()
		err = errors.Join(s.r.Close(), s.w.Close(), s.lock.Close())
	})
	return err
}

// Ping says whether the store answers.
func (s *Store) Ping(ctx context.Context) error { return storeErr(s.r.PingContext(ctx)) }

func now() int64 { return time.Now().UnixMilli() }

func storeErr(err error) error {
	if err == nil || errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return fault.Store(err)
}

// hub tells watchers of this process; it is the only one that writes.
type hub struct {
	mu   sync.Mutex
	subs map[string]map[int]func()
	next int
}

func (h *hub) notify(topic string) {
	h.mu.Lock()
	fns := make([]func(), 0, len(h.subs[topic]))
	for _, fn := range h.subs[topic] {
		fns = append(fns, fn)
	}
	h.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}

func (h *hub) watch(topic string, fn func()) (cancel func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	n := h.next
	if h.subs[topic] == nil {
		h.subs[topic] = map[int]func(){}
	}
	h.subs[topic][n] = fn
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if delete(h.subs[topic], n); len(h.subs[topic]) == 0 {
			delete(h.subs, topic)
		}
	})
}

// Watch implements agent.Watcher.
func (s *Store) Watch(id agent.ID, notify func()) (cancel func()) {
	return s.hub.watch("a:"+string(id), notify)
}
