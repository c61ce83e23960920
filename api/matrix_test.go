package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// The matrix of every route and every credential. Rows come from the route table, columns from the tables of roles and scopes, and what is
// expected from the rules below, which say again in other words what docs/guides/access.md says: auth.Decide is not asked. A route that these
// tests do not know how to ask fails them and says what is missing.

// column is one credential.
type column struct {
	name, token string
	scopes      []auth.Scope
	kind        auth.Kind  // of what is no API key and is let in
	role        auth.Role  // of a session
	door        fault.Code // refused with this whatever it asks for; "": not at the door
}

// covered says again what the coarse scopes stand for.
var covered = map[auth.Scope][]auth.Scope{
	"read":  {"keys:read", "policies:read", "audit:read", "settings:read", "backends:read"},
	"write": {"keys:write", "encryption:write"},
}

func (c *column) has(any ...auth.Scope) bool {
	for _, q := range any {
		if slices.Contains(c.scopes, q) {
			return true
		}
		for coarse, stands := range covered {
			if slices.Contains(c.scopes, coarse) && slices.Contains(stands, q) {
				return true
			}
		}
	}
	return false
}

// anyone may ask: the rest is settled by what is asked for.
var anyone []auth.Scope

// settledByHandlers are the routes whose row names no scope, with those of which one is needed to be told that a thing is not there. A route
// that is open is not among them, nor one for sessions.
var settledByHandlers = map[string][]auth.Scope{
	"GET /jobs":                    {"keys:read", "nodes:read"},
	"GET /jobs/{id}":               {"keys:read", "nodes:read"},
	"POST /jobs/{id}/cancel":       {"keys:write", "backends:write", "root:write"},
	"POST /api-keys/{id}/rotate":   {"settings:write"},
	"GET /me":                      anyone,
	"GET /tenants/{id}":            anyone,
	"GET /tenants/{id}/usage":      anyone,
	"POST /approvals":              anyone,
	"GET /approvals":               anyone,
	"GET /approvals/{id}":          anyone,
	"POST /approvals/{id}/approve": anyone,
	"POST /approvals/{id}/reject":  anyone,
	"POST /authorize":              anyone,
}

func (r *route) name() string { return r.Method + " " + r.Path }

// refusal gives the code with which the rules refuse a credential on a route; "": they don't.
func (c *column) refusal(r *route) (fault.Code, error) {
	switch {
	case r.Tolerant:
		return fault.Unauthenticated, nil // where browsers sign in: nothing else serves, and nobody has begun
	case r.Open:
		return "", nil
	case c.door != "":
		return c.door, nil
	case r.Session && (c.kind != auth.KindSession || c.role != auth.RoleOwner && c.role != auth.RoleAdmin), r.Signed && c.kind != auth.KindSession,
		r.Opens && (c.kind == "" || c.kind == auth.KindSession):
		return fault.Forbidden, nil
	case r.Session, r.Signed, r.Opens:
		return "", nil
	case r.Scope == "":
		some, known := settledByHandlers[r.name()]
		if !known {
			return "", fmt.Errorf("%s names no scope: say in settledByHandlers which it takes", r.name())
		}
		if some != nil && !c.has(some...) {
			return fault.InsufficientScope, nil
		}
	case !c.has(r.Scope) && (r.Or == "" || !c.has(r.Or)), r.And != "" && !c.has(r.And):
		return fault.InsufficientScope, nil
	}
	return "", nil
}

// columns makes every kind of credential.
func (e *everything) columns() []column {
	list := []column{
		{name: "none", door: fault.Unauthenticated},
		{name: "malformed", token: "kw_nonsense", door: fault.Unauthenticated},
		{name: "unknown", token: "kw_abcdefghijkl_0123456789012345678901234567890123456789012", door: fault.Unauthenticated},
		{name: "first owner", token: e.owner, scopes: slices.Concat(auth.RoleOwner.Scopes(), deploymentScopes())},
	}
	for _, r := range auth.Roles() {
		k := e.newAPIKey(e.owner, fmt.Sprintf(`{"name":"role","role":%q}`, r.Role))
		list = append(list, column{name: string(r.Role), token: k.Key, scopes: r.Scopes})
	}
	for _, q := range auth.Scopes() {
		k := e.newAPIKey(e.owner, fmt.Sprintf(`{"name":"scope","scopes":[%q]}`, q))
		list = append(list, column{name: "scope " + string(q), token: k.Key, scopes: []auth.Scope{q}})
	}
	const all = `"role":"owner"`
	revoked := e.newAPIKey(e.owner, `{"name":"revoked",`+all+`}`)
	made[wire.APIKey](e, e.owner, http.MethodDelete, "/api-keys/"+revoked.ID, "")
	renewed := e.newAPIKey(e.owner, `{"name":"renewed",`+all+`}`)
	made[wire.APIKey](e, e.owner, http.MethodPost, "/api-keys/"+renewed.ID+"/rotate", "")
	expired := e.newAPIKey(e.owner, fmt.Sprintf(`{"name":"expired",%s,"expires_at":%q}`, all, time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano)))
	elsewhere := e.newAPIKey(e.owner, `{"name":"elsewhere",`+all+`,"allowed_cidrs":["198.51.100.0/24","2001:db8::/32"]}`)
	suspended := e.newSuspended()
	time.Sleep(time.Until(expired.ExpiresAt.Add(time.Millisecond)))
	return append(append(append(list, e.otherColumns()...), e.sessionColumns()...),
		column{name: "revoked", token: revoked.Key, door: fault.Unauthenticated},
		column{name: "rotated away", token: renewed.Key, door: fault.Unauthenticated},
		column{name: "expired", token: expired.Key, door: fault.Unauthenticated},
		column{name: "another's prefix", token: e.owner[:len(e.owner)-1] + "_", door: fault.Unauthenticated},
		column{name: "from elsewhere", token: elsewhere.Key, door: fault.Forbidden},
		column{name: "of a suspended tenant", token: suspended, door: fault.TenantSuspended})
}

