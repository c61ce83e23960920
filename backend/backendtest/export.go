package backendtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"testing"

	"github.com/cloudflare/circl/dh/x448"
	"github.com/cloudflare/circl/sign/ed448"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
)

// rsaAESWrap is CKM_RSA_AES_KEY_WRAP (PKCS#11 2.40 section 2.1.21) by the suite's own hands.
func rsaAESWrap(t testing.TB, to *rsa.PublicKey, h crypto.Hash, material []byte) []byte {
	t.Helper()
	kek := random(t, 32)
	wrapped, err := kwpWrap(kek, material)
	if err != nil {
		t.Fatal(err)
	}
	return append(oaep(t, to, h, nil, kek), wrapped...)
}

func rsaAESUnwrap(t testing.TB, key *rsa.PrivateKey, h crypto.Hash, blob []byte) []byte {
	t.Helper()
	n := key.Size()
	if len(blob) < n+16 {
		t.Fatalf("exported blob of %d bytes", len(blob))
	}
	kek, err := rsa.DecryptOAEP(h.New(), nil, key, blob[:n], nil)
	if err != nil || len(kek) != 32 {
		t.Fatalf("the wrapped AES key of an export: %d bytes, %v", len(kek), err)
	}
	material, err := kwpUnwrap(kek, blob[n:])
	if err != nil {
		t.Fatalf("the wrapped material of an export: %v", err)
	}
	return material
}

func (s *suite) testExport(t *testing.T) {
	to := testKey(t, 2048)
	for _, k := range s.kinds() {
		if !k.has(backend.OpExport) {
			continue // testUnsupported asks for these
		}
		t.Run(k.String(), func(t *testing.T) {
			spec := s.spec(k)
			spec.Exportable = true
			if imp, ok := s.b.(backend.Importer); ok && k.Import {
				m := fresh(t, k.Info)
				ref, err := imp.Import(t.Context(), spec, m.bytes)
				if err != nil {
					t.Fatalf("Import: %v", err)
				}
				s.destroyLater(t, ref)
				if !ref.Spec.Exportable {
					t.Error("the Ref forgot that the key is exportable")
				}
				key := load(t, s.b, ref)
				checkInterfaces(t, k, key, true)
				for _, h := range oaepHashes {
					checkSameKey(t, m, rsaAESUnwrap(t, to, h, exported(t, key, to, h)))
				}
			}
			if k.Info.Family == backend.FamilyRSA {
				return // seconds for each key; what an import shows is the same code after it
			}
			key := load(t, s.b, s.temporary(t, spec))
			checkInterfaces(t, k, key, true)
			checkExported(t, k, key, rsaAESUnwrap(t, to, crypto.SHA256, exported(t, key, to, crypto.SHA256)))
			refuseExport(t, key.(backend.Exporter), to)
		})
	}
}

func exported(t testing.TB, key backend.Key, to *rsa.PrivateKey, h crypto.Hash) []byte {
	t.Helper()
	blob, err := key.(backend.Exporter).Export(t.Context(), &to.PublicKey, h)
	if err != nil {
		t.Fatalf("Export with %v: %v", h, err)
	}
	return blob
}

// checkSameKey compares by value: one key has several PKCS#8 encodings.
func checkSameKey(t testing.TB, m material, got []byte) {
	t.Helper()
	var same bool
	switch {
	case m.public == nil:
		same = bytes.Equal(got, m.bytes)
	case m.pq != nil:
		key, err := keyenc.ParsePKCS8(got)
		if err != nil {
			t.Fatalf("exported PKCS#8: %v", err)
		}
		k, ok := key.(*pqc.PrivateKey)
		same = ok && k.Algorithm() == m.pq.Algorithm() && bytes.Equal(k.Seed(), m.pq.Seed())
	case m.ec == nil && m.dh == nil && m.rsa == nil && m.ed == nil && m.ed448 == nil && m.x448 == nil:
		same = bytes.Equal(got, m.bytes) // SLH-DSA has one encoding
	case m.ed448 != nil || m.x448 != nil:
		same = bytes.Equal(privateOKP(t, got), privateOKP(t, m.bytes))
	default:
		one, err1 := x509.ParsePKCS8PrivateKey(got)
		two, err2 := x509.ParsePKCS8PrivateKey(m.bytes)
		if err1 != nil || err2 != nil {
			t.Fatalf("exported PKCS#8: %v (%v)", err1, err2)
		}
		same = one.(interface{ Equal(crypto.PrivateKey) bool }).Equal(two)
	}
	if !same {
		t.Error("the exported key is not the imported one")
	}
}

