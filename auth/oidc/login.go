package oidc

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Login is what an issuer needs to know of the service so that people sign in with a browser: by the authorization code flow (OpenID Connect Core 1.0
// section 3.1), always with PKCE by S256 (RFC 7636), state and nonce.
type Login struct {
	Name        string                       // by which a browser asks for it
	ClientID    string                       // as the issuer has registered the service; the audience of its ID tokens
	Secret      func() (secret.Bytes, error) // read for each sign-in, and wiped; nil: a public client
	RedirectURL string                       // of the service's callback, exactly as the issuer has registered it; with ?issuer=NAME it is this issuer's own
	Scopes      []string                     // beside openid
}

// own reports whether the issuer has a callback of its own.
func (l *Login) own() bool { return strings.HasSuffix(l.RedirectURL, "?issuer="+l.Name) }

// callbackPath ends every RedirectURL.
const callbackPath = "/api/v1/session/callback"

// Check refuses what cannot be meant.
func (l *Login) Check() error {
	if l.Name == "" || len(l.Name) > 64 || strings.ContainsFunc(l.Name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-'
	}) {
		return errors.New("an issuer for signing in has a name of a-z, 0-9 and -, by which browsers ask for it")
	}
	if l.ClientID == "" || len(l.ClientID) > 1024 {
		return errors.New("client_id: the issuer has registered the service under one")
	}
	at := strings.TrimSuffix(l.RedirectURL, "?issuer="+l.Name)
	if err := checkURL(at); err != nil {
		return fmt.Errorf("redirect_url: %w", err)
	}
	if !strings.HasSuffix(at, callbackPath) {
		return errors.New("redirect_url: it ends in " + callbackPath + ", or in that and ?issuer= and the name")
	}
	for _, s := range l.Scopes {
		if s == "" || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' }) {
			return errors.New("scopes: as in profile, email, groups (RFC 6749 section 3.3)")
		}
	}
	return nil
}

// flow is the sign-in at one issuer.
type flow struct {
	Login
	client *http.Client
	keys   *keySet
	now    func() time.Time

	patience  time.Duration // how long one waits for a turn to redeem a code
	redeeming chan struct{} // holds a token for each code that is being redeemed: anybody can bring one
	asking    chan struct{} // holds a token for who asks discovery; guards what follows
	known     *metadata
	at        time.Time
	tried     time.Time
}

// maxRedeeming is how many codes are redeemed at an issuer at once.
const maxRedeeming = 16

func newFlow(l *Login, client *http.Client, keys *keySet, now func() time.Time) *flow {
	return &flow{Login: *l, client: client, keys: keys, now: now, patience: fetchTime, redeeming: make(chan struct{}, maxRedeeming), asking: make(chan struct{}, 1)}
}

// metadata is what discovery says of an issuer (OpenID Connect Discovery 1.0 section 3, RFC 9207 section 3).
type metadata struct {
	Issuer     string   `json:"issuer"`
	Authorize  string   `json:"authorization_endpoint"`
	Token      string   `json:"token_endpoint"`
	Methods    []string `json:"token_endpoint_auth_methods_supported"`
	Challenges []string `json:"code_challenge_methods_supported"`
	SaysIssuer bool     `json:"authorization_response_iss_parameter_supported"`
}

// discover asks what the issuer says of itself, once an hour, and not twice within hurry. What is known is good for a day while the issuer is away.
func (f *flow) discover(ctx context.Context) (*metadata, error) {
	select {
	case f.asking <- struct{}{}:
		defer func() { <-f.asking }()
	case <-ctx.Done():
		return nil, fault.Wrap(fault.Timeout, "the deadline passed before the issuer answered", ctx.Err())
	}
	now := f.now()
	age := now.Sub(f.at)
	if f.known != nil && age >= 0 && age < refresh {
		return f.known, nil
	}
	if since := now.Sub(f.tried); !f.tried.IsZero() && since >= 0 && since < hurry {
		return f.old(age)
	}
	f.tried = now
	// Who asked may go away: the answer is for all.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
	defer cancel()
	p := new(metadata)
	err := f.keys.get(ctx, strings.TrimSuffix(f.keys.issuer, "/")+"/.well-known/openid-configuration", p)
	if err == nil {
		err = p.check(f.keys.issuer)
	}
	if err != nil {
		f.keys.log.Warn("what an issuer says of itself could not be fetched", "issuer", f.keys.issuer, "error", err)
		return f.old(age)
	}
	f.known, f.at = p, now
	return p, nil
}

