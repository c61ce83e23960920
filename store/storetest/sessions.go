package storetest

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

func newSession(tenant uuid.UUID, principal string) *auth.Session {
	return &auth.Session{ID: uuid.Must(uuid.NewV7()), Tenant: tenant, MAC: [32]byte(bytes.Repeat([]byte(uuid.NewString()[:16]), 2)), Principal: principal, Kind: auth.KindToken,
		Name: "alice", Role: auth.RoleAdmin, Scopes: []auth.Scope{"keys:read", "settings:write"}, CreatedAt: now(), SeenAt: now(), ExpiresAt: now().Add(8 * time.Hour)}
}

// living are the sessions that are alive at a time with an idle time of 15 minutes and a lifetime of 8 hours.
func living(at time.Time) auth.Alive {
	return auth.Alive{At: at, Since: at.Add(-8 * time.Hour), Used: at.Add(-15 * time.Minute)}
}

func bounded(perPrincipal, perTenant int) auth.SessionBounds {
	return auth.SessionBounds{PerPrincipal: perPrincipal, PerTenant: perTenant, Alive: living(now())}
}

func testSessions(t *testing.T, e *env) {
	tenant, other := uuid.New(), uuid.New()
	var made []*auth.Session
	for range 5 {
		x := newSession(tenant, "oidc:alice")
		made = append(made, x)
		e.must(t, e.InsertSession(x, auth.SessionBounds{}))
	}
	made[1].Scopes, made[1].Role, made[1].Login = nil, auth.RoleNone, [32]byte{9}
	made[1].ID, made[1].MAC = uuid.Must(uuid.NewV7()), [32]byte{9}
	e.must(t, e.InsertSession(made[1], bounded(0, 0)))
	slices.SortFunc(made, func(a, b *auth.Session) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	foreign := newSession(other, "oidc:bob")
	e.must(t, e.InsertSession(foreign, bounded(1, 1)))

	same := *foreign
	same.MAC = [32]byte{1}
	wantFault(t, "same id", e.do(t, e.InsertSession(&same, auth.SessionBounds{})), fault.Conflict)
	same.ID, same.MAC = uuid.New(), foreign.MAC
	wantFault(t, "same MAC", e.do(t, e.InsertSession(&same, auth.SessionBounds{})), fault.Conflict)
	same.MAC, same.Login = [32]byte{2}, [32]byte{9}
	wantFault(t, "same sign-in", e.do(t, e.InsertSession(&same, auth.SessionBounds{})), fault.Conflict)

	e.reopen(t)
	for _, x := range append(slices.Clone(made), foreign) {
		got, err := e.SessionByMAC(t.Context(), x.MAC)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "by MAC", got, x)
		if got, err = e.Session(t.Context(), x.Tenant, x.ID); err != nil {
			t.Fatal(err)
		}
		wantSame(t, "by id", got, x)
	}
	_, err := e.SessionByMAC(t.Context(), [32]byte{77})
	wantFault(t, "an unknown MAC", err, fault.SessionNotFound)
	_, err = e.Session(t.Context(), other, made[0].ID)
	wantFault(t, "another tenant's", err, fault.SessionNotFound)

	first, err := e.Sessions(t.Context(), tenant, uuid.Nil, living(now()), 4)
	if err != nil {
		t.Fatal(err)
	}
	rest, err := e.Sessions(t.Context(), tenant, first[len(first)-1].ID, living(now()), 4)
	if err != nil {
		t.Fatal(err)
	}
	listed := append(first, rest...)
	if len(first) != 4 || len(rest) < 1 || !slices.ContainsFunc(listed, func(x *auth.Session) bool { return x.ID == made[1].ID }) {
		t.Errorf("pages of %d and %d", len(first), len(rest))
	}

	at := now()
	e.must(t, e.EndSession(tenant, made[0].ID, at))
	e.must(t, e.EndSession(tenant, made[0].ID, at.Add(time.Hour)))
	wantFault(t, "ending an unknown one", e.do(t, e.EndSession(tenant, uuid.New(), at)), fault.SessionNotFound)
	wantFault(t, "ending another tenant's", e.do(t, e.EndSession(other, made[1].ID, at)), fault.SessionNotFound)
	made[0].EndedAt = at
	later := at.Add(time.Minute)
	for _, x := range []*auth.Session{made[0], made[1]} {
		for _, seen := range []time.Time{later, at} { // the earlier one changes nothing
			if err := e.TouchSession(t.Context(), x.ID, seen); err != nil {
				t.Fatal(err)
			}
		}
	}
	made[1].SeenAt = later
	for i := range 2 {
		got, err := e.SessionByMAC(t.Context(), made[i].MAC)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, []string{"ended, and not seen since", "seen"}[i], got, made[i])
	}
	e.must(t, e.EndSessions(tenant, later))
	if got, err := e.Sessions(t.Context(), tenant, uuid.Nil, living(now()), 10); err != nil || len(got) != 0 {
		t.Errorf("%d sessions are left, %v", len(got), err)
	}
	if got, err := e.SessionByMAC(t.Context(), made[0].MAC); err != nil || !got.EndedAt.Equal(at) {
		t.Errorf("the first end was at %v, %v; want %v", got.EndedAt, err, at)
	}
	if got, err := e.Sessions(t.Context(), other, uuid.Nil, living(now()), 10); err != nil || len(got) != 1 {
		t.Errorf("another tenant has %d sessions left, %v", len(got), err)
	}
}

