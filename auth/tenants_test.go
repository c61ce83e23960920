package auth

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

// allowed asks Decide for a scope alone.
func allowed(p *Principal, s Scope) error {
	d := Decide(&Request{Principal: p, Any: SetOf(s)})
	return d.Err()
}

// principalOf authenticates a key at a place.
func (r *rig) principalOf(t testing.TB, presented, from string) (*Principal, error) {
	t.Helper()
	var a netip.Addr
	if from != "" {
		a = netip.MustParseAddr(from)
	}
	p, _, err := r.Authenticate(t.Context(), presented, a)
	return p, err
}

func TestTenants(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	made, k, presented, err := r.CreateTenant(ctx, r.owner, CreateTenantRequest{Name: "shop", Quotas: Quotas{Keys: 5}}, "r", noToken)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := r.principalOf(t, presented, "")
	if err != nil || theirs.Tenant != made.ID || theirs.Role != RoleOwner || theirs.TenantName != "shop" || k.Tenant != made.ID {
		t.Fatalf("%+v, %v", theirs, err)
	}
	for _, s := range Scopes() {
		if s.Deployment() && theirs.Has(s) {
			t.Errorf("the owner of a tenant has %s", s)
		}
	}
	second, another := r.another(), r.another()
	if _, err := second.identify(ctx, presented); err != nil {
		t.Fatal(err)
	}
	if _, err := r.SuspendTenant(ctx, r.owner, made.ID, "r"); err != nil {
		t.Fatal(err)
	}
	_, err = r.principalOf(t, presented, "")
	want(t, err, fault.TenantSuspended)
	_, _, err = another.Authenticate(ctx, presented, netip.Addr{})
	want(t, err, fault.TenantSuspended)
	r.clock.move(Recheck)
	_, _, err = second.Authenticate(ctx, presented, netip.Addr{})
	want(t, err, fault.TenantSuspended)
	// A principal that was at hand before has nothing any more either.
	_, _, err = r.CreateAPIKey(ctx, &Principal{ID: "x", Tenant: made.ID, Suspended: true, Scopes: Scopes()}, CreateRequest{Name: "n", Scopes: []Scope{ScopeRead}}, "r", noToken)
	want(t, err, fault.TenantSuspended)
	if _, err := r.ResumeTenant(ctx, r.owner, made.ID, "r"); err != nil {
		t.Fatal(err)
	}
	if p, err := r.principalOf(t, presented, ""); err != nil || p.Suspended {
		t.Error("after resuming:", err)
	}
	_, err = r.SuspendTenant(ctx, r.owner, tenant, "r")
	want(t, err, fault.Forbidden)

	name, many, wrong := "store", int64(9), int64(-1)
	if u, err := r.UpdateTenant(ctx, r.owner, made.ID, TenantUpdate{Name: &name, Keys: &many}, "r"); err != nil || u.Name != "store" || u.Quotas != (Quotas{Keys: 9}) {
		t.Errorf("%+v, %v", u, err)
	}
	_, err = r.UpdateTenant(ctx, r.owner, made.ID, TenantUpdate{APIKeys: &wrong}, "r")
	want(t, err, fault.BadField)
	taken := DefaultTenantName
	_, err = r.UpdateTenant(ctx, r.owner, made.ID, TenantUpdate{Name: &taken}, "r")
	want(t, err, fault.NameTaken)
	_, err = r.UpdateTenant(ctx, r.owner, uuid.New(), TenantUpdate{}, "r")
	want(t, err, fault.TenantNotFound)
	page, next, err := r.Tenants(ctx, r.owner, "", 1)
	if err != nil || len(page) != 1 || next == "" {
		t.Fatal(page, next, err)
	}
	rest, next, err := r.Tenants(ctx, r.owner, next, 1)
	if err != nil || len(rest) != 1 || next != "" || rest[0].ID == page[0].ID {
		t.Error(rest, next, err)
	}

	// Who is no operator sees the own tenant and no other.
	if own, err := r.Tenant(ctx, theirs, made.ID); err != nil || own.ID != made.ID {
		t.Error(err)
	}
	r.memory.log()
	_, err = r.Tenant(ctx, theirs, tenant)
	want(t, err, fault.TenantNotFound)
	_, _, err = r.Tenants(ctx, theirs, "", 0)
	want(t, err, fault.InsufficientScope)
	_, err = r.ResumeTenant(ctx, theirs, made.ID, "r")
	want(t, err, fault.InsufficientScope)
	_, _, _, err = r.CreateTenant(ctx, theirs, CreateTenantRequest{Name: "mine"}, "r", noToken)
	want(t, err, fault.InsufficientScope)
	_, err = r.APIKey(ctx, theirs, r.record.ID)
	want(t, err, fault.APIKeyNotFound)
	want(t, r.RevokeAPIKey(ctx, theirs, r.record.ID, "r"), fault.APIKeyNotFound)
	if diff := cmp.Diff([]string{"tenant.resume ERR_INSUFFICIENT_SCOPE rule no-scope", "tenant.create ERR_INSUFFICIENT_SCOPE rule no-scope",
		"api-key.revoke ERR_API_KEY_NOT_FOUND"}, r.memory.log()); diff != "" {
		t.Error(diff)
	}
}

