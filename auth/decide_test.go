package auth

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/fault"
)

var (
	moment     = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	operations = []string{"encrypt", "sign", "key.rotate", "key.get", "key.update"}
	places     = []string{"", "10.0.0.1", "192.0.2.1", "2001:db8::1"}
	contexts   = []map[string]string{nil, {"app": "a"}, {"app": "b"}, {"app": "a", "x": "y"}}
)

// drawn is a request with everything that it points to its own, so that it can be changed.
type drawn struct {
	Request
	p Principal
	k Key
}

func (d *drawn) request() *Request {
	r := d.Request
	r.Principal = &d.p
	if r.Key != nil {
		r.Key = &d.k
	}
	return &r
}

func drawScopes(t *rapid.T, label string) ScopeSet {
	return SetOf(rapid.SliceOfN(rapid.SampledFrom(Scopes()), 0, 4).Draw(t, label)...)
}

func drawRequest(t *rapid.T) *drawn {
	tenants := []uuid.UUID{{1}, {2}}
	d := &drawn{}
	d.Now = moment
	d.p = Principal{ID: "api-key:x", Tenant: tenants[0], Kind: rapid.SampledFrom([]Kind{KindAPIKey, KindSession, KindToken}).Draw(t, "kind"),
		Role: rapid.SampledFrom([]Role{RoleNone, RoleOwner, RoleAdmin, RoleViewer}).Draw(t, "role"), Suspended: rapid.IntRange(0, 9).Draw(t, "suspended") == 0}
	d.p.Scopes = drawScopes(t, "scopes").List()
	if rapid.IntRange(0, 4).Draw(t, "expires") == 0 {
		d.p.ExpiresAt = moment.Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "expiry")))
	}
	if rapid.Bool().Draw(t, "restricted") {
		r := &Restrictions{}
		if rapid.Bool().Draw(t, "only keys") {
			r.Keys = rapid.SliceOfN(rapid.SampledFrom([]string{"one", "two", uuid.UUID{9}.String()}), 1, 2).Draw(t, "keys")
		}
		if rapid.Bool().Draw(t, "only labels") {
			r.Labels = map[string]string{"env": rapid.SampledFrom([]string{"prod", "test"}).Draw(t, "label")}
		}
		if rapid.Bool().Draw(t, "only operations") {
			r.Operations = rapid.SliceOfN(rapid.SampledFrom(operations), 1, 3).Draw(t, "operations")
		}
		if rapid.Bool().Draw(t, "only places") {
			r.CIDRs = []netip.Prefix{netip.MustParsePrefix(rapid.SampledFrom([]string{"10.0.0.0/8", "2001:db8::/32"}).Draw(t, "place"))}
		}
		d.p.Restrictions = r
	}
	if rapid.IntRange(0, 3).Draw(t, "settled") == 0 {
		d.p.Security = &Security{CIDRs: []netip.Prefix{netip.MustParsePrefix(rapid.SampledFrom([]string{"10.0.0.0/8", "2001:db8::/32"}).Draw(t, "office"))}}
	}
	d.Door = rapid.Bool().Draw(t, "door")
	d.Forged, d.Signed, d.Opens = rapid.IntRange(0, 5).Draw(t, "forged") == 0, rapid.IntRange(0, 5).Draw(t, "signed") == 0, rapid.IntRange(0, 5).Draw(t, "opens") == 0
	if at := rapid.SampledFrom(places).Draw(t, "address"); at != "" {
		d.Address = netip.MustParseAddr(at)
	}
	d.Any, d.All = drawScopes(t, "any"), drawScopes(t, "all")&SetOf(ScopeKeysRead, ScopePoliciesWrite)
	d.Session = rapid.IntRange(0, 5).Draw(t, "session") == 0
	d.Operation = rapid.SampledFrom(operations).Draw(t, "operation")
	d.Uses, d.Reads, d.Grantable = rapid.Bool().Draw(t, "uses"), rapid.Bool().Draw(t, "reads"), rapid.Bool().Draw(t, "grantable")
	d.Pending, d.Guards, d.Approved = rapid.Bool().Draw(t, "pending"), rapid.Bool().Draw(t, "guards"), rapid.Bool().Draw(t, "approved")
	d.Context = rapid.SampledFrom(contexts).Draw(t, "context")
	d.k = Key{ID: uuid.UUID{9}, Tenant: rapid.SampledFrom([]uuid.UUID{tenants[0], tenants[0], tenants[0], tenants[1]}).Draw(t, "tenant"), Name: "one",
		Labels: map[string]string{"env": "prod"}, GrantsOnly: rapid.Bool().Draw(t, "grants only")}
	if rapid.Bool().Draw(t, "key") {
		d.Key = &d.k
	}
	if rapid.Bool().Draw(t, "required") {
		d.k.RequiredContext = []string{"app"}
	}
	if rapid.Bool().Draw(t, "quorum") {
		d.k.Quorum = &Quorum{Operations: rapid.SliceOfN(rapid.SampledFrom(operations), 1, 2).Draw(t, "quorum for"), Approvals: 1, Role: RoleAdmin}
	}
	d.p.Grants = map[uuid.UUID][]Grant{}
	for range rapid.IntRange(0, 3).Draw(t, "grants") {
		g := Grant{ID: uuid.UUID{7}, Key: d.k.ID, Operations: rapid.SliceOfN(rapid.SampledFrom(operations), 1, 2).Draw(t, "granted"),
			Context: rapid.SampledFrom(contexts).Draw(t, "granted for")}
		if rapid.Bool().Draw(t, "grant expires") {
			g.ExpiresAt = moment.Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "grant expiry")))
		}
		d.p.Grants[g.Key] = append(d.p.Grants[g.Key], g)
	}
	return d
}

