package api

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestAddress(t *testing.T) {
	r := newRig(t, Limits{})
	r.proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"192.0.2.1:1234", nil, "192.0.2.1"},
		{"192.0.2.1:1234", []string{"198.51.100.7"}, "192.0.2.1"}, // not a proxy of ours: not believed
		{"[::ffff:192.0.2.1]:1", nil, "192.0.2.1"},
		{"[2001:db8::1]:1", nil, "2001:db8::1"},
		{"10.0.0.1:1", []string{"198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1:1", []string{"198.51.100.7, 10.9.9.9"}, "198.51.100.7"},
		{"10.0.0.1:1", []string{"203.0.113.9, 198.51.100.7 ,\t10.9.9.9"}, "198.51.100.7"}, // what stands further left anybody can have written
		{"10.0.0.1:1", []string{"203.0.113.9", "198.51.100.7", "fd00::5"}, "198.51.100.7"},
		{"[fd00::1]:1", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1:1", []string{"10.0.0.2, 10.0.0.3"}, "10.0.0.2"},
		{"10.0.0.1:1", nil, "10.0.0.1"},
		{"10.0.0.1:1", []string{"somebody"}, "invalid IP"},
		{"10.0.0.1:1", []string{"203.0.113.9,"}, "invalid IP"},
		{"10.0.0.1:1", []string{""}, "invalid IP"},
		{"10.0.0.1:1", []string{"198.51.100.7:80"}, "invalid IP"},
		{"pipe", nil, "invalid IP"},
	} {
		req := httptest.NewRequest(http.MethodGet, "/api/v1/me", nil)
		req.Header.Set("X-API-Key", "good")
		req.RemoteAddr = c.peer
		req.Header["X-Forwarded-For"] = c.forwarded
		w := httptest.NewRecorder()
		r.Handler().ServeHTTP(w, req)
		if got := r.auth.from.Load().String(); w.Code != 200 || got != c.want {
			t.Errorf("%s %q: %d %s, want %s", c.peer, c.forwarded, w.Code, got, c.want)
		}
	}
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"", "198.51.100.7", "a, b", "10.0.0.1,198.51.100.7", "::1%eth0", ",,,", "fd00::1 , 2001:db8::2"} {
		f.Add(s)
	}
	r := newRig(f, Limits{})
	r.proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	f.Fuzz(func(t *testing.T, header string) {
		req := httptest.NewRequest(http.MethodGet, "/api/v1/me", nil)
		req.Header.Set("X-API-Key", "good")
		req.RemoteAddr = "10.0.0.1:9"
		req.Header["X-Forwarded-For"] = []string{header}
		r.Handler().ServeHTTP(httptest.NewRecorder(), req)
		if a := *r.auth.from.Load(); a.Is4In6() || a.Zone() != "" {
			t.Errorf("%q: %s", header, a)
		}
	})
}
