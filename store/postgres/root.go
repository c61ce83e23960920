package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/root"
)

// Slots lists the slots, oldest first.
func (s *Store) Slots(ctx context.Context) ([]*root.Slot, error) {
	return list(ctx, s, "listing root slots", func(row pgx.CollectableRow) (*root.Slot, error) {
		var r root.Slot
		err := row.Scan((*idColumn)(&r.ID), &r.Kind, &r.Label, &r.Params, &r.Sealed, (*timeColumn)(&r.CreatedAt))
		return &r, err
	}, sqlSlots)
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

func (c *insertSlot) statements() ([]statement, error) {
	r := &c.slot
	st := statement{
		query:   sqlInsertSlot,
		args:    []any{r.ID[:], string(r.Kind), r.Label, notNull(r.Params), notNull(r.Sealed), r.CreatedAt.UnixMicro()},
		refused: conflictIfTaken("a root slot with this id exists already"),
	}
	if c.first {
		st.query += " WHERE NOT EXISTS (SELECT 1 FROM root_slots)"
		st.nothing = fails(fault.Conflict, "the store has a root slot already")
	}
	return []statement{st}, nil
}

// notNull gives empty bytes for nil, which would be NULL.
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

func (c *deleteSlot) statements() ([]statement, error) {
	return []statement{{
		query: sqlDeleteSlot,
		args:  []any{c.id[:]},
		nothing: unless(sqlSlotExists, c.id[:], fault.New(fault.SlotNotFound, "no such root slot"),
			fault.New(fault.LastSlot, "the last root slot cannot be removed")),
	}}, nil
}

const (
	sqlSlots      = "SELECT id, kind, label, params, sealed, created_at FROM root_slots ORDER BY created_at, id"
	sqlInsertSlot = `INSERT INTO root_slots (id, kind, label, params, sealed, created_at)
		SELECT $1::bytea, $2::text, $3::text, $4::bytea, $5::bytea, $6::bigint`
	sqlDeleteSlot = "DELETE FROM root_slots WHERE id = $1 AND (SELECT COUNT(*) FROM root_slots) > 1"
	sqlSlotExists = "SELECT COUNT(*) FROM root_slots WHERE id = $1"
)
