package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

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
		_, err := w.exec(sqlSaveSinkCursor, name, int64(next), time.Now().UnixMicro())
		return err
	})
}

// SinkCursors gives where all sinks go on; see sink.Cursors.
func (s *Store) SinkCursors(ctx context.Context) (all []sink.Cursor, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	const action = "reading the cursors of audit sinks"
	rows, err := s.read.QueryContext(ctx, sqlSinkCursors)
	if err != nil {
		return nil, translate(action, err)
	}
	defer func() { err = translate(action, errors.Join(err, rows.Close())) }()
	for rows.Next() {
		var c sink.Cursor
		var said sql.NullInt64
		if err := rows.Scan(&c.Name, &c.Next, &said); err != nil {
			return nil, err
		}
		if said.Valid {
			c.SaidAt = time.UnixMicro(said.Int64).UTC()
		}
		all = append(all, c)
	}
	return all, rows.Err()
}

const (
	sqlSinkCursor     = "SELECT next FROM audit_sinks WHERE name = ?"
	sqlSinkCursors    = "SELECT name, next, said_at FROM audit_sinks ORDER BY name"
	sqlSaveSinkCursor = `INSERT INTO audit_sinks (name, next, said_at) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET next = MAX(excluded.next, audit_sinks.next), said_at = excluded.said_at`
)