// checkExported uses an exported key on what the handle made.
func checkExported(t *testing.T, k kind, key backend.Key, got []byte) {
	t.Helper()
	switch h := key.(type) {
	case backend.AEAD:
		checkAgainstStd(t, h, stdAEAD(t, k.Algorithm, got))
	case backend.MACer:
		judge := hmac.New(k.Info.Hash.New, got)
		judge.Write([]byte("message"))
		tag, err := h.MAC(t.Context(), []byte("message"))
		if err != nil || !bytes.Equal(tag, judge.Sum(nil)) || len(got) != k.Info.KeySize {
			t.Errorf("an exported MAC key of %d bytes gives another tag (%v)", len(got), err)
		}
	case backend.Wrapper:
		wrapped, err := h.Wrap(t.Context(), []byte("material"))
		if err != nil {
			t.Fatalf("Wrap: %v", err)
		}
		if back, err := kwpUnwrap(got, wrapped); err != nil || string(back) != "material" {
			t.Errorf("an exported key does not unwrap: %v", err)
		}
	default:
		if !bytes.Equal(publicOf(t, k, got), spki(t, key.Public())) {
			t.Error("the exported private key has another public key")
		}
	}
}

// publicOf gives the SPKI of a private key in PKCS#8.
func publicOf(t testing.TB, k kind, pkcs8 []byte) []byte {
	t.Helper()
	switch k.Algorithm {
	case backend.Ed448:
		return spkiOKP(t, oidEd448, ed448.NewKeyFromSeed(privateOKP(t, pkcs8)).Public().(ed448.PublicKey))
	case backend.X448, backend.DHKEMX448:
		var pub, sec x448.Key
		copy(sec[:], privateOKP(t, pkcs8))
		x448.KeyGen(&pub, &sec)
		return spkiOKP(t, oidX448, pub[:])
	}
	if pqFamilies[k.Info.Family] && k.Info.PostQuantum {
		key, err := keyenc.ParsePKCS8(pkcs8)
		if err != nil {
			t.Fatalf("exported PKCS#8: %v", err)
		}
		return spki(t, key.(*pqc.PrivateKey).Public())
	}
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		t.Fatalf("exported PKCS#8: %v", err)
	}
	switch p := key.(type) {
	case ed25519.PrivateKey:
		return spki(t, p.Public())
	case *ecdsa.PrivateKey:
		return spki(t, &p.PublicKey)
	}
	return spki(t, key.(interface{ Public() crypto.PublicKey }).Public())
}

// privateOKP takes the seed or scalar out of a PKCS#8 of RFC 8410.
func privateOKP(t testing.TB, der []byte) []byte {
	t.Helper()
	var outer oneAsymmetricKey
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		t.Fatalf("PKCS#8: %v", err)
	}
	var inner []byte
	if rest, err := asn1.Unmarshal(outer.PrivateKey, &inner); err != nil || len(rest) != 0 {
		t.Fatalf("PKCS#8: the private key inside: %v", err)
	}
	return inner
}

// refuseExport asks for exports to what is no proper RSA key.
func refuseExport(t *testing.T, e backend.Exporter, to *rsa.PrivateKey) {
	t.Helper()
	small, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // what must be refused
	if err != nil {
		t.Fatal(err)
	}
	_, edPriv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for what, pub := range map[string]crypto.PublicKey{
		"nil": nil, "a nil RSA key": (*rsa.PublicKey)(nil), "an RSA key without numbers": &rsa.PublicKey{}, "RSA-1024": &small.PublicKey,
		"an RSA key by value": to.PublicKey, "an Ed25519 key": edPriv.Public(), "an RSA private key": to,
	} {
		out, err := e.Export(t.Context(), pub, crypto.SHA256)
		want(t, "Export to "+what, err, fault.BadField)
		if out != nil {
			t.Errorf("Export to %s: something came out", what)
		}
	}
	for _, h := range []crypto.Hash{0, crypto.MD5, 99} {
		_, err := e.Export(t.Context(), &to.PublicKey, h)
		want(t, "Export with a wrong hash", err, fault.BadField)
	}
	if one, two := sum(t, e, to), sum(t, e, to); one == two {
		t.Error("two exports are the same: the wrapping key is not fresh")
	}
}

func sum(t testing.TB, e backend.Exporter, to *rsa.PrivateKey) [32]byte {
	t.Helper()
	return sha256.Sum256(exported(t, e, to, crypto.SHA256))
}

// flipInt changes one bit of a number, not its length.
func flipInt(n *big.Int, bit int) *big.Int {
	return new(big.Int).SetBit(n, bit, n.Bit(bit)^1)
}
