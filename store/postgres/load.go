package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/store/migrations"
)

var _ backup.Target = (*Loader)(nil)

// Loader fills a new store. Everything happens in a schema of another name, whose tables move to their own only with Commit, in one transaction: a
// store that was half filled is never seen. Its role must be allowed to make schemas in the database. It is for one goroutine.
type Loader struct {
	uri    string
	target *Store // with no connection but ours: for its configuration
	temp   *Store // the same, in the schema of the loading
	admin  *pgx.Conn
	mine   bool      // the lock of the schema is ours, and so is what is loaded
	conn   *pgx.Conn // in the schema of the loading
	tables []table
	store  *Store // what Open gave
}

// NewLoader begins a new store at the URI, of the schema with this number. Where the schema holds tables already it is fault.Conflict; what a loader
// that was killed has left is taken away. fault.StoreUnavailable for a schema of a newer release, or when another loader is at work.
func NewLoader(ctx context.Context, uri string, o Options, schema int64) (*Loader, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	newest, err := migrations.Newest()
	if err != nil {
		return nil, err
	}
	if schema < 1 || schema > newest {
		return nil, unavailable(fmt.Sprintf("this release knows schemas up to %d, not %d: it needs a newer release", newest, schema), nil)
	}
	o = o.withDefaults()
	l := &Loader{uri: uri, target: &Store{opts: o}}
	if l.target.config, err = parse(uri, o); err != nil {
		return nil, err
	}
	o.Schema = loadingSchema(o.Schema)
	l.temp = &Store{opts: o}
	if l.temp.config, err = parse(uri, o); err != nil {
		return nil, err
	}
	if err := l.begin(ctx, schema); err != nil {
		return nil, errors.Join(translate(ctx, "beginning a store", err), l.Close())
	}
	return l, nil
}

// loadingSchema is the name of the schema beside another: a name of at most 63 bytes that nobody else would choose.
func loadingSchema(schema string) string {
	const prefix = "keywright_restoring_"
	return prefix + schema[:min(len(schema), 63-len(prefix))]
}

func (l *Loader) begin(ctx context.Context, schema int64) (err error) {
	if l.admin, err = l.target.connect(ctx); err != nil {
		return err
	}
	if _, err := l.admin.Exec(ctx, sqlUnbounded); err != nil {
		return err
	}
	if err := l.target.claimLoading(ctx, l.admin); err != nil {
		return err
	}
	l.mine = true
	if err := l.checkEmpty(ctx, l.admin); err != nil {
		return err
	}
	name := pgx.Identifier{l.temp.opts.Schema}.Sanitize()
	for _, query := range []string{"DROP SCHEMA IF EXISTS " + name + " CASCADE", "CREATE SCHEMA " + name} {
		if _, err := l.admin.Exec(ctx, query); err != nil {
			return err
		}
	}
	if err := l.migrateTo(ctx, schema); err != nil {
		return err
	}
	if l.conn, err = l.temp.connect(ctx); err != nil {
		return err
	}
	if _, err := l.conn.Exec(ctx, sqlUnbounded); err != nil {
		return err
	}
	l.tables, err = tablesOf(ctx, l.conn, l.temp.opts.Schema)
	return err
}

// checkEmpty refuses a schema that holds anything.
func (l *Loader) checkEmpty(ctx context.Context, conn interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) error {
	var there bool
	var tables, ours int64
	if err := conn.QueryRow(ctx, sqlSchema, l.target.opts.Schema, versionTable).Scan(&there, &tables, &ours); err != nil {
		return err
	}
	if tables > 0 {
		return fault.New(fault.Conflict, "the schema of the database holds tables already: nothing is loaded over them")
	}
	return nil
}

// migrateTo makes the schema as it was at a migration.
func (l *Loader) migrateTo(ctx context.Context, schema int64) (err error) {
	c := l.temp.config.Copy()
	if err := l.temp.opts.password(ctx, c); err != nil {
		return err
	}
	c.RuntimeParams["statement_timeout"] = "0"
	db := stdlib.OpenDB(*c)
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.Postgres(),
		goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true), goose.WithTableName(versionTable))
	if err != nil {
		return err
	}
	_, err = p.UpTo(ctx, schema)
	return err
}

// Tables gives the tables that the schema has to be given.
func (l *Loader) Tables() []backup.Table { return plain(l.tables) }

