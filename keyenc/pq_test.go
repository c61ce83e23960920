package keyenc_test

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"filippo.io/mldsa"
	mldsax509 "filippo.io/mldsa/x509"
	"github.com/c2sp/wycheproof"

	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
)

// pqOIDs are the object identifiers, written once more after the registers: RFC 9935, RFC 9881, RFC 9909 and the two drafts.
var pqOIDs = map[string]string{
	pqc.MLKEM512: "2.16.840.1.101.3.4.4.1", pqc.MLKEM768: "2.16.840.1.101.3.4.4.2", pqc.MLKEM1024: "2.16.840.1.101.3.4.4.3",
	pqc.XWing:   "1.3.6.1.4.1.62253.25722",
	pqc.MLDSA44: "2.16.840.1.101.3.4.3.17", pqc.MLDSA65: "2.16.840.1.101.3.4.3.18", pqc.MLDSA87: "2.16.840.1.101.3.4.3.19",
	pqc.SLHDSASHA2128s: "2.16.840.1.101.3.4.3.20", pqc.SLHDSASHA2128f: "2.16.840.1.101.3.4.3.21",
	pqc.SLHDSASHA2192s: "2.16.840.1.101.3.4.3.22", pqc.SLHDSASHA2192f: "2.16.840.1.101.3.4.3.23",
	pqc.SLHDSASHA2256s: "2.16.840.1.101.3.4.3.24", pqc.SLHDSASHA2256f: "2.16.840.1.101.3.4.3.25",
	pqc.SLHDSASHAKE128s: "2.16.840.1.101.3.4.3.26", pqc.SLHDSASHAKE128f: "2.16.840.1.101.3.4.3.27",
	pqc.SLHDSASHAKE192s: "2.16.840.1.101.3.4.3.28", pqc.SLHDSASHAKE192f: "2.16.840.1.101.3.4.3.29",
	pqc.SLHDSASHAKE256s: "2.16.840.1.101.3.4.3.30", pqc.SLHDSASHAKE256f: "2.16.840.1.101.3.4.3.31",
	pqc.MLDSA65P256: "1.3.6.1.5.5.7.6.45", pqc.MLDSA65Ed25519: "1.3.6.1.5.5.7.6.48",
}

func pqAlg(t testing.TB, name string) *pqc.Algorithm {
	t.Helper()
	a, ok := pqc.Lookup(name)
	if !ok {
		t.Fatalf("no %s", name)
	}
	return a
}

