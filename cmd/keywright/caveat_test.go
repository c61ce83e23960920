package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestCustodyCaveat: a token that leaks, accepted knowingly, is named as such with every key that lives there.
func TestCustodyCaveat(t *testing.T) {
	part := rig.NSS(t)
	part.Setenv(t)
	c := config{Data: t.TempDir(), Backends: []backendConfig{{Name: "hsm", URI: part.URI, PKCS11: pkcs11Config{InProcess: true, InitArgs: part.Init, AcceptLeaks: true}}}}
	if err := c.complete(true); err != nil {
		t.Fatal(err)
	}
	c.Root.KeyFile = filepath.Join(c.Data, "root.key")
	n, err := openNode(t.Context(), c, true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	}()
	owner, err := os.ReadFile(c.OwnerKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, body string) string {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), method, "/api/v1"+path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(owner)))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		n.server.Handler().ServeHTTP(w, r)
		if w.Code >= 300 {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		return w.Body.String()
	}
	const caveat = `"custody_caveat":"The token lets a key that is marked as non-extractable be wrapped out`
	for what, answer := range map[string]string{
		"the backend":  ask(http.MethodGet, "/backends/hsm", ""),
		"a new key":    ask(http.MethodPost, "/keys", `{"name":"one","algorithm":"AES-256-GCM","backend":"hsm"}`),
		"a key":        ask(http.MethodGet, "/keys/one", ""),
		"the keys":     ask(http.MethodGet, "/keys", ""),
		"its versions": ask(http.MethodGet, "/keys/one/versions", ""),
	} {
		if !strings.Contains(answer, caveat) {
			t.Errorf("%s does not say what weakens custody: %s", what, answer)
		}
	}
	if answer := ask(http.MethodPost, "/keys", `{"name":"two","algorithm":"AES-256-GCM","backend":"software"}`); strings.Contains(answer, "custody_caveat") {
		t.Errorf("a key of another backend has the token's caveat: %s", answer)
	}
}
