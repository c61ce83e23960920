package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/backend"
)

func TestTPMPins(t *testing.T) {
	name := func(b byte) hexBytes { return append(hexBytes{0, 0x0b}, bytes.Repeat([]byte{b}, 32)...) }
	p := tpmPins{path: filepath.Join(t.TempDir(), tpmPinsFile), backend: "tpm"}
	if got, err := p.read(); got != nil || err != nil {
		t.Errorf("at the first start: %v, %v", got, err)
	}
	want := tpmPin{Parent: name(1), EK: name(2), Info: &backend.Info{Kind: "tpm", Name: "tpm", ID: "tpm-1", Custody: []backend.Custody{backend.CustodyDevice},
		Capabilities: []backend.Capability{{Algorithm: backend.ECDSAP256, Custody: backend.CustodyDevice, Operations: []backend.Operation{backend.OpSign}}}, Quirks: []string{"one"}}}
	other := tpmPin{Parent: name(3)}
	for _, one := range []struct {
		backend string
		pin     tpmPin
	}{{"tpm", other}, {"root", other}, {"tpm", want}, {"tpm", want}} {
		if err := (tpmPins{p.path, one.backend}).write(new(remembering), one.pin); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(p.path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	for backend, want := range map[string]tpmPin{"tpm": want, "root": other} {
		got, err := (tpmPins{p.path, backend}).read()
		if err != nil || got == nil {
			t.Fatalf("%s: %v, %v", backend, got, err)
		}
		if diff := cmp.Diff(want, *got); diff != "" {
			t.Error(diff)
		}
	}
	for _, bad := range []string{`{"tpm":{"parent":"00"}}`, `{"tpm":{"parent":"zz"}}`, `{"tpm":{"parent":"","more":1}}`, `{`, `{"tpm":{"parent":"0004` + strings.Repeat("00", 32) + `"}}`} {
		if err := os.WriteFile(p.path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := p.read(); err == nil {
			t.Errorf("%s is taken for %v", bad, got)
		}
		if err := p.write(new(remembering), want); err == nil {
			t.Errorf("%s is written over", bad)
		}
	}
}

func TestTPMConfig(t *testing.T) {
	const dev = "tpm:/dev/tpmrm0"
	for _, c := range []struct {
		what     string
		backends []backendConfig
		root     rootConfig
		want     string // of the error; "": none
		device   string // the root's
	}{
		{"plain", []backendConfig{{Name: "tpm", URI: dev}}, rootConfig{}, "", ""},
		{"twice", []backendConfig{{Name: "a", URI: dev}, {Name: "b", URI: dev + "?parent=0x81000001"}}, rootConfig{}, "two backends are on the same TPM", ""},
		{"stray", []backendConfig{{Name: "a", URI: "software:", TPM: tpmConfig{Queue: 1}}}, rootConfig{}, "tpm is for the URI of a TPM", ""},
		{"handle", []backendConfig{{Name: "a", URI: dev, TPM: tpmConfig{Handle: "0x80000001"}}}, rootConfig{}, "0x81000000 to 0x817fffff", ""},
		{"name", []backendConfig{{Name: "a", URI: dev, TPM: tpmConfig{Parent: "000b"}}}, rootConfig{}, "tpm.parent is a Name", ""},
		{"ek", []backendConfig{{Name: "a", URI: dev, TPM: tpmConfig{EK: "xx"}}}, rootConfig{}, "tpm.ek is a Name", ""},
		{"queue", []backendConfig{{Name: "a", URI: dev, TPM: tpmConfig{Queue: -1}}}, rootConfig{}, "not negative", ""},
		{"root by URI", nil, rootConfig{Device: dev}, "", rootDeviceName},
		{"root by name", []backendConfig{{Name: "tpm", URI: dev}}, rootConfig{Device: "tpm"}, "", "tpm"},
		{"root by the URI of a backend", []backendConfig{{Name: "tpm", URI: dev + "?parent=0x81000001"}}, rootConfig{Device: dev}, "", "tpm"},
		{"the same with settings", []backendConfig{{Name: "tpm", URI: dev}}, rootConfig{Device: dev, TPM: tpmConfig{Queue: 1}}, "that of backend tpm", ""},
		{"root settings without a TPM", nil, rootConfig{TPM: tpmConfig{Queue: 1}}, "root.tpm is for", ""},
		{"root at a path", nil, rootConfig{Device: "tpm:relative"}, "a TPM's URI names", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			cfg := config{Data: t.TempDir(), Backends: c.backends, Root: c.root}
			err := cfg.complete(true)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if err == nil && cfg.Root.Device != c.device {
				t.Errorf("the root is on %q, want %q", cfg.Root.Device, c.device)
			}
		})
	}
}

func TestTPMPolicyConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if p, err := (&tpmPolicyConfig{}).policy(); p != nil || err != nil {
		t.Errorf("none: %v, %v", p, err)
	}
	pub := "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
	for what, c := range map[string]tpmPolicyConfig{
		"a ref alone": {Ref: "x"}, "no file": {Authority: filepath.Join(dir, "none")}, "no PEM": {Authority: write("a", "text")},
		"two": {Authority: write("b", pub+pub)}, "a certificate": {Authority: write("c", strings.ReplaceAll(pub, "PUBLIC KEY", "CERTIFICATE"))},
	} {
		if p, err := c.policy(); err == nil {
			t.Errorf("%s: %v", what, p)
		}
	}
	if p, err := (&tpmPolicyConfig{Authority: write("d", pub), Ref: "r"}).policy(); err != nil || len(p.Authority) != 3 || string(p.Ref) != "r" {
		t.Errorf("%v, %v", p, err)
	}
	var log bytes.Buffer
	write("1.json", "{}")
	if got := approvals(dir, slog.New(slog.NewTextHandler(&log, nil))); len(got) != 0 || !strings.Contains(log.String(), "1.json") {
		t.Errorf("%v, %s", got, log.String())
	}
}

func TestAuthFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(path, []byte("sesame\r\nmore"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := authFile(path); err != nil || string(b) != "sesame" {
		t.Errorf("%v", err)
	}
	if b, err := authFile(""); b != nil || err != nil {
		t.Errorf("none: %v, %v", b, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := authFile(path); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("others can read it: %v", err)
	}
}
