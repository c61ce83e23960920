package api

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
)

// references are requests that name something in their bodies or queries. %s stands for it, OURS for a key of the own tenant, PEM for a public key, NEW for a
// name that is not taken.
var references = map[string][]string{
	"POST /encrypt":               {`{"key":"%s","plaintext":"AA=="}`},
	"POST /decrypt":               {`{"key":"%s","ciphertext":"AA=="}`},
	"POST /data-key":              {`{"key":"%s"}`},
	"POST /sign":                  {`{"key":"%s","message":"AA=="}`},
	"POST /verify":                {`{"key":"%s","message":"AA==","signature":"AA=="}`},
	"POST /keys":                  {`{"name":"NEW","algorithm":"AES-256-GCM","policy":{"quorum":{"operations":["key.delete"],"approvals":1,"approvers":["api-key:%s"]}}}`},
	"PATCH /keys/{key}":           {`{"policy":{"quorum":{"operations":["key.delete"],"approvals":1,"approvers":["api-key:%s"]}}}`},
	"POST /keys/import":           {`{"key":"%s","import_token":"x","wrapped_key":"AA=="}`, `{"key":"%s","public_key":"PEM"}`, `{"name":"NEW","algorithm":"RSA-2048","public_key":"PEM","policy":{"quorum":{"operations":["key.delete"],"approvals":1,"approvers":["api-key:%s"]}}}`},
	"POST /keys/{key}/export":     {`{"to":"%s"}`},
	"POST /approvals":             {`{"key":"%s","operation":"key.delete"}`, `{"key":"OURS","operation":"key.revoke-grant","target":"%s"}`},
	"POST /authorize":             {`{"key":"%s","operation":"encrypt"}`, `{"principal":"api-key:%s","operation":"encrypt"}`, `{"principal":"api-key:%s","operation":"encrypt","key":"OURS"}`, `{"operation":"api-key.revoke","resource":"api-key:%s"}`},
	"PUT /keys/{key}/grants/{id}": {`{"principal":"api-key:%s","operations":["encrypt"]}`},
	"POST /webhooks":              {`{"name":"NEW","url":"http://127.0.0.1:9/","keys":["%s"]}`, `{"name":"NEW","url":"http://127.0.0.1:9/","label":"%s"}`},
	"POST /api-keys":              {`{"name":"x","role":"viewer","keys":["%s"]}`},
	"GET /keys":                   {"?name_prefix=%s", "?label=%s"},
	"GET /keys/inventory":         {"?name_prefix=%s", "?label=%s"},
	"GET /audit":                  {"?key=%s", "?principal=api-key:%s"},
	"GET /events":                 {"?key=%s", "?label=%s"},
}

// placedBy are fields and queries that name something of a tenant, by the test that asks for it.
var placedBy = map[string]string{
	"cursor":       "TestCursorsOfOthers",
	"since":        "TestCursorsOfOthers",
	"import_token": "TestImportTokensOfOthers",
	"ciphertext":   "TestReferences: an envelope names its key",
}

// namesNone are the fields and queries that name nothing of a tenant: values, what the configuration and the deployment have, and versions of the key that the
// request names. One that is not here has to be in references, with each route that has it, or in placedBy. Numbers, times and truth values name nothing.
var namesNone = map[string]string{
	"aad algorithm body brand custody digest encoding format hash hash_algorithm include info kem_ciphertext kind label/bytes mac message mode mu new_keys nonce operation " +
		"operations outcome action origin overlap expires_in padding passphrase key_file peer_public_key plaintext public_key purpose reason required_context role rotation_period salt " +
		"scopes shares signature signature_context state status symmetric_key types url wrapped_key allowed_cidrs context labels name api_key_max_lifetime session_idle session_lifetime code error": "values",
	"backend device drop replaces plan issuer iss": "of the deployment",
}

