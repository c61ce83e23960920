package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-json-experiment/json"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/api/qpher"
	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
)

// TestQpherAudit: the log names what was done by the verbs of the native API.
func TestQpherAudit(t *testing.T) {
	s := newService(t)
	s.generate("Kyber768")
	c := qpherOf[qpher.Ciphertext](s, "POST", "/kem/encrypt", `{"plaintext":"AAEC","key_version":1}`, 200)
	qpherOf[qpher.Plaintext](s, "POST", "/kem/decrypt", qpherBody("ciphertext", c.Ciphertext, "key_version", 1), 200)
	qpherOf[qpher.WrappedKey](s, "POST", "/kem/wrap", qpherBody("symmetric_key", make([]byte, 16), "key_version", 1), 200)
	l := call1[wire.List[wire.AuditEntry]](s, "GET", "/audit?limit=4", nil)
	var got []string
	for _, e := range l.Items {
		got = append(got, e.Action+" "+strconv.FormatUint(uint64(e.KeyVersion), 10)+" "+e.Outcome)
	}
	if want := []string{"wrap 1 ok", "decrypt 1 ok", "encrypt 1 ok", "key.create 1 ok"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// TestQpherDeterministic: equal plaintexts, salts and keys give equal ciphertexts through the whole service, and nothing else does.
func TestQpherDeterministic(t *testing.T) {
	s := newService(t)
	s.generate("Kyber768")
	s.generate("X-Wing")
	rapid.Check(t, func(t *rapid.T) {
		pt := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "plaintext")
		salt := rapid.SliceOfN(rapid.Byte(), 32, 70).Draw(t, "salt")
		alg := rapid.SampledFrom([]string{"Kyber768", "X-Wing"}).Draw(t, "algorithm")
		seal := func(pt, salt []byte) []byte {
			w := s.do("POST", "/kem/encrypt", qpherBody("plaintext", pt, "salt", salt, "mode", "deterministic", "key_version", 1, "algorithm", alg))
			var r wire.Response[qpher.Ciphertext]
			if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != 200 {
				t.Fatal(w.Code, err)
			}
			return r.Data.Ciphertext
		}
		a := seal(pt, salt)
		if !bytes.Equal(a, seal(pt, salt)) {
			t.Fatal("two ciphertexts")
		}
		if bytes.Equal(a, seal(append([]byte{1}, pt...), salt)) || bytes.Equal(a, seal(pt, append([]byte{1}, salt...))) {
			t.Fatal("one ciphertext for two inputs")
		}
	})
}

// TestQpherErrorTable: every code of ours has a place in Qpher's table that its documentation lists, whatever the group.
func TestQpherErrorTable(t *testing.T) {
	for _, g := range []qpher.Group{qpher.GroupKEM, qpher.GroupSignature, qpher.GroupKMS} {
		for _, c := range fault.Codes() {
			native, _ := statusOf(c.Code)
			status, name := qpher.Shown(g, c.Code, native)
			if !slices.ContainsFunc(qpher.Errors(), func(e qpher.Error) bool { return e.Code == name && e.Status == status }) {
				t.Errorf("%s %s: %d %s is not documented", g, c.Code, status, name)
			}
			if (status >= 500) != (native >= 500) {
				t.Errorf("%s %s: %d becomes %d", g, c.Code, native, status)
			}
		}
	}
	if status, name := qpher.Shown(qpher.GroupKEM, "ERR_RATE_LIMITED", 429); status != 429 || name != "ERR_RATE_LIMIT_001" {
		t.Errorf("a rate limit: %d %s", status, name)
	}
	guide, err := os.ReadFile("../docs/guides/qpher.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range qpher.Errors() {
		row := "| `" + e.Code + "` | " + strconv.Itoa(e.Status) + " | " + e.Meaning + " |\n"
		if !bytes.Contains(guide, []byte(row)) {
			t.Errorf("the guide lacks %s", row)
		}
	}
}

// TestQpherFaults: failures of the service come out in Qpher's form, with Retry-After where there is one, and nothing of the cause.
func TestQpherFaults(t *testing.T) {
	r := newRig(t, Limits{})
	body := `{"plaintext":"AAEC","key_version":1}`
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{fault.New(fault.Overloaded, "busy").RetryAfter(1), 503, "ERR_SERVICE_001"},
		{fault.New(fault.AuditUnavailable, "disk full"), 503, "ERR_SERVICE_001"},
		{fault.New(fault.BackendUnavailable, "gone"), 502, "ERR_BAD_GATEWAY_001"},
		{fault.New(fault.Timeout, "late"), 504, "ERR_TIMEOUT_001"},
		{fault.New(fault.KeyMaterial, "damaged"), 500, "ERR_CRYPTO_001"},
		{errors.New("disk /dev/sda on fire"), 500, "ERR_INTERNAL_001"},
		{context.DeadlineExceeded, 504, "ERR_TIMEOUT_001"},
	} {
		r.keys.fail = c.err
		w := r.do("POST", "/api/v1/kem/encrypt", body)
		refusedQpher(t, w, c.status, c.code)
		if strings.Contains(w.Body.String(), "sda") {
			t.Errorf("the cause is shown: %s", w.Body)
		}
		if (w.Header().Get("Retry-After") != "") != (c.code == "ERR_SERVICE_001" && fault.Has(c.err, fault.Overloaded)) {
			t.Errorf("%v: Retry-After %q", c.err, w.Header().Get("Retry-After"))
		}
	}
	r.keys.fail = nil
	if w := r.do("POST", "/api/v1/kem/encrypt", body, "X-Request-ID", "mine"); w.Code != 200 || !strings.Contains(w.Body.String(), `"request_id":"mine"`) || w.Header().Get("X-Request-ID") != "mine" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestQpherAnswersFitTheDocument holds real answers against the schemas.
func TestQpherAnswersFitTheDocument(t *testing.T) {
	s := newService(t)
	doc, err := openapi3.NewLoader().LoadFromData(s.do("GET", "/openapi.json", "").Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	secret := b64(make([]byte, 32))
	for _, c := range []struct{ method, path, route, body string }{
		{"POST", "/kms/keys/generate", "", `{"algorithm":"Kyber768"}`},
		{"POST", "/kms/keys/generate", "", `{"algorithm":"Kyber768"}`},
		{"POST", "/kms/keys/generate", "", `{"algorithm":"Dilithium3"}`},
		{"GET", "/kms/keys/active?algorithm=Kyber768", "/kms/keys/active", ""},
		{"GET", "/kms/keys/1?algorithm=Kyber768", "/kms/keys/{n}", ""},
		{"GET", "/kms/keys", "", ""},
		{"POST", "/kem/encrypt", "", `{"plaintext":"AAEC","key_version":1}`},
		{"POST", "/kem/decrypt", "", `{"ciphertext":"AAEC","key_version":1}`},
		{"POST", "/kem/encapsulate", "", `{"key_version":1}`},
		{"POST", "/kem/key/wrap", "", `{"symmetric_key":"` + secret + `","key_version":1}`},
		{"POST", "/signature/sign", "", `{"message":"AAEC","key_version":1}`},
		{"POST", "/signature/verify", "", `{"message":"AAEC","signature":"AAEC","key_version":1}`},
		{"POST", "/signature/sign-hash", "", `{"hash":"` + secret + `","hash_algorithm":"SHA-256","key_version":1}`},
		{"POST", "/signature/verify-hash", "", `{"hash":"` + secret + `","hash_algorithm":"SHA-256","signature":"AAEC","key_version":1}`},
		{"POST", "/kms/keys/rotate", "", `{"algorithm":"Kyber768"}`},
		{"POST", "/kms/keys/retire", "", `{"algorithm":"Kyber768","key_version":2}`},
	} {
		w := s.do(c.method, c.path, c.body)
		if c.route == "" {
			c.route = c.path
		}
		wantDocumented(t, doc, c.method, c.route, w)
	}
}

func FuzzQpherRequests(f *testing.F) {
	r := newRig(f, Limits{})
	var paths []string
	for i := range r.routes {
		if row := &r.routes[i]; row.Qpher != "" && row.Method == http.MethodPost {
			paths = append(paths, examplePath(row))
		}
	}
	for i := range paths {
		f.Add(uint8(i), `{"plaintext":"AAEC","key_version":1,"mode":"deterministic","salt":"AAEC"}`)
		f.Add(uint8(i), `{"hash":"AAEC","hash_algorithm":"SHA-256","key_version":1,"algorithm":"Composite-ML-DSA"}`)
	}
	s := newService(f)
	for _, a := range qpher.Algorithms() {
		if w := s.do("POST", "/kms/keys/generate", `{"algorithm":"`+a+`"}`); w.Code != 201 {
			f.Fatal(w.Body)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		path := strings.TrimPrefix(paths[int(which)%len(paths)], prefix)
		w := s.do("POST", path, body)
		var v struct {
			Data struct {
				KeyVersion int64 `json:"key_version"`
			} `json:"data"`
			Error struct {
				Code string `json:"error_code"`
			} `json:"error"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
			t.Fatalf("%s: %d is not JSON", path, w.Code)
		}
		if w.Code < 300 && v.Data.KeyVersion < 1 || w.Code >= 500 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		if w.Code >= 400 && !slices.ContainsFunc(qpher.Errors(), func(e qpher.Error) bool { return e.Code == v.Error.Code && e.Status == w.Code }) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	})
}
