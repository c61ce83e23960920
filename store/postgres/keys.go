package postgres

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

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
	if !storable(name) {
		return nil, fault.New(fault.KeyNotFound, "no such key")
	}
	return s.key(ctx, sqlKeyByName, tenant[:], name)
}

func (s *Store) key(ctx context.Context, query string, args ...any) (*keys.Key, error) {
	var found keyAt
	err := s.reading(ctx, "reading a key", func(c conn) (err error) {
		found, err = scanKey(c.QueryRow(ctx, query, args...))
		return err
	})
	if none(err) {
		return nil, fault.New(fault.KeyNotFound, "no such key")
	}
	return found.key, err
}

// Keys lists the tenant's keys; see keys.Store. The names of destroyed keys may repeat: so that a page can end between two
// of them, after may also be a name, a NUL and the 16 bytes of the id of the last key seen.
func (s *Store) Keys(ctx context.Context, tenant uuid.UUID, f keys.Filter, after string, limit int) ([]*keys.Key, error) {
	name, _, _ := strings.Cut(after, "\x00")
	if limit <= 0 || !storable(name) || !storable(f.NamePrefix) || !storable(string(f.Algorithm)) || !storable(string(f.State)) || !storable(f.Label) {
		return nil, s.usable(ctx)
	}
	query, args := keysQuery(tenant, f, after, limit)
	found, err := list(ctx, s, "listing keys", scanKeys, query, args...)
	return bare(found), err
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
	args := []any{tenant[:], from, f.NamePrefix + "\U0010FFFF", limit}
	algorithm, state, last := string(f.Algorithm), string(f.State), []any{name, []byte(id)}
	switch label, value, exact := strings.Cut(f.Label, "="); {
	case exact:
		return sqlKeysByLabelValue, append(append(args, algorithm, state), append(last, label, value)...)
	case f.Label != "":
		return sqlKeysByLabel, append(append(args, algorithm, state), append(last, label)...)
	case f.Algorithm != "" && (f.State == "" || f.State == keys.StateActive):
		return sqlKeysByAlgorithm, append(args, algorithm, state)
	case f.State != "": // beside an algorithm, any state but the usual one is the rarer of the two
		return sqlKeysByState, append(append(args, algorithm, state), last...)
	}
	return sqlKeysByName, args
}

