package auth

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

// TestFresh: while the node knows of changes a cached key needs no look into the store, for however long; while it does not, each use does,
// and fails when the store cannot be asked.
func TestFresh(t *testing.T) {
	r := newRig(t)
	k, presented := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}})
	var fresh atomic.Bool
	fresh.Store(true)
	other := r.another()
	other.fresh = fresh.Load
	accepted := func(what string) {
		t.Helper()
		if _, err := other.identify(t.Context(), presented); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused := func(what string, code fault.Code) {
		t.Helper()
		if _, err := other.identify(t.Context(), presented); !fault.Has(err, code) {
			t.Errorf("%s: %v", what, err)
		}
	}
	accepted("at first")
	before := r.memory.lookups.Load()
	r.clock.move(time.Hour)
	accepted("an hour later")
	r.memory.down = fault.New(fault.StoreUnavailable, "away")
	accepted("without the store")
	if n := r.memory.lookups.Load() - before; n != 0 {
		t.Errorf("%d looks into the store", n)
	}
	fresh.Store(false)
	refused("without the store, and not knowing", fault.StoreUnavailable)
	r.memory.down = nil
	accepted("not knowing")
	accepted("not knowing")
	if n := r.memory.lookups.Load() - before; n != 3 {
		t.Errorf("%d looks into the store, want one for each use", n)
	}
	fresh.Store(true)
	accepted("knowing again")

	if err := r.RevokeAPIKey(t.Context(), r.owner, k.ID, "r"); err != nil {
		t.Fatal(err)
	}
	other.Heard(cluster.News{Kind: cluster.KindKey, ID: k.ID})
	other.Heard(cluster.News{Kind: cluster.KindAPIKey, ID: uuid.New()})
	accepted("before it is told") // or else it was not cached, and what follows proves nothing
	fresh.Store(false)
	refused("revoked, and not knowing", fault.Unauthenticated)
	fresh.Store(true)
	refused("revoked, and forgotten by that", fault.Unauthenticated)
}

// TestHeard: each kind of news about a credential makes it be looked up again.
func TestHeard(t *testing.T) {
	for name, forget := range map[string]func(s *Service, k *APIKey){
		"the key":    func(s *Service, k *APIKey) { s.Heard(cluster.News{Kind: cluster.KindAPIKey, ID: k.ID}) },
		"all keys":   func(s *Service, _ *APIKey) { s.Heard(cluster.News{Kind: cluster.KindAPIKey}) },
		"the tenant": func(s *Service, k *APIKey) { s.Heard(cluster.News{Kind: cluster.KindTenant, ID: k.Tenant}) },
		"everything": func(s *Service, _ *APIKey) { s.ForgetAll() },
	} {
		r := newRig(t)
		k, presented := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}})
		other := r.another()
		other.fresh = func() bool { return true }
		if _, err := other.identify(t.Context(), presented); err != nil {
			t.Fatal(err)
		}
		if err := r.RevokeAPIKey(t.Context(), r.owner, k.ID, "r"); err != nil {
			t.Fatal(err)
		}
		if _, err := other.identify(t.Context(), presented); err != nil {
			t.Errorf("%s: not cached: %v", name, err)
		}
		forget(other, k)
		if _, err := other.identify(t.Context(), presented); !fault.Has(err, fault.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
