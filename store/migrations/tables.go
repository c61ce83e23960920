package migrations

import (
	"io/fs"
	"strconv"
	"strings"
)

// VersionTable is where goose keeps which migrations have been made.
const VersionTable = "schema_version"

// Table says what a backup does with a table of the schema.
type Table struct {
	Name string
	// Why a backup leaves the table out; "": it does not.
	Without string
	// AfterLoad makes a table that is left out right once the others have been filled; "": as the migrations leave it.
	AfterLoad string
}

// Tables lists every table of the newest schema in an order in which they can be filled. A schema of before has fewer. A table that is not
// listed here makes every backup fail, and a test before that.
func Tables() []Table {
	return []Table{
		{Name: "deployment"},
		{Name: "root_state"},
		{Name: "root_slots"},
		{Name: "root_keyring"},
		{Name: "tenants"},
		{Name: "api_keys"},
		{Name: "tenant_settings"},
		{Name: "grants"},
		{Name: "approvals"},
		{Name: "approval_votes"},
		{Name: "keys"},
		{Name: "key_labels"},
		{Name: "key_versions"},
		{Name: "default_keys"},
		{Name: "idempotency"},
		{Name: "jobs"},
		{Name: "tenant_operations"},
		{Name: "webhooks"},
		{Name: "webhook_progress"},
		{Name: "audit_pruned"}, // before the entries: a backup is checked as it comes
		{Name: "audit_entries"},
		{Name: "audit_nodes"},
		{Name: "audit_head"},
		{Name: "audit_checkpoint"},
		{Name: "audit_cosigned"},
		{Name: "audit_sinks"},
		{Name: "news", Without: "what the nodes of the moment tell each other"},
		{Name: "news_floor", Without: "says where news begin: behind the whole log, for a store that is new to every node",
			AfterLoad: "UPDATE news_floor SET idx = (SELECT size FROM audit_head WHERE id = 1) WHERE id = 1"},
		{Name: "leases", Without: "work of the nodes of the moment"},
		{Name: "nodes", Without: "the nodes of the moment"},
		{Name: "rate_buckets", Without: "fill by themselves within minutes"},
		{Name: "sessions", Without: "who is signed in at the moment signs in again: what has ended must not come back"},
		{Name: VersionTable, Without: "written by the migrations; the file says the number"},
	}
}

// Newest gives the number of the last migration that this release knows.
func Newest() (newest int64, err error) {
	files, err := fs.Glob(tree, "*.sql")
	for _, name := range files {
		digits, _, _ := strings.Cut(name, "_")
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return 0, err
		}
		newest = max(newest, n)
	}
	return newest, err
}
