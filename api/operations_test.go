package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

var stamp = regexp.MustCompile(`"timestamp":"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z"`)

// golden gives a body with its timestamp replaced.
func golden(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	if n := len(stamp.FindAllString(w.Body.String(), -1)); n != 1 {
		t.Errorf("%d timestamps in %s", n, w.Body)
	}
	if !json.Valid(w.Body.Bytes()) {
		t.Errorf("not JSON: %s", w.Body)
	}
	return stamp.ReplaceAllString(w.Body.String(), `"timestamp":"T"`)
}

func TestShapes(t *testing.T) {
	const used = `"key_id":"0195f3a2-7b1c-7def-8123-456789abcdef","key_version":3`
	const tail = `,"request_id":"r-1","timestamp":"T"}`
	const key = `{"id":"0195f3a2-7b1c-7def-8123-456789abcdef","name":"team/one","algorithm":"AES-256-GCM","purpose":"encryption",` +
		`"backend":"default","custody":"software","origin":"generated","state":"active","primary_version":1,"latest_version":1,` +
		`"min_decrypt_version":0,"min_encrypt_version":0,"labels":{},"policy":{"operations":["encrypt"],"rotation_period":"720h0m0s"},` +
		`"created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:05Z","next_rotation_at":"2026-02-01T03:04:05Z"}`
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/encrypt", `{"plaintext":"AAEC"}`, 200, `{"data":{"ciphertext":"AgEA",` + used + `}` + tail},
		{"POST", "/encrypt", `{"plaintext":""}`, 200, `{"data":{"ciphertext":"",` + used + `}` + tail},
		{"POST", "/encrypt", `{"items":[{"plaintext":"AAEC"},{"plaintext":"ZmFpbA=="},{"plaintext":""}]}`, 200,
			`{"data":{"items":[{"ciphertext":"AgEA",` + used + `},{"error":{"error_code":"ERR_DECRYPTION_FAILED","message":"does not open"}},` +
				`{"ciphertext":"",` + used + `}]}` + tail},
		{"POST", "/decrypt", `{"ciphertext":"AgEA"}`, 200, `{"data":{"plaintext":"AAEC",` + used + `,"key_state":"compromised"}` + tail},
		{"POST", "/decrypt", `{"items":[{"ciphertext":""}]}`, 200, `{"data":{"items":[{"plaintext":"",` + used + `,"key_state":"compromised"}]}` + tail},
		{"POST", "/verify", `{"items":[{"message":"","signature":"AA=="},{"message":"","signature":"AA=="}]}`, 200,
			`{"data":{"items":[{"valid":true,"key_id":"0195f3a2-7b1c-7def-8123-456789abcdef","key_version":1},` +
				`{"valid":false,"key_id":"0195f3a2-7b1c-7def-8123-456789abcdef","key_version":1}]}` + tail},
		{"POST", "/random", `{"bytes":3}`, 200, `{"data":{"random":"BwcH"}` + tail},
		{"GET", "/keys/team%2Fone", ``, 200, `{"data":` + key + tail},
		{"POST", "/keys", `{"name":"n","algorithm":"AES-256-GCM"}`, 201, `{"data":` + key + tail},
		{"POST", "/keys/n/rotate", ``, 200, `{"data":` + key + tail},
		{"GET", "/keys", ``, 200, `{"data":{"items":[` + key + `],"next_cursor":"bmV4dA"}` + tail},
		{"GET", "/me", ``, 200, `{"data":{"id":"api-key:1","name":"tester","tenant":"00000000-0000-7000-8000-000000000001",` +
			`"tenant_name":"","scopes":["keys:read","keys:write","encryption:write","policies:read","policies:write","audit:read","settings:read","settings:write",` +
			`"owners:write","backends:read","backends:write","nodes:read","root:read","root:write","tenants:read","tenants:write","audit:export","backup:read",` +
			`"backup:write","read","write"]}` + tail},
		{"GET", "/health", ``, 200, `{"data":{"status":"ok","version":"test"}` + tail},
		{"POST", "/decrypt", `{}`, 400, `{"error":{"error_code":"ERR_MISSING_FIELD","message":"the field ciphertext is missing"}` + tail},
		{"GET", "/none", ``, 404, `{"error":{"error_code":"ERR_ROUTE_NOT_FOUND","message":"there is nothing at this path"}` + tail},
	} {
		r := newRig(t, Limits{})
		w := r.do(c.method, prefix+c.path, c.body, "X-Request-ID", "r-1")
		if got := golden(t, w); got != c.want || w.Code != c.status {
			t.Errorf("%s %s %s:\n got %d %s\nwant %d %s", c.method, c.path, c.body, w.Code, got, c.status, c.want)
		}
		for name, want := range map[string]string{"X-Request-Id": "r-1", "Content-Type": "application/json", "Cache-Control": "no-store",
			"X-Content-Type-Options": "nosniff"} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s %s: %s is %q, want %q", c.method, c.path, name, got, want)
			}
		}
	}
}