// less takes one right away, or adds one restriction.
func (d *drawn) less(t *rapid.T) {
	limits := Restrictions{}
	if d.p.Restrictions != nil {
		limits = *d.p.Restrictions
	}
	switch rapid.IntRange(0, 15).Draw(t, "less") {
	case 0:
		if n := len(d.p.Scopes); n > 0 {
			d.p.Scopes = slices.Delete(slices.Clone(d.p.Scopes), 0, 1)
		}
	case 1:
		d.p.Scopes = nil
	case 2:
		if g := d.p.Grants[d.k.ID]; len(g) > 0 {
			d.p.Grants = map[uuid.UUID][]Grant{d.k.ID: g[1:]}
			if len(g) == 1 {
				d.p.Grants = nil
			}
		}
	case 3:
		d.p.Suspended = true
	case 4:
		d.p.ExpiresAt = moment
	case 5:
		if len(limits.Keys) == 0 {
			limits.Keys = []string{"two", "one"}
		}
		limits.Keys = limits.Keys[:len(limits.Keys)-1]
		if len(limits.Keys) == 0 {
			limits.Keys = []string{"none"}
		}
		d.p.Restrictions = &limits
	case 6:
		labels := maps.Clone(limits.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		labels["team"] = "x"
		limits.Labels = labels
		d.p.Restrictions = &limits
	case 7:
		if len(limits.Operations) == 0 {
			limits.Operations = operations
		}
		limits.Operations = limits.Operations[1:]
		if len(limits.Operations) == 0 {
			limits.Operations = []string{"none"}
		}
		d.p.Restrictions = &limits
	case 8:
		if len(limits.CIDRs) == 0 {
			limits.CIDRs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			d.p.Restrictions = &limits
		}
	case 9:
		d.k.GrantsOnly = true
	case 10:
		d.k.RequiredContext = append(slices.Clone(d.k.RequiredContext), "more")
	case 11:
		d.Approved = false
	case 12:
		if d.k.Quorum == nil {
			d.k.Quorum = &Quorum{Operations: operations[:3], Approvals: 1, Role: RoleAdmin}
		} else {
			q := *d.k.Quorum
			q.Operations = operations
			d.k.Quorum = &q
		}
	case 13:
		d.Context = nil
	case 14:
		if d.p.Security == nil {
			d.p.Security = &Security{CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
		}
	case 15:
		d.Forged = true
	}
}

// TestDecideIsMonotonic: taking a right away, or adding a condition, never turns a refusal into a permission.
func TestDecideIsMonotonic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawRequest(t)
		before := Decide(d.request())
		d.less(t)
		after := Decide(d.request())
		if after.Allowed && !before.Allowed {
			t.Fatalf("%+v became %+v of %+v", before, after, d)
		}
	})
}

