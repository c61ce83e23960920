package postgres_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/storetest"
)

// testDeployment: a store keeps the identity that it was made with, and no two have the same.
func testDeployment(t *testing.T, server *rig.Server) {
	o := options(server)
	s, beside := open(t, server.URI, o), open(t, server.URI, o)
	if s.Deployment() == uuid.Nil || beside.Deployment() != s.Deployment() {
		t.Errorf("%v beside %v", s.Deployment(), beside.Deployment())
	}
	if other := open(t, server.URI, options(server)); other.Deployment() == s.Deployment() {
		t.Error("two schemas have one identity")
	}
	do(t, admin(t, server, o.Schema), "UPDATE deployment SET uuid = '\\x00'")
	_, err := postgres.Open(t.Context(), server.URI, o)
	wantFault(t, "a cut identity", err, fault.StoreCorrupted)
}

// testForeignSchema: another program's tables are left alone, and so is what a newer release has made.
func testForeignSchema(t *testing.T, server *rig.Server) {
	o := options(server)
	db := admin(t, server, o.Schema)
	do(t, db, "CREATE SCHEMA "+pgx.Identifier{o.Schema}.Sanitize()+" AUTHORIZATION keywright")
	do(t, db, "CREATE TABLE letters (id BIGINT)")
	_, err := postgres.Open(t.Context(), server.URI, o)
	wantFault(t, "a foreign schema", err, fault.StoreCorrupted)
	var tables int
	if err := db.QueryRow(t.Context(), "SELECT COUNT(*) FROM pg_tables WHERE schemaname = $1", o.Schema).Scan(&tables); err != nil || tables != 1 {
		t.Errorf("%d tables afterwards, %v", tables, err)
	}

	o = options(server)
	if err := open(t, server.URI, o).Close(); err != nil {
		t.Fatal(err)
	}
	do(t, admin(t, server, o.Schema), "INSERT INTO schema_version (version_id, is_applied) VALUES (99999, true)")
	_, err = postgres.Open(t.Context(), server.URI, o)
	wantFault(t, "a newer release's schema", err, fault.StoreUnavailable)

	// Two nodes that start at once on nothing.
	o = options(server)
	errs := make(chan error, 3)
	for range 3 {
		go func() {
			s, err := postgres.Open(t.Context(), server.URI, o)
			if err == nil {
				err = s.Close()
			}
			errs <- err
		}()
	}
	for range 3 {
		if err := <-errs; err != nil {
			t.Errorf("opening at once: %v", err)
		}
	}
}

// testURI: what a URI may not say, and that no error repeats what it does.
func testURI(t *testing.T, server *rig.Server) {
	for _, uri := range []string{
		"sqlite:/x", "postgres://role:hush-hush@db/x", "postgres://role@db/x?password=hush-hush", "postgres://db/x?sslmode=prefer",
		"postgres://db/x?sslmode=allow", "postgres://db/x?search_path=hush-hush", "postgres://db/x?options=-chush-hush",
		"postgres://db:hush-hush/x", "postgres://db/x?sslrootcert=/nowhere/hush-hush", "postgres://db/x?sslmode=hush-hush",
	} {
		_, err := postgres.Open(t.Context(), uri, postgres.Options{})
		wantFault(t, uri, err, fault.BadField)
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error repeats a value: %v", uri, err)
		}
	}
	for what, uri := range map[string]string{
		"no database": strings.Replace(server.URI, "/keywright?", "/other?", 1),
		"no role":     strings.Replace(server.URI, "//keywright@", "//nobody@", 1),
		"no server":   "postgres://keywright@/keywright?host=" + t.TempDir(),
	} {
		_, err := postgres.Open(t.Context(), uri, options(server))
		wantAgain(t, what, err)
	}
	for what, content := range map[string]string{"a wrong password": "wrong-hush\n", "an empty file": "\n"} {
		o := options(server)
		o.PasswordFile = filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(o.PasswordFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := postgres.Open(t.Context(), server.URI, o)
		wantAgain(t, what, err)
		if strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error repeats it: %v", what, err)
		}
	}
}

