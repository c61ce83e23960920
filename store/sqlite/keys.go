package sqlite

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// creatingGrace is how long a version may be in state creating before KeysDue names its key.
const creatingGrace = time.Hour

// KeyByID finds a key of the tenant.
func (s *Store) KeyByID(ctx context.Context, tenant, id uuid.UUID) (*keys.Key, error) {
	return s.key(ctx, sqlKeyByID, id[:], tenant[:])
}

// KeyByName finds a key of the tenant that is not destroyed.
func (s *Store) KeyByName(ctx context.Context, tenant uuid.UUID, name string) (*keys.Key, error) {
	return s.key(ctx, sqlKeyByName, tenant[:], name)
}

func (s *Store) key(ctx context.Context, query string, args ...any) (*keys.Key, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	var due sql.NullInt64
	k, err := scanKey(s.read.QueryRowContext(ctx, query, args...), &due)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.KeyNotFound, "no such key")
	}
	return k, translate("reading a key", err)
}

// Keys lists the tenant's keys; see keys.Store. The names of destroyed keys may repeat: so that a page can end between two
// of them, after may also be a name, a NUL and the 16 bytes of the id of the last key seen.
func (s *Store) Keys(ctx context.Context, tenant uuid.UUID, f keys.Filter, after string, limit int) ([]*keys.Key, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if limit <= 0 {
		return nil, nil
	}
	query, args := keysQuery(tenant, f, after, limit)
	found, _, err := s.keys(ctx, query, args)
	return found, err
}

// keysQuery chooses the index that a list is read from: the label's, the state's, the algorithm's, or the names'.
func keysQuery(tenant uuid.UUID, f keys.Filter, after string, limit int) (string, []any) {
	name, id, precise := strings.Cut(after, "\x00")
	from := f.NamePrefix
	switch {
	case after == "":
	case precise && f.State == keys.StateDestroyed:
		from = max(from, name)
	default:
		from = max(from, name+"\x01") // the least string above name: names have no control characters
	}
	args := []any{
		sql.Named("tenant", tenant[:]), sql.Named("from", from), sql.Named("to", f.NamePrefix+"\U0010FFFF"),
		sql.Named("limit", limit),
	}
	algorithm := sql.Named("algorithm", string(f.Algorithm))
	state := sql.Named("state", string(f.State))
	last, lastID := sql.Named("last", name), sql.Named("last_id", []byte(id))
	switch label, value, exact := strings.Cut(f.Label, "="); {
	case exact:
		return sqlKeysByLabelValue, append(args, sql.Named("label", label), sql.Named("value", value), algorithm, state, last, lastID)
	case f.Label != "":
		return sqlKeysByLabel, append(args, sql.Named("label", label), algorithm, state, last, lastID)
	case f.Algorithm != "" && (f.State == "" || f.State == keys.StateActive):
		return sqlKeysByAlgorithm, append(args, algorithm, state)
	case f.State != "": // beside an algorithm, any state but the usual one is the rarer of the two
		return sqlKeysByState, append(args, state, algorithm, last, lastID)
	}
	return sqlKeysByName, args
}

// KeysDue lists keys of all tenants that need something done; see keys.Store.
func (s *Store) KeysDue(ctx context.Context, now time.Time, after keys.DueCursor, limit int) (due []*keys.Key, next keys.DueCursor, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, next, err
	}
	defer s.leave()
	if limit <= 0 {
		return nil, next, nil
	}
	from := int64(math.MinInt64 / 2)
	if !after.At.IsZero() {
		from = after.At.UnixMicro()
	}
	found, at, err := s.keys(ctx, sqlKeysDue, []any{now.UnixMicro(), from, from, after.ID[:], limit})
	if err != nil {
		return nil, next, err
	}
	stuck, since, err := s.keys(ctx, sqlKeysCreating, []any{now.Add(-creatingGrace).UnixMicro(), from - creatingGrace.Microseconds(), after.ID[:], limit})
	if err != nil {
		return nil, next, err
	}
	type keyAt struct {
		key *keys.Key
		at  int64
	}
	all := make([]keyAt, 0, len(found)+len(stuck))
	for i, k := range found {
		all = append(all, keyAt{k, at[i].Int64})
	}
	for i, k := range stuck {
		all = append(all, keyAt{k, since[i].Int64 + creatingGrace.Microseconds()})
	}
	slices.SortFunc(all, func(a, b keyAt) int {
		return cmp.Or(cmp.Compare(a.at, b.at), bytes.Compare(a.key.ID[:], b.key.ID[:]))
	})
	if len(all) >= limit { // of either list there may be more behind it
		all = all[:limit]
		next = keys.DueCursor{At: time.UnixMicro(all[limit-1].at).UTC(), ID: all[limit-1].key.ID}
	}
	seen := make(map[uuid.UUID]bool, len(all))
	for _, d := range all {
		if !seen[d.key.ID] {
			seen[d.key.ID] = true
			due = append(due, d.key)
		}
	}
	return due, next, nil
}

// keys reads many, with the last column, a time, beside them.
func (s *Store) keys(ctx context.Context, query string, args []any) (found []*keys.Key, at []sql.NullInt64, err error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, nil, translate("listing keys", err)
	}
	defer func() { err = translate("listing keys", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		var t sql.NullInt64
		k, err := scanKey(rows, &t)
		if err != nil {
			return nil, nil, err
		}
		found, at = append(found, k), append(at, t)
	}
	return found, at, rows.Err()
}

