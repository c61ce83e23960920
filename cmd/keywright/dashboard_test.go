package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keywright/keywright/audit"
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
	answer := httptest.NewRecorder()
	n.server.MetricsHandler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	served, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
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
	for line := range strings.Lines(string(served)) {
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
		"keywright_jobs_ended_total": true, "keywright_key_maintenance_total": true, "keywright_http_requests_total": true, "keywright_http_request_seconds": true,
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
}