// old gives what is known of an issuer that does not answer, while that is good.
func (f *flow) old(age time.Duration) (*metadata, error) {
	if f.known != nil && age >= 0 && age < keep {
		return f.known, nil
	}
	return nil, fault.New(fault.Unavailable, "the issuer cannot be asked: try again later")
}

func (p *metadata) check(issuer string) error {
	if p.Issuer != issuer {
		return errors.New("discovery: it is of another issuer")
	}
	if err := checkEndpoint(issuer, p.Authorize); err != nil {
		return fmt.Errorf("discovery: authorization_endpoint: %w", err)
	}
	if err := checkEndpoint(issuer, p.Token); err != nil {
		return fmt.Errorf("discovery: token_endpoint: %w", err)
	}
	if len(p.Challenges) > 0 && !slices.Contains(p.Challenges, "S256") {
		return errors.New("discovery: the issuer takes no code_challenge by S256")
	}
	return nil
}

// checkEndpoint is checkURL of an address that discovery names, and that may have a query (RFC 6749 section 3.1). Plain http is for an issuer that is there by
// it itself: what it reaches is this machine.
func checkEndpoint(issuer, text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("it is to be a URL")
	}
	if strings.HasPrefix(strings.ToLower(issuer), "https:") && u.Scheme != "https" {
		return errors.New("it is to be https, as the issuer's own is")
	}
	u.RawQuery = ""
	return checkURL(u.String())
}

// config makes the client of one sign-in. Its secret is wiped by done, but for the copy that x/oauth2 wants as a string.
func (f *flow) config(p *metadata, withSecret bool) (*oauth2.Config, error) {
	c := &oauth2.Config{ClientID: f.ClientID, RedirectURL: f.RedirectURL, Scopes: append([]string{"openid"}, f.Scopes...),
		Endpoint: oauth2.Endpoint{AuthURL: p.Authorize, TokenURL: p.Token, AuthStyle: oauth2.AuthStyleInParams}}
	if !withSecret || f.Secret == nil {
		return c, nil
	}
	// Never by trying: a code is good for one attempt. client_secret_basic is what an issuer that names none takes (Discovery 1.0 section 3).
	if len(p.Methods) == 0 || slices.Contains(p.Methods, "client_secret_basic") {
		c.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	}
	s, err := f.Secret()
	if err != nil {
		return nil, fmt.Errorf("reading the client secret of an issuer: %w", err)
	}
	defer s.Wipe()
	c.ClientSecret = string(s)
	return c, nil
}

// Issuer gives the name of the issuer that is meant; see auth.SignIn.
func (v *Verifier) Issuer(name string) (string, error) {
	if name == "" && len(v.flows) == 1 {
		for only := range v.flows {
			return only, nil
		}
	}
	if v.flows[name] == nil {
		return "", fault.New(fault.BadQuery, "the query parameter issuer must name an issuer that is configured for signing in")
	}
	return name, nil
}

// Address gives where a browser goes to sign in; see auth.SignIn.
func (v *Verifier) Address(ctx context.Context, l *auth.Login) (string, error) {
	f := v.flows[l.Issuer]
	if f == nil {
		return "", fault.New(fault.BadQuery, "no such issuer")
	}
	p, err := f.discover(ctx)
	if err != nil {
		return "", err
	}
	c, err := f.config(p, false)
	if err != nil {
		return "", err
	}
	return c.AuthCodeURL(l.State, oauth2.S256ChallengeOption(l.Verifier), oauth2.SetAuthURLParam("nonce", l.Nonce)), nil
}

