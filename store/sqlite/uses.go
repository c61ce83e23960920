package sqlite

import (
	"database/sql/driver"
	"math"

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

func (c *reserveUses) apply(w *writer) error {
	r := &c.r
	if r.Messages < 0 || r.Bytes < 0 {
		return fault.New(fault.Internal, "uses are not taken back")
	}
	n, err := w.exec(sqlReserveUses, r.Messages, r.Bytes, r.Key[:], int64(r.Version), room(r.MaxMessages, r.Messages), room(r.MaxBytes, r.Bytes))
	if err != nil {
		return err
	}
	if n == 0 {
		there, err := w.row(sqlVersionExists, make([]driver.Value, 1), r.Key[:], int64(r.Version))
		switch {
		case err != nil:
			return err
		case !there:
			return fault.New(fault.VersionNotFound, "the key has no such version")
		}
		return fault.New(fault.UsageLimit, "the key version has protected as much as it may: rotate the key")
	}
	at := r.At.UnixMicro()
	_, err = w.exec(sqlDueByUse, at, r.Key[:], int64(r.Version), at, room(r.RotateMessages, 0), room(r.RotateBytes, 0))
	return err
}

// room is what must have been counted at most, that n more are within the limit. 0 is no limit.
func room(limit, n int64) int64 {
	if limit == 0 {
		limit = math.MaxInt64
	}
	return limit - n
}

const (
	sqlReserveUses = `UPDATE key_versions SET messages = messages + ?, bytes = bytes + ?
		WHERE key_id = ? AND version = ? AND messages <= ? AND bytes <= ?`
	sqlVersionExists = "SELECT 1 FROM key_versions WHERE key_id = ? AND version = ?"
	sqlDueByUse      = `UPDATE keys SET due_at = ? WHERE id = ? AND primary_version = ? AND state = 'active' AND (due_at IS NULL OR due_at > ?)
		AND EXISTS (SELECT 1 FROM key_versions v WHERE v.key_id = keys.id AND v.version = keys.primary_version
			AND (v.messages >= COALESCE(keys.rotate_messages, ?) OR v.bytes >= COALESCE(keys.rotate_bytes, ?)))`
)
