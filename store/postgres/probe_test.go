package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/postgres"
)

// testProbe: a look says what an opening would find, and changes nothing.
func testProbe(t *testing.T, server *rig.Server) {
	o := options(server)
	db := admin(t, server, o.Schema)
	fresh, err := postgres.Probe(t.Context(), server.URI, o)
	if err != nil || fresh.Version != 0 || fresh.Newest == 0 {
		t.Errorf("%+v, %v", fresh, err)
	}
	var there int
	if err := db.QueryRow(t.Context(), "SELECT COUNT(*) FROM pg_namespace WHERE nspname = $1", o.Schema).Scan(&there); err != nil || there != 0 {
		t.Errorf("%d schemas were made, %v", there, err)
	}
	open(t, server.URI, o)
	if got, err := postgres.Probe(t.Context(), server.URI, o); err != nil || got.Version != fresh.Newest || got.Newest != fresh.Newest {
		t.Errorf("beside an open store: %+v, %v", got, err)
	}
	do(t, db, "INSERT INTO "+pgx.Identifier{o.Schema, "schema_version"}.Sanitize()+" (version_id, is_applied) VALUES (99999, true)")
	_, err = postgres.Probe(t.Context(), server.URI, o)
	wantFault(t, "a newer release's schema", err, fault.StoreUnavailable)

	o = options(server)
	do(t, db, "CREATE SCHEMA "+pgx.Identifier{o.Schema}.Sanitize()+" AUTHORIZATION keywright")
	do(t, db, "CREATE TABLE "+pgx.Identifier{o.Schema, "letters"}.Sanitize()+" (id BIGINT)")
	_, err = postgres.Probe(t.Context(), server.URI, o)
	wantFault(t, "a foreign schema", err, fault.StoreCorrupted)
	o.PasswordFile = "/nowhere"
	_, err = postgres.Probe(t.Context(), server.URI, o)
	wantFault(t, "no password", err, fault.StoreUnavailable)
	wantFault(t, "a password in the URI", postgres.CheckURI("postgres://a:b@c/d", o), fault.BadField)
}