// TestEveryFieldIsPlaced: a field or a query that might name something of another tenant cannot come without a request that tries.
func TestEveryFieldIsPlaced(t *testing.T) {
	r := newRig(t, Limits{})
	none, used := map[string]bool{}, map[string]bool{}
	for list := range namesNone {
		for name := range strings.FieldsSeq(list) {
			none[name] = true
		}
	}
	check := func(row *route, name, in string) {
		used[name] = true
		if none[name] || placedBy[name] != "" || name == "key" && row.onKey { // there the path names it, and the body must not
			return
		}
		if !slices.ContainsFunc(references[row.name()], func(probe string) bool { return strings.Contains(probe, in) }) {
			t.Errorf("%s has %s: say in references how it is used, or in namesNone that it names nothing", row.name(), name)
		}
	}
	var walk func(row *route, typ reflect.Type)
	walk = func(row *route, typ reflect.Type) {
		for _, f := range fieldsOf(typ) {
			inner, name := f.typ, f.name
			for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice && inner.Elem().Kind() != reflect.Uint8 {
				inner = inner.Elem()
			}
			switch {
			case inner == reflect.TypeFor[time.Time]() || inner.Kind() >= reflect.Bool && inner.Kind() <= reflect.Float64:
				continue
			case inner.Kind() == reflect.Struct:
				walk(row, inner)
				continue
			case name == "label" && inner.Kind() == reflect.Slice || name == "label" && strings.HasPrefix(row.Path, "/root/"):
				name = "label/bytes" // of OAEP, and of slots: nothing's name
			case name == "label" && row.Path == "/keys/move" || name == "name_prefix" && row.Path == "/keys/move":
				continue // a filter of the own keys, for a job
			}
			check(row, name, fmt.Sprintf("%q:", f.name))
		}
	}
	for i := range r.routes {
		row := &r.routes[i]
		walk(row, row.Do.Req)
		for _, q := range row.Query {
			if q.Type == "string" || q.Name == "since" {
				check(row, q.Name, "?"+q.Name+"=")
			}
		}
	}
	for name := range none {
		if !used[name] {
			t.Errorf("namesNone has %s, and no request has", name)
		}
	}
	for name := range placedBy {
		if !used[name] {
			t.Errorf("placedBy has %s, and no request has", name)
		}
	}
}

// TestReferences: what is named elsewhere than in the path is as little told from what is not there.
func TestReferences(t *testing.T) {
	x := newTenants(t)
	ours := resources["/keys/{key}"].ours(x, "")
	for i := range x.routes {
		r := &x.routes[i]
		for _, probe := range references[r.name()] {
			probe = strings.NewReplacer("OURS", ours, "PEM", x.pem).Replace(probe)
			for _, pair := range [][2]string{{x.key.ID, id()}, {theirName, theirName + "x"}, {x.apiKey, id()}, {x.grant, id()}} {
				ask := func(name string) *httptest.ResponseRecorder {
					key := ours
					if r.Method == http.MethodPatch {
						key = resources["/keys/{key}"].ours(x, "") // a change guards the key against the next
					}
					path := strings.NewReplacer("{key}", key, "{id}", id()).Replace(r.Path)
					if probe[0] == '?' {
						return x.ask(r.Method, path+fmt.Sprintf(probe, name), "", x.owner)
					}
					return x.ask(r.Method, path, fmt.Sprintf(strings.Replace(probe, "NEW", "n-"+id(), 1), name), x.owner)
				}
				theirs, nowhere := ask(pair[0]), ask(pair[1])
				if theirs.Code != nowhere.Code || (theirs.Code >= 400 || r.Method == http.MethodGet) && shape(theirs) != shape(nowhere) {
					t.Errorf("%s %s: another's %s is told from none:\n%s\n%s", r.name(), probe, pair[0], theirs.Body, nowhere.Body)
				}
				repeats := strings.Contains(nowhere.Body.String(), pair[1]) // what was sent
				if strings.Contains(theirs.Body.String(), theirName) && !repeats {
					t.Errorf("%s %s: shows what is another's: %s", r.name(), probe, theirs.Body)
				}
			}
		}
	}

	// An envelope names its key; an approval is named in a header; so is a repetition.
	other := uuid.New()
	foreign := base64.StdEncoding.EncodeToString(x.ciphertext)
	known := uuid.MustParse(x.key.ID)
	unknown := base64.StdEncoding.EncodeToString(bytes.Replace(x.ciphertext, known[:], other[:], 1))
	if foreign == unknown {
		t.Fatal("the envelope does not name its key")
	}
	for _, form := range []string{`{"ciphertext":%q}`, `{"items":[{"ciphertext":%q}]}`} {
		if a, b := shape(x.ask("POST", "/decrypt", fmt.Sprintf(form, foreign), x.owner)), shape(x.ask("POST", "/decrypt", fmt.Sprintf(form, unknown), x.owner)); a != b {
			t.Errorf("another's envelope is told from nobody's:\n%s\n%s", a, b)
		}
	}
	guarded := made[wire.Key](x.everything, x.owner, "POST", "/keys", `{"name":"guarded","algorithm":"AES-256-GCM","policy":{"quorum":{"operations":["key.delete"],"approvals":1,"role":"owner"}}}`)
	theirs, nowhere := x.ask("DELETE", "/keys/"+guarded.ID, "", x.owner, "X-Approval", x.approval), x.ask("DELETE", "/keys/"+guarded.ID, "", x.owner, "X-Approval", id())
	if shape(theirs) != shape(nowhere) || theirs.Code != http.StatusForbidden {
		t.Errorf("another's approval is told from none:\n%s\n%s", theirs.Body, nowhere.Body)
	}
	k := made[wire.Key](x.everything, x.owner, "POST", "/keys", `{"name":"`+theirName+`","algorithm":"AES-256-GCM"}`, "Idempotency-Key", "once")
	if k.ID == x.key.ID {
		t.Error("another tenant's repetition is answered with its key")
	}
	for name := range references {
		if !slices.ContainsFunc(x.routes, func(r route) bool { return r.name() == name }) {
			t.Errorf("references has %s, and the table has not", name)
		}
	}
}

