package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

// person is one who has shown a token, good for a day.
func (r *rig) person(role Role) *Principal {
	return &Principal{ID: "oidc:" + string(role), Kind: KindToken, Tenant: tenant, TenantName: DefaultTenantName, Name: "alice", Role: role, Scopes: role.Scopes(),
		ExpiresAt: r.clock.Now().Add(24 * time.Hour)}
}

func (r *rig) open(t testing.TB, p *Principal) (*Session, string) {
	t.Helper()
	x, presented, err := r.OpenSession(t.Context(), p, "r")
	if err != nil {
		t.Fatal(err)
	}
	return x, presented
}

// use presents a session as our own page does.
func use(ctx context.Context, s *Service, presented string) (*Principal, error) {
	p, _, err := s.AuthenticateSession(ctx, &SessionUse{Token: presented, Changes: true, CSRF: CSRFToken(presented)})
	return p, err
}

func TestSession(t *testing.T) {
	r := newRig(t)
	p := r.person(RoleAdmin)
	x, presented := r.open(t, p)
	if slices.Contains([]string{presented, strings.TrimPrefix(presented, sessionPrefix)}, x.ID.String()) || len(presented) != SessionTokenSize {
		t.Errorf("presented by %d characters", len(presented))
	}
	got, err := use(t.Context(), r.Service, presented)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != p.ID || got.Kind != KindSession || got.Session != x.ID || got.Role != p.Role || !slices.Equal(got.Scopes, p.Scopes) || got.Tenant != tenant || got.ExpiresAt.IsZero() {
		t.Errorf("%+v", got)
	}
	if text := fmt.Sprintf("%q %+v", r.memory.log(), r.memory.sessions[x.ID]); strings.Contains(text, presented[5:]) || !strings.Contains(text, "session.create ok by token") {
		t.Errorf("log and store have %s", text)
	}
	// A session makes no session, nor does an API key.
	for _, other := range []*Principal{got, r.owner, system(tenant)} {
		_, _, err := r.OpenSession(t.Context(), other, "r")
		want(t, err, fault.Forbidden)
	}
	if lines := r.memory.log(); !slices.Equal(lines, []string{"session.create ERR_FORBIDDEN rule no-session-by", "session.create ERR_FORBIDDEN rule no-session-by", "session.create ERR_FORBIDDEN rule no-session-by"}) {
		t.Errorf("the log says %q", lines)
	}
	_, _, err = r.OpenSession(t.Context(), nil, "r")
	want(t, err, fault.Unauthenticated)

	// What is cached costs no look into the store.
	reads := r.memory.sessionReads.Load()
	for range 10 {
		if _, err := use(t.Context(), r.Service, presented); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.memory.sessionReads.Load() - reads; n != 0 {
		t.Errorf("%d looks into the store", n)
	}
	// Ended, it is gone at once, and stays so.
	if _, err := r.EndSession(t.Context(), got, x.ID, "r"); err != nil {
		t.Fatal(err)
	}
	_, err = use(t.Context(), r.Service, presented)
	want(t, err, fault.Unauthenticated)
	if lines := r.memory.log(); !slices.Equal(lines, []string{"session.leave ok"}) {
		t.Errorf("the log says %q", lines)
	}
}

func TestSessionTokens(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		s := newSession()
		key, ok := parseSession(s)
		if !ok || seen[s] || sessionPrefix+base64.RawURLEncoding.EncodeToString(key[:]) != s {
			t.Fatal("not what it was made of")
		}
		seen[s] = true
	}
	good := newSession()
	key, _ := parseSession(good)
	for _, bad := range []string{"", "kws1_", good[:len(good)-1], good + "A", "kws2_" + good[5:], " " + good, good[:47] + "=", good[:47] + "\n", strings.ToUpper(good[:5]) + good[5:],
		sessionPrefix + strings.Repeat("A", 42) + "B", // another text of the same bits
		good[:20] + "\n" + good[21:]} {
		if _, ok := parseSession(bad); ok {
			t.Errorf("%q was taken", bad)
		}
		if CSRFToken(bad) != "" || sameCSRF(bad, "") {
			t.Errorf("%q has a CSRF token", bad)
		}
	}
	h := hmac.New(sha256.New, key[:]) // RFC 2104, as the page says it
	h.Write([]byte("keywright/v1/csrf"))
	if want := base64.RawURLEncoding.EncodeToString(h.Sum(nil)); CSRFToken(good) != want || !sameCSRF(good, want) || sameCSRF(good, want[:42]) || sameCSRF(good, "") || sameCSRF(newSession(), want) {
		t.Error("the CSRF token is another")
	}
}

