package postgres_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/postgres"
)

// testPlans: with many records, every list walks one index in its order and no table is read from end to end. A sort is for a few
// rows alone: those of one name, of one key, or that are not there.
func testPlans(t *testing.T, server *rig.Server) {
	o := options(server)
	open(t, server.URI, o)
	db := admin(t, server, o.Schema)
	tenant := uuid.New()
	for _, query := range []string{
		`INSERT INTO keys SELECT sha256(i::text::bytea), $1, 'k' || i, (ARRAY['AES-256-GCM', 'AES-256-GCM', 'HMAC-SHA256'])[1 + i % 3], 'encrypt',
			'generated', 'b', 'software', '', '{}', 1, 1, 0, 0, 0, (ARRAY['active', 'active', 'active', 'suspended'])[1 + i % 4], i, i, NULL, NULL,
			CASE WHEN i % 10 = 0 THEN i END, 0, 1 FROM generate_series(1, 6000) i`,
		`INSERT INTO key_labels SELECT tenant, 'env', (ARRAY['prod', 'test'])[1 + created_at % 2], name, id FROM keys WHERE tenant = $1`,
		`INSERT INTO key_versions SELECT id, v, (ARRAY['active', 'creating'])[1 + (created_at % 100 / 99)], '', 'generated', 'b', 'software', 0,
			created_at, created_at, 1, NULL, NULL FROM keys, generate_series(1, 2) v WHERE tenant = $1`,
		`INSERT INTO audit_entries SELECT i, i, $1, NULL, 'p', 'a', 'ok', repeat('x', 300)::bytea FROM generate_series(0, 10000) i`,
		`INSERT INTO api_keys SELECT sha256(i::text::bytea), $1, 'n', 'kw', 'p' || i, '', '', 1, NULL, NULL, '' FROM generate_series(1, 3000) i`,
		`INSERT INTO news SELECT i, 0, i, $1, 'key', $1 FROM generate_series(1, 3000) i`,
		`INSERT INTO idempotency SELECT $1, 't' || i, '', '', 1, NULL, i FROM generate_series(1, 3000) i`,
		`INSERT INTO jobs SELECT sha256(i::text::bytea), $1, 'move', 'done', '', NULL, 0, 0, 0, '', '', '', 0, 0, '', i, NULL, i,
			CASE WHEN i % 100 > 0 THEN i END, NULL, 1 FROM generate_series(1, 6000) i`,
	} {
		do(t, db, query, tenant[:])
	}
	do(t, db, "ANALYZE")
	for _, c := range []struct {
		f     keys.Filter
		after string
		index string
	}{
		{keys.Filter{}, "", "keys_name"},
		{keys.Filter{NamePrefix: "k1"}, "k1500", "keys_name"},
		{keys.Filter{Algorithm: "HMAC-SHA256"}, "k2", "keys_algorithm"},
		{keys.Filter{State: keys.StateSuspended}, "k3", "keys_state"},
		{keys.Filter{State: keys.StateDestroyed}, "", "keys_state"},
		{keys.Filter{Label: "env"}, "k4", "key_labels_name"},
		{keys.Filter{Label: "env=prod"}, "k5", "key_labels_pkey"},
	} {
		wantPlan(t, db, c.index, postgres.KeysQuery(tenant, c.f, c.after, 100), c.f.State == keys.StateDestroyed)
	}
	for index, q := range postgres.Fixed(tenant[:]) {
		wantPlan(t, db, index, q, index == "key_versions_pkey" || index == "keys_due" || index == "idempotency_created" || index == "jobs_open")
	}
}

func wantPlan(t *testing.T, db *pgx.Conn, index string, q postgres.Query, maySort bool) {
	t.Helper()
	rows, err := db.Query(t.Context(), "EXPLAIN "+q.SQL, q.Args...)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", q.SQL, err)
	}
	plan := strings.Join(lines, "\n")
	if !strings.Contains(plan, index) || strings.Contains(plan, "Seq Scan") || !maySort && strings.Contains(plan, "->  Sort") {
		t.Errorf("not by %s:\n%s\n%s", index, q.SQL, plan)
	}
}
