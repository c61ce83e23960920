package storetest

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

func newTenant(name string) *auth.Tenant {
	return &auth.Tenant{ID: uuid.New(), Name: name, Status: auth.TenantActive, CreatedAt: now(), UpdatedAt: now(), Revision: 1}
}

func testTenants(t *testing.T, e *env) {
	var made []*auth.Tenant
	for _, name := range []string{"one", "two", "three", "four"} {
		n := newTenant(name)
		n.Quotas = auth.Quotas{Keys: 7, APIKeys: 3}
		n.Plan = "gold"
		made = append(made, n)
		e.must(t, e.InsertTenant(n))
	}
	same := *made[0]
	same.Name = "five"
	wantFault(t, "same id", e.do(t, e.InsertTenant(&same)), fault.Conflict)
	same = *made[0]
	same.ID = uuid.New()
	wantFault(t, "same name", e.do(t, e.InsertTenant(&same)), fault.NameTaken)
	_, err := e.Tenant(t.Context(), uuid.New())
	wantFault(t, "unknown", err, fault.TenantNotFound)

	changed := *made[1]
	changed.Plan = "silver"
	changed.Name, changed.Status, changed.Quotas, changed.UpdatedAt = "second", auth.TenantSuspended, auth.Quotas{Keys: 1}, now().Add(time.Hour)
	e.must(t, e.UpdateTenant(&changed))
	wantFault(t, "stale", e.do(t, e.UpdateTenant(&changed)), fault.Conflict)
	changed.Revision++
	made[1] = &changed
	taken := changed
	taken.Name = "one"
	wantFault(t, "renamed to a taken name", e.do(t, e.UpdateTenant(&taken)), fault.NameTaken)
	wantFault(t, "changing an unknown one", e.do(t, e.UpdateTenant(newTenant("six"))), fault.Conflict)

	slices.SortFunc(made, func(a, b *auth.Tenant) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	e.reopen(t)
	var listed []*auth.Tenant
	for after := uuid.Nil; ; {
		page, err := e.Tenants(t.Context(), after, 3)
		if err != nil || len(page) > 3 {
			t.Fatal(len(page), err)
		}
		if len(page) == 0 {
			break
		}
		listed = append(listed, page...)
		after = page[len(page)-1].ID
	}
	wantSame(t, "listed", listed, made)
	for _, want := range made {
		got, err := e.Tenant(t.Context(), want.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "by id", got, want)
	}
}

// fill makes as many as it can at once and gives how many there came to be.
func (e *env) fill(t *testing.T, n int, one func(i int) []audit.Change) int {
	t.Helper()
	var group sync.WaitGroup
	var made atomic.Int32
	for i := range n {
		group.Go(func() {
			item := Item(one(i)...)
			if err := e.Commit(t.Context(), []*audit.Item{item}, Extend); err != nil {
				t.Error(err)
				return
			}
			if item.Err == nil {
				made.Add(1)
				return
			}
			wantFault(t, "one too many", item.Err, fault.QuotaExceeded)
		})
	}
	group.Wait()
	return int(made.Load())
}

// has looks at what a tenant is counted to have.
func (e *env) has(t *testing.T, tenant uuid.UUID, keys, apiKeys int64) {
	t.Helper()
	u, err := e.Usage(t.Context(), tenant, now())
	if err != nil || u.Keys != keys || u.APIKeys != apiKeys {
		t.Errorf("%+v %v, want %d keys and %d API keys", u, err, keys, apiKeys)
	}
}

func testKeyQuota(t *testing.T, e *env) {
	tenant := newTenant("small")
	tenant.Quotas.Keys = 3
	e.must(t, e.InsertTenant(tenant))
	made := make([]*keys.Key, 8)
	insert := func(i int) []audit.Change {
		k, v := NewKey(tenant.ID, "key-"+string(rune('a'+i)))
		made[i] = k
		return []audit.Change{e.InsertKey(k, v)}
	}
	if n := e.fill(t, 8, insert); n != 3 {
		t.Errorf("%d keys, want 3", n)
	}
	k, v := NewKey(tenant.ID, "~internal")
	k.Internal = true
	e.must(t, e.InsertKey(k, v))
	e.insert(t, uuid.New(), "of-another", nil)
	e.has(t, tenant.ID, 3, 0)

	// Two in one item, of which the second is too many, are none.
	all, err := e.Keys(t.Context(), tenant.ID, keys.Filter{}, "", 10)
	if err != nil || len(all) != 3 {
		t.Fatal(len(all), err)
	}
	gone := *all[0]
	gone.State = keys.StateDestroyed
	e.must(t, e.UpdateKey(&gone))
	e.has(t, tenant.ID, 2, 0)
	a, av := NewKey(tenant.ID, "pair-a")
	b, bv := NewKey(tenant.ID, "pair-b")
	wantFault(t, "a pair", e.do(t, e.InsertKey(a, av), e.InsertKey(b, bv)), fault.QuotaExceeded)
	e.must(t, e.InsertKey(a, av))
	wantFault(t, "one more", e.do(t, e.InsertKey(b, bv)), fault.QuotaExceeded)
	tenant.Quotas.Keys = 0
	e.must(t, e.UpdateTenant(tenant))
	e.must(t, e.InsertKey(b, bv))
}

func newAPIKey(tenant uuid.UUID, prefix string) *auth.APIKey {
	return &auth.APIKey{ID: uuid.New(), Tenant: tenant, Name: "ci", Brand: "kw", Prefix: prefix, MAC: [32]byte{1}, CreatedAt: now(), CreatedBy: "system",
		Makers: []string{"system"}}
}

func testAPIKeyQuota(t *testing.T, e *env) {
	tenant := newTenant("small")
	tenant.Quotas.APIKeys = 2
	e.must(t, e.InsertTenant(tenant))
	old := newAPIKey(tenant.ID, "old")
	old.ExpiresAt = now().Add(-time.Minute)
	e.must(t, e.InsertAPIKey(old)) // is not counted
	if n := e.fill(t, 6, func(i int) []audit.Change {
		return []audit.Change{e.InsertAPIKey(newAPIKey(tenant.ID, "p"+string(rune('a'+i))))}
	}); n != 2 {
		t.Errorf("%d API keys, want 2", n)
	}
	e.has(t, tenant.ID, 0, 2)
	all, err := e.APIKeys(t.Context(), tenant.ID, uuid.Nil, 10)
	if err != nil || len(all) != 3 {
		t.Fatal(len(all), err)
	}
	for _, k := range all {
		if k.ID != old.ID {
			e.must(t, e.RevokeAPIKey(tenant.ID, k.ID, now()))
			e.has(t, tenant.ID, 0, 1)
			break
		}
	}
	e.must(t, e.InsertAPIKey(newAPIKey(tenant.ID, "next")))
	wantFault(t, "one more", e.do(t, e.InsertAPIKey(newAPIKey(tenant.ID, "last"))), fault.QuotaExceeded)
	e.must(t, e.InsertAPIKey(newAPIKey(uuid.New(), "elsewhere")))
}

func testRotateAPIKey(t *testing.T, e *env) {
	tenant := uuid.New()
	k := newAPIKey(tenant, "first")
	other := newAPIKey(tenant, "taken")
	e.must(t, e.InsertAPIKey(k), e.InsertAPIKey(other))
	next := *k
	next.Prefix, next.MAC, next.RotatedAt, next.RotatedBy = "second", [32]byte{2}, now(), "api-key:x"
	next.Makers, next.ShownAt = []string{"system", "api-key:x"}, next.RotatedAt
	next.Previous = auth.PreviousSecret{Prefix: "first", MAC: k.MAC, Until: now().Add(time.Hour)}
	e.must(t, e.RotateAPIKey(&next, k.MAC))
	e.reopen(t)
	for _, prefix := range []string{"first", "second"} {
		got, err := e.APIKeyByPrefix(t.Context(), "kw", prefix)
		if err != nil {
			t.Fatal(prefix, err)
		}
		wantSame(t, prefix, got, &next)
	}
	wantFault(t, "of a secret that is not the present one", e.do(t, e.RotateAPIKey(&next, k.MAC)), fault.Conflict)
	clash := next
	clash.Prefix, clash.MAC = "taken", [32]byte{3}
	wantFault(t, "to a prefix that is taken", e.do(t, e.RotateAPIKey(&clash, next.MAC)), fault.Conflict)
	unknown := next
	unknown.ID = uuid.New()
	wantFault(t, "an unknown one", e.do(t, e.RotateAPIKey(&unknown, next.MAC)), fault.APIKeyNotFound)
	foreign := next
	foreign.Tenant = uuid.New()
	wantFault(t, "another tenant's", e.do(t, e.RotateAPIKey(&foreign, next.MAC)), fault.APIKeyNotFound)

	last := next
	last.Prefix, last.MAC, last.Previous = "third", [32]byte{4}, auth.PreviousSecret{}
	e.must(t, e.RotateAPIKey(&last, next.MAC))
	for _, prefix := range []string{"first", "second"} {
		_, err := e.APIKeyByPrefix(t.Context(), "kw", prefix)
		wantFault(t, prefix, err, fault.APIKeyNotFound)
	}
	e.must(t, e.RevokeAPIKey(tenant, k.ID, now()))
	after := last
	after.Prefix = "fourth"
	wantFault(t, "a revoked one", e.do(t, e.RotateAPIKey(&after, last.MAC)), fault.Conflict)
}
