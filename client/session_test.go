package client

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keywright/keywright/api/wire"
)

// TestSessions: a session is taken from the cookie of the answer alone, and presented without a key, with its CSRF token beside changes.
func TestSessions(t *testing.T) {
	var seen []string
	cookie := sessionCookie + "=kws1_abc; Path=/; Secure; HttpOnly"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, fmt.Sprintf("%s %s %q %q %q", r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Cookie"), r.Header.Get("X-CSRF-Token")))
		w.Header().Set("Content-Type", "application/json")
		data := `{"id":"i","principal":"p","name":"n","kind":"token","scopes":[],"tenant":"t","tenant_name":"n","created_at":"2026-01-02T03:04:05Z","seen_at":"2026-01-02T03:04:05Z","idle_expires_at":"2026-01-02T03:04:05Z","expires_at":"2026-01-02T03:04:05Z","csrf_token":"c"}`
		switch {
		case r.Method == http.MethodPost && strings.Contains(r.Header.Get("Authorization"), "refused"):
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"error":{"error_code":"ERR_FORBIDDEN","message":"no"},"request_id":"r","timestamp":"2026-01-02T03:04:05Z"}`)) // a client that goes away fails by itself
			return
		case r.Method == http.MethodPost:
			if cookie != "" {
				w.Header().Set("Set-Cookie", cookie)
			}
			w.WriteHeader(http.StatusCreated)
		case strings.HasSuffix(r.URL.Path, "/settings/security"):
			data = `{}`
		case strings.HasSuffix(r.URL.Path, "/sessions"):
			data = `{"items":[` + data + `]}`
		}
		_, _ = w.Write([]byte(`{"data":` + data + `,"request_id":"r","timestamp":"2026-01-02T03:04:05Z"}`)) // as above
	}))
	defer s.Close()
	connect := func(o Options) *Client {
		t.Helper()
		o.Address = s.URL
		c, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	v, session, err := connect(Options{Key: "a.b.c"}).OpenSession(t.Context())
	if err != nil || v.ID != "i" || *session != (Session{Token: "kws1_abc", CSRF: "c"}) {
		t.Fatalf("%+v %+v %v", v, session, err)
	}
	if _, _, err := connect(Options{Key: "refused"}).OpenSession(t.Context()); !hasCode(err, "ERR_FORBIDDEN") {
		t.Error(err)
	}
	for _, bad := range []string{"", "other=x", sessionCookie + "=", strings.ToLower(sessionCookie) + "x=y"} {
		cookie = bad
		if _, _, err := connect(Options{Key: "a.b.c"}).OpenSession(t.Context()); err == nil {
			t.Errorf("a session of the cookie %q", bad)
		}
	}
	for _, o := range []Options{{Key: "k", Session: session}, {Session: &Session{}}, {Session: &Session{Token: "a\nb"}}, {Session: &Session{Token: "a", CSRF: "\x00"}}} {
		o.Address = s.URL
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	seen = nil
	c := connect(Options{Session: session})
	if _, err := c.OwnSession(t.Context()); err != nil {
		t.Error(err)
	}
	for x, err := range c.Sessions(t.Context()) {
		if err != nil || x.ID != "i" {
			t.Error(err)
		}
	}
	idle := "5m"
	if _, err := c.UpdateSecurity(t.Context(), wire.UpdateSecurity{SessionIdle: &idle}); err != nil {
		t.Error(err)
	}
	if _, err := c.SecuritySettings(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := c.EndSession(t.Context(), "i"); err != nil {
		t.Error(err)
	}
	if _, err := c.EndSession(t.Context(), ""); err == nil {
		t.Error("a session without an id")
	}
	if _, err := c.CloseSession(t.Context()); err != nil {
		t.Error(err)
	}
	const in = `"" "__Host-keywright-session=kws1_abc" `
	want := []string{"GET /api/v1/session " + in + `""`, "GET /api/v1/sessions " + in + `""`, "PATCH /api/v1/settings/security " + in + `"c"`,
		"GET /api/v1/settings/security " + in + `""`, "DELETE /api/v1/sessions/i " + in + `"c"`, "DELETE /api/v1/session " + in + `"c"`}
	if strings.Join(seen, "\n") != strings.Join(want, "\n") {
		t.Errorf("asked\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
}

func hasCode(err error, code string) bool {
	e, ok := err.(*Error) //nolint:errorlint // it is not wrapped
	return ok && e.Code == code
}
