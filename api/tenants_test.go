package api

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// TestTenantsAreApart: what is another tenant's is not found, by any route that names something, whatever the credential can do at home.
func TestTenantsAreApart(t *testing.T) {
	s := newService(t)
	shop := call1[wire.CreatedTenant](s, "POST", "/tenants", `{"name":"shop"}`)
	theirs := shop.OwnerKey.Key
	key := call1[wire.Key](s, "POST", "/keys", `{"name":"orders","algorithm":"AES-256-GCM","policy":{"quorum":{"operations":["key.delete"],"approvals":1,"role":"admin"}}}`)
	apiKey := call1[wire.APIKey](s, "POST", "/api-keys", `{"name":"app","scopes":["read"]}`)
	grant := call1[wire.Grant](s, "PUT", "/keys/orders/grants/"+uuid.NewString(), `{"principal":"api-key:`+apiKey.ID+`","operations":["encrypt"]}`)
	approval := call1[wire.Approval](s, "POST", "/approvals", `{"key":"orders","operation":"key.delete"}`)
	sealed := call1[wire.Ciphertext](s, "POST", "/encrypt", `{"key":"orders","plaintext":"AAEC"}`)
	ciphertext := base64.StdEncoding.EncodeToString(sealed.Ciphertext)

	seen := map[string]bool{}
	for _, c := range []struct {
		method, path, body string
		code               fault.Code
	}{
		{"GET", "/keys/{key}", "", fault.KeyNotFound},
		{"PATCH", "/keys/{key}", `{"name":"mine"}`, fault.KeyNotFound},
		{"DELETE", "/keys/{key}", "", fault.KeyNotFound},
		{"POST", "/keys/{key}/cancel-deletion", "", fault.KeyNotFound},
		{"POST", "/keys/{key}/rotate", "", fault.KeyNotFound},
		{"GET", "/keys/{key}/versions", "", fault.KeyNotFound},
		{"POST", "/keys/{key}/versions/1/state", `{"state":"suspended"}`, fault.KeyNotFound},
		{"GET", "/keys/{key}/public", "", fault.KeyNotFound},
		{"POST", "/keys/{key}/export", `{"to":"x"}`, fault.KeyNotFound},
		{"POST", "/keys/{key}/attestation", `{"nonce":"AAECAwQFBgcICQoLDA0ODw=="}`, fault.KeyNotFound},
		{"POST", "/keys/{key}/encrypt", `{"plaintext":"AAEC"}`, fault.KeyNotFound},
		{"POST", "/keys/{key}/decrypt", `{"ciphertext":"` + ciphertext + `"}`, fault.KeyNotFound},
		{"POST", "/decrypt", `{"ciphertext":"` + ciphertext + `"}`, fault.KeyNotFound},
		{"POST", "/encrypt", `{"key":"{key}","plaintext":"AAEC"}`, fault.KeyNotFound},
		{"POST", "/keys/{key}/rewrap", `{"ciphertext":"` + ciphertext + `"}`, fault.KeyNotFound},
		{"POST", "/keys/{key}/data-key", `{}`, fault.KeyNotFound},
		{"POST", "/keys/{key}/sign", `{"message":"AAEC"}`, fault.KeyNotFound},
		{"GET", "/keys/{key}/grants", "", fault.KeyNotFound},
		{"GET", "/keys/{key}/grants/" + grant.ID, "", fault.KeyNotFound},
		{"PUT", "/keys/{key}/grants/" + grant.ID, `{"principal":"api-key:` + shop.OwnerKey.ID + `","operations":["encrypt"]}`, fault.KeyNotFound},
		{"DELETE", "/keys/{key}/grants/" + grant.ID, "", fault.KeyNotFound},
		{"POST", "/approvals", `{"key":"{key}","operation":"key.delete"}`, fault.KeyNotFound},
		{"POST", "/authorize", `{"key":"{key}","operation":"encrypt"}`, fault.KeyNotFound},
		{"POST", "/authorize", `{"operation":"encrypt","principal":"api-key:` + apiKey.ID + `"}`, fault.APIKeyNotFound},
		{"GET", "/approvals/" + approval.ID, "", fault.ApprovalNotFound},
		{"POST", "/approvals/" + approval.ID + "/approve", "", fault.ApprovalNotFound},
		{"POST", "/approvals/" + approval.ID + "/reject", "", fault.ApprovalNotFound},
		{"GET", "/api-keys/" + apiKey.ID, "", fault.APIKeyNotFound},
		{"POST", "/api-keys/" + apiKey.ID + "/rotate", "", fault.APIKeyNotFound},
		{"DELETE", "/api-keys/" + apiKey.ID, "", fault.APIKeyNotFound},
		{"GET", "/audit/entries/1", "", fault.EntryNotFound},
		{"GET", "/audit/entries/1/proof", "", fault.EntryNotFound},
		{"GET", "/audit?key=orders", "", fault.KeyNotFound},
	} {
		for _, name := range []string{key.ID, "orders"} {
			path, body := strings.ReplaceAll(c.path, "{key}", name), strings.ReplaceAll(c.body, "{key}", name)
			if seen[c.method+path+body] {
				continue
			}
			seen[c.method+path+body] = true
			refused(t, s.do(c.method, path, body, theirs), 404, c.code)
		}
	}
	for _, path := range []string{"/keys", "/approvals", "/audit?outcome=nothing"} {
		if w := s.do("GET", path, "", theirs); w.Code != 200 || !strings.Contains(w.Body.String(), `"items":[]`) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/tenants", "/root/slots", "/audit/export"} {
		refused(t, s.do("GET", path, "", theirs), 403, fault.InsufficientScope)
	}
	for _, other := range []string{call1[wire.Me](s, "GET", "/me", "").Tenant, id()} {
		refused(t, s.do("GET", "/tenants/"+other, "", theirs), 404, fault.TenantNotFound)
		refused(t, s.do("GET", "/tenants/"+other+"/usage", "", theirs), 404, fault.TenantNotFound)
	}
	call1[wire.Tenant](s, "POST", "/tenants/"+shop.ID+"/suspend", "")
	refused(t, s.do("GET", "/me", "", theirs), 403, fault.TenantSuspended)
	call1[wire.Tenant](s, "POST", "/tenants/"+shop.ID+"/resume", "")
	if w := s.do("GET", "/me", "", theirs); w.Code != 200 {
		t.Errorf("after resuming: %d %s", w.Code, w.Body)
	}
}