// DefaultKey gives the tenant's default key for a purpose.
func (s *Store) DefaultKey(ctx context.Context, tenant uuid.UUID, p backend.Purpose) (uuid.UUID, error) {
	if err := s.enter(ctx); err != nil {
		return uuid.Nil, err
	}
	defer s.leave()
	var id uuid.UUID
	err := s.read.QueryRowContext(ctx, sqlDefaultKey, tenant[:], string(p)).Scan((*idColumn)(&id))
	if errors.Is(err, sql.ErrNoRows) {
		return uuid.Nil, fault.New(fault.NoDefaultKey, "the tenant has no default key for this")
	}
	return id, translate("reading the default key", err)
}

// scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

func scanKey(row scanner, at *sql.NullInt64) (*keys.Key, error) {
	var k keys.Key
	var labels, policy []byte
	err := row.Scan((*idColumn)(&k.ID), (*idColumn)(&k.Tenant), &k.Name, &k.Algorithm, &k.Purpose, &k.Origin, &k.BackendID,
		&k.Custody, &labels, &policy, &k.PrimaryVersion, &k.LatestVersion, &k.MinDecrypt, &k.MinEncrypt, &k.Uses, &k.State,
		(*timeColumn)(&k.CreatedAt), (*timeColumn)(&k.UpdatedAt), (*timeColumn)(&k.RotatedAt), (*timeColumn)(&k.DeletionAt),
		&k.Internal, &k.Revision, at)
	if err != nil {
		return nil, err
	}
	if len(labels) > 0 {
		if err := json.Unmarshal(labels, &k.Labels); err != nil {
			return nil, corrupted("the labels of a key are damaged", err)
		}
	}
	if err := json.Unmarshal(policy, &k.Policy); err != nil {
		return nil, corrupted("the policy of a key is damaged", err)
	}
	return &k, nil
}

// idColumn is a UUID in a column of 16 bytes.
type idColumn uuid.UUID

func (c *idColumn) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(c) {
		return corrupted("an id in the store is damaged", nil)
	}
	copy(c[:], b)
	return nil
}

// nullIDColumn is an idColumn where NULL is the zero id.
type nullIDColumn uuid.UUID

func (c *nullIDColumn) Scan(v any) error {
	if v == nil {
		*c = nullIDColumn{}
		return nil
	}
	return (*idColumn)(c).Scan(v)
}

// timeColumn is a time in a column of microseconds; NULL is the zero time.
type timeColumn time.Time

func (c *timeColumn) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*c = timeColumn{}
		return nil
	case int64:
		*c = timeColumn(time.UnixMicro(v).UTC())
		return nil
	}
	return corrupted("a time in the store is damaged", nil)
}

// micros is a time for a column that may be NULL.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

const (
	keyColumns = `k.id, k.tenant, k.name, k.algorithm, k.purpose, k.origin, k.backend_id, k.custody, k.labels, k.policy,
		k.primary_version, k.latest_version, k.min_decrypt, k.min_encrypt, k.uses, k.state, k.created_at, k.updated_at,
		k.rotated_at, k.deletion_at, k.internal, k.revision`
	keysSelect = "SELECT " + keyColumns + ", k.due_at FROM keys k "

	sqlKeyByID   = keysSelect + "WHERE k.id = ? AND k.tenant = ?"
	sqlKeyByName = keysSelect + "WHERE k.tenant = ? AND k.name = ? AND k.state <> 'destroyed'"

	sqlKeysByName = keysSelect + `WHERE k.tenant = :tenant AND k.name >= :from AND k.name < :to
		AND k.state <> 'destroyed' AND k.internal = 0 ORDER BY k.name LIMIT :limit`
	// Left to itself, SQLite walks the names for every list.
	sqlKeysByAlgorithm = keysSelect + `INDEXED BY keys_algorithm
		WHERE k.tenant = :tenant AND k.algorithm = :algorithm AND k.name >= :from AND k.name < :to
		AND k.state <> 'destroyed' AND (:state = '' OR k.state = :state) AND k.internal = 0 ORDER BY k.name LIMIT :limit`
	sqlKeysByState = keysSelect + `INDEXED BY keys_state WHERE k.tenant = :tenant AND k.state = :state AND k.name >= :from AND k.name < :to
		AND (:algorithm = '' OR k.algorithm = :algorithm) AND (k.name <> :last OR k.id > :last_id)
		AND k.internal = 0 ORDER BY k.name, k.id LIMIT :limit`

	// CROSS JOIN: SQLite then walks the labels in their order and looks the keys up.
	keysOfLabel = "SELECT " + keyColumns + ", k.due_at FROM key_labels l CROSS JOIN keys k WHERE k.id = l.key_id AND l.tenant = :tenant AND l.label = :label"
	filterKeys  = ` AND l.name >= :from AND l.name < :to AND (:algorithm = '' OR k.algorithm = :algorithm)
		AND ((:state = '' AND k.state <> 'destroyed') OR k.state = :state) AND (l.name <> :last OR l.key_id > :last_id)
		AND k.internal = 0 ORDER BY l.name, l.key_id LIMIT :limit`
	sqlKeysByLabel      = keysOfLabel + filterKeys
	sqlKeysByLabelValue = keysOfLabel + " AND l.value = :value" + filterKeys

	sqlKeysDue      = keysSelect + "WHERE k.due_at <= ? AND k.due_at >= ? AND (k.due_at > ? OR k.id > ?) ORDER BY k.due_at, k.id LIMIT ?"
	sqlKeysCreating = "SELECT " + keyColumns + `, v.state_at FROM key_versions v CROSS JOIN keys k
		WHERE k.id = v.key_id AND v.state = 'creating' AND v.state_at < ? AND (v.state_at, v.key_id) > (?, ?) ORDER BY v.state_at, v.key_id LIMIT ?`

	sqlDefaultKey = "SELECT key_id FROM default_keys WHERE tenant = ? AND purpose = ?"
)
