package postgres

import (
	"context"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// reserveUses is a Change.
type reserveUses struct {
	prepared
	r keys.Reservation
}

// ReserveUses counts what a version is going to protect, up to what it may; see keys.Store.
func (s *Store) ReserveUses(r keys.Reservation) audit.Change { return &reserveUses{r: r} }

func (c *reserveUses) statements() ([]statement, error) {
	r := &c.r
	if r.Messages < 0 || r.Bytes < 0 {
		return nil, fault.New(fault.Internal, "uses are not taken back")
	}
	at := r.At.UnixMicro()
	return []statement{
		{
			query: sqlReserveUses,
			args: []any{r.Messages, r.Bytes, r.Key[:], int64(r.Version), room(r.MaxMessages, r.Messages),
				room(r.MaxBytes, r.Bytes)},
			nothing: func(ctx context.Context, conn *pgx.Conn) error {
				var n int64
				err := conn.QueryRow(ctx, sqlVersionExists, r.Key[:], int64(r.Version)).Scan(&n)
				switch {
				case err != nil:
					return err
				case n == 0:
					return fault.New(fault.VersionNotFound, "the key has no such version")
				}
				return fault.New(fault.UsageLimit, "the key version has protected as much as it may: rotate the key")
			},
		},
		{query: sqlDueByUse, args: []any{at, r.Key[:], int64(r.Version), room(r.RotateMessages, 0), room(r.RotateBytes, 0)}},
	}, nil
}

// room is what must have been counted at most, that n more are within the limit. 0 is no limit.
func room(limit, n int64) int64 {
	if limit == 0 {
		limit = math.MaxInt64
	}
	return limit - n
}

const (
	sqlReserveUses = `UPDATE key_versions SET messages = messages + $1, bytes = bytes + $2
		WHERE key_id = $3 AND version = $4 AND messages <= $5 AND bytes <= $6`
	sqlVersionExists = "SELECT COUNT(*) FROM key_versions WHERE key_id = $1 AND version = $2"
	sqlDueByUse      = `UPDATE keys SET due_at = $1 WHERE id = $2 AND primary_version = $3 AND state = 'active' AND (due_at IS NULL OR due_at > $1)
		AND EXISTS (SELECT 1 FROM key_versions v WHERE v.key_id = keys.id AND v.version = keys.primary_version
			AND (v.messages >= COALESCE(keys.rotate_messages, $4) OR v.bytes >= COALESCE(keys.rotate_bytes, $5)))`
)
