package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"

	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/store/migrations"
)

// applicationID marks the file as this program's (PRAGMA application_id): "kwst".
const applicationID = 0x6b777374

// versionTable is where goose keeps which migrations have been made.
const versionTable = "schema_version"

// magic is how every SQLite 3 file begins (sqlite.org/fileformat2.html section 1.3).
const magic = "SQLite format 3\x00"

// lockFile takes the exclusive lock that keeps a second process out. SQLite's own locks would let it in, and two audit
// logs would then grow on one tree.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, translate("creating the lock file", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = unavailable("the store is in use by another process", err)
		}
		return nil, errors.Join(translate("locking the store", err), f.Close())
	}
	return f, nil
}

// open opens everything but the lock. The caller closes what is open when it fails.
func (s *Store) open(ctx context.Context) error {
	if err := prepareFile(s.path); err != nil {
		return err
	}
	if err := claim(s.path); err != nil {
		return translate("opening the store", err)
	}
	w, err := openWriter(s.path, s.opts)
	if err != nil {
		return translate("opening the store", err)
	}
	s.w = w
	if err := migrate(ctx, s.path, s.opts); err != nil {
		return translate("migrating the store", err)
	}
	if err := s.identify(ctx); err != nil {
		return err
	}
	s.read = sql.OpenDB(&connector{dsn: dsn(s.path), pragmas: readPragmas(s.opts)})
	s.read.SetMaxOpenConns(s.opts.Readers)
	s.read.SetMaxIdleConns(s.opts.Readers)
	if err := s.checkHead(ctx); err != nil {
		return err
	}
	s.checkpoints, err = startCheckpoints(s)
	return translate("opening the store", err)
}

// prepareFile creates the file with its mode, before SQLite would with the umask's, or looks at the one that is there.
// SQLite must not have it open yet: closing any descriptor of a file drops the process's locks on it (POSIX fcntl).
func prepareFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return translate("creating the store", err)
	}
	err = checkFile(f)
	return translate("opening the store", errors.Join(err, f.Close()))
}

func checkFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return unavailable("the path of the store is not a file", nil)
	}
	if info.Mode()&(fs.ModePerm&^0o600) != 0 {
		if err := f.Chmod(0o600); err != nil {
			return err
		}
	}
	if info.Size() == 0 {
		return nil
	}
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if !bytes.Equal(head, []byte(magic)) {
		return corrupted("the file of the store is not a database", nil)
	}
	return nil
}

// claim makes an empty file ours, and refuses one that is somebody else's, before anything is changed in it.
func claim(path string) (err error) {
	conn, err := connect(&sqlite3.SQLiteDriver{}, dsn(path), nil)
	if err != nil {
		return err
	}
	w := &writer{conn: conn, stmts: map[string]*sqlite3.SQLiteStmt{}}
	defer func() { err = errors.Join(err, w.close()) }()
	var id, tables, versions, version int64
	if err := w.one("PRAGMA application_id", &id); err != nil {
		return err
	}
	if err := w.one("SELECT COUNT(*) FROM sqlite_schema", &tables); err != nil {
		return err
	}
	switch {
	case id == 0 && tables == 0:
		return w.run(fmt.Sprintf("PRAGMA application_id = %d", applicationID))
	case id != applicationID:
		return corrupted("the file is a database, but not a Keywright store", nil)
	}
	// goose takes a version table that it cannot read for one that is missing.
	if err := w.one("SELECT COUNT(*) FROM sqlite_schema WHERE name = '"+versionTable+"'", &versions); err != nil || versions == 0 {
		return err
	}
	return w.one("SELECT COALESCE(MAX(version_id), 0) FROM "+versionTable, &version)
}

// migrate brings the schema up to date.
func migrate(ctx context.Context, path string, o Options) (err error) {
	db := sql.OpenDB(&connector{dsn: dsn(path), pragmas: writePragmas(o)})
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, migrations.SQLite(),
		goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true), goose.WithTableName(versionTable))
	if err != nil {
		return err
	}
	have, newest, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	switch {
	case have > newest:
		return unavailable(fmt.Sprintf("the store was written by a newer release (schema %d, this release knows %d)", have, newest), nil)
	case have == newest:
		return nil
	}
	_, err = p.Up(ctx)
	return err
}

// dsn names the file as a URI, so that no character of the path means anything. The pragmas of this string are those that
// the driver sets by itself otherwise; the rest is run on the open connection, in an order that we choose.
func dsn(path string) string {
	u := url.URL{Scheme: "file", Path: path}
	return u.String() + "?mode=rw&_mutex=no&_busy_timeout=5000&_synchronous=FULL&_foreign_keys=on&_stmt_cache_size=32"
}

func writePragmas(o Options) []string {
	p := []string{
		"PRAGMA journal_mode = WAL",
		"PRAGMA synchronous = FULL",
		"PRAGMA secure_delete = ON", // the sealed material of a destroyed key is overwritten with zeros
		fmt.Sprintf("PRAGMA cache_size = -%d", o.WriterCache),
		"PRAGMA mmap_size = 0", // mapped pages would count as resident memory
		"PRAGMA temp_store = MEMORY",
		fmt.Sprintf("PRAGMA journal_size_limit = %d", o.logPages()*pageSize),
		// A last resort: the checkpointer does this work elsewhere unless it fails or falls far behind.
		fmt.Sprintf("PRAGMA wal_autocheckpoint = %d", 4*o.logPages()),
	}
	if o.MaxPages > 0 {
		p = append(p, fmt.Sprintf("PRAGMA max_page_count = %d", o.MaxPages))
	}
	return p
}

func readPragmas(o Options) []string {
	return []string{
		"PRAGMA query_only = ON",
		fmt.Sprintf("PRAGMA cache_size = -%d", o.ReaderCache),
		"PRAGMA mmap_size = 0",
		"PRAGMA temp_store = MEMORY",
	}
}

// connector opens connections for database/sql without a name in its registry of drivers.
type connector struct {
	drv     sqlite3.SQLiteDriver
	dsn     string
	pragmas []string
}

func (c *connector) Driver() driver.Driver { return &c.drv }

func (c *connector) Connect(context.Context) (driver.Conn, error) {
	return connect(&c.drv, c.dsn, c.pragmas)
}

func connect(d *sqlite3.SQLiteDriver, dsn string, pragmas []string) (*sqlite3.SQLiteConn, error) {
	opened, err := d.Open(dsn)
	if err != nil {
		return nil, err
	}
	conn := opened.(*sqlite3.SQLiteConn) // what this driver opens
	for _, p := range pragmas {
		if _, err := conn.Exec(p, nil); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}
