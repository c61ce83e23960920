// Package oidc checks tokens that other issuers have signed: JSON Web Tokens (RFC 7519) as OpenID Connect providers, Kubernetes and build services
// issue them.
//
// It trusts each configured issuer for its own tokens alone, reached over TLS with a certificate of the system's or of the issuer's own authority, and nothing in a token before its signature
// has been verified by a key of that issuer. It keeps no token, and logs nothing of one.
package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// Issuer is whose tokens are taken, for whom they must be, and what they are good for.
type Issuer struct {
	// Issuer is the claim iss, exactly, and where discovery begins (OpenID Connect Discovery 1.0 section 4). An https URL; http on loopback alone.
	Issuer string
	// Audience are the values of the claim aud that are meant for this service: a token must have one of them. Required without Login; with it alone, no
	// token is taken but by signing in.
	Audience []string
	// JWKSURL is where the issuer's keys are (RFC 7517). Default: what discovery says.
	JWKSURL string
	// Algorithms that are taken, of Algorithms. Default: RS256, ES256 and EdDSA.
	Algorithms []string
	// Roots are whose certificates the issuer's own is to chain to. Default: the system's.
	Roots *x509.CertPool
	// Login lets people sign in with a browser. Nil: they don't.
	Login *Login
	// Mappings say what a token is good for: the first of which all claims are there. A token that none matches is good for nothing.
	Mappings []Mapping
}

// Mapping assigns by claims. A name that begins with / is a JSON pointer (RFC 6901) into the claims, else it is a claim's. A claim matches that is the value
// as a text, a list that holds it, or true or false in the same word.
type Mapping struct {
	Claims map[string]string
	auth.Assignment
}

// Bounds.
const (
	MaxToken    = 8 << 10          // bytes of a token
	Skew        = time.Minute      // by which the clocks of issuer and service may differ
	maxSubject  = 1024             // bytes
	maxMappings = 256              // of an issuer
	maxClaims   = 16               // of a mapping
	refresh     = time.Hour        // after which keys are fetched again
	keep        = 24 * time.Hour   // how long keys are good while their issuer is away
	pause       = 30 * time.Second // between two fetches at least, whatever tokens name
	hurry       = 2 * time.Second  // the same while there are no keys at all
	fetchTime   = 5 * time.Second
	maxDocument = 1 << 20 // bytes
	maxKeys     = 100
)

// Algorithms lists what signatures can be taken: nothing with a shared key, and no "none".
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// Check refuses what cannot be meant.
func (i *Issuer) Check() error {
	if err := checkURL(i.Issuer); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if i.JWKSURL != "" {
		if err := checkURL(i.JWKSURL); err != nil {
			return fmt.Errorf("jwks_url: %w", err)
		}
	}
	if len(i.Audience) == 0 && i.Login == nil || slices.Contains(i.Audience, "") {
		return errors.New("an issuer needs an audience: whom its tokens are for when they are for this service")
	}
	for _, a := range i.Algorithms {
		if !slices.Contains(Algorithms(), a) {
			return errors.New("algorithms: of " + strings.Join(Algorithms(), ", "))
		}
	}
	if i.Login != nil {
		if err := i.Login.Check(); err != nil {
			return err
		}
	}
	if len(i.Mappings) == 0 || len(i.Mappings) > maxMappings {
		return fmt.Errorf("an issuer needs 1 to %d mappings: without one its tokens are good for nothing", maxMappings)
	}
	for n := range i.Mappings {
		m := &i.Mappings[n]
		if len(m.Claims) == 0 || len(m.Claims) > maxClaims {
			return fmt.Errorf("mappings[%d]: it needs 1 to %d claims", n, maxClaims)
		}
		for name, value := range m.Claims {
			if name == "" || value == "" {
				return fmt.Errorf("mappings[%d]: a claim has a name and a value", n)
			}
		}
		if err := m.Assignment.Check(); err != nil {
			return fmt.Errorf("mappings[%d]: %w", n, err)
		}
	}
	return nil
}

// checkURL wants TLS, or loopback.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		return errors.New("it is to be an https URL without user, query and fragment")
	}
	if u.Scheme == "http" {
		if a, err := netip.ParseAddr(u.Hostname()); u.Hostname() != "localhost" && (err != nil || !a.IsLoopback()) {
			return errors.New("plain http is for loopback: whoever is in between could sign tokens")
		}
	}
	return nil
}

// Options of a Verifier.
type Options struct {
	Transport http.RoundTripper // http.DefaultTransport when nil
	Now       func() time.Time  // time.Now when nil
	Log       *slog.Logger      // why tokens are refused, at level debug, and which issuers are away; discarded when nil
}

// Verifier checks tokens of its issuers. It is safe for concurrent use and has no goroutine of its own.
type Verifier struct {
	issuers map[string]*issuer
	flows   map[string]*flow // by the name of their Login
	now     func() time.Time
	log     *slog.Logger
}

