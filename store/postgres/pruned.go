package postgres

import (
	"context"
	"crypto/sha256"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

// tile is how many hashes of pruned entries a row has.
const tile = 1 << audit.NodeLevel

// AuditKept gives the first entry that is not pruned, and its time; see audit.Store.
func (s *Store) AuditKept(ctx context.Context) (uint64, time.Time, error) {
	for {
		first, err := s.kept(ctx)
		if err != nil {
			return 0, time.Time{}, err
		}
		var at int64
		err = s.row(ctx, "reading the audit log", sqlEntryTime, []any{&at}, int64(first))
		if err == nil {
			return first, time.UnixMicro(at).UTC(), nil
		}
		if !none(err) {
			return 0, time.Time{}, err
		}
		// It is the end of the log, or was pruned meanwhile.
		if again, err := s.kept(ctx); err != nil || again == first {
			return first, time.Time{}, err
		}
	}
}

func (s *Store) kept(ctx context.Context) (uint64, error) {
	var n, size int64
	err := s.row(ctx, "reading the audit log", sqlKept, []any{&n, &size})
	if none(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return keptAfter(n, size)
}

func keptAfter(n, size int64) (uint64, error) {
	if n < 0 || size <= 0 || size > tile*sha256.Size || size%sha256.Size != 0 {
		return 0, corrupted("the hashes of pruned audit entries are damaged", nil)
	}
	return uint64(n)*tile + uint64(size)/sha256.Size, nil
}

// prunedTile is a row of hashes.
type prunedTile struct {
	n      int64
	hashes []byte
}

// pruned gives the hashes of entries from ≤ i < end that are pruned.
func (s *Store) pruned(ctx context.Context, from, end uint64) ([]audit.Stored, error) {
	rows, err := list(ctx, s, "reading audit entries", func(row pgx.CollectableRow) (t prunedTile, err error) {
		err = row.Scan(&t.n, &t.hashes)
		return t, err
	}, sqlPruned, int64(from/tile), int64((end-1)/tile))
	if err != nil {
		return nil, err
	}
	var found []audit.Stored
	next := from
	for _, t := range rows {
		stop, err := keptAfter(t.n, int64(len(t.hashes)))
		if err != nil {
			return nil, err
		}
		if uint64(t.n) != next/tile {
			return nil, corrupted("hashes of pruned audit entries are missing from the store", nil)
		}
		for ; next < min(stop, end); next++ {
			found = append(found, audit.Stored{Index: next, Hash: [32]byte(t.hashes[next%tile*sha256.Size:])})
		}
	}
	return found, nil
}

// PruneAudit takes the bodies of the first entries; see audit.Store. The space is the table's again once it has been vacuumed. When the connection
// breaks at the end the error is StoreUnavailable although it may have been done.
func (s *Store) PruneAudit(ctx context.Context, first uint64, hashes [][32]byte) error {
	if len(hashes) == 0 || first > math.MaxInt64/2 {
		return fault.New(fault.Internal, "there is nothing to prune in the audit log")
	}
	const action = "pruning the audit log"
	return s.hold(ctx, func() error {
		w, err := s.writer(ctx)
		if err != nil {
			return translate(ctx, action, err)
		}
		return translate(ctx, action, pgx.BeginFunc(ctx, w.conn, func(tx pgx.Tx) error { return prune(ctx, tx, first, hashes) }))
	})
}

func prune(ctx context.Context, tx pgx.Tx, first uint64, hashes [][32]byte) error {
	end, kept := first+uint64(len(hashes)), uint64(0)
	var n, size int64
	switch err := tx.QueryRow(ctx, sqlKept).Scan(&n, &size); {
	case err == nil:
		if kept, err = keptAfter(n, size); err != nil {
			return err
		}
	case !none(err):
		return err
	}
	var head int64
	if err := tx.QueryRow(ctx, sqlHeadSize).Scan(&head); err != nil {
		return err
	}
	if kept != first || end >= uint64(head) {
		return fault.New(fault.Conflict, "these are not the first entries of the audit log that are kept, or there are none behind them")
	}
	// First: who has begun the same beside this one waits here, and finds them gone.
	gone, err := tx.Exec(ctx, sqlDeleteEntries, int64(first), int64(end))
	if err != nil {
		return err
	}
	if n := gone.RowsAffected(); n == 0 {
		return fault.New(fault.Conflict, "somebody else has pruned these entries of the audit log")
	} else if uint64(n) != end-first {
		return corrupted("an audit entry is missing from the store", nil)
	}
	for len(hashes) > 0 {
		var have []byte
		if first%tile > 0 {
			if err := tx.QueryRow(ctx, sqlPrunedTile, int64(first/tile)).Scan(&have); err != nil {
				return err
			}
		}
		some := hashes[:min(len(hashes), int(tile-first%tile))]
		if _, err := tx.Exec(ctx, sqlSavePruned, int64(first/tile), append(have, joinHashes(some)...)); err != nil {
			return err
		}
		first, hashes = first+uint64(len(some)), hashes[len(some):]
	}
	return nil
}

const (
	sqlHeadSize      = "SELECT size FROM audit_head WHERE id = 1"
	sqlEntryTime     = "SELECT at FROM audit_entries WHERE idx = $1"
	sqlKept          = "SELECT tile, octet_length(hashes) FROM audit_pruned ORDER BY tile DESC LIMIT 1"
	sqlPruned        = "SELECT tile, hashes FROM audit_pruned WHERE tile >= $1 AND tile <= $2 ORDER BY tile"
	sqlPrunedTile    = "SELECT hashes FROM audit_pruned WHERE tile = $1"
	sqlSavePruned    = "INSERT INTO audit_pruned (tile, hashes) VALUES ($1, $2) ON CONFLICT (tile) DO UPDATE SET hashes = excluded.hashes"
	sqlDeleteEntries = "DELETE FROM audit_entries WHERE idx >= $1 AND idx < $2"
)
