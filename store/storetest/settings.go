package storetest

import (
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/keys"
)

func testSettings(t *testing.T, e *env) {
	tenant := uuid.New()
	want := func(what string, of uuid.UUID, s keys.Settings) {
		t.Helper()
		got, err := e.TenantSettings(t.Context(), of)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		wantSame(t, what, got, s)
	}
	want("nothing settled", tenant, keys.Settings{})
	e.must(t, e.SetTenantSettings(tenant, keys.Settings{NewKeys: keys.NewKeysPostQuantum}))
	want("set", tenant, keys.Settings{NewKeys: keys.NewKeysPostQuantum})
	e.must(t, e.SetTenantSettings(tenant, keys.Settings{NewKeys: keys.NewKeysHybrid}))
	e.reopen(t)
	want("replaced", tenant, keys.Settings{NewKeys: keys.NewKeysHybrid})
	want("another tenant", uuid.New(), keys.Settings{})
}