// TestHandWritten compares what is written by hand with what the wire types would give.
func TestHandWritten(t *testing.T) {
	r := newRig(t, Limits{})
	w := r.do("POST", "/api/v1/decrypt", `{"items":[{"ciphertext":"AgEA"},{"ciphertext":""}]}`)
	var got wire.Response[wire.Batch[wire.Plaintext]]
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if len(got.Data.Items) != 2 || string(got.Data.Items[0].Plaintext) != "\x00\x01\x02" || got.Data.Items[1].Plaintext == nil ||
		got.Data.Items[0].KeyID != keyID.String() || got.Data.Items[0].KeyVersion != 3 || got.Data.Items[0].KeyState != "compromised" {
		t.Errorf("%+v", got)
	}
	if d := time.Since(got.Timestamp); d < 0 || d > time.Minute {
		t.Errorf("timestamp %v", got.Timestamp)
	}
}

func TestRequestID(t *testing.T) {
	r := newRig(t, Limits{})
	for _, id := range []string{"a", "A.b_c-9", strings.Repeat("x", 128)} {
		if got := r.do("GET", "/health", "", "X-Request-ID", id).Header().Get("X-Request-Id"); got != id {
			t.Errorf("%q became %q", id, got)
		}
	}
	uuid4 := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for _, id := range []string{"", " ", "a b", "a\"b", "ä", strings.Repeat("x", 129), "a\r\nb", "a/b"} {
		for range 100 {
			got := r.do("GET", "/health", "", "X-Request-ID", id).Header().Get("X-Request-Id")
			if !uuid4.MatchString(got) || seen[got] {
				t.Fatalf("%q became %q", id, got)
			}
			seen[got] = true
		}
	}
}

func TestOneOrMany(t *testing.T) {
	r := newRig(t, Limits{})
	many := `{"items":[` + strings.TrimSuffix(strings.Repeat(`{"plaintext":""},`, 1001), ",") + `]}`
	for body, code := range map[string]fault.Code{
		`{}`:                              fault.MissingField,
		`{"plaintext":null}`:              fault.MissingField,
		`{"aad":"AA=="}`:                  fault.MissingField,
		`{"items":[]}`:                    fault.TooManyItems,
		many:                              fault.TooManyItems,
		`{"items":[{"plaintext":""},{}]}`: fault.MissingField,
		`{"plaintext":"","items":[{"plaintext":""}]}`:          fault.MissingField,
		`{"aad":"","items":[{"plaintext":""}]}`:                fault.MissingField,
		`{"context":{},"items":[{"plaintext":""}]}`:            fault.MissingField,
		`{"plaintext":"A"}`:                                    fault.BadEncoding,
		`{"plaintext":"QQ"}`:                                   fault.BadEncoding,
		`{"plaintext":"QR=="}`:                                 fault.BadEncoding,
		`{"plaintext":"QQ==\n"}`:                               fault.BadEncoding,
		`{"plaintext":"QQ\u003d\u003d"}`:                       fault.BadEncoding,
		`{"plaintext":"-_-_"}`:                                 fault.BadEncoding,
		`{"plaintext":" QQ=="}`:                                fault.BadEncoding,
		`{"items":[{"plaintext":"QQ=="},{"plaintext":"QQ="}]}`: fault.BadEncoding,
		`{"plaintext":5}`:                                      fault.BadJSON,
		`{"plaintext":[1]}`:                                    fault.BadJSON,
		`{"plaintext":"","hash":"MD5"}`:                        fault.BadField,
		`{"plaintext":"","format":"x"}`:                        fault.BadField,
		`{"plaintext":"","key_version":-1}`:                    fault.BadField,
		`{"plaintext":"","key_version":1.5}`:                   fault.BadField,
		`{"plaintext":"","key_version":4294967296}`:            fault.BadField,
		`{"plaintext":"","context":{"a":"b","a":"c"}}`:         fault.BadJSON,
		`{"plaintext":"","context":{"a":1}}`:                   fault.BadJSON,
	} {
		w := r.do("POST", "/api/v1/encrypt", body)
		refused(t, w, 400, code)
	}
	refused(t, r.do("POST", "/api/v1/keys/a/encrypt", `{"key":"b","plaintext":""}`), 400, fault.BadField)
	if n := r.keys.calls.Load(); n != 0 {
		t.Errorf("%d refused requests reached the service", n)
	}
}

