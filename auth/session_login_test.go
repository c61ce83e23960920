package auth

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
)

// issuers is the sign-in at one issuer, main, which lets in whoever brings the code good. The real one is tested in auth/oidc.
type issuers struct {
	login *Login
	role  Role
	err   error
}

func (i *issuers) Issuer(name string) (string, error) {
	if name != "" && name != "main" {
		return "", fault.New(fault.BadQuery, "no such issuer")
	}
	return "main", nil
}

func (i *issuers) Address(_ context.Context, l *Login) (string, error) {
	i.login = l
	return "https://login.example.org/?state=" + l.State, i.err
}

func (i *issuers) Redeem(_ context.Context, l *Login, code, _, _ string) (*Identity, error) {
	if code != "good" || l.Nonce != i.login.Nonce || l.Verifier != i.login.Verifier {
		return nil, fault.New(fault.Unauthenticated, "no")
	}
	return &Identity{Issuer: "https://login.example.org", Subject: "alice", Assignment: &Assignment{Role: i.role}}, i.err
}

func (r *rig) signsIn() *issuers {
	i := &issuers{role: RoleOwner}
	r.signIn = i
	return i
}

func TestLogin(t *testing.T) {
	r := newRig(t)
	_, _, err := r.BeginLogin(t.Context(), "")
	want(t, err, fault.BadQuery)
	_, _, err = r.FinishLogin(t.Context(), &LoginReturn{})
	want(t, err, fault.Unauthenticated)
	i := r.signsIn()
	_, _, err = r.BeginLogin(t.Context(), "other")
	want(t, err, fault.BadQuery)
	address, kept, err := r.BeginLogin(t.Context(), "main")
	if err != nil || !strings.Contains(address, i.login.State) || strings.Contains(string(kept), i.login.State) || len(i.login.State) != 43 || len(i.login.Verifier) != 43 ||
		i.login.State == i.login.Nonce || i.login.Nonce == i.login.Verifier {
		t.Fatalf("%q %v", address, err)
	}
	back := LoginReturn{Kept: kept, State: i.login.State, Code: "good", ID: "r"}
	_, other, err := r.BeginLogin(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	second := *i.login
	for name, change := range map[string]func(*LoginReturn){
		"no cookie":            func(b *LoginReturn) { b.Kept = nil },
		"another's cookie":     func(b *LoginReturn) { b.Kept = other },
		"another's state":      func(b *LoginReturn) { b.State = second.State },
		"no state":             func(b *LoginReturn) { b.State = "" },
		"a changed cookie":     func(b *LoginReturn) { b.Kept = slices.Clone(kept); b.Kept[len(kept)-1] ^= 1 },
		"a longer cookie":      func(b *LoginReturn) { b.Kept = append(slices.Clone(kept), 0) },
		"nonsense":             func(b *LoginReturn) { b.Kept = []byte("nonsense") },
		"much":                 func(b *LoginReturn) { b.Kept = make([]byte, maxLogin+1) },
		"the issuer's refusal": func(b *LoginReturn) { b.Error = true },
		"no code":              func(b *LoginReturn) { b.Code = "" },
	} {
		b := back
		change(&b)
		if _, _, err := r.FinishLogin(t.Context(), &b); !fault.Has(err, fault.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Each in its own place: the first sign-in may end although a second has begun.
	r.signIn = &issuers{login: mustOpen(t, r.Service, kept), role: RoleOwner}
	r.memory.log()
	x, presented, err := r.FinishLogin(t.Context(), &back)
	if err != nil {
		t.Fatal(err)
	}
	p, err := use(t.Context(), r.Service, presented)
	if err != nil || p.Name != "alice" || p.Role != RoleOwner || !strings.HasPrefix(p.ID, "oidc:") || x.Kind != KindToken || !x.ExpiresAt.Equal(x.CreatedAt.Add(DefaultSessionLifetime)) {
		t.Errorf("%+v, %+v, %v", p, x, err)
	}
	if lines := r.memory.log(); !slices.Equal(lines, []string{"session.create ok by signing in at main"}) {
		t.Errorf("the log says %q", lines)
	}
	// Once, on every node.
	for _, s := range []*Service{r.Service, r.another()} {
		s.signIn = r.signIn
		_, _, err = s.FinishLogin(t.Context(), &back)
		want(t, err, fault.Unauthenticated)
	}
}

func mustOpen(t *testing.T, s *Service, kept []byte) *Login {
	t.Helper()
	l, err := s.openLogin(kept)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLoginDoor(t *testing.T) {
	r := newRig(t)
	i := r.signsIn()
	begin := func() *LoginReturn {
		t.Helper()
		_, kept, err := r.BeginLogin(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return &LoginReturn{Kept: kept, State: i.login.State, Code: "good", Address: netip.MustParseAddr("192.0.2.1"), ID: "r"}
	}
	late := begin()
	r.clock.move(LoginTime)
	_, _, err := r.FinishLogin(t.Context(), late)
	want(t, err, fault.Unauthenticated)
	early := begin()
	r.clock.move(-2 * time.Minute)
	_, _, err = r.FinishLogin(t.Context(), early)
	want(t, err, fault.Unauthenticated)

	// A session that the browser has already ends with the next.
	first, presented, err := r.FinishLogin(t.Context(), begin())
	if err != nil {
		t.Fatal(err)
	}
	again := begin()
	again.Session = presented
	next, renewed, err := r.FinishLogin(t.Context(), again)
	if err != nil || next.ID == first.ID || renewed == presented {
		t.Fatal(err)
	}
	_, err = use(t.Context(), r.Service, presented)
	want(t, err, fault.Unauthenticated)
	r.memory.log()

	r.memory.set(func(m *memory) {
		m.tenants[tenant].Security.CIDRs = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	})
	_, _, err = r.FinishLogin(t.Context(), begin())
	want(t, err, fault.Forbidden)
	r.memory.set(func(m *memory) { m.tenants[tenant].Status = TenantSuspended })
	_, _, err = r.FinishLogin(t.Context(), begin())
	want(t, err, fault.TenantSuspended)
	if lines := r.memory.log(); !slices.Equal(lines, []string{"session.create ERR_FORBIDDEN rule tenant-address", "session.create ERR_TENANT_SUSPENDED rule tenant-suspended"}) {
		t.Errorf("the log says %q", lines)
	}
	i.err = fault.New(fault.Unavailable, "away")
	_, _, err = r.BeginLogin(t.Context(), "")
	want(t, err, fault.Unavailable)
}

// FuzzLogin: whatever a browser brings back that was not sealed here is refused, and nothing of it is made of anything.
func FuzzLogin(f *testing.F) {
	r := newRig(f)
	i := r.signsIn()
	_, kept, err := r.BeginLogin(f.Context(), "")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(kept, i.login.State)
	f.Add([]byte{}, "")
	f.Add(kept[:len(kept)-1], i.login.State)
	f.Fuzz(func(t *testing.T, b []byte, state string) {
		_, _, err := r.FinishLogin(context.Background(), &LoginReturn{Kept: b, State: state, Code: "bad"})
		if !fault.Has(err, fault.Unauthenticated) {
			t.Fatalf("%v", err)
		}
	})
}
