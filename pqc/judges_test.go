package pqc

import (
	"bytes"
	stdmlkem "crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/rand"
	"testing"

	"filippo.io/mldsa"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/key"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/signature"
	tinkcomposite "github.com/tink-crypto/tink-go/v2/signature/compositemldsa"
	tinkecdsa "github.com/tink-crypto/tink-go/v2/signature/ecdsa"
	tinked25519 "github.com/tink-crypto/tink-go/v2/signature/ed25519"
	tinkmldsa "github.com/tink-crypto/tink-go/v2/signature/mldsa"
)

// TestMLKEMJudge: the standard library and we open each other's ciphertexts, broken ones too.
func TestMLKEMJudge(t *testing.T) {
	for range 20 {
		k := newKey(t, MLKEM768)
		dk, err := stdmlkem.NewDecapsulationKey768(k.Seed())
		if err != nil {
			t.Fatal(err)
		}
		judgeKEM(t, k, dk.EncapsulationKey().Bytes(), dk.Decapsulate, dk.EncapsulationKey().Encapsulate)
		coins := make([]byte, 32)
		rand.Read(coins)
		ct, ss, err := encapsulateWith(t, k.public, coins)
		if err != nil {
			t.Fatal(err)
		}
		wantSS, wantCT, err := mlkemtest.Encapsulate768(dk.EncapsulationKey(), coins)
		if err != nil || !bytes.Equal(ct, wantCT) || !bytes.Equal(ss, wantSS) {
			t.Errorf("another ciphertext from the same randomness: %v", err)
		}

		k = newKey(t, MLKEM1024)
		dk1024, err := stdmlkem.NewDecapsulationKey1024(k.Seed())
		if err != nil {
			t.Fatal(err)
		}
		judgeKEM(t, k, dk1024.EncapsulationKey().Bytes(), dk1024.Decapsulate, dk1024.EncapsulationKey().Encapsulate)
	}
}

func judgeKEM(t *testing.T, k *PrivateKey, public []byte, decapsulate func([]byte) ([]byte, error), encapsulate func() ([]byte, []byte)) {
	t.Helper()
	if !bytes.Equal(k.PublicKey().Bytes(), public) {
		t.Fatal("another public key")
	}
	ct, ss, err := k.PublicKey().Encapsulate()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decapsulate(ct); err != nil || !bytes.Equal(got, ss) {
		t.Errorf("the judge does not open ours: %v", err)
	}
	want, ct := encapsulate()
	if got, err := k.Decapsulate(ct); err != nil || !bytes.Equal(got, want) {
		t.Errorf("we do not open the judge's: %v", err)
	}
	ct[0] ^= 1 // implicit rejection
	want, err = decapsulate(ct)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Decapsulate(ct); err != nil || !bytes.Equal(got, want) {
		t.Errorf("another secret for a broken ciphertext: %v", err)
	}
}

// TestMLDSAJudge: filippo.io/mldsa and circl's pure signatures.
func TestMLDSAJudge(t *testing.T) {
	for name, params := range map[string]mldsa.Parameters{MLDSA44: mldsa.MLDSA44(), MLDSA65: mldsa.MLDSA65(), MLDSA87: mldsa.MLDSA87()} {
		for _, context := range []string{"", "a context"} {
			k := newKey(t, name)
			judge, err := mldsa.NewPrivateKey(params, k.Seed())
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(judge.PublicKey().Bytes(), k.PublicKey().Bytes()) {
				t.Errorf("%s: another public key", name)
			}
			message := []byte("message")
			o, theirs := SignOptions{Context: []byte(context)}, &mldsa.Options{Context: context}
			sig, err := k.Sign(message, o)
			if err != nil {
				t.Fatal(err)
			}
			if err := mldsa.Verify(judge.PublicKey(), message, sig, theirs); err != nil {
				t.Errorf("%s: the judge refuses: %v", name, err)
			}
			sig, err = judge.Sign(nil, message, theirs)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := k.PublicKey().Verify(message, sig, o); err != nil || !ok {
				t.Errorf("%s: we refuse: %v", name, err)
			}
			o.Deterministic = true
			sig, err = k.Sign(message, o)
			if err != nil {
				t.Fatal(err)
			}
			want, err := judge.SignDeterministic(message, theirs)
			if err != nil || !bytes.Equal(sig, want) {
				t.Errorf("%s: another deterministic signature: %v", name, err)
			}
		}
	}
}

// TestCompositeJudge: tink-go's composites, which have no context, and ours verify each other.
func TestCompositeJudge(t *testing.T) {
	for name, alg := range map[string]tinkcomposite.ClassicalAlgorithm{MLDSA65P256: tinkcomposite.ECDSAP256, MLDSA65Ed25519: tinkcomposite.Ed25519} {
		k := newKey(t, name)
		handle := tinkHandle(t, k, alg)
		signer, err := signature.NewSigner(handle)
		if err != nil {
			t.Fatal(err)
		}
		public, err := handle.Public()
		if err != nil {
			t.Fatal(err)
		}
		verifier, err := signature.NewVerifier(public)
		if err != nil {
			t.Fatal(err)
		}
		message := []byte("message")
		for range 10 { // ECDSA's signatures vary in size
			sig, err := k.Sign(message, SignOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := verifier.Verify(sig, message); err != nil {
				t.Errorf("%s: the judge refuses: %v", name, err)
			}
			sig, err = signer.Sign(message)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := k.PublicKey().Verify(message, sig, SignOptions{}); err != nil || !ok {
				t.Errorf("%s: we refuse: %v", name, err)
			}
			if ok, err := k.PublicKey().Verify(message, sig, SignOptions{Context: []byte("x")}); err != nil || ok {
				t.Errorf("%s: taken under another context: %v", name, err)
			}
		}
	}
}

// tinkHandle is the key as tink-go has it.
func tinkHandle(t *testing.T, k *PrivateKey, alg tinkcomposite.ClassicalAlgorithm) *keyset.Handle {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	bytesOf := func(b []byte) secretdata.Bytes {
		return secretdata.NewBytesFromData(b, insecuresecretdataaccess.Token{})
	}
	seed := k.Seed()
	pqParams, err := tinkmldsa.NewParameters(tinkmldsa.MLDSA65, tinkmldsa.VariantNoPrefix)
	must(err)
	pq, err := tinkmldsa.NewPrivateKey(bytesOf(seed[:32]), 0, pqParams)
	must(err)
	var classical key.Key
	if alg == tinkcomposite.Ed25519 {
		params, err := tinked25519.NewParameters(tinked25519.VariantNoPrefix)
		must(err)
		classical, err = tinked25519.NewPrivateKey(bytesOf(seed[32:]), 0, params)
		must(err)
	} else {
		params, err := tinkecdsa.NewParameters(tinkecdsa.NistP256, tinkecdsa.SHA256, tinkecdsa.DER, tinkecdsa.VariantNoPrefix)
		must(err)
		classical, err = tinkecdsa.NewPrivateKey(bytesOf(seed[32:]), 0, params)
		must(err)
	}
	params, err := tinkcomposite.NewParameters(alg, tinkcomposite.MLDSA65, tinkcomposite.VariantNoPrefix)
	must(err)
	private, err := tinkcomposite.NewPrivateKey(pq, classical, 0, params)
	must(err)
	m := keyset.NewManager()
	id, err := m.AddKey(private)
	must(err)
	must(m.SetPrimary(id))
	h, err := m.Handle()
	must(err)
	return h
}