var (
	_ auth.TokenVerifier = (*Verifier)(nil)
	_ auth.SignIn        = (*Verifier)(nil)
)

// issuer is one, with its keys.
type issuer struct {
	Issuer
	algorithms []jose.SignatureAlgorithm
	keys       *keySet
}

// New makes a Verifier. Nothing is fetched before the first token.
func New(issuers []Issuer, o Options) (*Verifier, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	v := &Verifier{issuers: map[string]*issuer{}, flows: map[string]*flow{}, now: o.Now, log: o.Log}
	for n, i := range issuers {
		if err := i.Check(); err != nil {
			return nil, fmt.Errorf("issuer %d: %w", n+1, err)
		}
		if v.issuers[i.Issuer] != nil {
			return nil, fmt.Errorf("issuer %d is there twice", n+1)
		}
		client, err := o.client(i.Roots)
		if err != nil {
			return nil, fmt.Errorf("issuer %d: %w", n+1, err)
		}
		one := &issuer{Issuer: i, keys: newKeySet(i.Issuer, i.JWKSURL, client, o.Now, o.Log)}
		names := i.Algorithms
		if len(names) == 0 {
			names = []string{"RS256", "ES256", "EdDSA"}
		}
		for _, a := range names {
			one.algorithms = append(one.algorithms, jose.SignatureAlgorithm(a))
		}
		v.issuers[i.Issuer] = one
		if i.Login == nil {
			continue
		}
		if v.flows[i.Login.Name] != nil {
			return nil, fmt.Errorf("issuer %d: another has the same name", n+1)
		}
		v.flows[i.Login.Name] = newFlow(i.Login, client, one.keys, o.Now)
	}
	return v, nil
}

// SignsIn reports whether people can sign in with a browser.
func (v *Verifier) SignsIn() bool { return len(v.flows) > 0 }

// client makes the client for one issuer.
func (o *Options) client(roots *x509.CertPool) (*http.Client, error) {
	c := &http.Client{Transport: o.Transport, Timeout: fetchTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("an issuer does not redirect") }}
	if roots == nil {
		return c, nil
	}
	base, ok := o.Transport.(*http.Transport)
	if o.Transport == nil {
		base, ok = http.DefaultTransport.(*http.Transport)
	}
	if !ok {
		return nil, errors.New("certificates of an issuer's own need an HTTP transport of the standard library")
	}
	t := base.Clone()
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t.TLSClientConfig.RootCAs = roots
	c.Transport = t
	return c, nil
}

// refusal is why a token is refused, in a fixed word.
type refusal string

func (r refusal) Error() string { return "the token is refused: " + string(r) }

// Verify says whom a token speaks for. Whatever is wrong with it, the answer is fault.Unauthenticated; fault.Unavailable when the issuer's keys are needed
// and cannot be had; fault.Timeout.
func (v *Verifier) Verify(ctx context.Context, token string) (*auth.Identity, error) {
	id, err := v.verify(ctx, token)
	var why refusal
	if errors.As(err, &why) {
		v.log.Debug("a token was refused", "reason", string(why))
		return nil, fault.New(fault.Unauthenticated, "the token is not valid")
	}
	return id, err
}

func (v *Verifier) verify(ctx context.Context, token string) (*auth.Identity, error) {
	_, id, err := v.check(ctx, token, nil)
	return id, err
}

// check verifies a token that is for the audience; nil: for that of its issuer's.
func (v *Verifier) check(ctx context.Context, text string, audience []string) (*token, *auth.Identity, error) {
	t, err := parse(text)
	if err != nil {
		return nil, nil, err
	}
	i := v.issuers[t.issuer]
	if i == nil {
		return nil, nil, refusal("issuer")
	}
	if audience == nil {
		audience = i.Audience
	}
	if !slices.Contains(i.algorithms, t.algorithm) {
		return nil, nil, refusal("algorithm")
	}
	signed, err := jose.ParseSignedCompact(text, i.algorithms)
	if err != nil {
		return nil, nil, refusal("form")
	}
	key, err := i.keys.find(ctx, t.key, t.algorithm)
	if err != nil {
		return nil, nil, err
	}
	if _, err := signed.Verify(key); err != nil {
		return nil, nil, refusal("signature")
	}
	if err := t.current(v.now(), audience); err != nil {
		return nil, nil, err
	}
	for n := range i.Mappings {
		if m := &i.Mappings[n]; t.has(m.Claims) {
			end := t.expires.Add(Skew)
			if last := auth.LatestDate(); end.After(last) {
				end = last // of issuers for whom the last second of 9999 is never
			}
			return t, &auth.Identity{Issuer: t.issuer, Subject: t.subject, ExpiresAt: end, Assignment: &m.Assignment}, nil
		}
	}
	return nil, nil, refusal("mapping")
}
