package postgres_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/storetest"
)

// TestStore runs everything that needs a server on one of them: it is the part that takes time to come up.
func TestStore(t *testing.T) {
	server := rig.Postgres(t)
	t.Run("Conformance", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) (storetest.Store, func(*testing.T) storetest.Store) {
			o := options(server)
			again := func(t *testing.T) storetest.Store { return open(t, server.URI, o) }
			return again(t), again
		})
	})
	t.Run("Shared", func(t *testing.T) {
		storetest.RunShared(t, func(t *testing.T) (a, b storetest.Store, another func(*testing.T) storetest.Store) {
			o := options(server)
			another = func(t *testing.T) storetest.Store { return open(t, server.URI, o) }
			return another(t), another(t), another
		})
	})
	for _, test := range []struct {
		name string
		run  func(*testing.T, *rig.Server)
	}{
		{"Deployment", testDeployment},
		{"ForeignSchema", testForeignSchema},
		{"OddTexts", testOddTexts},
		{"ManyFail", testManyFail},
		{"VersionRecords", testVersionRecords},
		{"GrantsOfTheReleaseBefore", testGrantsOfBefore},
		{"Probe", testProbe},
		{"Plans", testPlans},
		{"URI", testURI},
		{"TLS", testTLS},
		{"Password", testPassword},
		{"Held", testHeld},
		{"ReadOnly", testReadOnly},
		{"CutConnections", testCutConnections},
		{"LostAnswers", testLostAnswers},
		{"Rejected", testRejected},
		{"NotDurable", testNotDurable},
		{"Backup", testBackup},
		{"KilledUnderLoad", testKilledUnderLoad}, // the last: the server is another afterwards
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, server) })
	}
}

func open(t testing.TB, uri string, o postgres.Options) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), uri, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

var schemas atomic.Int32

// options are those of a store in a schema of its own.
func options(server *rig.Server) postgres.Options {
	return postgres.Options{PasswordFile: server.PasswordFile, Schema: fmt.Sprintf("test %d", schemas.Add(1))}
}

// admin gives a connection of the superuser, in the schema.
func admin(t *testing.T, server *rig.Server, schema string) *pgx.Conn {
	t.Helper()
	c, err := pgx.ParseConfig(server.Admin)
	if err != nil {
		t.Fatal(err)
	}
	c.Password = server.Password(t, server.AdminFile)
	c.RuntimeParams["search_path"] = pgx.Identifier{schema}.Sanitize()
	conn, err := pgx.ConnectConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return conn
}

func do(t *testing.T, conn *pgx.Conn, query string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// cut ends every session of the store's role, as a restart of the server or a firewall does.
func cut(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	do(t, conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'keywright'")
	wait(t, "the sessions to end", func() bool {
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT COUNT(*) FROM pg_stat_activity WHERE usename = 'keywright'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
}

func commit(t *testing.T, s *postgres.Store, changes ...audit.Change) error {
	t.Helper()
	return s.Commit(t.Context(), []*audit.Item{storetest.Item(changes...)}, storetest.Extend)
}

func mustCommit(t *testing.T, s *postgres.Store) {
	t.Helper()
	if err := commit(t, s); err != nil {
		t.Fatalf("Commit: %v", err)
	}
}

func wantSize(t *testing.T, s *postgres.Store, want uint64) {
	t.Helper()
	if h, err := s.AuditHead(t.Context()); err != nil || h.Size != want {
		t.Errorf("%d entries, want %d: %v", h.Size, want, err)
	}
}

func wantFault(t *testing.T, what string, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("%s: got %v, want code %q", what, err, code)
	}
}

// wantAgain checks for a StoreUnavailable that says when to try again.
func wantAgain(t *testing.T, what string, err error) {
	t.Helper()
	var f *fault.Error
	if wantFault(t, what, err, fault.StoreUnavailable); errors.As(err, &f) && f.After <= 0 {
		t.Errorf("%s: no time to try again: %v", what, err)
	}
}
