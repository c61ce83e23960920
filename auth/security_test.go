package auth

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

func TestSecurity(t *testing.T) {
	r := newRig(t)
	_, presented := r.open(t, r.person(RoleAdmin))
	signed, err := use(t.Context(), r.Service, presented)
	if err != nil {
		t.Fatal(err)
	}
	r.memory.log()
	at := netip.MustParseAddr("192.0.2.7")
	of := func(d time.Duration) *time.Duration { return &d }
	ranges := func(text ...string) *[]netip.Prefix {
		list := []netip.Prefix{}
		for _, s := range text {
			list = append(list, netip.MustParsePrefix(s))
		}
		return &list
	}
	// Nobody but an owner or admin in a session.
	_, viewer := r.open(t, r.person(RoleViewer))
	looker, err := use(t.Context(), r.Service, viewer)
	if err != nil {
		t.Fatal(err)
	}
	r.memory.log()
	for _, p := range []*Principal{r.owner, looker, r.person(RoleOwner), system(tenant), {ID: "api-key:x", Kind: KindAPIKey, Tenant: tenant, Role: RoleOwner, Scopes: Scopes()}} {
		_, err := r.SetSecurity(t.Context(), p, SecurityUpdate{SessionIdle: of(time.Minute)}, at, "r")
		want(t, err, fault.Forbidden)
	}
	if lines := r.memory.log(); len(lines) != 5 || lines[0] != "settings.security.set ERR_FORBIDDEN rule session" {
		t.Errorf("the log says %q", lines)
	}
	_, err = r.SetSecurity(t.Context(), nil, SecurityUpdate{}, at, "r")
	want(t, err, fault.Unauthenticated)

	for _, u := range []SecurityUpdate{
		{SessionIdle: of(DefaultSessionIdle + 1)}, {SessionIdle: of(time.Second)}, {SessionIdle: of(-time.Minute)}, {SessionLifetime: of(DefaultSessionLifetime + 1)},
		{APIKeyMaxLifetime: of(-1)}, {APIKeyMaxLifetime: of(time.Second)}, {APIKeyMaxLifetime: of(MaxAPIKeyLifetime + 1)},
		{CIDRs: ranges("198.51.100.0/24")}, // not where the caller is
	} {
		_, err := r.SetSecurity(t.Context(), signed, u, at, "r")
		want(t, err, fault.BadField)
	}
	_, err = r.SetSecurity(t.Context(), signed, SecurityUpdate{CIDRs: ranges("0.0.0.0/0")}, netip.Addr{}, "r") // from nobody knows where
	want(t, err, fault.BadField)

	all := SecurityUpdate{SessionIdle: of(5 * time.Minute), SessionLifetime: of(time.Hour), APIKeyMaxLifetime: of(24 * time.Hour), CIDRs: ranges("192.0.2.99/24", "::ffff:10.1.2.3/104")}
	if _, err := r.SetSecurity(t.Context(), signed, all, at, "r"); err != nil {
		t.Fatal(err)
	}
	// What is not named stays; zero and nothing take away.
	if _, err := r.SetSecurity(t.Context(), signed, SecurityUpdate{SessionIdle: of(0)}, at, "r"); err != nil {
		t.Fatal(err)
	}
	got, err := r.Security(t.Context(), r.owner)
	if err != nil || got.SessionIdle != 0 || got.SessionLifetime != time.Hour || got.APIKeyMaxLifetime != 24*time.Hour ||
		!slices.Equal(got.CIDRs, *ranges("192.0.2.0/24", "10.0.0.0/8")) {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = r.Security(t.Context(), &Principal{ID: "api-key:x", Tenant: tenant})
	want(t, err, fault.InsufficientScope)

	// Every credential of the tenant is held to its addresses, and no other tenant's.
	for address, code := range map[string]fault.Code{"192.0.2.1": "", "10.200.0.1": "", "::ffff:10.0.0.1": "", "198.51.100.1": fault.Forbidden, "2001:db8::1": fault.Forbidden, "": fault.Forbidden} {
		from := netip.Addr{}
		if address != "" {
			from = netip.MustParseAddr(address)
		}
		_, d, err := r.Authenticate(t.Context(), r.key, from)
		want(t, err, code)
		if code != "" && d.Rule != RuleOffice {
			t.Errorf("from %q: %+v", address, d)
		}
		_, _, err = r.AuthenticateSession(t.Context(), &SessionUse{Token: presented, Address: from})
		want(t, err, code)
	}
	fresh, err := r.identify(t.Context(), r.key)
	if err != nil {
		t.Fatal(err)
	}
	_, _, other, err := r.CreateTenant(t.Context(), fresh, CreateTenantRequest{Name: "another"}, "r", idempotency.Token{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Authenticate(t.Context(), other, netip.MustParseAddr("198.51.100.1")); err != nil {
		t.Errorf("another tenant's: %v", err)
	}

	// New API keys expire in time; those that are there stay as they are.
	now := r.clock.Now()
	for _, c := range []struct {
		at   time.Time
		code fault.Code
	}{{time.Time{}, fault.BadField}, {now.Add(24*time.Hour + time.Second), fault.BadField}, {now.Add(24 * time.Hour), ""}} {
		_, _, err := r.CreateAPIKey(t.Context(), fresh, CreateRequest{Name: "k", Role: RoleViewer, ExpiresAt: c.at}, "r", idempotency.Token{})
		want(t, err, c.code)
	}
	if k, err := r.APIKey(t.Context(), fresh, r.record.ID); err != nil || !k.ExpiresAt.IsZero() {
		t.Errorf("the owner's key expires at %v, %v", k.ExpiresAt, err)
	}
	// The operator's changes leave it alone.
	name := "renamed"
	if _, err := r.UpdateTenant(t.Context(), fresh, tenant, TenantUpdate{Name: &name}, "r"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Security(t.Context(), fresh); err != nil || got.SessionLifetime != time.Hour {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := r.SetSecurity(t.Context(), signed, SecurityUpdate{SessionLifetime: of(0), APIKeyMaxLifetime: of(0), CIDRs: ranges()}, at, "r"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Security(t.Context(), fresh); err != nil || !got.None() {
		t.Errorf("%+v, %v", got, err)
	}
	foreign := *signed
	foreign.Tenant = uuid.New()
	_, err = r.SetSecurity(t.Context(), &foreign, SecurityUpdate{}, at, "r")
	want(t, err, fault.TenantNotFound)
}