func TestMessagesNameTheField(t *testing.T) {
	r := newRig(t, Limits{})
	for body, at := range map[string]string{
		`{"plaintext":"A"}`: " /plaintext ",
		`{"items":[{"plaintext":""},{"plaintext":"A"}]}`:        " /items/1/plaintext ",
		`{"items":[{"plaintext":""},{"plaintext":"","x":"y"}]}`: " /items/1/x\"",
		`{"items":[{"plaintext":"","context":{"a":5}}]}`:        " /items/0/context/a ",
		`{"items":{"a":1}}`:               " /items ",
		`{"context":[]}`:                  " /context ",
		`{"items":[{"plaintext":""},{}]}`: " /items/1/plaintext ",
		`{"items":[{"aad":"","aad":""}]}`: " /items/0/aad\"",
		`{"context":{"a":"","a":""}}`:     " /context/a\"",
		`{"key_version":"x"}`:             " /key_version ",
		`{"x y z":1}`:                     " /?\"",
	} {
		w := r.do("POST", "/api/v1/encrypt", body)
		if w.Code != 400 || !strings.Contains(w.Body.String(), at) {
			t.Errorf("%s: %d %s, want it to name %s", body, w.Code, w.Body, at)
		}
	}
}

// TestListsAreBounded sends a body of the allowed size that would become a list of more than a million items.
func TestListsAreBounded(t *testing.T) {
	r := newRig(t, Limits{})
	for i := range r.routes {
		row := &r.routes[i]
		if row.BodyLimit != bodyOperation || !row.Do.Batched {
			continue
		}
		body := `{"items":[` + strings.Repeat("{},", bodyOperation/3-10) + `{}]}`
		before := allocated()
		refused(t, r.do(row.Method, examplePath(row), body), 400, fault.TooManyItems)
		// The body itself, its growing buffers, its copy as a string and the memory for its fields.
		if n := allocated() - before; n > 8*bodyOperation {
			t.Errorf("%s: a body of %d bytes made the server allocate %d", row.Path, len(body), n)
		}
	}
	var entries strings.Builder
	for i := range 65 {
		fmt.Fprintf(&entries, `"k%d":"",`, i)
	}
	refused(t, r.do("POST", "/api/v1/encrypt", `{"plaintext":"","context":{`+strings.TrimSuffix(entries.String(), ",")+`}}`), 400, fault.BadSize)
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// TestMessagesHoldNoValue sends a secret in every wrong way and looks for it in the answer and the log.
func TestMessagesHoldNoValue(t *testing.T) {
	r := newRig(t, Limits{})
	const mark = "SuperSecretValue"
	for _, body := range []string{
		`{"plaintext":"` + mark + `!"}`, `{"plaintext":{"` + mark + `":1}}`, `{"hash":"` + mark + `","plaintext":""}`,
		`{"plaintext":"","key_version":"` + mark + `"}`, `{"` + mark + ` is long and has blanks":1}`, mark, `"` + mark + `"`,
		`{"plaintext":"","context":{"` + mark + ` ":"a","` + mark + ` ":"b"}}`, `{"plaintext":"` + mark, `{"plaintext":"","format":"` + mark + `"}`,
		`{"context":{"x":` + mark + `}}`,
	} {
		w := r.do("POST", "/api/v1/encrypt", body)
		if w.Code != 400 || strings.Contains(w.Body.String(), mark) || strings.Contains(r.log.String(), mark) {
			t.Errorf("%s: %d %s, log %s", body, w.Code, w.Body, r.log)
		}
	}
	w := r.do("GET", "/api/v1/keys?limit="+mark, "")
	refused(t, w, 400, fault.BadQuery)
	if strings.Contains(w.Body.String(), mark) {
		t.Error(w.Body)
	}
}

func TestTargets(t *testing.T) {
	r := newRig(t, Limits{})
	for path, want := range map[string]string{
		"/keys/a/encrypt": "a", "/keys/team%2Fone/encrypt": "team/one", "/keys/a+b/encrypt": "a+b", "/keys/a%2Bb/encrypt": "a+b",
		"/keys/a%20b/encrypt": "a b", "/keys/a@b.c-d_e/encrypt": "a@b.c-d_e", "/keys/%61/encrypt": "a", "/keys/a%252Fb/encrypt": "a%2Fb",
	} {
		w := r.do("POST", prefix+path, `{"plaintext":"AAEC","key_version":7}`)
		if w.Code != 200 || r.keys.target != (keys.Target{Key: want, Version: 7}) {
			t.Errorf("%s: %d, target %+v", path, w.Code, r.keys.target)
		}
	}
	if w := r.do("POST", "/api/v1/encrypt", `{"key":"team/one","plaintext":"AAEC"}`); w.Code != 200 || r.keys.target.Key != "team/one" {
		t.Errorf("%d, target %+v", w.Code, r.keys.target)
	}
	if r.keys.caller.Principal.ID != "api-key:1" || !wellFormedID(r.keys.caller.RequestID) {
		t.Errorf("caller %+v", r.keys.caller)
	}
}

func TestPlaintextIsWiped(t *testing.T) {
	r := newRig(t, Limits{})
	if w := r.do("POST", "/api/v1/encrypt", `{"plaintext":"c2VjcmV0"}`); w.Code != 200 {
		t.Fatal(w.Body)
	}
	if string(r.keys.kept) != "\x00\x00\x00\x00\x00\x00" {
		t.Errorf("after the answer the plaintext's memory holds %q", r.keys.kept)
	}
	// After a deadline the backend may still read it: then it must stay as it is.
	r = newRig(t, Limits{Timeout: 20 * time.Millisecond})
	r.keys.slow = time.Minute
	start := time.Now()
	refused(t, r.do("POST", "/api/v1/encrypt", `{"plaintext":"c2VjcmV0"}`), 504, fault.Timeout)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("the deadline took %v", d)
	}
}

