package backendtest

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"embed"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"testing"

	"github.com/cloudflare/circl/dh/x448"
	"github.com/cloudflare/circl/sign/ed448"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
)

// testRSA are keys that protect nothing: making RSA keys costs seconds, and a suite needs known ones.
//
//go:embed testdata/rsa-*.pem
var testRSA embed.FS

// testKey reads the known RSA key of a size.
func testKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	data, err := testRSA.ReadFile(fmt.Sprintf("testdata/rsa-%d.pem", bits))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

// material is a known key: as Import takes it, and as the judges use it.
type material struct {
	bytes  []byte // raw, or PKCS#8
	rsa    *rsa.PrivateKey
	ec     *ecdsa.PrivateKey
	ed     ed25519.PrivateKey
	ed448  ed448.PrivateKey
	dh     *ecdh.PrivateKey
	x448   *x448.Key
	pq     *pqc.PrivateKey // not of SLH-DSA
	public []byte          // SPKI, nil for symmetric keys
}

var curves = map[backend.Algorithm]elliptic.Curve{
	backend.ECDSAP256: elliptic.P256(), backend.ECDSAP384: elliptic.P384(), backend.ECDSAP521: elliptic.P521(),
}

var dhCurves = map[backend.Algorithm]ecdh.Curve{
	backend.ECDHP256: ecdh.P256(), backend.ECDHP384: ecdh.P384(), backend.ECDHP521: ecdh.P521(), backend.X25519: ecdh.X25519(),
}

// fresh makes a known key of an algorithm. RSA keys are the same each time.
func fresh(t testing.TB, a backend.AlgorithmInfo) material {
	t.Helper()
	var m material
	var key any
	var err error
	switch {
	case a.Symmetric():
		m.bytes = random(t, a.KeySize)
		return m
	case a.Family == backend.FamilyRSA:
		m.rsa = testKey(t, a.KeyBits)
		key = m.rsa
	case a.Family == backend.FamilyECDSA:
		m.ec, err = ecdsa.GenerateKey(curves[a.Name], rand.Reader)
		key = m.ec
	case a.Name == backend.Ed25519:
		_, m.ed, err = ed25519.GenerateKey(rand.Reader)
		key = m.ed
	case a.Name == backend.Ed448:
		seed := random(t, ed448.SeedSize)
		m.ed448 = ed448.NewKeyFromSeed(seed)
		m.bytes = pkcs8OKP(t, oidEd448, seed)
		m.public = spkiOKP(t, oidEd448, m.ed448.Public().(ed448.PublicKey))
		return m
	case a.Name == backend.X448:
		m.x448 = new(x448.Key)
		copy(m.x448[:], random(t, x448.Size))
		var pub x448.Key
		x448.KeyGen(&pub, m.x448)
		m.bytes = pkcs8OKP(t, oidX448, m.x448[:])
		m.public = spkiOKP(t, oidX448, pub[:])
		return m
	case a.Name == backend.DHKEMX448:
		return fresh(t, info(t, backend.X448))
	case kemCurves[a.Name] != nil:
		m.dh, err = kemCurves[a.Name].GenerateKey(rand.Reader)
		key = m.dh
	case pqFamilies[a.Family]:
		return freshPQ(t, a)
	case dhCurves[a.Name] != nil:
		m.dh, err = dhCurves[a.Name].GenerateKey(rand.Reader)
		key = m.dh
	default:
		t.Fatalf("the suite has no keys of %s", a.Name)
	}
	if err != nil {
		t.Fatal(err)
	}
	if m.bytes, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		t.Fatal(err)
	}
	m.public = spki(t, key.(interface{ Public() crypto.PublicKey }).Public())
	return m
}

var pqFamilies = map[backend.Family]bool{
	backend.FamilyKEM: true, backend.FamilyMLDSA: true, backend.FamilySLHDSA: true, backend.FamilyComposite: true,
}

// slow reports whether making or parsing a private key of the algorithm computes a tree of tenths of a second. The fast set of the lowest
// category is not among them, and stands for all where the question is not the set itself.
func slow(a backend.AlgorithmInfo) bool {
	return a.Family == backend.FamilySLHDSA && a.Name != backend.SLHDSASHA2128f
}

