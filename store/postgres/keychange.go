package postgres

import (
	"encoding/json"
	"maps"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// keyRecord is a key as it goes into its row. It is made when the change is prepared, so that the encoding costs the caller's
// time and not that of all who wait for the same commit.
type keyRecord struct {
	prepared
	k              keys.Key
	labels, policy string
	due            any
	dueUsed        int64 // since when the key is due if its primary version is used up
	after          [2]any
	err            error
}

func record(k *keys.Key) keyRecord {
	r := keyRecord{prepared: tells(cluster.KindKey, k.ID), k: *k, policy: "{}", due: micros(k.DueAt()), dueUsed: k.UpdatedAt.UnixMicro()}
	if at := k.DueAt(); !at.IsZero() {
		r.dueUsed = min(r.dueUsed, at.UnixMicro())
	}
	messages, bytes := k.RotateAfter()
	r.after = [2]any{threshold(messages), threshold(bytes)}
	if len(k.Labels) > 0 {
		r.k.Labels = maps.Clone(k.Labels)
		r.labels, r.err = encode(k.Labels)
	}
	if policy, err := encode(k.Policy); err != nil {
		r.err = err
	} else {
		r.policy = policy
	}
	return r
}

// threshold is a number for a column where NULL is none.
func threshold(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// takenBy says what a violated uniqueness of the keys means: one of the id, or one of the name.
func takenBy(e *pgconn.PgError) error {
	switch {
	case e.Code != stateUnique:
		return nil
	case e.ConstraintName == "keys_name":
		return fault.Wrap(fault.NameTaken, "another key of the tenant has this name", serverError{e})
	}
	return fault.Wrap(fault.Conflict, "a key with this id exists already", serverError{e})
}

// insertKey is a Change.
type insertKey struct {
	keyRecord
	first insertVersion
}

// InsertKey adds a key and its first version; see keys.Store.
func (s *Store) InsertKey(k *keys.Key, v *keys.Version) audit.Change {
	return &insertKey{keyRecord: record(k), first: insertVersion{v: *v}}
}

func (c *insertKey) statements() ([]statement, error) {
	if c.err != nil {
		return nil, c.err
	}
	k := &c.k
	var all []statement
	if !k.Internal {
		all = append(all, statement{query: sqlKeysLeft, args: []any{k.Tenant[:]},
			nothing: fails(fault.QuotaExceeded, "the tenant has as many keys as its quota allows")})
	}
	all = append(all, statement{
		query: sqlInsertKey,
		args: []any{k.ID[:], k.Tenant[:], k.Name, string(k.Algorithm), string(k.Purpose), string(k.Origin),
			k.BackendID, string(k.Custody), c.labels, c.policy, int64(k.PrimaryVersion), int64(k.LatestVersion),
			int64(k.MinDecrypt), int64(k.MinEncrypt), k.Uses, string(k.State), k.CreatedAt.UnixMicro(), k.UpdatedAt.UnixMicro(),
			micros(k.RotatedAt), micros(k.DeletionAt), c.due, flag(k.Internal), k.Revision, c.after[0], c.after[1]},
		refused: takenBy,
	})
	all = append(all, c.addLabels()...)
	first, err := c.first.statements()
	return append(all, first...), err
}

// addLabels brings what key_labels lacks of the record.
func (r *keyRecord) addLabels() []statement {
	if len(r.k.Labels) == 0 {
		return nil
	}
	labels, values := make([]string, 0, len(r.k.Labels)), make([]string, 0, len(r.k.Labels))
	for label, value := range r.k.Labels {
		labels, values = append(labels, label), append(values, value)
	}
	return []statement{{query: sqlInsertLabels, args: []any{r.k.Tenant[:], r.k.Name, r.k.ID[:], labels, values}}}
}

// updateKey is a Change.
type updateKey struct{ keyRecord }

// UpdateKey replaces the mutable fields of a key's record; see keys.Store.
func (s *Store) UpdateKey(k *keys.Key) audit.Change { return &updateKey{record(k)} }

func (c *updateKey) statements() ([]statement, error) {
	if c.err != nil {
		return nil, c.err
	}
	k := &c.k
	all := []statement{
		{query: sqlDeleteLabels, args: []any{k.ID[:], k.Tenant[:], k.Revision, k.Name, c.labels}},
		{
			query: sqlUpdateKey,
			args: []any{k.Name, string(k.Origin), k.BackendID, string(k.Custody), c.labels, c.policy,
				int64(k.PrimaryVersion), int64(k.LatestVersion), int64(k.MinDecrypt), int64(k.MinEncrypt), string(k.State),
				k.UpdatedAt.UnixMicro(), micros(k.RotatedAt), micros(k.DeletionAt), c.due, k.ID[:], k.Tenant[:], k.Revision,
				c.after[0], c.after[1], c.dueUsed},
			refused: takenBy,
			nothing: fails(fault.Conflict, "the key was changed by somebody else"),
		},
	}
	return append(all, c.addLabels()...), nil
}

// addUses is a Change.
type addUses struct {
	prepared
	key      uuid.UUID
	n, limit int64
}

// AddUses counts uses of a key up to a limit; see keys.Store. fault.KeyNotFound when there is no such key.
func (s *Store) AddUses(key uuid.UUID, n, limit int64) audit.Change {
	return &addUses{key: key, n: n, limit: limit}
}

func (c *addUses) statements() ([]statement, error) {
	if c.n < 0 {
		return nil, fault.New(fault.Internal, "uses are not taken back")
	}
	// limit - n does not overflow for n ≥ 0 unless limit is far below zero, where no use is allowed anyway.
	room := max(c.limit, 0) - c.n
	return []statement{{
		query: sqlAddUses,
		args:  []any{c.n, c.key[:], room},
		nothing: unless(sqlKeyExists, c.key[:], fault.New(fault.KeyNotFound, "no such key"),
			fault.New(fault.UsageLimit, "the usage limit of the key is reached")),
	}}, nil
}

// setDefault is a Change.
type setDefault struct {
	prepared
	tenant, key uuid.UUID
	purpose     backend.Purpose
}

// SetDefaultKey makes the key the tenant's default for the purpose; see keys.Store. fault.KeyNotFound when the tenant has no
// such key.
func (s *Store) SetDefaultKey(tenant uuid.UUID, p backend.Purpose, key uuid.UUID) audit.Change {
	return &setDefault{prepared: tells(cluster.KindKey, key), tenant: tenant, key: key, purpose: p}
}

func (c *setDefault) statements() ([]statement, error) {
	if c.key == uuid.Nil {
		return []statement{{query: sqlDeleteDefault, args: []any{c.tenant[:], string(c.purpose)}}}, nil
	}
	return []statement{{
		query:   sqlSetDefault,
		args:    []any{c.tenant[:], string(c.purpose), c.key[:]},
		nothing: fails(fault.KeyNotFound, "no such key"),
	}}, nil
}

const (
	sqlInsertKey = `INSERT INTO keys (id, tenant, name, algorithm, purpose, origin, backend_id, custody, labels, policy,
		primary_version, latest_version, min_decrypt, min_encrypt, uses, state, created_at, updated_at, rotated_at, deletion_at,
		due_at, internal, revision, rotate_messages, rotate_bytes)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25)`
	sqlUpdateKey = `UPDATE keys SET name = $1, origin = $2, backend_id = $3, custody = $4, labels = $5, policy = $6, primary_version = $7,
		latest_version = $8, min_decrypt = $9, min_encrypt = $10, state = $11, updated_at = $12, rotated_at = $13, deletion_at = $14,
		due_at = CASE WHEN $11 = 'active' AND EXISTS (SELECT 1 FROM key_versions v WHERE v.key_id = keys.id AND v.version = $7
			AND (v.messages >= $19::bigint OR v.bytes >= $20::bigint)) THEN $21::bigint ELSE $15::bigint END,
		rotate_messages = $19, rotate_bytes = $20, revision = revision + 1 WHERE id = $16 AND tenant = $17 AND revision = $18`
	// What the record said until now, unless name and labels stay as they are.
	sqlDeleteLabels = `DELETE FROM key_labels WHERE (tenant, label, value, name, key_id) IN (
		SELECT k.tenant, j.key, j.value, k.name, k.id FROM keys k, json_each_text(NULLIF(k.labels, '')::json) j
		WHERE k.id = $1 AND k.tenant = $2 AND k.revision = $3 AND (k.name <> $4 OR k.labels <> $5))`
	sqlInsertLabels = `INSERT INTO key_labels (tenant, label, value, name, key_id)
		SELECT $1::bytea, l.label, l.value, $2::text, $3::bytea FROM unnest($4::text[], $5::text[]) AS l (label, value)
		ON CONFLICT DO NOTHING`
	sqlAddUses       = "UPDATE keys SET uses = uses + $1 WHERE id = $2 AND uses <= $3"
	sqlKeyExists     = "SELECT COUNT(*) FROM keys WHERE id = $1"
	sqlDeleteDefault = "DELETE FROM default_keys WHERE tenant = $1 AND purpose = $2"
	sqlSetDefault    = `INSERT INTO default_keys (tenant, purpose, key_id) SELECT k.tenant, $2::text, k.id FROM keys k WHERE k.id = $3 AND k.tenant = $1
		ON CONFLICT (tenant, purpose) DO UPDATE SET key_id = excluded.key_id`
)
