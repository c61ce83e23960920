package sqlite

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/store/storetest"
)

// TestGrantsOfTheReleaseBefore: its statements go on to run on the schema of today, and what they write is read, replaced and removed.
func TestGrantsOfTheReleaseBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	g := &auth.Grant{ID: uuid.New(), Tenant: uuid.New(), Key: uuid.New(), Principal: "cert:x", Operations: []string{"sign"},
		CreatedAt: time.Now().UTC().Truncate(time.Microsecond), CreatedBy: "system"}
	const columns = "id, tenant, key_id, principal, operations, context, expires_at, created_at, created_by"
	const before = "INSERT INTO grants (" + columns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
		operations = excluded.operations, context = excluded.context, expires_at = excluded.expires_at, created_at = excluded.created_at,
		created_by = excluded.created_by WHERE grants.tenant = excluded.tenant AND grants.key_id = excluded.key_id AND grants.principal = excluded.principal`
	for range 2 { // it adds, and it replaces
		if _, err := db.ExecContext(t.Context(), before, g.ID[:], g.Tenant[:], g.Key[:], g.Principal, "sign", "", nil, g.CreatedAt.UnixMicro(), g.CreatedBy); err != nil {
			t.Fatal(err)
		}
	}
	read := func(want *auth.Grant) {
		t.Helper()
		got, err := s.Grant(t.Context(), g.Tenant, g.Key, want.ID)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(got, want); d != "" {
			t.Error(d)
		}
	}
	read(g)
	g.Operations = []string{"mac"}
	commit := func(c *auth.Grant, remove bool) error {
		change := s.PutGrant(c)
		if remove {
			change = s.DeleteGrant(c)
		}
		i := storetest.Item(change)
		if err := s.Commit(t.Context(), []*audit.Item{i}, storetest.Extend); err != nil {
			t.Fatal(err)
		}
		return i.Err
	}
	if err := commit(g, false); err != nil {
		t.Fatal(err)
	}
	read(g)
	// Another tenant takes the id of the row itself.
	theirs := *g
	theirs.Tenant = uuid.New()
	if err := commit(&theirs, false); err != nil {
		t.Fatal(err)
	}
	read(g)
	moved := *g
	moved.Principal = "cert:y"
	if err := commit(&moved, false); !fault.Has(err, fault.Conflict) {
		t.Error(err)
	}
	if err := commit(g, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Grant(t.Context(), g.Tenant, g.Key, g.ID); !fault.Has(err, fault.GrantNotFound) {
		t.Error(err)
	}
	// What today's release has written, the one before reads by its own statement.
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM (SELECT "+columns+" FROM grants WHERE tenant = ? AND principal = ? ORDER BY id LIMIT ?)",
		theirs.Tenant[:], theirs.Principal, 10).Scan(&n); err != nil || n != 1 {
		t.Error(n, err)
	}
}
