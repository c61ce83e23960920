package api

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/qpher"
	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
)

// resource is what a parameter of a path names.
type resource struct {
	nowhere func() string // the name of one that is not there
	missing []fault.Code  // what is answered then
	// theirs makes one of another tenant, ours one of the own tenant, below what the parameters before it name. theirs nil: it belongs to the
	// deployment, and no tenant has any.
	theirs, ours func(x *tenants, above string) string
	query        string // that routes on it need
}

func id() string     { return uuid.NewString() }
func number() string { return "9876" }

// resources are all parameters by the path that leads to them.
var resources = map[string]*resource{
	"/keys/{key}": {nowhere: id, missing: []fault.Code{fault.KeyNotFound},
		theirs: func(x *tenants, _ string) string { return x.key.ID },
		ours: func(x *tenants, _ string) string {
			return made[wire.Key](x.everything, x.owner, "POST", "/keys", fmt.Sprintf(`{"name":%q,"algorithm":"AES-256-GCM"%s}`, "k-"+id(), x.labels())).ID
		}},
	"/keys/{key}/versions/{n}": {nowhere: number, missing: []fault.Code{fault.VersionNotFound},
		theirs: func(*tenants, string) string { return "2" }, // ours have one
		ours:   func(*tenants, string) string { return "1" }},
	"/keys/{key}/grants/{id}": {nowhere: id, missing: []fault.Code{fault.GrantNotFound},
		theirs: func(x *tenants, _ string) string { return x.grant },
		ours:   func(x *tenants, key string) string { return x.giveGrant(x.owner, key, x.ownKey.ID) }},
	"/api-keys/{id}": {nowhere: id, missing: []fault.Code{fault.APIKeyNotFound},
		theirs: func(x *tenants, _ string) string { return x.apiKey },
		ours:   func(x *tenants, _ string) string { return x.newAPIKey(x.owner, `{"name":"ours","scopes":["read"]}`).ID }},
	"/jobs/{id}": {nowhere: id, missing: []fault.Code{fault.JobNotFound},
		theirs: func(x *tenants, _ string) string { return x.newJob(x.them) },
		ours:   func(x *tenants, _ string) string { return x.newJob(x.us) }},
	"/sessions/{id}": {nowhere: id, missing: []fault.Code{fault.SessionNotFound},
		theirs: func(x *tenants, _ string) string { return x.newSession(x.them) },
		ours:   func(x *tenants, _ string) string { return x.newSession(x.us) }},
	"/approvals/{id}": {nowhere: id, missing: []fault.Code{fault.ApprovalNotFound},
		theirs: func(x *tenants, _ string) string { return x.approval },
		ours:   func(x *tenants, _ string) string { return x.askApproval(x.owner) }},
	"/webhooks/{id}": {nowhere: id, missing: []fault.Code{fault.WebhookNotFound},
		theirs: func(x *tenants, _ string) string { return x.webhook },
		ours:   func(x *tenants, _ string) string { return x.newWebhook(x.owner) }},
	"/audit/entries/{n}": {nowhere: func() string { return "987654321" }, missing: []fault.Code{fault.EntryNotFound},
		theirs: func(x *tenants, _ string) string { return x.entryOf(x.stranger) },
		ours:   func(x *tenants, _ string) string { return x.entryOf(x.owner) }},
	"/kms/keys/{n}": {nowhere: number, missing: []fault.Code{fault.KeyNotFound, fault.VersionNotFound}, query: "?algorithm=Kyber768",
		theirs: func(*tenants, string) string { return "1" },
		ours: func(x *tenants, _ string) string {
			if len(made[qpher.KeyList](x.everything, x.owner, "GET", "/kms/keys", "").Keys) == 0 {
				made[qpher.Key](x.everything, x.owner, "POST", "/kms/keys/generate", `{"algorithm":"Kyber768"}`)
			}
			return "1"
		}},
	"/tenants/{id}": {nowhere: id, missing: []fault.Code{fault.TenantNotFound},
		ours: func(x *tenants, _ string) string {
			return made[wire.CreatedTenant](x.everything, x.owner, "POST", "/tenants", fmt.Sprintf(`{"name":%q}`, id())).ID
		}},
	"/root/slots/{id}": {nowhere: id, missing: []fault.Code{fault.SlotNotFound},
		ours: func(x *tenants, _ string) string {
			key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
			return made[wire.AddedSlot](x.everything, x.owner, "POST", "/root/slots", fmt.Sprintf(`{"kind":"key-file","label":%q,"key_file":%q}`, id(), key)).ID
		}},
	"/backends/{name}": {nowhere: id, missing: []fault.Code{fault.BackendNotFound},
		ours: func(*tenants, string) string { return "default" }},
}