// Load fills a table by COPY.
func (l *Loader) Load(ctx context.Context, t backup.Table, rows backup.Rows) error {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	// What the migrations have put there.
	if _, err := l.conn.Exec(ctx, "DELETE FROM "+t.Name); err != nil {
		return translate(ctx, "loading a table", err)
	}
	src := &copied{t: &t, rows: rows, values: make([]any, len(names))}
	_, err := l.conn.CopyFrom(ctx, pgx.Identifier{t.Name}, names, src)
	if src.err != nil {
		return src.err // as it came: COPY's own error repeats its text
	}
	return translate(ctx, "loading table "+t.Name, err)
}

// copied gives rows to COPY.
type copied struct {
	t      *backup.Table
	rows   backup.Rows
	row    []backup.Value
	values []any
	err    error
}

func (c *copied) Next() bool {
	row, err := c.rows.Next()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			c.err = err
		}
		return false
	}
	c.row = row
	return true
}

func (c *copied) Values() ([]any, error) {
	for i, v := range c.row {
		switch {
		case v.Null:
			c.values[i] = nil
		case c.t.Columns[i].Kind == backup.Int:
			c.values[i] = v.Int
		case c.t.Columns[i].Kind == backup.Text:
			c.values[i] = string(v.Bytes)
		case v.Bytes == nil:
			c.values[i] = []byte{} // nil would be NULL
		default:
			c.values[i] = v.Bytes
		}
	}
	return c.values, nil
}

func (c *copied) Err() error { return c.err }

// Open ends the loading, brings the schema up to date and opens the store, for what is to be written into it before it is seen. The store is
// closed by Commit or Close.
func (l *Loader) Open(ctx context.Context) (*Store, error) {
	if err := l.finish(ctx); err != nil {
		return nil, translate(ctx, "ending the loading", err)
	}
	o := l.temp.opts
	var err error
	l.store, err = Open(ctx, l.uri, o)
	return l.store, err
}

func (l *Loader) finish(ctx context.Context) error {
	var queries []string
	for _, t := range migrations.Tables() {
		if t.AfterLoad == "" {
			continue
		}
		var there bool
		if err := l.conn.QueryRow(ctx, sqlTableThere, l.temp.opts.Schema, t.Name).Scan(&there); err != nil {
			return err
		}
		if there {
			queries = append(queries, t.AfterLoad)
		}
	}
	for _, t := range l.tables {
		queries = append(queries, "ANALYZE "+t.Name) // lists are planned well from the first on
	}
	for _, query := range queries {
		if _, err := l.conn.Exec(ctx, query); err != nil {
			return err
		}
	}
	return nil
}

// Commit moves the tables to where they belong, all at once.
func (l *Loader) Commit(ctx context.Context) error {
	if l.store == nil {
		return fault.Wrap(fault.Internal, "a store that was not opened cannot be kept", errNotOpened)
	}
	err := l.store.Close()
	l.store = nil
	if err == nil {
		err = pgx.BeginFunc(ctx, l.admin, func(tx pgx.Tx) error { return l.move(ctx, tx) })
	}
	return translate(ctx, "keeping the store", err)
}

func (l *Loader) move(ctx context.Context, tx pgx.Tx) error {
	target, temp := pgx.Identifier{l.target.opts.Schema}.Sanitize(), pgx.Identifier{l.temp.opts.Schema}.Sanitize()
	if _, err := tx.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+target); err != nil {
		return err
	}
	if err := l.checkEmpty(ctx, tx); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, sqlTableNames, l.temp.opts.Schema)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := tx.Exec(ctx, "ALTER TABLE "+temp+"."+pgx.Identifier{name}.Sanitize()+" SET SCHEMA "+target); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, "DROP SCHEMA "+temp) // refused when anything is left in it
	return err
}

// cleanTime bounds the taking away of what was not committed.
const cleanTime = time.Minute

const (
	sqlTableThere = "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2)"
	sqlTableNames = "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') ORDER BY c.relname"
)

// Close takes away what was not committed. A second call does nothing.
func (l *Loader) Close() error {
	var err error
	if l.store != nil {
		err = l.store.Close()
		l.store = nil
	}
	if l.conn != nil {
		l.temp.hangUp(l.conn)
		l.conn = nil
	}
	if l.admin == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanTime)
	defer cancel()
	if l.mine && !l.admin.IsClosed() {
		_, dropped := l.admin.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{l.temp.opts.Schema}.Sanitize()+" CASCADE")
		err = errors.Join(err, translate(ctx, "taking away what was loaded", dropped))
	}
	l.target.hangUp(l.admin)
	l.admin = nil
	return err
}