// sameEncoding reports whether keys of the two algorithms have one object identifier, so that their encodings do not tell them apart: all
// uses of one curve (RFC 5480 section 2.1.1, RFC 9180 section 7.1).
func sameEncoding(a, b backend.AlgorithmInfo) bool {
	curve := func(i backend.AlgorithmInfo) string {
		switch {
		case i.Family == backend.FamilyECDSA:
			return fmt.Sprint("P", i.KeyBits)
		case i.Family != backend.FamilyECDH && (i.Family != backend.FamilyKEM || i.PostQuantum):
			return string(i.Name)
		case i.KeyBits == 255 || i.KeyBits == 448:
			return fmt.Sprint("X", i.KeyBits)
		}
		return fmt.Sprint("P", i.KeyBits)
	}
	return curve(a) == curve(b)
}

// testSLHDSA are keys that protect nothing, one of each set: their public keys cost seconds together.
//
//go:embed testdata/slh-dsa.json
var testSLHDSA []byte

// freshPQ makes a key of an algorithm that the standard library's encodings do not have. Package keyenc has judges of its own.
func freshPQ(t testing.TB, a backend.AlgorithmInfo) material {
	t.Helper()
	alg, ok := pqc.Lookup(string(a.Name))
	if !ok {
		t.Fatalf("the suite has no keys of %s", a.Name)
	}
	var m material
	if alg.Info().Slow {
		var known map[backend.Algorithm]struct{ PKCS8, SPKI []byte }
		if err := json.Unmarshal(testSLHDSA, &known); err != nil {
			t.Fatal(err)
		}
		m.bytes, m.public = known[a.Name].PKCS8, known[a.Name].SPKI
		return m
	}
	seed, err := alg.GenerateSeed(nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.pq, err = alg.NewPrivateKey(seed); err != nil {
		t.Fatal(err)
	}
	if m.bytes, err = keyenc.MarshalPKCS8(m.pq); err != nil {
		t.Fatal(err)
	}
	m.public = spki(t, m.pq.Public())
	return m
}

func info(t testing.TB, name backend.Algorithm) backend.AlgorithmInfo {
	t.Helper()
	a, ok := backend.Lookup(name)
	if !ok {
		t.Fatalf("%s is not in the table", name)
	}
	return a
}

func random(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// Object identifiers of RFC 8410 section 3; the standard library knows neither.
var (
	oidX448  = asn1.ObjectIdentifier{1, 3, 101, 111}
	oidEd448 = asn1.ObjectIdentifier{1, 3, 101, 113}
)

type algorithmIdentifier struct {
	Algorithm asn1.ObjectIdentifier
}

type oneAsymmetricKey struct {
	Version    int
	Algorithm  algorithmIdentifier
	PrivateKey []byte
}

type subjectPublicKeyInfo struct {
	Algorithm algorithmIdentifier
	PublicKey asn1.BitString
}

func pkcs8OKP(t testing.TB, oid asn1.ObjectIdentifier, private []byte) []byte {
	t.Helper()
	inner := marshal(t, private)
	return marshal(t, oneAsymmetricKey{Algorithm: algorithmIdentifier{oid}, PrivateKey: inner})
}

func spkiOKP(t testing.TB, oid asn1.ObjectIdentifier, public []byte) []byte {
	t.Helper()
	return marshal(t, okpSPKI(oid, public))
}

func okpSPKI(oid asn1.ObjectIdentifier, public []byte) subjectPublicKeyInfo {
	return subjectPublicKeyInfo{algorithmIdentifier{oid}, asn1.BitString{Bytes: public, BitLength: len(public) * 8}}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// spki encodes a public key as a handle gives it.
func spki(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := keySPKI(pub)
	if err != nil {
		t.Fatalf("public key %T: %v", pub, err)
	}
	return der
}

// keySPKI encodes without the program's own codecs.
func keySPKI(pub crypto.PublicKey) ([]byte, error) {
	switch k := pub.(type) {
	case ed448.PublicKey:
		return asn1.Marshal(okpSPKI(oidEd448, k))
	case keyenc.X448PublicKey:
		return asn1.Marshal(okpSPKI(oidX448, k[:]))
	case *pqc.PublicKey:
		return keyenc.MarshalSPKI(k)
	}
	return x509.MarshalPKIXPublicKey(pub)
}

// rawPublic takes the bit string out of an SPKI.
func rawPublic(t testing.TB, der []byte) []byte {
	t.Helper()
	var info struct {
		Algorithm asn1.RawValue
		PublicKey asn1.BitString
	}
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) != 0 {
		t.Fatalf("SPKI: %v, %d bytes after it", err, len(rest))
	}
	return info.PublicKey.Bytes
}