// along gives the resources of a path in their order.
func along(r *route) ([]*resource, error) {
	var list []*resource
	at := ""
	for part := range strings.SplitSeq(r.Path[1:], "/") {
		at += "/" + part
		if part[0] != '{' {
			continue
		}
		x := resources[at]
		if x == nil {
			return nil, fmt.Errorf("the parameter %s of %s is not known here: say in resources what it names", at, r.name())
		}
		list = append(list, x)
	}
	return list, nil
}

// fill puts names into the path of a route. codes are those of what is missing.
func fill(r *route, name func(*resource) string) (path string, codes []fault.Code, err error) {
	list, err := along(r)
	if err != nil {
		return "", nil, err
	}
	names := make([]string, len(list))
	for i, x := range list {
		names[i] = name(x)
	}
	path = join(r, list, names)
	for _, x := range list {
		codes = append(codes, x.missing...)
	}
	return path, codes, nil
}

func join(r *route, list []*resource, names []string) string {
	path, query := "", ""
	for part := range strings.SplitSeq(r.Path[1:], "/") {
		if part[0] == '{' {
			part, query, list, names = names[0], list[0].query, list[1:], names[1:]
		}
		path += "/" + part
	}
	return path + query
}

// tenants are two of them on one service: what one has must be to the other as if it were not.
type tenants struct {
	*everything
	us, them uuid.UUID
	stranger string // their owner's API key
	ownKey   wire.APIKey
	pem      string // a public key, as it stands in JSON
	label    string // of the own keys that are made; "": none

	key                              wire.Key // theirs, with two versions and a quorum
	grant, apiKey, webhook, approval string
	ciphertext                       []byte
}

const theirName = "theirs-alone"

func newTenants(t *testing.T) *tenants {
	x := &tenants{everything: newEverything(t)}
	x.us = uuid.MustParse(made[wire.Me](x.everything, x.owner, "GET", "/me", "").Tenant)
	x.ownKey = x.newAPIKey(x.owner, `{"name":"own","role":"developer"}`)
	made[wire.Key](x.everything, x.owner, "POST", "/keys", `{"name":"rsa","algorithm":"RSA-2048","purpose":"encryption"}`)
	x.pem = strings.ReplaceAll(made[wire.PublicKey](x.everything, x.owner, "GET", "/keys/rsa/public", "").PublicKey, "\n", `\n`)
	them := made[wire.CreatedTenant](x.everything, x.owner, "POST", "/tenants", `{"name":"them"}`)
	x.them, x.stranger = uuid.MustParse(them.ID), them.OwnerKey.Key
	x.key = made[wire.Key](x.everything, x.stranger, "POST", "/keys", `{"name":"`+theirName+`","algorithm":"AES-256-GCM","labels":{"`+theirName+`":"1"},
		"policy":{"exportable":true,"quorum":{"operations":["key.delete"],"approvals":1,"role":"owner"}}}`, "Idempotency-Key", "once")
	made[wire.Key](x.everything, x.stranger, "POST", "/keys/"+theirName+"/rotate", "")
	x.ciphertext = made[wire.Ciphertext](x.everything, x.stranger, "POST", "/keys/"+theirName+"/encrypt", `{"plaintext":"AAEC"}`).Ciphertext
	x.apiKey = x.newAPIKey(x.stranger, `{"name":"`+theirName+`","role":"developer"}`).ID
	x.grant = x.giveGrant(x.stranger, theirName, x.apiKey)
	x.webhook = x.newWebhook(x.stranger)
	x.approval = made[wire.Approval](x.everything, x.stranger, "POST", "/approvals", `{"key":"`+theirName+`","operation":"key.delete"}`).ID
	made[qpher.Key](x.everything, x.stranger, "POST", "/kms/keys/generate", `{"algorithm":"Kyber768"}`)
	return x
}

