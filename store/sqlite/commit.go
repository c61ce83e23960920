package sqlite

import (
	"context"
	"database/sql/driver"
	"math"
	"strings"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

// change is what every Change of this store is.
type change interface {
	audit.Change
	// apply carries it out inside a transaction. An error that is not of the store undoes the item, not the batch.
	apply(w *writer) error
	// news gives what others are told of it; no kind: nothing.
	news() (cluster.Kind, uuid.UUID)
}

// prepared marks the changes, and says what others are told of them: see tells. The zero value: nothing.
type prepared struct {
	kind  cluster.Kind
	about uuid.UUID
}

func (prepared) StoreChange() {}

func (p prepared) news() (cluster.Kind, uuid.UUID) { return p.kind, p.about }

// tells makes a change one that is news: of the kind, and what it changes. The zero id: everything of the kind.
func tells(kind cluster.Kind, about uuid.UUID) prepared { return prepared{kind, about} }

// Commit carries out one batch in one transaction; see audit.Store.
func (s *Store) Commit(ctx context.Context, batch []*audit.Item, extend func(audit.Head, []*audit.Item) (audit.Head, []audit.Node, error)) error {
	if len(batch) == 0 {
		return ended(ctx)
	}
	err := s.write(ctx, func(w *writer) error {
		written, told := 0, 0
		err := w.transaction(ctx, func() (err error) {
			written, told, err = w.carryOut(ctx, batch, extend)
			return err
		})
		if err == nil {
			s.checkpoints.wrote(written)
		}
		if err == nil && told > 0 {
			s.wake()
		}
		return err
	})
	switch fault.CodeOf(err) {
	case "":
		s.failing.Store(false)
	case fault.StoreUnavailable, fault.StoreCorrupted:
		s.failing.Store(true)
	}
	return err
}

// carryOut does the work of Commit between BEGIN and COMMIT, and estimates how many bytes it adds to the
// log. told is how many pieces of news there are.
func (w *writer) carryOut(ctx context.Context, batch []*audit.Item, extend func(audit.Head, []*audit.Item) (audit.Head, []audit.Node, error)) (written, told int, err error) {
	written = 8 * pageSize
	survivors := make([]*audit.Item, 0, len(batch))
	for _, item := range batch {
		item.Err = nil
		if len(item.Changes) > 0 {
			if err := ended(ctx); err != nil {
				return 0, 0, err
			}
			if err := w.applyItem(item); err != nil {
				return 0, 0, err
			}
			if item.Err != nil {
				continue
			}
			written += 8 * pageSize * len(item.Changes)
		}
		written += len(item.Leaf) + 128
		survivors = append(survivors, item)
	}
	before, err := w.head()
	if err != nil {
		return 0, 0, err
	}
	after, nodes, err := extend(before, survivors)
	if err != nil {
		return 0, 0, err
	}
	if err := extends(before, after, survivors); err != nil || len(survivors) == 0 {
		return written, told, err
	}
	if err := w.insertEntries(survivors); err != nil {
		return 0, 0, err
	}
	if told, err = w.insertNews(survivors); err != nil {
		return 0, 0, err
	}
	for i := range nodes {
		if _, err := w.exec(sqlInsertNode, int64(nodes[i].Level), int64(nodes[i].Index), nodes[i].Hash[:]); err != nil {
			return 0, 0, err
		}
	}
	_, err = w.exec(sqlUpdateHead, int64(after.Size), joinHashes(after.Range))
	return written, told, err
}

// applyItem makes all changes of an item or none. It sets item.Err for what is wrong with the item, and returns what is
// wrong with the store.
func (w *writer) applyItem(item *audit.Item) error {
	if _, err := w.exec(sqlSavepoint); err != nil {
		return err
	}
	for _, c := range item.Changes {
		own, ok := c.(change)
		if !ok {
			item.Err = fault.New(fault.Internal, "a change of another store")
			break
		}
		if err := translate("changing a record", own.apply(w)); err != nil {
			if ofStore(err) {
				return err
			}
			item.Err = err
			break
		}
	}
	if item.Err != nil {
		if _, err := w.exec(sqlRollbackItem); err != nil {
			return err
		}
	}
	_, err := w.exec(sqlReleaseItem)
	return err
}

// extends checks what the caller's function gave: a wrong index would overwrite nothing, but break the tree for good.
func extends(before, after audit.Head, items []*audit.Item) error {
	ok := after.Size == before.Size+uint64(len(items)) && after.Size <= math.MaxInt64
	for i, item := range items {
		ok = ok && item.Index == before.Size+uint64(i)
	}
	if !ok {
		return fault.New(fault.Internal, "the audit log was not extended by its new entries")
	}
	return nil
}

// entryChunks are how many entries one statement inserts. One statement for many rows saves calls into C, a few sizes keep
// the number of prepared statements fixed.
var entryChunks = [...]struct {
	rows  int
	query string
}{
	{32, sqlInsertEntries + strings.Repeat("(?,?,?,?,?,?,?,?),", 31) + "(?,?,?,?,?,?,?,?)"},
	{8, sqlInsertEntries + strings.Repeat("(?,?,?,?,?,?,?,?),", 7) + "(?,?,?,?,?,?,?,?)"},
	{1, sqlInsertEntries + "(?,?,?,?,?,?,?,?)"},
}

func (w *writer) insertEntries(items []*audit.Item) error {
	for _, c := range entryChunks {
		for len(items) >= c.rows {
			if err := w.put(c.query, w.bindEntries(items[:c.rows])); err != nil {
				return err
			}
			items = items[c.rows:]
		}
	}
	return nil
}

func (w *writer) bindEntries(items []*audit.Item) []driver.NamedValue {
	args := w.args[:0]
	add := func(v driver.Value) { args = append(args, driver.NamedValue{Ordinal: len(args) + 1, Value: v}) }
	for _, it := range items {
		e := it.Entry
		add(int64(it.Index))
		add(e.Time.UnixMicro())
		add(idOrNull(&e.Tenant))
		add(idOrNull(&e.Key))
		add(e.Principal)
		add(e.Action)
		add(e.Outcome)
		add(it.Leaf)
	}
	w.args = args
	return args
}

func idOrNull(id *uuid.UUID) driver.Value {
	if *id == uuid.Nil {
		return nil
	}
	return id[:]
}

// head reads the head inside the transaction.
func (w *writer) head() (audit.Head, error) {
	v := make([]driver.Value, 2)
	found, err := w.row(sqlHead, v)
	if err != nil {
		return audit.Head{}, err
	}
	size, ok := v[0].(int64)
	hashes, ok2 := v[1].([]byte)
	if !found || !ok || !ok2 {
		return audit.Head{}, corrupted("the head of the audit log is missing", nil)
	}
	return parseHead(size, hashes)
}

const (
	sqlInsertEntries = "INSERT INTO audit_entries (idx, at, tenant, key_id, principal, action, outcome, leaf) VALUES "
	sqlInsertNode    = "INSERT INTO audit_nodes (level, idx, hash) VALUES (?, ?, ?)"
	sqlHead          = "SELECT size, hashes FROM audit_head WHERE id = 1"
	sqlUpdateHead    = "UPDATE audit_head SET size = ?, hashes = ? WHERE id = 1"
)
