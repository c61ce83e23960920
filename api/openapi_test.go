package api

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/ratelimit"
)

func TestOpenAPI(t *testing.T) {
	r := newRig(t, Limits{})
	w := r.do("GET", "/openapi.json", "", "X-API-Key", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Fatal(w.Code, w.Header())
	}
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData(w.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("version %s", doc.OpenAPI)
	}
	operations := 0
	for i := range r.routes {
		row := &r.routes[i]
		for _, p := range row.documentPaths() {
			operations++
			item := doc.Paths.Value(p)
			if item == nil || item.GetOperation(row.Method) == nil {
				t.Errorf("%s %s is not in the document", row.Method, p)
				continue
			}
			op := item.GetOperation(row.Method)
			if op.Responses.Value(strconv.Itoa(row.Status)) == nil || op.Responses.Default() == nil {
				t.Errorf("%s %s: responses %v", row.Method, p, op.Responses)
			}
			if open := op.Security != nil && len(*op.Security) == 0; open != row.Open {
				t.Errorf("%s %s: open is %v", row.Method, p, open)
			}
			if row.Scope != "" && !strings.Contains(op.Description, string(row.Scope)) {
				t.Errorf("%s %s does not name its scope: %q", row.Method, p, op.Description)
			}
			for _, q := range row.Query {
				if op.Parameters.GetByInAndName("query", q.Name) == nil {
					t.Errorf("%s %s lacks the parameter %s", row.Method, p, q.Name)
				}
			}
			for _, name := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(p, -1) {
				if op.Parameters.GetByInAndName("path", name[1]) == nil {
					t.Errorf("%s %s lacks the path parameter %s", row.Method, p, name[1])
				}
			}
		}
	}
	n := 0
	ids := map[string]bool{}
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			n++
			if ids[op.OperationID] {
				t.Errorf("operation id %s twice", op.OperationID)
			}
			ids[op.OperationID] = true
		}
	}
	if n != operations {
		t.Errorf("%d operations in the document, %d in the table", n, operations)
	}
	codes := doc.Components.Schemas["Error"].Value.Properties["error_code"].Value.Enum
	if len(codes) != len(fault.Codes()) {
		t.Errorf("%d error codes of %d", len(codes), len(fault.Codes()))
	}
	for _, name := range []string{"bearer", "apiKey", "mutualTLS", "session"} {
		if doc.Components.SecuritySchemes[name] == nil {
			t.Errorf("no security scheme %s", name)
		}
	}
}

// TestAnswersFitTheDocument holds real answers against the schemas.
func TestAnswersFitTheDocument(t *testing.T) {
	r, _ := limitedRig(t, ratelimit.Plan{Tenant: ratelimit.Rate{PerMinute: 1000}})
	doc, err := openapi3.NewLoader().LoadFromData(r.do("GET", "/openapi.json", "").Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ method, path, route, body string }{
		{"POST", "/keys", "/keys", `{"name":"n","algorithm":"AES-256-GCM"}`},
		{"GET", "/keys", "/keys", ""},
		{"GET", "/keys/a", "/keys/{key}", ""},
		{"POST", "/keys/a/attestation", "/keys/{key}/attestation", `{"nonce":"AAECAwQFBgcICQoLDA0ODw=="}`},
		{"POST", "/keys/a/attestation", "/keys/{key}/attestation", `{}`},
		{"GET", "/attestation-key", "/attestation-key", ""},
		{"GET", "/me", "/me", ""},
		{"GET", "/audit", "/audit", ""},
		{"POST", "/encrypt", "/encrypt", `{"plaintext":"AAEC"}`},
		{"POST", "/encrypt", "/encrypt", `{"items":[{"plaintext":"AAEC"},{"plaintext":"ZmFpbA=="}]}`},
		{"POST", "/decrypt", "/decrypt", `{"ciphertext":"AgEA"}`},
		{"POST", "/verify", "/verify", `{"message":"","signature":""}`},
		{"POST", "/random", "/random", `{"bytes":1}`},
		{"POST", "/random", "/random", `{"bytes":0}`},
	} {
		w := r.do(c.method, prefix+c.path, c.body)
		wantDocumented(t, doc, c.method, c.route, w)
	}
}

// wantDocumented looks whether an answer is one that the document has for the route.
func wantDocumented(t *testing.T, doc *openapi3.T, method, route string, w *httptest.ResponseRecorder) {
	t.Helper()
	op := doc.Paths.Value(prefix + route).GetOperation(method)
	response := op.Responses.Value(strconv.Itoa(w.Code))
	if w.Code >= 400 {
		response = op.Responses.Default()
	}
	for _, name := range []string{"X-Request-ID", "X-Audit-Index", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After"} {
		if len(w.Header().Values(name)) > 0 && response.Value.Headers[name] == nil {
			t.Errorf("%s %s: the header %s is not in the document", method, route, name)
		}
	}
	var v any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	if err := response.Value.Content["application/json"].Schema.Value.VisitJSON(v); err != nil {
		t.Errorf("%s %s: %v", method, route, err)
	}
}

func TestEveryFieldIsExplained(t *testing.T) {
	r := newRig(t, Limits{})
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(in reflect.Type) {
		if in == nil || seen[in] {
			return
		}
		seen[in] = true
		for _, f := range fieldsOf(in) {
			if meaning(in, f.name) == "" {
				t.Errorf("%s.%s is not explained", in.Name(), f.name)
			}
			walk(structOf(f.typ))
		}
	}
	for i := range r.routes {
		walk(r.routes[i].Do.Req)
		walk(r.routes[i].Do.Resp)
	}
	if len(seen) < 40 {
		t.Errorf("only %d types", len(seen))
	}
}

func TestDocsPage(t *testing.T) {
	r := newRig(t, Limits{})
	w := r.do("GET", "/docs", "", "X-API-Key", "")
	page := w.Body.String()
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Fatal(w.Code, w.Header())
	}
	policy := w.Header().Get("Content-Security-Policy")
	_, rest, _ := strings.Cut(page, "<style>")
	style, _, ok := strings.Cut(rest, "</style>")
	if !ok || style != pageStyle {
		t.Error("the page's style is not the one that its policy allows")
	}
	if !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q", policy)
	}
	for _, external := range []string{"http://", "https://", "//", "<script", "<img", "<link", "url(", "style=\"", "ZgotmplZ"} {
		if strings.Contains(strings.ReplaceAll(page, "</", ""), external) {
			t.Errorf("the page has %q", external)
		}
	}
	for i := range r.routes {
		if !strings.Contains(page, "<code>"+prefix+r.routes[i].Path+"</code>") {
			t.Errorf("%s is not on the page", r.routes[i].Path)
		}
	}
	for _, c := range fault.Codes() {
		if !strings.Contains(page, string(c.Code)) {
			t.Errorf("%s is not on the page", c.Code)
		}
	}
}
