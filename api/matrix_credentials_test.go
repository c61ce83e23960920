package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/auth/oidc"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/ratelimit"
	"github.com/keywright/keywright/transport"
)

// way is how a caller shows who it is other than by a header: by the connection, which may be another service's over the same store.
type way struct {
	handler http.Handler // nil: the one of everything
	prepare func(*http.Request)
}

// The kinds of credentials that the configuration maps.
const (
	byCertificate = "certificate"
	byToken       = "token"
	byPeer        = "peer"
)

// Names of rules beside those of the roles.
const (
	suspendedName = "suspended" // an owner of a tenant of that name
	nowhereName   = "nowhere"   // an owner of a tenant that is not there
	firstName     = "first"     // what the first owner has
)

const trustDomain = "spiffe://matrix.example/"

// assignments are what the configuration gives, by name: the same for every kind.
func assignments() map[string]auth.Assignment {
	out := map[string]auth.Assignment{
		suspendedName: {Tenant: suspendedName, Role: auth.RoleOwner},
		nowhereName:   {Tenant: nowhereName, Role: auth.RoleOwner},
		firstName:     {Role: auth.RoleOwner, Scopes: deploymentScopes()},
	}
	for _, r := range auth.Roles() {
		out[string(r.Role)] = auth.Assignment{Role: r.Role}
	}
	return out
}

// deploymentScopes is what the first owner has beside its role.
func deploymentScopes() []auth.Scope {
	return slices.DeleteFunc(slices.Concat(auth.RoleOperator.Scopes(), []auth.Scope{"audit:export", "backup:read", "backup:write"}),
		func(s auth.Scope) bool { return slices.Contains(auth.RoleOwner.Scopes(), s) })
}

// issuer signs tokens, and is what a real one is to the verifier: discovery and keys over HTTP.
type issuer struct {
	*httptest.Server
	t    testing.TB
	key  *ecdsa.PrivateKey
	away *ecdsa.PrivateKey // not among its keys
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{t: t}
	var err error
	if i.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if i.away, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	for path, answer := range map[string]any{
		"/.well-known/openid-configuration": map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys"},
		"/keys":                             jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}},
	} {
		text, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			if _, err := w.Write(text); err != nil {
				t.Error(err)
			}
		})
	}
	return i
}

// verifier takes tokens of the issuer whose claim matrix names an assignment.
func (i *issuer) verifier() *oidc.Verifier {
	i.t.Helper()
	conf := oidc.Issuer{Issuer: i.URL, Audience: []string{"keywright"}}
	for name, a := range assignments() {
		conf.Mappings = append(conf.Mappings, oidc.Mapping{Claims: map[string]string{"matrix": name}, Assignment: a})
	}
	v, err := oidc.New([]oidc.Issuer{conf}, oidc.Options{})
	if err != nil {
		i.t.Fatal(err)
	}
	return v
}

// token makes one; edit changes its claims.
func (i *issuer) token(name string, key *ecdsa.PrivateKey, edit func(map[string]any)) string {
	i.t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{"iss": i.URL, "sub": "s-" + name, "aud": "keywright", "exp": now + 3600, "iat": now - 7200, "matrix": name}
	if edit != nil {
		edit(claims)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "1"}}, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		i.t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		i.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

// clients issues the certificates of clients.
type clients struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newClients(t testing.TB) *clients {
	t.Helper()
	c := &clients{t: t}
	c.key, c.cert = c.issue(&x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(24 * time.Hour)})
	return c
}

func (c *clients) issue(template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	template.SerialNumber, template.BasicConstraintsValid = big.NewInt(1), true
	template.NotBefore = template.NotAfter.Add(-48 * time.Hour)
	parent, signer := template, key
	if c.cert != nil {
		parent, signer = c.cert, c.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return key, cert
}

// by is the way of one with a certificate of this name, as TLS has verified it.
func (c *clients) by(name string, until time.Time) way {
	c.t.Helper()
	id, err := url.Parse(trustDomain + name)
	if err != nil {
		c.t.Fatal(err)
	}
	_, leaf := c.issue(&x509.Certificate{URIs: []*url.URL{id}, NotAfter: until})
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf, c.cert}}}
	return way{prepare: func(r *http.Request) { r.TLS = state }}
}