// testTLS: over a network the server's certificate is verified unless the URI says otherwise.
func testTLS(t *testing.T, server *rig.Server) {
	o := options(server)
	s := open(t, server.TCP, o) // the server takes nothing but TLS there
	mustCommit(t, s)
	var encrypted int
	err := admin(t, server, o.Schema).QueryRow(t.Context(),
		"SELECT COUNT(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'keywright' AND ssl AND version IN ('TLSv1.2', 'TLSv1.3')").Scan(&encrypted)
	if err != nil || encrypted == 0 {
		t.Errorf("%d encrypted sessions, %v", encrypted, err)
	}
	bare, _, _ := strings.Cut(server.TCP, "?")
	for what, uri := range map[string]string{
		"an unknown authority": bare,
		"another name":         strings.Replace(server.TCP, "@localhost:", "@127.0.0.2:", 1),
		"no TLS":               bare + "?sslmode=disable",
	} {
		_, err := postgres.Open(t.Context(), uri, options(server))
		wantAgain(t, what, err)
	}
	// Of several hosts the one that is there.
	open(t, strings.Replace(server.TCP, "@localhost:", "@localhost:1,localhost:", 1), options(server))
	open(t, bare+"?sslmode=require", options(server)) // explicitly without verification
}

// testPassword: a rotated password is taken from the file by the next connection, without a restart.
func testPassword(t *testing.T, server *rig.Server) {
	o := options(server)
	old := server.Password(t, server.PasswordFile)
	o.PasswordFile = filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		t.Helper()
		if err := os.WriteFile(o.PasswordFile, []byte(password+"\r\nnot this\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(old)
	s := open(t, server.URI, o)
	mustCommit(t, s)
	db := admin(t, server, o.Schema)
	do(t, db, "ALTER ROLE keywright PASSWORD 'rotated'")
	defer do(t, db, "ALTER ROLE keywright PASSWORD '"+old+"'")
	mustCommit(t, s) // connections that are open stay
	cut(t, db)
	wantAgain(t, "after the rotation, before the file", commit(t, s))
	wantAgain(t, "a read meanwhile", func() error { _, err := s.AuditHead(t.Context()); return err }())
	write("rotated")
	mustCommit(t, s)
	wantSize(t, s, 3)
}

// testOddTexts: what PostgreSQL has no text for is nobody's name, and no entry is unwritable for it.
func testOddTexts(t *testing.T, server *rig.Server) {
	s := open(t, server.URI, options(server))
	odd := "nul \x00 and \xff"
	it := storetest.ItemOf(audit.Entry{Principal: odd, Action: odd, Outcome: odd})
	tenant := uuid.New()
	k, v := storetest.NewKey(tenant, odd)
	bad := storetest.Item(s.InsertKey(k, v))
	if err := s.Commit(t.Context(), []*audit.Item{it, bad, storetest.Item()}, storetest.Extend); err != nil {
		t.Fatal(err)
	}
	if it.Err != nil || bad.Err == nil || strings.Contains(bad.Err.Error(), "nul ") {
		t.Errorf("the entry: %v; the key: %v", it.Err, bad.Err)
	}
	wantSize(t, s, 2)
	found, _, err := s.AuditSearch(t.Context(), audit.Filter{Principal: odd}, 1<<62, 10)
	if err != nil || len(found) != 1 {
		t.Errorf("%d found, %v", len(found), err)
	}
	_, err = s.KeyByName(t.Context(), tenant, odd)
	wantFault(t, "by name", err, fault.KeyNotFound)
	_, err = s.APIKeyByPrefix(t.Context(), "kw", odd)
	wantFault(t, "by prefix", err, fault.APIKeyNotFound)
}

// testNotDurable: a server that is set to lose what it acknowledged is refused.
func testNotDurable(t *testing.T, server *rig.Server) {
	o := options(server)
	db := admin(t, server, o.Schema)
	set := func(what string) {
		do(t, db, "ALTER SYSTEM "+what)
		do(t, db, "SELECT pg_reload_conf()")
	}
	set("SET fsync = off")
	defer set("RESET fsync")
	wait(t, "the server to take the setting", func() bool {
		s, err := postgres.Open(t.Context(), server.URI, o)
		if err != nil {
			wantAgain(t, "fsync off", err)
			return true
		}
		s.Close()
		return false
	})
}
