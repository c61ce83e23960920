package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/keywright/keywright/api"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/auth/oidc"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/software"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/ratelimit"
	"github.com/keywright/keywright/rekey"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/store/sqlite"
)

// countedReads counts what authentication reads from the store.
type countedReads struct {
	auth.Store
	n atomic.Int64
}

func (c *countedReads) APIKeyByPrefix(ctx context.Context, brand, prefix string) (*auth.APIKey, error) {
	c.n.Add(1)
	return c.Store.APIKeyByPrefix(ctx, brand, prefix)
}

func (c *countedReads) APIKey(ctx context.Context, tenant, id uuid.UUID) (*auth.APIKey, error) {
	c.n.Add(1)
	return c.Store.APIKey(ctx, tenant, id)
}

func (c *countedReads) APIKeys(ctx context.Context, tenant, after uuid.UUID, limit int) ([]*auth.APIKey, error) {
	c.n.Add(1)
	return c.Store.APIKeys(ctx, tenant, after, limit)
}

func (c *countedReads) GrantsOf(ctx context.Context, tenant uuid.UUID, principal string) ([]*auth.Grant, error) {
	c.n.Add(1)
	return c.Store.GrantsOf(ctx, tenant, principal)
}

func (c *countedReads) Tenant(ctx context.Context, id uuid.UUID) (*auth.Tenant, error) {
	c.n.Add(1)
	return c.Store.Tenant(ctx, id)
}

func (c *countedReads) Tenants(ctx context.Context, after uuid.UUID, limit int) ([]*auth.Tenant, error) {
	c.n.Add(1)
	return c.Store.Tenants(ctx, after, limit)
}

// door is the service as cmd/keywright puts it together, in this process, so that a request can be measured without its way over the network: everything
// from the first byte of its headers to the last of its answer.
type door struct {
	handler http.Handler
	store   *sqlite.Store
	reads   *countedReads
	log     *audit.Log
	people  *auth.Service
	owner   *auth.Principal
	issuer  *issuer
	chain   []*x509.Certificate
	plans   ratelimit.Plans
	build   func(limiter api.Limiter) (http.Handler, error) // the same with another limiter
	closers []func() error
}

// doorRate is one that the measurement cannot reach: each request passes both buckets.
var doorRate = ratelimit.Rate{PerMinute: ratelimit.MaxPerMinute}

// spiffe is the identity in the client certificate.
const spiffe = "spiffe://bench.example/ns/payments/sa/api"

func openDoor(ctx context.Context, dir string) (d *door, err error) {
	d = &door{plans: ratelimit.Plans{"": ratelimit.Plan{Tenant: doorRate, Credential: doorRate}}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.store, err = sqlite.Open(ctx, filepath.Join(dir, "door.db"), sqlite.Options{}); err != nil {
		return d, err
	}
	d.closers = append(d.closers, d.store.Close)
	d.reads = &countedReads{Store: d.store}
	if d.log, err = audit.Open(ctx, d.store, audit.Options{Origin: "keywright/bench"}); err != nil {
		return d, err
	}
	d.closers = append(d.closers, func() error { return d.log.Close(context.WithoutCancel(ctx)) })
	keeper := root.New(d.store, d.log, root.Options{Carry: []string{auth.LabelPepper}})
	d.closers = append(d.closers, func() error { keeper.Close(); return nil })
	soft, err := software.Open(ctx, software.Options{Name: "software", DeriveAt: keeper.DeriveAt, Generation: keeper.Generation})
	if err != nil {
		return d, err
	}
	d.closers = append(d.closers, soft.Close)
	backends := []backend.Backend{soft}
	keyService, err := keys.New(keys.Options{Store: d.store, Idempotency: d.store, Recorder: d.log, Backends: backends, Fresh: always})
	if err != nil {
		return d, err
	}
	d.closers = append(d.closers, keyService.Close)
	file := make(secret.Bytes, root.KeyFileSize)
	if _, err := rand.Read(file); err != nil {
		return d, err
	}
	if _, err := keeper.Init(ctx, root.Caller{Principal: "system"}, root.NewSlot{Kind: root.KindKeyFile, KeyFile: file}); err != nil {
		return d, err
	}
	tokens, err := d.others()
	if err != nil {
		return d, err
	}
	rule := auth.CertificateRule{SPIFFEID: "spiffe://bench.example/ns/payments/*", Assignment: auth.Assignment{Role: auth.RoleDeveloper}}
	d.people = auth.New(d.reads, d.log, auth.Options{Derive: keeper.Derive, DeriveAt: keeper.DeriveAt, Generation: keeper.Generation, Idempotency: d.store,
		Fresh: always, Certificates: []auth.CertificateRule{rule}, Tokens: tokens})
	_, owner, err := d.people.Bootstrap(ctx, uuid.New(), nil)
	if err != nil {
		return d, err
	}
	if d.owner, _, err = d.people.Authenticate(ctx, owner, netip.Addr{}); err != nil {
		return d, err
	}
	work := jobs.New(d.store, d.log, jobs.Options{Idempotency: d.store})
	replacing, err := rekey.New(rekey.Options{Root: keeper, Keys: keyService, Jobs: work, Recorder: d.log, Backends: backends})
	if err != nil {
		return d, err
	}
	d.build = func(limiter api.Limiter) (http.Handler, error) {
		s, err := api.New(api.Options{Keys: keyService, Auth: d.people, Root: keeper, Audit: d.log, Jobs: work, Rekey: replacing, Limiter: limiter, Plans: d.plans})
		if err != nil {
			return nil, err
		}
		return s.Handler(), nil
	}
	alone, err := ratelimit.New(ratelimit.Options{})
	if err != nil {
		return d, err
	}
	d.handler, err = d.build(alone)
	return d, err
}

// always is what a node that is alone on its store knows of others' changes: everything.
func always() bool { return true }

// others makes who else may come in: an issuer of tokens, and a client with a certificate.
func (d *door) others() (auth.TokenVerifier, error) {
	var err error
	if d.issuer, err = newIssuer(); err != nil {
		return nil, err
	}
	d.closers = append(d.closers, d.issuer.close)
	if d.chain, err = clientChain(); err != nil {
		return nil, err
	}
	return oidc.New([]oidc.Issuer{{Issuer: d.issuer.url, Audience: []string{"keywright"},
		Mappings: []oidc.Mapping{{Claims: map[string]string{"groups": "payments"}, Assignment: auth.Assignment{Role: auth.RoleDeveloper}}}}}, oidc.Options{})
}

func (d *door) close() error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
	d.closers = nil
	return errors.Join(errs...)
}

