package sqlite

import (
	"context"
	"errors"

	"github.com/keywright/keywright/keys"
)

// Material lists versions that have material; see keys.Store.
func (s *Store) Material(ctx context.Context, after keys.Position, limit int) (found []*keys.Stored, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if limit <= 0 {
		return nil, nil
	}
	rows, err := s.read.QueryContext(ctx, sqlMaterial, after.Key[:], int64(after.Version), limit)
	if err != nil {
		return nil, translate("listing key material", err)
	}
	defer func() { err = translate("listing key material", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		var r keys.Stored
		v := &r.Version
		err := rows.Scan((*idColumn)(&v.KeyID), &v.Version, &v.State, &v.PriorState, &v.Origin, &v.BackendID, &v.Custody,
			&v.Exportable, (*timeColumn)(&v.CreatedAt), (*timeColumn)(&v.StateAt), &v.Revision, &v.Public, &v.Blob, &v.Messages, &v.Bytes,
			(*idColumn)(&r.Tenant), &r.Algorithm, &r.Purpose)
		if err != nil {
			return nil, err
		}
		found = append(found, &r)
	}
	return found, rows.Err()
}

// CountMaterial counts what Material lists; see keys.Store.
func (s *Store) CountMaterial(ctx context.Context) (n int64, err error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	err = s.read.QueryRowContext(ctx, sqlCountMaterial).Scan(&n)
	return n, translate("counting key material", err)
}

const (
	sqlMaterial = `SELECT v.key_id, v.version, v.state, v.prior_state, v.origin, v.backend_id, v.custody, v.exportable, v.created_at, v.state_at,
		v.revision, v.public, v.material, v.messages, v.bytes, k.tenant, k.algorithm, k.purpose FROM key_versions v JOIN keys k ON k.id = v.key_id
		WHERE (v.key_id, v.version) > (?, ?) AND v.material IS NOT NULL ORDER BY v.key_id, v.version LIMIT ?`
	sqlCountMaterial = "SELECT COUNT(*) FROM key_versions WHERE material IS NOT NULL"
)
