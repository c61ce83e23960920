package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// writerAge is how long the writing connection lives: a password or a primary that has changed is met soon, and not first in
// an emergency.
const writerAge = time.Hour

// writer is the connection that writes. Whoever has Store.turn uses it.
type writer struct {
	conn *pgx.Conn
	born time.Time
	// The columns of a batch of entries, used again by the next.
	columns entryColumns
}

// write gives f the writing connection, alone. It is left without a transaction, or not at all.
func (s *Store) write(ctx context.Context, action string, f func(*writer) error) error {
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
		if s.w != nil && !s.w.idle() {
			s.drop()
		}
	}()
	for attempt := 1; ; attempt++ {
		w, err := s.writer(ctx)
		if err == nil {
			err = f(w)
		}
		// What f does in one statement that may be repeated: Commit decides for itself.
		if err == nil || attempt == 3 || ctx.Err() != nil || !(lost(err) || rejected(err)) {
			return translate(ctx, action, err)
		}
		s.drop()
	}
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
	if s.w != nil {
		return s.w, nil
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	if s.opts.Exclusive {
		if err := s.claim(ctx, conn); err != nil {
			s.hangUp(conn)
			return nil, err
		}
	}
	s.w = &writer{conn: conn, born: time.Now()}
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