func testSessionBounds(t *testing.T, e *env) {
	tenant := newTenant("busy")
	e.must(t, e.InsertTenant(tenant))
	insert := func(principal string) func(int) []audit.Change {
		return func(int) []audit.Change {
			return []audit.Change{e.InsertSession(newSession(tenant.ID, principal), bounded(3, 5))}
		}
	}
	if n := e.fill(t, 6, insert("oidc:alice")); n != 3 {
		t.Errorf("%d sessions of one principal, want 3", n)
	}
	if n := e.fill(t, 6, insert("oidc:bob")); n != 2 {
		t.Errorf("%d sessions more of the tenant, want 2", n)
	}
	list, err := e.Sessions(t.Context(), tenant.ID, uuid.Nil, living(now()), 10)
	if err != nil || len(list) != 5 {
		t.Fatal(len(list), err)
	}
	// What is not alive makes room: ended, expired, too old, unused for too long.
	e.must(t, e.EndSession(tenant.ID, list[0].ID, now()))
	e.must(t, e.InsertSession(newSession(tenant.ID, "oidc:carol"), bounded(3, 5)))
	wantFault(t, "one too many", e.do(t, e.InsertSession(newSession(tenant.ID, "oidc:carol"), bounded(3, 5))), fault.QuotaExceeded)
	for _, b := range []auth.Alive{{At: now().Add(9 * time.Hour)}, {Since: now().Add(time.Hour)}, {Used: now().Add(time.Hour)}} {
		if list, err := e.Sessions(t.Context(), tenant.ID, uuid.Nil, b, 10); err != nil || len(list) != 0 {
			t.Errorf("%d sessions are alive by %+v, %v", len(list), b, err)
		}
		e.must(t, e.InsertSession(newSession(tenant.ID, "oidc:carol"), auth.SessionBounds{PerPrincipal: 3, PerTenant: 5, Alive: b}))
	}
	tenant.Status = auth.TenantSuspended
	e.must(t, e.UpdateTenant(tenant))
	wantFault(t, "while suspended", e.do(t, e.InsertSession(newSession(tenant.ID, "oidc:dan"), auth.SessionBounds{})), fault.TenantSuspended)
}

func testSessionsPruned(t *testing.T, e *env) {
	tenant := uuid.New()
	old := func() *auth.Session {
		x := newSession(tenant, "oidc:alice")
		x.CreatedAt, x.SeenAt, x.ExpiresAt = now().Add(-9*time.Hour), now().Add(-9*time.Hour), now().Add(-auth.SessionKeep-time.Minute)
		return x
	}
	gone := func(x *auth.Session) bool {
		_, err := e.Session(t.Context(), tenant, x.ID)
		if err != nil {
			wantFault(t, "a pruned session", err, fault.SessionNotFound)
		}
		return err != nil
	}
	kept := old()
	kept.ExpiresAt = now().Add(-time.Minute)
	first, second := old(), old()
	e.must(t, e.InsertSession(kept, auth.SessionBounds{}), e.InsertSession(first, auth.SessionBounds{}), e.InsertSession(second, auth.SessionBounds{}))
	e.must(t, e.InsertSession(newSession(tenant, "oidc:alice"), auth.SessionBounds{}))
	if !gone(first) || !gone(second) || gone(kept) {
		t.Error("a new session does not forget those that expired long ago, and them alone")
	}
	third := old()
	e.must(t, e.InsertSession(third, auth.SessionBounds{}))
	if err := e.PruneSessions(t.Context(), now().Add(-auth.SessionKeep)); err != nil {
		t.Fatal(err)
	}
	if !gone(third) || gone(kept) {
		t.Error("pruned other than what expired before")
	}
}

// testSessionNews: the end of a session is told, its beginning and its use are nobody's business.
func testSessionNews(t *testing.T, e *env) {
	tenant := newTenant("told")
	e.must(t, e.InsertTenant(tenant))
	from := e.size(t)
	x := newSession(tenant.ID, "oidc:alice")
	e.must(t, e.InsertSession(x, auth.SessionBounds{}))
	if err := e.TouchSession(t.Context(), x.ID, now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	e.must(t, e.EndSession(tenant.ID, x.ID, now()))
	e.must(t, e.EndSessions(tenant.ID, now()))
	got, _ := e.news(t, from, 1000)
	var told []cluster.News
	for _, n := range got {
		told = append(told, cluster.News{Kind: n.Kind, ID: n.ID})
	}
	wantSame(t, "news", told, []cluster.News{{Kind: cluster.KindSession, ID: x.ID}, {Kind: cluster.KindTenant, ID: tenant.ID}})
}

func testTenantSecurity(t *testing.T, e *env) {
	n := newTenant("careful")
	n.Security = auth.Security{SessionIdle: time.Minute}
	e.must(t, e.InsertTenant(n))
	for _, c := range []auth.Security{
		{APIKeyMaxLifetime: 720 * time.Hour, CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
			SessionIdle: 5 * time.Minute, SessionLifetime: time.Hour},
		{CIDRs: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}},
		{},
	} {
		n.Security = c
		e.must(t, e.UpdateTenant(n))
		n.Revision++
		e.reopen(t)
		got, err := e.Tenant(t.Context(), n.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "security", got, n)
	}
}
