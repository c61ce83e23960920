package backendtest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// leastVectors is how many vectors of each algorithm have to be run through a backend that imports it.
func leastVectors() map[backend.Algorithm]int {
	least := map[backend.Algorithm]int{
		backend.AES128GCM: 67, backend.AES192GCM: 64, backend.AES256GCM: 66, backend.ChaCha20Poly1305: 316, backend.AES256KWP: 94,
		backend.HMACSHA256: 162, backend.HMACSHA384: 162, backend.HMACSHA512: 162,
		backend.RSA2048: 176, backend.RSA3072: 106, backend.RSA4096: 109,
		backend.MLKEM512: 225, backend.MLKEM768: 226, backend.MLKEM1024: 227, backend.MLDSA44: 110, backend.MLDSA65: 129, backend.MLDSA87: 120,
		backend.ECDHP256: 611, backend.ECDHP384: 1046, backend.ECDHP521: 915, backend.X25519: 537, backend.X448: 529,
	}
	if RaceDetector {
		least[backend.ECDHP384], least[backend.ECDHP521] = 208, 182 // see peers
	}
	return least
}

// wycheproofRun runs vectors through one backend.
type wycheproofRun struct {
	*suite
	imp   backend.Importer
	tally Tally[backend.Algorithm]
	seen  map[string]bool // pairs of keys: some files say the same in other words
}

// testWycheproof runs the vectors of Project Wycheproof for everything that a private or secret key does. Signatures are
// verified by public keys and not by backends: package verify runs those vectors.
func (s *suite) testWycheproof(t *testing.T) {
	imp, ok := s.b.(backend.Importer)
	if !ok {
		return // no known key gets in
	}
	w := &wycheproofRun{suite: s, imp: imp, seen: map[string]bool{}}
	all, least := leastVectors(), map[backend.Algorithm]int{}
	for _, k := range s.kinds() {
		if !k.Import {
			continue
		}
		if n, ok := all[k.Algorithm]; ok {
			least[k.Algorithm] = n
		}
		t.Run(k.String(), func(t *testing.T) {
			switch {
			case k.Algorithm == backend.ChaCha20Poly1305:
				w.aead(t, k, "chacha20_poly1305")
			case k.Info.Family == backend.FamilyAEAD:
				w.aead(t, k, "aes_gcm")
			case k.Info.Family == backend.FamilyKWP:
				w.kwp(t, k)
			case k.Info.Family == backend.FamilyHMAC:
				w.mac(t, k)
			case k.Info.Family == backend.FamilyRSA && k.Purpose == backend.PurposeEncryption:
				w.oaep(t, k)
			case k.Info.Family == backend.FamilyRSA:
				w.pkcs1(t, k)
			case k.Info.Family == backend.FamilyECDH:
				w.agree(t, k)
			case k.Info.Family == backend.FamilyKEM && pqSets[k.Algorithm].file != "":
				w.mlkem(t, k)
			case k.Info.Family == backend.FamilyMLDSA:
				w.mldsa(t, k)
			}
		})
	}
	w.tally.AtLeast(t, least)
}

// with imports a key and hands it to f.
func (w *wycheproofRun) with(t testing.TB, k kind, material []byte, f func(backend.Key)) {
	t.Helper()
	ref, err := w.imp.Import(t.Context(), w.spec(k), material)
	if err != nil {
		t.Fatalf("Import: %v", err)
	}
	key, err := w.b.Load(t.Context(), ref)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	f(key)
	if err := key.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := w.b.Destroy(t.Context(), ref); err != nil {
		t.Errorf("Destroy: %v", err)
	}
}

// judge compares an answer with what a vector says: bytes for a valid one, this fault for an invalid one, either for one
// that is acceptable.
func judge(t testing.TB, v *Vector, got, right []byte, err error, refused fault.Code) {
	t.Helper()
	what := fmt.Sprintf("vector %d (%s %v)", v.ID, v.Comment, v.Flags)
	switch {
	case err == nil && v.Result == "invalid":
		t.Errorf("%s: accepted", what)
	case err == nil && !bytes.Equal(got, right):
		t.Errorf("%s: another result", what)
	case err != nil && v.Result == "valid":
		t.Errorf("%s: %v", what, err)
	case err != nil:
		want(t, what, err, refused)
	}
}

func (w *wycheproofRun) aead(t *testing.T, k kind, file string) {
	for _, g := range Vectors(t, file) {
		if g.KeySize != k.Info.KeyBits || g.IVSize != k.Info.NonceSize*8 || g.TagSize != k.Info.TagSize*8 {
			w.tally.Passed(k.Algorithm, len(g.Tests))
			continue
		}
		for _, v := range g.Tests {
			w.with(t, k, v.Key, func(key backend.Key) {
				sealed := append(append(bytes.Clone(v.IV), v.CT...), v.Tag...)
				got, err := key.(backend.AEAD).Open(t.Context(), nil, sealed, v.AAD)
				judge(t, &v, got, v.Msg, err, fault.DecryptionFailed)
				w.tally.Ran(k.Algorithm)
			})
		}
	}
}

