package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/api/qpher"
	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// soon asks until the answer has the status: what a node remembers of a principal is as old as a second.
func (e *everything) soon(status int, method, path, body, credential string) *httptest.ResponseRecorder {
	e.t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		w := e.ask(method, path, body, credential)
		if w.Code == status {
			return w
		}
		if time.Now().After(end) {
			e.t.Fatalf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, status)
		}
	}
}

// TestGrantsForEveryKind: a certificate, a token's subject and a process are granted operations on a key as an API key is, and lose them as soon.
func TestGrantsForEveryKind(t *testing.T) {
	e := newEverything(t)
	for _, name := range []string{"granted", "other"} {
		made[wire.Key](e, e.owner, "POST", "/keys", fmt.Sprintf(`{"name":%q,"algorithm":"AES-256-GCM","policy":{"grants_only":true}}`, name))
	}
	for kind, who := range map[string]string{
		byCertificate: "cert:" + trustDomain + "auditor",
		byToken:       "oidc:" + e.issuer.URL + "#s-auditor",
		byPeer:        fmt.Sprint("peer:", os.Getuid()),
	} {
		as := e.credential(kind, "auditor")
		const body = `{"plaintext":"AA=="}`
		name := made[wire.Me](e, as, "GET", "/me", "").ID
		refused(t, e.ask("POST", "/keys/granted/encrypt", body, as), 403, fault.InsufficientScope)
		grant := id()
		path := "/keys/granted/grants/" + grant
		g := made[wire.Grant](e, e.owner, "PUT", path, fmt.Sprintf(`{"principal":%q,"operations":["encrypt"]}`, who))
		if g.Principal != name || (g.Named == "") != (who == name) || g.Named != "" && g.Named != who {
			t.Errorf("%s: the grant is %+v, and the principal is %s", kind, g, name)
		}
		e.soon(200, "POST", "/keys/granted/encrypt", body, as)
		refused(t, e.ask("POST", "/keys/granted/decrypt", `{"ciphertext":"AA=="}`, as), 403, fault.InsufficientScope)
		refused(t, e.ask("POST", "/keys/other/encrypt", body, as), 403, fault.InsufficientScope)
		refused(t, e.ask("POST", "/keys/nothing/encrypt", body, as), 403, fault.InsufficientScope)
		for _, form := range []string{who, name} {
			said := e.explained(e.owner, fmt.Sprintf(`{"operation":"encrypt","key":"granted","principal":%q}`, form))
			if !said.Allowed || said.Rule != string(auth.RuleGrant) || said.GrantID != grant {
				t.Errorf("%s as %s: %+v", kind, form, said)
			}
			said = e.explained(e.owner, fmt.Sprintf(`{"operation":"audit.search","principal":%q}`, form))
			if known := kind == byCertificate; said.Allowed != known || (said.Note == "") != known { // of a token's claims nobody knows
				t.Errorf("%s as %s: %+v", kind, form, said)
			}
		}
		// Another tenant's grant to the same name is another's.
		made[wire.Grant](e, e.owner, "DELETE", path, "")
		e.soon(403, "POST", "/keys/granted/encrypt", body, as)
	}
	for _, bad := range []string{"", "cert:", "oidc:nobody", "peer:x", "somebody"} {
		w := e.ask("PUT", "/keys/granted/grants/"+id(), fmt.Sprintf(`{"principal":%q,"operations":["encrypt"]}`, bad), e.owner)
		if w.Code != http.StatusBadRequest {
			t.Errorf("%q: %d %s", bad, w.Code, w.Body)
		}
	}
}

// TestQpherByGrant: at Qpher's door who has grants alone is decided per key, as at the native one.
func TestQpherByGrant(t *testing.T) {
	e := newEverything(t)
	made[any](e, e.owner, "POST", "/kms/keys/generate", `{"algorithm":"Kyber768"}`)
	made[any](e, e.owner, "POST", "/kms/keys/generate", `{"algorithm":"Dilithium3"}`)
	list := made[wire.List[wire.Key]](e, e.owner, "GET", "/keys", "")
	var kyber string
	for _, k := range list.Items {
		if strings.Contains(k.Algorithm, "ML-KEM") {
			kyber = k.ID
		}
	}
	guest := e.newAPIKey(e.owner, `{"name":"guest","scopes":["audit:read"]}`)
	const body = `{"algorithm":"Kyber768","key_version":1,"plaintext":"AA=="}`
	if w := e.ask("POST", "/kem/encrypt", body, guest.Key); w.Code != http.StatusForbidden {
		t.Fatalf("before the grant: %d %s", w.Code, w.Body)
	}
	for _, operations := range []string{`["encrypt"]`, `["encrypt","key.get","key.versions"]`} {
		made[wire.Grant](e, e.owner, "PUT", "/keys/"+kyber+"/grants/"+id(), fmt.Sprintf(`{"principal":"api-key:%s","operations":%s}`, guest.ID, operations))
	}
	e.soon(200, "POST", "/kem/encrypt", body, guest.Key)
	for path, body := range map[string]string{
		"/kem/decrypt":     `{"algorithm":"Kyber768","key_version":1,"ciphertext":"AA=="}`,
		"/kem/key/wrap":    `{"algorithm":"Kyber768","key_version":1,"symmetric_key":"AAAAAAAAAAAAAAAAAAAAAA=="}`,
		"/signature/sign":  `{"algorithm":"Dilithium3","key_version":1,"message":"AA=="}`,
		"/kms/keys/rotate": `{"algorithm":"Kyber768"}`,
		"/kem/encapsulate": `{"algorithm":"X-Wing","key_version":1}`, // which is not there: that is not told either
	} {
		w := e.ask("POST", path, body, guest.Key)
		if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "ERR_FORBIDDEN_001") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := e.ask("GET", "/kms/keys/active?algorithm=Kyber768", "", guest.Key); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := e.ask("GET", "/kms/keys/active?algorithm=Dilithium3", "", guest.Key); w.Code != http.StatusForbidden {
		t.Errorf("%d %s", w.Code, w.Body)
	}

	// What is refused is not done: who may rotate and not be shown a version, or make a key of which it would not be, makes none.
	blind := e.newAPIKey(e.owner, `{"name":"blind","scopes":["audit:read"]}`)
	writer := e.newAPIKey(e.owner, `{"name":"writer","scopes":["keys:write"]}`)
	for _, k := range []wire.APIKey{blind, writer} {
		made[wire.Grant](e, e.owner, "PUT", "/keys/"+kyber+"/grants/"+id(), fmt.Sprintf(`{"principal":"api-key:%s","operations":["key.rotate"]}`, k.ID))
	}
	before := made[qpher.KeyList](e, e.owner, "GET", "/kms/keys", "")
	for _, ask := range []struct{ path, algorithm, credential string }{{"rotate", "Kyber768", blind.Key}, {"rotate", "Kyber768", writer.Key}, {"generate", "X-Wing", writer.Key}} {
		if w := e.ask("POST", "/kms/keys/"+ask.path, fmt.Sprintf(`{"algorithm":%q}`, ask.algorithm), ask.credential); w.Code != http.StatusForbidden {
			t.Errorf("%s: %d %s", ask.path, w.Code, w.Body)
		}
	}
	if after := made[qpher.KeyList](e, e.owner, "GET", "/kms/keys", ""); after.Total != before.Total {
		t.Errorf("of what was refused there are %d versions, where there were %d", after.Total, before.Total)
	}
}
