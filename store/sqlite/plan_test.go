package sqlite

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestPlans: no query of a list reads more than the part of an index that it needs, or sorts what it has read. How long a
// list takes must not depend on how many keys there are.
func TestPlans(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	for query, want := range map[string]string{
		sqlKeyByID:           "keys_1 (id=?)",
		sqlKeyByName:         "keys_name (tenant=? AND name=?)",
		sqlKeysByName:        "keys_name (tenant=? AND name>? AND name<?)",
		sqlKeysByAlgorithm:   "keys_algorithm (tenant=? AND algorithm=? AND name>? AND name<?)",
		sqlKeysByState:       "keys_state (tenant=? AND state=? AND name>? AND name<?)",
		sqlKeysByLabel:       "key_labels_name (tenant=? AND label=? AND name>? AND name<?)",
		sqlKeysByLabelValue:  "PRIMARY KEY (tenant=? AND label=? AND value=? AND name>? AND name<?)",
		sqlKeysDue:           "keys_due (due_at>? AND due_at<?)",
		sqlKeysCreating:      "key_versions_creating (",
		sqlVersion:           "key_versions_1 (key_id=? AND version=?)",
		sqlVersions:          "key_versions_1 (key_id=? AND version>?)",
		sqlDefaultKey:        "PRIMARY KEY (tenant=? AND purpose=?)",
		sqlTenantSettings:    "tenant_settings_1 (tenant=?)",
		sqlAPIKeyByPrefix:    "api_keys_prefix (brand=? AND prefix=?)",
		sqlAPIKeys:           "api_keys_tenant (tenant=? AND id>?)",
		sqlSessionByMAC:      "sessions_mac (mac=?)",
		sqlSessions:          "sessions_tenant (tenant=? AND id>?)",
		sqlForgetSessions:    "sessions_expiry (expires_at<?)",
		sqlPruneSessions:     "sessions_expiry (expires_at<?)",
		sqlEndSessions:       "sessions_tenant (tenant=?)",
		sqlGrants:            "grants_listed (tenant=? AND key_id=? AND <expr>>?)",
		sqlGrant:             "grants_given (tenant=? AND <expr>=?)",
		sqlDeleteGrant:       "grants_given (tenant=? AND <expr>=?)",
		sqlIdempotency:       "idempotency_1 (tenant=? AND token=?)",
		sqlForgetIdempotency: "idempotency_created (created_at<?)",
		sqlPruneIdempotency:  "idempotency_created (created_at<?)",
		sqlJob:               "jobs_1 (id=?)",
		sqlJobs:              "jobs_tenant (tenant=? AND id<?)",
		sqlPruneJobs:         "jobs_ended (ended_at<?)",
		sqlEntries:           "PRIMARY KEY (rowid>? AND rowid<?)",
		sqlNextEntry:         "PRIMARY KEY (rowid>?)",
		sqlPruned:            "PRIMARY KEY (rowid>? AND rowid<?)",
		sqlDeleteEntries:     "PRIMARY KEY (rowid>? AND rowid<?)",
		sqlSearch:            "PRIMARY KEY (rowid>? AND rowid<?)",
		sqlPruneNews:         "PRIMARY KEY (idx<?)",
		sqlLease:             "leases_1 (name=?)",
		sqlNode:              "PRIMARY KEY (level=? AND idx=?)",
		sqlUpdateVersion:     "key_versions_1 (key_id=? AND version=?)",
		sqlDeleteLabel:       "key_labels_name (tenant=? AND label=? AND name=? AND key_id=? AND value=?)",
	} {
		text := explain(t, s, query)
		if !strings.Contains(text, want) || strings.Contains(text, "SCAN") || strings.Contains(text, "FOR ORDER BY") {
			t.Errorf("%s\n\tplan: %s\n\twant: %s", query, text, want)
		}
	}
}

// TestNodesPlan: what is walked through is the list of the names alone.
func TestNodesPlan(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	text := explain(t, s, sqlNodes)
	if !strings.Contains(text, "SCAN w VIRTUAL TABLE") || !strings.Contains(text, "SEARCH n USING PRIMARY KEY (level=? AND idx=?)") || strings.Count(text, "SCAN") != 1 {
		t.Errorf("plan: %s", text)
	}
}

// explain gives the steps of a query's plan.
func explain(t *testing.T, s *Store, query string) string {
	t.Helper()
	query = positional(query)
	// Parameters count for nothing in a plan, but the driver wants them.
	args := make([]any, strings.Count(query, "?"))
	rows, err := s.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatalf("%v in %s", err, query)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, step)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(plan, "; ")
}

// positional puts ? in the place of every named parameter.
func positional(query string) string {
	var b strings.Builder
	for i := 0; i < len(query); i++ {
		if query[i] != ':' {
			b.WriteByte(query[i])
			continue
		}
		for i+1 < len(query) && (query[i+1] == '_' || query[i+1] >= 'a' && query[i+1] <= 'z') {
			i++
		}
		b.WriteString("?")
	}
	return b.String()
}
