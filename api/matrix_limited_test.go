package api

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
)

// limitedKey makes an API key with all scopes there are, and a limit.
func (x *tenants) limitedKey(limit string) string {
	x.t.Helper()
	scopes := make([]string, 0, 16)
	for _, s := range deploymentScopes() {
		scopes = append(scopes, fmt.Sprintf("%q", s))
	}
	return x.newAPIKey(x.owner, fmt.Sprintf(`{"name":"limited","role":"owner","scopes":[%s],%s}`, strings.Join(scopes, ","), limit)).Key
}

// shownBeyond are lists that show what is there of the tenant to a credential that is limited to keys as well, and why.
var shownBeyond = map[string]string{
	"GET /api-keys": "settings, in which keys are named as whoever made them wrote them",
}

// TestLimitedToKeys: a credential that is limited to keys, by name, id or label, reaches no other by any route, body or query, and no answer tells it of one.
func TestLimitedToKeys(t *testing.T) {
	x := newTenants(t)
	make := func(body string) wire.Key { return made[wire.Key](x.everything, x.owner, "POST", "/keys", body) }
	within := make(`{"name":"within","algorithm":"AES-256-GCM","labels":{"reach":"1"}}`)
	beyond := make(`{"name":"beyond-it","algorithm":"AES-256-GCM","labels":{"reach":"2"},"policy":{"exportable":true,"quorum":{"operations":["key.delete"],"approvals":1,"role":"owner"}}}`)
	grant := x.giveGrant(x.owner, beyond.ID, x.ownKey.ID)
	made[wire.Approval](x.everything, x.owner, "POST", "/approvals", fmt.Sprintf(`{"key":%q,"operation":"key.delete"}`, beyond.ID))
	made[wire.APIKey](x.everything, x.owner, "POST", "/api-keys", fmt.Sprintf(`{"name":"x","role":"viewer","keys":[%q]}`, beyond.ID))
	entry := made[wire.List[wire.AuditEntry]](x.everything, x.owner, "GET", "/audit?key="+beyond.ID, "").Items[0].Index
	before := x.ask("GET", "/keys/"+beyond.ID, "", x.owner)
	for name, limit := range map[string]string{"id": fmt.Sprintf(`"keys":[%q]`, within.ID), "name": `"keys":["within"]`, "label": `"labels":{"reach":"1"}`} {
		as := x.limitedKey(limit)
		asked := 0
		refusedHere := func(method, path, body string) {
			t.Helper()
			asked++
			if w := x.ask(method, path, body, as); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "-limit)") && !strings.Contains(w.Body.String(), "is limited to") {
				t.Errorf("limited by %s, %s %s %s: %d %s", name, method, path, body, w.Code, w.Body)
			}
		}
		for i := range x.routes {
			r := &x.routes[i]
			switch {
			case r.onKey:
				body, err := x.body(r)
				if err != nil {
					t.Error(err)
				}
				refusedHere(r.Method, strings.NewReplacer("{key}", beyond.ID, "{id}", grant, "{n}", "1").Replace(r.Path), body)
			case r.Method == http.MethodGet && !strings.Contains(r.Path, "{") && !r.Open && shownBeyond[r.name()] == "":
				asked++
				if w := x.ask("GET", r.Path, "", as); strings.Contains(w.Body.String(), beyond.ID) || strings.Contains(w.Body.String(), beyond.Name) {
					t.Errorf("limited by %s, %s shows another key", name, r.name())
				}
			}
		}
		for route, probes := range references {
			method, path, _ := strings.Cut(route, " ")
			path = strings.NewReplacer("{key}", within.ID, "{id}", id()).Replace(path)
			for _, probe := range probes {
				if strings.Contains(probe, "api-key:") || route == "POST /api-keys" { // whose limits are within its maker's, or laid over them
					continue
				}
				probe = strings.NewReplacer("OURS", within.ID, "PEM", x.pem).Replace(probe)
				for other, none := range map[string]string{beyond.ID: id(), beyond.Name: "nobody-s"} {
					query, body := fmt.Sprintf(probe, other), ""
					if probe[0] != '?' {
						query, body = "", query
					}
					w := x.ask(method, path+query, body, as)
					if (w.Code >= 400 || method == http.MethodGet) && shape(w) == shape(x.ask(method, path+strings.Replace(query, other, none, 1), strings.Replace(body, other, none, 1), as)) {
						continue // refused before it was looked up, or nothing found
					}
					refusedHere(method, path+query, body)
				}
			}
		}
		for _, all := range []string{"GET /audit/export", "GET /webhooks", `POST /webhooks {"name":"x","url":"http://127.0.0.1:9/"}`,
			`POST /webhooks {"name":"x","url":"http://127.0.0.1:9/","types":["api-key.created"]}`, `POST /keys/move {"backend":"default","custody":"software"}`} {
			method, rest, _ := strings.Cut(all, " ")
			path, body, _ := strings.Cut(rest, " ")
			refusedHere(method, path, body)
		}
		refused(t, x.ask("GET", fmt.Sprintf("/audit/entries/%d/proof", entry), "", as), 404, fault.EntryNotFound)
		if asked < 70 {
			t.Errorf("only %d requests", asked)
		}
		// And it is told of those that it reaches, and of itself.
		for _, path := range []string{"/keys/within", "/audit?key=within", "/audit?key=" + within.ID, "/events?key=within"} {
			if w := x.ask("GET", path, "", as); w.Code != 200 {
				t.Errorf("limited by %s, %s: %d %s", name, path, w.Code, w.Body)
			}
		}
		own := made[wire.List[wire.AuditEntry]](x.everything, as, "GET", "/audit?key=within", "").Items[0].Index
		made[wire.Proof](x.everything, as, "GET", fmt.Sprintf("/audit/entries/%d/proof", own), "")
	}
	if after := x.ask("GET", "/keys/"+beyond.ID, "", x.owner); shape(after) != shape(before) {
		t.Errorf("the key beyond was\n%s\nand is\n%s", before.Body, after.Body)
	}
}

