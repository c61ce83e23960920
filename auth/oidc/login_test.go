package oidc

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

const backTo = "https://keys.example.org/api/v1/session/callback"

// place is a provider with the endpoints of the authorization code flow, over TLS by a certificate of its own.
type place struct {
	*provider
	mu       sync.Mutex // guards what follows
	asked    map[string]url.Values
	metadata map[string]any // what discovery says besides
	claims2  map[string]any // of the ID token besides
	status   int            // of the token endpoint, instead of an answer
	answer   string         // instead of an answer
	style    string         // how the client has shown its secret
	back     string         // where browsers come back to
}

func newPlace(t testing.TB) *place {
	t.Helper()
	p := &place{provider: newProvider(t), asked: map[string]url.Values{}, back: backTo}
	p.add("k", jose.ES256)
	p.provider.Server.Close()
	mux := http.NewServeMux()
	s := httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients who do not trust it
	s.StartTLS()
	t.Cleanup(s.Close)
	p.provider.Server = s
	say := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		d := map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys", "authorization_endpoint": p.URL + "/authorize?tenant=a", "token_endpoint": p.URL + "/token"}
		p.mu.Lock()
		maps.Copy(d, p.metadata)
		p.mu.Unlock()
		say(w, d)
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		say(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.keys["k"].Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.status != 0 {
			w.WriteHeader(p.status)
			return
		}
		if p.answer != "" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(p.answer)) // a client that goes away fails by itself
			return
		}
		q, there := p.asked[r.PostFormValue("code")]
		delete(p.asked, r.PostFormValue("code"))
		id, password, basic := r.BasicAuth()
		p.style = "basic"
		if !basic {
			id, password, p.style = r.PostFormValue("client_id"), r.PostFormValue("client_secret"), "post"
		}
		if basic { // RFC 6749 section 2.3.1
			var err error
			if password, err = url.QueryUnescape(password); err != nil {
				t.Error(err)
			}
		}
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		if !there || id != "kw" || password != "s&cret" || r.PostFormValue("redirect_uri") != p.back || r.PostFormValue("grant_type") != "authorization_code" ||
			q.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":"invalid_grant","error_description":"canary-description"}`)) // as above
			return
		}
		c := p.claims(map[string]any{"aud": "kw", "nonce": q.Get("nonce")})
		maps.Copy(c, p.claims2)
		maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
		say(w, map[string]any{"access_token": "canary-access", "token_type": "Bearer", "id_token": p.sign("k", nil, c)})
	})
	return p
}

func (p *place) config() Issuer {
	i := p.issuer()
	i.Roots = x509.NewCertPool()
	i.Roots.AddCert(p.Certificate())
	i.Login = &Login{Name: "main", ClientID: "kw", Secret: func() (secret.Bytes, error) { return secret.Bytes("s&cret"), nil }, RedirectURL: backTo, Scopes: []string{"groups"}}
	return i
}

