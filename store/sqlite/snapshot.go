package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mattn/go-sqlite3"

	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/store/migrations"
)

var _ backup.Source = (*Store)(nil)

// Snapshot holds on to what is committed now, on a connection of its own; see backup.Source. Commits go on meanwhile, but the write-ahead log
// cannot be begun anew until the snapshot is closed: one that makes it grow beyond Options.MaxSnapshotLog ends with StoreUnavailable.
func (s *Store) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	snap, err := openSnapshot(s.path, s.opts)
	if err != nil {
		s.leave()
		return nil, translate("taking a snapshot", err)
	}
	snap.closed = func() error { s.leave(); return nil }
	return snap, nil
}

// OpenSource opens the store at path for a copy of it, and keeps every service out until the snapshot is closed. Nothing is changed in it: not
// even its schema is brought up to date, which may be older than this release's. A store that is not there is StoreUnavailable.
func OpenSource(ctx context.Context, path string) (backup.Snapshot, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, unavailable("the path of the store cannot be resolved", err)
	}
	if _, err := os.Stat(abs); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, unavailable("there is no store at this path", err)
		}
		return nil, translate("opening the store", err)
	}
	lock, err := lockFile(abs + ".lock")
	if err != nil {
		return nil, err
	}
	snap, err := openSnapshot(abs, Options{}.withDefaults())
	if err != nil {
		return nil, errors.Join(translate("opening the store", err), lock.Close())
	}
	snap.closed = lock.Close
	return snap, nil
}

// snapshot is a read transaction on a connection of its own.
type snapshot struct {
	w      *writer // of statements; the connection can only read
	log    string  // path of the write-ahead log
	limit  int64   // bytes that it may reach
	schema int64
	tables []table
	open   *tableRows // the rows that were begun last
	closed func() error
}

// table is a table of a backup as this store has it.
type table struct {
	backup.Table
	order []string // the columns of the primary key
}

func openSnapshot(path string, o Options) (s *snapshot, err error) {
	conn, err := connect(&sqlite3.SQLiteDriver{}, dsn(path), readPragmas(o))
	if err != nil {
		return nil, err
	}
	s = &snapshot{w: &writer{conn: conn, stmts: map[string]*sqlite3.SQLiteStmt{}}, log: path + "-wal", limit: int64(o.MaxSnapshotLog) << 20}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.w.close())
		}
	}()
	var id int64
	if err := s.w.one("PRAGMA application_id", &id); err != nil {
		return nil, err
	}
	if id != applicationID {
		return nil, corrupted("the file is a database, but not a Keywright store", nil)
	}
	if err := s.w.run("BEGIN"); err != nil {
		return nil, err
	}
	// The first read takes the snapshot.
	if err := s.w.one("SELECT COALESCE(MAX(version_id), 0) FROM "+versionTable, &s.schema); err != nil {
		return nil, err
	}
	newest, err := migrations.Newest()
	if err != nil {
		return nil, err
	}
	if s.schema < 1 || s.schema > newest {
		return nil, unavailable(fmt.Sprintf("the store is of schema %d, this release knows %d", s.schema, newest), nil)
	}
	s.tables, err = tablesOf(s.w)
	return s, err
}

