package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"
)

// issuerScript starts an issuer of tokens until the script ends: issuer DIR. DIR/url is who it is; DIR/NAME.jwt are tokens for the audience keywright.
func issuerScript(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: issuer DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	ts.Defer(s.Close)
	answer := func(path string, v any) {
		b, err := json.Marshal(v)
		ts.Check(err)
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }) // a client that goes away fails by itself
	}
	answer("/.well-known/openid-configuration", map[string]string{"issuer": s.URL, "jwks_uri": s.URL + "/keys"})
	answer("/keys", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k1", Use: "sig", Algorithm: "ES256"}}})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, (&jose.SignerOptions{}).WithType("JWT"))
	ts.Check(err)
	now := time.Now().Unix()
	for name, c := range map[string]struct {
		aud, group string
		exp        int64
	}{
		"developer": {"keywright", "key-developers", now + 600}, "stranger": {"keywright", "others", now + 600},
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
}
