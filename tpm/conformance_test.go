package tpm_test

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm"
	"github.com/keywright/keywright/tpm/device"
)

func swtpm(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "s")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+sock, "--ctrl", "type=unixio,path="+filepath.Join(dir, "c"), "--flags", "not-need-init,startup-clear")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); os.RemoveAll(dir) })
	for range 100 {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "tpm:unix:" + sock
}

func opener(uri string, change func(*tpm.Options)) func(testing.TB, string) backend.Backend {
	return func(t testing.TB, name string) backend.Backend {
		t.Helper()
		u, err := device.ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		d, err := device.Open(t.Context(), device.Options{Name: name, URI: u, Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		o := tpm.Options{Name: name, Device: d, Logger: log, Derive: func(string) (secret.Bytes, error) { return bytes.Repeat([]byte{1}, 32), nil }}
		if change != nil {
			change(&o)
		}
		b, err := tpm.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

var own = []backend.Algorithm{backend.HMACSHA256, backend.HMACSHA384, backend.HMACSHA512, backend.RSA2048, backend.RSA3072,
	backend.ECDSAP256, backend.ECDSAP384, backend.ECDSAP521, backend.ECDHP256, backend.ECDHP384, backend.ECDHP521}

func TestSwtpm(t *testing.T) {
	backendtest.Run(t, backendtest.Harness{Open: opener(swtpm(t), nil), Foreign: opener(swtpm(t), nil),
		Requires: backendtest.Requirements{Algorithms: own, Import: true, Sealer: true, Randomer: true, Pinger: true}})
}
