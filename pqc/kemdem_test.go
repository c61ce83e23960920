package pqc

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/fault"
)

var kemDEMFile = filepath.Join("..", "docs", "formats", "vectors", "qpher.json")

// kemDEMVector has either coins and nonce, or a salt, which makes it deterministic.
type kemDEMVector struct {
	Algorithm string `json:"algorithm"`
	Seed      hexOut `json:"seed"`
	Coins     hexOut `json:"coins,omitempty"`
	Nonce     hexOut `json:"nonce,omitempty"`
	Salt      hexOut `json:"salt,omitempty"`
	Plaintext hexOut `json:"plaintext"`
	Blob      hexOut `json:"blob"`
}

type kemDEMVectors struct {
	Format  string         `json:"format"`
	Note    string         `json:"note"`
	Vectors []kemDEMVector `json:"vectors"`
}

// kemDEMInputs are the vectors without their answers.
func kemDEMInputs(t *testing.T) kemDEMVectors {
	f := kemDEMVectors{Format: "docs/formats/qpher.md",
		Note: "Binary values are hexadecimal. coins is the randomness of the encapsulation: m of FIPS 203, eseed of X-Wing's draft. Those with a salt are deterministic."}
	for i, name := range []string{MLKEM512, MLKEM768, MLKEM1024, XWing} {
		for j, salt := range []int{0, 32, 65} {
			v := kemDEMVector{Algorithm: name, Seed: pattern(byte(i+j), lookup(t, name).Info().SeedSize), Plaintext: pattern(byte(i+j+60), 11*(i+j))}
			if salt > 0 {
				v.Salt = pattern(byte(i+j+80), salt)
			} else {
				v.Coins, v.Nonce = pattern(byte(i+10), lookup(t, name).coinsSize()), pattern(byte(i+20), EnvelopeNonce)
			}
			f.Vectors = append(f.Vectors, v)
		}
	}
	return f
}

// TestKEMDEMVectors: our blobs are those of the separate implementation in JavaScript, of which the file is the record.
func TestKEMDEMVectors(t *testing.T) {
	if *writeVectors {
		f := kemDEMInputs(t)
		var questions []judge
		for _, v := range f.Vectors {
			k, err := lookup(t, v.Algorithm).NewPrivateKey(v.Seed)
			must(t, err)
			questions = append(questions, judge{Op: "dem", Algorithm: v.Algorithm, Public: k.PublicKey().Bytes(), Message: v.Plaintext, Coins: v.Coins,
				Nonce: v.Nonce, AAD: v.Salt})
		}
		for i, a := range askJS(t, questions) {
			f.Vectors[i].Blob = a.Ciphertext
		}
		out, err := json.Marshal(f, jsontext.WithIndent(" "), json.Deterministic(true))
		must(t, err)
		must(t, os.WriteFile(kemDEMFile, append(out, '\n'), 0o644))
	}
	raw, err := os.ReadFile(kemDEMFile)
	must(t, err)
	var f kemDEMVectors
	must(t, json.Unmarshal(raw, &f, json.RejectUnknownMembers(true)))
	if want := len(kemDEMInputs(t).Vectors); len(f.Vectors) != want {
		t.Fatalf("%d vectors, want %d", len(f.Vectors), want)
	}
	for i, v := range f.Vectors {
		k, err := lookup(t, v.Algorithm).NewPrivateKey(v.Seed)
		must(t, err)
		pub := k.PublicKey()
		var blob []byte
		if v.Salt != nil {
			blob, err = pub.SealKEMDEMDeterministic(v.Plaintext, v.Salt)
			must(t, err)
		} else {
			kem, shared, err := pub.EncapsulateDerand(v.Coins)
			must(t, err)
			blob, err = pub.sealKEMDEM(kem, shared, v.Nonce, v.Plaintext)
			must(t, err)
		}
		if !bytes.Equal(blob, v.Blob) {
			t.Errorf("vector %d: another blob", i)
		}
		if pt, err := openDEM(k, v.Blob); err != nil || !bytes.Equal(pt, v.Plaintext) {
			t.Errorf("vector %d does not open: %v", i, err)
		}
	}
}

