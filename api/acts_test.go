package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// explained asks for a dry run.
func (e *everything) explained(credential, body string) wire.Authorized {
	e.t.Helper()
	return made[wire.Authorized](e, credential, http.MethodPost, "/authorize", body)
}

// TestEveryActIsDecided: each route of the table names an act; what a dry run says of the act is what becomes of the request, for every scope alone; and
// the audit log names the rule that the dry run has named.
func TestEveryActIsDecided(t *testing.T) {
	e := newEverything(t)
	type credential struct {
		token string
		scope auth.Scope
	}
	var all []credential
	for _, q := range auth.Scopes() {
		all = append(all, credential{e.newAPIKey(e.owner, fmt.Sprintf(`{"name":"one","scopes":[%q]}`, q)).Key, q})
	}
	cells := 0
	for i := range e.routes {
		r := &e.routes[i]
		if r.Open {
			continue
		}
		if r.Act == "" {
			t.Fatalf("%s has no act", r.name())
		}
		allowed := 0
		for _, c := range all {
			said := e.explained(c.token, fmt.Sprintf(`{"operation":%q}`, r.Act))
			if said.Allowed && r.And == "" {
				allowed++
			}
			if said.Allowed && r.And != "" { // the route takes one scope more than its act
				continue
			}
			path, body, _, _, err := r.probe()
			if err != nil {
				t.Fatal(err)
			}
			w := e.ask(r.Method, path, body, c.token)
			cells++
			code := fault.InsufficientScope
			if r.Session || r.Signed || r.Opens {
				code = fault.Forbidden
			}
			switch {
			case !said.Allowed && (!r.answered(w, code) || said.ErrorCode != string(code)):
				t.Errorf("%s with %s: %s is denied by %s (%s), and the answer is %d %.150s", r.name(), c.scope, r.Act, said.Rule, said.ErrorCode, w.Code, w.Body)
			case said.Allowed && settledByHandlers[r.name()] == nil && (w.Code == 401 || w.Code == 403):
				t.Errorf("%s with %s: %s is allowed by %s, and the answer is %d %.150s", r.name(), c.scope, r.Act, said.Rule, w.Code, w.Body)
			}
		}
		if allowed == 0 && !r.Session && !r.Signed && !r.Opens && r.And == "" {
			t.Errorf("%s (%s) is allowed to no scope", r.name(), r.Act)
		}
	}
	if cells < 1500 {
		t.Errorf("%d cells prove little", cells)
	}
	entries := made[wire.List[wire.AuditEntry]](e, e.owner, http.MethodGet, "/audit?action=authorize&outcome=ERR_INSUFFICIENT_SCOPE&limit=1000", "")
	if len(entries.Items) == 0 {
		t.Error("no denial is in the log")
	}
	for _, entry := range entries.Items {
		if !strings.HasSuffix(entry.Detail, " rule "+string(auth.RuleNoScope)) {
			t.Errorf("the log says %q", entry.Detail)
		}
	}
	for name := range acts() {
		if !slices.ContainsFunc(e.routes, func(r route) bool { return r.name() == name && !r.Open }) {
			t.Errorf("acts has %s, and the table has not", name)
		}
	}
}

// TestActsAreTheRows: a row that takes other scopes than its act, or has none, keeps the server from starting.
func TestActsAreTheRows(t *testing.T) {
	for what, rows := range map[string][]route{
		"another scope":  {{Method: "GET", Path: "/root", Scope: auth.ScopeRootRead}},
		"no scope":       {{Method: "GET", Path: "/audit"}},
		"no act":         {{Method: "GET", Path: "/something", Scope: auth.ScopeKeysRead}},
		"for a session":  {{Method: "GET", Path: "/me", Session: true}},
		"for everybody":  {{Method: "PATCH", Path: "/settings/security"}},
		"without one":    {{Method: "DELETE", Path: "/session"}},
		"by an API key":  {{Method: "POST", Path: "/session"}},
		"a key's, wrong": {{Method: "POST", Path: "/keys/{key}/sign", Scope: auth.ScopeKeysRead}},
	} {
		if settleActs(rows) == nil {
			t.Error(what)
		}
	}
}

// TestAuthorizeAboutOne: a dry run about one job, one API key and one tenant.
func TestAuthorizeAboutOne(t *testing.T) {
	x := newTenants(t)
	admin := x.newAPIKey(x.owner, `{"name":"admin","role":"admin"}`)
	limited := x.newAPIKey(x.owner, `{"name":"limited","role":"developer","keys":["one"]}`)
	ours := made[wire.Job](x.everything, x.owner, http.MethodPost, "/keys/move", `{"backend":"default","name_prefix":"a"}`)
	about := func(credential, operation, resource, as string) wire.Authorized {
		t.Helper()
		return x.explained(credential, fmt.Sprintf(`{"operation":%q,"resource":%q,"principal":%q}`, operation, resource, as))
	}
	for _, c := range []struct {
		credential, operation, resource, as string
		allowed                             bool
		rule                                auth.Rule
	}{
		{x.owner, "job.cancel", "job:" + ours.ID, "", true, auth.RuleScope},
		{x.owner, "job.cancel", "job:" + ours.ID, "api-key:" + limited.ID, false, auth.RuleKeys},
		{x.owner, "job.cancel", "job:" + ours.ID, "api-key:" + admin.ID, true, auth.RuleScope},
		{admin.Key, "api-key.revoke", "api-key:" + x.ownKey.ID, "", true, auth.RuleScope},
		{admin.Key, "api-key.rotate", "api-key:" + limited.ID, "", true, auth.RuleScope},
		{limited.Key, "api-key.rotate", "api-key:" + limited.ID, "", true, auth.RuleAny},
		{admin.Key, "tenant.get", "tenant:" + x.ownKey.ID, "", false, auth.RuleTenant},
		{admin.Key, "tenant.suspend", "", "", false, auth.RuleNoScope},
	} {
		if got := about(c.credential, c.operation, c.resource, c.as); got.Allowed != c.allowed || got.Rule != string(c.rule) {
			t.Errorf("%s on %s as %q: %+v", c.operation, c.resource, c.as, got)
		}
	}
	owner := made[wire.Me](x.everything, x.owner, http.MethodGet, "/me", "")
	if got := about(admin.Key, "api-key.revoke", owner.ID, ""); got.Allowed || got.Rule != string(auth.RuleOwners) {
		t.Errorf("ending an owner's: %+v", got)
	}
	if got := about(admin.Key, "api-key.rotate", owner.ID, ""); got.Allowed || got.Rule != string(auth.RuleOwners) {
		t.Errorf("renewing an owner's: %+v", got)
	}
	refusedAs := func(w *httptest.ResponseRecorder, code fault.Code) {
		t.Helper()
		var got wire.ErrorResponse
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Error.Code != string(code) {
			t.Errorf("%d %s, want %s", w.Code, w.Body, code)
		}
	}
	for resource, code := range map[string]fault.Code{"job:" + id(): fault.JobNotFound, "api-key:" + x.apiKey: fault.APIKeyNotFound, "x:" + id(): fault.BadField, "job:1": fault.BadField} {
		refusedAs(x.ask("POST", "/authorize", fmt.Sprintf(`{"operation":"job.cancel","resource":%q}`, resource), x.owner), code)
	}
}
