package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/keywright/keywright/audit/sink"
)

var _ sink.Cursors = (*Store)(nil)

// SinkCursor gives where a sink goes on; see sink.Cursors.
func (s *Store) SinkCursor(ctx context.Context, name string) (next uint64, err error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	err = s.read.QueryRowContext(ctx, sqlSinkCursor, name).Scan(&next)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return next, translate("reading the cursor of an audit sink", err)
}

// SaveSinkCursor keeps where a sink goes on; see sink.Cursors.
func (s *Store) SaveSinkCursor(ctx context.Context, name string, next uint64) error {
	return s.alter(ctx, func(w *writer) error {
		_, err := w.exec(sqlSaveSinkCursor, name, int64(next))
		return err
	})
}

const (
	sqlSinkCursor     = "SELECT next FROM audit_sinks WHERE name = ?"
	sqlSaveSinkCursor = `INSERT INTO audit_sinks (name, next) VALUES (?, ?)
		ON CONFLICT (name) DO UPDATE SET next = excluded.next WHERE excluded.next > audit_sinks.next`
)
