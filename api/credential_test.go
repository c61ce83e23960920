package api

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What is presented decides alone; without it the connection does; a page of another origin borrows neither a certificate nor a socket.
func TestCredentialOfTheConnection(t *testing.T) {
	f := newRig(t, Limits{})
	const letIn = 0 // whatever the handler says then
	for name, c := range map[string]struct {
		cn      string
		headers map[string]string
		post    bool
		status  int
		who     string
	}{
		"certificate":                    {"good", nil, false, http.StatusOK, "connection:1"},
		"of nobody":                      {"bad", nil, false, http.StatusUnauthorized, ""},
		"no certificate":                 {"", nil, false, http.StatusUnauthorized, ""},
		"an API key beside it":           {"good", map[string]string{"Authorization": "Bearer good"}, false, http.StatusOK, "api-key:1"},
		"a wrong API key beside it":      {"good", map[string]string{"X-API-Key": "wrong"}, false, http.StatusUnauthorized, ""},
		"a malformed header beside it":   {"good", map[string]string{"Authorization": "Basic x"}, false, http.StatusUnauthorized, ""},
		"an empty header beside it":      {"good", map[string]string{"Authorization": ""}, false, http.StatusUnauthorized, ""},
		"a page of another site":         {"good", map[string]string{"Sec-Fetch-Site": "cross-site"}, true, http.StatusForbidden, ""},
		"a page of another origin":       {"good", map[string]string{"Origin": "https://evil.example"}, true, http.StatusForbidden, ""},
		"that page with an API key":      {"good", map[string]string{"Origin": "https://evil.example", "X-API-Key": "good"}, true, letIn, ""},
		"a page of the same origin":      {"good", map[string]string{"Sec-Fetch-Site": "same-origin"}, true, letIn, ""},
		"a page of another site looking": {"good", map[string]string{"Sec-Fetch-Site": "cross-site"}, false, http.StatusOK, "connection:1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, prefix+"/me", http.NoBody)
			if c.post {
				r = httptest.NewRequest(http.MethodPost, prefix+"/random", strings.NewReader(`{"bytes":16}`))
				r.Header.Set("Content-Type", "application/json")
			}
			if c.cn != "" {
				r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: c.cn}}}}}
			}
			for k, v := range c.headers {
				r.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			f.Handler().ServeHTTP(w, r)
			if c.status == letIn && (w.Code == http.StatusUnauthorized || w.Code == http.StatusForbidden) || c.status != letIn && w.Code != c.status || !strings.Contains(w.Body.String(), c.who) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	// A chain that TLS has not verified is none.
	r := httptest.NewRequest(http.MethodGet, prefix+"/me", http.NoBody)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: "good"}}}}
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusUnauthorized {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
