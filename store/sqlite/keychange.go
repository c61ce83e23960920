package sqlite

import (
	"database/sql/driver"
	"encoding/json"
	"maps"

	"github.com/google/uuid"
	"github.com/mattn/go-sqlite3"

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

// insertKey is a Change.
type insertKey struct {
	keyRecord
	first insertVersion
}

// InsertKey adds a key and its first version; see keys.Store.
func (s *Store) InsertKey(k *keys.Key, v *keys.Version) audit.Change {
	return &insertKey{keyRecord: record(k), first: insertVersion{v: *v}}
}

func (c *insertKey) apply(w *writer) error {
	if c.err != nil {
		return c.err
	}
	k := &c.k
	if !k.Internal {
		full, err := w.row(sqlKeysFull, make([]driver.Value, 1), k.Tenant[:])
		if err != nil {
			return err
		}
		if full {
			return fault.New(fault.QuotaExceeded, "the tenant has as many keys as its quota allows")
		}
	}
	_, err := w.exec(sqlInsertKey, k.ID[:], k.Tenant[:], k.Name, string(k.Algorithm), string(k.Purpose), string(k.Origin),
		k.BackendID, string(k.Custody), c.labels, c.policy, int64(k.PrimaryVersion), int64(k.LatestVersion),
		int64(k.MinDecrypt), int64(k.MinEncrypt), k.Uses, string(k.State), k.CreatedAt.UnixMicro(), k.UpdatedAt.UnixMicro(),
		micros(k.RotatedAt), micros(k.DeletionAt), c.due, flag(k.Internal), k.Revision, c.after[0], c.after[1])
	switch violated(err) {
	case sqlite3.ErrConstraintPrimaryKey:
		return fault.Wrap(fault.Conflict, "a key with this id exists already", err)
	case sqlite3.ErrConstraintUnique:
		// Of two violated constraints SQLite names either.
		there, failed := w.row(sqlKeyExists, make([]driver.Value, 1), k.ID[:])
		switch {
		case failed != nil:
			return failed
		case there:
			return fault.Wrap(fault.Conflict, "a key with this id exists already", err)
		}
		return nameTaken(err)
	}
	if err != nil {
		return err
	}
	if err := w.addLabels(k, k.Labels); err != nil {
		return err
	}
	return c.first.apply(w)
}

func nameTaken(err error) error {
	return fault.Wrap(fault.NameTaken, "another key of the tenant has this name", err)
}

func (w *writer) addLabels(k *keys.Key, labels map[string]string) error {
	for label, value := range labels {
		if _, err := w.exec(sqlInsertLabel, k.Tenant[:], label, value, k.Name, k.ID[:]); err != nil {
			return err
		}
	}
	return nil
}

// updateKey is a Change.
type updateKey struct{ keyRecord }

// UpdateKey replaces the mutable fields of a key's record; see keys.Store.
func (s *Store) UpdateKey(k *keys.Key) audit.Change { return &updateKey{record(k)} }

func (c *updateKey) apply(w *writer) error {
	if c.err != nil {
		return c.err
	}
	k := &c.k
	old := make([]driver.Value, 2)
	found, err := w.row(sqlKeyLabels, old, k.ID[:], k.Tenant[:], k.Revision)
	if err != nil {
		return err
	}
	if !found {
		return fault.New(fault.Conflict, "the key was changed by somebody else")
	}
	_, err = w.exec(sqlUpdateKey, k.Name, string(k.Origin), k.BackendID, string(k.Custody), c.labels, c.policy,
		int64(k.PrimaryVersion), int64(k.LatestVersion), int64(k.MinDecrypt), int64(k.MinEncrypt), string(k.State),
		k.UpdatedAt.UnixMicro(), micros(k.RotatedAt), micros(k.DeletionAt), c.after[0], c.after[1],
		string(k.State), int64(k.PrimaryVersion), c.after[0], c.after[1], c.dueUsed, c.due, k.ID[:])
	if violated(err) == sqlite3.ErrConstraintUnique {
		return nameTaken(err)
	}
	if err != nil {
		return err
	}
	return c.relabel(w, old)
}

// relabel brings key_labels in line with the record. old is what the record said before: name and labels.
func (c *updateKey) relabel(w *writer, old []driver.Value) error {
	name, ok := old[0].(string)
	text, ok2 := old[1].(string)
	if !ok || !ok2 {
		return corrupted("the record of a key is damaged", nil)
	}
	if name == c.k.Name && text == c.labels {
		return nil
	}
	var labels map[string]string
	if text != "" {
		if err := json.Unmarshal([]byte(text), &labels); err != nil {
			return corrupted("the labels of a key are damaged", err)
		}
	}
	fresh := maps.Clone(c.k.Labels)
	for label, value := range labels {
		if now, kept := fresh[label]; kept && now == value && name == c.k.Name {
			delete(fresh, label)
			continue
		}
		if _, err := w.exec(sqlDeleteLabel, c.k.Tenant[:], label, value, name, c.k.ID[:]); err != nil {
			return err
		}
	}
	return w.addLabels(&c.k, fresh)
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

func (c *addUses) apply(w *writer) error {
	if c.n < 0 {
		return fault.New(fault.Internal, "uses are not taken back")
	}
	// limit - n does not overflow for n ≥ 0 unless limit is far below zero, where no use is allowed anyway.
	room := max(c.limit, 0) - c.n
	changed, err := w.exec(sqlAddUses, c.n, c.key[:], room)
	if err != nil || changed > 0 {
		return err
	}
	there, err := w.row(sqlKeyExists, make([]driver.Value, 1), c.key[:])
	if err != nil {
		return err
	}
	if !there {
		return fault.New(fault.KeyNotFound, "no such key")
	}
	return fault.New(fault.UsageLimit, "the usage limit of the key is reached")
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

func (c *setDefault) apply(w *writer) error {
	if c.key == uuid.Nil {
		_, err := w.exec(sqlDeleteDefault, c.tenant[:], string(c.purpose))
		return err
	}
	n, err := w.exec(sqlSetDefault, c.tenant[:], string(c.purpose), c.key[:], c.tenant[:])
	if err == nil && n == 0 {
		return fault.New(fault.KeyNotFound, "no such key")
	}
	return err
}

const (
	sqlInsertKey = `INSERT INTO keys (id, tenant, name, algorithm, purpose, origin, backend_id, custody, labels, policy,
		primary_version, latest_version, min_decrypt, min_encrypt, uses, state, created_at, updated_at, rotated_at, deletion_at,
		due_at, internal, revision, rotate_messages, rotate_bytes)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	sqlKeyLabels = "SELECT name, labels FROM keys WHERE id = ? AND tenant = ? AND revision = ?"
	sqlUpdateKey = `UPDATE keys SET name = ?, origin = ?, backend_id = ?, custody = ?, labels = ?, policy = ?, primary_version = ?,
		latest_version = ?, min_decrypt = ?, min_encrypt = ?, state = ?, updated_at = ?, rotated_at = ?, deletion_at = ?,
		rotate_messages = ?, rotate_bytes = ?,
		due_at = CASE WHEN ? = 'active' AND EXISTS (SELECT 1 FROM key_versions v WHERE v.key_id = keys.id AND v.version = ?
			AND (v.messages >= ? OR v.bytes >= ?)) THEN ? ELSE ? END,
		revision = revision + 1 WHERE id = ?`
	sqlInsertLabel   = "INSERT INTO key_labels (tenant, label, value, name, key_id) VALUES (?, ?, ?, ?, ?)"
	sqlDeleteLabel   = "DELETE FROM key_labels WHERE tenant = ? AND label = ? AND value = ? AND name = ? AND key_id = ?"
	sqlAddUses       = "UPDATE keys SET uses = uses + ? WHERE id = ? AND uses <= ?"
	sqlKeyExists     = "SELECT 1 FROM keys WHERE id = ?"
	sqlDeleteDefault = "DELETE FROM default_keys WHERE tenant = ? AND purpose = ?"
	sqlSetDefault    = `INSERT INTO default_keys (tenant, purpose, key_id) SELECT ?, ?, id FROM keys WHERE id = ? AND tenant = ?
		ON CONFLICT (tenant, purpose) DO UPDATE SET key_id = excluded.key_id`
)
