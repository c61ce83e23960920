package api

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// examplePath fills a route's parameters in.
func examplePath(r *route) string {
	return prefix + strings.NewReplacer("{key}", "some-key", "{n}", "1", "{id}", keyID.String(), "{name}", "default").Replace(r.Path)
}

// TestEveryRoute walks the table: no route may miss a step of the pipeline.
func TestEveryRoute(t *testing.T) {
	r := newRig(t, Limits{})
	if len(r.routes) < 45 {
		t.Fatalf("the table has only %d routes", len(r.routes))
	}
	for i := range r.routes {
		row := &r.routes[i]
		t.Run(row.Method+" "+row.Path, func(t *testing.T) {
			path := examplePath(row)
			small := ""
			if row.BodyLimit > 0 {
				small = "{}"
			}
			if row.Summary == "" || row.Status == 0 || row.Do.run == nil {
				t.Fatal("the row is not complete")
			}
			if !row.Open {
				row.refused(t, r.do(row.Method, path, small, "X-API-Key", ""), 401, fault.Unauthenticated)
				row.refused(t, r.do(row.Method, path, small, "X-API-Key", "bad"), 401, fault.Unauthenticated)
				if row.Scope != "" {
					row.refused(t, r.do(row.Method, path, small, "X-API-Key", "weak"), 403, fault.InsufficientScope)
					last := r.audit.entries[len(r.audit.entries)-1]
					if last.Outcome != string(fault.InsufficientScope) || last.Principal != "api-key:1" || last.Detail != row.Method+" "+row.Path+" rule no-scope" {
						t.Errorf("the denial was recorded as %+v", last)
					}
				}
				if row.Session || row.Signed || row.Opens {
					row.refused(t, r.do(row.Method, path, small), 403, fault.Forbidden) // any API key
					r.auth.kind = auth.KindSession
					if row.Opens {
						row.refused(t, r.do(row.Method, path, small), 403, fault.Forbidden) // a session of a session
						r.auth.kind = auth.KindToken
					}
					defer func() { r.auth.kind = "" }()
				}
				r.root.locked.Store(true)
				row.refused(t, r.do(row.Method, path, small), 503, fault.Locked)
				r.root.locked.Store(false)
			}
			if !row.Tolerant {
				row.refused(t, r.do(row.Method, path+"?surprise=1", small), 400, fault.BadQuery)
			}
			refused(t, r.do("TRACE", path, ""), 405, fault.MethodNotAllowed)
			if row.BodyLimit == 0 {
				row.refused(t, r.do(row.Method, path, "{}"), 413, fault.BodyTooLarge)
				return
			}
			for _, ct := range []string{"text/plain", "application/json; charset=latin1", "application/json; version=2", "application/jsonp", "application/x-www-form-urlencoded"} {
				row.refused(t, r.do(row.Method, path, "{}", "Content-Type", ct), 415, fault.BadContentType)
			}
			row.refused(t, r.do(row.Method, path, "{}", "Content-Type", ""), 415, fault.BadContentType)
			row.refused(t, r.do(row.Method, path, "{}", "Content-Encoding", "gzip"), 415, fault.BadContentType)
			for _, bad := range []string{"{", "[]", "null x", "{} {}", `{"a`, "5", "\xff", "null", " null "} {
				row.refused(t, r.do(row.Method, path, bad), 400, fault.BadJSON)
			}
			row.refused(t, r.do(row.Method, path, `{"surprise_field":1}`), 400, fault.UnknownField)
			row.refused(t, r.do(row.Method, path, strings.Repeat(" ", int(row.BodyLimit)+1)), 413, fault.BodyTooLarge)
			// Of a size that nobody announced, too.
			req := httptest.NewRequest(row.Method, path, strings.NewReader(strings.Repeat(" ", int(row.BodyLimit)+1)))
			req.ContentLength = -1
			req.Header.Set("X-API-Key", "good")
			req.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			r.Handler().ServeHTTP(w, req)
			row.refused(t, w, 413, fault.BodyTooLarge)
		})
	}
	if n := r.keys.calls.Load(); n != 0 {
		t.Errorf("%d refused requests reached the key service", n)
	}
}

// TestFieldsAreExact sees to it that the first field of every request type is refused in any other spelling.
func TestFieldsAreExact(t *testing.T) {
	r := newRig(t, Limits{})
	for i := range r.routes {
		row := &r.routes[i]
		if row.BodyLimit == 0 || row.Do.Req == reflect.TypeFor[wire.Empty]() {
			continue
		}
		if r.auth.kind = ""; row.Session {
			r.auth.kind = auth.KindSession
		}
		for _, f := range fieldsOf(row.Do.Req) {
			w := r.do(row.Method, examplePath(row), `{"`+strings.ToUpper(f.name)+`":null}`)
			row.refused(t, w, 400, fault.UnknownField)
			w = r.do(row.Method, examplePath(row), `{"`+f.name+`":null,"`+f.name+`":null}`)
			row.refused(t, w, 400, fault.BadJSON)
		}
	}
}

