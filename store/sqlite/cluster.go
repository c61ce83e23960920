package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/cluster"
)

// listeners are who wants to be woken by commits. There is one process, so nobody else commits.
type listeners struct {
	mu   sync.Mutex // guards all
	all  map[int]func()
	next int
}

func (l *listeners) add(wake func()) (remove func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[int]func(){}
	}
	l.next++
	id := l.next
	l.all[id] = wake
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.all, id)
	}
}

// wake calls who listens.
func (s *Store) wake() {
	s.listeners.mu.Lock()
	defer s.listeners.mu.Unlock()
	for _, wake := range s.listeners.all {
		wake()
	}
}

// Listen calls wake after each commit with news; see cluster.Store.
func (s *Store) Listen(ctx context.Context, wake func()) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	defer s.listeners.add(wake)()
	wake() // for what was told before
	select {
	case <-ctx.Done():
		return ended(ctx)
	case <-s.ending:
		return errClosed()
	}
}

// The clock of this store is the process's: nobody else has the file.

// Acquire takes or prolongs a lease; see cluster.Store.
func (s *Store) Acquire(ctx context.Context, name string, holder uuid.UUID, ttl time.Duration) (l cluster.Lease, held bool, err error) {
	err = s.alter(ctx, func(w *writer) error {
		now := time.Now().UnixMicro()
		if _, err := w.exec(sqlAcquire, name, holder[:], now+ttl.Microseconds(), now); err != nil {
			return err
		}
		v := make([]driver.Value, 3)
		if _, err := w.row(sqlLease, v, name); err != nil {
			return err
		}
		id, ok := v[0].([]byte)
		term, ok2 := v[1].(int64)
		until, ok3 := v[2].(int64)
		if !ok || !ok2 || !ok3 || len(id) != len(holder) {
			return corrupted("a lease in the store is damaged", nil)
		}
		l = cluster.Lease{Name: name, Holder: uuid.UUID(id), Term: term, Until: time.UnixMicro(until).UTC()}
		held = l.Holder == holder
		return nil
	})
	return l, held && err == nil, err
}

// Release gives back a lease; see cluster.Store.
func (s *Store) Release(ctx context.Context, name string, holder uuid.UUID) error {
	return s.alter(ctx, func(w *writer) error {
		_, err := w.exec(sqlRelease, name, holder[:])
		return err
	})
}

// Leases lists the leases that are held; see cluster.Store.
func (s *Store) Leases(ctx context.Context) ([]cluster.Lease, error) {
	return rows(ctx, s, "listing leases", func(row *sql.Rows) (l cluster.Lease, err error) {
		err = row.Scan(&l.Name, (*idColumn)(&l.Holder), &l.Term, (*timeColumn)(&l.Until))
		return l, err
	}, sqlLeases, time.Now().UnixMicro())
}

// SaveNode writes a node; see cluster.Store.
func (s *Store) SaveNode(ctx context.Context, n *cluster.Node, forget time.Duration) error {
	backends, err := json.Marshal(n.Backends)
	if err != nil {
		return err
	}
	return s.alter(ctx, func(w *writer) error {
		now := time.Now()
		if _, err := w.exec(sqlForgetNodes, now.Add(-forget).UnixMicro()); err != nil {
			return err
		}
		_, err := w.exec(sqlSaveNode, n.ID[:], n.Name, n.Address, n.Version, string(backends), n.StartedAt.UnixMicro(), now.UnixMicro())
		return err
	})
}

// RemoveNode forgets a node; see cluster.Store.
func (s *Store) RemoveNode(ctx context.Context, id uuid.UUID) error {
	return s.alter(ctx, func(w *writer) error {
		_, err := w.exec(sqlRemoveNode, id[:])
		return err
	})
}

// Nodes lists the nodes seen within the time; see cluster.Store.
func (s *Store) Nodes(ctx context.Context, within time.Duration) ([]*cluster.Node, error) {
	return rows(ctx, s, "listing nodes", func(row *sql.Rows) (*cluster.Node, error) {
		var n cluster.Node
		var backends []byte
		if err := row.Scan((*idColumn)(&n.ID), &n.Name, &n.Address, &n.Version, &backends, (*timeColumn)(&n.StartedAt),
			(*timeColumn)(&n.SeenAt)); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(backends, &n.Backends); err != nil {
			return nil, corrupted("what is kept of a node is damaged", err)
		}
		return &n, nil
	}, sqlNodesSeen, time.Now().Add(-within).UnixMicro())
}

// rows reads all rows of a query.
func rows[T any](ctx context.Context, s *Store, action string, scan func(*sql.Rows) (T, error), query string, args ...any) (found []T, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	r, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, translate(action, err)
	}
	defer func() { err = translate(action, errors.Join(err, r.Close())) }()
	for r.Next() {
		one, err := scan(r)
		if err != nil {
			return nil, err
		}
		found = append(found, one)
	}
	return found, r.Err()
}

const (
	sqlAcquire = `INSERT INTO leases (name, holder, term, until) VALUES (?, ?, 1, ?)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until,
			term = leases.term + (leases.holder <> excluded.holder)
		WHERE leases.holder = excluded.holder OR leases.until <= ?`
	sqlLease = "SELECT holder, term, until FROM leases WHERE name = ?"
	// The row stays for its term.
	sqlRelease     = "UPDATE leases SET until = 0 WHERE name = ? AND holder = ?"
	sqlLeases      = "SELECT name, holder, term, until FROM leases WHERE until > ? ORDER BY name"
	sqlForgetNodes = "DELETE FROM nodes WHERE seen_at < ?"
	sqlSaveNode    = `INSERT INTO nodes (id, name, address, version, backends, started_at, seen_at) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, address = excluded.address, version = excluded.version,
			backends = excluded.backends, started_at = excluded.started_at, seen_at = excluded.seen_at`
	sqlRemoveNode = "DELETE FROM nodes WHERE id = ?"
	sqlNodesSeen  = "SELECT id, name, address, version, backends, started_at, seen_at FROM nodes WHERE seen_at >= ? ORDER BY name, id"
)