// newSuspended makes a tenant that is suspended, and gives its owner's API key.
func (e *everything) newSuspended() string {
	e.t.Helper()
	x := made[wire.CreatedTenant](e, e.owner, http.MethodPost, "/tenants", `{"name":"`+suspendedName+`"}`)
	made[wire.Tenant](e, e.owner, http.MethodPost, "/tenants/"+x.ID+"/suspend", "")
	return x.OwnerKey.Key
}

const surprise = `{"surprise_field":1}`

// probe is a request that does nothing: what it names is not there, or its body is refused behind every look at the rights. It gives the
// answer that one who may ask gets; status 0 for any that is neither a refusal nor a failure.
func (r *route) probe() (path, body string, status int, codes []fault.Code, err error) {
	path, codes, err = fill(r, func(x *resource) string { return x.nowhere() })
	if err != nil {
		return "", "", 0, nil, err
	}
	late := r.Scope == "" && settledByHandlers[r.name()] != nil // the rights are looked at by the handler, behind the body
	switch {
	case r.Signed && r.Method == http.MethodDelete: // which would end the caller's session
		return path + "?surprise=1", "", 0, []fault.Code{fault.BadQuery}, nil
	case r.BodyLimit > 0 && !late:
		return path, surprise, 0, []fault.Code{fault.UnknownField}, nil
	case r.BodyLimit > 0 && !r.BodyOptional:
		return "", "", 0, nil, fmt.Errorf("%s: the matrix has no harmless body for it", r.name())
	case len(codes) > 0:
		return path, "", 0, codes, nil
	case len(r.Query) > 0 || r.Open:
		return path, "", 0, nil, nil
	}
	return path, "", r.Status, nil, nil
}

// answered reports whether the answer is the failure with the code, in the form of the route.
func (r *route) answered(w *httptest.ResponseRecorder, code fault.Code) bool {
	status, name := r.shown(code)
	var got wire.ErrorResponse
	return json.Unmarshal(w.Body.Bytes(), &got) == nil && w.Code == status && got.Error.Code == name
}

func TestMatrix(t *testing.T) {
	e := newEverything(t)
	columns := e.columns()
	if raceDetector { // those that are refused at the door, and some of each kind
		columns = slices.DeleteFunc(columns, func(c column) bool {
			return strings.Contains(c.name, "scope") && !strings.HasSuffix(c.name, "read")
		})
	}
	if len(columns) < 20 || len(e.routes) < 85 {
		t.Fatalf("%d routes and %d credentials are not all", len(e.routes), len(columns))
	}
	var cells, refusals int
	var mu sync.Mutex // guards both
	var group sync.WaitGroup
	for _, c := range columns {
		group.Go(func() {
			for i := range e.routes {
				r := &e.routes[i]
				refused, err := e.cell(&c, r)
				if err != nil {
					t.Errorf("%s, %s: %v", c.name, r.name(), err)
				}
				mu.Lock()
				cells++
				if refused {
					refusals++
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("%d routes, %d credentials: %d cells, %d of them refused", len(e.routes), len(columns), cells, refusals)
	if refusals < cells/4 || refusals > cells*9/10 {
		t.Error("that proves nothing")
	}
	for name := range settledByHandlers {
		if !slices.ContainsFunc(e.routes, func(r route) bool {
			return r.name() == name && r.Scope == "" && !r.Open && !r.Session && !r.Signed && !r.Opens
		}) {
			t.Errorf("settledByHandlers has %s, and the table has not", name)
		}
	}
}

func (e *everything) cell(c *column, r *route) (refused bool, err error) {
	want, err := c.refusal(r)
	if err != nil {
		return false, err
	}
	path, body, status, codes, err := r.probe()
	if err != nil {
		return false, err
	}
	w := e.ask(r.Method, path, body, c.token)
	if want != "" {
		if !r.answered(w, want) {
			return true, fmt.Errorf("answered %d %.200s, want %s", w.Code, w.Body, want)
		}
		if challenged := w.Header().Get("WWW-Authenticate") != ""; challenged != (want == fault.Unauthenticated) {
			return true, fmt.Errorf("%s with the challenge %v", want, challenged)
		}
		return true, nil
	}
	switch {
	case len(codes) > 0:
		if !slices.ContainsFunc(codes, func(code fault.Code) bool { return r.answered(w, code) }) {
			return false, fmt.Errorf("answered %d %.200s, want %s", w.Code, w.Body, codes)
		}
	case status != 0 && w.Code != status && !r.answered(w, fault.Conflict), // another is under way, of what there is one at a time
		w.Code == 401, w.Code == 403, w.Code >= 500 && !r.Open:
		return false, fmt.Errorf("answered %d %.200s, want %d", w.Code, w.Body, status)
	}
	return false, nil
}
