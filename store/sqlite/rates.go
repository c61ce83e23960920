package sqlite

import (
	"context"
	"database/sql/driver"
	"time"

	"github.com/keywright/keywright/ratelimit"
)

// TakeCells takes cells of a bucket; see ratelimit.Store. A service on this store is alone and has no need of it.
func (s *Store) TakeCells(ctx context.Context, b ratelimit.Bucket, interval, tolerance time.Duration, want int) (got int, ahead time.Duration, err error) {
	err = s.alter(ctx, func(w *writer) error {
		now := time.Now().UnixNano()
		filled := now
		v := make([]driver.Value, 1)
		found, err := w.row(sqlFilled, v, string(b.Kind), b.ID[:])
		if err != nil {
			return err
		}
		if found {
			at, ok := v[0].(int64)
			if !ok {
				return corrupted("a rate in the store is damaged", nil)
			}
			// What is ahead of the clock by more than the tolerance is from another rate, and counts as the tolerance.
			filled = min(max(at, now), now+tolerance.Nanoseconds())
		}
		granted := min(int64(want), (now+tolerance.Nanoseconds()-filled)/interval.Nanoseconds())
		filled += granted * interval.Nanoseconds()
		got, ahead = int(granted), time.Duration(filled-now)
		_, err = w.exec(sqlSaveFilled, string(b.Kind), b.ID[:], filled, granted)
		return err
	})
	return got, ahead, err
}

// PruneCells forgets the buckets that are full again; see ratelimit.Store.
func (s *Store) PruneCells(ctx context.Context) error {
	return s.alter(ctx, func(w *writer) error {
		_, err := w.exec("DELETE FROM rate_buckets WHERE filled < ?", time.Now().UnixNano())
		return err
	})
}

const (
	sqlFilled     = "SELECT filled FROM rate_buckets WHERE kind = ? AND id = ?"
	sqlSaveFilled = `INSERT INTO rate_buckets (kind, id, filled, got) VALUES (?, ?, ?, ?)
		ON CONFLICT (kind, id) DO UPDATE SET filled = excluded.filled, got = excluded.got`
)
