package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"sync/atomic"
	"time"

	"troupe/actors/fault"
)

// maxBatch is how many writes share one transaction.
const maxBatch = 128

// tx is the transaction that operations write to. It lives as long as the writer and keeps its prepared statements; err is
// the first database error of the present transaction, so that operations read as plain steps: after an error nothing
// more is executed and the whole batch is rolled back.
type tx struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	// stamps holds when an agent was last put into the pending set; fresh those of the present transaction.
	stamps, fresh map[string]int64
	err           error
}

func (t *tx) exec(query string, args ...any) (rows int64) {
	st := t.stmt(query)
	if st == nil {
		return 0
	}
	res, err := st.Exec(args...)
	if err != nil {
		t.err = err
		return 0
	}
	rows, t.err = res.RowsAffected()
	return rows
}

// row reads one row; found is false when there is none.
func (t *tx) row(query string, args []any, into ...any) (found bool) {
	st := t.stmt(query)
	if st == nil {
		return false
	}
	err := st.QueryRow(args...).Scan(into...)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		t.err = err
	}
	return err == nil
}

// column reads the first column of every row.
func (t *tx) column(query string, args ...any) (out []string) {
	st := t.stmt(query)
	if st == nil {
		return nil
	}
	rows, err := st.Query(args...)
	if err != nil {
		t.err = err
		return nil
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if t.err = rows.Scan(&s); t.err != nil {
			return nil
		}
		out = append(out, s)
	}
	t.err = rows.Err()
	return out
}

// stmt returns the prepared statement, nil after an error. The texts are constants of this package, or built from a few
// of its column names, so their number is small.
func (t *tx) stmt(query string) *sql.Stmt {
	if t.err != nil {
		return nil
	}
	st, ok := t.stmts[query]
	if !ok {
		var err error
		if st, err = t.conn.PrepareContext(context.Background(), query); err != nil {
			t.err = err
			return nil
		}
		t.stmts[query] = st
	}
	return st
}

func args(a ...any) []any { return a }

// op is one write: all of it is done, or it returns a refusal before its first write.
type op struct {
	do func(t *tx) error
	// begun is set by whoever is first: the writer that runs it, or the caller that gives up. It keeps a caller that
	// gave up from seeing its results change.
	begun atomic.Bool
	err   error
	done  chan struct{}
}

// write runs do in a transaction shared with other writes, and returns once it is on disk. A refusal that do returns is
// passed on; a database error is fault.Unavailable and nothing of do is stored.
func (s *Store) write(ctx context.Context, do func(t *tx) error) error {
	o := &op{do: do, done: make(chan struct{})}
	select {
	case <-s.stop:
		return fault.Store(errors.New("the store is closed"))
	case s.queue <- o:
	default:
		return fault.Store(errors.New("too many writes wait for the store"))
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		if o.begun.CompareAndSwap(false, true) {
			return fault.Store(ctx.Err())
		}
		<-o.done // it is being written; the transaction has a deadline of its own
		return o.err
	}
}

func (s *Store) run(conn *sql.Conn) {
	defer s.wg.Done()
	t := &tx{conn: conn, stmts: map[string]*sql.Stmt{}, stamps: map[string]int64{}}
	sweep := time.NewTicker(time.Minute)
	defer sweep.Stop()
	for {
		var batch []*op
		select {
		case <-s.stop:
			s.drain()
			return
		case <-sweep.C:
			batch = append(batch, s.expire())
		case o := <-s.queue:
			if o.begun.CompareAndSwap(false, true) {
				batch = append(batch, o)
			}
		}
	fill:
		for len(batch) < maxBatch {
			select {
			case o := <-s.queue:
				if o.begun.CompareAndSwap(false, true) {
					batch = append(batch, o)
				}
			default:
				break fill
			}
		}
		if len(batch) == 0 {
			continue
		}
		if !s.commit(t, batch) { // one of them broke the transaction: each on its own
			for _, o := range batch {
				s.commit(t, []*op{o})
			}
		}
		for _, o := range batch {
			close(o.done)
		}
	}
}

func (s *Store) drain() {
	for {
		select {
		case o := <-s.queue:
			o.err = fault.Store(errors.New("the store is closed"))
			close(o.done)
		default:
			return
		}
	}
}

// commit runs the batch in one transaction. It returns false if the transaction failed and the batch holds more than one write.
func (s *Store) commit(t *tx, batch []*op) bool {
	t.err, t.fresh = nil, nil
	t.exec(`BEGIN IMMEDIATE`)
	for _, o := range batch {
		o.err = o.do(t)
	}
	t.exec(`COMMIT`)
	err := t.err
	if err == nil {
		if len(t.stamps) > maxStamps {
			clear(t.stamps)
		}
		maps.Copy(t.stamps, t.fresh)
	} else {
		t.err = nil
		t.exec(`ROLLBACK`) // fails where SQLite has rolled back by itself
		for _, o := range batch {
			o.err = fault.Store(err)
		}
	}
	return err == nil || len(batch) == 1
}

// expire drops what is past its time.
func (s *Store) expire() *op {
	return &op{done: make(chan struct{}), do: func(t *tx) error {
		t.exec(`DELETE FROM idem WHERE expires < ?`, now())
		t.exec(`DELETE FROM counter WHERE ends < ?`, now())
		return nil
	}}
}
