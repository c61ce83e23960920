package postgres

import (
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// entryColumns are the entries of a batch, column by column: one statement takes them all, whatever their number.
type entryColumns struct {
	idx, at                    []int64
	tenant, key, leaf          [][]byte
	principal, action, outcome []string
	level                      []int16
	node                       []int64
	hash                       [][]byte
}

// args gives the arguments of sqlAppend. They are used until the next call.
func (c *entryColumns) args(t *transaction) []any {
	c.idx, c.at = c.idx[:0], c.at[:0]
	c.tenant, c.key, c.leaf = c.tenant[:0], c.key[:0], c.leaf[:0]
	c.principal, c.action, c.outcome = c.principal[:0], c.action[:0], c.outcome[:0]
	c.level, c.node, c.hash = c.level[:0], c.node[:0], c.hash[:0]
	for _, it := range t.survivors {
		e := it.Entry
		c.idx, c.at = append(c.idx, int64(it.Index)), append(c.at, e.Time.UnixMicro())
		c.tenant, c.key = append(c.tenant, idOrNull(&e.Tenant)), append(c.key, idOrNull(&e.Key))
		c.principal, c.action = append(c.principal, text(e.Principal)), append(c.action, text(e.Action))
		c.outcome, c.leaf = append(c.outcome, text(e.Outcome)), append(c.leaf, it.Leaf)
	}
	for i := range t.nodes {
		n := &t.nodes[i]
		c.level, c.node, c.hash = append(c.level, int16(n.Level)), append(c.node, int64(n.Index)), append(c.hash, n.Hash[:])
	}
	return []any{
		int64(t.before.Size), joinHashes(t.before.Range), int64(t.after.Size), joinHashes(t.after.Range),
		c.level, c.node, c.hash, c.idx, c.at, c.tenant, c.key, c.principal, c.action, c.outcome, c.leaf,
	}
}

func idOrNull(id *uuid.UUID) []byte {
	if *id == uuid.Nil {
		return nil
	}
	return id[:]
}

// text is s as a TEXT column takes it: PostgreSQL has no NUL in texts, and only UTF-8. It is for the columns that repeat for
// filters what the leaf says exactly, and for the filters: one odd name must not make a batch unwritable.
func text(s string) string {
	if utf8.ValidString(s) && !strings.ContainsRune(s, 0) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// storable reports whether a TEXT column can hold s at all: nothing has a name that it cannot.
func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

const (
	sqlBegin        = "BEGIN ISOLATION LEVEL READ COMMITTED"
	sqlCommit       = "COMMIT"
	sqlRollback     = "ROLLBACK"
	sqlSavepoint    = "SAVEPOINT item"
	sqlRollbackItem = "ROLLBACK TO SAVEPOINT item"
	sqlReleaseItem  = "RELEASE SAVEPOINT item"
	sqlLockHead     = "SELECT size, hashes FROM audit_head WHERE id = 1 FOR UPDATE"
	// Moves the head from where it is expected, and writes nodes and entries if it was there. One statement is one
	// transaction, in one round trip; inside a transaction that holds the head's lock it always finds it.
	sqlAppend = `WITH head AS (
			UPDATE audit_head SET size = $3, hashes = $4 WHERE id = 1 AND size = $1 AND hashes = $2 RETURNING id
		), nodes AS (
			INSERT INTO audit_nodes (level, idx, hash)
			SELECT n.level, n.idx, n.hash FROM unnest($5::smallint[], $6::bigint[], $7::bytea[]) AS n (level, idx, hash)
			WHERE EXISTS (SELECT 1 FROM head)
		)
		INSERT INTO audit_entries (idx, at, tenant, key_id, principal, action, outcome, leaf)
		SELECT e.idx, e.at, e.tenant, e.key_id, e.principal, e.action, e.outcome, e.leaf
		FROM unnest($8::bigint[], $9::bigint[], $10::bytea[], $11::bytea[], $12::text[], $13::text[], $14::text[], $15::bytea[])
			AS e (idx, at, tenant, key_id, principal, action, outcome, leaf)
		WHERE EXISTS (SELECT 1 FROM head)`
)
