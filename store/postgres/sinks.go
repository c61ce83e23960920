package postgres

import (
	"context"

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
	return s.write(ctx, "keeping the cursor of an audit sink", sqlSaveSinkCursor, name, int64(next))
}

const (
	sqlSinkCursor     = "SELECT next FROM audit_sinks WHERE name = $1"
	sqlSaveSinkCursor = `INSERT INTO audit_sinks (name, next) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET next = excluded.next WHERE excluded.next > audit_sinks.next`
)
