package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// Version finds a version of a key.
func (s *Store) Version(ctx context.Context, key uuid.UUID, version uint32) (v *keys.Version, err error) {
	err = s.reading(ctx, "reading a key version", func(c conn) (err error) {
		v, err = scanVersion(c.QueryRow(ctx, sqlVersion, key[:], int64(version)))
		return err
	})
	if none(err) {
		return nil, fault.New(fault.VersionNotFound, "the key has no such version")
	}
	return v, err
}

// Versions lists versions of a key by number, upward, from number from on.
func (s *Store) Versions(ctx context.Context, key uuid.UUID, from uint32, limit int) ([]*keys.Version, error) {
	if limit <= 0 {
		return nil, s.usable(ctx)
	}
	return list(ctx, s, "listing key versions", func(row pgx.CollectableRow) (*keys.Version, error) { return scanVersion(row) },
		sqlVersions, key[:], int64(from), limit)
}

func scanVersion(row pgx.Row) (*keys.Version, error) {
	var v keys.Version
	err := row.Scan((*idColumn)(&v.KeyID), &v.Version, &v.State, &v.PriorState, &v.Origin, &v.BackendID, &v.Custody,
		(*flagColumn)(&v.Exportable), (*timeColumn)(&v.CreatedAt), (*timeColumn)(&v.StateAt), &v.Revision, &v.Public, &v.Blob, &v.Messages, &v.Bytes)
	if err != nil {
		return nil, err
	}
	return &v, nil
}

// insertVersion is a Change.
type insertVersion struct {
	prepared
	v keys.Version
}

// InsertVersion adds a version; see keys.Store. fault.KeyNotFound when there is no such key.
func (s *Store) InsertVersion(v *keys.Version) audit.Change {
	return &insertVersion{prepared: tells(cluster.KindKey, v.KeyID), v: *v}
}

func (c *insertVersion) statements() ([]statement, error) {
	v := &c.v
	return []statement{{
		query: sqlInsertVersion,
		args: []any{v.KeyID[:], int64(v.Version), string(v.State), string(v.PriorState), string(v.Origin), v.BackendID,
			string(v.Custody), flag(v.Exportable), v.CreatedAt.UnixMicro(), v.StateAt.UnixMicro(), v.Revision, v.Public, v.Blob, v.Messages, v.Bytes},
		refused: func(e *pgconn.PgError) error {
			switch e.Code {
			case stateUnique:
				return fault.Wrap(fault.Conflict, "the key has this version already", serverError{e})
			case stateForeignKey:
				return fault.Wrap(fault.KeyNotFound, "no such key", serverError{e})
			}
			return nil
		},
	}}, nil
}

// updateVersion is a Change.
type updateVersion struct {
	prepared
	v keys.Version
}

// UpdateVersion replaces state, material and custody of a version; see keys.Store.
func (s *Store) UpdateVersion(v *keys.Version) audit.Change {
	return &updateVersion{prepared: tells(cluster.KindKey, v.KeyID), v: *v}
}

func (c *updateVersion) statements() ([]statement, error) {
	v := &c.v
	return []statement{{
		query: sqlUpdateVersion,
		args: []any{string(v.State), string(v.PriorState), string(v.Origin), v.BackendID, string(v.Custody), flag(v.Exportable),
			v.StateAt.UnixMicro(), v.Public, v.Blob, v.KeyID[:], int64(v.Version), v.Revision},
		nothing: fails(fault.Conflict, "the key version was changed by somebody else"),
	}}, nil
}

func flag(b bool) int16 {
	if b {
		return 1
	}
	return 0
}

const (
	versionColumns = `key_id, version, state, prior_state, origin, backend_id, custody, exportable, created_at, state_at, revision,
		public, material, messages, bytes`
	sqlVersion       = "SELECT " + versionColumns + " FROM key_versions WHERE key_id = $1 AND version = $2"
	sqlVersions      = "SELECT " + versionColumns + " FROM key_versions WHERE key_id = $1 AND version >= $2 ORDER BY version LIMIT $3"
	sqlInsertVersion = "INSERT INTO key_versions (" + versionColumns + ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
	sqlUpdateVersion = `UPDATE key_versions SET state = $1, prior_state = $2, origin = $3, backend_id = $4, custody = $5, exportable = $6,
		state_at = $7, public = $8, material = $9, revision = revision + 1 WHERE key_id = $10 AND version = $11 AND revision = $12`
)
