package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/keywright/keywright/store/migrations"
)

// versionTable is where goose keeps which migrations have been made.
const versionTable = "schema_version"

// open opens everything. The caller closes what is open when it fails.
func (s *Store) open(ctx context.Context) error {
	w, err := s.writer(ctx)
	if err != nil {
		return err
	}
	if err := checkServer(ctx, w.conn); err != nil {
		return err
	}
	if s.notifies, err = s.canNotify(ctx, w.conn); err != nil {
		return err
	}
	if err := s.exclusively(ctx, w.conn, func() error { return s.migrate(ctx, w.conn) }); err != nil {
		return err
	}
	if err := s.identify(ctx, w.conn); err != nil {
		return err
	}
	return s.openPool(ctx)
}

func (s *Store) openPool(ctx context.Context) error {
	c, err := pgxpool.ParseConfig("")
	if err != nil {
		return err
	}
	c.ConnConfig = s.config.Copy()
	c.MaxConns = int32(s.opts.Connections - 1)
	c.MinConns = 0
	c.MaxConnLifetime, c.MaxConnLifetimeJitter = time.Hour, 10*time.Minute
	c.MaxConnIdleTime = 10 * time.Minute
	c.BeforeConnect = s.opts.password
	s.read, err = pgxpool.NewWithConfig(ctx, c)
	return err
}

// migrate brings the schema up to date.
func (s *Store) migrate(ctx context.Context, conn *pgx.Conn) (err error) {
	have, err := s.claimSchema(ctx, conn)
	if err != nil {
		return err
	}
	newest, err := newestMigration()
	switch {
	case err != nil:
		return err
	case have > newest:
		return unavailable(fmt.Sprintf("the store was written by a newer release (schema %d, this release knows %d)", have, newest), nil)
	case have == newest:
		return nil
	}
	c := s.config.Copy()
	if err := s.opts.password(ctx, c); err != nil {
		return err
	}
	c.RuntimeParams["statement_timeout"] = "0" // an index over a large table takes its time; ctx bounds it
	db := stdlib.OpenDB(*c)
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.Postgres(),
		goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true), goose.WithTableName(versionTable))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// newestMigration gives the number of the last one that this release knows.
func newestMigration() (newest int64, err error) {
	files, err := fs.Glob(migrations.Postgres(), "*.sql")
	for _, name := range files {
		n, err := goose.NumericComponent(name)
		if err != nil {
			return 0, err
		}
		newest = max(newest, n)
	}
	return newest, err
}

// claimSchema makes the schema when it is missing, and refuses one that holds another program's tables before anything is
// changed in it. It gives the number of the last migration that was made.
func (s *Store) claimSchema(ctx context.Context, conn *pgx.Conn) (have int64, err error) {
	var there bool
	var tables, ours int64
	if err := conn.QueryRow(ctx, sqlSchema, s.opts.Schema, versionTable).Scan(&there, &tables, &ours); err != nil {
		return 0, err
	}
	switch {
	case !there:
		_, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{s.opts.Schema}.Sanitize())
		return 0, err
	case tables == 0:
		return 0, nil
	case ours == 0:
		return 0, corrupted("the schema holds tables, but is not a Keywright store", nil)
	}
	err = conn.QueryRow(ctx, sqlSchemaVersion).Scan(&have)
	return have, err
}

// identify reads the identity of the deployment, or makes it.
func (s *Store) identify(ctx context.Context, conn *pgx.Conn) error {
	fresh, err := uuid.NewRandom()
	if err != nil {
		return unavailable("no randomness for the deployment's identity", err)
	}
	if _, err := conn.Exec(ctx, sqlInsertDeployment, fresh[:]); err != nil {
		return err
	}
	return conn.QueryRow(ctx, sqlDeployment).Scan((*idColumn)(&s.deployment))
}

const (
	// The catalog and not information_schema, which shows to each role only what it may use.
	sqlSchema = `SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1), COUNT(*), COUNT(*) FILTER (WHERE c.relname = $2)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')`
	sqlSchemaVersion    = "SELECT COALESCE(MAX(version_id), 0) FROM " + versionTable
	sqlDeployment       = "SELECT uuid FROM deployment WHERE id = 1"
	sqlInsertDeployment = "INSERT INTO deployment (id, uuid) VALUES (1, $1) ON CONFLICT (id) DO NOTHING"
)
