package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"

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
		err := rows.Scan((*idColumn)(&r.ID), &r.Kind, &r.Label, &r.Params, &r.Sealed, (*timeColumn)(&r.CreatedAt))
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

// InsertSlot adds a slot. fault.Conflict when the id exists.
func (s *Store) InsertSlot(slot *root.Slot) audit.Change {
	return &insertSlot{prepared: tells(cluster.KindRoot, uuid.Nil), slot: *slot}
}

// InsertFirstSlot adds a slot to a store that has none; see root.Store.
func (s *Store) InsertFirstSlot(slot *root.Slot) audit.Change {
	return &insertSlot{prepared: tells(cluster.KindRoot, uuid.Nil), slot: *slot, first: true}
}

func (c *insertSlot) apply(w *writer) error {
	if c.first {
		var slots int64
		if err := w.one(sqlCountSlots, &slots); err != nil {
			return err
		}
		if slots > 0 {
			return fault.New(fault.Conflict, "the store has a root slot already")
		}
	}
	r := &c.slot
	_, err := w.exec(sqlInsertSlot, r.ID[:], string(r.Kind), r.Label, notNull(r.Params), notNull(r.Sealed), r.CreatedAt.UnixMicro())
	return conflictIfTaken(err, "a root slot with this id exists already")
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
	sqlSlots      = "SELECT id, kind, label, params, sealed, created_at FROM root_slots ORDER BY created_at, id"
	sqlInsertSlot = "INSERT INTO root_slots (id, kind, label, params, sealed, created_at) VALUES (?, ?, ?, ?, ?, ?)"
	sqlDeleteSlot = "DELETE FROM root_slots WHERE id = ? AND (SELECT COUNT(*) FROM root_slots) > 1"
	sqlCountSlots = "SELECT COUNT(*) FROM root_slots"
	sqlSlotExists = "SELECT 1 FROM root_slots WHERE id = ?"
)
