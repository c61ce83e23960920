package backendtest

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

func (s *suite) testImport(t *testing.T) {
	imp, ok := s.b.(backend.Importer)
	if !ok {
		for _, k := range s.kinds() {
			if k.Import {
				t.Errorf("%s: import is advertised, but the backend is no Importer", k.Algorithm)
			}
		}
		return
	}
	for _, k := range s.kinds() {
		if !k.Import {
			continue // testUnsupported looks at these
		}
		t.Run(k.String(), func(t *testing.T) {
			m := fresh(t, k.Info)
			given, spec := slices.Clone(m.bytes), s.spec(k)
			ref, err := imp.Import(t.Context(), spec, given)
			if err != nil {
				t.Fatalf("Import: %v", err)
			}
			s.destroyLater(t, ref)
			if !bytes.Equal(given, m.bytes) {
				t.Error("Import changed the material")
			}
			clear(given) // the backend must not have kept it
			spec.Custody = ref.Spec.Custody
			if ref.Spec != spec || !slices.Contains(s.info.Custody, spec.Custody) {
				t.Errorf("Ref's spec %+v, asked for %+v", ref.Spec, spec)
			}
			if !bytes.Equal(ref.Public, m.public) {
				t.Error("the Ref's public key is not the imported one")
			}
			if bytes.Contains(ref.Blob, secretPart(t, m)) {
				t.Error("the blob has the material in clear")
			}
			key := load(t, s.b, ref)
			checkInterfaces(t, k, key, false)
			if !k.Info.Symmetric() {
				checkPublic(t, k, key, ref)
			}
			s.refuseImport(t, imp, k, m)
		})
	}
}

// secretPart is a stretch of bytes that no blob may show.
func secretPart(t testing.TB, m material) []byte {
	t.Helper()
	switch {
	case m.rsa != nil:
		return m.rsa.Primes[0].Bytes()[:32]
	case m.ec != nil:
		scalar, err := m.ec.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return scalar[8:]
	case m.dh != nil:
		return m.dh.Bytes()[8:]
	case m.public == nil:
		return m.bytes
	}
	return m.bytes[len(m.bytes)-20:] // PKCS#8 of RFC 8410 ends in the seed
}

// refuseImport gives material that is not a key of the algorithm.
func (s *suite) refuseImport(t *testing.T, imp backend.Importer, k kind, m material) {
	t.Helper()
	refuse := func(what string, material []byte) {
		t.Helper()
		ref, err := imp.Import(t.Context(), s.spec(k), material)
		want(t, "Import of "+what, err, fault.BadImport)
		if ref.Blob != nil {
			t.Errorf("Import of %s: a Ref came out", what)
		}
		if err != nil && len(m.bytes) >= 16 && bytes.Contains([]byte(err.Error()), m.bytes[:16]) {
			t.Error("the error shows the material")
		}
	}
	n := len(m.bytes)
	refuse("nothing", nil)
	refuse("a byte", []byte{1})
	refuse("material cut by a byte", m.bytes[:n-1])
	refuse("material with a byte more", append(slices.Clone(m.bytes), 0))
	if k.Info.Symmetric() {
		for _, other := range []int{8, 16, 24, 32, 48, 64, 128} {
			if other != k.Info.KeySize {
				refuse(fmt.Sprintf("%d bytes", other), make([]byte, other))
			}
		}
		return
	}
	refuse("a raw symmetric key", make([]byte, 32))
	refuse("a public key", m.public)
	refuse("garbage", random(t, n))
	for _, other := range backend.Algorithms() {
		if !slow(other) && !sameEncoding(k.Info, other) {
			refuse("a key of "+string(other.Name), fresh(t, other).bytes)
		}
	}
	if m.rsa != nil {
		for what, bad := range brokenRSA(m.rsa) {
			der := x509.MarshalPKCS1PrivateKey(bad)
			pkcs8 := bytes.Replace(m.bytes, x509.MarshalPKCS1PrivateKey(m.rsa), der, 1)
			if bytes.Equal(pkcs8, m.bytes) || len(pkcs8) != n {
				t.Fatalf("RSA key with %s: the suite did not build it", what)
			}
			refuse("an RSA key with "+what, pkcs8)
		}
	}
	if isP(k.Algorithm) {
		// The embedded public key is the last thing in the encoding: it must be the scalar's.
		refuse("a key whose public part is another's", flip(m.bytes, n-1))
	}
}

func isP(a backend.Algorithm) bool {
	return curves[a] != nil || (dhCurves[a] != nil && a != backend.X25519) || (kemCurves[a] != nil && a != backend.DHKEMX25519)
}

