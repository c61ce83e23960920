package tpm_test

import (
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/softhsm-test/rig/tpmsim"
	"github.com/keywright/keywright/tpm"
	"github.com/keywright/keywright/tpm/device"
)

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// root gives the same secret for the same label, as an open root does.
func root(seed byte) func(string) (secret.Bytes, error) {
	return func(string) (secret.Bytes, error) {
		out := make(secret.Bytes, 32)
		for i := range out {
			out[i] = seed + byte(i)
		}
		return out, nil
	}
}

func openDevice(t testing.TB, uri string, change func(*device.Options)) *device.Device {
	t.Helper()
	u, err := device.ParseURI(uri)
	if err != nil {
		t.Fatalf("ParseURI: %v", err)
	}
	o := device.Options{Name: "test", URI: u, Logger: logger()}
	if change != nil {
		change(&o)
	}
	d, err := device.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("opening the TPM: %v", err)
	}
	return d
}

// open opens a backend that the caller closes.
func open(t testing.TB, uri, name string, change func(*tpm.Options)) *tpm.Backend {
	t.Helper()
	// The suite asks much at once of a TPM whose simulation shares the machine with the tests: the bound of the queue is not what it is about.
	d := openDevice(t, uri, func(o *device.Options) { o.MaxWait = time.Minute })
	o := tpm.Options{Name: name, Device: d, Derive: root(1), Logger: logger()}
	if change != nil {
		change(&o)
	}
	b, err := tpm.Open(t.Context(), o)
	if err != nil {
		_ = d.Close() // the first error counts
		t.Fatalf("Open: %v", err)
	}
	return b
}

// opened is open, and the test closes it.
func opened(t testing.TB, uri string, change func(*tpm.Options)) *tpm.Backend {
	t.Helper()
	b := open(t, uri, "test", change)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// What every TPM here has: less is a capability that got lost.
var own = []backend.Algorithm{backend.AES256CTRHMACSHA256, backend.HMACSHA256, backend.HMACSHA384, backend.HMACSHA512, backend.RSA2048,
	backend.ECDSAP256, backend.ECDSAP384, backend.ECDHP256, backend.ECDHP384}

// more is what swtpm has beside that.
var more = []backend.Algorithm{backend.RSA3072, backend.ECDSAP521, backend.ECDHP521}

func allowSealed(o *tpm.Options) { o.AllowSealed = true }

// harness has the same root for both TPMs: it is the TPM that must not open the other's keys.
func harness(uri, foreign string, change func(*tpm.Options), algorithms ...[]backend.Algorithm) backendtest.Harness {
	return backendtest.Harness{
		Open:     func(t testing.TB, name string) backend.Backend { return open(t, uri, name, change) },
		Foreign:  func(t testing.TB, name string) backend.Backend { return open(t, foreign, name, change) },
		Requires: backendtest.Requirements{Algorithms: slices.Concat(algorithms...), Import: true, Attest: true, Sealer: true, Randomer: true, Pinger: true},
	}
}

func TestSwtpm(t *testing.T) {
	backendtest.Run(t, harness(rig.SWTPM(t).URI, rig.SWTPM(t).URI, nil, own, more))
}

// TestSwtpmSealed has every algorithm that the TPM lacks in sealed custody.
func TestSwtpmSealed(t *testing.T) {
	var all []backend.Algorithm
	for _, a := range backend.Algorithms() {
		all = append(all, a.Name)
	}
	h := harness(rig.TCPSWTPM(t).URI, rig.SWTPM(t).URI, allowSealed, all)
	h.Requires.Attest = false
	h.Only = []string{"info", "unsupported", "handles", "aead", "kwp", "import", "export", "refs", "destroy", "contexts", "reopen", "close", "close-in-use"}
	backendtest.Run(t, h)
}

func TestSimulator(t *testing.T) {
	backendtest.Run(t, harness(tpmsim.Start(t).URI, rig.SWTPM(t).URI, nil, own))
}
