package postgres_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/storetest"
)

// testGrantsOfBefore: the statements of the release before go on to run on the schema of today, and what they write is read, replaced and removed.
func testGrantsOfBefore(t *testing.T, server *rig.Server) {
	o := options(server)
	s := open(t, server.URI, o)
	db := admin(t, server, o.Schema)
	g := &auth.Grant{ID: uuid.New(), Tenant: uuid.New(), Key: uuid.New(), Principal: "cert:x", Operations: []string{"sign"},
		CreatedAt: time.Now().UTC().Truncate(time.Microsecond), CreatedBy: "system"}
	const before = `INSERT INTO grants (id, tenant, key_id, principal, operations, context, expires_at, created_at, created_by)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO UPDATE SET operations = excluded.operations, context = excluded.context,
		expires_at = excluded.expires_at, created_at = excluded.created_at, created_by = excluded.created_by
		WHERE grants.tenant = excluded.tenant AND grants.key_id = excluded.key_id AND grants.principal = excluded.principal`
	for range 2 { // it adds, and it replaces
		if _, err := db.Exec(t.Context(), before, g.ID[:], g.Tenant[:], g.Key[:], g.Principal, "sign", "", nil, g.CreatedAt.UnixMicro(), g.CreatedBy); err != nil {
			t.Fatal(err)
		}
	}
	read := func() {
		t.Helper()
		got, err := s.Grant(t.Context(), g.Tenant, g.Key, g.ID)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(got, g); d != "" {
			t.Error(d)
		}
	}
	read()
	commit := func(c audit.Change) error {
		i := storetest.Item(c)
		if err := s.Commit(t.Context(), []*audit.Item{i}, storetest.Extend); err != nil {
			t.Fatal(err)
		}
		return i.Err
	}
	g.Operations = []string{"mac"}
	if err := commit(s.PutGrant(g)); err != nil {
		t.Fatal(err)
	}
	read()
	theirs, moved := *g, *g
	theirs.Tenant, moved.Principal = uuid.New(), "cert:y" // the id of the row itself, taken by another tenant
	if err := commit(s.PutGrant(&theirs)); err != nil {
		t.Fatal(err)
	}
	read()
	wantFault(t, "to another principal", commit(s.PutGrant(&moved)), fault.Conflict)
	if err := commit(s.DeleteGrant(g)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Grant(t.Context(), g.Tenant, g.Key, g.ID)
	wantFault(t, "removed", err, fault.GrantNotFound)
}