func TestSessionTimes(t *testing.T) {
	r := newRig(t)
	p := r.person(RoleOwner)
	alive := func(presented string) bool {
		t.Helper()
		_, err := use(t.Context(), r.Service, presented)
		if err != nil {
			want(t, err, fault.Unauthenticated)
		}
		return err == nil
	}
	// Unused.
	_, idle := r.open(t, p)
	r.clock.move(DefaultSessionIdle - time.Millisecond)
	if !alive(idle) {
		t.Error("ended before its idle time")
	}
	r.clock.move(DefaultSessionIdle)
	if alive(idle) {
		t.Error("alive beyond its idle time")
	}
	// Used all the time, it ends all the same.
	_, used := r.open(t, p)
	for spent := time.Duration(0); spent < DefaultSessionLifetime-5*time.Minute; spent += 5 * time.Minute {
		if !alive(used) {
			t.Fatalf("ended after %v", spent)
		}
		r.clock.move(5 * time.Minute)
	}
	if !alive(used) {
		t.Error("ended too early")
	}
	r.clock.move(5*time.Minute + time.Millisecond)
	if alive(used) {
		t.Error("alive beyond its lifetime")
	}
	// It does not outlive the credential.
	short := r.person(RoleOwner)
	short.ExpiresAt = r.clock.Now().Add(3 * time.Minute)
	x, brief := r.open(t, short)
	if !x.ExpiresAt.Equal(short.ExpiresAt) || !alive(brief) {
		t.Errorf("expires at %v", x.ExpiresAt)
	}
	r.clock.move(3 * time.Minute)
	if alive(brief) {
		t.Error("alive beyond its credential")
	}
	// A look-on is no use.
	_, watched := r.open(t, p)
	for range 3 {
		r.clock.move(5*time.Minute - time.Millisecond)
		if _, _, err := r.AuthenticateSession(t.Context(), &SessionUse{Token: watched, Watches: true}); err != nil {
			t.Fatal(err)
		}
	}
	r.clock.move(time.Second)
	if alive(watched) {
		t.Error("kept alive by looking on")
	}
}

// TestSessionTouches: a use is written about once a minute, and never so that a session lives longer for it.
func TestSessionTouches(t *testing.T) {
	r := newRig(t)
	other := r.another()
	x, presented := r.open(t, r.person(RoleOwner))
	for range 600 {
		if _, err := use(t.Context(), r.Service, presented); err != nil {
			t.Fatal(err)
		}
		r.clock.move(time.Second)
	}
	if n := r.memory.touches.Load(); n < 9 || n > 11 {
		t.Errorf("written %d times in ten minutes", n)
	}
	// Another node knows of it by the store, and takes it for no younger than it is.
	r.clock.move(DefaultSessionIdle - 2*time.Minute)
	if _, err := use(t.Context(), other, presented); err != nil {
		t.Errorf("on another node: %v", err)
	}
	// The node that has it cached learns of the use on the other.
	r.clock.move(DefaultSessionIdle - 2*time.Minute)
	if _, err := use(t.Context(), r.Service, presented); err != nil {
		t.Errorf("used on another node: %v", err)
	}
	// A use that cannot be written is none.
	r.clock.move(2 * time.Minute)
	r.memory.set(func(m *memory) { m.down = fault.New(fault.StoreUnavailable, "down") })
	if _, err := use(t.Context(), r.Service, presented); !fault.Has(err, fault.StoreUnavailable) {
		t.Errorf("while the store is down: %v", err)
	}
	r.memory.set(func(m *memory) { m.down = nil })
	if _, err := use(t.Context(), r.Service, presented); err != nil {
		t.Error(err)
	}
	if got, err := r.OwnSession(t.Context(), &Principal{Kind: KindSession, Tenant: tenant, Session: x.ID}); err != nil || got.SeenAt.After(r.clock.Now()) || r.clock.Now().Sub(got.SeenAt) > time.Minute {
		t.Errorf("seen at %v, %v", got.SeenAt, err)
	}
}