func openDEM(k *PrivateKey, blob []byte) ([]byte, error) {
	n := k.Algorithm().Info().CiphertextSize
	if len(blob) < n {
		return nil, errCiphertext
	}
	shared, err := k.Decapsulate(blob[:n])
	if err != nil {
		return nil, err
	}
	return k.PublicKey().OpenKEMDEM(blob, shared)
}

// TestKEMDEMAgainstJS: what is sealed here with fresh randomness opens there.
func TestKEMDEMAgainstJS(t *testing.T) {
	var questions []judge
	for i, name := range []string{MLKEM512, MLKEM768, MLKEM1024, XWing} {
		seed := pattern(byte(i), lookup(t, name).Info().SeedSize)
		k, err := lookup(t, name).NewPrivateKey(seed)
		must(t, err)
		blob, err := k.PublicKey().SealKEMDEM(pattern(byte(i), 100))
		must(t, err)
		questions = append(questions, judge{Op: "openDEM", Algorithm: name, Seed: seed, Ciphertext: blob})
	}
	for i, a := range askJS(t, questions) {
		if !bytes.Equal(a.Message, pattern(byte(i), 100)) {
			t.Errorf("%s: opened to something else", questions[i].Algorithm)
		}
	}
}

// TestKEMDEM: round trips of every KEM, sizes, and every failure the same.
func TestKEMDEM(t *testing.T) {
	for _, alg := range Algorithms() {
		if alg.Info().Kind != KindKEM {
			continue
		}
		seed, err := alg.GenerateSeed(nil)
		must(t, err)
		k, err := alg.NewPrivateKey(seed)
		must(t, err)
		plaintext := []byte("plaintext")
		blob, err := k.PublicKey().SealKEMDEM(plaintext)
		must(t, err)
		if want := alg.Info().CiphertextSize + 12 + len(plaintext) + 16; len(blob) != want {
			t.Errorf("%s: %d bytes, want %d", alg.Name(), len(blob), want)
		}
		if pt, err := openDEM(k, blob); err != nil || !bytes.Equal(pt, plaintext) {
			t.Fatalf("%s: %v", alg.Name(), err)
		}
		second, err := k.PublicKey().SealKEMDEM(plaintext)
		must(t, err)
		if bytes.Equal(second, blob) {
			t.Errorf("%s: two blobs are the same", alg.Name())
		}
		n := alg.Info().CiphertextSize
		for _, bad := range [][]byte{nil, blob[:n], blob[:n+27], blob[:len(blob)-1], append(bytes.Clone(blob), 0), flip(blob, 5), flip(blob, n), flip(blob, n+12), flip(blob, len(blob)-1)} {
			pt, err := openDEM(k, bad)
			if pt != nil || !fault.Has(err, fault.DecryptionFailed) || err.Error() != errCiphertext.Error() {
				t.Errorf("%s: %d bytes: %v", alg.Name(), len(bad), err)
			}
		}
		// The two derivations keep apart: a blob is no body of an envelope.
		shared, err := k.Decapsulate(blob[:n])
		must(t, err)
		key, err := k.PublicKey().OpeningKeyOf(blob[:n], shared)
		must(t, err)
		if _, err := key.Open(nil, blob[n:], nil); !fault.Has(err, fault.DecryptionFailed) {
			t.Errorf("%s: the key of the envelope opens a blob: %v", alg.Name(), err)
		}
		if _, err := k.PublicKey().SealKEMDEMDeterministic(plaintext, make([]byte, MinKEMDEMSalt-1)); !fault.Has(err, fault.BadSize) {
			t.Errorf("%s: a short salt: %v", alg.Name(), err)
		}
		if _, _, err := k.PublicKey().EncapsulateDerand(make([]byte, 31)); !fault.Has(err, fault.BadSize) {
			t.Errorf("%s: short coins: %v", alg.Name(), err)
		}
	}
	seed, err := lookup(t, MLDSA44).GenerateSeed(nil)
	must(t, err)
	k, err := lookup(t, MLDSA44).NewPrivateKey(seed)
	must(t, err)
	if _, err := k.PublicKey().SealKEMDEM(nil); !fault.Has(err, fault.OperationNotAllowed) {
		t.Errorf("a signature key seals: %v", err)
	}
	if _, err := k.PublicKey().SealKEMDEMDeterministic(nil, make([]byte, 32)); !fault.Has(err, fault.OperationNotAllowed) {
		t.Errorf("a signature key seals: %v", err)
	}
	if _, err := k.PublicKey().OpenKEMDEM(make([]byte, 4000), make([]byte, 32)); !fault.Has(err, fault.OperationNotAllowed) {
		t.Errorf("a signature key opens: %v", err)
	}
	if _, _, err := k.PublicKey().EncapsulateDerand(make([]byte, 32)); !fault.Has(err, fault.OperationNotAllowed) {
		t.Errorf("a signature key encapsulates: %v", err)
	}
}