// labels is what of a body gives a key the label.
func (x *tenants) labels() string {
	if x.label == "" {
		return ""
	}
	return fmt.Sprintf(`,"labels":{%q:"1"}`, x.label)
}

func (x *tenants) giveGrant(as, key, to string) string {
	grant := id()
	made[wire.Grant](x.everything, as, "PUT", "/keys/"+key+"/grants/"+grant, fmt.Sprintf(`{"principal":"api-key:%s","operations":["encrypt"]}`, to))
	return grant
}

func (x *tenants) newWebhook(as string) string {
	return made[wire.Webhook](x.everything, as, "POST", "/webhooks", `{"name":"hook","url":"http://127.0.0.1:9/`+theirName+`"}`).ID
}

func (x *tenants) newJob(tenant uuid.UUID) string {
	j, err := x.work.Create(x.t.Context(), jobs.Request{Tenant: tenant, Kind: "move", Params: struct{}{}, CreatedBy: "api-key:" + id()})
	if err != nil {
		x.t.Fatal(err)
	}
	return j.ID.String()
}

func (x *tenants) newSession(tenant uuid.UUID) string {
	p := &auth.Principal{ID: "oidc:" + id(), Kind: auth.KindToken, Tenant: tenant, Name: "somebody", Role: auth.RoleViewer, Scopes: auth.RoleViewer.Scopes()}
	s, _, err := x.known.OpenSession(x.t.Context(), p, "matrix")
	if err != nil {
		x.t.Fatal(err)
	}
	return s.ID.String()
}

func (x *tenants) askApproval(as string) string {
	key := "k-" + id()
	made[wire.Key](x.everything, as, "POST", "/keys", fmt.Sprintf(`{"name":%q,"algorithm":"AES-256-GCM"%s,"policy":{"quorum":{"operations":["key.delete"],"approvals":1,"role":"owner"}}}`, key, x.labels()))
	return made[wire.Approval](x.everything, as, "POST", "/approvals", fmt.Sprintf(`{"key":%q,"operation":"key.delete"}`, key)).ID
}

func (x *tenants) entryOf(as string) string {
	list := made[wire.List[wire.AuditEntry]](x.everything, as, "GET", "/audit?limit=1", "")
	return fmt.Sprint(list.Items[0].Index)
}

// bodies are good ones for the routes that have parameters and take one.
var bodies = map[string]string{
	"PATCH /keys/{key}":                   `{"labels":{"a":"b"}}`,
	"DELETE /keys/{key}":                  `{}`,
	"POST /keys/{key}/move":               `{"backend":"default","custody":"software"}`,
	"POST /keys/{key}/versions/{n}/state": `{"state":"suspended"}`,
	"POST /keys/{key}/export":             `{"public_key":"PEM"}`,
	"POST /keys/{key}/attestation":        `{"nonce":"AAECAwQFBgcICQoLDA0ODw=="}`,
	"POST /keys/{key}/encrypt":            `{"plaintext":"AA=="}`,
	"POST /keys/{key}/decrypt":            `{"ciphertext":"AA=="}`,
	"POST /keys/{key}/rewrap":             `{"ciphertext":"AA=="}`,
	"POST /keys/{key}/data-key":           `{}`,
	"POST /keys/{key}/wrap":               `{"plaintext":"AAECAwQFBgc="}`,
	"POST /keys/{key}/unwrap":             `{"wrapped_key":"AAECAwQFBgc="}`,
	"POST /keys/{key}/sign":               `{"message":"AA=="}`,
	"POST /keys/{key}/verify":             `{"message":"AA==","signature":"AA=="}`,
	"POST /keys/{key}/mac":                `{"message":"AA=="}`,
	"POST /keys/{key}/verify-mac":         `{"message":"AA==","mac":"AA=="}`,
	"POST /keys/{key}/derive":             `{"peer_public_key":"AA=="}`,
	"POST /keys/{key}/encapsulate":        `{}`,
	"POST /keys/{key}/decapsulate":        `{"kem_ciphertext":"AA=="}`,
	"PATCH /tenants/{id}":                 `{"quotas":{"keys":7}}`,
	"POST /backends/{name}/retire-kek":    `{"generation":1}`,
	// Of an API key that is there in either tenant.
	"PUT /keys/{key}/grants/{id}": `{"principal":"api-key:OWN","operations":["encrypt"]}`,
}