// TestDecideRules: what must never be allowed, whatever else is said.
func TestDecideRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawRequest(t)
		r := d.request()
		got := Decide(r)
		again := Decide(r)
		if got != again {
			t.Fatalf("%+v, then %+v", got, again)
		}
		if got.Allowed != (got.Code == "") || got.Allowed != (got.Err() == nil) || got.Rule == "" || got.Rule.Explain() == "" {
			t.Fatalf("%+v is not whole", got)
		}
		if !got.Allowed {
			if fault.CodeOf(got.Err()) != got.Code {
				t.Fatalf("%+v gives %v", got, got.Err())
			}
			return
		}
		p, k := r.Principal, r.Key
		switch {
		case p.Suspended, !p.ExpiresAt.IsZero() && !r.Now.Before(p.ExpiresAt):
			t.Fatalf("allowed although suspended or expired: %+v", d)
		case k != nil && k.Tenant != p.Tenant:
			t.Fatalf("allowed across tenants: %+v", d)
		case k != nil && k.GrantsOnly && r.Uses && len(p.Grants) == 0:
			t.Fatalf("allowed without a grant: %+v", d)
		case k != nil && k.Quorum.Covers(r.Operation) && !r.Approved:
			t.Fatalf("allowed without approvals: %+v", d)
		case r.Session && p.Kind != KindSession:
			t.Fatalf("allowed to an API key: %+v", d)
		case r.Door && p.Restrictions != nil && len(p.Restrictions.CIDRs) > 0 && !r.Address.IsValid():
			t.Fatalf("allowed from nowhere: %+v", d)
		case got.ByItem && !r.Pending:
			t.Fatalf("left to the items although there are none: %+v", d)
		}
		// What is left to the items is allowed by no item that the whole would not allow.
		if r.Pending && r.Key != nil {
			whole := *r
			whole.Pending = false
			if one := Decide(&whole); !got.ByItem && !one.Allowed {
				t.Fatalf("allowed for all items, and then not for one: %+v", d)
			}
		}
	})
}

// FuzzDecide holds the same on requests that no generator thought of: every byte decides one thing.
func FuzzDecide(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), "encrypt", "one")
	f.Add([]byte{}, "", "")
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}, "key.update", "00000000-0000-0000-0000-000000000000")
	f.Fuzz(func(t *testing.T, b []byte, operation, name string) {
		var in [16]byte
		copy(in[:], b)
		has := func(n int) bool { return in[n/8]>>(n%8)&1 == 1 }
		p := &Principal{Tenant: uuid.UUID{1}, rights: ScopeSet(binary.LittleEndian.Uint32(in[4:])), Suspended: has(0)}
		if has(1) {
			p.Restrictions = &Restrictions{Keys: []string{name}, Operations: []string{operation}}
		}
		if has(2) {
			p.Grants = map[uuid.UUID][]Grant{{2}: {{Operations: []string{operation}, Context: map[string]string{name: operation}}}}
		}
		k := &Key{ID: uuid.UUID{2}, Tenant: uuid.UUID{1}, Name: name, GrantsOnly: has(3)}
		if has(4) {
			k.Tenant[0]++
		}
		if has(5) {
			k.Quorum = &Quorum{Operations: []string{operation}}
		}
		r := &Request{Principal: p, Now: moment, Any: ScopeSet(binary.LittleEndian.Uint32(in[8:])), All: ScopeSet(binary.LittleEndian.Uint32(in[12:])), Operation: operation,
			Key: k, Uses: has(6), Grantable: has(7), Pending: has(8), Context: map[string]string{name: operation}, Approved: has(9), Guards: has(10)}
		d := Decide(r)
		if d.Allowed && (p.Suspended || k.Tenant != p.Tenant || k.Quorum != nil && !r.Approved && (r.Guards || k.Quorum.Covers(operation))) {
			t.Errorf("%+v allows %+v", d, r)
		}
		if d.Allowed && !has(2) && (k.GrantsOnly && r.Uses || r.Any != 0 && r.Any&p.rights == 0 && p.rights != 0 || !r.All.Within(p.rights) && p.rights != 0) {
			t.Errorf("%+v allows %+v without a right", d, r)
		}
		if (d.Err() == nil) != d.Allowed {
			t.Errorf("%+v and its error differ", d)
		}
	})
}

