package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"math"
	"math/bits"
	"strconv"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

// searchWindow is how many entries one AuditSearch looks at: some tens of milliseconds.
const searchWindow = 50_000

func parseHead(size int64, hashes []byte) (audit.Head, error) {
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
func (s *Store) AuditHead(ctx context.Context) (audit.Head, error) {
	if err := s.enter(ctx); err != nil {
		return audit.Head{}, err
	}
	defer s.leave()
	return s.readHead(ctx)
}

func (s *Store) readHead(ctx context.Context) (audit.Head, error) {
	var size int64
	var hashes []byte
	err := s.read.QueryRowContext(ctx, sqlHead).Scan(&size, &hashes)
	if errors.Is(err, sql.ErrNoRows) {
		return audit.Head{}, corrupted("the head of the audit log is missing", err)
	}
	if err != nil {
		return audit.Head{}, translate("reading the audit head", err)
	}
	return parseHead(size, hashes)
}

// AuditEntries gives up to limit entries from index from upward.
func (s *Store) AuditEntries(ctx context.Context, from uint64, limit int) ([]audit.Stored, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	return s.entries(ctx, from, limit)
}

func (s *Store) entries(ctx context.Context, from uint64, limit int) ([]audit.Stored, error) {
	if limit <= 0 || from > math.MaxInt64-uint64(limit) {
		return nil, nil
	}
	end := from + uint64(limit)
	found, err := s.stored(ctx, "reading audit entries", sqlEntries, int64(from), int64(end))
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
		var next sql.NullInt64
		if err := s.read.QueryRowContext(ctx, sqlNextEntry, int64(from)).Scan(&next); err != nil {
			return nil, translate("reading audit entries", err)
		}
		if next.Valid && uint64(next.Int64) != from {
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

func (s *Store) stored(ctx context.Context, action, query string, args ...any) (found []audit.Stored, err error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, translate(action, err)
	}
	defer func() { err = translate(action, errors.Join(err, rows.Close())) }()
	for rows.Next() {
		var idx int64
		var leaf []byte
		if err := rows.Scan(&idx, &leaf); err != nil {
			return nil, err
		}
		found = append(found, audit.Stored{Index: uint64(idx), Leaf: leaf})
	}
	return found, rows.Err()
}

// AuditSearch looks at up to 50,000 entries below before, newest first; see audit.Store.
func (s *Store) AuditSearch(ctx context.Context, f audit.Filter, before uint64, limit int) ([]audit.Stored, uint64, error) {
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	head, err := s.readHead(ctx)
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
	found, err := s.stored(ctx, "searching the audit log", sqlSearch,
		sql.Named("before", int64(before)), sql.Named("floor", int64(floor)),
		sql.Named("tenant", filterID(f.Tenant)), sql.Named("no_tenant", isNil(f.Tenant)),
		sql.Named("key", filterID(f.Key)), sql.Named("no_key", isNil(f.Key)),
		sql.Named("principal", f.Principal), sql.Named("action", f.Action), sql.Named("outcome", f.Outcome),
		sql.Named("from", bound(f.From, math.MinInt64)), sql.Named("to", bound(f.To, math.MaxInt64)),
		sql.Named("limit", limit))
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
func filterID(id *uuid.UUID) any {
	if id == nil || *id == uuid.Nil {
		return nil
	}
	return id[:]
}

func isNil(id *uuid.UUID) int64 {
	if id != nil && *id == uuid.Nil {
		return 1
	}
	return 0
}

// bound rounds up, so that From ≤ t < To holds for times that were themselves cut to microseconds.
func bound(t time.Time, none int64) int64 {
	if t.IsZero() {
		return none
	}
	return t.Add(time.Microsecond - 1).UnixMicro()
}

// AuditHashes gives n leaf hashes from index from, fewer only at the end of the log. They are computed from the leaves: storing them would cost more on every
// Commit than it saves here.
func (s *Store) AuditHashes(ctx context.Context, from uint64, n int) ([][32]byte, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	found, err := s.entries(ctx, from, n)
	if err != nil {
		return nil, err
	}
	hashes := make([][32]byte, len(found))
	for i := range found {
		hashes[i] = found[i].LeafHash()
	}
	return hashes, nil
}

// AuditNodes gives the hashes of the named nodes, in the order asked. They are read by one statement: making one ready takes longer than its reading.
func (s *Store) AuditNodes(ctx context.Context, nodes []audit.Node) (hashes [][32]byte, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	names := append(make([]byte, 0, 24*len(nodes)+2), '[')
	for i, n := range nodes {
		if i > 0 {
			names = append(names, ',')
		}
		names = strconv.AppendUint(append(names, '['), uint64(n.Level), 10)
		names = append(names, ',')
		names = strconv.AppendUint(names, min(n.Index, math.MaxInt64), 10)
		names = append(names, ']')
	}
	const action = "reading the audit tree"
	rows, err := s.read.QueryContext(ctx, sqlNodes, string(append(names, ']')))
	if err != nil {
		return nil, translate(action, err)
	}
	defer func() { err = translate(action, errors.Join(err, rows.Close())) }()
	hashes = make([][32]byte, 0, len(nodes))
	for rows.Next() {
		var hash sql.RawBytes // good until the next row
		if err := rows.Scan(&hash); err != nil {
			return nil, err
		}
		h, err := nodeOf(hash)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, h)
	}
	return hashes, rows.Err()
}

// nodeOf reads a stored hash; nil is that of a node that there is not.
func nodeOf(hash []byte) ([32]byte, error) {
	switch len(hash) {
	case 0:
		return [32]byte{}, fault.New(fault.EntryNotFound, "the audit tree has no such node")
	case sha256.Size:
		return [32]byte(hash), nil
	}
	return [32]byte{}, corrupted("a node of the audit tree is damaged", nil)
}

func (s *Store) node(ctx context.Context, level uint8, index uint64) ([32]byte, error) {
	var hash []byte
	err := s.read.QueryRowContext(ctx, sqlNode, int64(level), int64(min(index, math.MaxInt64))).Scan(&hash)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return [32]byte{}, translate("reading the audit tree", err)
	}
	return nodeOf(hash)
}

// checkHead compares the head with what it was made of: the leaves behind the last stored node, and the stored nodes. It
// reads at most 255 leaves and one node a level.
func (s *Store) checkHead(ctx context.Context) error {
	head, err := s.readHead(ctx)
	if err != nil {
		return err
	}
	var size int64
	if err := s.read.QueryRowContext(ctx, sqlLogSize).Scan(&size); err != nil {
		return translate("reading the audit log", err)
	}
	if uint64(size) != head.Size {
		return corrupted("the audit log does not end where its head says", nil)
	}
	const below = 1<<audit.NodeLevel - 1
	leaves, err := s.entries(ctx, head.Size&^below, below)
	if err != nil {
		return err
	}
	rest := head.Range
	for level := 63; level >= 0; level-- {
		if head.Size>>level&1 == 0 {
			continue
		}
		want := rest[0]
		rest = rest[1:]
		var have [32]byte
		if level >= audit.NodeLevel {
			have, err = s.node(ctx, uint8(level), head.Size>>level-1)
			if fault.Has(err, fault.EntryNotFound) {
				return corrupted("a node of the audit tree is missing", err)
			}
			if err != nil {
				return err
			}
		} else {
			have = subtree(leaves[:1<<level])
			leaves = leaves[1<<level:]
		}
		if have != want {
			return corrupted("the audit head does not fit the entries", nil)
		}
	}
	return nil
}

// subtree gives the hash of a complete subtree (RFC 6962 section 2.1).
func subtree(leaves []audit.Stored) [32]byte {
	if len(leaves) == 1 {
		return leaves[0].LeafHash()
	}
	half := len(leaves) / 2
	return tlog.NodeHash(subtree(leaves[:half]), subtree(leaves[half:]))
}

// SaveCheckpoint keeps a signed checkpoint. One for a smaller tree than that of the newest is dropped.
func (s *Store) SaveCheckpoint(ctx context.Context, size uint64, note []byte) error {
	return s.saveNote(ctx, sqlSaveCheckpoint, size, note)
}

// SaveCosigned keeps a cosigned checkpoint. One for a smaller tree than that of the newest is dropped.
func (s *Store) SaveCosigned(ctx context.Context, size uint64, note []byte) error {
	return s.saveNote(ctx, sqlSaveCosigned, size, note)
}

func (s *Store) saveNote(ctx context.Context, query string, size uint64, note []byte) error {
	if size > math.MaxInt64 {
		return fault.New(fault.Internal, "the checkpoint is of no tree that can be")
	}
	return s.write(ctx, func(w *writer) error {
		return w.transaction(ctx, func() error {
			_, err := w.exec(query, int64(size), note)
			return err
		})
	})
}

// Checkpoint gives the newest checkpoint, nil when there is none.
func (s *Store) Checkpoint(ctx context.Context) ([]byte, error) { return s.note(ctx, sqlCheckpoint) }

// Cosigned gives the newest cosigned checkpoint, nil when there is none.
func (s *Store) Cosigned(ctx context.Context) ([]byte, error) { return s.note(ctx, sqlCosigned) }

func (s *Store) note(ctx context.Context, query string) ([]byte, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	var note []byte
	err := s.read.QueryRowContext(ctx, query).Scan(&note)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return note, translate("reading the checkpoint", err)
}

const (
	sqlEntries   = "SELECT idx, leaf FROM audit_entries WHERE idx >= ? AND idx < ? ORDER BY idx"
	sqlNextEntry = "SELECT MIN(idx) FROM audit_entries WHERE idx >= ?"
	sqlSearch    = `SELECT idx, leaf FROM audit_entries
		WHERE idx < :before AND idx >= :floor
		AND (:tenant IS NULL OR tenant = :tenant) AND (:no_tenant = 0 OR tenant IS NULL)
		AND (:key IS NULL OR key_id = :key) AND (:no_key = 0 OR key_id IS NULL)
		AND (:principal = '' OR principal = :principal)
		AND (:action = '' OR action = :action)
		AND (:outcome = '' OR outcome = :outcome)
		AND at >= :from AND at < :to
		ORDER BY idx DESC LIMIT :limit`
	sqlNode = "SELECT hash FROM audit_nodes WHERE level = ? AND idx = ?"
	// The names of the nodes are one JSON text, [[level, idx], …]: a number of parameters would be a statement for each number.
	sqlNodes = `SELECT n.hash FROM json_each(?) AS w
		LEFT JOIN audit_nodes AS n ON n.level = w.value ->> 0 AND n.idx = w.value ->> 1
		ORDER BY w.key`
	sqlLogSize        = "SELECT COALESCE(MAX(idx) + 1, 0) FROM audit_entries"
	sqlSaveCheckpoint = `INSERT INTO audit_checkpoint (id, size, note) VALUES (1, ?, ?)
		ON CONFLICT (id) DO UPDATE SET size = excluded.size, note = excluded.note WHERE excluded.size >= audit_checkpoint.size`
	sqlCheckpoint   = "SELECT note FROM audit_checkpoint WHERE id = 1"
	sqlSaveCosigned = `INSERT INTO audit_cosigned (id, size, note) VALUES (1, ?, ?)
		ON CONFLICT (id) DO UPDATE SET size = excluded.size, note = excluded.note WHERE excluded.size >= audit_cosigned.size`
	sqlCosigned = "SELECT note FROM audit_cosigned WHERE id = 1"
)
