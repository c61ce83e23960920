package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/mattn/go-sqlite3"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/root"
)

// Slots lists the slots, oldest first.
func (s *Store) Slots(ctx context.Context) (found []*root.Slot, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	rows, err := s.read.QueryContext(ctx, sqlSlots)
	if err != nil {
		return nil, translate("listing root slots", err)
	}
	defer func() { err = translate("listing root slots", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		var r root.Slot
		err := rows.Scan((*idColumn)(&r.ID), &r.Kind, &r.Label, &r.Params, &r.Sealed, (*timeColumn)(&r.CreatedAt), &r.Generation)
		if err != nil {
			return nil, err
		}
		found = append(found, &r)
	}
	return found, rows.Err()
}

// insertSlot is a Change.
type insertSlot struct {
	prepared
	slot  root.Slot
	first bool
}

// InsertSlot adds a slot. fault.Conflict when the id exists, or its generation is not the newest.
func (s *Store) InsertSlot(slot *root.Slot) audit.Change {
	return &insertSlot{prepared: tells(cluster.KindRoot, uuid.Nil), slot: *slot}
}

// InsertFirstSlot adds a slot to a store that has none; see root.Store.
func (s *Store) InsertFirstSlot(slot *root.Slot) audit.Change {
	return &insertSlot{prepared: tells(cluster.KindRoot, uuid.Nil), slot: *slot, first: true}
}

func (c *insertSlot) apply(w *writer) error {
	if err := w.newest(max(c.slot.Generation, 1)); err != nil {
		return err
	}
	if c.first {
		var slots int64
		if err := w.one(sqlCountSlots, &slots); err != nil {
			return err
		}
		if slots > 0 {
			return fault.New(fault.Conflict, "the store has a root slot already")
		}
	}
	return w.addSlot(&c.slot)
}

func (w *writer) addSlot(r *root.Slot) error {
	_, err := w.exec(sqlInsertSlot, r.ID[:], string(r.Kind), r.Label, notNull(r.Params), notNull(r.Sealed), r.CreatedAt.UnixMicro(), int64(max(r.Generation, 1)))
	return conflictIfTaken(err, "a root slot with this id exists already")
}

// newest fails with fault.Conflict unless the generation is the newest.
func (w *writer) newest(generation uint32) error {
	var n int64
	if err := w.one(sqlGeneration, &n); err != nil {
		return err
	}
	if n != int64(generation) {
		return fault.New(fault.Conflict, "the root was replaced by another")
	}
	return nil
}

// Keyring gives the newest generation and what is kept; see root.Store.
func (s *Store) Keyring(ctx context.Context) (generation uint32, kept []*root.Kept, err error) {
	if err := s.enter(ctx); err != nil {
		return 0, nil, err
	}
	defer s.leave()
	rows, err := s.read.QueryContext(ctx, sqlKeyring)
	if err != nil {
		return 0, nil, translate("reading the keyring", err)
	}
	defer func() { err = translate("reading the keyring", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		var e root.Kept
		var kind sql.NullString
		var of, under sql.NullInt64
		var label sql.NullString
		var at sql.NullInt64
		if err := rows.Scan(&generation, &kind, &of, &label, &under, &e.Sealed, &at); err != nil {
			return 0, nil, err
		}
		if !kind.Valid {
			continue // the row of a store that keeps nothing
		}
		e.Kind, e.Generation, e.Label, e.Under = root.KeptKind(kind.String), uint32(of.Int64), label.String, uint32(under.Int64) //nolint:gosec // as written
		e.CreatedAt = time.UnixMicro(at.Int64).UTC()
		kept = append(kept, &e)
	}
	if err := rows.Err(); err != nil {
		return 0, nil, err
	}
	if generation == 0 {
		return 0, nil, corrupted("the store does not say which root is the newest", nil)
	}
	return generation, kept, nil
}

// replaceRoot is a Change.
type replaceRoot struct {
	prepared
	from  uint32
	slots []*root.Slot
	kept  []*root.Kept
}

// ReplaceRoot takes the place of all slots and of the keyring; see root.Store.
func (s *Store) ReplaceRoot(from uint32, slots []*root.Slot, kept []*root.Kept) audit.Change {
	return &replaceRoot{prepared: tells(cluster.KindRoot, uuid.Nil), from: from, slots: slots, kept: kept}
}

func (c *replaceRoot) apply(w *writer) error {
	if err := w.newest(c.from); err != nil {
		return err
	}
	if len(c.slots) == 0 {
		return fault.New(fault.LastSlot, "the new root has no slot")
	}
	for _, query := range []string{sqlNextGeneration, sqlDeleteSlots, sqlDeleteKeyring} {
		if _, err := w.exec(query); err != nil {
			return err
		}
	}
	for _, s := range c.slots {
		if err := w.addSlot(s); err != nil {
			return err
		}
	}
	for _, e := range c.kept {
		_, err := w.exec(sqlInsertKept, string(e.Kind), int64(e.Generation), e.Label, int64(e.Under), notNull(e.Sealed), e.CreatedAt.UnixMicro())
		if err := conflictIfTaken(err, "an entry of the keyring is there already"); err != nil {
			return err
		}
	}
	return nil
}

// forgetKept is a Change.
type forgetKept struct {
	prepared
	generation uint32
	kinds      []root.KeptKind
}

// ForgetKept erases entries of the keyring; see root.Store.
func (s *Store) ForgetKept(generation uint32, kinds ...root.KeptKind) audit.Change {
	return &forgetKept{prepared: tells(cluster.KindRoot, uuid.Nil), generation: generation, kinds: kinds}
}

func (c *forgetKept) apply(w *writer) error {
	if err := w.newest(c.generation); err != nil {
		return err
	}
	for _, kind := range c.kinds {
		if _, err := w.exec(sqlDeleteKept, string(kind)); err != nil {
			return err
		}
	}
	return nil
}

// notNull gives empty bytes for nil: the driver would make it NULL.
func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// deleteSlot is a Change.
type deleteSlot struct {
	prepared
	id uuid.UUID
}

// DeleteSlot removes a slot unless it is the last; see root.Store.
func (s *Store) DeleteSlot(id uuid.UUID) audit.Change {
	return &deleteSlot{prepared: tells(cluster.KindRoot, uuid.Nil), id: id}
}

func (c *deleteSlot) apply(w *writer) error {
	n, err := w.exec(sqlDeleteSlot, c.id[:])
	if err != nil || n > 0 {
		return err
	}
	there, err := w.row(sqlSlotExists, make([]driver.Value, 1), c.id[:])
	if err != nil {
		return err
	}
	if !there {
		return fault.New(fault.SlotNotFound, "no such root slot")
	}
	return fault.New(fault.LastSlot, "the last root slot cannot be removed")
}

// conflictIfTaken makes a violated uniqueness a Conflict.
func conflictIfTaken(err error, message string) error {
	switch violated(err) {
	case sqlite3.ErrConstraintPrimaryKey, sqlite3.ErrConstraintUnique:
		return fault.Wrap(fault.Conflict, message, err)
	}
	return err
}

const (
	sqlSlots = `SELECT id, kind, label, params, sealed, created_at, generation FROM root_slots
		WHERE generation = (SELECT generation FROM root_state WHERE id = 1) ORDER BY created_at, id`
	sqlInsertSlot = "INSERT INTO root_slots (id, kind, label, params, sealed, created_at, generation) VALUES (?, ?, ?, ?, ?, ?, ?)"
	sqlDeleteSlot = "DELETE FROM root_slots WHERE id = ? AND (SELECT COUNT(*) FROM root_slots) > 1"
	sqlCountSlots = "SELECT COUNT(*) FROM root_slots"
	sqlSlotExists = "SELECT 1 FROM root_slots WHERE id = ?"

	sqlGeneration = "SELECT COALESCE(MAX(generation), 0) FROM root_state"
	sqlKeyring    = `SELECT s.generation, k.kind, k.generation, k.label, k.under, k.sealed, k.created_at
		FROM root_state s LEFT JOIN root_keyring k ON 1 = 1 WHERE s.id = 1 ORDER BY k.kind, k.generation, k.label`
	sqlNextGeneration = "UPDATE root_state SET generation = generation + 1 WHERE id = 1"
	sqlDeleteSlots    = "DELETE FROM root_slots"
	sqlDeleteKeyring  = "DELETE FROM root_keyring"
	sqlInsertKept     = "INSERT INTO root_keyring (kind, generation, label, under, sealed, created_at) VALUES (?, ?, ?, ?, ?, ?)"
	sqlDeleteKept     = "DELETE FROM root_keyring WHERE kind = ?"
)
