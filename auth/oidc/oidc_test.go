package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// provider is a real issuer: discovery, keys and signed tokens, over HTTP.
type provider struct {
	*httptest.Server
	t     testing.TB
	mu    sync.Mutex // guards what follows
	keys  map[string]crypto.Signer
	alg   map[string]jose.SignatureAlgorithm
	extra []jose.JSONWebKey
	away  bool
	asked atomic.Int64 // for keys
	clock atomic.Int64 // seconds
}

func newProvider(t testing.TB) *provider {
	t.Helper()
	p := &provider{t: t, keys: map[string]crypto.Signer{}, alg: map[string]jose.SignatureAlgorithm{}}
	p.clock.Store(1_800_000_000)
	mux := http.NewServeMux()
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	answer := func(path string, f func() any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.away {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			if err := json.NewEncoder(w).Encode(f()); err != nil {
				t.Error(err)
			}
		})
	}
	answer("/.well-known/openid-configuration", func() any { return map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys", "more": []int{1}} })
	answer("/keys", func() any {
		p.asked.Add(1)
		set := jose.JSONWebKeySet{Keys: p.extra}
		for id, k := range p.keys {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: id, Algorithm: string(p.alg[id]), Use: "sig"})
		}
		return set
	})
	return p
}

func (p *provider) add(id string, alg jose.SignatureAlgorithm) {
	p.t.Helper()
	var k crypto.Signer
	var err error
	switch alg {
	case jose.RS256, jose.PS256:
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES256:
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		_, k, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.set(func() { p.keys[id], p.alg[id] = k, alg })
}

func (p *provider) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *provider) now() time.Time       { return time.Unix(p.clock.Load(), 0) }
func (p *provider) move(d time.Duration) { p.clock.Add(int64(d / time.Second)) }

