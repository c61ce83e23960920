package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit/sink"
)

var _ sink.Cursors = (*Store)(nil)

// SinkCursor gives where a sink goes on; see sink.Cursors.
func (s *Store) SinkCursor(ctx context.Context, name string) (uint64, error) {
	var next int64
	err := s.row(ctx, "reading the cursor of an audit sink", sqlSinkCursor, []any{&next}, name)
	if none(err) {
		return 0, nil
	}
	return uint64(next), err
}

// SaveSinkCursor keeps where a sink goes on; see sink.Cursors. It may as well be carried out twice.
func (s *Store) SaveSinkCursor(ctx context.Context, name string, next uint64) error {
	return s.write(ctx, "keeping the cursor of an audit sink", sqlSaveSinkCursor, name, int64(next), time.Now().UnixMicro())
}

// SinkCursors gives where all sinks go on; see sink.Cursors.
func (s *Store) SinkCursors(ctx context.Context) ([]sink.Cursor, error) {
	return list(ctx, s, "reading the cursors of audit sinks", func(row pgx.CollectableRow) (c sink.Cursor, err error) {
		var next int64
		var said *int64
		err = row.Scan(&c.Name, &next, &said)
		c.Next = uint64(next)
		if said != nil {
			c.SaidAt = time.UnixMicro(*said).UTC()
		}
		return c, err
	}, sqlSinkCursors)
}

const (
	sqlSinkCursor     = "SELECT next FROM audit_sinks WHERE name = $1"
	sqlSinkCursors    = "SELECT name, next, said_at FROM audit_sinks ORDER BY name"
	sqlSaveSinkCursor = `INSERT INTO audit_sinks (name, next, said_at) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET next = GREATEST(excluded.next, audit_sinks.next), said_at = excluded.said_at`
)