func TestIdempotencyKey(t *testing.T) {
	r := newRig(t, Limits{})
	send := func(path, body, key string) keys.Caller {
		if w := r.do("POST", prefix+path, body, "Idempotency-Key", key); w.Code != 200 && w.Code != 201 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return r.keys.caller
	}
	const body = `{"name":"a","algorithm":"AES-256-GCM"}`
	a, b := send("/keys", body, "k1"), send("/keys", body, "k1")
	if a.Idempotency.Key != "k1" || a.Idempotency != b.Idempotency {
		t.Errorf("the same request gives %+v and %+v", a.Idempotency, b.Idempotency)
	}
	if c := send("/keys", body+" ", "k1"); c.Idempotency.Request == a.Idempotency.Request {
		t.Error("another body gives the same hash")
	}
	x, y := send("/keys/x/rotate", "", "k1"), send("/keys/y/rotate", "", "k1")
	if x.Idempotency.Request == y.Idempotency.Request {
		t.Error("another path gives the same hash")
	}
	if z := send("/keys", body, ""); z.Idempotency.Key != "" {
		t.Errorf("without the header there is a token: %+v", z.Idempotency)
	}
	for _, bad := range []string{" ", "a b", "ä", strings.Repeat("k", 256)} {
		w := r.do("POST", "/api/v1/keys", body, "Idempotency-Key", bad)
		refused(t, w, http.StatusBadRequest, fault.BadField)
	}
}

func TestDeletion(t *testing.T) {
	r := newRig(t, Limits{})
	day := 24 * time.Hour
	for _, c := range []struct {
		query, body string
		want        time.Duration
	}{{"", "", 0}, {"?waiting_period_days=7", "", 7 * day}, {"", `{"waiting_period_days":30}`, 30 * day}, {"", "{}", 0}} {
		if w := r.do("DELETE", "/api/v1/keys/a"+c.query, c.body); w.Code != 200 || r.keys.waiting != c.want {
			t.Errorf("%+v: %d, %v", c, w.Code, r.keys.waiting)
		}
	}
	refused(t, r.do("DELETE", "/api/v1/keys/a?waiting_period_days=6", ""), 400, fault.BadQuery)
	refused(t, r.do("DELETE", "/api/v1/keys/a", `{"waiting_period_days":31}`), 400, fault.BadField)
	refused(t, r.do("DELETE", "/api/v1/keys/a?waiting_period_days=8", `{"waiting_period_days":8}`), 400, fault.MissingField)
}

func TestListQuery(t *testing.T) {
	r := newRig(t, Limits{})
	if w := r.do("GET", "/api/v1/keys?name_prefix=a&algorithm=Ed25519&state=active&label=env%3Dprod&limit=7&cursor=c", ""); w.Code != 200 {
		t.Fatal(w.Body)
	}
	want := keys.ListRequest{Cursor: "c", Limit: 7, Filter: keys.Filter{NamePrefix: "a", Algorithm: "Ed25519", State: "active", Label: "env=prod"}}
	if r.keys.list != want {
		t.Errorf("got %+v, want %+v", r.keys.list, want)
	}
	for _, q := range []string{"limit=0", "limit=1001", "limit=x", "limit=-1", "limit=1&limit=2", "offset=3", "a=%zz", "limit=1;x"} {
		refused(t, r.do("GET", "/api/v1/keys?"+q, ""), 400, fault.BadQuery)
	}
}