func TestNothingThere(t *testing.T) {
	r := newRig(t, Limits{})
	for _, p := range []string{"/", "/api", "/api/v1", "/api/v1/", "/api/v1/keys/", "/api/v1/nothing", "/keys", "/encrypt", "/api/v1/keys/a/b", "/api/v1/keys/a/encrypt/"} {
		refused(t, r.do("GET", p, ""), 404, fault.RouteNotFound)
	}
	w := r.do("PUT", "/api/v1/keys", "")
	refused(t, w, 405, fault.MethodNotAllowed)
	if allow := w.Header().Get("Allow"); !strings.Contains(allow, "GET") || !strings.Contains(allow, "POST") {
		t.Errorf("Allow is %q", allow)
	}
}

func TestCredentials(t *testing.T) {
	r := newRig(t, Limits{})
	for name, c := range map[string]struct {
		headers []string
		ok      bool
		reason  string
	}{
		"key header":      {[]string{"X-API-Key", "good"}, true, ""},
		"bearer":          {[]string{"X-API-Key", "", "Authorization", "Bearer good"}, true, ""},
		"scheme's case":   {[]string{"X-API-Key", "", "Authorization", "bearer good"}, true, ""},
		"both, the same":  {[]string{"Authorization", "Bearer good"}, true, ""},
		"both, different": {[]string{"Authorization", "Bearer weak"}, false, "conflicting"},
		"basic":           {[]string{"X-API-Key", "", "Authorization", "Basic good"}, false, "malformed"},
		"no scheme":       {[]string{"X-API-Key", "", "Authorization", "good"}, false, "malformed"},
		"empty":           {[]string{"X-API-Key", "", "Authorization", "Bearer "}, false, "malformed"},
		"none":            {[]string{"X-API-Key", ""}, false, "missing"},
		"wrong":           {[]string{"X-API-Key", "stolen"}, false, "refused"},
	} {
		r.denials.n = nil
		w := r.do("GET", "/api/v1/me", "", c.headers...)
		if c.ok {
			if w.Code != http.StatusOK || r.denials.n != nil {
				t.Errorf("%s: %d %s, denials %v", name, w.Code, w.Body, r.denials.n)
			}
			continue
		}
		refused(t, w, 401, fault.Unauthenticated)
		if r.denials.n[c.reason] != 1 || len(r.denials.n) != 1 {
			t.Errorf("%s: counted as %v, want %s", name, r.denials.n, c.reason)
		}
	}
	req := httptest.NewRequest(http.MethodGet, "/api/v1/me", nil)
	req.Header["X-Api-Key"] = []string{"good", "good"}
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, req)
	refused(t, w, 401, fault.Unauthenticated)
}

func TestWhileLocked(t *testing.T) {
	r := newRig(t, Limits{})
	r.root.locked.Store(true)
	for _, p := range []string{"/health", "/api/v1/health"} {
		if w := r.do("GET", p, "", "X-API-Key", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `{"data":{"status":"locked","version":"test"}`) {
			t.Errorf("%s: %d %s", p, w.Code, w.Body)
		}
	}
	for _, p := range []string{"/ready", "/api/v1/ready"} {
		refused(t, r.do("GET", p, "", "X-API-Key", ""), 503, fault.Locked)
	}
	for _, p := range []string{"/openapi.json", "/docs", "/api/v1/openapi.json", "/api/v1/docs"} {
		if w := r.do("GET", p, "", "X-API-Key", ""); w.Code != 200 {
			t.Errorf("%s: %d", p, w.Code)
		}
	}
	refused(t, r.do("POST", "/api/v1/unlock", `{}`, "X-API-Key", ""), 400, fault.MissingField)
	refused(t, r.do("POST", "/api/v1/unlock", `{"passphrase":"a","shares":["b"]}`, "X-API-Key", ""), 400, fault.MissingField)
	refused(t, r.do("POST", "/api/v1/unlock", `{"passphrase":"a"}`, "X-API-Key", ""), 403, fault.WrongSecret)
	if w := r.do("POST", "/api/v1/unlock", `{"shares":["a"]}`, "X-API-Key", ""); !strings.Contains(w.Body.String(), `{"locked":true,"shares_missing":2}`) {
		t.Errorf("shares: %s", w.Body)
	}
	if w := r.do("POST", "/api/v1/unlock", `{"passphrase":"open sesame"}`, "X-API-Key", ""); !strings.Contains(w.Body.String(), `{"data":{"locked":false}`) {
		t.Errorf("unlocked: %s", w.Body)
	}
	if w := r.do("GET", "/ready", "", "X-API-Key", ""); w.Code != 200 {
		t.Errorf("ready after unlocking: %d", w.Code)
	}
}
