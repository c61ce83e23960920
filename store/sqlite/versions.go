package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
	"github.com/mattn/go-sqlite3"
)

// Version finds a version of a key.
func (s *Store) Version(ctx context.Context, key uuid.UUID, version uint32) (*keys.Version, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	v, err := scanVersion(s.read.QueryRowContext(ctx, sqlVersion, key[:], int64(version)))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.VersionNotFound, "the key has no such version")
	}
	return v, translate("reading a key version", err)
}

// Versions lists versions of a key by number, upward, from number from on.
func (s *Store) Versions(ctx context.Context, key uuid.UUID, from uint32, limit int) (found []*keys.Version, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if limit <= 0 {
		return nil, nil
	}
	rows, err := s.read.QueryContext(ctx, sqlVersions, key[:], int64(from), limit)
	if err != nil {
		return nil, translate("listing key versions", err)
	}
	defer func() { err = translate("listing key versions", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		v, err := scanVersion(rows)
		if err != nil {
			return nil, err
		}
		found = append(found, v)
	}
	return found, rows.Err()
}

func scanVersion(row scanner) (*keys.Version, error) {
	var v keys.Version
	err := row.Scan((*idColumn)(&v.KeyID), &v.Version, &v.State, &v.PriorState, &v.Origin, &v.BackendID, &v.Custody,
		&v.Exportable, (*timeColumn)(&v.CreatedAt), (*timeColumn)(&v.StateAt), &v.Revision, &v.Public, &v.Blob, &v.Messages, &v.Bytes)
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

func (c *insertVersion) apply(w *writer) error {
	v := &c.v
	_, err := w.exec(sqlInsertVersion, v.KeyID[:], int64(v.Version), string(v.State), string(v.PriorState), string(v.Origin),
		v.BackendID, string(v.Custody), flag(v.Exportable), v.CreatedAt.UnixMicro(), v.StateAt.UnixMicro(), v.Revision,
		bytesOrNull(v.Public), bytesOrNull(v.Blob), v.Messages, v.Bytes)
	switch violated(err) {
	case sqlite3.ErrConstraintPrimaryKey, sqlite3.ErrConstraintUnique:
		return fault.Wrap(fault.Conflict, "the key has this version already", err)
	case sqlite3.ErrConstraintForeignKey:
		return fault.Wrap(fault.KeyNotFound, "no such key", err)
	}
	return err
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

func (c *updateVersion) apply(w *writer) error {
	v := &c.v
	n, err := w.exec(sqlUpdateVersion, string(v.State), string(v.PriorState), string(v.Origin), v.BackendID,
		string(v.Custody), flag(v.Exportable), v.StateAt.UnixMicro(), bytesOrNull(v.Public), bytesOrNull(v.Blob),
		v.KeyID[:], int64(v.Version), v.Revision)
	if err == nil && n == 0 {
		return fault.New(fault.Conflict, "the key version was changed by somebody else")
	}
	return err
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// bytesOrNull keeps nil apart from empty.
func bytesOrNull(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

const (
	versionColumns = `key_id, version, state, prior_state, origin, backend_id, custody, exportable, created_at, state_at, revision,
		public, material, messages, bytes`
	sqlVersion       = "SELECT " + versionColumns + " FROM key_versions WHERE key_id = ? AND version = ?"
	sqlVersions      = "SELECT " + versionColumns + " FROM key_versions WHERE key_id = ? AND version >= ? ORDER BY version LIMIT ?"
	sqlInsertVersion = "INSERT INTO key_versions (" + versionColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	sqlUpdateVersion = `UPDATE key_versions SET state = ?, prior_state = ?, origin = ?, backend_id = ?, custody = ?, exportable = ?,
		state_at = ?, public = ?, material = ?, revision = revision + 1 WHERE key_id = ? AND version = ? AND revision = ?`
)