// claims are those of a good token, changed by more (nil: taken away).
func (p *provider) claims(more map[string]any) map[string]any {
	now := p.clock.Load()
	c := map[string]any{"iss": p.URL, "sub": "alice", "aud": "keywright", "exp": now + 300, "iat": now, "groups": []string{"staff", "admins"}}
	maps.Copy(c, more)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func (p *provider) sign(id string, headers map[jose.HeaderKey]any, claims map[string]any) string {
	p.t.Helper()
	p.mu.Lock()
	key := jose.SigningKey{Algorithm: p.alg[id], Key: jose.JSONWebKey{Key: p.keys[id], KeyID: id}}
	p.mu.Unlock()
	o := &jose.SignerOptions{}
	for k, v := range headers {
		o.WithHeader(k, v)
	}
	s, err := jose.NewSigner(key, o)
	if err != nil {
		p.t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		p.t.Fatal(err)
	}
	signed, err := s.Sign(payload)
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

func (p *provider) issuer() Issuer {
	return Issuer{Issuer: p.URL, Audience: []string{"keywright", "kw"}, Mappings: []Mapping{
		{Claims: map[string]string{"groups": "owners"}, Assignment: auth.Assignment{Role: auth.RoleOwner}},
		{Claims: map[string]string{"groups": "admins", "sub": "alice"}, Assignment: auth.Assignment{Role: auth.RoleAdmin}},
		{Claims: map[string]string{"/realm/roles": "reader"}, Assignment: auth.Assignment{Role: auth.RoleViewer}},
		{Claims: map[string]string{"email_verified": "true", "https://x.example/a": "b"}, Assignment: auth.Assignment{Role: auth.RoleAuditor}},
	}}
}

func (p *provider) verifier(edit ...func(*Issuer)) *Verifier {
	p.t.Helper()
	i := p.issuer()
	for _, f := range edit {
		f(&i)
	}
	v, err := New([]Issuer{i}, Options{Now: p.now})
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

func TestTokens(t *testing.T) {
	p := newProvider(t)
	for id, alg := range map[string]jose.SignatureAlgorithm{"rsa": jose.RS256, "ec": jose.ES256, "ed": jose.EdDSA, "other": jose.ES384} {
		p.add(id, alg)
	}
	v := p.verifier()
	for _, id := range []string{"rsa", "ec", "ed"} {
		got, err := v.Verify(t.Context(), p.sign(id, nil, p.claims(nil)))
		if err != nil || got.Issuer != p.URL || got.Subject != "alice" || got.Assignment.Role != auth.RoleAdmin || got.ExpiresAt.Unix() != p.clock.Load()+360 {
			t.Errorf("%s: %+v, %v", id, got, err)
		}
	}
	for _, exp := range []int64{253402300799, 1 << 39} { // the end of the year 9999, and far beyond
		if got, err := v.Verify(t.Context(), p.sign("ec", nil, p.claims(map[string]any{"exp": exp}))); err != nil || got.ExpiresAt.UTC().Year() != 9999 {
			t.Errorf("%d: %+v, %v", exp, got, err)
		}
	}
	now := p.clock.Load()
	for name, c := range map[string]struct {
		more map[string]any
		role auth.Role
	}{
		"first mapping":      {map[string]any{"groups": []string{"admins", "owners"}}, auth.RoleOwner},
		"one of audiences":   {map[string]any{"aud": []string{"x", "kw"}}, auth.RoleAdmin},
		"a text as list":     {map[string]any{"groups": "admins"}, auth.RoleAdmin},
		"by pointer":         {map[string]any{"groups": nil, "realm": map[string]any{"roles": []string{"reader"}}}, auth.RoleViewer},
		"a name with points": {map[string]any{"groups": nil, "email_verified": true, "https://x.example/a": "b"}, auth.RoleAuditor},
		"within the skew":    {map[string]any{"exp": now - 59, "nbf": now + 59}, auth.RoleAdmin},
		"a fraction":         {map[string]any{"exp": float64(now) + 0.5}, auth.RoleAdmin},
	} {
		if got, err := v.Verify(t.Context(), p.sign("ec", nil, p.claims(c.more))); err != nil || got.Assignment.Role != c.role {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, more := range map[string]map[string]any{
		"issuer": {"iss": "https://other.example"}, "issuer with a slash": {"iss": p.URL + "/"}, "no issuer": {"iss": nil},
		"audience": {"aud": "other"}, "audiences": {"aud": []string{"a", "b"}}, "no audience": {"aud": nil}, "audience as number": {"aud": 1},
		"expired": {"exp": now - 60}, "no expiry": {"exp": nil}, "expiry as text": {"exp": "9999999999"}, "expiry of ever": {"exp": 1e300},
		"not yet": {"nbf": now + 61}, "from the future": {"iat": now + 61}, "nbf as text": {"nbf": "0"},
		"no subject": {"sub": nil, "groups": "owners"}, "empty subject": {"sub": "", "groups": "owners"}, "subject with a zero byte": {"sub": "alice\x00", "groups": "owners"}, "subject of two lines": {"sub": "alice\nbob", "groups": "owners"}, "long subject": {"sub": strings.Repeat("x", maxSubject+1), "groups": "owners"},
		"no mapping": {"groups": []string{"admin"}}, "half a mapping": {"sub": "bob"}, "a group within a text": {"groups": "admins,owners"},
		"another type": {"groups": nil, "email_verified": "true", "https://x.example/a": []any{map[string]any{"b": 1}}},
		"size":         {"x": strings.Repeat("x", MaxToken)},
	} {
		if got, err := v.Verify(t.Context(), p.sign("ec", nil, p.claims(more))); !fault.Has(err, fault.Unauthenticated) || got != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, h := range map[string]map[jose.HeaderKey]any{"logout": {"typ": "logout+jwt"}, "crit": {"crit": []string{"b64"}, "b64": true}, "b64": {"b64": true}} {
		if _, err := v.Verify(t.Context(), p.sign("ec", h, p.claims(nil))); !fault.Has(err, fault.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v.Verify(t.Context(), p.sign("ec", map[jose.HeaderKey]any{"typ": "at+jwt"}, p.claims(nil))); err != nil {
		t.Error(err)
	}
	if _, err := v.Verify(t.Context(), p.sign("other", nil, p.claims(nil))); !fault.Has(err, fault.Unauthenticated) {
		t.Errorf("an algorithm that is not taken: %v", err)
	}
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// What is forged, and what confuses algorithms (RFC 8725 section 2.1).
func TestForged(t *testing.T) {
	p := newProvider(t)
	p.add("rsa", jose.RS256)
	p.add("ec", jose.ES256)
	v := p.verifier()
	good := p.sign("rsa", nil, p.claims(nil))
	if _, err := v.Verify(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	payload, err := json.Marshal(p.claims(nil))
	if err != nil {
		t.Fatal(err)
	}
	owner, err := json.Marshal(p.claims(map[string]any{"groups": "owners"}))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(p.keys["rsa"].Public())
	if err != nil {
		t.Fatal(err)
	}
	hs := func(header string) string {
		m := hmac.New(sha256.New, der)
		m.Write([]byte(b64(header) + "." + b64(string(payload))))
		return b64(header) + "." + b64(string(payload)) + "." + b64(string(m.Sum(nil)))
	}
	stranger := newProvider(t)
	stranger.add("rsa", jose.RS256)
	public, err := json.Marshal(jose.JSONWebKey{Key: stranger.keys["rsa"].Public(), KeyID: "rsa"})
	if err != nil {
		t.Fatal(err)
	}
	flipped := []byte(parts[2])
	flipped[10] ^= 1
	for name, text := range map[string]string{
		"none":                b64(`{"alg":"none"}`) + "." + b64(string(payload)) + ".",
		"none with something": b64(`{"alg":"none","kid":"rsa"}`) + "." + b64(string(payload)) + "." + parts[2],
		"None":                b64(`{"alg":"None","kid":"rsa"}`) + "." + b64(string(payload)) + "." + parts[2],
		"HS256 by public key": hs(`{"alg":"HS256","kid":"rsa"}`),
		"another key's kid":   b64(`{"alg":"RS256","kid":"ec"}`) + "." + parts[1] + "." + parts[2],
		"another algorithm":   b64(`{"alg":"PS256","kid":"rsa"}`) + "." + parts[1] + "." + parts[2],
		"a key of its own":    stranger.sign("rsa", map[jose.HeaderKey]any{"jwk": json.RawMessage(public)}, p.claims(nil)),
		"signed by another":   stranger.sign("rsa", nil, p.claims(nil)),
		"other claims":        parts[0] + "." + b64(string(owner)) + "." + parts[2],
		"a bit":               parts[0] + "." + parts[1] + "." + string(flipped),
		"no signature":        parts[0] + "." + parts[1] + ".",
		"four parts":          good + ".x",
		"padding":             good + "=",
		"a blank":             good[:20] + " " + good[20:],
		"names twice":         b64(`{"alg":"RS256","alg":"RS256","kid":"rsa"}`) + "." + parts[1] + "." + parts[2],
		"JSON form":           `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}..`,
		"nothing":             "..",
	} {
		if got, err := v.Verify(t.Context(), text); !fault.Has(err, fault.Unauthenticated) || got != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := v.Verify(t.Context(), good); err != nil {
		t.Error(err)
	}
}

// Keys come and go; the issuer is asked seldom, whatever tokens name; while it is away its keys are good for a day.
func TestKeys(t *testing.T) {
	p := newProvider(t)
	p.add("one", jose.ES256)
	v := p.verifier()
	ask := func(id string) error {
		_, err := v.Verify(t.Context(), p.sign(id, nil, p.claims(nil)))
		return err
	}
	asked := func(n int64) {
		t.Helper()
		if got := p.asked.Load(); got != n {
			t.Errorf("asked %d times, want %d", got, n)
		}
	}
	for range 5 {
		if err := ask("one"); err != nil {
			t.Fatal(err)
		}
	}
	asked(1)
	p.add("two", jose.EdDSA) // right after: too early to ask
	if err := ask("two"); !fault.Has(err, fault.Unauthenticated) {
		t.Error(err)
	}
	asked(1)
	p.move(pause)
	if err := ask("two"); err != nil {
		t.Error(err)
	}
	asked(2)
	// A flood of unknown names.
	unknown := newProvider(t)
	unknown.add("nobody", jose.ES256)
	for range 20 {
		p.move(time.Second)
		if _, err := v.Verify(t.Context(), unknown.sign("nobody", nil, p.claims(nil))); !fault.Has(err, fault.Unauthenticated) {
			t.Error(err)
		}
	}
	asked(2)
	// A key that is taken back is refused once the keys are fetched again.
	p.set(func() { delete(p.keys, "one"); delete(p.alg, "one") })
	p.add("three", jose.ES256)
	p.move(refresh)
	old := p.claims(nil)
	if err := ask("three"); err != nil {
		t.Error(err)
	}
	asked(3)
	p.set(func() { p.away = true })
	p.move(refresh)
	for range 3 {
		if err := ask("three"); err != nil {
			t.Errorf("while it is away: %v", err)
		}
	}
	asked(3)
	p.move(keep)
	if err := ask("three"); !fault.Has(err, fault.Unavailable) {
		t.Errorf("away for a day: %v", err)
	}
	p.set(func() { p.away = false })
	p.move(hurry)
	if err := ask("three"); err != nil {
		t.Error(err)
	}
	if _, err := v.Verify(t.Context(), p.sign("three", nil, old)); !fault.Has(err, fault.Unauthenticated) {
		t.Errorf("an old token: %v", err)
	}
}

// The log says in a word why a token is refused, and nothing of the token.
func TestLogHoldsNoToken(t *testing.T) {
	p := newProvider(t)
	p.add("a-key-name", jose.ES256)
	var out strings.Builder
	v, err := New([]Issuer{p.issuer()}, Options{Now: p.now, Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	good := p.sign("a-key-name", nil, p.claims(map[string]any{"sub": "canary-subject"}))
	for _, text := range []string{good, good[:len(good)-8] + "AAAAAAAA", p.sign("a-key-name", nil, p.claims(map[string]any{"aud": "canary-audience"})),
		p.sign("a-key-name", nil, p.claims(map[string]any{"iss": "canary-issuer"})), "canary.canary.canary"} {
		_, err := v.Verify(t.Context(), text)
		if err != nil && (strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "eyJ")) {
			t.Error(err)
		}
	}
	for _, reason := range []string{"signature", "audience", "issuer", "form"} {
		if !strings.Contains(out.String(), "reason="+reason) {
			t.Errorf("no reason %s in %s", reason, &out)
		}
	}
	for _, part := range append(strings.Split(good, "."), "canary", "a-key-name", "eyJ") {
		if strings.Contains(out.String(), part) {
			t.Errorf("the log holds %s", part)
		}
	}
}

// Many at once, while keys grow old and the issuer comes and goes: a key that is there and good is never refused.
func TestKeysAtOnce(t *testing.T) {
	p := newProvider(t)
	p.add("one", jose.ES256)
	v := p.verifier()
	text := p.sign("one", nil, p.claims(map[string]any{"exp": p.clock.Load() + 1<<30}))
	if _, err := v.Verify(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for i := range 40 {
				p.move(time.Minute)
				if n == 0 {
					p.set(func() { p.away = i%4 == 0 })
				}
				if _, err := v.Verify(t.Context(), text); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := p.asked.Load(); n < 2 || n > 40 {
		t.Errorf("asked %d times", n)
	}
}

// What an issuer may say that is not for signatures, or not enough, or not understood.
func TestStrangeKeys(t *testing.T) {
	p := newProvider(t)
	p.add("good", jose.RS256)
	weak, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // to be refused
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("shared with everybody who can read")
	p.extra = []jose.JSONWebKey{{Key: &weak.PublicKey, KeyID: "weak"}, {Key: secret, KeyID: "oct", Algorithm: "HS256"}, {Key: p.keys["good"].Public(), KeyID: "enc", Use: "enc"}}
	p.set(func() { p.keys["twin"], p.alg["twin"] = p.keys["good"], jose.RS256 })
	v := p.verifier()
	if _, err := v.Verify(t.Context(), p.sign("good", nil, p.claims(nil))); err != nil {
		t.Fatal(err)
	}
	keys := v.issuers[p.URL].keys.known.Load()
	if _, ok := keys.find("", jose.RS256); ok {
		t.Error("one of two is taken for a token that names none")
	}
	for _, id := range []string{"weak", "oct", "enc"} {
		if _, ok := keys.find(id, jose.RS256); ok {
			t.Errorf("%s is taken", id)
		}
	}
	other := newProvider(t)
	other.add("x", jose.ES256)
	wrong := p.verifier(func(i *Issuer) { i.JWKSURL = other.URL + "/nothing" })
	if _, err := wrong.Verify(t.Context(), p.sign("good", nil, p.claims(nil))); !fault.Has(err, fault.Unavailable) {
		t.Error(err)
	}
}

func TestIssuersThatCannotBeMeant(t *testing.T) {
	good := Issuer{Issuer: "https://i.example", Audience: []string{"a"}, Mappings: []Mapping{{Claims: map[string]string{"sub": "x"}, Assignment: auth.Assignment{Role: auth.RoleViewer}}}}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*Issuer){
		"plain": func(i *Issuer) { i.Issuer = "http://i.example" }, "file": func(i *Issuer) { i.Issuer = "file:///etc" }, "user": func(i *Issuer) { i.Issuer = "https://u:p@i.example" },
		"plain keys": func(i *Issuer) { i.JWKSURL = "http://i.example/keys" }, "no audience": func(i *Issuer) { i.Audience = nil }, "empty audience": func(i *Issuer) { i.Audience = []string{""} },
		"HS256": func(i *Issuer) { i.Algorithms = []string{"HS256"} }, "none": func(i *Issuer) { i.Algorithms = []string{"none"} }, "no mapping": func(i *Issuer) { i.Mappings = nil },
		"everybody": func(i *Issuer) { i.Mappings = []Mapping{{Assignment: auth.Assignment{Role: auth.RoleViewer}}} },
		"empty": func(i *Issuer) {
			i.Mappings = []Mapping{{Claims: map[string]string{"sub": ""}, Assignment: auth.Assignment{Role: auth.RoleViewer}}}
		},
		"no role": func(i *Issuer) { i.Mappings = []Mapping{{Claims: map[string]string{"sub": "x"}}} },
	} {
		bad := good
		edit(&bad)
		if bad.Check() == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := New([]Issuer{good, good}, Options{}); err == nil {
		t.Error("an issuer is taken twice")
	}
}

// FuzzToken: nothing that is not signed is let in, and nothing ends the program. The signature of the seeds is good, so that mutations begin behind it.
func FuzzToken(f *testing.F) {
	p := newProvider(f)
	p.add("ec", jose.ES256)
	v := p.verifier()
	good := p.sign("ec", nil, p.claims(nil))
	if _, err := v.Verify(context.Background(), good); err != nil {
		f.Fatal(err)
	}
	signed := good[:strings.LastIndexByte(good, '.')] // an ECDSA signature has other forms of itself: what is signed has not
	f.Add(good)
	f.Add(b64(`{"alg":"ES256","kid":"ec"}`) + "." + b64(`{"iss":"x","sub":"y","aud":["z"],"exp":1}`) + ".AA")
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := v.Verify(t.Context(), text)
		if err == nil && !strings.HasPrefix(text, signed+".") {
			t.Errorf("%q is taken for %+v", text, id)
		}
		if err != nil && !fault.Has(err, fault.Unauthenticated) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