func flip(b []byte, at int) []byte {
	out := bytes.Clone(b)
	out[at] ^= 1
	return out
}

// TestKEMDEMDeterministic: equal inputs give equal blobs, and whatever differs in one of them gives another KEM ciphertext, another nonce and
// another body. Salts that are one HMAC key are two salts all the same.
func TestKEMDEMDeterministic(t *testing.T) {
	type pair struct{ a, b *PrivateKey }
	keys := map[string]pair{}
	for _, name := range []string{MLKEM768, XWing} {
		var two [2]*PrivateKey
		for i := range two {
			seed, err := lookup(t, name).GenerateSeed(nil)
			must(t, err)
			two[i], err = lookup(t, name).NewPrivateKey(seed)
			must(t, err)
		}
		keys[name] = pair{two[0], two[1]}
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{MLKEM768, XWing}).Draw(t, "algorithm")
		plaintext := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "plaintext")
		salt := rapid.SliceOfN(rapid.Byte(), 32, 100).Draw(t, "salt")
		k := keys[name]
		seal := func(k *PrivateKey, plaintext, salt []byte) []byte {
			b, err := k.PublicKey().SealKEMDEMDeterministic(plaintext, salt)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		blob := seal(k.a, plaintext, salt)
		if !bytes.Equal(blob, seal(k.a, bytes.Clone(plaintext), bytes.Clone(salt))) {
			t.Fatal("the same gave two blobs")
		}
		if pt, err := openDEM(k.a, blob); err != nil || !bytes.Equal(pt, plaintext) {
			t.Fatalf("does not open: %v", err)
		}
		n := k.a.Algorithm().Info().CiphertextSize
		for what, other := range map[string][]byte{
			"plaintext":   seal(k.a, append(bytes.Clone(plaintext), 0), salt),
			"salt":        seal(k.a, plaintext, flip(salt, len(salt)/2)),
			"padded salt": seal(k.a, plaintext, append(bytes.Clone(salt), 0)),
			"key":         seal(k.b, plaintext, salt),
		} {
			if bytes.Equal(other[:n], blob[:n]) || bytes.Equal(other[n:n+12], blob[n:n+12]) || bytes.Equal(other[n+12:], blob[n+12:]) {
				t.Fatalf("another %s, and a part of the blob is the same", what)
			}
		}
	})
}

func FuzzOpenKEMDEM(f *testing.F) {
	alg, ok := Lookup(MLKEM768)
	if !ok {
		f.Fatal("no ML-KEM-768")
	}
	k, err := alg.NewPrivateKey(make([]byte, 64))
	if err != nil {
		f.Fatal(err)
	}
	blob, err := k.PublicKey().SealKEMDEMDeterministic([]byte("plaintext"), make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Add(blob[:1116])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		pt, err := openDEM(k, b)
		if (err == nil) != bytes.Equal(b, blob) {
			t.Errorf("opened: %v, the genuine one: %v", err == nil, bytes.Equal(b, blob))
		}
		if err != nil && (pt != nil || !fault.Has(err, fault.DecryptionFailed)) {
			t.Errorf("%v with %d bytes", err, len(pt))
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
