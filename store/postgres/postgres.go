// Package postgres is the store for more than one machine: keys, API keys, root slots, idempotency records and the audit
// log in one schema of a PostgreSQL database.
//
// It trusts the database to keep what COMMIT returned for, and whoever may write its tables; the connection is TLS with the
// server's name verified unless the URI says otherwise or it is a Unix socket. Everything secret that it is given is sealed
// already: it keeps no material in clear, and checks nobody's rights.
//
// Everything is written by Commit, on one connection per Store, and any number of Stores may write to one database: the row
// of the audit head is the lock under which each transaction runs, so that the log stays one tree. Reads have a few
// connections of their own. What other databases of the same protocol lack stands in only.go and nowhere else.
//
// Errors are fault.Error values: StoreUnavailable (not reachable, refused, full, read-only, out of time, closed; with a time
// after which to try again), StoreCorrupted (damaged pages or values, a schema of another program), Timeout (the context
// ended first). All methods are safe for concurrent use.
package postgres

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/ratelimit"
	"github.com/keywright/keywright/root"
)

var (
	_ audit.Store       = (*Store)(nil)
	_ auth.Store        = (*Store)(nil)
	_ root.Store        = (*Store)(nil)
	_ keys.Store        = (*Store)(nil)
	_ idempotency.Store = (*Store)(nil)
	_ ratelimit.Store   = (*Store)(nil)
	_ cluster.Store     = (*Store)(nil)
)

// Options are the choices of an opened store. The zero value is usable.
type Options struct {
	// PasswordFile holds the role's password in its first line. It is read for each new connection, so a password that is
	// rotated needs no restart: connections that are open stay. Empty: what the server asks for is not a password, or it
	// stands in the file that PGPASSFILE names.
	PasswordFile string
	// Schema is where the tables are: made when it is missing. Default "public".
	Schema string
	// Connections bounds how many this store opens at a time, one of which writes. Default 8, at least 2. Each Listen under way
	// has one more.
	Connections int
	// StatementTimeout bounds each statement, in the server. Default 15 s.
	StatementTimeout time.Duration
	// ConnectTimeout bounds the making of a connection. Default 5 s.
	ConnectTimeout time.Duration
}

func (o Options) withDefaults() Options {
	if o.Schema == "" {
		o.Schema = "public"
	}
	if o.Connections <= 0 {
		o.Connections = 8
	}
	o.Connections = max(o.Connections, 2)
	if o.StatementTimeout <= 0 {
		o.StatementTimeout = 15 * time.Second
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 5 * time.Second
	}
	return o
}

// Store is an open store.
type Store struct {
	opts   Options
	config *pgx.ConnConfig // of every connection; never changed, always copied

	deployment uuid.UUID // fixed by Open
	read       *pgxpool.Pool

	notifies bool // the database has notifications; fixed by Open

	mu     sync.RWMutex // read-held by every call that uses a connection, so that Close can wait for them
	closed atomic.Bool
	ending chan struct{} // closed by the first Close, before it waits; nil in a store that only looks

	turn  chan struct{} // a lock with a context: whoever has its one place may use what follows
	w     *writer       // nil when there is none or the last failure left it unusable: made anew at the next turn
	known *audit.Head   // the head that the last Commit left behind; nil: not known
	alone bool          // nobody else has moved the head lately: Commit may guess that it is the known one

	failing atomic.Bool // the last Commit failed for a reason of the store
}

// Open opens the store at a URI, postgres://ROLE@HOST:PORT/DATABASE?PARAMETERS, and brings its schema up to date. The
// parameters are those of libpq; there is no password among them. Where none says sslmode, TLS with verification of the
// server's name is required (verify-full), except on a Unix socket. A database that is not there yet is StoreUnavailable.
func Open(ctx context.Context, uri string, o Options) (*Store, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	s := &Store{opts: o.withDefaults(), turn: make(chan struct{}, 1), ending: make(chan struct{})}
	var err error
	if s.config, err = parse(uri, s.opts); err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(translate(ctx, "opening the store", err), s.closeAll())
	}
	return s, nil
}

// Deployment is the identity of the deployment that this store belongs to: random, made with the store, never changed. The
// audit log's origin and the first tenant's id come from it.
func (s *Store) Deployment() uuid.UUID { return s.deployment }

// Ping reports whether the store can be read and, when the last Commit failed, whether it can be written again.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.AuditHead(ctx); err != nil {
		return err
	}
	if !s.failing.Load() {
		return nil
	}
	return s.write(ctx, "writing the store", sqlProbe)
}

// Close waits for the calls under way and closes the connections. A second call does nothing.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.ending)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeAll()
}

// closeAll releases whatever is open. Nobody else uses the store any more.
func (s *Store) closeAll() error {
	if s.read != nil {
		s.read.Close()
	}
	s.drop()
	return nil
}

// enter is the first line of every call: leave must follow when it gives nil.
func (s *Store) enter(ctx context.Context) error {
	if err := ended(ctx); err != nil {
		return err
	}
	s.mu.RLock()
	if s.closed.Load() {
		s.mu.RUnlock()
		return errClosed()
	}
	return nil
}

func (s *Store) leave() { s.mu.RUnlock() }

// usable is for calls that need no connection: they too are refused when the context has ended or the store is closed.
func (s *Store) usable(ctx context.Context) error {
	err := s.enter(ctx)
	if err == nil {
		s.leave()
	}
	return err
}

// conn is a connection that reads.
type conn = *pgxpool.Conn

// reading gives f a connection of the pool, once more when the first one turns out to be dead or the database asks for it: a
// read can be repeated. f sets what it gives anew each time.
func (s *Store) reading(ctx context.Context, action string, f func(conn) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	for attempt := 1; ; attempt++ {
		c, err := s.read.Acquire(ctx)
		if err == nil {
			err = f(c)
			c.Release()
		}
		if err == nil || attempt == 3 || ctx.Err() != nil || !passing(err) {
			return translate(ctx, action, err)
		}
		if lost(err) {
			s.read.Reset() // the others were cut by the same event
		}
	}
}

// row reads the one row of a query; none gives pgx.ErrNoRows.
func (s *Store) row(ctx context.Context, action, query string, dest []any, args ...any) error {
	return s.reading(ctx, action, func(c conn) error { return c.QueryRow(ctx, query, args...).Scan(dest...) })
}

// list reads all rows of a query.
func list[T any](ctx context.Context, s *Store, action string, scan pgx.RowToFunc[T], query string, args ...any) (found []T, err error) {
	err = s.reading(ctx, action, func(c conn) error {
		rows, err := c.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, scan)
		return err
	})
	if len(found) == 0 {
		return nil, err
	}
	return found, err
}

const sqlProbe = "UPDATE audit_head SET size = size WHERE id = 1"