// brokenRSA lists keys of the same encoded length whose numbers do not belong together.
func brokenRSA(good *rsa.PrivateKey) map[string]*rsa.PrivateKey {
	change := func(f func(k *rsa.PrivateKey)) *rsa.PrivateKey {
		k := &rsa.PrivateKey{PublicKey: good.PublicKey, D: good.D, Primes: slices.Clone(good.Primes)}
		k.Precomputed = good.Precomputed
		f(k)
		return k
	}
	return map[string]*rsa.PrivateKey{
		"another exponent d": change(func(k *rsa.PrivateKey) { k.D = flipInt(k.D, 5) }),
		"another prime":      change(func(k *rsa.PrivateKey) { k.Primes[0] = flipInt(k.Primes[0], 5) }),
		"another modulus":    change(func(k *rsa.PrivateKey) { k.N = flipInt(k.N, 5) }),
	}
}

func (s *suite) testImportWrapped(t *testing.T) {
	imp, ok := s.b.(backend.Importer)
	if !ok {
		return // testImport looks at what is advertised
	}
	rsaKinds := s.of(backend.FamilyRSA, backend.PurposeEncryption)
	if len(rsaKinds) == 0 {
		t.Fatal("an Importer without RSA keys to wrap to")
	}
	with := s.ref(t, rsaKinds[0])
	to := load(t, s.b, with).Public().(*rsa.PublicKey)
	for _, k := range s.kinds() {
		if !k.Import {
			continue
		}
		m := fresh(t, k.Info)
		for i, h := range oaepHashes {
			if i > 1 && k.Algorithm != s.info.Capabilities[0].Algorithm {
				break // every hash with one algorithm, two with the others
			}
			spec := s.spec(k)
			ref, err := imp.ImportWrapped(t.Context(), spec, with, h, rsaAESWrap(t, to, h, m.bytes))
			if err != nil {
				t.Errorf("%s: ImportWrapped with %v: %v", k.Algorithm, h, err)
				continue
			}
			s.destroyLater(t, ref)
			spec.Custody = ref.Spec.Custody
			if ref.Spec != spec || !bytes.Equal(ref.Public, m.public) {
				t.Errorf("%s: the Ref is not of the key that was imported", k.Algorithm)
			}
			checkInterfaces(t, k, load(t, s.b, ref), false)
			if k.Info.Family == backend.FamilyAEAD {
				checkAgainstStd(t, load(t, s.b, ref).(backend.AEAD), stdAEAD(t, k.Algorithm, m.bytes))
			}
		}
	}
	s.refuseWrapped(t, imp, with, to)
}

// refuseWrapped tampers with a wrapped key.
func (s *suite) refuseWrapped(t *testing.T, imp backend.Importer, with backend.Ref, to *rsa.PublicKey) {
	t.Helper()
	i := slices.IndexFunc(s.kinds(), func(k kind) bool { return k.Import && k.Info.Symmetric() })
	if i < 0 {
		t.Fatal("an Importer that takes no symmetric key")
	}
	k := s.kinds()[i]
	m := fresh(t, k.Info)
	good := rsaAESWrap(t, to, crypto.SHA256, m.bytes)
	bad := alike{code: fault.BadImport}
	refuse := func(what string, h crypto.Hash, wrapped []byte) {
		t.Helper()
		ref, err := imp.ImportWrapped(t.Context(), s.spec(k), with, h, wrapped)
		bad.add(t, "ImportWrapped of "+what, ref.Blob, err)
	}
	n := to.Size()
	for _, i := range []int{0, n / 2, n - 1, n, n + 8, len(good) - 1} {
		refuse(fmt.Sprintf("a blob with byte %d flipped", i), crypto.SHA256, flip(good, i))
	}
	for _, i := range []int{0, 1, n - 1, n, n + 8, len(good) - 8, len(good) - 1} {
		refuse(fmt.Sprintf("a blob cut to %d", i), crypto.SHA256, good[:i])
	}
	refuse("a blob with a block more", crypto.SHA256, append(slices.Clone(good), make([]byte, 8)...))
	refuse("a blob of another hash", crypto.SHA1, good)
	refuse("a blob for another key", crypto.SHA256, rsaAESWrap(t, &testKey(t, 2048).PublicKey, crypto.SHA256, m.bytes))
	// What opens but is no key of the algorithm is refused too; the answer may say so.
	_, err := imp.ImportWrapped(t.Context(), s.spec(k), with, crypto.SHA256, rsaAESWrap(t, to, crypto.SHA256, m.bytes[1:]))
	want(t, "ImportWrapped of a short key", err, fault.BadImport)
	// The ref of the wrapping key is checked like any other.
	broken := clone(with)
	broken.Blob = flip(broken.Blob, len(broken.Blob)-1)
	_, err = imp.ImportWrapped(t.Context(), s.spec(k), broken, crypto.SHA256, good)
	want(t, "ImportWrapped with a corrupted ref", err, fault.KeyMaterial)
	broken = clone(with)
	broken.Spec.KeyID = uuid.New()
	_, err = imp.ImportWrapped(t.Context(), s.spec(k), broken, crypto.SHA256, good)
	want(t, "ImportWrapped with a ref under another key id", err, fault.KeyMaterial)
}