func (w *wycheproofRun) kwp(t *testing.T, k kind) {
	for _, g := range Vectors(t, "aes_kwp") {
		if g.KeySize != k.Info.KeyBits {
			w.tally.Passed(k.Algorithm, len(g.Tests))
			continue
		}
		for _, v := range g.Tests {
			w.with(t, k, v.Key, func(key backend.Key) {
				h := key.(backend.Wrapper)
				got, err := h.Unwrap(t.Context(), v.CT)
				judge(t, &v, got, v.Msg, err, fault.DecryptionFailed)
				if v.Result == "valid" {
					wrapped, err := h.Wrap(t.Context(), v.Msg)
					judge(t, &v, wrapped, v.CT, err, fault.BadSize)
				}
				w.tally.Ran(k.Algorithm)
			})
		}
	}
}

func (w *wycheproofRun) mac(t *testing.T, k kind) {
	file := map[backend.Algorithm]string{
		backend.HMACSHA256: "hmac_sha256", backend.HMACSHA384: "hmac_sha384", backend.HMACSHA512: "hmac_sha512",
	}[k.Algorithm]
	for _, g := range Vectors(t, file) {
		if g.KeySize != k.Info.KeyBits {
			w.tally.Passed(k.Algorithm, len(g.Tests)) // a key is as long as its hash
			continue
		}
		for _, v := range g.Tests {
			w.with(t, k, v.Key, func(key backend.Key) {
				// A backend gives whole tags. A vector with a truncated one (RFC 2104 section 5) speaks about the first bytes.
				got, err := key.(backend.MACer).MAC(t.Context(), v.Msg)
				if err != nil || len(got) != k.Info.TagSize || len(v.Tag) != g.TagSize/8 {
					t.Errorf("vector %d: tag of %d bytes: %v", v.ID, len(got), err)
					return
				}
				same := subtle.ConstantTimeCompare(got[:len(v.Tag)], v.Tag) == 1
				if same != (v.Result == "valid") {
					t.Errorf("vector %d (%s): the tag fits: %v, the vector is %s", v.ID, v.Comment, same, v.Result)
				}
				w.tally.Ran(k.Algorithm)
			})
		}
	}
}

func (w *wycheproofRun) oaep(t *testing.T, k kind) {
	bits := k.Info.KeyBits
	files := map[int][]string{
		2048: {"2048_sha1_mgf1sha1", "2048_sha256_mgf1sha256", "2048_sha384_mgf1sha384", "2048_sha512_mgf1sha512", "2048_sha256_mgf1sha1", "misc"},
		3072: {"3072_sha256_mgf1sha256", "3072_sha512_mgf1sha512", "misc"},
		4096: {"4096_sha256_mgf1sha256", "4096_sha512_mgf1sha512", "misc"},
	}[bits]
	for _, file := range files {
		for _, g := range Vectors(t, "rsa_oaep_"+file) {
			h, ok := VectorHash(g.Sha)
			if !ok || g.KeySize != bits || g.MGFSha != g.Sha {
				w.tally.Passed(k.Algorithm, len(g.Tests))
				continue
			}
			w.with(t, k, g.PrivateKeyPKCS8, func(key backend.Key) {
				for _, v := range g.Tests {
					got, err := key.(backend.Decrypter).Decrypt(t.Context(), v.CT, backend.OAEPOpts{Hash: h, Label: v.Label})
					judge(t, &v, got, v.Msg, err, fault.DecryptionFailed)
					w.tally.Ran(k.Algorithm)
				}
			})
		}
	}
}

// pkcs1 compares signatures: PKCS#1 v1.5 has one right answer.
func (w *wycheproofRun) pkcs1(t *testing.T, k kind) {
	for _, g := range Vectors(t, fmt.Sprintf("rsa_pkcs1_%d_sig_gen", k.Info.KeyBits)) {
		h, ok := VectorHash(g.Sha)
		if !ok || g.Sha == "SHA-1" {
			w.tally.Passed(k.Algorithm, len(g.Tests))
			continue
		}
		if slices.ContainsFunc(g.Tests, func(v Vector) bool { return slices.Contains(v.Flags, "SmallPublicKey") }) {
			// An exponent of 3 is below the 2^16 of FIPS 186-5 section A.1.1: to refuse the key is right.
			_, err := w.imp.Import(t.Context(), w.spec(k), g.PrivateKeyPKCS8)
			want(t, "Import of a key with the exponent 3", err, fault.BadImport)
			w.tally.Passed(k.Algorithm, len(g.Tests))
			continue
		}
		w.with(t, k, g.PrivateKeyPKCS8, func(key backend.Key) {
			for _, v := range g.Tests {
				d := h.New()
				d.Write(v.Msg)
				o := backend.SignOpts{Hash: h, Padding: backend.PaddingPKCS1v15}
				got, err := key.(backend.Signer).Sign(t.Context(), d.Sum(nil), o)
				judge(t, &v, got, v.Sig, err, fault.BadField)
				w.tally.Ran(k.Algorithm)
			}
		})
	}
}