func certificateRules() (out []auth.CertificateRule) {
	for name, a := range assignments() {
		out = append(out, auth.CertificateRule{SPIFFEID: trustDomain + name, Assignment: a})
	}
	return out
}

// socket gives the server's end of a Unix socket at the other end of which is this process.
func socket(t testing.TB) net.Conn {
	t.Helper()
	dir, err := os.MkdirTemp("", "kw") // a name of t.TempDir may be too long (unix(7))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := far.Close(); err != nil {
			t.Error(err)
		}
		if err := near.Close(); err != nil {
			t.Error(err)
		}
	})
	return near
}

// peers makes one service for each assignment, over the same store: this process is one user, and a service gives one user one assignment.
func (e *everything) peers(options Options, people func(auth.PeerRule) *auth.Service) {
	e.t.Helper()
	near, uid := socket(e.t), uint32(os.Getuid()) //nolint:gosec // a user's number
	for name, a := range assignments() {
		options.Auth = people(auth.PeerRule{UID: &uid, Assignment: a})
		server, err := New(options)
		if err != nil {
			e.t.Fatal(err)
		}
		e.ways[byPeer+" "+name] = way{handler: server.Handler(), prepare: func(r *http.Request) {
			*r = *r.WithContext(transport.ConnContext(r.Context(), near))
			r.RemoteAddr = "@" // what net/http says of a Unix socket
		}}
	}
}

// credential gives what column.token is for a kind and the name of an assignment.
func (e *everything) credential(kind, name string) string {
	e.t.Helper()
	as := kind + " " + name
	switch kind {
	case byToken:
		return e.issuer.token(name, e.issuer.key, nil)
	case byCertificate:
		if _, there := e.ways[as]; !there {
			e.ways[as] = e.clients.by(name, time.Now().Add(time.Hour))
		}
	}
	if _, there := e.ways[as]; !there {
		e.t.Fatalf("there is no way %s", as)
	}
	return as
}

var kinds = []string{byCertificate, byToken, byPeer}

// otherColumns are the credentials that are no API keys: each role by each kind, and those that are refused at the door.
func (e *everything) otherColumns() (list []column) {
	for _, kind := range kinds {
		for _, r := range auth.Roles() {
			list = append(list, column{name: kind + " " + string(r.Role), token: e.credential(kind, string(r.Role)), scopes: r.Scopes, kind: auth.Kind(kind)})
		}
		list = append(list,
			column{name: kind + " of a suspended tenant", token: e.credential(kind, suspendedName), door: fault.TenantSuspended},
			column{name: kind + " of no tenant", token: e.credential(kind, nowhereName), door: fault.Unauthenticated})
	}
	e.ways["certificate expired"] = e.clients.by("owner", time.Now().Add(-time.Minute))
	e.ways["certificate unknown"] = e.clients.by("somebody", time.Now().Add(time.Hour))
	unverified := e.clients.by("owner", time.Now().Add(time.Hour))
	e.ways["certificate not verified"] = way{prepare: func(r *http.Request) {
		unverified.prepare(r)
		r.TLS = &tls.ConnectionState{PeerCertificates: r.TLS.PeerCertificates}
	}}
	e.ways["peer without rules"] = way{prepare: e.ways[byPeer+" owner"].prepare} // of the service that has none
	for _, name := range []string{"certificate expired", "certificate unknown", "certificate not verified", "peer without rules"} {
		list = append(list, column{name: name, token: name, door: fault.Unauthenticated})
	}
	owner := func(edit func(map[string]any)) string { return e.issuer.token("owner", e.issuer.key, edit) }
	for name, token := range map[string]string{
		"token expired":         owner(func(c map[string]any) { c["exp"] = time.Now().Add(-oidc.Skew - time.Minute).Unix() }),
		"token for others":      owner(func(c map[string]any) { c["aud"] = "elsewhere" }),
		"token of another":      owner(func(c map[string]any) { c["iss"] = "https://login.example.org" }),
		"token to come":         owner(func(c map[string]any) { c["nbf"] = time.Now().Add(time.Hour).Unix() }),
		"token without end":     owner(func(c map[string]any) { delete(c, "exp") }),
		"token of another key":  e.issuer.token("owner", e.issuer.away, nil),
		"token that maps to no": e.issuer.token("king", e.issuer.key, nil),
	} {
		list = append(list, column{name: name, token: token, door: fault.Unauthenticated})
	}
	return list
}