func pqKey(t testing.TB, name string) *pqc.PrivateKey {
	t.Helper()
	a := pqAlg(t, name)
	seed, err := a.GenerateSeed(nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := a.NewPrivateKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// quickPQ leaves out the small sets of SLH-DSA, but one: their keys take long, and differ in nothing that is encoded.
func quickPQ() (names []string) {
	for name := range pqOIDs {
		if !strings.HasSuffix(name, "s") || name == pqc.SLHDSASHA2128s {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// mustFail fails unless err is want.
func mustFail(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v", what, err)
	}
}

func TestPQRoundTrips(t *testing.T) {
	for _, name := range quickPQ() {
		k := pqKey(t, name)
		pub := k.PublicKey()
		spki, err := keyenc.MarshalSPKI(pub)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var s struct {
			Alg algorithmID
			Key asn1.BitString
		}
		if rest, err := asn1.Unmarshal(spki, &s); err != nil || len(rest) > 0 || s.Alg.OID.String() != pqOIDs[name] || s.Alg.Params.FullBytes != nil ||
			!bytes.Equal(s.Key.Bytes, pub.Bytes()) {
			t.Errorf("%s: %v %v", name, s.Alg, err)
		}
		if got, err := keyenc.ParseSPKI(spki); err != nil || !samePublic(got, pub) {
			t.Errorf("%s: SPKI: %v", name, err)
		}
		text, err := keyenc.MarshalPublicPEM(pub)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := keyenc.ParsePublicPEM(text); err != nil || !samePublic(got, pub) {
			t.Errorf("%s: PEM: %v", name, err)
		}
		if raw, err := keyenc.MarshalRaw(pub); err != nil || !bytes.Equal(raw, pub.Bytes()) {
			t.Errorf("%s: raw: %v", name, err)
		}
		p8, err := keyenc.MarshalPKCS8(k)
		if err != nil {
			t.Fatal(err)
		}
		got, err := keyenc.ParsePKCS8(p8)
		if err != nil || !samePrivate(got, k) {
			t.Errorf("%s: PKCS#8: %v", name, err)
			continue
		}
		if p, err := keyenc.PublicOf(got); err != nil || !samePublic(p, pub) {
			t.Errorf("%s: public: %v", name, err)
		}
		jwk, err := keyenc.MarshalJWK(pub)
		if !strings.HasPrefix(name, "ML-DSA") {
			mustFail(t, name+": JWK", err, keyenc.ErrUnsupported)
			continue
		}
		if back, err2 := keyenc.ParseJWK(jwk); err != nil || err2 != nil || !samePublic(back, pub) {
			t.Errorf("%s: JWK: %v, %v", name, err, err2)
		}
		var m map[string]string
		if err := json.Unmarshal(jwk, &m); err != nil || len(m) != 3 || m["kty"] != "AKP" || m["alg"] != name ||
			m["pub"] != base64.RawURLEncoding.EncodeToString(pub.Bytes()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The KEMs of RFC 9180 have the encodings of their curves, and none as what they are here.
	dh := pqKey(t, pqc.DHKEMP256)
	_, err := keyenc.MarshalSPKI(dh.PublicKey())
	mustFail(t, "SPKI of a DH KEM", err, keyenc.ErrUnsupported)
	_, err = keyenc.MarshalPKCS8(dh)
	mustFail(t, "PKCS#8 of a DH KEM", err, keyenc.ErrUnsupported)
	wiped := pqKey(t, pqc.MLKEM512)
	wiped.Wipe()
	_, err = keyenc.MarshalPKCS8(wiped)
	mustFail(t, "PKCS#8 of a wiped key", err, keyenc.ErrUnsupported)
}

// TestPQTable: every algorithm of package pqc has an encoding, but those of the curves.
func TestPQTable(t *testing.T) {
	n := 0
	for _, a := range pqc.Algorithms() {
		if strings.HasPrefix(a.Name(), "DHKEM") {
			continue
		}
		n++
		zero := slices.Repeat([]byte{0}, a.Info().PublicKeySize)
		var oid asn1.ObjectIdentifier
		for part := range strings.SplitSeq(pqOIDs[a.Name()], ".") {
			v := 0
			for _, c := range part {
				v = v*10 + int(c-'0')
			}
			oid = append(oid, v)
		}
		spki := der(t, struct {
			Alg algorithmID
			Key asn1.BitString
		}{algorithmID{OID: oid}, bits(zero)})
		pub, err := keyenc.ParseSPKI(spki)
		if a.Name() == pqc.MLDSA65P256 { // zeros are not a point
			mustFail(t, a.Name(), err, keyenc.ErrMalformed)
			continue
		}
		if k, ok := pub.(*pqc.PublicKey); err != nil || !ok || k.Algorithm() != a {
			t.Errorf("%s: %v", a.Name(), err)
		}
	}
	if n != len(pqOIDs) {
		t.Errorf("%d algorithms", n)
	}
}

// encodings of RFC 9935 section 6 and RFC 9881 section 6.
func seedForm(seed []byte) []byte { return append([]byte{0x80, byte(len(seed))}, seed...) }

type bothForm struct{ Seed, Expanded []byte }

func TestPQChoice(t *testing.T) {
	for _, name := range []string{pqc.MLKEM512, pqc.MLKEM768, pqc.MLKEM1024, pqc.MLDSA44, pqc.MLDSA65, pqc.MLDSA87} {
		k := pqKey(t, name)
		own, err := keyenc.MarshalPKCS8(k)
		if err != nil {
			t.Fatal(err)
		}
		var p pkcs8Key
		if _, err := asn1.Unmarshal(own, &p); err != nil || p.Version != 0 || !bytes.Equal(p.Key, seedForm(k.Seed())) {
			t.Errorf("%s: not the seed form: %v", name, err)
		}
		expanded, err := k.Expanded()
		if err != nil {
			t.Fatal(err)
		}
		other, err := pqKey(t, name).Expanded()
		if err != nil {
			t.Fatal(err)
		}
		with := func(key []byte) error {
			q := p
			q.Key = key
			got, err := keyenc.ParsePKCS8(der(t, q))
			if err == nil && !samePrivate(got, k) {
				t.Errorf("%s: another key", name)
			}
			return err
		}
		mustFail(t, name+": both", with(der(t, bothForm{k.Seed(), expanded})), nil)
		mustFail(t, name+": expanded alone", with(der(t, []byte(expanded))), keyenc.ErrNoSeed)
		mustFail(t, name+": expanded alone", with(der(t, []byte(expanded))), keyenc.ErrUnsupported)
		long := append(seedForm(k.Seed()), 0)
		flipped := slices.Clone(expanded)
		flipped[len(flipped)-1] ^= 1
		for what, key := range map[string][]byte{
			"both, of another":      der(t, bothForm{k.Seed(), other}),
			"both, a bit changed":   der(t, bothForm{k.Seed(), flipped}),
			"both, short":           der(t, bothForm{k.Seed(), expanded[1:]}),
			"both, nothing":         der(t, bothForm{k.Seed(), nil}),
			"both, a short seed":    der(t, bothForm{k.Seed()[1:], expanded}),
			"both, trailing":        append(der(t, bothForm{k.Seed(), expanded}), 0),
			"both, three":           der(t, struct{ A, B, C []byte }{k.Seed(), expanded, expanded}),
			"seed, trailing":        long,
			"seed, short":           seedForm(k.Seed()[1:]),
			"seed, long":            seedForm(append(k.Seed(), 0)),
			"seed, empty":           seedForm(nil),
			"seed, bare":            k.Seed(),
			"nothing":               nil,
			"a number":              der(t, 5),
			"expanded and trailing": append(der(t, []byte(expanded)), 0),
		} {
			mustFail(t, name+": "+what, with(key), keyenc.ErrMalformed)
		}
		params := p
		params.Alg.Params = asn1.NullRawValue
		_, err = keyenc.ParsePKCS8(der(t, params))
		mustFail(t, name+": parameters", err, keyenc.ErrMalformed)
		public := p
		public.Version, public.Public = 1, bits(k.PublicKey().Bytes())
		if got, err := keyenc.ParsePKCS8(der(t, public)); err != nil || !samePrivate(got, k) {
			t.Errorf("%s: with its public key: %v", name, err)
		}
		public.Public = bits(pqKey(t, name).PublicKey().Bytes())
		_, err = keyenc.ParsePKCS8(der(t, public))
		mustFail(t, name+": with another public key", err, keyenc.ErrMalformed)
	}
}

func TestPQOtherForms(t *testing.T) {
	edit := func(name string, f func(p *pkcs8Key)) (*pqc.PrivateKey, error) {
		t.Helper()
		k := pqKey(t, name)
		own, err := keyenc.MarshalPKCS8(k)
		if err != nil {
			t.Fatal(err)
		}
		var p pkcs8Key
		if _, err := asn1.Unmarshal(own, &p); err != nil {
			t.Fatal(err)
		}
		f(&p)
		_, err = keyenc.ParsePKCS8(der(t, p))
		return k, err
	}
	for _, name := range []string{pqc.SLHDSASHA2128f, pqc.SLHDSASHAKE192f, pqc.XWing, pqc.MLDSA65Ed25519, pqc.MLDSA65P256} {
		for what, f := range map[string]func(*pkcs8Key){
			"short":    func(p *pkcs8Key) { p.Key = p.Key[:len(p.Key)-1] },
			"trailing": func(p *pkcs8Key) { p.Key = append(p.Key, 0) },
			"empty":    func(p *pkcs8Key) { p.Key = nil },
			"public":   func(p *pkcs8Key) { p.Version, p.Public = 1, bits(p.Key) },
			"params":   func(p *pkcs8Key) { p.Alg.Params = asn1.NullRawValue },
			"wrapped":  func(p *pkcs8Key) { p.Key = der(t, p.Key) },
		} {
			_, err := edit(name, f)
			mustFail(t, name+": "+what, err, keyenc.ErrMalformed)
		}
	}
	for _, name := range []string{pqc.SLHDSASHA2128f, pqc.SLHDSASHAKE192f} {
		for what, at := range map[string]int{"another root": 1, "another PK.seed": 2} {
			_, err := edit(name, func(p *pkcs8Key) { p.Key[len(p.Key)-at*len(p.Key)/4] ^= 1 })
			mustFail(t, name+": "+what, err, keyenc.ErrMalformed)
		}
	}
	// The classical part of the composite: the curve and nothing more (section 4 of the draft).
	composite := func(f func(seed []byte) []byte) error {
		_, err := edit(pqc.MLDSA65P256, func(p *pkcs8Key) { p.Key = append(p.Key[:32:32], f(p.Key[39:71])...) })
		return err
	}
	mustFail(t, "as it is", composite(func(s []byte) []byte { return der(t, ecKey{1, s, p256OID, asn1.BitString{}}) }), nil)
	for what, f := range map[string]func(s []byte) []byte{
		"no curve":      func(s []byte) []byte { return der(t, ecKey{1, s, nil, asn1.BitString{}}) },
		"another curve": func(s []byte) []byte { return der(t, ecKey{1, s, p384OID, asn1.BitString{}}) },
		"version":       func(s []byte) []byte { return der(t, ecKey{2, s, p256OID, asn1.BitString{}}) },
		"public key":    func(s []byte) []byte { return der(t, ecKey{1, s, p256OID, bits(s)}) },
		"short":         func(s []byte) []byte { return der(t, ecKey{1, s[1:], p256OID, asn1.BitString{}}) },
		"zero":          func(s []byte) []byte { return der(t, ecKey{1, make([]byte, 32), p256OID, asn1.BitString{}}) },
		"bare":          func(s []byte) []byte { return s },
	} {
		mustFail(t, "composite: "+what, composite(f), keyenc.ErrMalformed)
	}
}

func TestPQJWK(t *testing.T) {
	k := pqKey(t, pqc.MLDSA44)
	x := base64.RawURLEncoding.EncodeToString(k.PublicKey().Bytes())
	for text, want := range map[string]error{
		`{"kty":"AKP","alg":"ML-DSA-44","pub":"` + x + `","kid":"1"}`:         nil,
		`{"kty":"AKP","alg":"ML-DSA-44","pub":"` + x + `","priv":"AA"}`:       keyenc.ErrUnsupported,
		`{"kty":"AKP","alg":"ML-DSA-65","pub":"` + x + `"}`:                   keyenc.ErrMalformed,
		`{"kty":"AKP","pub":"` + x + `"}`:                                     keyenc.ErrUnsupported,
		`{"kty":"AKP","alg":"ML-KEM-512","pub":"` + x + `"}`:                  keyenc.ErrUnsupported,
		`{"kty":"AKP","alg":"ML-DSA-44"}`:                                     keyenc.ErrMalformed,
		`{"kty":"AKP","alg":"ML-DSA-44","pub":"` + x + `="}`:                  keyenc.ErrMalformed,
		`{"kty":"AKP","alg":"ML-DSA-44","pub":"` + x[:len(x)-4] + `"}`:        keyenc.ErrMalformed,
		`{"kty":"AKP","alg":"ML-DSA-44","pub":"` + x + `","pub":"` + x + `"}`: keyenc.ErrMalformed,
	} {
		_, err := keyenc.ParseJWK([]byte(text))
		if !errors.Is(err, want) {
			t.Errorf("%.40s: %v, want %v", text, err, want)
		}
	}
}

// TestPQRFCExamples has the example keys of the RFCs' appendices: those of RFC 9935 appendix C.1 and C.2 (the first and last lines of
// its public key), RFC 9909 appendix C, and of RFC 9881 appendix C as filippo.io/mldsa's tests carry them.
func TestPQRFCExamples(t *testing.T) {
	parse := func(text string) *pqc.PrivateKey {
		t.Helper()
		raw := unbase64(t, text)
		k, err := keyenc.ParsePKCS8(raw)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := keyenc.MarshalPKCS8(k); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("written otherwise: %v", err)
		}
		return k.(*pqc.PrivateKey)
	}
	kem := parse("MFQCAQAwCwYJYIZIAWUDBAQBBEKAQAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=")
	text, err := keyenc.MarshalPublicPEM(kem.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if kem.Algorithm().Name() != pqc.MLKEM512 || !strings.HasPrefix(string(text), `-----BEGIN PUBLIC KEY-----
MIIDMjALBglghkgBZQMEBAEDggMhADmVgV5ZfRBDVc8pqlMzyTJRhp1bzb5IcST2
Ari2pmwWxHYWSK12XPXYAGtRXpBafwrAdrDGLvoygVPnylcBaZ8TBfHmvG+QsOSb
aTUSts6ZKouAFt38GmYsfj+WGcvYad13GvMIlszVkYrGy3dGbF53mZbWf/mqvJdQ
`) || !strings.HasSuffix(string(text), `
nMXEHf6DChsWLgsyQzQ2LwhKFEZ3IzRLrdAA+NjFN8SPmY8FMHzr0e3guBw7xZoG
WhttY7Js
-----END PUBLIC KEY-----
`) {
		t.Errorf("another public key:\n%s", text)
	}
	// draft-connolly-cfrg-xwing-kem-10 appendix D.
	xwing := parse("MDQCAQAwDQYLKwYBBAGD5i2ByHoEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f")
	text, err = keyenc.MarshalPublicPEM(xwing.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if xwing.Algorithm().Name() != pqc.XWing || !strings.HasPrefix(string(text), `-----BEGIN PUBLIC KEY-----
MIIE1DANBgsrBgEEAYPmLYHIegOCBMEAb1QJigoOZBFGYUtpYLpg2GA9YvRH+atJ
m0e9aQbMQLBh2GNKPoiQbyhJWOdEHKbHJcu5cJW3ZxpGK2aByeZYC7yNYLFJ+mAm
`) || !strings.HasSuffix(string(text), `
OhMjnzQvynZVtuquhFoiHOs+Z/VjnGGT9v3u9X45m4CLfzqitXQKre2QFj3F13XJ
+vfx+9B12rNE6dfRRmRygfu6ezxWyv1YM7epMOxCBufDptd2T+gdeg==
-----END PUBLIC KEY-----
`) {
		t.Errorf("another public key:\n%s", text)
	}
	slh := parse("MFICAQAwCwYJYIZIAWUDBAMUBECiJjvKRYYINlIxYASVI9YhZ3+tkNUetgZ6Mn4NHmSlASuBCex3fKpOHwJMz8+Ul9mRgFCSgPQlavKwevgCibSU")
	if slh.Algorithm().Name() != pqc.SLHDSASHA2128s {
		t.Errorf("%s", slh.Algorithm().Name())
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "filippo.io/mldsa").Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "x509", "x509_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	examples := map[string]string{}
	for _, m := range regexp.MustCompile(`(?s)var rfc9881Example(\w+) = [^\n]*\n-----BEGIN [A-Z ]+-----\n(.*?)\n-----END`).FindAllStringSubmatch(string(source), -1) {
		examples[m[1]] = strings.ReplaceAll(m[2], "\n", "")
	}
	for _, set := range []string{"44", "65", "87"} {
		k := parse(examples["PrivateKeyMLDSA"+set])
		if spki, err := keyenc.MarshalSPKI(k.PublicKey()); err != nil || !bytes.Equal(spki, unbase64(t, examples["PublicKeyMLDSA"+set])) {
			t.Errorf("ML-DSA-%s: another public key: %v", set, err)
		}
	}
}

// TestPQJudge: filippo.io/mldsa/x509 reads what we write, and the other way round.
func TestPQJudge(t *testing.T) {
	for name, params := range map[string]mldsa.Parameters{pqc.MLDSA44: mldsa.MLDSA44(), pqc.MLDSA65: mldsa.MLDSA65(), pqc.MLDSA87: mldsa.MLDSA87()} {
		judge, err := mldsa.GenerateKey(params)
		if err != nil {
			t.Fatal(err)
		}
		p8, err := mldsax509.MarshalPKCS8PrivateKey(judge)
		if err != nil {
			t.Fatal(err)
		}
		k, err := keyenc.ParsePKCS8(p8)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ours, err := keyenc.MarshalPKCS8(k)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := mldsax509.ParsePKCS8PrivateKey(ours); err != nil || !judge.Equal(back.(*mldsa.PrivateKey)) {
			t.Errorf("%s: the judge reads another private key: %v", name, err)
		}
		spki, err := keyenc.MarshalSPKI(k.(*pqc.PrivateKey).PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		if back, err := mldsax509.ParsePKIXPublicKey(spki); err != nil || !judge.PublicKey().Equal(back) {
			t.Errorf("%s: the judge reads another public key: %v", name, err)
		}
		theirs, err := mldsax509.MarshalPKIXPublicKey(judge.PublicKey())
		if err != nil || !bytes.Equal(theirs, spki) {
			t.Errorf("%s: the judge writes another public key: %v", name, err)
		}
	}
}

// TestPQWycheproof reads the encoded keys of Project Wycheproof's ML-DSA vectors.
func TestPQWycheproof(t *testing.T) {
	private, public := 0, 0
	for _, set := range []string{"44", "65", "87"} {
		for _, kind := range []string{"sign_seed", "verify"} {
			data, err := fs.ReadFile(wycheproof.TestVectors, "mldsa_"+set+"_"+kind+"_test.json")
			if err != nil {
				t.Fatal(err)
			}
			var f struct {
				TestGroups []struct{ PrivateSeed, PrivateKeyPkcs8, PublicKey, PublicKeyDer string }
			}
			if err := json.Unmarshal(data, &f); err != nil {
				t.Fatal(err)
			}
			for _, g := range f.TestGroups {
				raw := unhex(t, g.PublicKey)
				if g.PrivateKeyPkcs8 != "" {
					k, err := keyenc.ParsePKCS8(unhex(t, g.PrivateKeyPkcs8))
					if len(g.PrivateSeed) != 64 {
						mustFail(t, "a seed of another size", err, keyenc.ErrMalformed)
						continue
					}
					private++
					var got crypto.PublicKey
					if err == nil {
						got, err = keyenc.PublicOf(k)
					}
					if err != nil || !bytes.Equal(got.(*pqc.PublicKey).Bytes(), raw) {
						t.Errorf("ML-DSA-%s: %v", set, err)
					}
				}
				if g.PublicKeyDer != "" {
					k, err := keyenc.ParseSPKI(unhex(t, g.PublicKeyDer))
					if len(raw) != pqAlg(t, "ML-DSA-"+set).Info().PublicKeySize {
						mustFail(t, "a public key of another size", err, keyenc.ErrMalformed)
						continue
					}
					public++
					if err != nil || !bytes.Equal(k.(*pqc.PublicKey).Bytes(), raw) {
						t.Errorf("ML-DSA-%s: %v", set, err)
					}
				}
			}
		}
	}
	if private < 60 || public < 60 {
		t.Errorf("%d private keys, %d public keys", private, public)
	}
}

// addPQ adds a key of each form to a corpus.
func addPQ(f *testing.F, encode func(k *pqc.PrivateKey) ([]byte, error)) {
	f.Helper()
	for _, name := range []string{pqc.MLKEM512, pqc.XWing, pqc.MLDSA44, pqc.SLHDSASHA2128f, pqc.MLDSA65P256, pqc.MLDSA65Ed25519} {
		raw, err := encode(pqKey(f, name))
		if err == nil { // not all have a JWK
			f.Add(raw)
		}
	}
}