func TestCreateTenantAgain(t *testing.T) {
	r := newRig(t)
	token := idempotency.Token{Key: "once", Request: [32]byte{1}}
	a, _, first, err := r.CreateTenant(t.Context(), r.owner, CreateTenantRequest{Name: "shop"}, "r", token)
	if err != nil {
		t.Fatal(err)
	}
	b, _, second, err := r.CreateTenant(t.Context(), r.owner, CreateTenantRequest{Name: "shop"}, "r", token)
	if err != nil || a.ID != b.ID || first != second {
		t.Error(err)
	}
	token.Request[0] = 2
	_, _, _, err = r.CreateTenant(t.Context(), r.owner, CreateTenantRequest{Name: "other"}, "r", token)
	want(t, err, fault.IdempotencyConflict)
	_, _, _, err = r.CreateTenant(t.Context(), r.owner, CreateTenantRequest{Name: "shop"}, "r", noToken)
	want(t, err, fault.NameTaken)
	for _, name := range []string{"", " x", strings.Repeat("x", MaxName+1), "a\nb"} {
		_, _, _, err = r.CreateTenant(t.Context(), r.owner, CreateTenantRequest{Name: name}, "r", noToken)
		want(t, err, fault.BadName)
	}
}

func TestRotate(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	k, old := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeEncryptionWrite}})
	self, err := r.principalOf(t, old, "")
	if err != nil {
		t.Fatal(err)
	}
	second := r.another()
	if _, err := second.identify(ctx, old); err != nil {
		t.Fatal(err)
	}
	r.memory.log()
	next, presented, err := r.RotateAPIKey(ctx, self, RotateRequest{ID: k.ID, Overlap: time.Minute}, "r", noToken)
	if err != nil || presented == old || next.ID != k.ID || next.Prefix == k.Prefix {
		t.Fatal(err)
	}
	for _, s := range []string{old, presented} {
		p, err := r.identify(ctx, s)
		if err != nil || p.ID != self.ID || !p.ExpiresAt.IsZero() {
			t.Error(err)
		}
	}
	// Each secret opens by its own prefix alone.
	_, err = r.identify(ctx, "kw_"+k.Prefix+"_"+strings.SplitN(presented, "_", 3)[2])
	want(t, err, fault.Unauthenticated)
	_, err = r.identify(ctx, "kw_"+next.Prefix+"_"+strings.SplitN(old, "_", 3)[2])
	want(t, err, fault.Unauthenticated)
	r.clock.move(time.Minute)
	for _, s := range []*Service{r.Service, second} {
		_, err = s.identify(ctx, old)
		want(t, err, fault.Unauthenticated)
		if _, err := s.identify(ctx, presented); err != nil {
			t.Error("the new one:", err)
		}
	}
	third, _, err := r.RotateAPIKey(ctx, r.owner, RotateRequest{ID: k.ID}, "r", noToken)
	if err != nil || third.RotatedBy != r.owner.ID || third.Previous != (PreviousSecret{}) {
		t.Fatal(err)
	}
	_, err = r.identify(ctx, presented)
	want(t, err, fault.Unauthenticated)
	if diff := cmp.Diff([]string{"api-key.rotate ok overlap 1m0s", "api-key.rotate ok overlap 0s"}, r.memory.log()); diff != "" {
		t.Error(diff)
	}

	// Whoever cannot do what the key can may not have its secret.
	_, settings := r.create(t, CreateRequest{Name: "s", Scopes: []Scope{ScopeSettingsWrite}})
	narrow, err := r.principalOf(t, settings, "")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = r.RotateAPIKey(ctx, narrow, RotateRequest{ID: k.ID}, "r", noToken)
	want(t, err, fault.Forbidden)
	_, _, err = r.RotateAPIKey(ctx, self, RotateRequest{ID: r.record.ID}, "r", noToken)
	want(t, err, fault.InsufficientScope)
	_, _, err = r.RotateAPIKey(ctx, r.owner, RotateRequest{ID: uuid.New()}, "r", noToken)
	want(t, err, fault.APIKeyNotFound)
	_, _, err = r.RotateAPIKey(ctx, r.owner, RotateRequest{ID: k.ID, Overlap: MaxOverlap + 1}, "r", noToken)
	want(t, err, fault.BadField)
	want(t, r.RevokeAPIKey(ctx, r.owner, k.ID, "r"), "")
	_, _, err = r.RotateAPIKey(ctx, r.owner, RotateRequest{ID: k.ID}, "r", noToken)
	want(t, err, fault.Conflict)
	_, _, err = r.RotateAPIKey(ctx, nil, RotateRequest{ID: k.ID}, "r", noToken)
	want(t, err, fault.Unauthenticated)
}

