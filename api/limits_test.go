package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keywright/keywright/fault"
)

func TestBodyBudget(t *testing.T) {
	large := `{"plaintext":"` + strings.Repeat("A", 200<<10) + `"}`
	r := newRig(t, Limits{BodyMemory: 300 << 10})
	w := r.do("POST", "/api/v1/encrypt", large)
	refused(t, w, 503, fault.Overloaded)
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if w := r.do("POST", "/api/v1/encrypt", plaintexts(1)); w.Code != 200 {
		t.Errorf("a small body beside it: %d", w.Code)
	}
	r = newRig(t, Limits{BodyMemory: 1 << 20})
	for range 3 {
		if w := r.do("POST", "/api/v1/encrypt", large); w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		refused(t, r.do("POST", "/api/v1/encrypt", strings.Replace(large, "plaintext", "nonsense", 1)), 400, fault.UnknownField)
	}
	if r.bodies.free != 1<<20 {
		t.Errorf("%d bytes of the budget are left after all is done", r.bodies.free)
	}
}

// TestBrokenBody ends a body before its announced length.
func TestBrokenBody(t *testing.T) {
	r := newRig(t, Limits{})
	req := httptest.NewRequest(http.MethodPost, "/api/v1/encrypt", io.MultiReader(strings.NewReader(`{"plaintext":`), failing{}))
	req.ContentLength = 100
	req.Header.Set("X-API-Key", "good")
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, req)
	refused(t, w, 400, fault.BadJSON)
	if r.keys.calls.Load() != 0 {
		t.Error("half a body reached the service")
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// TestCallsDoNotMix sends different requests at once and checks that each gets its own answer: calls and their buffers are
// used again.
func TestCallsDoNotMix(t *testing.T) {
	r := newRig(t, Limits{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				id := fmt.Sprintf("%d-%d", g, i)
				text := strings.Repeat(string(rune('a'+g)), 1+i%97)
				w := r.do("POST", "/api/v1/encrypt", fmt.Sprintf(`{"plaintext":%q}`, b64([]byte(text))), "X-Request-ID", id)
				want := fmt.Sprintf(`{"data":{"ciphertext":%q,`, b64([]byte(text)))
				if w.Code != 200 || !strings.HasPrefix(w.Body.String(), want) || w.Header().Get("X-Request-Id") != id {
					t.Errorf("%s: %d %s", id, w.Code, w.Body)
					return
				}
				if w := r.do("POST", "/api/v1/encrypt", `{"plaintext":"`+text, "X-Request-ID", id); w.Code != 400 || !strings.Contains(w.Body.String(), `"request_id":"`+id+`"`) {
					t.Errorf("%s: %d %s", id, w.Code, w.Body)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestExportFailures(t *testing.T) {
	r := newRig(t, Limits{})
	// Before the first byte a failure is an answer like any other.
	r.audit.export = func(io.Writer) error { return fault.New(fault.StoreUnavailable, "the store cannot be read") }
	w := r.do("GET", "/api/v1/audit/export", "")
	refused(t, w, 503, fault.StoreUnavailable)
	if w.Header().Get("Content-Disposition") != "" {
		t.Error("the error is sent as a file")
	}
	// After it, the connection is cut: nobody may take the part for the whole.
	r.audit.export = func(w io.Writer) error {
		if _, err := w.Write([]byte(strings.Repeat("x", 100<<10))); err != nil {
			return err
		}
		return fault.New(fault.StoreCorrupted, "damage")
	}
	addr := serve(t, r.Handler(), ServeOptions{})
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/api/v1/audit/export", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", "good")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("an export that was cut short ends like a whole one")
	}
}

func TestMetrics(t *testing.T) {
	r := newRig(t, Limits{})
	for i := range 3 {
		r.do("GET", fmt.Sprintf("/api/v1/keys/secret-name-%d", i), "")
	}
	r.do("GET", "/api/v1/nowhere/secret-name", "")
	r.do("GET", "/api/v1/keys/x?bad=1", "")
	r.do("BREW", "/api/v1/keys/x", "")
	for labels, want := range map[[3]string]float64{{"/keys/{key}", "GET", "2xx"}: 3, {"/keys/{key}", "GET", "4xx"}: 1, {"none", "any", "4xx"}: 2} {
		if got := testutil.ToFloat64(r.metrics.requests.WithLabelValues(labels[0], labels[1], labels[2])); got != want {
			t.Errorf("%v: %v, want %v", labels, got, want)
		}
	}
	for code, want := range map[fault.Code]float64{fault.BadQuery: 1, fault.RouteNotFound: 1, fault.MethodNotAllowed: 1} {
		if got := testutil.ToFloat64(r.metrics.errors.WithLabelValues(string(code))); got != want {
			t.Errorf("%s: %v, want %v", code, got, want)
		}
	}
	if got := testutil.ToFloat64(r.metrics.inFlight); got != 0 {
		t.Errorf("%v in flight", got)
	}
	w := httptest.NewRecorder()
	r.MetricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if page := w.Body.String(); w.Code != 200 || !strings.Contains(page, "keywright_http_request_seconds_bucket{") || strings.Contains(page, "secret-name") {
		t.Errorf("%d %s", w.Code, page)
	}
	if w := r.do("GET", "/metrics", ""); w.Code != 404 {
		t.Errorf("metrics on the API's own listener: %d", w.Code)
	}
	if _, err := New(Options{Keys: r.keys, Auth: r.auth, Root: r.root, Audit: r.audit, Jobs: r.jobs, Rekey: r.rekey, Metrics: r.registry}); err == nil {
		t.Error("the same metrics registered twice")
	}
	if _, err := New(Options{}); err == nil {
		t.Error("a server without services")
	}
}

func TestNotReady(t *testing.T) {
	r := newRig(t, Limits{})
	s, err := New(Options{Keys: r.keys, Auth: r.auth, Root: r.root, Audit: r.audit, Jobs: r.jobs, Rekey: r.rekey, Ready: func(context.Context) error {
		return fault.New(fault.StoreUnavailable, "the store cannot be written")
	}})
	if err != nil {
		t.Fatal(err)
	}
	for path, status := range map[string]int{"/ready": 503, "/health": 200} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != status {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