// Redeem gives whom an authorization code speaks for; see auth.SignIn. The ID token is held against the rules of the issuer's other tokens, and besides
// its audience is the client, and its nonce that of the sign-in (OpenID Connect Core 1.0 section 3.1.3.7). Of several issuers it takes no code of which
// nothing says whose it is (RFC 9700 section 4.4.2).
func (v *Verifier) Redeem(ctx context.Context, l *auth.Login, code, from, to string) (*auth.Identity, error) {
	id, err := v.redeem(ctx, l, code, from, to)
	var why refusal
	if errors.As(err, &why) {
		v.log.Debug("a sign-in was refused", "reason", string(why))
		return nil, fault.New(fault.Unauthenticated, "the issuer's answer is not valid")
	}
	return id, err
}

func (v *Verifier) redeem(ctx context.Context, l *auth.Login, code, from, to string) (*auth.Identity, error) {
	f := v.flows[l.Issuer]
	if f == nil {
		return nil, refusal("issuer")
	}
	if f.own() && to != f.Name || !f.own() && to != "" {
		return nil, refusal("address") // another's
	}
	p, err := f.discover(ctx)
	if err != nil {
		return nil, err
	}
	if from != "" && from != p.Issuer || from == "" && p.SaysIssuer {
		return nil, refusal("issuer") // RFC 9207 section 2.4: the answer of another, mixed up with this one's
	}
	if from == "" && !f.own() && len(v.flows) > 1 {
		v.log.Warn("a sign-in was refused, as nothing says whose answer it is: the issuer sends no iss and there are others, so it needs a redirect_url of its own", "issuer", p.Issuer)
		return nil, refusal("issuer")
	}
	c, err := f.config(p, true)
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, f.patience)
	defer cancel()
	select {
	case f.redeeming <- struct{}{}:
		defer func() { <-f.redeeming }()
	case <-wait.Done():
		if ctx.Err() != nil {
			return nil, fault.Wrap(fault.Timeout, "the deadline passed before the issuer was asked", ctx.Err())
		}
		return nil, fault.New(fault.Overloaded, "too many sign-ins at once").RetryAfter(time.Second)
	}
	token, err := c.Exchange(context.WithValue(ctx, oauth2.HTTPClient, f.client), code, oauth2.VerifierOption(l.Verifier))
	if err != nil {
		return nil, v.exchangeFailed(ctx, f, err)
	}
	text, ok := token.Extra("id_token").(string)
	if !ok {
		return nil, refusal("no ID token")
	}
	t, id, err := v.check(ctx, text, []string{f.ClientID})
	if err != nil {
		return nil, err
	}
	if t.issuer != p.Issuer {
		return nil, refusal("issuer")
	}
	if party, there := t.text("azp"); there && party != f.ClientID || !there && len(t.audience) > 1 {
		return nil, refusal("authorized party")
	}
	if nonce, there := t.text("nonce"); !there || subtle.ConstantTimeCompare([]byte(nonce), []byte(l.Nonce)) != 1 {
		return nil, refusal("nonce")
	}
	return id, nil
}

// exchangeFailed tells a refused code from an issuer that is away. What the issuer has answered beyond its error code is nobody's.
func (v *Verifier) exchangeFailed(ctx context.Context, f *flow, err error) error {
	var answer *oauth2.RetrieveError
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Timeout, "the deadline passed before the issuer answered")
	case errors.As(err, &answer) && answer.Response != nil && answer.Response.StatusCode < http.StatusInternalServerError:
		if known := []string{"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}; slices.Contains(known, answer.ErrorCode) {
			v.log.Warn("an issuer has refused to redeem an authorization code", "issuer", f.keys.issuer, "reason", answer.ErrorCode)
		}
		return refusal("code")
	}
	v.log.Warn("an issuer could not be asked to redeem an authorization code", "issuer", f.keys.issuer)
	return fault.New(fault.Unavailable, "the issuer cannot be asked: try again later")
}