func (x *tenants) body(r *route) (string, error) {
	b, known := bodies[r.name()]
	if !known && r.BodyLimit > 0 && !r.BodyOptional {
		return "", fmt.Errorf("%s: say in bodies what a good one is", r.name())
	}
	return strings.NewReplacer("OWN", x.ownKey.ID, "PEM", x.pem).Replace(b), nil
}

var timestamp = regexp.MustCompile(`"timestamp":"[^"]*"`)

// shape is all of an answer that a caller can see, but for its time and its place in the log.
func shape(w *httptest.ResponseRecorder) string {
	h := w.Header().Clone()
	_, recorded := h["X-Audit-Index"]
	h.Del("X-Audit-Index")
	h.Del("Content-Length") // of the body, which is compared
	return fmt.Sprint(w.Code, recorded, h, timestamp.ReplaceAllString(w.Body.String(), ""))
}

// variant is a pair of paths that must be answered alike.
type variant struct{ theirs, nowhere string }

// variants pairs each way of naming what is another's with the same of what is not there.
func (x *tenants) variants(r *route, list []*resource) (out []variant) {
	names := func(of func(i int, above string) string) string {
		var n []string
		above := ""
		for i := range list {
			above = of(i, above)
			n = append(n, above)
		}
		return join(r, list, n)
	}
	add := func(theirs, nowhere string) { out = append(out, variant{theirs, nowhere}) }
	all := names(func(i int, above string) string { return list[i].theirs(x, above) })
	add(all, names(func(i int, above string) string {
		if i > 0 { // what is below something that is not there
			return list[i].theirs(x, above)
		}
		return list[i].nowhere()
	}))
	add(all, names(func(i int, _ string) string { return list[i].nowhere() }))
	if r.onKey {
		add(strings.Replace(all, x.key.ID, theirName, 1), strings.Replace(all, x.key.ID, "nobody-s", 1))
		add(strings.Replace(all, x.key.ID, theirName, 1), strings.Replace(all, x.key.ID, theirName+"x", 1))
	}
	if last := len(list) - 1; last > 0 && r.name() != "PUT /keys/{key}/grants/{id}" { // which makes one under the id
		own := list[0].ours(x, "")
		below := func(name func(i int) string) string {
			return names(func(i int, _ string) string {
				if i == 0 {
					return own
				}
				return name(i)
			})
		}
		add(below(func(i int) string { return list[i].theirs(x, own) }), below(func(i int) string { return list[i].nowhere() }))
	}
	return out
}

// TestOthersAreNotThere: on every route with parameters, for every role and scope, what is another tenant's is answered as what does not
// exist: by nothing but 404 for those who may ask, and for the rest by the same refusal as ever. What is the own tenant's is found.
func TestOthersAreNotThere(t *testing.T) {
	x := newTenants(t)
	var columns []column
	for _, c := range x.columns() {
		if c.door == "" && (!raceDetector || !strings.HasPrefix(c.name, "scope ")) {
			columns = append(columns, c)
		}
	}
	var tasks []func()
	compared := 0
	for i := range x.routes {
		r := &x.routes[i]
		list, err := along(r)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(list) == 0 || slices.ContainsFunc(list, func(p *resource) bool { return p.theirs == nil }) {
			continue
		}
		body, err := x.body(r)
		if err != nil {
			t.Error(err)
			continue
		}
		pairs := x.variants(r, list)
		compared += len(pairs) * len(columns)
		var missing []fault.Code
		for _, p := range list {
			missing = append(missing, p.missing...)
		}
		tasks = append(tasks, func() {
			for _, p := range pairs {
				for _, c := range columns {
					theirs, nowhere := x.ask(r.Method, p.theirs, body, c.token), x.ask(r.Method, p.nowhere, body, c.token)
					if a, b := shape(theirs), shape(nowhere); a != b {
						t.Errorf("%s, %s: another's is told from none:\n%s\n%s", c.name, r.name(), a, b)
					}
					refusal, err := c.refusal(r)
					if err != nil {
						t.Error(err)
					}
					if refusal == "" && !slices.ContainsFunc(missing, func(code fault.Code) bool { return r.answered(theirs, code) }) {
						t.Errorf("%s, %s %s: answered %d %s, want %s", c.name, r.Method, p.theirs, theirs.Code, theirs.Body, missing)
					}
				}
			}
		})
	}
	var group sync.WaitGroup
	for _, task := range tasks {
		group.Go(task)
	}
	group.Wait()
	if compared < 1000 {
		t.Errorf("only %d pairs were compared", compared)
	}
	t.Logf("%d pairs of requests compared", compared)
	x.theirsIsWhole()
	x.oursIsFound()
}