// TestApprovalOverHTTP: an approval is for the request whatever blanks and order its body has, and for no other.
func TestApprovalOverHTTP(t *testing.T) {
	s := newService(t)
	key := call1[wire.Key](s, "POST", "/keys", `{"name":"release","algorithm":"Ed25519","policy":{"quorum":{"operations":["sign","key.state"],"approvals":1,"role":"admin"}}}`)
	own := call1[wire.APIKey](s, "POST", "/api-keys", `{"name":"ann","role":"admin"}`)
	s.owner = call1[wire.APIKey](s, "POST", "/api-keys", `{"name":"bob","role":"owner"}`).Key // who asks: neither has made the other
	send := func(method, path, body, approval string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, prefix+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+s.owner)
		if approval != "" {
			req.Header.Set("X-Approval", approval)
		}
		w := httptest.NewRecorder()
		s.http.ServeHTTP(w, req)
		return w
	}
	body := `{"message":"AAEC","context":{"b":"2","a":"1"}}`
	refused(t, send("POST", "/keys/release/sign", body, ""), 403, fault.ApprovalRequired)
	a := call1[wire.Approval](s, "POST", "/approvals", wire.RequestApproval{Key: "release", Operation: "sign", Body: body, Reason: "1.0"})
	id := uuid.MustParse(key.ID)
	if want := auth.ApprovalDigest(http.MethodPost, id, "sign", "", []byte(`{"context":{"a":"1","b":"2"},"message":"AAEC"}`)); sha256.Size != len(a.Digest) || string(want[:]) != string(a.Digest) {
		t.Errorf("the digest is %x, want %x", a.Digest, want)
	}
	refused(t, s.do("POST", "/approvals/"+a.ID+"/approve", ""), 403, fault.Forbidden)
	if w := s.do("POST", "/approvals/"+a.ID+"/approve", "", own.Key); w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	for _, other := range []string{`{"message":"AAED","context":{"b":"2","a":"1"}}`, `{"message":"AAEC"}`, `{"message":"AAEC","context":{"b":"2","a":"1"},"hash":"SHA-256"}`} {
		refused(t, send("POST", "/keys/release/sign", other, a.ID), 403, fault.ApprovalRequired)
	}
	for _, wrong := range []string{"x", strings.ToUpper(a.ID), uuid.NewString()} {
		refused(t, send("POST", "/keys/release/sign", body, wrong+" "), 403, fault.ApprovalRequired)
	}
	if w := send("POST", "/keys/"+key.ID+"/sign", "{ \"context\" : {\"a\":\"1\", \"b\":\"2\"},\n\"message\":\"AAEC\"}", a.ID); w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	refused(t, send("POST", "/keys/release/sign", body, a.ID), 403, fault.ApprovalRequired)

	// Whatever can be sent can be approved: quotes are escaped in the string that the request is.
	large := `{"items":[` + strings.Repeat(`{"message":""},`, 999) + `{"message":"` + strings.Repeat("AAEC", 1<<18) + `"}]}`
	l := call1[wire.Approval](s, "POST", "/approvals", wire.RequestApproval{Key: "release", Operation: "sign", Body: large})
	if w := s.do("POST", "/approvals/"+l.ID+"/approve", "", own.Key); w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	refused(t, send("POST", "/keys/release/sign", strings.Replace(large, "AAEC", "AAED", 1), l.ID), 403, fault.ApprovalRequired)
	if w := send("POST", "/keys/release/sign", large, l.ID); w.Code != 200 {
		t.Errorf("%d %.200s", w.Code, w.Body)
	}

	// What stands in the path is bound too.
	call1[wire.Key](s, "POST", "/keys/release/rotate", "")
	v := call1[wire.Approval](s, "POST", "/approvals", wire.RequestApproval{Key: "release", Operation: "key.state", Target: "1", Body: `{"state":"compromised"}`})
	if w := s.do("POST", "/approvals/"+v.ID+"/approve", "", own.Key); w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	refused(t, send("POST", "/keys/release/versions/2/state", `{"state":"compromised"}`, v.ID), 403, fault.ApprovalRequired)
	if w := send("POST", "/keys/release/versions/1/state", `{"state":"compromised"}`, v.ID); w.Code != 200 {
		t.Error(w.Code, w.Body)
	}
}
