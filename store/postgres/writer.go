package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// writerAge is how long the writing connection lives: a password or a primary that has changed is met soon, and not first in
// an emergency.
const writerAge = time.Hour

// writerRest is how long the writing connection may rest before it is asked whether it is still there: otherwise the next commit
// would be the one to find out, and could not know at once what became of it.
const writerRest = time.Second

// writer is the connection that writes. Whoever has Store.turn uses it.
type writer struct {
	conn *pgx.Conn
	born time.Time
	used time.Time
	// The columns of a batch of entries, used again by the next.
	columns entryColumns
	news    newsColumns
}

// hold lets f write, alone. The writing connection is left without a transaction, or not at all.
func (s *Store) hold(ctx context.Context, f func() error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ended(ctx)
	}
	defer func() { <-s.turn }()
	defer func() { // also when f panics
		switch {
		case s.w == nil:
		case s.w.idle():
			s.w.used = time.Now()
		default:
			s.drop()
		}
	}()
	return f()
}

// write carries out one statement that may as well be carried out twice.
func (s *Store) write(ctx context.Context, action, query string, args ...any) error {
	return s.hold(ctx, func() error {
		for attempt := 1; ; attempt++ {
			w, err := s.writer(ctx)
			if err != nil {
				return translate(ctx, action, err)
			}
			_, err = w.conn.Exec(ctx, query, args...)
			if err == nil || attempt == 3 || ctx.Err() != nil || !passing(err) {
				return translate(ctx, action, err)
			}
			s.drop()
		}
	})
}

// idle reports whether the connection is fit for another transaction.
func (w *writer) idle() bool {
	return !w.conn.IsClosed() && !w.conn.PgConn().IsBusy() && w.conn.PgConn().TxStatus() == 'I'
}

// writer gives the writing connection, a new one when there is none or it has become old.
func (s *Store) writer(ctx context.Context) (*writer, error) {
	if s.w != nil && time.Since(s.w.born) > writerAge {
		s.drop()
	}
	if s.w != nil && time.Since(s.w.used) > writerRest && s.w.conn.Ping(ctx) != nil {
		if err := ended(ctx); err != nil {
			return nil, err
		}
		s.drop() // the new one's error tells more
	}
	if s.w != nil {
		return s.w, nil
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	s.w = &writer{conn: conn, born: time.Now(), used: time.Now()}
	return s.w, nil
}

// drop closes the writing connection. What it had begun is undone by the server; what the head has become is not known.
func (s *Store) drop() {
	s.known = nil
	if s.w != nil {
		s.hangUp(s.w.conn)
		s.w = nil
	}
}

// hangUp closes a connection without waiting long for a server that may be gone.
func (s *Store) hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // there is nothing to be done about a connection that does not close
}