// TestLimitsReachWithin: what a credential reaches by a limit is to it as to one without.
func TestLimitsReachWithin(t *testing.T) {
	x := newTenants(t)
	x.label = "reach"
	want := x.reachOwn(x.owner)
	// Its maker has asked for the approvals; it gives no key another secret that reaches further than itself.
	for _, route := range []string{"POST /approvals/{id}/approve", "POST /api-keys/{id}/rotate"} {
		want[route] = http.StatusForbidden
	}
	for name, limit := range map[string]string{"label": `"labels":{"reach":"1"}`, "address": `"allowed_cidrs":["192.0.2.0/24"]`, "rate": `"rate_limit":100000`} {
		want := maps.Clone(want)
		if name == "label" {
			// Jobs that another has made; keys that are made for Qpher's clients have no labels.
			for route := range want {
				if strings.Contains(route, "/webhooks") || strings.HasSuffix(route, "/usage") {
					want[route] = http.StatusForbidden // which tell of all keys, some time, and of how many there are
				}
			}
			want["GET /jobs/{id}"], want["POST /jobs/{id}/cancel"], want["GET /kms/keys/{n}"] = http.StatusNotFound, http.StatusNotFound, http.StatusForbidden
		}
		got := x.reachOwn(x.limitedKey(limit), "GET /jobs/{id}", "POST /jobs/{id}/cancel")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("limited by %s: (-without +limited)\n%s", name, diff)
		}
	}
}

// readOnKeys are the routes on keys that no limit to operations is about.
var readOnKeys = []string{"POST /keys/{key}/attestation"}

// TestLimitedToOperations: a credential that is limited to an operation does nothing else on keys.
func TestLimitedToOperations(t *testing.T) {
	x := newTenants(t)
	as := x.limitedKey(`"operations":["encrypt"]`)
	key := made[wire.Key](x.everything, x.owner, "POST", "/keys", `{"name":"limited","algorithm":"AES-256-GCM"}`)
	grant := x.giveGrant(x.owner, key.ID, x.ownKey.ID)
	for i := range x.routes {
		r := &x.routes[i]
		if !r.onKey || r.Method == http.MethodGet || r.Path == "/keys/{key}/encrypt" || slices.Contains(readOnKeys, r.name()) {
			continue
		}
		body, err := x.body(r)
		if err != nil {
			t.Error(err)
		}
		w := x.ask(r.Method, strings.NewReplacer("{key}", key.ID, "{id}", grant, "{n}", "1").Replace(r.Path), body, as)
		if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "operation-limit") {
			t.Errorf("%s: %d %s", r.name(), w.Code, w.Body)
		}
	}
	made[wire.Ciphertext](x.everything, as, "POST", "/keys/limited/encrypt", `{"plaintext":"AA=="}`)
}
