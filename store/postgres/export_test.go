package postgres

import (
	"github.com/google/uuid"

	"github.com/keywright/keywright/keys"
)

// Query is a query as a list makes it.
type Query struct {
	SQL  string
	Args []any
}

// KeysQuery gives the query of Keys.
func KeysQuery(tenant uuid.UUID, f keys.Filter, after string, limit int) Query {
	q, args := keysQuery(tenant, f, after, limit)
	return Query{q, args}
}

// Fixed are the other queries that lists and searches make, with the index that each has to be read from.
func Fixed(id []byte) map[string]Query {
	return map[string]Query{
		"keys_due":                 {sqlKeysDue, []any{int64(1), 10, int64(0), id}},
		"key_versions_creating":    {sqlKeysCreating, []any{int64(1), 10, int64(0), id}},
		"key_versions_pkey":        {sqlVersions, []any{id, int64(1), 10}},
		"api_keys_tenant":          {sqlAPIKeys, []any{id, id, 10}},
		"audit_entries_pkey":       {sqlEntries, []any{int64(500), int64(510)}},
		"news_pkey":                {sqlNewsRows, []any{int64(2500), 10}},
		"idempotency_created":      {sqlForgetIdempotency, []any{int64(5)}},
		"jobs_tenant":              {sqlJobs, []any{id, []byte("\xff"), "", "", 10}},
		"jobs_open":                {sqlOpenJobs, []any{int64(1), 4, 10}},
		"jobs_ended":               {sqlPruneJobs, []any{int64(5), 10}},
		"Backward using audit_ent": {sqlSearch, []any{int64(9000), int64(8000), nil, false, nil, false, "", "x", "", int64(0), int64(1 << 60), 10}},
	}
}
