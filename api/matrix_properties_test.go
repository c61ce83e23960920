package api

import (
	"fmt"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
)

// secretive is what the names of fields with secrets in them are like.
var secretive = regexp.MustCompile(`(?i)secret|passw|passphrase|\bpin\b|_pin|private|token|credential|pepper|seed|material|plaintext|shares?$|^key$|key_?file|derived|symmetric|random|^mac$|hash$`)

// shown are the fields of answers that may be like that, by type and name, and why.
var shown = map[string]string{
	"APIKey.key":                    "once, when it is made or rotated",
	"Webhook.secret":                "once, when it is made or rotated",
	"Webhook.old_secret_until":      "a time",
	"AddedSlot.shares":              "once, when they are made",
	"ImportParameters.import_token": "no secret: it names a wrapping key, and is good for one import",
	"Plaintext.plaintext":           "the result of the operation",
	"DataKeyResult.plaintext":       "the result of the operation",
	"DerivedKey.derived_key":        "the result of the operation",
	"SharedSecret.shared_secret":    "the result of the operation",
	"Encapsulation.shared_secret":   "the result of the operation",
	"SymmetricKey.symmetric_key":    "the result of the operation",
	"MACResult.mac":                 "the result of the operation",
	"RandomResult.random":           "the result of the operation",
	"Event.key":                     "id, name and version of a key",
	"Session.csrf_token":            "to the session itself: of no use without its cookie",
	"Unlocked.shares_missing":       "a number",
	"Proof.leaf_hash":               "of the public log",
}

// TestAnswersHoldNoSecrets looks at the types of all answers: a field with the name of a secret is one that is shown once, or what was asked for.
func TestAnswersHoldNoSecrets(t *testing.T) {
	r := newRig(t, Limits{})
	seen, used := map[reflect.Type]bool{}, map[string]bool{}
	var walk func(typ reflect.Type, route string)
	walk = func(typ reflect.Type, route string) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() || seen[typ] {
			return
		}
		seen[typ] = true
		for f := range structFields(typ) {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name := typ.Name() + "." + tag; tag != "" && secretive.MatchString(tag) {
				if shown[name] == "" {
					t.Errorf("%s answers with %s: no secret leaves but by the fields in shown", route, name)
				}
				used[name] = true
			}
			walk(f.Type, route)
		}
	}
	for i := range r.routes {
		walk(r.routes[i].Do.Resp, r.routes[i].name())
	}
	if len(seen) < 40 {
		t.Errorf("only %d types were looked at", len(seen))
	}
	for name, why := range shown {
		if !used[name] && !strings.Contains(why, "number") && !strings.Contains(why, "key") { // of streams, which have no type in the table
			t.Errorf("shown has %s, and no answer has", name)
		}
	}
	if !secretive.MatchString("client_secret") || !secretive.MatchString("user_pin") || secretive.MatchString("pinned") {
		t.Error("the pattern is not what it was meant to be")
	}
}

// settled are properties that only the service sets.
var settled = []string{"id", "tenant", "tenant_id", "owner", "created_by", "created_at", "updated_at", "revoked_at", "requested_by", "state", "status", "role", "scopes",
	"custody", "origin", "version", "primary_version", "key_id", "votes", "approved", "exportable", "plan", "quotas", "mac", "hash", "prefix", "is_admin", "__proto__"}

// TestNothingIsSetFromOutside: what a request type does not name is refused on every route with a body, at every depth of it, by the real
// services, also for who may do everything.
func TestNothingIsSetFromOutside(t *testing.T) {
	e := newEverything(t)
	sent := 0
	for i := range e.routes {
		r := &e.routes[i]
		if r.BodyLimit == 0 {
			continue
		}
		path, _, err := fill(r, func(x *resource) string { return x.nowhere() })
		if err != nil {
			t.Error(err)
			continue
		}
		ask := func(body string, header ...string) *httptest.ResponseRecorder {
			sent++
			return e.ask(r.Method, path, body, e.owner, header...)
		}
		if r.Session || r.Signed || r.Opens {
			if w := ask("{}"); w.Code != 403 {
				t.Errorf("%s: %d", r.name(), w.Code)
			}
			continue
		}
		fields := fieldsOf(r.Do.Req)
		for _, name := range settled {
			if !slices.ContainsFunc(fields, func(f field) bool { return f.name == name }) {
				if w := ask(fmt.Sprintf(`{%q:"x"}`, name)); !r.answered(w, fault.UnknownField) {
					t.Errorf("%s takes %s: %d %s", r.name(), name, w.Code, w.Body)
				}
			}
		}
		for _, body := range nested(r.Do.Req) {
			if w := ask(body); !r.answered(w, fault.UnknownField) {
				t.Errorf("%s takes %s: %d %s", r.name(), body, w.Code, w.Body)
			}
		}
		for _, c := range []struct {
			code fault.Code
			body string
			kind string
		}{
			{fault.BodyTooLarge, strings.Repeat(" ", int(r.BodyLimit)+1), "application/json"},
			{fault.BadContentType, "{}", "application/x-www-form-urlencoded"},
			{fault.BadContentType, "{}", "text/plain"},
			{fault.BadContentType, "<x/>", "application/xml"},
			{fault.BadJSON, "[]", "application/json"},
		} {
			if w := ask(c.body, "Content-Type", c.kind); !r.answered(w, c.code) {
				t.Errorf("%s with %.10q as %s: %d %s", r.name(), c.body, c.kind, w.Code, w.Body)
			}
		}
	}
	t.Logf("%d requests", sent)
	if sent < 1500 {
		t.Error("those are not all")
	}
}

// nested gives bodies with a field that is not known in each structure within a request type.
func nested(t reflect.Type) (out []string) {
	for _, f := range fieldsOf(t) {
		inner, open, shut := f.typ, "", ""
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			if inner.Kind() == reflect.Slice {
				open, shut = open+"[", "]"+shut
			}
			inner = inner.Elem()
		}
		if inner.Kind() != reflect.Struct || inner == reflect.TypeFor[time.Time]() {
			continue
		}
		for _, body := range append(nested(inner), surprise) {
			out = append(out, fmt.Sprintf(`{%q:%s%s%s}`, f.name, open, body, shut))
		}
	}
	return out
}
