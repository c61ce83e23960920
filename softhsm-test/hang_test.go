package softhsmtest

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestHungDevice has callers who would wait a minute for the one HSM there is, which hangs: they are told to come back long before, and soon after that it
// works again. While the HSM is gone the audit log can be had up to its newest checkpoint, which the HSM has signed.
func TestHungDevice(t *testing.T) {
	f := rig.Fault(t, rig.SoftHSM(t))
	s := start(t, t.TempDir(), "--metrics-listen", "127.0.0.1:0", "--backend", "hsm="+f.URI+"&x-processes=1")
	patient := *s
	patient.http = &http.Client{Timeout: time.Minute}
	sign := func() answer {
		a, err := patient.call("POST", "/keys/k/sign", m{"message": []byte("message")})
		if err != nil {
			t.Error(err)
		}
		return a
	}
	s.must(201, "POST", "/keys", m{"name": "k", "algorithm": "ECDSA-P256"})
	if a := sign(); a.status != 200 {
		t.Fatalf("status %d %s", a.status, a.code)
	}
	var checkpoint struct {
		VerifierKey string `json:"verifier_key"`
		Size        int
	}
	s.must(200, "GET", "/audit/checkpoint", nil).into(t, &checkpoint)

	f.Hang(t, "C_Sign")
	start := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if a := sign(); a.status != 504 && a.status != 503 || a.after == "" {
				t.Errorf("status %d %s, Retry-After %q", a.status, a.code, a.after)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 40*time.Second {
		t.Errorf("the callers were answered after %v", took)
	}
	t.Logf("the callers were answered after %v", time.Since(start))
	start = time.Now()
	kills := func() (n float64) {
		for name, v := range s.metrics() {
			if strings.HasPrefix(name, "keywright_hsm_child_kills_total{") {
				n += v
			}
		}
		return n
	}
	for kills() == 0 {
		if time.Since(start) > 30*time.Second {
			t.Fatal("the process that hangs is not killed")
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("the process that hung was killed %v later", time.Since(start))
	f.Clear(t)
	for sign().status != 200 {
		if time.Since(start) > 30*time.Second {
			t.Fatal("the HSM does not work again")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("it works again %v after the callers were answered", time.Since(start))

	f.TokenGone(t)
	if a := sign(); a.status != 503 {
		t.Errorf("with the token gone: status %d %s", a.status, a.code)
	}
	export := filepath.Join(t.TempDir(), "audit.export")
	if out, err := s.cli("audit", "export", "--out", export); err != nil {
		t.Fatalf("audit export with the HSM gone: %v\n%s", err, out)
	}
	if out, err := s.cli("audit", "verify", export, "--verifier-key", checkpoint.VerifierKey); err != nil {
		t.Errorf("audit verify: %v\n%s", err, out)
	}
	if info, err := os.Stat(export); err != nil || info.Size() < 100*int64(checkpoint.Size) {
		t.Errorf("the export lacks entries that were signed for: %v", err)
	}
	f.TokenBack(t)
	s.stop()
}
