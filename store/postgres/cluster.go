package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/cluster"
)

// Leases and nodes are written on the connections that read, a transaction each: they must not wait for a commit, nor hold one up.

// Acquire takes or prolongs a lease; see cluster.Store.
func (s *Store) Acquire(ctx context.Context, name string, holder uuid.UUID, ttl time.Duration) (l cluster.Lease, held bool, err error) {
	err = s.reading(ctx, "taking a lease", func(c conn) error {
		for {
			var err error
			l, err = scanLease(c.QueryRow(ctx, sqlAcquire, name, holder[:], ttl.Microseconds()))
			if err == nil {
				held = true
				return nil
			}
			if !none(err) {
				return err
			}
			held = false
			l, err = scanLease(c.QueryRow(ctx, sqlLease, name))
			if !none(err) {
				return err
			}
			// It has run out or was given back in between.
		}
	})
	return l, held, err
}

func scanLease(row pgx.Row) (l cluster.Lease, err error) {
	err = row.Scan(&l.Name, (*idColumn)(&l.Holder), &l.Term, (*timeColumn)(&l.Until))
	return l, err
}

// Release gives back a lease; see cluster.Store.
func (s *Store) Release(ctx context.Context, name string, holder uuid.UUID) error {
	return s.change(ctx, "giving a lease back", sqlRelease, name, holder[:])
}

// Leases lists the leases that are held; see cluster.Store.
func (s *Store) Leases(ctx context.Context) ([]cluster.Lease, error) {
	return list(ctx, s, "listing leases", func(row pgx.CollectableRow) (cluster.Lease, error) { return scanLease(row) }, sqlLeases)
}

// SaveNode writes a node; see cluster.Store.
func (s *Store) SaveNode(ctx context.Context, n *cluster.Node, forget time.Duration) error {
	backends, err := json.Marshal(n.Backends)
	if err != nil {
		return err
	}
	return s.change(ctx, "writing a node", sqlSaveNode, n.ID[:], text(n.Name), text(n.Address), text(n.Version), string(backends),
		n.StartedAt.UnixMicro(), forget.Microseconds())
}

// RemoveNode forgets a node; see cluster.Store.
func (s *Store) RemoveNode(ctx context.Context, id uuid.UUID) error {
	return s.change(ctx, "forgetting a node", sqlRemoveNode, id[:])
}

// Nodes lists the nodes seen within the time; see cluster.Store.
func (s *Store) Nodes(ctx context.Context, within time.Duration) ([]*cluster.Node, error) {
	return list(ctx, s, "listing nodes", func(row pgx.CollectableRow) (*cluster.Node, error) {
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
	}, sqlNodesSeen, within.Microseconds())
}

// Listen waits for notifications on a connection of its own; see cluster.Store. On a database without them it waits for ctx to end.
func (s *Store) Listen(ctx context.Context, wake func()) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-s.ending:
			cancel()
		case <-ended:
		}
	}()
	err := s.listen(ctx, wake)
	if s.closed.Load() {
		return errors.Join(errClosed(), err)
	}
	return translate(ctx, "listening for notifications", err)
}

const (
	// The database's clock, in microseconds: of the moment at which a statement begins, which is the safe side for whoever waits.
	sqlNow      = "(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000)::bigint"
	leaseFields = "name, holder, term, until"
	// Where another has the lease nothing is written, not even a row's lock.
	sqlAcquire = `INSERT INTO leases (name, holder, term, until)
		SELECT $1::text, $2::bytea, 1, ` + sqlNow + ` + $3::bigint
		WHERE NOT EXISTS (SELECT 1 FROM leases WHERE name = $1 AND holder <> $2 AND until > ` + sqlNow + `)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until,
			term = leases.term + CASE WHEN leases.holder = excluded.holder THEN 0 ELSE 1 END
		WHERE leases.holder = excluded.holder OR leases.until <= ` + sqlNow + `
		RETURNING name, holder, term, until`
	sqlLease = "SELECT " + leaseFields + " FROM leases WHERE name = $1 AND until > " + sqlNow
	// The row stays for its term.
	sqlRelease  = "UPDATE leases SET until = 0 WHERE name = $1 AND holder = $2"
	sqlLeases   = "SELECT " + leaseFields + " FROM leases WHERE until > " + sqlNow + " ORDER BY name"
	sqlSaveNode = `WITH forgotten AS (DELETE FROM nodes WHERE seen_at < ` + sqlNow + ` - $7::bigint AND id <> $1)
		INSERT INTO nodes (id, name, address, version, backends, started_at, seen_at)
		VALUES ($1, $2, $3, $4, $5, $6, ` + sqlNow + `)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, address = excluded.address, version = excluded.version,
			backends = excluded.backends, started_at = excluded.started_at, seen_at = excluded.seen_at`
	sqlRemoveNode = "DELETE FROM nodes WHERE id = $1"
	sqlNodesSeen  = `SELECT id, name, address, version, backends, started_at, seen_at FROM nodes
		WHERE seen_at >= ` + sqlNow + ` - $1::bigint ORDER BY name, id`
)
