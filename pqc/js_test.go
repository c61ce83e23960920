package pqc

import (
	"bytes"
	"encoding/base64"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
)

// judge is a question to the JavaScript judge and its answer.
type judge struct {
	Op            string `json:"op"`
	Algorithm     string `json:"algorithm"`
	Seed          []byte `json:"seed,omitempty"`
	Public        []byte `json:"public,omitempty"`
	Message       []byte `json:"message,omitempty"`
	Context       any    `json:"context,omitempty"` // bytes of a signature, or the map of an envelope
	Hash          string `json:"hash,omitempty"`
	Mu            bool   `json:"mu,omitzero"`
	Deterministic bool   `json:"deterministic,omitzero"`
	Signature     []byte `json:"signature,omitempty"`
	Ciphertext    []byte `json:"ciphertext,omitempty"`
	Coins         []byte `json:"coins,omitempty"`

	// Of the KEM envelope.
	Envelope []byte `json:"envelope,omitempty"`
	AAD      []byte `json:"aad,omitempty"`
	Nonce    []byte `json:"nonce,omitempty"`
	KeyID    string `json:"keyID,omitempty"`
	Version  uint32 `json:"version,omitzero"`
	ID       uint16 `json:"id,omitzero"`
}

type verdict struct {
	Error      string `json:"error"`
	OK         bool   `json:"ok"`
	Public     []byte `json:"public"`
	Expanded   []byte `json:"expanded"`
	Signature  []byte `json:"signature"`
	Ciphertext []byte `json:"ciphertext"`
	Shared     []byte `json:"shared"`
	Envelope   []byte `json:"envelope"`
	Message    []byte `json:"message"`
}

// askJS asks all questions of one process. Node and the modules of judges/js have to be there: softhsm-test/install.sh installs them.
func askJS(t *testing.T, questions []judge) []verdict {
	t.Helper()
	var in bytes.Buffer
	for _, q := range questions {
		if err := json.MarshalWrite(&in, q); err != nil {
			t.Fatal(err)
		}
		in.WriteByte('\n')
	}
	cmd := exec.CommandContext(t.Context(), "node", "judge.mjs")
	cmd.Dir = filepath.Join("..", "judges", "js")
	cmd.Stdin = &in
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the JavaScript judge does not run (softhsm-test/install.sh sets it up): %v: %.500s", err, stderr.String())
	}
	var verdicts []verdict
	for line := range bytes.Lines(out) {
		var v verdict
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatal(err)
		}
		if v.Error != "" {
			t.Fatalf("question %d (%s %s): %s", len(verdicts), questions[len(verdicts)].Op, questions[len(verdicts)].Algorithm, v.Error)
		}
		verdicts = append(verdicts, v)
	}
	if len(verdicts) != len(questions) {
		t.Fatalf("%d answers to %d questions", len(verdicts), len(questions))
	}
	return verdicts
}

// asking collects questions with what has to be true of their answers.
type asking struct {
	questions []judge
	checks    []func(t *testing.T, v verdict)
}

func (a *asking) ask(q judge, check func(t *testing.T, v verdict)) {
	a.questions = append(a.questions, q)
	a.checks = append(a.checks, check)
}

func (a *asking) settle(t *testing.T) {
	t.Helper()
	for i, v := range askJS(t, a.questions) {
		a.checks[i](t, v)
	}
}

func TestJavaScriptKEM(t *testing.T) {
	var a asking
	for _, name := range []string{MLKEM512, MLKEM768, MLKEM1024, XWing} {
		k := newKey(t, name)
		a.ask(judge{Op: "keygen", Algorithm: name, Seed: k.Seed()}, func(t *testing.T, v verdict) {
			if !bytes.Equal(v.Public, k.PublicKey().Bytes()) {
				t.Errorf("%s: another public key", name)
			}
			if dk, err := k.Expanded(); name != XWing && (err != nil || !bytes.Equal(dk, v.Expanded)) {
				t.Errorf("%s: another expanded key: %v", name, err)
			}
		})
		ct, ss, err := k.PublicKey().Encapsulate()
		if err != nil {
			t.Fatal(err)
		}
		a.ask(judge{Op: "decapsulate", Algorithm: name, Seed: k.Seed(), Ciphertext: ct}, func(t *testing.T, v verdict) {
			if !bytes.Equal(v.Shared, ss) {
				t.Errorf("%s: the judge has another secret", name)
			}
		})
		broken := bytes.Clone(ct)
		broken[7] ^= 1
		rejected, err := k.Decapsulate(broken)
		if err != nil {
			t.Fatal(err)
		}
		a.ask(judge{Op: "decapsulate", Algorithm: name, Seed: k.Seed(), Ciphertext: broken}, func(t *testing.T, v verdict) {
			if !bytes.Equal(v.Shared, rejected) {
				t.Errorf("%s: the judge rejects otherwise", name)
			}
		})
		a.ask(judge{Op: "encapsulate", Algorithm: name, Public: k.PublicKey().Bytes()}, func(t *testing.T, v verdict) {
			if got, err := k.Decapsulate(v.Ciphertext); err != nil || !bytes.Equal(got, v.Shared) {
				t.Errorf("%s: another secret than the judge's: %v", name, err)
			}
		})
		coins := bytes.Repeat([]byte{9}, map[bool]int{true: 64, false: 32}[name == XWing])
		ct2, ss2, err := encapsulateWith(t, k.public, coins)
		if err != nil {
			t.Fatal(err)
		}
		a.ask(judge{Op: "encapsulate", Algorithm: name, Public: k.PublicKey().Bytes(), Coins: coins}, func(t *testing.T, v verdict) {
			if !bytes.Equal(ct2, v.Ciphertext) || !bytes.Equal(ss2, v.Shared) {
				t.Errorf("%s: another encapsulation from the same randomness", name)
			}
		})
	}
	a.settle(t)
}