var (
	oidX25519 = asn1.ObjectIdentifier{1, 3, 101, 110}
	oidEC     = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidCurves = map[backend.Algorithm]asn1.ObjectIdentifier{
		backend.ECDHP256: {1, 2, 840, 10045, 3, 1, 7}, backend.ECDHP384: {1, 3, 132, 0, 34}, backend.ECDHP521: {1, 3, 132, 0, 35},
	}
)

func (w *wycheproofRun) agree(t *testing.T, k kind) {
	switch k.Algorithm {
	case backend.X25519:
		w.peers(t, k, "x25519", rawPKCS8(t, oidX25519), rawSPKI(t, oidX25519))
		w.peers(t, k, "x25519_asn", asIs, asIs)
	case backend.X448:
		w.peers(t, k, "x448", rawPKCS8(t, oidX448), rawSPKI(t, oidX448))
		w.peers(t, k, "x448_asn", asIs, asIs)
	default:
		curve := map[backend.Algorithm]string{
			backend.ECDHP256: "secp256r1", backend.ECDHP384: "secp384r1", backend.ECDHP521: "secp521r1",
		}[k.Algorithm]
		private := scalarPKCS8(t, dhCurves[k.Algorithm], (k.Info.KeyBits+7)/8)
		w.peers(t, k, "ecdh_"+curve, private, asIs)
		w.peers(t, k, "ecdh_"+curve+"_ecpoint", private, pointSPKI(t, oidCurves[k.Algorithm]))
	}
}

// peers runs one file; private and public bring its keys into the form that a backend takes.
func (w *wycheproofRun) peers(t *testing.T, k kind, file string, private, public func([]byte) []byte) {
	slow := RaceDetector && k.Info.KeyBits > 256 && isP(k.Algorithm)
	for _, g := range Vectors(t, file) {
		// The vectors come back to few private keys again and again.
		encoded, byKey := map[string][]byte{}, map[string][]Vector{}
		for i, v := range g.Tests {
			own, ok := encoded[string(v.Private)]
			if !ok {
				own = private(v.Private)
				encoded[string(v.Private)] = own
			}
			peer := public(v.Public)
			pair := string(own) + string(peer)
			switch {
			case w.seen[pair], slow && i%5 != 0:
				w.tally.Passed(k.Algorithm, 1)
			case slices.Contains(v.Flags, "MissingOctetString"):
				_, err := w.imp.Import(t.Context(), w.spec(k), own)
				want(t, fmt.Sprintf("vector %d (%s)", v.ID, v.Comment), err, fault.BadImport)
				w.tally.Ran(k.Algorithm)
			default:
				v.Public = peer
				byKey[string(own)] = append(byKey[string(own)], v)
			}
			w.seen[pair] = true
		}
		for pkcs8, vectors := range byKey {
			w.with(t, k, []byte(pkcs8), func(key backend.Key) {
				for _, v := range vectors {
					if !isP(k.Algorithm) && bytes.Equal(v.Shared, make([]byte, (k.Info.KeyBits+7)/8)) {
						v.Result = "invalid" // RFC 7748 section 6 leaves the check to the protocol; a backend always makes it
					}
					got, err := key.(backend.Agreer).Agree(t.Context(), v.Public)
					judge(t, &v, got, v.Shared, err, fault.BadField)
					w.tally.Ran(k.Algorithm)
				}
			})
		}
	}
}

func asIs(b []byte) []byte { return b }

func rawPKCS8(t testing.TB, oid asn1.ObjectIdentifier) func([]byte) []byte {
	return func(b []byte) []byte { return pkcs8OKP(t, oid, b) }
}

func rawSPKI(t testing.TB, oid asn1.ObjectIdentifier) func([]byte) []byte {
	return func(b []byte) []byte { return spkiOKP(t, oid, b) }
}

// pointSPKI wraps an encoded point (SEC 1 section 2.3.3) by RFC 5480 section 2.
func pointSPKI(t testing.TB, curve asn1.ObjectIdentifier) func([]byte) []byte {
	return func(point []byte) []byte {
		type algorithm struct{ Algorithm, Curve asn1.ObjectIdentifier }
		return marshal(t, struct {
			Algorithm algorithm
			Point     asn1.BitString
		}{algorithm{oidEC, curve}, asn1.BitString{Bytes: point, BitLength: len(point) * 8}})
	}
}

// scalarPKCS8 encodes a scalar that the vectors write as an integer, with a sign byte or without leading zeros.
func scalarPKCS8(t testing.TB, c ecdh.Curve, size int) func([]byte) []byte {
	return func(b []byte) []byte {
		b = bytes.TrimLeft(b, "\x00")
		key, err := c.NewPrivateKey(append(make([]byte, max(0, size-len(b))), b...))
		if err != nil {
			t.Fatalf("private key of a vector: %v", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
}
