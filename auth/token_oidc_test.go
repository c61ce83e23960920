package auth

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
)

// verdicts is a TokenVerifier that knows its tokens by heart; the real one is tested in auth/oidc, and both together with the program.
type verdicts struct {
	known map[string]*Identity
	away  bool
	asked int
}

func (v *verdicts) Verify(_ context.Context, token string) (*Identity, error) {
	v.asked++
	if v.away {
		return nil, fault.New(fault.Unavailable, "away")
	}
	if id := v.known[token]; id != nil {
		return id, nil
	}
	return nil, fault.New(fault.Unauthenticated, "no")
}

func TestTokensOfIssuers(t *testing.T) {
	r := newRig(t)
	viewer := &Assignment{Role: RoleViewer}
	v := &verdicts{known: map[string]*Identity{
		"a.b.c": {Issuer: "i", Subject: "alice", ExpiresAt: r.clock.Now().Add(time.Hour), Assignment: viewer},
		"d.e.f": {Issuer: "i", Subject: "alice", ExpiresAt: r.clock.Now().Add(time.Minute), Assignment: viewer},
		"g.h.i": {Issuer: "ia", Subject: "lice", ExpiresAt: r.clock.Now().Add(time.Hour), Assignment: &Assignment{Role: RoleViewer, Tenant: "nowhere"}},
	}}
	s := New(r.memory, r.memory, Options{Derive: fixedRoot, Now: r.clock.Now, Tokens: v, Fresh: func() bool { return true }})
	ask := func(token string) (*Principal, Decision, error) {
		return s.Authenticate(t.Context(), token, netip.Addr{})
	}
	p, _, err := ask("a.b.c")
	if err != nil || p.Kind != KindToken || p.Tenant != tenant || p.Name != "alice" || len(p.ID) != len("oidc:")+64 || !p.Has(ScopeKeysRead) {
		t.Fatalf("%+v, %v", p, err)
	}
	for range 100 {
		if again, _, err := ask("a.b.c"); err != nil || again != p {
			t.Fatal(err)
		}
	}
	if v.asked != 1 {
		t.Errorf("verified %d times", v.asked)
	}
	if other, _, err := ask("d.e.f"); err != nil || other.ID != p.ID {
		t.Errorf("another token of the same subject: %+v, %v", other, err)
	}
	r.clock.move(time.Minute)
	_, d, err := ask("d.e.f")
	want(t, err, fault.Unauthenticated)
	if d.Rule != RuleExpired {
		t.Errorf("%+v", d)
	}
	for _, bad := range []string{"x.y.z", "g.h.i", "..", "a.b", "a.b.c.d"} {
		_, _, err := ask(bad)
		want(t, err, fault.Unauthenticated)
	}
	// An API key is one beside it.
	if _, _, err := ask(r.key); err != nil {
		t.Error(err)
	}
	r.clock.move(tokenMemory)
	v.away = true
	_, _, err = ask("a.b.c")
	want(t, err, fault.Unavailable)
	v.away = false
	if _, _, err := ask("a.b.c"); err != nil {
		t.Error(err)
	}
	r.memory.set(func(m *memory) { m.tenants[tenant].Status = TenantSuspended })
	s.ForgetTenant(tenant)
	p, _, err = ask("a.b.c")
	want(t, err, fault.TenantSuspended)
	if p == nil {
		t.Error("whose it was is not said")
	}
}
