package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"

	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/store/migrations"
)

var _ backup.Target = (*Loader)(nil)

// Loader fills a new store. Everything happens in a file of another name beside it, which gets its own only with Commit: a store that was half
// filled is never seen. It is for one goroutine.
type Loader struct {
	path, temp string
	lock       *os.File // of path
	w          *writer  // nil when the loading is over
	tables     []table
	store      *Store // what Open gave
	done       bool
}

// NewLoader begins a new store at path, of the schema with this number. Where there is a store already it is fault.Conflict; what a
// loader that was killed has left is taken away. fault.StoreUnavailable for a schema of a newer release.
func NewLoader(ctx context.Context, path string, schema int64) (*Loader, error) {
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
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, unavailable("the path of the store cannot be resolved", err)
	}
	l := &Loader{path: abs, temp: abs + ".restoring"}
	if l.lock, err = lockFile(abs + ".lock"); err != nil {
		return nil, err
	}
	if err := l.begin(ctx, schema); err != nil {
		return nil, errors.Join(translate("beginning a store", err), l.Close())
	}
	return l, nil
}

func (l *Loader) begin(ctx context.Context, schema int64) error {
	for _, p := range []string{l.path, l.path + "-wal"} {
		if _, err := os.Lstat(p); err == nil {
			return fault.New(fault.Conflict, "there is a store at this path already: nothing is loaded over it")
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := l.clean(); err != nil {
		return err
	}
	if err := prepareFile(l.temp); err != nil {
		return err
	}
	if err := claim(l.temp); err != nil {
		return err
	}
	if err := migrateTo(ctx, l.temp, schema); err != nil {
		return err
	}
	// Nothing of this file counts until it has its name: it needs no log, and one sync at the end.
	conn, err := connect(&sqlite3.SQLiteDriver{}, dsn(l.temp), []string{
		"PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "PRAGMA locking_mode = EXCLUSIVE", "PRAGMA cache_size = -65536",
		"PRAGMA temp_store = MEMORY", "PRAGMA mmap_size = 0",
	})
	if err != nil {
		return err
	}
	l.w = &writer{conn: conn, stmts: map[string]*sqlite3.SQLiteStmt{}}
	l.tables, err = tablesOf(l.w)
	return err
}

// migrateTo makes the schema as it was at a migration.
func migrateTo(ctx context.Context, path string, schema int64) (err error) {
	db := sql.OpenDB(&connector{dsn: dsn(path), pragmas: []string{"PRAGMA journal_mode = DELETE", "PRAGMA synchronous = OFF"}})
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, migrations.SQLite(),
		goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true), goose.WithTableName(versionTable))
	if err != nil {
		return err
	}
	_, err = p.UpTo(ctx, schema)
	return err
}

// Tables gives the tables that the schema has to be given.
func (l *Loader) Tables() []backup.Table { return plain(l.tables) }

// loadRows is how many rows one statement inserts, where there are as many.
const loadRows = 32

// Load fills a table.
func (l *Loader) Load(ctx context.Context, t backup.Table, rows backup.Rows) error {
	if err := l.w.run("BEGIN"); err != nil {
		return translate("loading a table", err)
	}
	err := l.load(ctx, &t, rows)
	if err == nil {
		err = l.w.run("COMMIT")
	}
	var theirs rowsError
	if errors.As(err, &theirs) {
		return theirs.error // as it came
	}
	return translate("loading table "+t.Name, err)
}

// rowsError is an error of the rows that are loaded.
type rowsError struct{ error }

func (l *Loader) load(ctx context.Context, t *backup.Table, rows backup.Rows) error {
	if err := l.w.run("DELETE FROM " + t.Name); err != nil { // what the migrations have put there
		return err
	}
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	one := "(?" + strings.Repeat(", ?", len(names)-1) + ")"
	insert := "INSERT INTO " + t.Name + " (" + strings.Join(names, ", ") + ") VALUES "
	many := insert + strings.Repeat(one+", ", loadRows-1) + one
	args := make([]driver.NamedValue, 0, loadRows*len(names))
	for {
		row, err := rows.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return rowsError{err}
		}
		for i, v := range row {
			args = append(args, driver.NamedValue{Ordinal: len(args) + 1, Value: own(v, t.Columns[i].Kind)})
		}
		if len(args) < loadRows*len(names) {
			continue
		}
		if err := ended(ctx); err != nil {
			return err
		}
		if err := l.w.put(many, args); err != nil {
			return err
		}
		args = args[:0]
	}
	for ; len(args) > 0; args = args[len(names):] {
		for i := range names {
			args[i].Ordinal = i + 1
		}
		if err := l.w.put(insert+one, args[:len(names)]); err != nil {
			return err
		}
	}
	return nil
}

// own gives a value as the driver takes it, with bytes of its own: a row is valid until the next one only.
func own(v backup.Value, kind backup.Kind) driver.Value {
	switch {
	case v.Null:
		return nil
	case kind == backup.Int:
		return v.Int
	case kind == backup.Text:
		return string(v.Bytes)
	}
	return append([]byte{}, v.Bytes...)
}

// Open ends the loading, brings the schema up to date and opens the store, for what is to be written into it before it is seen. The store is
// closed by Commit or Close.
func (l *Loader) Open(ctx context.Context) (*Store, error) {
	if err := l.finish(); err != nil {
		return nil, translate("ending the loading", err)
	}
	var err error
	l.store, err = Open(ctx, l.temp, Options{})
	return l.store, err
}

func (l *Loader) finish() error {
	for _, t := range migrations.Tables() {
		if t.AfterLoad == "" {
			continue
		}
		var there int64
		if err := l.w.one("SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = '"+t.Name+"'", &there); err != nil {
			return err
		}
		if there > 0 {
			if err := l.w.run(t.AfterLoad); err != nil {
				return err
			}
		}
	}
	var broken int64
	if err := l.w.each("PRAGMA foreign_key_check", func([]driver.Value) error { broken++; return nil }); err != nil {
		return err
	}
	if broken > 0 {
		return corrupted(fmt.Sprintf("%d rows point to others that are not there", broken), nil)
	}
	err := l.w.close()
	l.w = nil
	return err
}

// Commit gives the store its name. Without one before it, everything that was loaded is dropped.
func (l *Loader) Commit(context.Context) error {
	if l.store == nil {
		return fault.New(fault.Internal, "a store that was not opened cannot be kept")
	}
	err := l.store.Close()
	l.store = nil
	if err != nil {
		return err
	}
	return translate("keeping the store", l.place())
}

func (l *Loader) place() error {
	f, err := os.OpenFile(l.temp, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	// Link, as a rename would replace what somebody has put there meanwhile.
	if err := os.Link(l.temp, l.path); err != nil {
		return err
	}
	l.done = true
	dir, err := os.Open(filepath.Dir(l.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Close takes away what was not committed, and the other name of what was; the lock file stays, as it does beside every store. A second
// call does nothing.
func (l *Loader) Close() error {
	if l.lock == nil {
		return nil
	}
	var errs []error
	if l.w != nil {
		errs = append(errs, l.w.close())
		l.w = nil
	}
	if l.store != nil {
		errs = append(errs, l.store.Close())
		l.store = nil
	}
	errs = append(errs, l.clean())
	errs = append(errs, l.lock.Close())
	l.lock = nil
	return translate("ending the loading", errors.Join(errs...))
}

// clean removes the file of the loading and its companions.
func (l *Loader) clean() error {
	var errs []error
	for _, suffix := range []string{"", "-wal", "-shm", "-journal", ".lock"} {
		if err := os.Remove(l.temp + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
