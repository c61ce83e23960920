package postgres

import (
	"context"
	"time"

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
		err := row.Scan((*idColumn)(&r.ID), &r.Kind, &r.Label, &r.Params, &r.Sealed, (*timeColumn)(&r.CreatedAt), &r.Generation)
		return &r, err
	}, sqlSlots)
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

func (c *insertSlot) statements() ([]statement, error) {
	st := insertSlotStatement(&c.slot)
	st.query += " WHERE " + sqlNewest
	st.args = append(st.args, int64(max(c.slot.Generation, 1)))
	st.nothing = fails(fault.Conflict, replacedRoot)
	if c.first {
		st.query += " AND NOT EXISTS (SELECT 1 FROM root_slots)"
		st.nothing = fails(fault.Conflict, "the store has a root slot already")
	}
	return []statement{st}, nil
}

const replacedRoot = "the root was replaced by another"

func insertSlotStatement(r *root.Slot) statement {
	return statement{
		query:   sqlInsertSlot,
		args:    []any{int64(max(r.Generation, 1)), r.ID[:], string(r.Kind), r.Label, notNull(r.Params), notNull(r.Sealed), r.CreatedAt.UnixMicro()},
		refused: conflictIfTaken("a root slot with this id exists already"),
	}
}

// Keyring gives the newest generation and what is kept; see root.Store.
func (s *Store) Keyring(ctx context.Context) (generation uint32, kept []*root.Kept, err error) {
	kept, err = list(ctx, s, "reading the keyring", func(row pgx.CollectableRow) (*root.Kept, error) {
		var e root.Kept
		var kind, label *string
		var of, under, at *int64
		if err := row.Scan(&generation, &kind, &of, &label, &under, &e.Sealed, &at); err != nil || kind == nil {
			return nil, err // without a kind: the row of a store that keeps nothing
		}
		e.Kind, e.Generation, e.Label, e.Under = root.KeptKind(*kind), uint32(*of), *label, uint32(*under) //nolint:gosec // as written
		e.CreatedAt = time.UnixMicro(*at).UTC()
		return &e, nil
	}, sqlKeyring)
	if err == nil && generation == 0 {
		err = fault.New(fault.StoreCorrupted, "the store does not say which root is the newest")
	}
	if len(kept) == 1 && kept[0] == nil {
		kept = nil
	}
	return generation, kept, err
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

func (c *replaceRoot) statements() ([]statement, error) {
	if len(c.slots) == 0 {
		return nil, fault.New(fault.LastSlot, "the new root has no slot")
	}
	out := []statement{
		{query: sqlNextGeneration, args: []any{int64(c.from)}, nothing: fails(fault.Conflict, replacedRoot)},
		{query: sqlDeleteSlots},
		{query: sqlDeleteKeyring},
	}
	for _, s := range c.slots {
		out = append(out, insertSlotStatement(s))
	}
	for _, e := range c.kept {
		out = append(out, statement{
			query:   sqlInsertKept,
			args:    []any{string(e.Kind), int64(e.Generation), e.Label, int64(e.Under), notNull(e.Sealed), e.CreatedAt.UnixMicro()},
			refused: conflictIfTaken("an entry of the keyring is there already"),
		})
	}
	return out, nil
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

func (c *forgetKept) statements() ([]statement, error) {
	out := []statement{{query: sqlSameGeneration, args: []any{int64(c.generation)}, nothing: fails(fault.Conflict, replacedRoot)}}
	for _, kind := range c.kinds {
		out = append(out, statement{query: sqlDeleteKept, args: []any{string(kind)}})
	}
	return out, nil
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
	sqlSlots = `SELECT id, kind, label, params, sealed, created_at, generation FROM root_slots
		WHERE generation = (SELECT generation FROM root_state WHERE id = 1) ORDER BY created_at, id`
	sqlInsertSlot = `INSERT INTO root_slots (generation, id, kind, label, params, sealed, created_at)
		SELECT $1::bigint, $2::bytea, $3::text, $4::text, $5::bytea, $6::bytea, $7::bigint`
	sqlNewest     = "(SELECT generation FROM root_state WHERE id = 1) = $8::bigint"
	sqlDeleteSlot = "DELETE FROM root_slots WHERE id = $1 AND (SELECT COUNT(*) FROM root_slots) > 1"
	sqlSlotExists = "SELECT COUNT(*) FROM root_slots WHERE id = $1"

	sqlKeyring = `SELECT s.generation, k.kind, k.generation, k.label, k.under, k.sealed, k.created_at
		FROM root_state s LEFT JOIN root_keyring k ON 1 = 1 WHERE s.id = 1 ORDER BY k.kind, k.generation, k.label`
	sqlNextGeneration = "UPDATE root_state SET generation = generation + 1 WHERE id = 1 AND generation = $1"
	sqlSameGeneration = "UPDATE root_state SET generation = generation WHERE id = 1 AND generation = $1"
	sqlDeleteSlots    = "DELETE FROM root_slots"
	sqlDeleteKeyring  = "DELETE FROM root_keyring"
	sqlInsertKept     = "INSERT INTO root_keyring (kind, generation, label, under, sealed, created_at) VALUES ($1, $2, $3, $4, $5, $6)"
	sqlDeleteKept     = "DELETE FROM root_keyring WHERE kind = $1"
)