// TestCredentialsAreAlike: a role is the same by whatever credential it comes. Every answer to every probe is byte for byte that of an API key of the role.
func TestCredentialsAreAlike(t *testing.T) {
	e := newEverything(t)
	e.newSuspended()
	made[wire.AttestationKey](e, e.owner, "GET", "/attestation-key", "") // made by who asks first
	// Who it is; a backup, which is never the same twice; parameters that are good for a day from now; the log, which grows with every request.
	differ := []string{"GET /me", "POST /backup", "GET /keys/import-parameters", "GET /audit/export", "GET /audit", "GET /audit/checkpoint", "GET /audit/consistency", "GET /events"}
	type role struct {
		name, key string
		others    map[string]string // by kind
	}
	var roles []role
	for _, r := range auth.Roles() {
		one := role{string(r.Role), e.newAPIKey(e.owner, fmt.Sprintf(`{"name":"role","role":%q}`, r.Role)).Key, map[string]string{}}
		for _, kind := range kinds {
			one.others[kind] = e.credential(kind, one.name)
		}
		roles = append(roles, one)
	}
	var compared atomic.Int64
	var group sync.WaitGroup
	for _, c := range roles {
		group.Go(func() {
			for i := range e.routes {
				r := &e.routes[i]
				if r.Opens {
					continue // for whatever is no API key
				}
				path, body, _, _, err := r.probe()
				if err != nil {
					t.Error(err)
					continue
				}
				want := e.ask(r.Method, path, body, c.key)
				for kind, as := range c.others {
					compared.Add(1)
					got := e.ask(r.Method, path, body, as)
					if want.Code != got.Code || !slices.Contains(differ, r.name()) && shape(want) != shape(got) {
						t.Errorf("%s by %s on %s:\n%s\nby API key\n%s", c.name, kind, r.name(), shape(got), shape(want))
					}
				}
			}
		})
	}
	group.Wait()
	if n := compared.Load(); n < 1500 {
		t.Errorf("only %d answers were compared", n)
	}
}

// TestOwnThingsByAnyCredential: what is there is reached by any kind of credential as by an API key with the same rights.
func TestOwnThingsByAnyCredential(t *testing.T) {
	x := newTenants(t)
	want := x.reachOwn(x.owner)
	want["POST /approvals/{id}/approve"] = http.StatusOK // which the API key itself has asked for; the others have not
	for _, kind := range kinds {
		got := x.reachOwn(x.credential(kind, firstName))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("by %s: (-API key +%s)\n%s", kind, kind, diff)
		}
	}
	if len(want) < 50 {
		t.Errorf("only %d routes were asked", len(want))
	}
}

// TestRateOnEveryAnswer: on every route every answer to a caller with a credential says where it stands, whether the caller may or not; and one request too many is
// 429 before anything else of it is looked at.
func TestRateOnEveryAnswer(t *testing.T) {
	e := newEverything(t)
	viewer := e.newAPIKey(e.owner, `{"name":"viewer","role":"viewer"}`).Key
	slow := e.newAPIKey(e.owner, `{"name":"slow","role":"owner","rate_limit":1}`).Key
	l, err := ratelimit.New(ratelimit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e.limiter, e.plans, e.limited = l, ratelimit.Plans{"": {Tenant: ratelimit.Rate{PerMinute: 1_000_000}}}, &counted{}
	made[wire.Me](e, slow, "GET", "/me", "")
	for i := range e.routes {
		r := &e.routes[i]
		path, body, _, _, err := r.probe()
		if err != nil {
			t.Error(err)
			continue
		}
		for _, as := range []string{e.owner, viewer, slow, e.credential(byToken, "auditor"), e.credential(byCertificate, "owner")} {
			w := e.ask(r.Method, path, body, as)
			for _, name := range []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"} {
				if (w.Header().Get(name) == "") != r.Open {
					t.Errorf("%s: %d with %s %q", r.name(), w.Code, name, w.Header().Get(name))
				}
			}
			if limited := r.answered(w, fault.RateLimited); limited != (as == slow && !r.Open) || limited != (w.Header().Get("Retry-After") != "" && w.Code == http.StatusTooManyRequests) {
				t.Errorf("%s: %d %v", r.name(), w.Code, w.Header())
			}
		}
	}
}