// theirsIsWhole: after all of that the other tenant has what it had.
func (x *tenants) theirsIsWhole() {
	x.t.Helper()
	k := made[wire.Key](x.everything, x.stranger, "GET", "/keys/"+x.key.ID, "")
	if k.State != "active" || k.LatestVersion != 2 || len(k.Labels) != 1 {
		x.t.Errorf("their key is now %+v", k)
	}
	for _, path := range []string{"/keys/" + x.key.ID + "/grants/" + x.grant, "/api-keys/" + x.apiKey, "/webhooks/" + x.webhook, "/approvals/" + x.approval} {
		if w := x.ask("GET", path, "", x.stranger); w.Code != 200 || strings.Contains(w.Body.String(), "revoked_at") || strings.Contains(w.Body.String(), `"state":"rejected"`) {
			x.t.Errorf("%s is now %d %s", path, w.Code, w.Body)
		}
	}
}

// oursIsFound: the same requests reach what is there. Otherwise what stands above would be true of a service that finds nothing.
func (x *tenants) oursIsFound() {
	x.t.Helper()
	x.reachOwn(x.owner)
}

// reachOwn asks every route with parameters for something of the own tenant, made for it by its owner, and gives the statuses. It is found, but
// where the caller says that it looks itself.
func (x *tenants) reachOwn(as string, mayBeMissing ...string) map[string]int {
	x.t.Helper()
	statuses := map[string]int{}
	for i := range x.routes {
		r := &x.routes[i]
		list, err := along(r)
		if err != nil || len(list) == 0 {
			continue
		}
		body, err := x.body(r)
		if err != nil {
			x.t.Error(err)
			continue
		}
		var names []string
		above := ""
		for _, p := range list {
			above = p.ours(x, above)
			names = append(names, above)
		}
		w := x.ask(r.Method, join(r, list, names), body, as)
		if w.Code == http.StatusNotFound && !slices.Contains(mayBeMissing, r.name()) || w.Code == http.StatusUnauthorized || w.Code >= 500 {
			x.t.Errorf("%s on an own one: %d %s", r.name(), w.Code, w.Body)
		}
		statuses[r.name()] = w.Code
	}
	return statuses
}

// TestListsAreOfOneTenant: no answer without parameters holds anything of another tenant, but for those of the deployment.
func TestListsAreOfOneTenant(t *testing.T) {
	x := newTenants(t)
	job := x.newJob(x.them)
	marks := []string{theirName, x.key.ID, x.grant, x.apiKey, x.webhook, x.approval, job, x.newSession(x.them), x.them.String()}
	// The export is the whole log, the list of tenants is the operator's. The first owner made them, which its own log says.
	deployment := []string{"GET /audit/export", "GET /tenants"}
	looker := x.newAPIKey(x.owner, `{"name":"looker","role":"owner"}`).Key
	looked := 0
	for i := range x.routes {
		r := &x.routes[i]
		if r.Method != http.MethodGet || strings.Contains(r.Path, "{") || r.Open || slices.Contains(deployment, r.name()) {
			continue
		}
		looked++
		w := x.ask("GET", r.Path, "", looker)
		for _, mark := range marks {
			if r.Path == "/audit" && mark == x.them.String() {
				continue // the operator's tenant has made it
			}
			if strings.Contains(w.Body.String(), mark) {
				t.Errorf("%s shows %s of another tenant", r.name(), mark)
			}
		}
		if r.Path == "/keys" && !strings.Contains(x.ask("GET", r.Path, "", x.stranger).Body.String(), theirName) {
			t.Error("the mark is not shown to its own tenant: this proves nothing")
		}
	}
	if looked < 15 {
		t.Errorf("only %d routes were looked at", looked)
	}
}