// tablesOf gives the tables of a backup. One that nobody has decided about is an error: it would be lost without a word.
func tablesOf(w *writer) ([]table, error) {
	found := map[string]*table{}
	err := w.each(sqlTables, func(row []driver.Value) error {
		name, column, kind, key := text(row[0]), text(row[1]), text(row[2]), row[3]
		t := found[name]
		if t == nil {
			t = &table{Table: backup.Table{Name: name}}
			found[name] = t
		}
		c := backup.Column{Name: column}
		switch strings.ToUpper(kind) {
		case "BIGINT", "SMALLINT", "INTEGER":
			c.Kind = backup.Int
		case "TEXT":
			c.Kind = backup.Text
		case "BYTEA":
			c.Kind = backup.Bytes
		}
		t.Columns = append(t.Columns, c)
		if key != int64(0) {
			t.order = append(t.order, column)
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

func text(v driver.Value) string {
	s, _ := v.(string) // of a catalogue column that is text
	return s
}

// each runs f over the rows of a query.
func (w *writer) each(query string, f func([]driver.Value) error) error {
	rows, err := w.conn.Query(query, nil)
	if err != nil {
		return err
	}
	row := make([]driver.Value, len(rows.Columns()))
	for {
		if err = rows.Next(row); err != nil {
			break
		}
		if err = f(row); err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, rows.Close())
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
	if err := ended(ctx); err != nil {
		return 0, err
	}
	err = s.w.one("SELECT COUNT(*) FROM "+t.Name, &n)
	return n, translate("counting rows", err)
}

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
		rows, err := s.w.conn.Query("SELECT "+strings.Join(names, ", ")+" FROM "+t.Name+" ORDER BY "+strings.Join(s.tables[i].order, ", "), nil)
		if err != nil {
			return nil, translate("reading a table", err)
		}
		s.open = &tableRows{ctx: ctx, s: s, t: &s.tables[i].Table, rows: rows, in: make([]driver.Value, len(names)), out: make([]backup.Value, len(names))}
		return s.open, nil
	}
	return nil, corrupted("the store has no table "+t.Name, nil)
}

// tableRows are the rows of one table.
type tableRows struct {
	ctx  context.Context //nolint:containedctx // of the reading of one table
	s    *snapshot
	t    *backup.Table
	rows driver.Rows // nil when it has ended
	in   []driver.Value
	out  []backup.Value
	read int
}

// lookEvery is after how many rows it is looked whether the write-ahead log has grown too long.
const lookEvery = 4096

func (r *tableRows) Next() ([]backup.Value, error) {
	if r.rows == nil {
		return nil, io.EOF
	}
	err := ended(r.ctx)
	if err == nil && r.read%lookEvery == 0 {
		err = r.s.look()
	}
	if err == nil {
		err = r.rows.Next(r.in)
	}
	if err != nil {
		if closed := r.rows.Close(); !errors.Is(err, io.EOF) || closed != nil {
			err = translate("reading a table", errors.Join(err, closed))
		}
		r.rows = nil
		return nil, err
	}
	r.read++
	for i, v := range r.in {
		if r.out[i], err = portable(v, r.t.Columns[i].Kind); err != nil {
			return nil, corrupted("column "+r.t.Columns[i].Name+" of table "+r.t.Name+" holds a value of another kind", nil)
		}
	}
	return r.out, nil
}

var errKind = errors.New("a value of another kind")

// portable gives a value of the driver as one of its column's kind: SQLite would keep any in any column.
func portable(v driver.Value, kind backup.Kind) (backup.Value, error) {
	switch v := v.(type) {
	case nil:
		return backup.Value{Null: true}, nil
	case int64:
		if kind == backup.Int {
			return backup.Value{Int: v}, nil
		}
	case string:
		if kind == backup.Text {
			return backup.Value{Bytes: []byte(v)}, nil
		}
	case []byte:
		if kind == backup.Bytes {
			return backup.Value{Bytes: v}, nil
		}
	}
	return backup.Value{}, errKind
}

// look ends a snapshot that keeps the write-ahead log from being begun anew for too long.
func (s *snapshot) look() error {
	st, err := os.Stat(s.log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Size() > s.limit {
		return unavailable("the snapshot was held for too long: the write-ahead log has reached its limit", nil)
	}
	return nil
}

func (s *snapshot) Close() error {
	var err error
	if s.open != nil && s.open.rows != nil {
		err = s.open.rows.Close() // left in the middle: else it would hold on to the snapshot
		s.open.rows = nil
	}
	err = errors.Join(err, s.w.close(), s.closed())
	return translate("ending a snapshot", err)
}

const sqlTables = `SELECT m.name, c.name, c.type, c.pk FROM sqlite_schema m, pragma_table_info(m.name) c
	WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY m.name, c.cid`