// apiKey makes a key of a developer, held to a rate and to where it comes from.
func (d *door) apiKey(ctx context.Context) (string, error) {
	r := auth.CreateRequest{Name: "bench", Role: auth.RoleDeveloper, Restrictions: auth.Restrictions{RateLimit: 1_000_000,
		CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}}}
	_, key, err := d.people.CreateAPIKey(ctx, d.owner, r, "bench", noToken)
	return key, err
}

// clientChain makes a client certificate with a SPIFFE ID and the certificate of who signed it, as TLS leaves a chain that it has verified.
func clientChain() ([]*x509.Certificate, error) {
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	id, err := url.Parse(spiffe)
	if err != nil {
		return nil, err
	}
	from, to := time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour)
	above := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench authority"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	own := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "payments"}, URIs: []*url.URL{id}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	top, err := x509.CreateCertificate(rand.Reader, above, above, authority.Public(), authority)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.CreateCertificate(rand.Reader, own, above, key.Public(), authority)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for _, der := range [][]byte{leaf, top} {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	roots := x509.NewCertPool()
	roots.AddCert(chain[1])
	verified, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, err
	}
	return verified[0], nil
}

// issuer signs tokens, and says with which key over HTTP.
type issuer struct {
	url    string
	key    *ecdsa.PrivateKey
	server *http.Server
}

func newIssuer() (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i := &issuer{url: "http://" + l.Addr().String(), key: key}
	mux := http.NewServeMux()
	answer := func(path string, v any) {
		b, err := json.Marshal(v)
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			if err != nil {
				http.Error(w, "not to be encoded", http.StatusInternalServerError)
				return
			}
			w.Write(b) //nolint:errcheck // who does not take it fails by himself
		})
	}
	answer("/.well-known/openid-configuration", map[string]string{"issuer": i.url, "jwks_uri": i.url + "/keys"})
	answer("/keys", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "one", Algorithm: string(jose.ES256), Use: "sig"}}})
	i.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go i.server.Serve(l) //nolint:errcheck // it ends with close
	return i, nil
}

func (i *issuer) close() error { return i.server.Close() }

// token is one for an hour, of the size that providers' have.
func (i *issuer) token() (string, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "one"}}, nil)
	if err != nil {
		return "", err
	}
	now := time.Now().Unix()
	payload, err := json.Marshal(map[string]any{"iss": i.url, "sub": "system:serviceaccount:payments:api", "aud": "keywright", "exp": now + 3600, "iat": now, "nbf": now,
		"groups": []string{"payments", "staff"}, "email": "payments@bench.example", "kubernetes.io": map[string]any{"namespace": "payments", "pod": map[string]string{
			"name": "api-7d9c6b7f5-x2x9k", "uid": uuid.NewString()}}})
	if err != nil {
		return "", err
	}
	signed, err := s.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// request is one to the route, with a credential.
func (d *door) request(path string, header http.Header, certificate bool) (*http.Request, error) {
	r, err := http.NewRequest(http.MethodGet, path, http.NoBody) //nolint:noctx // it goes nowhere
	if err != nil {
		return nil, err
	}
	r.Header, r.RemoteAddr = header, "192.0.2.7:40000"
	if certificate {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true, VerifiedChains: [][]*x509.Certificate{d.chain}, PeerCertificates: d.chain}
	}
	if r.URL.Path != path {
		return nil, fmt.Errorf("%s is not what was asked for", r.URL.Path)
	}
	return r, nil
}
