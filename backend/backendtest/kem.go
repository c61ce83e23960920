package backendtest

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	stdhpke "crypto/hpke"
	"crypto/mlkem"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
	"github.com/keywright/keywright/verify"
)

func (s *suite) testDecapsulate(t *testing.T) {
	for _, k := range s.of(backend.FamilyKEM, backend.PurposeEncapsulation) {
		t.Run(string(k.Algorithm), func(t *testing.T) {
			key := s.key(t, k).(backend.Decapsulator)
			checkDecapsulator(t, k, key)
			refuseCiphertexts(t, k, key)
			m := fresh(t, k.Info)
			if known, ok := s.imported(t, k, m.bytes); ok {
				if !bytes.Equal(spki(t, known.Public()), m.public) {
					t.Error("an imported key has another public key")
				}
				checkDecapsulator(t, k, known.(backend.Decapsulator))
			}
		})
	}
}

// checkDecapsulator lets another library encapsulate where there is one, and our own for the rest.
func checkDecapsulator(t *testing.T, k kind, key backend.Decapsulator) {
	t.Helper()
	for range 3 {
		ct, right := encapsulate(t, k.Info, key.Public())
		got, err := key.Decapsulate(t.Context(), ct)
		if err != nil {
			t.Fatalf("Decapsulate: %v", err)
		}
		if !bytes.Equal(got, right) {
			t.Error("the two sides come to different secrets")
		}
	}
}

// encapsulate is the judge: the standard library for ML-KEM-768 and ML-KEM-1024, circl behind package verify for the others.
func encapsulate(t testing.TB, a backend.AlgorithmInfo, pub crypto.PublicKey) (ct, shared []byte) {
	t.Helper()
	var err error
	switch a.Name {
	case backend.MLKEM768:
		var k *mlkem.EncapsulationKey768
		if k, err = mlkem.NewEncapsulationKey768(pub.(*pqc.PublicKey).Bytes()); err == nil {
			shared, ct = k.Encapsulate()
		}
	case backend.MLKEM1024:
		var k *mlkem.EncapsulationKey1024
		if k, err = mlkem.NewEncapsulationKey1024(pub.(*pqc.PublicKey).Bytes()); err == nil {
			shared, ct = k.Encapsulate()
		}
	default:
		ct, shared, err = verify.Encapsulate(pub, a.Name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ct, shared
}

// refuseCiphertexts gives what cannot be opened. A changed ciphertext of ML-KEM and X-Wing is no error but another secret, always the same
// one (FIPS 203 section 6.3).
func refuseCiphertexts(t *testing.T, k kind, key backend.Decapsulator) {
	t.Helper()
	ct, right := encapsulate(t, k.Info, key.Public())
	refuse := func(what string, ct []byte) {
		t.Helper()
		out, err := key.Decapsulate(t.Context(), ct)
		want(t, "Decapsulate of "+what, err, fault.DecryptionFailed)
		if out != nil {
			t.Errorf("Decapsulate of %s: a secret came out", what)
		}
	}
	refuse("nothing", nil)
	refuse("one byte", []byte{0})
	refuse("a cut ciphertext", ct[:len(ct)-1])
	refuse("a byte more", append(bytes.Clone(ct), 0))
	if !k.Info.PostQuantum {
		return // another point is another secret, or no point
	}
	for _, i := range []int{0, len(ct) / 2, len(ct) - 1} {
		first, err := key.Decapsulate(t.Context(), flip(ct, i))
		if err != nil {
			t.Errorf("a changed ciphertext: %v, wanted implicit rejection", err)
			continue
		}
		if bytes.Equal(first, right) {
			t.Errorf("byte %d of the ciphertext does not matter", i)
		}
		if again, err := key.Decapsulate(t.Context(), flip(ct, i)); err != nil || !bytes.Equal(first, again) {
			t.Errorf("implicit rejection is not the same twice (%v)", err)
		}
	}
}

// isKEMPublic reports whether the type of a KEM's public key is the one of package backend.
func isKEMPublic(a backend.AlgorithmInfo, pub crypto.PublicKey) bool {
	switch p := pub.(type) {
	case *pqc.PublicKey:
		return a.PostQuantum && p.Algorithm().Name() == string(a.Name)
	case *ecdh.PublicKey:
		_, err := stdhpke.NewDHKEMPublicKey(p)
		return err == nil && p.Curve() == kemCurves[a.Name]
	case keyenc.X448PublicKey:
		return a.Name == backend.DHKEMX448
	}
	return false
}

var kemCurves = map[backend.Algorithm]ecdh.Curve{
	backend.DHKEMP256: ecdh.P256(), backend.DHKEMP384: ecdh.P384(), backend.DHKEMP521: ecdh.P521(), backend.DHKEMX25519: ecdh.X25519(),
}
