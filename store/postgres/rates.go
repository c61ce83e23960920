package postgres

import (
	"context"
	"time"

	"github.com/keywright/keywright/ratelimit"
)

// TakeCells takes cells of a bucket in one statement; see ratelimit.Store.
func (s *Store) TakeCells(ctx context.Context, b ratelimit.Bucket, interval, tolerance time.Duration, want int) (got int, ahead time.Duration, err error) {
	err = s.reading(ctx, "taking cells of a rate", func(c conn) error {
		return c.QueryRow(ctx, sqlTakeCells, string(b.Kind), b.ID[:], interval.Nanoseconds(), tolerance.Nanoseconds(), want).Scan(&got, &ahead)
	})
	return got, max(ahead, 0), err
}

// PruneCells forgets the buckets that are full again; see ratelimit.Store.
func (s *Store) PruneCells(ctx context.Context) error {
	return s.change(ctx, "forgetting rates", "DELETE FROM rate_buckets WHERE filled < "+sqlNanos)
}

const (
	sqlNanos = sqlNow + " * 1000"
	// What is ahead of the clock by far more than the tolerance is from another rate, and counts as the tolerance. A little more is what a statement finds that began
	// before another and came behind it, as the clock is that of its beginning: it takes nothing, and gives nothing back.
	sqlAhead     = "CASE WHEN rate_buckets.filled > " + sqlNanos + " + $4::bigint + 10000000000 THEN " + sqlNanos + " + $4::bigint ELSE GREATEST(rate_buckets.filled, " + sqlNanos + ") END"
	sqlGranted   = "GREATEST(0, LEAST($5::bigint, (" + sqlNanos + " + $4::bigint - " + sqlAhead + ") / $3::bigint))"
	sqlTakeCells = `INSERT INTO rate_buckets (kind, id, filled, got)
		VALUES ($1, $2, ` + sqlNanos + ` + LEAST($5::bigint, $4::bigint / $3::bigint) * $3::bigint, LEAST($5::bigint, $4::bigint / $3::bigint))
		ON CONFLICT (kind, id) DO UPDATE SET got = ` + sqlGranted + `, filled = ` + sqlAhead + ` + ` + sqlGranted + ` * $3::bigint
		RETURNING got, filled - ` + sqlNanos
)
