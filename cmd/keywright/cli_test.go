package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/client"
	"github.com/keywright/keywright/keyenc"
)

func model(t *testing.T) []completionNode {
	t.Helper()
	p, err := newParser(new(commands), os.Stdout, os.Stderr, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return completionModel(p.Model)
}

// complete runs the generated script in a real bash and gives what it offers for the words.
func complete(t *testing.T, script string, words ...string) []string {
	t.Helper()
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	run := fmt.Sprintf(". %s; COMP_WORDS=(%s); COMP_CWORD=%d; _keywright; printf '%%s\\n' \"${COMPREPLY[@]}\"", quote(script), strings.Join(quoted, " "), len(words)-1)
	cmd := exec.CommandContext(t.Context(), "bash", "--norc", "-c", run)
	cmd.Dir = filepath.Dir(script)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("bash: %v", err)
	}
	return slices.Sorted(slices.Values(strings.Fields(string(out))))
}

func TestBashCompletion(t *testing.T) {
	var out bytes.Buffer
	bashCompletion(&out, model(t))
	dir := t.TempDir()
	script := filepath.Join(dir, "completion.bash")
	if err := os.WriteFile(script, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if msg, err := exec.CommandContext(t.Context(), "bash", "-n", script).CombinedOutput(); err != nil {
		t.Fatalf("bash -n: %v\n%s", err, msg)
	}
	for _, tc := range []struct{ words, want []string }{
		{[]string{"keywright", "enc"}, []string{"encapsulate", "encrypt"}},
		{[]string{"keywright", "keys", "set"}, []string{"set-default", "set-state"}},
		{[]string{"keywright", "--output", "json", "keys", "rot"}, []string{"rotate"}},
		{[]string{"keywright", "--output", ""}, []string{"json", "text"}},
		{[]string{"keywright", "--output", "=", "j"}, []string{"json"}},
		{[]string{"keywright", "keys", "show", "x", "--output", "="}, []string{"json", "text"}},
		{[]string{"keywright", "--output", "=", "json", "keys", "cre"}, []string{"create"}},
		{[]string{"keywright", "encrypt", "--key", "keys", "--aad"}, []string{"--aad", "--aad-file"}},
		{[]string{"keywright", "keys", "set-state", "name", "1", "de"}, []string{"deactivated", "destroyed"}},
		{[]string{"keywright", "keys", "set-state", "de"}, nil},
		{[]string{"keywright", "completion", ""}, []string{"bash", "fish", "zsh"}},
		{[]string{"keywright", "sign", "--padding", "p"}, []string{"pkcs1v15", "pss"}},
		{[]string{"keywright", "encrypt", "comp"}, []string{"completion.bash"}},
		{[]string{"keywright", "encrypt", "-k", "x", "--in", "comp"}, []string{"completion.bash"}},
		{[]string{"keywright", "root", "add", "shamir", "--thr"}, []string{"--threshold"}},
		{[]string{"keywright", "keys", "policy", "k", "--no-del"}, []string{"--no-deletion-protection"}},
	} {
		if diff := cmp.Diff(tc.want, complete(t, script, tc.words...)); diff != "" {
			t.Errorf("%v: %s", tc.words, diff)
		}
	}
}

// TestCompletionsKnowEverything: each command and flag is in each script.
func TestCompletionsKnowEverything(t *testing.T) {
	nodes := model(t)
	scripts := map[string]string{}
	for shell, write := range map[string]func(*bytes.Buffer){
		"bash": func(b *bytes.Buffer) { bashCompletion(b, nodes) }, "zsh": func(b *bytes.Buffer) { zshCompletion(b, nodes) }, "fish": func(b *bytes.Buffer) { fishCompletion(b, nodes) },
	} {
		var b bytes.Buffer
		write(&b)
		scripts[shell] = b.String()
	}
	if len(nodes) < 50 {
		t.Fatalf("only %d commands", len(nodes))
	}
	for _, n := range nodes {
		for shell, s := range scripts {
			if !strings.Contains(s, n.path) && len(n.subs)+len(n.args) > 0 {
				t.Errorf("%s: no %s", shell, n.path)
			}
			for _, f := range n.flags {
				spelling := "--" + f.long
				if shell == "fish" {
					spelling = "-l " + f.long
				}
				if !strings.Contains(s, spelling) {
					t.Errorf("%s: no %s of %s", shell, spelling, n.path)
				}
			}
		}
	}
}

// TestNoSecretFlags: a command line is read by every process of the machine.
func TestNoSecretFlags(t *testing.T) {
	about := []string{"shares", "max-api-keys", "api-key-max-lifetime"} // numbers about secrets, and none
	for _, n := range model(t) {
		for _, f := range n.flags {
			for _, word := range []string{"passphrase", "password", "api-key", "token", "secret", "shares"} {
				if f.value && strings.Contains(f.long, word) && !f.files && !slices.Contains(about, f.long) {
					t.Errorf("%s --%s takes a secret", n.path, f.long)
				}
			}
		}
	}
}

func TestReadMaterial(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	ecPEM := block("EC PRIVATE KEY", sec1, err)
	p8, err := x509.MarshalPKCS8PrivateKey(ec)
	p8PEM := block("PRIVATE KEY", p8, err)
	rsaP8, err := x509.MarshalPKCS8PrivateKey(rk)
	rsaPEM := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rk), err)
	spki, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	spkiPEM := block("PUBLIC KEY", spki, err)

	for name, tc := range map[string]struct {
		in     []byte
		secret []byte
		public string
	}{
		"SEC 1":                   {ecPEM, p8, ""},
		"SEC 1 behind parameters": {append(block("EC PARAMETERS", []byte{6, 0}, nil), ecPEM...), p8, ""},
		"PKCS#8":                  {p8PEM, p8, ""},
		"PKCS#1":                  {rsaPEM, rsaP8, ""},
		"public":                  {spkiPEM, nil, string(spkiPEM)},
		"symmetric":               {[]byte("0123456789abcdef"), []byte("0123456789abcdef"), ""},
		"DER":                     {p8, p8, ""},
	} {
		m, err := readMaterial(bytes.Clone(tc.in))
		if err != nil || !bytes.Equal(m.secret, tc.secret) || m.public != tc.public {
			t.Errorf("%s: %v, %d bytes for %d", name, err, len(m.secret), len(tc.secret))
		}
	}
	for name, in := range map[string][]byte{
		"empty": nil, "two keys": append(bytes.Clone(p8PEM), p8PEM...), "encrypted": block("ENCRYPTED PRIVATE KEY", p8, nil), "of another kind": block("X509 CRL", p8, nil),
		"cut": p8PEM[:len(p8PEM)/2], "malformed": block("EC PRIVATE KEY", []byte{1, 2}, nil), "malformed RSA": block("RSA PRIVATE KEY", []byte{1, 2}, nil),
		"parameters only": block("EC PARAMETERS", []byte{6, 0}, nil), "malformed certificate": block("CERTIFICATE", []byte{1}, nil),
	} {
		if _, err := readMaterial(in); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestWrapForImport opens what it made by the RSA key, as the service would.
func TestWrapForImport(t *testing.T) {
	rk, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	text, err := keyenc.MarshalPublicPEM(&rk.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	p := &wire.ImportParameters{PublicKey: string(text), WrappingAlgorithm: importWrapping}
	material := []byte("some key material of 35 bytes......")
	wrapped, err := wrapForImport(p, material)
	if err != nil {
		t.Fatal(err)
	}
	hash, _ := keyenc.HashByName(keyenc.SHA256)
	got, err := keyenc.UnwrapRSAAES(rand.Reader, rk.Size(), wrapped, func(c []byte) ([]byte, error) {
		return rsa.DecryptOAEP(hash.New(), nil, rk, c, nil)
	}, func(error) bool { return false })
	if err != nil || !bytes.Equal(got, material) {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := keyenc.MarshalPublicPEM(&ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*wire.ImportParameters{
		"another wrapping": {PublicKey: string(text), WrappingAlgorithm: "RSA_PKCS1"}, "no key": {WrappingAlgorithm: importWrapping}, "no RSA key": {PublicKey: string(other), WrappingAlgorithm: importWrapping},
	} {
		if _, err := wrapForImport(p, material); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestInputEncodings: what we print comes back, whatever it is, and what is not ours stays as it is.
func TestInputEncodings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "bytes")
		if got := unbase64(encoding{"base64"}.encode(b, false)); !bytes.Equal(got, b) {
			t.Fatalf("base64: %x", got)
		}
		if got := unhex(encoding{"hex"}.encode(b, false)); !bytes.Equal(got, b) {
			t.Fatalf("hex: %x", got)
		}
		if got := (encoding{"auto"}).encode(b, true); !bytes.Equal(got, b) {
			t.Fatalf("raw: %x", got)
		}
	})
	for _, s := range []string{"", "abc", "AAAA=", "AAB=", "\x00\x01", "zz"} {
		if got := unbase64([]byte(s)); string(got) != s {
			t.Errorf("%q became %q", s, got)
		}
	}
	if got := unbase64([]byte("AA\r\nAA\n")); !bytes.Equal(got, []byte{0, 0, 0}) {
		t.Errorf("wrapped lines: %x", got)
	}
	if got := unhex([]byte("00ff  -\n")); !bytes.Equal(got, []byte{0, 255}) {
		t.Errorf("as sha256sum prints it: %x", got)
	}
}

func TestExitCodes(t *testing.T) {
	a := &app{globals: &globals{Address: "http://127.0.0.1:1"}}
	answer := func(status int, code string) error {
		return fmt.Errorf("doing it: %w", &client.Error{Status: status, Code: code, Message: "Because.", RequestID: "r"})
	}
	t.Setenv(envKey, "kw_x_y")
	for _, tc := range []struct {
		err  error
		code int
		want string
	}{
		{answer(401, "ERR_UNAUTHENTICATED"), 3, "doing it: Because (ERR_UNAUTHENTICATED, request r)"},
		{answer(403, "ERR_POLICY_DENIED"), 3, "doing it: Because (ERR_POLICY_DENIED, request r)"},
		{answer(404, "ERR_KEY_NOT_FOUND"), 4, "doing it: Because (ERR_KEY_NOT_FOUND, request r)"},
		{answer(409, "ERR_CONFLICT"), 5, "doing it: Because (ERR_CONFLICT, request r)"},
		{answer(400, "ERR_DECRYPTION_FAILED"), 1, "doing it: Because (ERR_DECRYPTION_FAILED, request r)"},
		{answer(500, "ERR_INTERNAL"), 1, "doing it: Because (ERR_INTERNAL, request r)"},
		{answer(503, "ERR_LOCKED"), 6, "doing it: Because; `keywright unlock` opens it (ERR_LOCKED, request r)"},
		{&client.Error{Status: 503, Code: "ERR_OVERLOADED", Message: "Full.", RetryAfter: 2 * time.Second}, 6, "Full; try again in 2s (ERR_OVERLOADED)"},
		{&client.Error{Status: 502, Message: "Bad Gateway"}, 6, "Bad Gateway (HTTP 502, not an answer of this service's API)"},
		{usage("no %s", "key"), 2, "no key (see --help)"},
		{&exitError{exitInvalid, "wrong"}, 7, "wrong"},
		{errors.New("other"), 1, "other"},
	} {
		code, message := a.explain(tc.err)
		if code != tc.code || message != tc.want {
			t.Errorf("%v: %d, %q", tc.err, code, message)
		}
	}
	code, message := a.explain(fmt.Errorf("%w: %w", client.ErrConnection, errors.New("refused")))
	if code != 6 || !strings.HasPrefix(message, "cannot reach the service at http://127.0.0.1:1: refused") {
		t.Errorf("%d %s", code, message)
	}
}

func TestPolicyChange(t *testing.T) {
	hour, none, off := time.Hour, time.Duration(0), false
	limit, many := int64(0), int64(1000)
	date, later := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	before := wire.Policy{ActivatesAt: &date, ExpiresAt: &date, RotateAfterMessages: 7, RotateAfterBytes: 8, Operations: []string{"encrypt"}, Exportable: true, RotationPeriod: "720h", DeletionProtection: true, RequiredContext: []string{"a"}, UsageLimit: 9}
	for name, tc := range map[string]struct {
		cmd  keysPolicyCmd
		want func(*wire.Policy)
	}{
		"all operations":  {keysPolicyCmd{AllowAll: true}, func(p *wire.Policy) { p.Operations = nil }},
		"some operations": {keysPolicyCmd{Allow: []string{"decrypt"}}, func(p *wire.Policy) { p.Operations = []string{"decrypt"} }},
		"no export":       {keysPolicyCmd{NotExportable: true}, func(p *wire.Policy) { p.Exportable = false }},
		"hourly":          {keysPolicyCmd{RotationPeriod: &hour}, func(p *wire.Policy) { p.RotationPeriod = "1h0m0s" }},
		"by hand":         {keysPolicyCmd{RotationPeriod: &none}, func(p *wire.Policy) { p.RotationPeriod = "" }},
		"unprotected":     {keysPolicyCmd{DeletionProtection: &off}, func(p *wire.Policy) { p.DeletionProtection = false }},
		"no context":      {keysPolicyCmd{NoRequiredContext: true}, func(p *wire.Policy) { p.RequiredContext = nil }},
		"unlimited":       {keysPolicyCmd{UsageLimit: &limit}, func(p *wire.Policy) { p.UsageLimit = 0 }},
		"by messages":     {keysPolicyCmd{RotateAfterMessages: &many}, func(p *wire.Policy) { p.RotateAfterMessages = many }},
		"by bytes":        {keysPolicyCmd{RotateAfterBytes: &many}, func(p *wire.Policy) { p.RotateAfterBytes = many }},
		"activation":      {keysPolicyCmd{ActivatesAt: &later}, func(p *wire.Policy) { p.ActivatesAt = &later }},
		"no activation":   {keysPolicyCmd{NoActivatesAt: true}, func(p *wire.Policy) { p.ActivatesAt = nil }},
		"expiry":          {keysPolicyCmd{ExpiresAt: &later}, func(p *wire.Policy) { p.ExpiresAt = &later }},
		"no expiry":       {keysPolicyCmd{NoExpiresAt: true}, func(p *wire.Policy) { p.ExpiresAt = nil }},
	} {
		want := before
		tc.want(&want)
		got, changed := tc.cmd.apply(before)
		if diff := cmp.Diff(want, got); diff != "" || !changed {
			t.Errorf("%s: %t %s", name, changed, diff)
		}
	}
	if _, changed := (keysPolicyCmd{}).apply(before); changed {
		t.Error("nothing was given, and something changed")
	}
}

// TestBatches: every line arrives once, in order, in batches within their bounds.
func TestBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 3*batchItems+1).Draw(t, "lines")
		long := rapid.SampledFrom([]int{1, 2000}).Draw(t, "length")
		var in bytes.Buffer
		for i := range n {
			fmt.Fprintf(&in, "%d%s\n", i, strings.Repeat("x", long))
		}
		next := 0
		err := batches(t.Context(), &in, func(lines [][]byte) error {
			size := 0
			for _, l := range lines {
				if string(l) != fmt.Sprintf("%d%s", next, strings.Repeat("x", long)) {
					return fmt.Errorf("line %d is %q", next, l)
				}
				next, size = next+1, size+len(l)
			}
			if len(lines) == 0 || len(lines) > batchItems || size > batchBytes {
				return fmt.Errorf("a batch of %d lines, %d bytes", len(lines), size)
			}
			return nil
		})
		if err != nil || next != n {
			t.Fatalf("%v, %d of %d lines", err, next, n)
		}
	})
	if err := batches(t.Context(), strings.NewReader(strings.Repeat("x", maxLine+1)), func([][]byte) error { return nil }); err == nil {
		t.Error("a line without an end")
	}
}
