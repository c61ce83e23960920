package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/keys"
)

// Material lists versions that have material; see keys.Store.
func (s *Store) Material(ctx context.Context, after keys.Position, limit int) ([]*keys.Stored, error) {
	if limit <= 0 {
		return nil, s.usable(ctx)
	}
	return list(ctx, s, "listing key material", func(row pgx.CollectableRow) (*keys.Stored, error) {
		var r keys.Stored
		v := &r.Version
		err := row.Scan((*idColumn)(&v.KeyID), &v.Version, &v.State, &v.PriorState, &v.Origin, &v.BackendID, &v.Custody,
			(*flagColumn)(&v.Exportable), (*timeColumn)(&v.CreatedAt), (*timeColumn)(&v.StateAt), &v.Revision, &v.Public, &v.Blob, &v.Messages, &v.Bytes,
			(*idColumn)(&r.Tenant), &r.Algorithm, &r.Purpose)
		return &r, err
	}, sqlMaterial, after.Key[:], int64(after.Version), limit)
}

// CountMaterial counts what Material lists; see keys.Store.
func (s *Store) CountMaterial(ctx context.Context) (n int64, err error) {
	err = s.row(ctx, "counting key material", sqlCountMaterial, []any{&n})
	return n, err
}

const (
	sqlMaterial = `SELECT v.key_id, v.version, v.state, v.prior_state, v.origin, v.backend_id, v.custody, v.exportable, v.created_at, v.state_at,
		v.revision, v.public, v.material, v.messages, v.bytes, k.tenant, k.algorithm, k.purpose FROM key_versions v JOIN keys k ON k.id = v.key_id
		WHERE (v.key_id, v.version) > ($1, $2) AND v.material IS NOT NULL ORDER BY v.key_id, v.version LIMIT $3`
	sqlCountMaterial = "SELECT COUNT(*) FROM key_versions WHERE material IS NOT NULL"
)