// TestExportsToOthers: to whom a key is exported is looked up behind everything else, its approval too.
func TestExportsToOthers(t *testing.T) {
	x := newTenants(t)
	made[wire.Key](x.everything, x.stranger, "POST", "/keys", `{"name":"their-rsa","algorithm":"RSA-2048","purpose":"encryption"}`)
	made[wire.Key](x.everything, x.owner, "POST", "/keys", `{"name":"leaves","algorithm":"AES-256-GCM","policy":{"exportable":true,"quorum":{"operations":["export"],"approvals":1,"role":"owner"}}}`)
	second := x.credential(byCertificate, "owner")
	to := func(name string) *httptest.ResponseRecorder {
		body := fmt.Sprintf(`{"to":%q}`, name)
		a := made[wire.Approval](x.everything, x.owner, "POST", "/approvals", fmt.Sprintf(`{"key":"leaves","operation":"export","body":%q}`, body))
		made[wire.Approval](x.everything, second, "POST", "/approvals/"+a.ID+"/approve", "")
		return x.ask("POST", "/keys/leaves/export", body, x.owner, "X-Approval", a.ID)
	}
	if w := to("rsa"); w.Code != http.StatusOK {
		t.Fatalf("to an own key: %d %s", w.Code, w.Body)
	}
	theirs, nowhere := to("their-rsa"), to("nobody-s")
	if shape(theirs) != shape(nowhere) || theirs.Code != http.StatusNotFound {
		t.Errorf("another's key is told from none:\n%s\n%s", theirs.Body, nowhere.Body)
	}
}

// TestCursorsOfOthers: a cursor that another tenant was given shows nothing of it. Where it is one for any tenant, it is a place among the own things.
func TestCursorsOfOthers(t *testing.T) {
	x := newTenants(t)
	x.askApproval(x.stranger)
	x.giveGrant(x.stranger, x.key.ID, x.apiKey)
	made[wire.Webhook](x.everything, x.stranger, "POST", "/webhooks", `{"name":"second","url":"http://127.0.0.1:9/`+theirName+`"}`)
	marks := []string{theirName, x.key.ID, x.grant, x.apiKey, x.webhook, x.approval, x.newJob(x.them), x.newJob(x.them), x.newSession(x.them), x.newSession(x.them), x.them.String()}
	looker := x.newAPIKey(x.owner, `{"name":"looker","role":"owner"}`).Key
	ours := resources["/keys/{key}"].ours(x, "")
	tried := 0
	for i := range x.routes {
		r := &x.routes[i]
		if !slices.ContainsFunc(r.Query, func(p param) bool { return p.Name == "cursor" }) || r.Path == "/tenants" { // which is the operator's
			continue
		}
		page := made[wire.List[jsontext.Value]](x.everything, x.stranger, "GET", strings.Replace(r.Path, "{key}", x.key.ID, 1)+"?limit=1", "")
		if page.NextCursor == "" {
			t.Errorf("%s: the other tenant has too few for a cursor", r.name())
			continue
		}
		tried++
		w := x.ask("GET", strings.Replace(r.Path, "{key}", ours, 1)+"?cursor="+page.NextCursor, "", looker)
		if w.Code != http.StatusOK && !r.answered(w, fault.BadCursor) {
			t.Errorf("%s: %d %s", r.name(), w.Code, w.Body)
		}
		for _, mark := range marks {
			if strings.Contains(w.Body.String(), mark) && (r.Path != "/audit" || mark != x.them.String()) { // the operator's tenant has made it
				t.Errorf("%s shows %s of another tenant: %s", r.name(), mark, w.Body)
			}
		}
	}
	if tried < 9 {
		t.Errorf("only %d lists were asked", tried)
	}
	entry := x.entryOf(x.stranger)
	for _, w := range []*httptest.ResponseRecorder{x.ask("GET", "/events?since="+entry, "", looker), x.ask("GET", "/events", "", looker, "Last-Event-ID", entry), x.ask("GET", "/events?since=1", "", looker)} {
		for _, mark := range marks {
			if strings.Contains(w.Body.String(), mark) || w.Code != http.StatusOK {
				t.Errorf("events since another's show %s: %d %s", mark, w.Code, w.Body)
			}
		}
	}
}

