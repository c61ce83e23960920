package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

// tile is how many hashes of pruned entries a row has.
const tile = 1 << audit.NodeLevel

// AuditKept gives the first entry that is not pruned, and its time; see audit.Store.
func (s *Store) AuditKept(ctx context.Context) (uint64, time.Time, error) {
	if err := s.enter(ctx); err != nil {
		return 0, time.Time{}, err
	}
	defer s.leave()
	for {
		first, err := s.kept(ctx)
		if err != nil {
			return 0, time.Time{}, err
		}
		var at int64
		err = s.read.QueryRowContext(ctx, sqlEntryTime, int64(first)).Scan(&at)
		if err == nil {
			return first, time.UnixMicro(at).UTC(), nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return 0, time.Time{}, translate("reading the audit log", err)
		}
		// It is the end of the log, or was pruned meanwhile.
		if again, err := s.kept(ctx); err != nil || again == first {
			return first, time.Time{}, err
		}
	}
}

func (s *Store) kept(ctx context.Context) (uint64, error) {
	var n, size int64
	err := s.read.QueryRowContext(ctx, sqlKept).Scan(&n, &size)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, translate("reading the audit log", err)
	}
	return keptAfter(n, size)
}

func keptAfter(n, size int64) (uint64, error) {
	if n < 0 || size <= 0 || size > tile*sha256.Size || size%sha256.Size != 0 {
		return 0, corrupted("the hashes of pruned audit entries are damaged", nil)
	}
	return uint64(n)*tile + uint64(size)/sha256.Size, nil
}

// pruned gives the hashes of entries from ≤ i < end that are pruned.
func (s *Store) pruned(ctx context.Context, from, end uint64) (found []audit.Stored, err error) {
	rows, err := s.read.QueryContext(ctx, sqlPruned, int64(from/tile), int64((end-1)/tile))
	if err != nil {
		return nil, translate("reading audit entries", err)
	}
	defer func() { err = translate("reading audit entries", errors.Join(err, rows.Close())) }()
	next := from
	for rows.Next() {
		var n int64
		var hashes []byte
		if err := rows.Scan(&n, &hashes); err != nil {
			return nil, err
		}
		stop, err := keptAfter(n, int64(len(hashes)))
		if err != nil {
			return nil, err
		}
		if uint64(n) != next/tile {
			return nil, corrupted("hashes of pruned audit entries are missing from the store", nil)
		}
		for ; next < min(stop, end); next++ {
			found = append(found, audit.Stored{Index: next, Hash: [32]byte(hashes[next%tile*sha256.Size:])})
		}
	}
	return found, rows.Err()
}

// PruneAudit takes the bodies of the first entries; see audit.Store. SQLite overwrites them in the file, whose pages are used again.
func (s *Store) PruneAudit(ctx context.Context, first uint64, hashes [][32]byte) error {
	if len(hashes) == 0 || first > math.MaxInt64/2 {
		return fault.New(fault.Internal, "there is nothing to prune in the audit log")
	}
	return s.write(ctx, func(w *writer) error {
		err := w.transaction(ctx, func() error { return w.prune(first, hashes) })
		if err == nil {
			s.checkpoints.wrote(len(hashes) * pageSize / 8) // some hundred bytes each, overwritten
		}
		return err
	})
}

func (w *writer) prune(first uint64, hashes [][32]byte) error {
	end := first + uint64(len(hashes))
	row := make([]driver.Value, 2)
	found, err := w.row(sqlKept, row)
	if err != nil {
		return err
	}
	kept := uint64(0)
	if found {
		n, _ := row[0].(int64)
		size, _ := row[1].(int64) // a NULL is refused as 0 is
		if kept, err = keptAfter(n, size); err != nil {
			return err
		}
	}
	var size int64
	if err := w.one(sqlLogSize, &size); err != nil {
		return err
	}
	if kept != first || end >= uint64(size) {
		return fault.New(fault.Conflict, "these are not the first entries of the audit log that are kept, or there are none behind them")
	}
	for len(hashes) > 0 {
		n := first / tile
		var have []byte
		if first%tile > 0 {
			row := make([]driver.Value, 1)
			if _, err := w.row(sqlPrunedTile, row, int64(n)); err != nil {
				return err
			}
			have, _ = row[0].([]byte) // sqlKept has looked at its size
		}
		some := hashes[:min(len(hashes), int(tile-first%tile))]
		if _, err := w.exec(sqlSavePruned, int64(n), append(have[:len(have):len(have)], joinHashes(some)...)); err != nil {
			return err
		}
		first, hashes = first+uint64(len(some)), hashes[len(some):]
	}
	gone, err := w.exec(sqlDeleteEntries, int64(kept), int64(end))
	if err == nil && uint64(gone) != end-kept {
		return corrupted("an audit entry is missing from the store", nil)
	}
	return err
}

const (
	sqlEntryTime     = "SELECT at FROM audit_entries WHERE idx = ?"
	sqlKept          = "SELECT tile, length(hashes) FROM audit_pruned ORDER BY tile DESC LIMIT 1"
	sqlPruned        = "SELECT tile, hashes FROM audit_pruned WHERE tile >= ? AND tile <= ? ORDER BY tile"
	sqlPrunedTile    = "SELECT hashes FROM audit_pruned WHERE tile = ?"
	sqlSavePruned    = "INSERT INTO audit_pruned (tile, hashes) VALUES (?, ?) ON CONFLICT (tile) DO UPDATE SET hashes = excluded.hashes"
	sqlDeleteEntries = "DELETE FROM audit_entries WHERE idx >= ? AND idx < ?"
)
