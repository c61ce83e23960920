package postgres

import (
	"context"
	"crypto/sha256"
	"math"
	"math/bits"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

// searchWindow is how many entries one AuditSearch looks at: some tens of milliseconds.
const searchWindow = 50_000

func scanHead(row pgx.Row) (audit.Head, error) {
	var size int64
	var hashes []byte
	err := row.Scan(&size, &hashes)
	if none(err) {
		return audit.Head{}, corrupted("the head of the audit log is missing", err)
	}
	if err != nil {
		return audit.Head{}, err
	}
	if size < 0 || len(hashes) != bits.OnesCount64(uint64(size))*sha256.Size {
		return audit.Head{}, corrupted("the head of the audit log is damaged", nil)
	}
	h := audit.Head{Size: uint64(size)}
	for ; len(hashes) > 0; hashes = hashes[sha256.Size:] {
		h.Range = append(h.Range, [32]byte(hashes))
	}
	return h, nil
}

func joinHashes(hashes [][32]byte) []byte {
	b := make([]byte, 0, len(hashes)*sha256.Size)
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}

// AuditHead gives the head as stored.
func (s *Store) AuditHead(ctx context.Context) (h audit.Head, err error) {
	err = s.reading(ctx, "reading the audit head", func(c conn) (err error) {
		h, err = scanHead(c.QueryRow(ctx, sqlHead))
		return err
	})
	return h, err
}

// AuditEntries gives up to limit entries from index from upward.
func (s *Store) AuditEntries(ctx context.Context, from uint64, limit int) ([]audit.Stored, error) {
	if limit <= 0 || from > math.MaxInt64 {
		return nil, s.usable(ctx)
	}
	if from > math.MaxInt64-uint64(limit) {
		return nil, s.usable(ctx)
	}
	end := from + uint64(limit)
	found, err := list(ctx, s, "reading audit entries", scanStored, sqlEntries, int64(from), int64(end))
	if err != nil {
		return nil, err
	}
	if len(found) == 0 || found[0].Index != from {
		// Pruned, or not there yet. What is pruned between this query and the one before is in both.
		if len(found) > 0 {
			end = found[0].Index
		}
		pruned, err := s.pruned(ctx, from, end)
		if err != nil {
			return nil, err
		}
		found = append(pruned, found...)
	}
	if len(found) == 0 {
		var next *int64
		if err := s.row(ctx, "reading audit entries", sqlNextEntry, []any{&next}, int64(from)); err != nil {
			return nil, err
		}
		if next != nil && uint64(*next) != from {
			return nil, corrupted("an audit entry is missing from the store", nil)
		}
	}
	for i := range found {
		if found[i].Index != from+uint64(i) {
			return nil, corrupted("an audit entry is missing from the store", nil)
		}
	}
	return found, nil
}

func scanStored(row pgx.CollectableRow) (audit.Stored, error) {
	var idx int64
	var leaf []byte
	err := row.Scan(&idx, &leaf)
	return audit.Stored{Index: uint64(idx), Leaf: leaf}, err
}

// AuditSearch looks at up to 50,000 entries below before, newest first; see audit.Store.
func (s *Store) AuditSearch(ctx context.Context, f audit.Filter, before uint64, limit int) ([]audit.Stored, uint64, error) {
	head, err := s.AuditHead(ctx)
	if err != nil {
		return nil, 0, err
	}
	before = min(before, head.Size)
	if before == 0 || limit <= 0 {
		return nil, before, nil
	}
	kept, err := s.kept(ctx)
	if err != nil {
		return nil, 0, err
	}
	floor := uint64(0)
	if before > searchWindow {
		floor = before - searchWindow
	}
	found, err := list(ctx, s, "searching the audit log", scanStored, sqlSearch, int64(before), int64(floor),
		filterID(f.Tenant), isNil(f.Tenant), filterID(f.Key), isNil(f.Key), text(f.Principal), text(f.Action), text(f.Outcome),
		bound(f.From, math.MinInt64), bound(f.To, math.MaxInt64), limit)
	if err != nil {
		return nil, 0, err
	}
	if len(found) == limit {
		floor = found[limit-1].Index
	}
	if floor <= kept {
		floor = 0 // what lies below is pruned
	}
	return found, floor, nil
}

// filterID gives NULL for a filter that is not set, and for one that asks for entries without an id: see isNil.
func filterID(id *uuid.UUID) []byte {
	if id == nil {
		return nil
	}
	return idOrNull(id)
}

func isNil(id *uuid.UUID) bool { return id != nil && *id == uuid.Nil }

// bound rounds up, so that From ≤ t < To holds for times that were themselves cut to microseconds.
func bound(t time.Time, none int64) int64 {
	if t.IsZero() {
		return none
	}
	return t.Add(time.Microsecond - 1).UnixMicro()
}

// AuditHashes gives n leaf hashes from index from, fewer only at the end of the log. They are computed from the leaves.
func (s *Store) AuditHashes(ctx context.Context, from uint64, n int) ([][32]byte, error) {
	found, err := s.AuditEntries(ctx, from, n)
	if err != nil {
		return nil, err
	}
	hashes := make([][32]byte, len(found))
	for i := range found {
		hashes[i] = found[i].LeafHash()
	}
	return hashes, nil
}

// AuditNodes gives the hashes of the named nodes, in the order asked.
func (s *Store) AuditNodes(ctx context.Context, nodes []audit.Node) ([][32]byte, error) {
	levels, indices := make([]int16, len(nodes)), make([]int64, len(nodes))
	for i, n := range nodes {
		levels[i], indices[i] = int16(n.Level), int64(min(n.Index, math.MaxInt64))
	}
	found, err := list(ctx, s, "reading the audit tree", pgx.RowTo[[]byte], sqlNodes, levels, indices)
	if err != nil {
		return nil, err
	}
	hashes := make([][32]byte, len(found))
	for i, hash := range found {
		switch len(hash) {
		case 0:
			return nil, fault.New(fault.EntryNotFound, "the audit tree has no such node")
		case sha256.Size:
			hashes[i] = [32]byte(hash)
		default:
			return nil, corrupted("a node of the audit tree is damaged", nil)
		}
	}
	return hashes, nil
}

// SaveCheckpoint keeps a signed checkpoint. One for a smaller tree than that of the newest is dropped.
func (s *Store) SaveCheckpoint(ctx context.Context, size uint64, note []byte) error {
	if size > math.MaxInt64 {
		return fault.New(fault.Internal, "the checkpoint is of no tree that can be")
	}
	return s.write(ctx, "keeping the checkpoint", sqlSaveCheckpoint, int64(size), note)
}

// SaveCosigned keeps a cosigned checkpoint. One for a smaller tree than that of the newest is dropped.
func (s *Store) SaveCosigned(ctx context.Context, size uint64, note []byte) error {
	if size > math.MaxInt64 {
		return fault.New(fault.Internal, "the checkpoint is of no tree that can be")
	}
	return s.write(ctx, "keeping the cosigned checkpoint", sqlSaveCosigned, int64(size), note)
}

// Checkpoint gives the newest checkpoint, nil when there is none.
func (s *Store) Checkpoint(ctx context.Context) ([]byte, error) { return s.note(ctx, sqlCheckpoint) }

// Cosigned gives the newest cosigned checkpoint, nil when there is none.
func (s *Store) Cosigned(ctx context.Context) ([]byte, error) { return s.note(ctx, sqlCosigned) }

func (s *Store) note(ctx context.Context, query string) ([]byte, error) {
	var note []byte
	err := s.row(ctx, "reading the checkpoint", query, []any{&note})
	if none(err) {
		return nil, nil
	}
	return note, err
}

const (
	sqlHead      = "SELECT size, hashes FROM audit_head WHERE id = 1"
	sqlEntries   = "SELECT idx, leaf FROM audit_entries WHERE idx >= $1 AND idx < $2 ORDER BY idx"
	sqlNextEntry = "SELECT MIN(idx) FROM audit_entries WHERE idx >= $1"
	sqlSearch    = `SELECT idx, leaf FROM audit_entries
		WHERE idx < $1 AND idx >= $2
		AND ($3::bytea IS NULL OR tenant = $3) AND (NOT $4::boolean OR tenant IS NULL)
		AND ($5::bytea IS NULL OR key_id = $5) AND (NOT $6::boolean OR key_id IS NULL)
		AND ($7::text = '' OR principal = $7) AND ($8::text = '' OR action = $8) AND ($9::text = '' OR outcome = $9)
		AND at >= $10 AND at < $11
		ORDER BY idx DESC LIMIT $12`
	sqlNodes = `SELECT n.hash FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS a (level, idx, place)
		LEFT JOIN audit_nodes n ON n.level = a.level AND n.idx = a.idx ORDER BY a.place`
	sqlSaveCheckpoint = `INSERT INTO audit_checkpoint (id, size, note) VALUES (1, $1, $2)
		ON CONFLICT (id) DO UPDATE SET size = excluded.size, note = excluded.note WHERE excluded.size >= audit_checkpoint.size`
	sqlCheckpoint   = "SELECT note FROM audit_checkpoint WHERE id = 1"
	sqlSaveCosigned = `INSERT INTO audit_cosigned (id, size, note) VALUES (1, $1, $2)
		ON CONFLICT (id) DO UPDATE SET size = excluded.size, note = excluded.note WHERE excluded.size >= audit_cosigned.size`
	sqlCosigned = "SELECT note FROM audit_cosigned WHERE id = 1"
)
