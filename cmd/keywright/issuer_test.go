package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"
)

// issuerScript starts an issuer of tokens until the script ends: issuer DIR [tls]. DIR/url is who it is; DIR/NAME.jwt are tokens for the audience keywright, and
// DIR/ca.pem is whose certificate its own chains to. At its authorization endpoint everybody is alice, of the group key-admins.
func issuerScript(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: issuer DIR [tls]")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	mux := http.NewServeMux()
	s := httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if len(args) > 1 {
		s.StartTLS()
		ts.Check(os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	} else {
		s.Start()
	}
	ts.Defer(s.Close)
	answer := func(path string, v any) {
		b, err := json.Marshal(v)
		ts.Check(err)
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }) // a client that goes away fails by itself
	}
	answer("/.well-known/openid-configuration", map[string]any{"issuer": s.URL, "jwks_uri": s.URL + "/keys", "authorization_endpoint": s.URL + "/authorize",
		"token_endpoint": s.URL + "/token", "code_challenge_methods_supported": []string{"S256"}, "authorization_response_iss_parameter_supported": true})
	answer("/keys", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k1", Use: "sig", Algorithm: "ES256"}}})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, (&jose.SignerOptions{}).WithType("JWT"))
	ts.Check(err)
	now := time.Now().Unix()
	for name, c := range map[string]struct {
		aud, group string
		exp        int64
	}{
		"owner": {"keywright", "key-admins", now + 600}, "developer": {"keywright", "key-developers", now + 600}, "stranger": {"keywright", "others", now + 600},
		"elsewhere": {"another", "key-developers", now + 600}, "expired": {"keywright", "key-developers", now - 600},
	} {
		payload, err := json.Marshal(map[string]any{"iss": s.URL, "sub": "alice", "aud": []string{c.aud}, "exp": c.exp, "iat": now - 900, "groups": []string{"staff", c.group}})
		ts.Check(err)
		signed, err := signer.Sign(payload)
		ts.Check(err)
		text, err := signed.CompactSerialize()
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(dir, name+".jwt"), []byte(text+"\n"), 0o600))
	}
	ts.Check(os.WriteFile(filepath.Join(dir, "url"), []byte(s.URL), 0o600))
	sign := func(claims map[string]any) string {
		payload, err := json.Marshal(claims)
		ts.Check(err)
		signed, err := signer.Sign(payload)
		ts.Check(err)
		text, err := signed.CompactSerialize()
		ts.Check(err)
		return text
	}
	signIn(mux, s.URL, sign)
}

// signIn adds the endpoints of the authorization code flow with PKCE (OpenID Connect Core 1.0 section 3.1, RFC 7636). A code serves once.
func signIn(mux *http.ServeMux, issuer string, sign func(map[string]any) string) {
	var mu sync.Mutex // guards codes
	codes := map[string]url.Values{}
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("response_type") != "code" || q.Get("client_id") != "kw-client" || q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 ||
			len(q.Get("state")) < 43 || len(q.Get("nonce")) < 43 || q.Get("scope") != "openid groups" {
			http.Error(w, "invalid_request", http.StatusBadRequest)
			return
		}
		code := rand.Text()
		mu.Lock()
		codes[code] = q
		mu.Unlock()
		back := url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {issuer}, "session_state": {"more"}}
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		code := r.PostFormValue("code")
		mu.Lock()
		q, there := codes[code]
		delete(codes, code)
		mu.Unlock()
		id, password, _ := r.BasicAuth()
		challenge := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		w.Header().Set("Content-Type", "application/json")
		if !there || id != "kw-client" || password != "kw-secret" || q.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(challenge[:]) ||
			r.PostFormValue("redirect_uri") != q.Get("redirect_uri") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":"invalid_grant"}`)) // a client that goes away fails by itself
			return
		}
		now := time.Now().Unix()
		answer, err := json.Marshal(map[string]any{"access_token": "access-of-alice", "token_type": "Bearer", "expires_in": 60,
			"id_token": sign(map[string]any{"iss": issuer, "sub": "alice", "aud": "kw-client", "exp": now + 60, "iat": now, "nonce": q.Get("nonce"), "groups": []string{"key-admins"}})})
		if err != nil {
			http.Error(w, "server_error", http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(answer) // as above
	})
}
