package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

// Idempotency gives the record, or nil when there is none or it is older than idempotency.TTL.
func (s *Store) Idempotency(ctx context.Context, tenant uuid.UUID, key string, now time.Time) (*idempotency.Record, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	r := idempotency.Record{Tenant: tenant, Key: key}
	var request []byte
	err := s.read.QueryRowContext(ctx, sqlIdempotency, tenant[:], key, now.Add(-idempotency.TTL).UnixMicro()).Scan(
		&request, (*idColumn)(&r.Resource), &r.Version, &r.Sealed, (*timeColumn)(&r.CreatedAt))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, translate("reading an idempotency record", err)
	case len(request) != len(r.Request):
		return nil, corrupted("an idempotency record is damaged", nil)
	}
	copy(r.Request[:], request)
	return &r, nil
}

// insertIdempotency is a Change.
type insertIdempotency struct {
	prepared
	r idempotency.Record
}

// InsertIdempotency adds a record; see idempotency.Store. It takes the place of one that is older than idempotency.TTL and
// not pruned yet. Each insertion also removes two such records, so that under load PruneIdempotency never finds many: one
// deletion of all of an hour would hold every commit up.
func (s *Store) InsertIdempotency(r *idempotency.Record) audit.Change {
	return &insertIdempotency{r: *r}
}

func (c *insertIdempotency) apply(w *writer) error {
	r := &c.r
	if _, err := w.exec(sqlForgetIdempotency, r.CreatedAt.Add(-idempotency.TTL).UnixMicro()); err != nil {
		return err
	}
	n, err := w.exec(sqlInsertIdempotency, r.Tenant[:], r.Key, r.Request[:], r.Resource[:], int64(r.Version),
		bytesOrNull(r.Sealed), r.CreatedAt.UnixMicro(), idempotency.TTL.Microseconds())
	if err == nil && n == 0 {
		return fault.New(fault.Conflict, "the Idempotency-Key has a record already")
	}
	return err
}

// pruneIdempotency is a Change.
type pruneIdempotency struct {
	prepared
	before time.Time
}

// PruneIdempotency removes records made before the time.
func (s *Store) PruneIdempotency(before time.Time) audit.Change {
	return &pruneIdempotency{before: before}
}

func (c *pruneIdempotency) apply(w *writer) error {
	_, err := w.exec(sqlPruneIdempotency, c.before.UnixMicro())
	return err
}

const (
	sqlIdempotency = `SELECT request, resource, version, sealed, created_at FROM idempotency
		WHERE tenant = ? AND token = ? AND created_at >= ?`
	sqlInsertIdempotency = `INSERT INTO idempotency (tenant, token, request, resource, version, sealed, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (tenant, token) DO UPDATE SET request = excluded.request, resource = excluded.resource,
		version = excluded.version, sealed = excluded.sealed, created_at = excluded.created_at
		WHERE idempotency.created_at < excluded.created_at - ?`
	sqlForgetIdempotency = `DELETE FROM idempotency WHERE (tenant, token) IN
		(SELECT tenant, token FROM idempotency WHERE created_at < ? ORDER BY created_at LIMIT 2)`
	sqlPruneIdempotency = "DELETE FROM idempotency WHERE created_at < ?"
)