// signatures asks about one key: each side verifies the other's, and the deterministic ones are the same.
func (a *asking) signatures(t *testing.T, k *PrivateKey, theySign bool, o SignOptions) {
	t.Helper()
	name := k.Algorithm().Name()
	message := []byte("message")
	if o.ExternalMu {
		message = bytes.Repeat([]byte{3}, MuSize)
	}
	q := judge{Algorithm: name, Message: message, Hash: string(o.PreHash), Mu: o.ExternalMu, Context: base64.StdEncoding.EncodeToString(o.Context)}
	what := name + " " + cmp.Diff(SignOptions{}, o)
	o.Deterministic = true
	sig, err := k.Sign(message, o)
	if err != nil {
		t.Fatal(err)
	}
	ok := q
	ok.Op, ok.Public, ok.Signature = "verify", k.PublicKey().Bytes(), sig
	a.ask(ok, func(t *testing.T, v verdict) {
		if !v.OK {
			t.Errorf("%s: the judge refuses", what)
		}
	})
	bad := ok
	bad.Signature = bytes.Clone(sig)
	bad.Signature[len(sig)/2] ^= 1
	a.ask(bad, func(t *testing.T, v verdict) {
		if v.OK {
			t.Errorf("%s: the judge takes anything", what)
		}
	})
	if !theySign {
		return
	}
	for _, deterministic := range []bool{true, false} {
		s := q
		s.Op, s.Seed, s.Deterministic = "sign", k.Seed(), deterministic
		a.ask(s, func(t *testing.T, v verdict) {
			if deterministic && !bytes.Equal(v.Signature, sig) {
				t.Errorf("%s: another deterministic signature", what)
			}
			if ok, err := k.PublicKey().Verify(message, v.Signature, o); err != nil || !ok {
				t.Errorf("%s: we refuse the judge's: %v", what, err)
			}
		})
	}
}

func TestJavaScriptMLDSA(t *testing.T) {
	var a asking
	for _, name := range []string{MLDSA44, MLDSA65, MLDSA87} {
		k := newKey(t, name)
		for _, o := range []SignOptions{{}, {Context: []byte("a context")}, {ExternalMu: true}, {PreHash: SHA2x512, Context: []byte("c")},
			{PreHash: SHA3x512}, {PreHash: SHAKE256}} {
			a.signatures(t, k, true, o)
		}
		if name == MLDSA44 {
			a.signatures(t, k, true, SignOptions{PreHash: SHA2x256})
			a.signatures(t, k, true, SignOptions{PreHash: SHAKE128})
		}
	}
	a.settle(t)
}

// TestJavaScriptSLHDSA: both sign with the fast sets, and we with the smallest of the small ones; that the others sign as NIST's vectors do is in
// TestACVPSLHDSA. Under the race detector it is one set.
func TestJavaScriptSLHDSA(t *testing.T) {
	t.Parallel()
	var a asking
	for _, alg := range Algorithms() {
		name := alg.Name()
		fast := strings.HasSuffix(name, "f")
		if !alg.Info().Slow || !fast && name != SLHDSASHA2128s || raceDetector && name != SLHDSASHA2128f {
			continue
		}
		k := newKey(t, name)
		a.signatures(t, k, fast, SignOptions{Context: []byte("a context")})
		if fast {
			a.signatures(t, k, false, SignOptions{PreHash: SHA2x512})
		}
	}
	a.settle(t)
}
