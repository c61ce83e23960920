package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// cookieIn gives the cookie that an answer sets.
func cookieIn(t *testing.T, w *httptest.ResponseRecorder, name string) *http.Cookie {
	t.Helper()
	for _, k := range w.Result().Cookies() {
		if k.Name == name {
			return k
		}
	}
	return nil
}

// TestSessionCookie: the whole life of a session over real services.
func TestSessionCookie(t *testing.T) {
	e := newEverything(t)
	token := e.credential(byToken, "owner")
	w := e.ask("POST", "/session", "", token)
	k := cookieIn(t, w, sessionCookie)
	if w.Code != http.StatusCreated || k == nil || !k.HttpOnly || !k.Secure || k.SameSite != http.SameSiteStrictMode || k.Path != "/" || k.Domain != "" || k.MaxAge < 3000 || k.MaxAge > 8*3600 ||
		len(k.Value) != auth.SessionTokenSize || strings.Contains(w.Body.String(), k.Value) {
		t.Fatalf("%d %s, cookie %v", w.Code, w.Body, k)
	}
	var made wire.Response[wire.Session]
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || made.Data.Role != "owner" || made.Data.Kind != "token" || made.Data.CSRFToken != auth.CSRFToken(k.Value) {
		t.Fatalf("%s %v", w.Body, err)
	}
	if again := cookieIn(t, e.ask("POST", "/session", "", token), sessionCookie); again == nil || again.Value == k.Value {
		t.Error("a second session is presented as the first")
	}
	cookie, csrf := sessionCookie+"="+k.Value, made.Data.CSRFToken
	in := func(method, path, body string, header ...string) *httptest.ResponseRecorder {
		t.Helper()
		return e.ask(method, path, body, "", append([]string{"Cookie", cookie}, header...)...)
	}
	for name, c := range map[string]struct {
		w    *httptest.ResponseRecorder
		code int
	}{
		"reads":                         {in("GET", "/me", ""), 200},
		"reads among others":            {in("GET", "/me", "", "Cookie", "a=b; "+cookie+"; c"), 200},
		"reads for a page of others":    {in("GET", "/me", "", "Sec-Fetch-Site", "cross-site"), 200}, // which cannot see it
		"its own session":               {in("GET", "/session", ""), 200},
		"changes":                       {in("POST", "/random", `{"bytes":8}`, "X-CSRF-Token", csrf), 200},
		"changes by its own page":       {in("POST", "/random", `{"bytes":8}`, "X-CSRF-Token", csrf, "Sec-Fetch-Site", "same-origin", "Origin", "http://example.com"), 200},
		"changes without the token":     {in("POST", "/random", `{"bytes":8}`), 403},
		"changes with another's":        {in("POST", "/random", `{"bytes":8}`, "X-CSRF-Token", auth.CSRFToken("kws1_"+strings.Repeat("A", 43))), 403},
		"changes for a page of others":  {in("POST", "/random", `{"bytes":8}`, "X-CSRF-Token", csrf, "Sec-Fetch-Site", "cross-site"), 403},
		"changes for one of the site":   {in("POST", "/random", `{"bytes":8}`, "X-CSRF-Token", csrf, "Sec-Fetch-Site", "same-site"), 403},
		"changes for a foreign origin":  {in("POST", "/random", `{"bytes":8}`, "X-CSRF-Token", csrf, "Origin", "https://elsewhere.example"), 403},
		"beside a token":                {e.ask("GET", "/me", "", token, "Cookie", cookie), 401},
		"beside an API key":             {in("GET", "/me", "", "X-API-Key", e.owner), 401},
		"beside nonsense":               {in("GET", "/me", "", "Authorization", "Basic x"), 401},
		"twice":                         {in("GET", "/me", "", "Cookie", cookie+"; "+cookie), 401},
		"an empty one":                  {in("GET", "/me", "", "Cookie", sessionCookie+"="), 401},
		"one without a value":           {in("GET", "/me", "", "Cookie", sessionCookie), 401},
		"in quotes":                     {in("GET", "/me", "", "Cookie", sessionCookie+`="`+k.Value+`"`), 401},
		"under another name":            {in("GET", "/me", "", "Cookie", "keywright-session="+k.Value), 401},
		"an API key as a session":       {in("GET", "/me", "", "Cookie", sessionCookie+"="+e.owner), 401},
		"a session for a session":       {in("POST", "/session", "", "X-CSRF-Token", csrf), 403},
		"its own as an administrator's": {in("DELETE", "/sessions/"+id(), "", "X-CSRF-Token", csrf), 404},
	} {
		if c.w.Code != c.code {
			t.Errorf("%s: %d %s, want %d", name, c.w.Code, c.w.Body, c.code)
		}
		if strings.Contains(c.w.Body.String(), k.Value) {
			t.Errorf("%s: the answer holds the cookie's value", name)
		}
	}
	// A certificate of the connection does not matter beside a session, nor does a session's end matter to it.
	e.ways["viewer in a session"] = way{prepare: func(r *http.Request) {
		e.ways[e.credential(byCertificate, "viewer")].prepare(r)
		r.Header.Set("Cookie", cookie)
	}}
	if w := e.ask("GET", "/me", "", "viewer in a session"); !strings.Contains(w.Body.String(), `"role":"owner"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = in("DELETE", "/session", "", "X-CSRF-Token", csrf)
	if gone := cookieIn(t, w, sessionCookie); w.Code != 200 || gone == nil || gone.MaxAge >= 0 || gone.Value != "" || !gone.Secure || gone.Path != "/" || !strings.Contains(w.Body.String(), `"ended_at"`) {
		t.Errorf("%d %s, cookie %v", w.Code, w.Body, gone)
	}
	// Afterwards a browser is told to forget it, so that it can sign in again.
	w = in("GET", "/me", "")
	if gone := cookieIn(t, w, sessionCookie); w.Code != 401 || gone == nil || gone.MaxAge >= 0 {
		t.Errorf("%d, cookie %v", w.Code, gone)
	}
	if w := e.ask("GET", "/me", "", token, "Cookie", cookie); w.Code != 401 || cookieIn(t, w, sessionCookie) != nil {
		t.Error("two credentials took the cookie away")
	}
}

func TestSecuritySettingsOverREST(t *testing.T) {
	e := newEverything(t)
	_, presented := e.newSession(auth.RoleAdmin)
	e.ways["admin"] = inSession(presented)
	for body, c := range map[string]struct {
		status int
		code   fault.Code
	}{
		`{}`:                                  {200, ""},
		`{"allowed_cidrs":["192.0.2.1"]}`:     {200, ""}, // where httptest is
		`{"allowed_cidrs":["2001:db8::/32"]}`: {400, fault.BadField},
		`{"allowed_cidrs":["x"]}`:             {400, fault.BadField},
		`{"session_idle":"x"}`:                {400, fault.BadField},
		`{"session_idle":"9h"}`:               {400, fault.BadField},
		`{"session_lifetime":"1h"}`:           {200, ""},
		`{"api_key_max_lifetime":"720h"}`:     {200, ""},
		`{"api_key_max_lifetime":720}`:        {400, fault.BadJSON},
		`{"tenant":"x"}`:                      {400, fault.UnknownField},
	} {
		w := e.ask("PATCH", "/settings/security", body, "admin")
		if w.Code != c.status || c.code != "" && !strings.Contains(w.Body.String(), string(c.code)) {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	got := made[wire.SecuritySettings](e, "admin", "GET", "/settings/security", "")
	if got.APIKeyMaxLifetime != "720h0m0s" || got.SessionLifetime != "1h0m0s" || got.SessionIdle != "" || len(got.AllowedCIDRs) != 1 || got.AllowedCIDRs[0] != "192.0.2.1/32" {
		t.Errorf("%+v", got)
	}
	made[wire.SecuritySettings](e, "admin", "PATCH", "/settings/security", `{"allowed_cidrs":[],"session_lifetime":"0s"}`)
	if got := made[wire.SecuritySettings](e, "admin", "GET", "/settings/security", ""); got.AllowedCIDRs != nil || got.SessionLifetime != "" || got.APIKeyMaxLifetime == "" {
		t.Errorf("%+v", got)
	}
}

// FuzzCookie: a cookie of ours is found as it was sent, or not at all, whatever stands around it.
func FuzzCookie(f *testing.F) {
	good := sessionCookie + "=kws1_" + strings.Repeat("A", 43)
	for _, s := range []string{"", good, "a=b; " + good, good + ";" + good, sessionCookie, sessionCookie + "=", " ;;" + sessionCookie + "=\"x\"", "x" + good, good + "\x00", "a=" + good} {
		f.Add(s)
	}
	r := newRig(f, Limits{})
	f.Fuzz(func(t *testing.T, line string) {
		value, n := cookieOf(http.Header{"Cookie": {line}}, sessionCookie)
		if n == 0 && value != "" || n > 1 && value != "" || strings.ContainsRune(value, ';') || !strings.Contains(line, value) || len(value) > maxCookie {
			t.Fatalf("%q: %q, %d", line, value, n)
		}
		if (n > 0) != strings.Contains(line, sessionCookie) && n > 0 {
			t.Fatalf("%q: found %d", line, n)
		}
		if twice, m := cookieOf(http.Header{"Cookie": {line, line}}, sessionCookie); m != 2*n || m > 1 && twice != "" {
			t.Fatalf("%q: %d, then %d", line, n, m)
		}
		// The request is answered, and with two credentials refused.
		req := httptest.NewRequest(http.MethodGet, prefix+"/me", nil)
		req.Header["Cookie"] = []string{line}
		req.Header.Set("X-API-Key", "good")
		w := httptest.NewRecorder()
		r.Handler().ServeHTTP(w, req)
		if want := map[bool]int{true: 401, false: 200}[n > 0]; w.Code != want {
			t.Fatalf("%q: %d", line, w.Code)
		}
	})
}