// TestImportTokensOfOthers: what one tenant was given to import by is to another no token at all.
func TestImportTokensOfOthers(t *testing.T) {
	x := newTenants(t)
	p := made[wire.ImportParameters](x.everything, x.stranger, "GET", "/keys/import-parameters", "")
	bring := func(as, token string) *httptest.ResponseRecorder {
		return x.ask("POST", "/keys/import", fmt.Sprintf(`{"name":"brought","algorithm":"AES-256-GCM","import_token":%q,"wrapped_key":"AAAA"}`, token), as)
	}
	changed := []byte(p.ImportToken)
	changed[len(changed)/2] ^= 1
	theirs, nowhere := bring(x.owner, p.ImportToken), bring(x.owner, string(changed))
	if shape(theirs) != shape(nowhere) {
		t.Errorf("another's token is told from none:\n%s\n%s", theirs.Body, nowhere.Body)
	}
	if own := bring(x.stranger, p.ImportToken); shape(own) == shape(nowhere) {
		t.Errorf("the token is none to its own tenant either: this proves nothing: %s", own.Body)
	}
}

// TestGrantsOfOthersStay: the id of a grant is its maker's choice within the tenant. Who takes one that another tenant has learns nothing of it, and
// neither touches the other's; within a tenant an id is one key's and one principal's.
func TestGrantsOfOthersStay(t *testing.T) {
	x := newTenants(t)
	ours := resources["/keys/{key}"].ours(x, "")
	put := func(key, grant string) *httptest.ResponseRecorder {
		return x.ask("PUT", "/keys/"+key+"/grants/"+grant, fmt.Sprintf(`{"principal":"api-key:%s","operations":["decrypt"]}`, x.ownKey.ID), x.owner)
	}
	fresh := id()
	if theirs, nowhere := put(ours, x.grant), put(ours, fresh); theirs.Code != http.StatusOK || nowhere.Code != theirs.Code {
		t.Errorf("another's grant id is told from a free one:\n%s\n%s", theirs.Body, nowhere.Body)
	}
	g := made[wire.Grant](x.everything, x.owner, "GET", "/keys/"+ours+"/grants/"+x.grant, "")
	if g.ID != x.grant || g.Principal != "api-key:"+x.ownKey.ID || !reflect.DeepEqual(g.Operations, []string{"decrypt"}) {
		t.Errorf("our grant is %+v", g)
	}
	another := made[wire.Key](x.everything, x.owner, "POST", "/keys", `{"name":"another","algorithm":"AES-256-GCM"}`)
	refused(t, put(another.ID, fresh), 409, fault.Conflict)
	if w := x.ask("DELETE", "/keys/"+ours+"/grants/"+x.grant, "", x.owner); w.Code != http.StatusOK {
		t.Error(w.Body)
	}
	g = made[wire.Grant](x.everything, x.stranger, "GET", "/keys/"+x.key.ID+"/grants/"+x.grant, "")
	if g.Principal != "api-key:"+x.apiKey || !reflect.DeepEqual(g.Operations, []string{"encrypt"}) {
		t.Errorf("their grant is now %+v", g)
	}
}