// KeysDue lists keys of all tenants that need something done; see keys.Store.
func (s *Store) KeysDue(ctx context.Context, now time.Time, after keys.DueCursor, limit int) (due []*keys.Key, next keys.DueCursor, err error) {
	if limit <= 0 {
		return nil, next, s.usable(ctx)
	}
	from := int64(math.MinInt64 / 2)
	if !after.At.IsZero() {
		from = after.At.UnixMicro()
	}
	all, err := list(ctx, s, "listing keys", scanKeys, sqlKeysDue, now.UnixMicro(), limit, from, after.ID[:])
	if err != nil {
		return nil, next, err
	}
	stuck, err := list(ctx, s, "listing keys", scanKeys, sqlKeysCreating, now.Add(-creatingGrace).UnixMicro(), limit,
		from-creatingGrace.Microseconds(), after.ID[:])
	if err != nil {
		return nil, next, err
	}
	for _, k := range stuck {
		all = append(all, keyAt{k.key, k.at + creatingGrace.Microseconds()})
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

// DefaultKey gives the tenant's default key for a purpose.
func (s *Store) DefaultKey(ctx context.Context, tenant uuid.UUID, p backend.Purpose) (uuid.UUID, error) {
	var id uuid.UUID
	err := s.row(ctx, "reading the default key", sqlDefaultKey, []any{(*idColumn)(&id)}, tenant[:], string(p))
	if none(err) {
		return uuid.Nil, fault.New(fault.NoDefaultKey, "the tenant has no default key for this")
	}
	return id, err
}

// keyAt is a key and the time, in microseconds, for which it is in a list; 0 when the list has none.
type keyAt struct {
	key *keys.Key
	at  int64
}

func bare(found []keyAt) []*keys.Key {
	if len(found) == 0 {
		return nil
	}
	out := make([]*keys.Key, len(found))
	for i := range found {
		out[i] = found[i].key
	}
	return out
}

func scanKeys(row pgx.CollectableRow) (keyAt, error) { return scanKey(row) }

func scanKey(row pgx.Row) (keyAt, error) {
	var k keys.Key
	var labels, policy []byte
	var at pgtype.Int8
	err := row.Scan((*idColumn)(&k.ID), (*idColumn)(&k.Tenant), &k.Name, &k.Algorithm, &k.Purpose, &k.Origin, &k.BackendID,
		&k.Custody, &labels, &policy, &k.PrimaryVersion, &k.LatestVersion, &k.MinDecrypt, &k.MinEncrypt, &k.Uses, &k.State,
		(*timeColumn)(&k.CreatedAt), (*timeColumn)(&k.UpdatedAt), (*timeColumn)(&k.RotatedAt), (*timeColumn)(&k.DeletionAt),
		(*flagColumn)(&k.Internal), &k.Revision, &at)
	if err != nil {
		return keyAt{}, err
	}
	if len(labels) > 0 {
		if err := json.Unmarshal(labels, &k.Labels); err != nil {
			return keyAt{}, corrupted("the labels of a key are damaged", err)
		}
	}
	if err := json.Unmarshal(policy, &k.Policy); err != nil {
		return keyAt{}, corrupted("the policy of a key is damaged", err)
	}
	return keyAt{&k, at.Int64}, nil
}

const (
	keyColumns = `k.id, k.tenant, k.name, k.algorithm, k.purpose, k.origin, k.backend_id, k.custody, k.labels, k.policy,
		k.primary_version, k.latest_version, k.min_decrypt, k.min_encrypt, k.uses, k.state, k.created_at, k.updated_at,
		k.rotated_at, k.deletion_at, k.internal, k.revision`
	keysSelect = "SELECT " + keyColumns + ", k.due_at FROM keys k "

	sqlKeyByID   = keysSelect + "WHERE k.id = $1 AND k.tenant = $2"
	sqlKeyByName = keysSelect + "WHERE k.tenant = $1 AND k.name = $2 AND k.state <> 'destroyed'"

	// Of all lists: $1 tenant, $2 and $3 bounds of the name, $4 limit. Of all but the first: $5 algorithm, $6 state.
	sqlKeysByName = keysSelect + `WHERE k.tenant = $1 AND k.name >= $2 AND k.name < $3
		AND k.state <> 'destroyed' AND k.internal = 0 ORDER BY k.name LIMIT $4`
	sqlKeysByAlgorithm = keysSelect + `WHERE k.tenant = $1 AND k.algorithm = $5 AND k.name >= $2 AND k.name < $3
		AND k.state <> 'destroyed' AND ($6::text = '' OR k.state = $6) AND k.internal = 0 ORDER BY k.name LIMIT $4`
	sqlKeysByState = keysSelect + `WHERE k.tenant = $1 AND k.state = $6 AND k.name >= $2 AND k.name < $3
		AND ($5::text = '' OR k.algorithm = $5) AND (k.name <> $7 OR k.id > $8)
		AND k.internal = 0 ORDER BY k.name, k.id LIMIT $4`
	keysOfLabel = "SELECT " + keyColumns + ", k.due_at FROM key_labels l JOIN keys k ON k.id = l.key_id WHERE l.tenant = $1 AND l.label = $9"
	filterKeys  = ` AND l.name >= $2 AND l.name < $3 AND ($5::text = '' OR k.algorithm = $5)
		AND (($6::text = '' AND k.state <> 'destroyed') OR k.state = $6) AND (l.name <> $7 OR l.key_id > $8)
		AND k.internal = 0 ORDER BY l.name, l.key_id LIMIT $4`
	sqlKeysByLabel      = keysOfLabel + filterKeys
	sqlKeysByLabelValue = keysOfLabel + " AND l.value = $10" + filterKeys

	sqlKeysDue      = keysSelect + "WHERE k.due_at <= $1 AND k.due_at >= $3 AND (k.due_at > $3 OR k.id > $4) ORDER BY k.due_at, k.id LIMIT $2"
	sqlKeysCreating = "SELECT " + keyColumns + `, v.state_at FROM key_versions v JOIN keys k ON k.id = v.key_id
		WHERE v.state = 'creating' AND v.state_at < $1 AND (v.state_at, v.key_id) > ($3, $4) ORDER BY v.state_at, v.key_id LIMIT $2`
	sqlDefaultKey = "SELECT key_id FROM default_keys WHERE tenant = $1 AND purpose = $2"
)
