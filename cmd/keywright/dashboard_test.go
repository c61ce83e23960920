package main

import (
	"context"
	stdjson "encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestDashboard runs a service on a token and a TPM and holds the dashboard against its metrics, both ways: a panel for what is not there
// stays empty without a word, and a metric without a panel is not looked at.
func TestDashboard(t *testing.T) {
	part := rig.SoftHSM(t)
	part.Setenv(t)
	c := config{Data: t.TempDir(), Backends: []backendConfig{{Name: "hsm", URI: part.URI, PKCS11: pkcs11Config{InProcess: true, AllowSealed: true}},
		{Name: "tpm", URI: rig.SWTPM(t).URI, TPM: tpmConfig{AllowSealed: true}}}}
	c.Audit.Retention = audit.MinRetention
	c.Audit.Sinks = []sinkConfig{{File: filepath.Join(c.Data, "sink.lines")}, {HTTP: "http://127.0.0.1:1/"}} // where nobody listens
	c.Plans = []planConfig{{Name: "default", PerMinute: 1}}
	if err := c.complete(true); err != nil {
		t.Fatal(err)
	}
	c.Root.KeyFile = filepath.Join(c.Data, "root.key")
	n, err := openNode(t.Context(), c, true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	})
	served := servedMetrics(t, n)
	board, err := os.ReadFile("../../deploy/grafana/keywright.json")
	if err != nil {
		t.Fatal(err)
	}
	names := func(text string) map[string]bool {
		out := map[string]bool{}
		for _, name := range regexp.MustCompile(`keywright_[a-z_]+`).FindAllString(text, -1) {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				name = strings.TrimSuffix(name, suffix)
			}
			out[name] = true
		}
		return out
	}
	shown := names(string(board))
	there := map[string]bool{}
	for line := range strings.Lines(served) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok && strings.HasPrefix(rest, "keywright_") {
			there[strings.Fields(rest)[0]] = true
		}
	}
	if len(there) < 20 {
		t.Fatalf("few metrics are served: %v", there)
	}
	for name := range there {
		if !shown[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
	// Families with labels appear with their first value.
	later := map[string]bool{"keywright_tls_reloads_total": true, "keywright_tls_certificate_expiry_timestamp_seconds": true, // with TLS
		"keywright_news_age_seconds": true, "keywright_news_total": true, "keywright_news_lost_total": true, "keywright_lease_held": true, // with several nodes
		"keywright_jobs_ended_total": true, "keywright_key_maintenance_total": true, "keywright_audit_sink_missed_total": true,
		"keywright_crypto_items_total": true, "keywright_crypto_operation_seconds": true, "keywright_hsm_queue_seconds": true, "keywright_hsm_device_seconds": true}
	for name := range shown {
		if !there[name] && !later[name] {
			t.Errorf("the dashboard asks for %s, which is not served", name)
		}
	}
	rules, err := os.ReadFile("../../deploy/prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name := range names(string(rules)) {
		if !there[name] && !later[name] {
			t.Errorf("an alert asks for %s, which is not served", name)
		}
	}
	known := map[string]bool{}
	for _, code := range fault.Codes() {
		known[string(code.Code)] = true
	}
	for _, code := range regexp.MustCompile(`ERR_[A-Z_]+`).FindAllString(string(board)+string(rules), -1) {
		if !known[code] {
			t.Errorf("a panel or an alert asks for %s, which there is not", code)
		}
	}
	notOver(t, board)
}

// servedMetrics gives the node's metrics when it has refused a request, limited one, handed entries on, and failed to.
func servedMetrics(t *testing.T, n *node) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer n.tasks.Wait()
	defer cancel()
	n.handOn(ctx)
	key, err := os.ReadFile(n.config.OwnerKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{http.StatusUnauthorized, http.StatusOK, http.StatusTooManyRequests} {
		r, w := httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/v1/me", http.NoBody), httptest.NewRecorder()
		if i > 0 {
			r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(key)))
		}
		if n.server.Handler().ServeHTTP(w, r); w.Code != want {
			t.Errorf("%d %s, want %d", w.Code, w.Body, want)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		answer := httptest.NewRecorder()
		n.server.MetricsHandler().ServeHTTP(answer, httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", http.NoBody))
		text := answer.Body.String()
		if strings.Contains(text, "keywright_audit_sink_next{") && strings.Contains(text, "keywright_audit_sink_failures_total{") || time.Now().After(deadline) {
			return text
		}
	}
}

// notOver wants no panel to lie over another.
func notOver(t *testing.T, board []byte) {
	t.Helper()
	var b struct {
		Panels []struct {
			Title   string
			GridPos struct{ X, Y, W, H int }
		}
	}
	if err := stdjson.Unmarshal(board, &b); err != nil || len(b.Panels) < 20 {
		t.Fatal(len(b.Panels), err)
	}
	for i := range b.Panels {
		for j := range b.Panels[:i] {
			p, q := b.Panels[i].GridPos, b.Panels[j].GridPos
			if p.X < q.X+q.W && q.X < p.X+p.W && p.Y < q.Y+q.H && q.Y < p.Y+p.H {
				t.Errorf("%q lies over %q", b.Panels[i].Title, b.Panels[j].Title)
			}
		}
	}
}
