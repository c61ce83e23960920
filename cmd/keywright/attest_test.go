package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/attest"
)

// TestAttestVerifyTPM verifies a TPM's evidence from the published vectors as a person does who has files and flags alone.
func TestAttestVerifyTPM(t *testing.T) {
	b, err := os.ReadFile("../../docs/formats/vectors/attestation.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Signer, Roots string
		Valid         []struct {
			Name, Nonce string
			Document    attest.Document
			Claims      attest.Claims
		}
	}
	if err := json.Unmarshal(b, &v, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	one := v.Valid[0]
	if one.Name != "tpm-ecdsa-p256" {
		t.Fatal("another vector")
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	public := func(name string, der []byte) string {
		return file(name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	doc, err := one.Document.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	evidence, signer, roots, key := file("evidence", doc), public("signer", unhex(v.Signer)), file("roots", []byte(v.Roots)), public("key", one.Claims.PublicKey)
	nonce := base64.StdEncoding.EncodeToString(unhex(one.Nonce))
	ak := one.Claims.Device.AttestationKeyName
	zero := strings.Repeat("00", 32)
	for what, c := range map[string]struct {
		args []string
		code int
		out  []string // in the output, or with a code in the error
		not  string   // in the error
	}{
		"nothing trusted": {nil, 0, []string{"device-evidence", "unproven", "unverified", "warning: nothing proves whose attestation key", "warning: the service's signature"}, ""},
		"all of it": {[]string{"--signer", signer, "--attestation-key", ak, "--ek-roots", roots, "--public-key", key, "--pcr", "sha256:7=" + zero,
			"--require", "device-evidence", "--require", "generated-on-device", "--require", "not-exportable"}, 0,
			[]string{"device identity:          attestation-key", "endorsement certificate:  verified", "service's signature:      trusted", "PCR sha256:7 " + zero}, "warning"},
		"json":          {[]string{"--signer", signer, "-o", "json"}, 0, []string{`"device_identity": "unproven"`, `"generated_on_device": true`}, "signature"},
		"another TPM":   {[]string{"--attestation-key", "000b" + zero}, 7, []string{"attestation key is another"}, ""},
		"another maker": {[]string{"--ek-roots", file("other", otherRoot(t))}, 7, []string{"does not chain"}, ""},
		"another boot":  {[]string{"--pcr", "sha256:7=" + strings.Repeat("11", 32)}, 7, []string{"sha256:7 has another value"}, ""},
		"another key":   {[]string{"--public-key", signer}, 7, []string{"another key"}, ""},
		"too old":       {[]string{"--max-age", "1ns"}, 7, []string{"too old"}, ""},
	} {
		out, errs := file("out", nil), file("err", nil)
		stdout, err := os.OpenFile(out, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		stderr, err := os.OpenFile(errs, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		code := run(t.Context(), append([]string{"attest", "verify", evidence, "--nonce", nonce}, c.args...), os.Stdin, stdout, stderr)
		o, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		e, err := os.ReadFile(errs)
		if err != nil {
			t.Fatal(err)
		}
		if code != c.code {
			t.Errorf("%s: code %d, %s", what, code, e)
		}
		for _, want := range c.out {
			if !strings.Contains(string(o)+string(e), want) {
				t.Errorf("%s: no %q in\n%s%s", what, want, o, e)
			}
		}
		if c.not != "" && strings.Contains(string(e), c.not) {
			t.Errorf("%s: %s", what, e)
		}
		if err := stdout.Close(); err != nil {
			t.Error(err)
		}
		if err := stderr.Close(); err != nil {
			t.Error(err)
		}
	}
}

// otherRoot is a maker's root that made nothing.
func otherRoot(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another maker"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