// hot is a request as the hot path makes it, of a principal with limits and grants.
func hot() *Request {
	id := uuid.New()
	p := &Principal{ID: "api-key:x", Kind: KindAPIKey, Tenant: uuid.UUID{1}, Scopes: []Scope{ScopeRead, ScopeWrite}, Restrictions: &Restrictions{
		Keys: []string{"a", "b", id.String()}, Labels: map[string]string{"env": "prod"}, Operations: []string{"sign", "encrypt"},
		CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}}}
	p.rights = rights(p.Scopes)
	p.Grants = map[uuid.UUID][]Grant{id: {{ID: uuid.New(), Operations: []string{"decrypt", "encrypt"}, Context: map[string]string{"app": "a"}}}}
	k := &Key{ID: id, Tenant: p.Tenant, Name: "orders", Labels: map[string]string{"env": "prod", "team": "x"}, GrantsOnly: true, RequiredContext: []string{"app"}}
	return &Request{Principal: p, Now: moment, Door: true, Address: netip.MustParseAddr("10.1.2.3"), Any: SetOf(ScopeEncryptionWrite), Operation: "encrypt", Uses: true,
		Grantable: true, Key: k, Context: map[string]string{"app": "a"}}
}

func TestDecideAllocatesNothing(t *testing.T) {
	r := hot()
	if d := Decide(r); !d.Allowed || d.Rule != RuleGrant {
		t.Fatalf("%+v", d)
	}
	if n := testing.AllocsPerRun(100, func() { Decide(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	r := hot()
	b.ReportAllocs()
	for b.Loop() {
		if d := Decide(r); !d.Allowed {
			b.Fatal(d)
		}
	}
}

// BenchmarkAuthenticateAndDecide is all that a request costs before its work: who it is, at the door, and about the key.
func BenchmarkAuthenticateAndDecide(b *testing.B) {
	r := newRig(b)
	r.fresh = func() bool { return true } // as where news of other nodes are heard: no look into the store
	_, presented := r.create(b, CreateRequest{Name: "app", Scopes: []Scope{ScopeWrite}, Restrictions: Restrictions{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}})
	at := netip.MustParseAddr("10.1.2.3")
	k := &Key{ID: uuid.New(), Tenant: tenant, Name: "orders"}
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		p, d, err := r.Authenticate(ctx, presented, at)
		if err != nil {
			b.Fatal(d, err)
		}
		q := Request{Principal: p, Now: moment, Any: SetOf(ScopeEncryptionWrite), Operation: "encrypt", Uses: true, Grantable: true, Pending: true}
		if d := Decide(&q); !d.Allowed {
			b.Fatal(d)
		}
		q.Key = k
		if d := Decide(&q); !d.Allowed {
			b.Fatal(d)
		}
	}
}
