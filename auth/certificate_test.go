package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
)

// issue makes a certificate that is read back from its signed form, as TLS would.
func issue(t testing.TB, until time.Time, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: until.Add(-time.Hour), NotAfter: until, BasicConstraintsValid: true}
	edit(c)
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

func uris(t testing.TB, all ...string) (out []*url.URL) {
	t.Helper()
	for _, text := range all {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

func TestCertificateRules(t *testing.T) {
	r := newRig(t)
	until := r.clock.Now().Add(time.Hour)
	spiffe := func(ids ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = uris(t, ids...) }
	}
	names := func(dns, email string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			if dns != "" {
				c.DNSNames = []string{"first.example", dns}
			}
			if email != "" {
				c.EmailAddresses = []string{email}
			}
		}
	}
	called := func(n pkix.Name) func(*x509.Certificate) { return func(c *x509.Certificate) { c.Subject = n } }
	ca := func(c *x509.Certificate) {
		c.URIs, c.IsCA = uris(t, "spiffe://a.example/x"), true
	}
	signs := func(c *x509.Certificate) {
		c.URIs, c.KeyUsage = uris(t, "spiffe://a.example/x"), x509.KeyUsageCertSign
	}
	for name, c := range map[string]struct {
		rule  CertificateRule
		cert  func(*x509.Certificate)
		match bool
	}{
		"exact":               {CertificateRule{SPIFFEID: "spiffe://a.example/x"}, spiffe("spiffe://a.example/x"), true},
		"below":               {CertificateRule{SPIFFEID: "spiffe://a.example/x/*"}, spiffe("spiffe://a.example/x/y/z"), true},
		"the whole domain":    {CertificateRule{SPIFFEID: "spiffe://a.example/*"}, spiffe("spiffe://a.example/x"), true},
		"not itself":          {CertificateRule{SPIFFEID: "spiffe://a.example/x/*"}, spiffe("spiffe://a.example/x"), false},
		"not beside":          {CertificateRule{SPIFFEID: "spiffe://a.example/x/*"}, spiffe("spiffe://a.example/xy/z"), false},
		"exact is no prefix":  {CertificateRule{SPIFFEID: "spiffe://a.example/x"}, spiffe("spiffe://a.example/x/y"), false},
		"another domain":      {CertificateRule{SPIFFEID: "spiffe://a.example/*"}, spiffe("spiffe://a.example.evil/x"), false},
		"climbing":            {CertificateRule{SPIFFEID: "spiffe://a.example/x/*"}, spiffe("spiffe://a.example/x/../y"), false},
		"two ids":             {CertificateRule{SPIFFEID: "spiffe://a.example/*"}, spiffe("spiffe://a.example/x", "spiffe://a.example/y"), false},
		"another URI beside":  {CertificateRule{SPIFFEID: "spiffe://a.example/*"}, spiffe("spiffe://a.example/x", "urn:example:x"), false},
		"a CA":                {CertificateRule{SPIFFEID: "spiffe://a.example/*"}, ca, false},
		"who signs":           {CertificateRule{SPIFFEID: "spiffe://a.example/*"}, signs, false},
		"a query":             {CertificateRule{SPIFFEID: "spiffe://a.example/*"}, spiffe("spiffe://a.example/x?y"), false},
		"a port":              {CertificateRule{SPIFFEID: "spiffe://a.example/*"}, spiffe("spiffe://a.example:1/x"), false},
		"dns":                 {CertificateRule{DNS: "App.example"}, names("app.Example", ""), true},
		"dns below":           {CertificateRule{DNS: "example"}, names("app.example", ""), false},
		"dns wildcard":        {CertificateRule{DNS: "app.example"}, names("*.example", ""), false},
		"dns is not the CN":   {CertificateRule{DNS: "app.example"}, called(pkix.Name{CommonName: "app.example"}), false},
		"email":               {CertificateRule{Email: "ops@Example.org"}, names("", "ops@example.ORG"), true},
		"email, another case": {CertificateRule{Email: "ops@example.org"}, names("", "Ops@example.org"), false},
		"email domain alone":  {CertificateRule{Email: "ops@example.org"}, names("", "ops@sub.example.org"), false},
		"uri":                 {CertificateRule{URI: "urn:example:x"}, spiffe("urn:example:x"), true},
		"uri prefix":          {CertificateRule{URI: "urn:example:x"}, spiffe("urn:example:xy"), false},
		"subject":             {CertificateRule{Subject: "CN=a,O=b"}, called(pkix.Name{CommonName: "a", Organization: []string{"b"}}), true},
		"subject part":        {CertificateRule{Subject: "CN=a"}, called(pkix.Name{CommonName: "a", Organization: []string{"b"}}), false},
		"subject with a comma": {CertificateRule{Subject: "CN=a,O=b"},
			called(pkix.Name{CommonName: "a,O=b"}), false},
		"no subject": {CertificateRule{Subject: "CN=a"}, spiffe("spiffe://a.example/x"), false},
	} {
		t.Run(name, func(t *testing.T) {
			c.rule.Role = RoleViewer
			if err := c.rule.Check(); err != nil {
				t.Fatal(err)
			}
			s := New(r.memory, r.memory, Options{Derive: fixedRoot, Now: r.clock.Now, Certificates: []CertificateRule{c.rule}})
			p, _, err := s.AuthenticateConnection(t.Context(), &Connection{Chain: []*x509.Certificate{issue(t, until, c.cert)}})
			switch {
			case !c.match:
				want(t, err, fault.Unauthenticated)
			case err != nil:
				t.Error(err)
			case p.Kind != KindCertificate || p.Tenant != tenant || p.Role != RoleViewer || !p.Has(ScopeKeysRead) || p.Has(ScopeKeysWrite) || !strings.HasPrefix(p.ID, "cert:"):
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestCertificateRulesThatCannotBeMeant(t *testing.T) {
	a := Assignment{Role: RoleViewer}
	for name, r := range map[string]CertificateRule{
		"nothing":        {Assignment: a},
		"two":            {DNS: "a.example", URI: "urn:x", Assignment: a},
		"no role":        {DNS: "a.example"},
		"another role":   {DNS: "a.example", Assignment: Assignment{Role: "king"}},
		"another scope":  {DNS: "a.example", Assignment: Assignment{Scopes: []Scope{"keys:all"}}},
		"all domains":    {SPIFFEID: "spiffe://*", Assignment: a},
		"half a segment": {SPIFFEID: "spiffe://a.example/x*", Assignment: a},
		"in between":     {SPIFFEID: "spiffe://a.example/*/x", Assignment: a},
		"capitals":       {SPIFFEID: "spiffe://A.example/x", Assignment: a},
		"a bare domain":  {SPIFFEID: "spiffe://a.example", Assignment: a},
		"slash at end":   {SPIFFEID: "spiffe://a.example/x/", Assignment: a},
		"SPIFFE as URI":  {URI: "spiffe://a.example/x", Assignment: a},
		"DNS wildcard":   {DNS: "*.example", Assignment: a},
		"no address":     {Email: "example.org", Assignment: a},
		"too long":       {Subject: strings.Repeat("x", maxPattern+1), Assignment: a},
	} {
		if r.Check() == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// The first rule that matches is taken; the chain's end is the principal's; a hit reads nothing; a suspension is seen at once.
func TestCertificateLife(t *testing.T) {
	r := newRig(t)
	until := r.clock.Now().Add(time.Hour)
	leaf := issue(t, until, func(c *x509.Certificate) { c.DNSNames = []string{"app.example"} })
	above := issue(t, until.Add(-time.Minute), func(c *x509.Certificate) { c.Subject.CommonName = "CA" })
	s := New(r.memory, r.memory, Options{Derive: fixedRoot, Now: r.clock.Now, Idempotency: r.memory, Certificates: []CertificateRule{
		{DNS: "other.example", Assignment: Assignment{Role: RoleOwner}},
		{DNS: "app.example", Assignment: Assignment{Role: RoleDeveloper, Scopes: []Scope{ScopeAuditRead}, Name: "app"}},
		{DNS: "app.example", Assignment: Assignment{Role: RoleOwner}},
	}})
	c := &Connection{Chain: []*x509.Certificate{leaf, above}}
	p, _, err := s.AuthenticateConnection(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if p.Role != RoleDeveloper || !p.Has(ScopeAuditRead) || p.Name != "app" || !p.ExpiresAt.Equal(above.NotAfter) || len(p.ID) != len("cert:")+64 {
		t.Errorf("%+v", p)
	}
	if again, _, err := s.AuthenticateConnection(t.Context(), c); err != nil || again != p {
		t.Errorf("not remembered: %v", err)
	}
	// Under another chain the same certificate has another end.
	if longer, _, err := s.AuthenticateConnection(t.Context(), &Connection{Chain: []*x509.Certificate{leaf}}); err != nil || !longer.ExpiresAt.Equal(leaf.NotAfter) {
		t.Errorf("%+v, %v", longer, err)
	}

	who := &Principal{ID: "system", Kind: KindSystem, Tenant: tenant, Scopes: Scopes()}
	other, _, _, err := s.CreateTenant(t.Context(), who, CreateTenantRequest{Name: "other"}, "r", noToken)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := New(r.memory, r.memory, Options{Derive: fixedRoot, Now: r.clock.Now, Idempotency: r.memory, Certificates: []CertificateRule{
		{DNS: "app.example", Assignment: Assignment{Role: RoleViewer, Tenant: "other"}}}})
	if p, _, err = elsewhere.AuthenticateConnection(t.Context(), c); err != nil || p.Tenant != other.ID || p.TenantName != "other" {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := elsewhere.SuspendTenant(t.Context(), who, other.ID, "r"); err != nil {
		t.Fatal(err)
	}
	p, d, err := elsewhere.AuthenticateConnection(t.Context(), c)
	want(t, err, fault.TenantSuspended)
	if p == nil || d.Rule != RuleSuspended {
		t.Errorf("whose it was is not said: %+v %+v", p, d)
	}

	r.memory.set(func(m *memory) { m.down = fault.New(fault.StoreUnavailable, "down") })
	r.clock.move(Recheck)
	_, _, err = s.AuthenticateConnection(t.Context(), c)
	want(t, err, fault.StoreUnavailable)
	r.memory.set(func(m *memory) { m.down = nil })
	r.clock.move(59 * time.Minute)
	p, d, err = s.AuthenticateConnection(t.Context(), c)
	want(t, err, fault.Unauthenticated)
	if p == nil || d.Rule != RuleExpired {
		t.Errorf("%+v %+v", p, d)
	}
}

func TestPeers(t *testing.T) {
	r := newRig(t)
	one, two := uint32(1001), uint32(7)
	s := New(r.memory, r.memory, Options{Derive: fixedRoot, Now: r.clock.Now, Peers: []PeerRule{
		{UID: &one, Assignment: Assignment{Role: RoleDeveloper}}, {GID: &two, Assignment: Assignment{Role: RoleViewer, Tenant: tenant.String()}},
		{GID: &one, Assignment: Assignment{Role: RoleViewer, Tenant: "nowhere"}}}})
	for peer, role := range map[Peer]Role{{1001, 7}: RoleDeveloper, {1001, 8}: RoleDeveloper, {5, 7}: RoleViewer, {7, 5}: RoleNone, {0, 0}: RoleNone, {5, 1001}: RoleNone} {
		p, _, err := s.AuthenticateConnection(t.Context(), &Connection{Peer: &peer})
		if role == RoleNone {
			want(t, err, fault.Unauthenticated)
			continue
		}
		if err != nil || p.Role != role || p.Kind != KindPeer || p.ID != "peer:1001" && p.ID != "peer:5" {
			t.Errorf("%+v: %+v, %v", peer, p, err)
		}
	}
	if _, _, err := s.AuthenticateConnection(t.Context(), &Connection{}); !fault.Has(err, fault.Unauthenticated) {
		t.Error(err)
	}
	over := uint32(overflowID)
	for _, bad := range []PeerRule{{Assignment: Assignment{Role: RoleViewer}}, {UID: &one, GID: &two, Assignment: Assignment{Role: RoleViewer}},
		{UID: &over, Assignment: Assignment{Role: RoleViewer}}, {UID: &one}} {
		if bad.Check() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func BenchmarkAuthenticateCertificate(b *testing.B) {
	r := newRig(b)
	leaf := issue(b, time.Now().Add(time.Hour), func(c *x509.Certificate) { c.DNSNames = []string{"app.example"} })
	s := New(r.memory, r.memory, Options{Derive: fixedRoot, Fresh: func() bool { return true },
		Certificates: []CertificateRule{{DNS: "app.example", Assignment: Assignment{Role: RoleViewer}}}})
	c := &Connection{Chain: []*x509.Certificate{leaf}}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.AuthenticateConnection(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzSPIFFEPattern: a pattern matches nothing that is no id of its trust domain.
func FuzzSPIFFEPattern(f *testing.F) {
	f.Add("spiffe://a.example/x/*", "spiffe://a.example/x/y")
	f.Add("spiffe://a.example/*", "spiffe://a.example/../b")
	f.Add("spiffe://a/b", "spiffe://a/b")
	f.Fuzz(func(t *testing.T, pattern, id string) {
		r := CertificateRule{SPIFFEID: pattern, Assignment: Assignment{Role: RoleViewer}}
		u, err := url.Parse(id)
		if err != nil || r.Check() != nil {
			return
		}
		n := &names509{c: &x509.Certificate{URIs: []*url.URL{u}}}
		n.spiffe = spiffeID(n.c)
		if r.match(n) == "" {
			return
		}
		domain, _, _ := strings.Cut(strings.TrimPrefix(pattern, "spiffe://"), "/")
		if u.Scheme != "spiffe" || u.Host != domain || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("%q matches %q", pattern, id)
		}
		for segment := range strings.SplitSeq(strings.TrimPrefix(u.Path, "/"), "/") {
			if segment == "" || segment == "." || segment == ".." { // ..0 is a name like any other
				t.Errorf("%q matches %q", pattern, id)
			}
		}
	})
}
