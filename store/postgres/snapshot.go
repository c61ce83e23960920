package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/store/migrations"
)

var _ backup.Source = (*Store)(nil)

// Snapshot holds on to what is committed now, on a connection of its own beside Options.Connections; see backup.Source. Commits go on meanwhile.
// While it is open the server keeps what others delete.
func (s *Store) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	snap, err := s.openSnapshot(ctx)
	if err != nil {
		s.leave()
		return nil, translate(ctx, "taking a snapshot", err)
	}
	snap.closed = s.leave
	return snap, nil
}

// OpenSource opens the store at a URI for a copy of it, and lets nobody commit until the snapshot is closed. Nothing is changed in it: not even its
// schema is brought up to date, which may be older than this release's. Where a service runs on it the error is StoreUnavailable.
func OpenSource(ctx context.Context, uri string, o Options) (backup.Snapshot, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	s := &Store{opts: o.withDefaults(), turn: make(chan struct{}, 1)}
	var err error
	if s.config, err = parse(uri, s.opts); err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, translate(ctx, "opening the store", err)
	}
	if err := s.lockSource(ctx, conn); err != nil {
		s.hangUp(conn)
		return nil, translate(ctx, "locking the store", err)
	}
	snap, err := s.openSnapshot(ctx)
	if err != nil {
		s.hangUp(conn)
		return nil, translate(ctx, "opening the store", err)
	}
	snap.closed = func() { s.hangUp(conn) }
	return snap, nil
}

// lockSource keeps everybody from committing as long as the connection lives: commits take the row of the audit head.
func (s *Store) lockSource(ctx context.Context, conn *pgx.Conn) error {
	var there, nodes bool
	if err := conn.QueryRow(ctx, sqlStoreThere, s.opts.Schema).Scan(&there, &nodes); err != nil {
		return err
	}
	if !there {
		return unavailable("there is no store in this schema", nil)
	}
	for _, query := range []string{sqlUnbounded, "BEGIN", sqlHoldHead} {
		if _, err := conn.Exec(ctx, query); err != nil {
			return err
		}
	}
	if !nodes {
		return nil
	}
	var running int
	if err := conn.QueryRow(ctx, sqlRunning).Scan(&running); err != nil {
		return err
	}
	if running > 0 {
		return unavailable("a service runs on the store, or has ended without saying so less than a minute ago: stop it first", nil)
	}
	return nil
}

// table is a table of a backup as this store has it.
type table struct {
	backup.Table
	types []string // of the columns
	order []string // of its rows
}

// snapshot is a read-only transaction on a connection of its own.
type snapshot struct {
	store  *Store
	conn   *pgx.Conn
	schema int64
	tables []table
	closed func()
}

func (s *Store) openSnapshot(ctx context.Context) (*snapshot, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	snap := &snapshot{store: s, conn: conn}
	if err := snap.begin(ctx); err != nil {
		s.hangUp(conn)
		return nil, err
	}
	return snap, nil
}

func (s *snapshot) begin(ctx context.Context) error {
	for _, query := range []string{sqlUnbounded, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"} {
		if _, err := s.conn.Exec(ctx, query); err != nil {
			return err
		}
	}
	// The first read takes the snapshot.
	if err := s.conn.QueryRow(ctx, sqlSchemaVersion).Scan(&s.schema); err != nil {
		return err
	}
	newest, err := migrations.Newest()
	if err != nil {
		return err
	}
	if s.schema < 1 || s.schema > newest {
		return unavailable(fmt.Sprintf("the store is of schema %d, this release knows %d", s.schema, newest), nil)
	}
	s.tables, err = tablesOf(ctx, s.conn, s.store.opts.Schema)
	return err
}