func TestRotateAgain(t *testing.T) {
	r := newRig(t)
	k, _ := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeEncryptionWrite}})
	token := idempotency.Token{Key: "once", Request: [32]byte{1}}
	_, a, err := r.RotateAPIKey(t.Context(), r.owner, RotateRequest{ID: k.ID}, "r", token)
	if err != nil {
		t.Fatal(err)
	}
	_, b, err := r.RotateAPIKey(t.Context(), r.owner, RotateRequest{ID: k.ID}, "r", token)
	if err != nil || a != b {
		t.Error(err)
	}
}

// TestRotateWithin: an API key is shown no secret of another that is good for longer than itself, and nobody is shown one again who may not be any more.
func TestRotateWithin(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	day := r.clock.Now().Add(24 * time.Hour)
	_, presented := r.create(t, CreateRequest{Name: "for a day", Role: RoleAdmin, ExpiresAt: day})
	passing, err := r.principalOf(t, presented, "")
	if err != nil {
		t.Fatal(err)
	}
	lasting, _ := r.create(t, CreateRequest{Name: "lasting", Scopes: []Scope{ScopeKeysRead}})
	later, _ := r.create(t, CreateRequest{Name: "later", Scopes: []Scope{ScopeKeysRead}, ExpiresAt: day.Add(time.Microsecond)})
	for name, k := range map[string]*APIKey{"one that never ends": lasting, "one that ends later": later} {
		if _, _, err := r.RotateAPIKey(ctx, passing, RotateRequest{ID: k.ID}, "r", noToken); !fault.Has(err, fault.Forbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
	sooner, _ := r.create(t, CreateRequest{Name: "sooner", Scopes: []Scope{ScopeKeysRead}, ExpiresAt: day})
	if _, _, err := r.RotateAPIKey(ctx, passing, RotateRequest{ID: sooner.ID}, "r", noToken); err != nil {
		t.Error(err)
	}

	// Who is taken at his word for a while can be taken at it again.
	session := &Principal{ID: "oidc:two", Kind: KindSession, Tenant: tenant, Role: RoleOwner, Scopes: RoleOwner.Scopes(), ExpiresAt: day}
	if _, _, err := r.RotateAPIKey(ctx, session, RotateRequest{ID: lasting.ID}, "r", noToken); err != nil {
		t.Error(err)
	}

	// What is granted to a key is its right too: who could not grant it does not get it by a new secret.
	holder, _ := r.create(t, CreateRequest{Name: "holder", Scopes: []Scope{ScopeKeysRead}})
	r.memory.set(func(m *memory) {
		m.grants = append(m.grants, &Grant{ID: uuid.New(), Tenant: tenant, Key: uuid.New(), Principal: holder.PrincipalID(), Operations: []string{"decrypt"}, ExpiresAt: day})
	})
	for rights, code := range map[Scope]fault.Code{ScopeAuditRead: fault.Forbidden, ScopePoliciesWrite: ""} {
		p := &Principal{ID: "api-key:other", Kind: KindAPIKey, Tenant: tenant, Scopes: []Scope{ScopeSettingsWrite, ScopeKeysRead, rights}}
		on, err := r.AboutAPIKey(ctx, holder, ActionRotate, p)
		if err != nil {
			t.Fatal(err)
		}
		if d := DecideAct(p, r.clock.Now(), ActionRotate, on); d.Code != code {
			t.Errorf("with %s a dry run says %+v", rights, d)
		}
		_, _, err = r.RotateAPIKey(ctx, p, RotateRequest{ID: holder.ID}, "r", noToken)
		want(t, err, code)
	}
	r.clock.move(24 * time.Hour)
	settings := &Principal{ID: "api-key:other", Kind: KindAPIKey, Tenant: tenant, Scopes: []Scope{ScopeSettingsWrite, ScopeKeysRead}}
	if _, _, err := r.RotateAPIKey(ctx, settings, RotateRequest{ID: holder.ID}, "r", noToken); err != nil {
		t.Error("with grants that are over:", err)
	}

	// One principal has not always the same rights: a token has those of its claims.
	app, _ := r.create(t, CreateRequest{Name: "app", Role: RoleOwner})
	full := &Principal{ID: "oidc:one", Kind: KindToken, Tenant: tenant, Scopes: RoleOwner.Scopes()}
	token := idempotency.Token{Key: "once", Request: [32]byte{1}}
	if _, _, err := r.RotateAPIKey(ctx, full, RotateRequest{ID: app.ID}, "r", token); err != nil {
		t.Fatal(err)
	}
	less := &Principal{ID: "oidc:one", Kind: KindToken, Tenant: tenant, Scopes: []Scope{ScopeSettingsWrite}}
	_, shown, err := r.RotateAPIKey(ctx, less, RotateRequest{ID: app.ID}, "r", token)
	want(t, err, fault.Forbidden)
	if shown != "" {
		t.Error("it was shown again")
	}
	if _, _, err := r.RotateAPIKey(ctx, full, RotateRequest{ID: app.ID}, "r", token); err != nil {
		t.Error(err)
	}
}

// TestOwners: who cannot make an owner cannot end or renew one either.
func TestOwners(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	_, presented := r.create(t, CreateRequest{Name: "admin", Role: RoleAdmin})
	admin, err := r.principalOf(t, presented, "")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = r.CreateAPIKey(ctx, admin, CreateRequest{Name: "o", Role: RoleOwner}, "r", noToken)
	want(t, err, fault.Forbidden)
	want(t, r.RevokeAPIKey(ctx, admin, r.record.ID, "r"), fault.Forbidden)
	_, _, err = r.RotateAPIKey(ctx, admin, RotateRequest{ID: r.record.ID}, "r", noToken)
	want(t, err, fault.Forbidden)
	for _, role := range []Role{RoleAdmin, RoleDeveloper, RoleViewer, RoleAuditor} {
		if _, _, err := r.CreateAPIKey(ctx, admin, CreateRequest{Name: "x", Role: role}, "r", noToken); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	}
	for _, role := range []Role{RoleOperator, RoleBackup} {
		_, _, err = r.CreateAPIKey(ctx, admin, CreateRequest{Name: "x", Role: role}, "r", noToken)
		want(t, err, fault.Forbidden)
	}
	_, _, err = r.CreateAPIKey(ctx, r.owner, CreateRequest{Name: "x", Role: "king"}, "r", noToken)
	want(t, err, fault.BadField)
}

func TestRestrictionsAreInherited(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	cidrs := func(s ...string) (out []netip.Prefix) {
		for _, c := range s {
			out = append(out, netip.MustParsePrefix(c))
		}
		return out
	}
	end := r.clock.Now().Add(time.Hour).UTC()
	_, presented := r.create(t, CreateRequest{Name: "limited", Scopes: []Scope{ScopeSettingsWrite, ScopeRead, ScopeWrite}, ExpiresAt: end, Restrictions: Restrictions{
		Keys: []string{"a", "b"}, Labels: map[string]string{"env": "prod"}, Operations: []string{"sign", "verify"},
		CIDRs: cidrs("10.1.2.3/8", "::ffff:192.0.2.7/120"), RateLimit: 100}})
	p, err := r.principalOf(t, presented, "10.9.9.9")
	if err != nil {
		t.Fatal(err)
	}
	for from, code := range map[string]fault.Code{"192.0.2.200": "", "::ffff:192.0.2.1": "", "192.0.3.1": fault.Forbidden, "": fault.Forbidden, "::1": fault.Forbidden} {
		_, err := r.principalOf(t, presented, from)
		want(t, err, code)
	}
	make := func(scopes []Scope, q Restrictions) (*APIKey, error) {
		k, _, err := r.CreateAPIKey(ctx, p, CreateRequest{Name: "n", Scopes: scopes, Restrictions: q}, "r", noToken)
		return k, err
	}
	k, err := make([]Scope{ScopeKeysRead}, Restrictions{})
	if err != nil || !k.Restrictions.equal(p.Restrictions) || !k.ExpiresAt.Equal(end) {
		t.Errorf("%+v, %v", k, err)
	}
	k, err = make([]Scope{ScopeRead}, Restrictions{Keys: []string{"b", "c"}, Labels: map[string]string{"team": "x"}, Operations: []string{"sign"},
		CIDRs: cidrs("10.7.0.0/16", "0.0.0.0/0"), RateLimit: 5000})
	wantR := Restrictions{Keys: []string{"b"}, Labels: map[string]string{"team": "x", "env": "prod"}, Operations: []string{"sign"},
		CIDRs: cidrs("10.7.0.0/16", "10.0.0.0/8", "192.0.2.0/24"), RateLimit: 100}
	if err != nil || !k.Restrictions.equal(&wantR) {
		t.Errorf("%+v, %v", k, err)
	}
	for name, q := range map[string]Restrictions{
		"keys": {Keys: []string{"c"}}, "labels": {Labels: map[string]string{"env": "test"}}, "operations": {Operations: []string{"decrypt"}},
		"addresses": {CIDRs: cidrs("11.0.0.0/8")},
	} {
		if _, err := make([]Scope{ScopeKeysRead}, q); !fault.Has(err, fault.Forbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, q := range map[string]Restrictions{
		"rate": {RateLimit: -1}, "key": {Keys: []string{"a b"}}, "twice": {Operations: []string{"sign", "sign"}}, "no range": {CIDRs: []netip.Prefix{{}}},
		"mapped": {CIDRs: cidrs("::ffff:0:0/95")}, "label": {Labels: map[string]string{"": "x"}},
	} {
		if _, err := make([]Scope{ScopeKeysRead}, q); !fault.Has(err, fault.BadField) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = make([]Scope{ScopeAuditExport}, Restrictions{})
	want(t, err, fault.Forbidden)
	_, err = make([]Scope{ScopeAuditRead, ScopeEncryptionWrite}, Restrictions{}) // covered by read and write
	want(t, err, "")
}

func TestCoarseScopes(t *testing.T) {
	read, write := &Principal{Scopes: []Scope{ScopeRead}}, &Principal{Scopes: []Scope{ScopeWrite}}
	for _, s := range Scopes() {
		verb := s == ScopeRead || strings.HasSuffix(string(s), ":read")
		if s != ScopeRead && s != ScopeWrite && (read.Has(s) && write.Has(s)) {
			t.Errorf("read and write both have %s", s)
		}
		if read.Has(s) && !verb || write.Has(s) && verb {
			t.Errorf("%s is of the other verb", s)
		}
		if (read.Has(s) || write.Has(s)) && s.Deployment() {
			t.Errorf("%s is of the deployment", s)
		}
	}
	if write.Has(ScopeSettingsWrite) || !read.Has(ScopeAuditRead) || !write.Has(ScopeEncryptionWrite) {
		t.Error("what read and write cover has changed")
	}
}

// TestScopeTable holds the tables against each other.
func TestScopeTable(t *testing.T) {
	seen := map[uint]bool{}
	for _, s := range Scopes() {
		n, ok := s.bit()
		if !ok || seen[n] || n >= 32 {
			t.Errorf("%s has no place of its own", s)
		}
		seen[n] = true
		if got := SetOf(s).List(); len(got) != 1 || got[0] != s {
			t.Errorf("%s comes back as %v", s, got)
		}
		r := Request{Any: SetOf(s)}
		if s != ScopeRead && s != ScopeWrite && r.missing(r.Any, 0) != s {
			t.Errorf("a lack of %s is not named", s)
		}
	}
	for _, i := range Roles() {
		if len(i.Scopes) == 0 || i.Meaning == "" {
			t.Errorf("the role %s is not complete", i.Role)
		}
		tenants := i.Role != RoleOperator && i.Role != RoleBackup
		for _, s := range i.Scopes {
			if s.Deployment() == tenants && s != ScopeBackendsRead {
				t.Errorf("%s has %s", i.Role, s)
			}
		}
	}
}