func TestSessionForgery(t *testing.T) {
	r := newRig(t)
	_, presented := r.open(t, r.person(RoleAdmin))
	for name, c := range map[string]struct {
		csrf    string
		changes bool
		ok      bool
	}{
		"reads": {"", false, true}, "reads with another's": {CSRFToken(newSession()), false, true}, "changes": {CSRFToken(presented), true, true},
		"without": {"", true, false}, "another's": {CSRFToken(newSession()), true, false}, "itself": {presented, true, false},
	} {
		p, d, err := r.AuthenticateSession(t.Context(), &SessionUse{Token: presented, Changes: c.changes, CSRF: c.csrf})
		if c.ok != (err == nil) || p == nil {
			t.Errorf("%s: %v", name, err)
		}
		if !c.ok && (d.Rule != RuleForged || !fault.Has(err, fault.Forbidden)) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	_, _, err := r.AuthenticateSession(t.Context(), &SessionUse{Token: newSession()})
	want(t, err, fault.Unauthenticated)
	_, _, err = r.AuthenticateSession(t.Context(), &SessionUse{Token: r.key})
	want(t, err, fault.Unauthenticated)
	_, err = r.identify(t.Context(), presented) // in a header it is nothing
	want(t, err, fault.Unauthenticated)
}

func TestSessionBounds(t *testing.T) {
	r := newRig(t)
	for range DefaultPerPrincipal {
		r.open(t, r.person(RoleAdmin))
	}
	_, _, err := r.OpenSession(t.Context(), r.person(RoleAdmin), "r")
	want(t, err, fault.QuotaExceeded)
	r.open(t, r.person(RoleViewer))
	r.clock.move(DefaultSessionIdle)
	r.open(t, r.person(RoleAdmin)) // those that are idle make room

	list, next, err := r.Sessions(t.Context(), r.owner, "", 0)
	if err != nil || len(list) != 1 || next != "" {
		t.Errorf("%d living sessions, %q, %v", len(list), next, err)
	}
	_, _, err = r.Sessions(t.Context(), r.person(RoleViewer), "", 0)
	want(t, err, fault.InsufficientScope)
	_, _, err = r.Sessions(t.Context(), r.owner, "?", 0)
	want(t, err, fault.BadCursor)
	if err := r.PruneSessions(t.Context()); err != nil || len(r.memory.sessions) != DefaultPerPrincipal+2 {
		t.Errorf("%d are left, %v", len(r.memory.sessions), err)
	}
	r.clock.move(DefaultSessionLifetime + SessionKeep + time.Second)
	if err := r.PruneSessions(t.Context()); err != nil || len(r.memory.sessions) != 0 {
		t.Errorf("%d are left, %v", len(r.memory.sessions), err)
	}
}

func TestEndSession(t *testing.T) {
	r := newRig(t)
	owner, presented := r.open(t, r.person(RoleOwner))
	admin, _ := r.open(t, r.person(RoleAdmin))
	in := func(x *Session) *Principal {
		return &Principal{ID: x.Principal, Kind: KindSession, Session: x.ID, Tenant: x.Tenant, Role: x.Role, Scopes: x.Scopes}
	}
	viewer, _ := r.open(t, r.person(RoleViewer))
	r.memory.log()
	for _, c := range []struct {
		as   *Principal
		id   uuid.UUID
		code fault.Code
	}{
		{in(viewer), admin.ID, fault.InsufficientScope},
		{in(viewer), uuid.New(), fault.InsufficientScope}, // who may not end any is not told which there are
		{in(admin), owner.ID, fault.Forbidden},
		{in(admin), uuid.New(), fault.SessionNotFound},
		{&Principal{ID: "oidc:x", Kind: KindSession, Tenant: uuid.New(), Role: RoleOwner, Scopes: RoleOwner.Scopes()}, admin.ID, fault.SessionNotFound},
		{in(viewer), viewer.ID, ""},
		{in(owner), admin.ID, ""},
		{in(owner), admin.ID, ""},
		{r.owner, owner.ID, ""}, // an API key of an owner
		{nil, owner.ID, fault.Unauthenticated},
	} {
		_, err := r.EndSession(t.Context(), c.as, c.id, "r")
		want(t, err, c.code)
	}
	if lines := r.memory.log(); !slices.Contains(lines, "session.end ERR_FORBIDDEN rule owners") || !slices.Contains(lines, "session.leave ok") || len(lines) != 9 {
		t.Errorf("the log says %q", lines)
	}
	_, err := use(t.Context(), r.Service, presented)
	want(t, err, fault.Unauthenticated)
}

// TestSessionsOnOtherNodes: what ends on one ends on another, by the news and, without them, within a second; what is settled is held to there too.
func TestSessionsOnOtherNodes(t *testing.T) {
	for _, heard := range []bool{true, false} {
		r := newRig(t)
		other := r.another()
		if heard {
			other.fresh = func() bool { return true }
		}
		tell := func(n cluster.News) {
			if heard {
				other.Heard(n)
			} else {
				r.clock.move(Recheck)
			}
		}
		_, presented := r.open(t, r.person(RoleOwner))
		_, second := r.open(t, r.person(RoleOwner))
		for _, s := range []string{presented, second} {
			if _, err := use(t.Context(), other, s); err != nil {
				t.Fatal(err)
			}
		}
		p, err := use(t.Context(), r.Service, presented)
		if err != nil {
			t.Fatal(err)
		}
		idle := 2 * time.Minute
		if _, err := r.SetSecurity(t.Context(), p, SecurityUpdate{SessionIdle: &idle}, netip.Addr{}, "r"); err != nil {
			t.Fatal(err)
		}
		tell(cluster.News{Kind: cluster.KindTenant, ID: tenant})
		if _, err := use(t.Context(), other, second); err != nil {
			t.Fatal(err)
		}
		r.clock.move(idle)
		_, err = use(t.Context(), other, second)
		want(t, err, fault.Unauthenticated)
		_, presented = r.open(t, r.person(RoleOwner))
		if p, err = use(t.Context(), other, presented); err != nil {
			t.Fatal(err)
		}
		if _, err := r.EndSession(t.Context(), p, p.Session, "r"); err != nil {
			t.Fatal(err)
		}
		tell(cluster.News{Kind: cluster.KindSession, ID: p.Session})
		_, err = use(t.Context(), other, presented)
		want(t, err, fault.Unauthenticated)
	}
}

func TestSessionsEndWithTheirTenant(t *testing.T) {
	r := newRig(t)
	made, _, _, err := r.CreateTenant(t.Context(), r.owner, CreateTenantRequest{Name: "guests"}, "r", idempotency.Token{})
	if err != nil {
		t.Fatal(err)
	}
	p := r.person(RoleOwner)
	p.Tenant = made.ID
	_, presented := r.open(t, p)
	if _, err := use(t.Context(), r.Service, presented); err != nil {
		t.Fatal(err)
	}
	if _, err := r.SuspendTenant(t.Context(), r.owner, made.ID, "r"); err != nil {
		t.Fatal(err)
	}
	_, err = use(t.Context(), r.Service, presented)
	want(t, err, fault.Unauthenticated)
	_, _, err = r.OpenSession(t.Context(), p, "r") // on a node that does not know yet
	want(t, err, fault.TenantSuspended)
	if _, err := r.ResumeTenant(t.Context(), r.owner, made.ID, "r"); err != nil {
		t.Fatal(err)
	}
	_, err = use(t.Context(), r.Service, presented)
	want(t, err, fault.Unauthenticated)
}

// TestSessionNeverHasMore: whatever the credential, the settings and the times, a session is never alive beyond any bound, and has the rights of its credential.
func TestSessionNeverHasMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &rig{memory: newMemory(), clock: newClock()}
		minutes := func(label string, most int) time.Duration {
			return time.Duration(rapid.IntRange(0, most).Draw(t, label)) * time.Minute
		}
		rules := SessionRules{Idle: minutes("idle", 60) + time.Minute, Lifetime: minutes("lifetime", 120) + time.Minute}
		r.Service = New(r.memory, r.memory, Options{Derive: fixedRoot, Now: r.clock.Now, Sessions: rules})
		c := Security{SessionIdle: minutes("settled idle", 30), SessionLifetime: minutes("settled lifetime", 60)}
		r.memory.tenants[tenant] = &Tenant{ID: tenant, Name: DefaultTenantName, Status: TenantActive, Security: c}
		p := r.person(rapid.SampledFrom([]Role{RoleOwner, RoleAdmin, RoleViewer}).Draw(t, "role"))
		p.ExpiresAt = r.clock.Now().Add(minutes("credential", 90) + time.Second)
		p.Security = c.shared()
		_, presented, err := r.OpenSession(context.Background(), p, "r")
		if err != nil {
			t.Fatal(err)
		}
		idle, lifetime := rules.Idle, rules.Lifetime
		if c.SessionIdle > 0 {
			idle = min(idle, c.SessionIdle)
		}
		if c.SessionLifetime > 0 {
			lifetime = min(lifetime, c.SessionLifetime)
		}
		begun, last := r.clock.Now(), r.clock.Now()
		for range rapid.IntRange(1, 12).Draw(t, "uses") {
			r.clock.move(time.Duration(rapid.IntRange(1, 40*60).Draw(t, "seconds")) * time.Second)
			now := r.clock.Now()
			want := now.Sub(last) < idle && now.Sub(begun) < lifetime && now.Before(p.ExpiresAt)
			got, err := use(context.Background(), r.Service, presented)
			if err == nil && !want {
				t.Fatalf("alive %v after its beginning and %v after its last use, of %v and %v", now.Sub(begun), now.Sub(last), lifetime, idle)
			}
			// On one node a use is known at once; what is written of it may be a minute old.
			if err != nil && want && now.Sub(last) < idle-min(time.Minute, idle/8) {
				t.Fatalf("ended %v after its beginning and %v after its last use, of %v and %v", now.Sub(begun), now.Sub(last), lifetime, idle)
			}
			if err != nil {
				return
			}
			last = now
			if got.Role != p.Role || !slices.Equal(got.Scopes, p.Scopes) || got.Tenant != p.Tenant || got.ID != p.ID || got.ExpiresAt.After(p.ExpiresAt) {
				t.Fatalf("%+v of %+v", got, p)
			}
		}
	})
}

// TestSessionsAtOnce: many use one, while it is ended: nobody is let in after that.
func TestSessionsAtOnce(t *testing.T) {
	r := newRig(t)
	x, presented := r.open(t, r.person(RoleOwner))
	p, err := use(t.Context(), r.Service, presented)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	ended := make(chan struct{})
	for range 8 {
		group.Go(func() {
			for {
				over := false
				select {
				case <-ended:
					over = true
				default:
				}
				_, err := use(t.Context(), r.Service, presented)
				if over {
					want(t, err, fault.Unauthenticated)
					return
				}
				r.clock.move(time.Millisecond)
			}
		})
	}
	if _, err := r.EndSession(t.Context(), p, x.ID, "r"); err != nil {
		t.Error(err)
	}
	close(ended)
	group.Wait()
}