// tablesOf gives the tables of a backup. One that nobody has decided about is an error: it would be lost without a word.
func tablesOf(ctx context.Context, conn *pgx.Conn, schema string) ([]table, error) {
	rows, err := conn.Query(ctx, sqlColumns, schema)
	if err != nil {
		return nil, err
	}
	found := map[string]*table{}
	var name, column, kind string
	var key bool
	_, err = pgx.ForEachRow(rows, []any{&name, &column, &kind, &key}, func() error {
		t := found[name]
		if t == nil {
			t = &table{Table: backup.Table{Name: name}}
			found[name] = t
		}
		c, order := backup.Column{Name: column}, column
		switch kind {
		case "int8", "int2", "int4":
			c.Kind = backup.Int
		case "text":
			c.Kind, order = backup.Text, column+` COLLATE "C"`
		case "bytea":
			c.Kind = backup.Bytes
		}
		t.Columns, t.types = append(t.Columns, c), append(t.types, kind)
		if key {
			t.order = append(t.order, order)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var tables []table
	for _, known := range migrations.Tables() {
		t := found[known.Name]
		delete(found, known.Name)
		if t == nil || known.Without != "" {
			continue
		}
		for _, c := range t.Columns {
			if c.Kind == 0 {
				return nil, corrupted("column "+c.Name+" of table "+t.Name+" is of a kind that no backup has", nil)
			}
		}
		if len(t.order) == 0 {
			return nil, corrupted("table "+t.Name+" has no primary key", nil)
		}
		tables = append(tables, *t)
	}
	for name := range found {
		return nil, corrupted("table "+name+" is not one of this program's", nil)
	}
	return tables, nil
}

func (s *snapshot) Schema() int64 { return s.schema }

func (s *snapshot) Tables() []backup.Table { return plain(s.tables) }

func plain(tables []table) []backup.Table {
	out := make([]backup.Table, len(tables))
	for i := range tables {
		out[i] = tables[i].Table
	}
	return out
}

func (s *snapshot) Count(ctx context.Context, t backup.Table) (n int64, err error) {
	err = s.conn.QueryRow(ctx, "SELECT COUNT(*) FROM "+t.Name).Scan(&n)
	return n, translate(ctx, "counting rows", err)
}

// Rows streams the table: the server is read no faster than the rows are taken.
func (s *snapshot) Rows(ctx context.Context, t backup.Table) (backup.Rows, error) {
	for i := range s.tables {
		if s.tables[i].Name != t.Name {
			continue
		}
		names := make([]string, len(t.Columns))
		for j, c := range t.Columns {
			names[j] = c.Name
		}
		// The names are those of the schema.
		rows, err := s.conn.Query(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+t.Name+" ORDER BY "+strings.Join(s.tables[i].order, ", "))
		if err != nil {
			return nil, translate(ctx, "reading a table", err)
		}
		return &tableRows{ctx: ctx, t: &s.tables[i], rows: rows, out: make([]backup.Value, len(names))}, nil
	}
	return nil, corrupted("the store has no table "+t.Name, nil)
}

// tableRows are the rows of one table.
type tableRows struct {
	ctx  context.Context //nolint:containedctx // of the reading of one table
	t    *table
	rows pgx.Rows
	out  []backup.Value
}

func (r *tableRows) Next() ([]backup.Value, error) {
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return nil, translate(r.ctx, "reading a table", err)
		}
		return nil, io.EOF
	}
	for i, raw := range r.rows.RawValues() {
		var ok bool
		if r.out[i], ok = portable(raw, r.t.Columns[i].Kind, r.t.types[i], r.rows.FieldDescriptions()[i].Format); !ok {
			return nil, corrupted("column "+r.t.Columns[i].Name+" of table "+r.t.Name+" holds a value of another kind", nil)
		}
	}
	return r.out, nil
}

// portable gives a value as the server sent it, in the binary form of its type.
func portable(raw []byte, kind backup.Kind, name string, format int16) (v backup.Value, ok bool) {
	if raw == nil {
		return backup.Value{Null: true}, true
	}
	if kind != backup.Int {
		return backup.Value{Bytes: raw}, kind == backup.Text || format == pgx.BinaryFormatCode
	}
	size := map[string]int{"int2": 2, "int4": 4, "int8": 8}[name]
	if format != pgx.BinaryFormatCode || len(raw) != size {
		return v, false
	}
	v.Int = int64(int8(raw[0])) // with its sign
	for _, b := range raw[1:] {
		v.Int = v.Int<<8 | int64(b)
	}
	return v, true
}

// Close ends the snapshot with its connection, also in the middle of a table.
func (s *snapshot) Close() error {
	s.store.hangUp(s.conn)
	s.closed()
	return nil
}

var errNotOpened = errors.New("a store that was not opened cannot be kept")

const (
	// A snapshot is read as fast as somebody far away takes it. Who holds it bounds each write to them.
	sqlUnbounded = "SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '10s', false), set_config('idle_in_transaction_session_timeout', '0', false)"

	sqlStoreThere = `SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'audit_head'),
		EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'nodes')`
	sqlHoldHead = "SELECT size FROM audit_head WHERE id = 1 FOR UPDATE"
	sqlRunning  = "SELECT COUNT(*) FROM nodes WHERE seen_at > (EXTRACT(EPOCH FROM now()) - 60) * 1000000"
	sqlColumns  = `SELECT c.relname, a.attname, t.typname, COALESCE(a.attnum = ANY (i.indkey), false)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		JOIN pg_type t ON t.oid = a.atttypid
		LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') ORDER BY c.relname, a.attnum`
)
