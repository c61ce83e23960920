package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

// Idempotency gives the record, or nil when there is none or it is older than idempotency.TTL.
func (s *Store) Idempotency(ctx context.Context, tenant uuid.UUID, key string, now time.Time) (*idempotency.Record, error) {
	if !storable(key) {
		return nil, s.usable(ctx)
	}
	r := idempotency.Record{Tenant: tenant, Key: key}
	var request []byte
	err := s.row(ctx, "reading an idempotency record", sqlIdempotency,
		[]any{&request, (*idColumn)(&r.Resource), &r.Version, &r.Sealed, (*timeColumn)(&r.CreatedAt)},
		tenant[:], key, now.Add(-idempotency.TTL).UnixMicro())
	switch {
	case none(err):
		return nil, nil
	case err != nil:
		return nil, err
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

func (c *insertIdempotency) statements() ([]statement, error) {
	r := &c.r
	return []statement{
		{query: sqlForgetIdempotency, args: []any{r.CreatedAt.Add(-idempotency.TTL).UnixMicro()}},
		{
			query: sqlInsertIdempotency,
			args: []any{r.Tenant[:], r.Key, r.Request[:], r.Resource[:], int64(r.Version), r.Sealed, r.CreatedAt.UnixMicro(),
				idempotency.TTL.Microseconds()},
			nothing: fails(fault.Conflict, "the Idempotency-Key has a record already"),
		},
	}, nil
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

func (c *pruneIdempotency) statements() ([]statement, error) {
	return []statement{{query: sqlPruneIdempotency, args: []any{c.before.UnixMicro()}}}, nil
}

const (
	sqlIdempotency = `SELECT request, resource, version, sealed, created_at FROM idempotency
		WHERE tenant = $1 AND token = $2 AND created_at >= $3`
	sqlInsertIdempotency = `INSERT INTO idempotency (tenant, token, request, resource, version, sealed, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (tenant, token) DO UPDATE SET request = excluded.request, resource = excluded.resource,
		version = excluded.version, sealed = excluded.sealed, created_at = excluded.created_at
		WHERE idempotency.created_at < excluded.created_at - $8::bigint`
	sqlForgetIdempotency = `DELETE FROM idempotency WHERE (tenant, token) IN
		(SELECT tenant, token FROM idempotency WHERE created_at < $1 ORDER BY created_at LIMIT 2)`
	sqlPruneIdempotency = "DELETE FROM idempotency WHERE created_at < $1"
)
