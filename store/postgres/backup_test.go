package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/migrations"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/store/storetest"
)

// testBackup copies from PostgreSQL into PostgreSQL, and between it and SQLite both ways.
func testBackup(t *testing.T, server *rig.Server) {
	freshPostgres := func(t *testing.T) storetest.Backed { return open(t, server.URI, options(server)) }
	freshSQLite := func(t *testing.T) storetest.Backed { return openSQLite(t, filepath.Join(memory(t), "store.db")) }
	intoPostgres := func(t *testing.T) storetest.Place {
		o := options(server)
		return storetest.Place{
			Begin: func(ctx context.Context, schema int64) (*storetest.Loading, error) {
				l, err := postgres.NewLoader(ctx, server.URI, o, schema)
				if err != nil {
					return nil, err
				}
				return &storetest.Loading{Target: l, Commit: l.Commit, Close: l.Close,
					Open: func(ctx context.Context) (storetest.Backed, error) { return l.Open(ctx) }}, nil
			},
			Open: func(t *testing.T) storetest.Backed { return open(t, server.URI, o) },
		}
	}
	intoSQLite := func(t *testing.T) storetest.Place {
		path := filepath.Join(memory(t), "new.db")
		return storetest.Place{
			Begin: func(ctx context.Context, schema int64) (*storetest.Loading, error) {
				l, err := sqlite.NewLoader(ctx, path, schema)
				if err != nil {
					return nil, err
				}
				return &storetest.Loading{Target: l, Commit: l.Commit, Close: l.Close,
					Open: func(ctx context.Context) (storetest.Backed, error) { return l.Open(ctx) }}, nil
			},
			Open: func(t *testing.T) storetest.Backed { return openSQLite(t, path) },
		}
	}
	t.Run("PostgresToPostgres", func(t *testing.T) { storetest.RunBackup(t, freshPostgres, intoPostgres) })
	t.Run("SQLiteToPostgres", func(t *testing.T) { storetest.RunCopy(t, freshSQLite, intoPostgres) })
	t.Run("PostgresToSQLite", func(t *testing.T) { storetest.RunCopy(t, freshPostgres, intoSQLite) })
	t.Run("NothingLeft", func(t *testing.T) { testNothingLeft(t, server) })
	t.Run("Source", func(t *testing.T) { testSource(t, server) })
}

func openSQLite(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// memory is a folder in memory where there is such a place: these tests ask nothing of the disk.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "store-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// testNothingLeft: schemas of loadings are gone, and a second loader is told that one is at work, without disturbing it.
func testNothingLeft(t *testing.T, server *rig.Server) {
	o := options(server)
	newest, err := migrations.Newest()
	if err != nil {
		t.Fatal(err)
	}
	l, err := postgres.NewLoader(t.Context(), server.URI, o, newest)
	if err != nil {
		t.Fatal(err)
	}
	_, err = postgres.NewLoader(t.Context(), server.URI, o, newest)
	wantFault(t, "a second loader", err, fault.StoreUnavailable)
	c := admin(t, server, "public")
	count := func() (n int) {
		if err := c.QueryRow(t.Context(), "SELECT COUNT(*) FROM pg_namespace WHERE nspname = 'keywright_restoring_' || $1", o.Schema).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 1 {
		t.Errorf("%d schemas of the loading are there", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 0 {
		t.Errorf("%d schemas are left", n)
	}
	var there bool
	if err := c.QueryRow(t.Context(), "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)", o.Schema).Scan(&there); err != nil || there {
		t.Errorf("the schema itself was made: %v %v", there, err)
	}
	// A loader that died is no obstacle.
	do(t, c, "CREATE SCHEMA "+pgx.Identifier{"keywright_restoring_" + o.Schema}.Sanitize()+" AUTHORIZATION keywright")
	if l, err = postgres.NewLoader(t.Context(), server.URI, o, newest); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// Another program's tables are.
	do(t, c, "CREATE SCHEMA "+pgx.Identifier{o.Schema}.Sanitize()+" AUTHORIZATION keywright")
	do(t, c, "CREATE TABLE "+pgx.Identifier{o.Schema, "theirs"}.Sanitize()+" (x int)")
	_, err = postgres.NewLoader(t.Context(), server.URI, o, newest)
	wantFault(t, "another program's schema", err, fault.Conflict)
}

// testSource: while a store is copied nobody commits, and a store in use is not copied.
func testSource(t *testing.T, server *rig.Server) {
	o := options(server)
	s := open(t, server.URI, o)
	storetest.Fill(t, s, 5)
	want := storetest.Digests(t, s)
	snap, err := postgres.OpenSource(t.Context(), server.URI, o)
	if err != nil {
		t.Fatal(err)
	}
	short := o
	short.StatementTimeout = 500 * time.Millisecond
	impatient := open(t, server.URI, short)
	wantAgain(t, "a commit meanwhile", commit(t, impatient))
	l, err := sqlite.NewLoader(t.Context(), filepath.Join(memory(t), "new.db"), snap.Schema())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // of a test
	var told int64
	sum, err := backup.Copy(t.Context(), snap, l, func(n int64) { told = n })
	if err := errors.Join(err, snap.Close()); err != nil {
		t.Fatal(err)
	}
	if told != sum.Rows {
		t.Errorf("told of %d rows of %d", told, sum.Rows)
	}
	opened, err := l.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := storetest.Digests(t, opened); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	mustCommit(t, s)
	_, err = postgres.OpenSource(t.Context(), server.URI, options(server))
	wantFault(t, "a schema that is not there", err, fault.StoreUnavailable)
	do(t, admin(t, server, o.Schema), "INSERT INTO nodes SELECT '\\x01', 'a', '', '', '[]', 0, EXTRACT(EPOCH FROM now()) * 1000000")
	_, err = postgres.OpenSource(t.Context(), server.URI, o)
	wantFault(t, "a service that runs", err, fault.StoreUnavailable)
	mustCommit(t, s)
}