// authorize is the person at the browser who says yes: it gives the code.
func (p *place) authorize(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Scheme+"://"+u.Host != p.URL || u.Path != "/authorize" || q.Get("tenant") != "a" || q.Get("response_type") != "code" || q.Get("client_id") != "kw" ||
		q.Get("redirect_uri") != p.back || q.Get("scope") != "openid groups" || q.Get("code_challenge_method") != "S256" || strings.Contains(address, "cret") {
		t.Fatalf("the browser goes to %s", address)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked["c"] = q
	return "c"
}

func TestSignIn(t *testing.T) {
	p := newPlace(t)
	var lines strings.Builder
	v, err := New([]Issuer{p.config()}, Options{Now: p.now, Log: slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil || !v.SignsIn() {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{"": true, "main": true, "other": false} {
		if got, err := v.Issuer(name); good != (err == nil && got == "main") || !good && !fault.Has(err, fault.BadQuery) {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
	l := &auth.Login{Issuer: "main", State: "the-state", Nonce: "the-nonce", Verifier: strings.Repeat("v", 43)}
	round := func(l *auth.Login, from string) (*auth.Identity, error) {
		t.Helper()
		address, err := v.Address(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		return v.Redeem(t.Context(), l, p.authorize(t, address), from, "")
	}
	for _, from := range []string{"", p.URL} {
		id, err := round(l, from)
		if err != nil || id.Subject != "alice" || id.Issuer != p.URL || id.Assignment.Role != auth.RoleAdmin {
			t.Fatalf("%+v, %v", id, err)
		}
	}
	if p.style != "basic" {
		t.Errorf("the secret went by %s", p.style)
	}
	// A code serves once, and for who has the verifier.
	if _, err := v.Redeem(t.Context(), l, "c", "", ""); !fault.Has(err, fault.Unauthenticated) {
		t.Errorf("again: %v", err)
	}
	address, err := v.Address(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	other := *l
	other.Verifier = strings.Repeat("w", 43)
	if _, err := v.Redeem(t.Context(), &other, p.authorize(t, address), "", ""); !fault.Has(err, fault.Unauthenticated) {
		t.Errorf("with another verifier: %v", err)
	}
	if _, err := round(l, "https://elsewhere.example"); !fault.Has(err, fault.Unauthenticated) {
		t.Errorf("of another issuer: %v", err)
	}
	if _, err := v.Redeem(t.Context(), &auth.Login{Issuer: "gone"}, "c", "", ""); !fault.Has(err, fault.Unauthenticated) {
		t.Errorf("of an issuer that is configured no more: %v", err)
	}
	set := func(f func()) { p.mu.Lock(); f(); p.mu.Unlock() }
	for name, claims := range map[string]map[string]any{
		"another audience":        {"aud": "keywright"}, // for which bearer tokens are taken
		"without a nonce":         {"nonce": nil},
		"another nonce":           {"nonce": "x"},
		"an expired one":          {"exp": p.clock.Load() - 120},
		"several, no party":       {"aud": []string{"kw", "more"}},
		"another party":           {"azp": "more"},
		"who maps to nothing":     {"sub": "bob"},
		"of another issuer":       {"iss": "https://elsewhere.example"},
		"without a subject":       {"sub": nil},
		"a nonce that is no text": {"nonce": 7},
	} {
		set(func() { p.claims2 = claims })
		if _, err := round(l, ""); !fault.Has(err, fault.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	set(func() { p.claims2 = map[string]any{"aud": []string{"kw", "more"}, "azp": "kw"} })
	if _, err := round(l, ""); err != nil {
		t.Errorf("several audiences with a party: %v", err)
	}
	set(func() { p.claims2 = nil })
	for answer, code := range map[string]fault.Code{
		`{"access_token":"a","token_type":"Bearer"}`:                    fault.Unauthenticated,
		`{"access_token":"a","token_type":"Bearer","id_token":7}`:       fault.Unauthenticated,
		`{"access_token":"a","token_type":"Bearer","id_token":"x"}`:     fault.Unauthenticated,
		`{"access_token":"a","token_type":"Bearer","id_token":"a.b.c"}`: fault.Unauthenticated,
		`nonsense`: fault.Unavailable,
	} {
		set(func() { p.answer = answer })
		if _, err := round(l, ""); !fault.Has(err, code) {
			t.Errorf("%s: %v", answer, err)
		}
	}
	set(func() { p.answer = "" })
	for status, code := range map[int]fault.Code{500: fault.Unavailable, 400: fault.Unauthenticated, 302: fault.Unauthenticated} {
		set(func() { p.status = status })
		if _, err := round(l, ""); !fault.Has(err, code) {
			t.Errorf("%d: %v", status, err)
		}
	}
	set(func() { p.status = 0 })
	if text := lines.String(); strings.Contains(text, "canary") || strings.Contains(text, "cret") || strings.Contains(text, "eyJ") || strings.Contains(text, "the-state") || !strings.Contains(text, "invalid_grant") {
		t.Errorf("the log says %s", text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Redeem(ctx, l, "c", "", ""); !fault.Has(err, fault.Timeout) {
		t.Errorf("who has gone: %v", err)
	}
}

func TestSignInDiscovery(t *testing.T) {
	l := &auth.Login{Issuer: "main", State: "s", Nonce: "n", Verifier: strings.Repeat("v", 43)}
	for name, c := range map[string]struct {
		metadata map[string]any
		ok       bool
	}{
		"as it is":          {nil, true},
		"S256 among others": {map[string]any{"code_challenge_methods_supported": []string{"plain", "S256"}}, true},
		"no S256":           {map[string]any{"code_challenge_methods_supported": []string{"plain"}}, false},
		"another issuer":    {map[string]any{"issuer": "https://elsewhere.example"}, false},
		"a page in clear":   {map[string]any{"authorization_endpoint": "http://login.example.org/a"}, false},
		"tokens in clear":   {map[string]any{"token_endpoint": "http://login.example.org/t"}, false},
		"a page at home":    {map[string]any{"authorization_endpoint": "http://localhost:1/a"}, false},
		"tokens at home":    {map[string]any{"token_endpoint": "http://127.0.0.1:1/t"}, false},
		"no page":           {map[string]any{"authorization_endpoint": ""}, false},
		"a script":          {map[string]any{"authorization_endpoint": "javascript:alert(1)"}, false},
	} {
		p := newPlace(t)
		p.metadata = c.metadata
		v, err := New([]Issuer{p.config()}, Options{Now: p.now})
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Address(t.Context(), l)
		if c.ok != (err == nil) || !c.ok && !fault.Has(err, fault.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Keys that are not fetched by TLS are not an issuer's that is.
	at := newPlace(t)
	at.metadata = map[string]any{"jwks_uri": newProvider(t).URL + "/keys"}
	if v, err := New([]Issuer{at.config()}, Options{Now: at.now}); err != nil {
		t.Fatal(err)
	} else if keys, err := v.issuers[at.URL].keys.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "https") {
		t.Errorf("%d keys in clear, %v", len(keys), err)
	}
	// The secret in the body, where the issuer takes it nowhere else; and who must say who it is, does.
	p := newPlace(t)
	p.metadata = map[string]any{"token_endpoint_auth_methods_supported": []string{"client_secret_post"}, "authorization_response_iss_parameter_supported": true}
	v, err := New([]Issuer{p.config()}, Options{Now: p.now})
	if err != nil {
		t.Fatal(err)
	}
	address, err := v.Address(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Redeem(t.Context(), l, p.authorize(t, address), "", ""); !fault.Has(err, fault.Unauthenticated) {
		t.Errorf("without iss: %v", err)
	}
	if _, err := v.Redeem(t.Context(), l, p.authorize(t, address), p.URL, ""); err != nil || p.style != "post" {
		t.Errorf("by %s: %v", p.style, err)
	}
	// Of more at once than there is room for, one has its turn after the others: who fills the room with codes of their own does not shut people out.
	f := v.flows["main"]
	for range maxRedeeming {
		f.redeeming <- struct{}{}
	}
	turn := time.AfterFunc(50*time.Millisecond, func() { <-f.redeeming })
	defer turn.Stop()
	if _, err := v.Redeem(t.Context(), l, p.authorize(t, address), p.URL, ""); err != nil {
		t.Errorf("one who waits: %v", err)
	}
	f.redeeming <- struct{}{}
	f.patience = time.Millisecond
	if _, err := v.Redeem(t.Context(), l, p.authorize(t, address), p.URL, ""); !fault.Has(err, fault.Overloaded) {
		t.Errorf("one too many: %v", err)
	}
	// Who waits for discovery goes with its own deadline.
	f.asking <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Address(ctx, l); !fault.Has(err, fault.Timeout) {
		t.Errorf("who does not wait: %v", err)
	}
	<-f.asking
	// An issuer that is away is remembered for a day.
	p.Close()
	p.move(refresh)
	if _, err := v.Address(t.Context(), l); err != nil {
		t.Errorf("while it is away: %v", err)
	}
	p.move(keep)
	if _, err := v.Address(t.Context(), l); !fault.Has(err, fault.Unavailable) {
		t.Errorf("away for long: %v", err)
	}
}

// TestRoots: an issuer's own authority is who vouches for its certificate, and the system's are not.
func TestRoots(t *testing.T) {
	p := newPlace(t)
	good := p.config()
	bad := good
	bad.Roots = nil
	token := p.sign("k", nil, p.claims(nil))
	for name, c := range map[string]struct {
		issuer Issuer
		ok     bool
	}{"its own": {good, true}, "the system's": {bad, false}} {
		v, err := New([]Issuer{c.issuer}, Options{Now: p.now})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), token); c.ok != (err == nil) || !c.ok && !fault.Has(err, fault.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New([]Issuer{good}, Options{Transport: http.NewFileTransport(http.Dir("."))}); err == nil {
		t.Error("roots for a transport that has none")
	}
}

func TestLoginCheck(t *testing.T) {
	p := newPlace(t)
	for name, change := range map[string]func(*Issuer){
		"no name":           func(i *Issuer) { i.Login.Name = "" },
		"a name with signs": func(i *Issuer) { i.Login.Name = "a b" },
		"no client":         func(i *Issuer) { i.Login.ClientID = "" },
		"back in clear":     func(i *Issuer) { i.Login.RedirectURL = "http://keys.example.org/api/v1/session/callback" },
		"back to another's": func(i *Issuer) { i.Login.RedirectURL += "?issuer=other" },
		"back elsewhere":    func(i *Issuer) { i.Login.RedirectURL = "https://keys.example.org/" },
		"a scope with room": func(i *Issuer) { i.Login.Scopes = []string{"a b"} },
		"no audience":       func(i *Issuer) { i.Login, i.Audience = nil, nil },
	} {
		i := p.config()
		change(&i)
		if _, err := New([]Issuer{i}, Options{}); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	a, b := p.config(), p.config()
	b.Issuer = "https://other.example"
	if _, err := New([]Issuer{a, b}, Options{}); err == nil {
		t.Error("two of one name were taken")
	}
	// With signing in alone no bearer token is taken.
	a.Audience = nil
	v, err := New([]Issuer{a}, Options{Now: p.now})
	if err != nil {
		t.Fatal(err)
	}
	for _, aud := range []any{"kw", "keywright", "", []string{}} {
		if _, err := v.Verify(t.Context(), p.sign("k", nil, p.claims(map[string]any{"aud": aud}))); !fault.Has(err, fault.Unauthenticated) {
			t.Errorf("a bearer token for %v: %v", aud, err)
		}
	}
}
