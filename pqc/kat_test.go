package pqc

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var writeKAT = flag.Bool("write-kat", false, "write kat.txt from the published vectors")

// TestKnownAnswers makes the known answers of the self-tests from where they were published.
func TestKnownAnswers(t *testing.T) {
	if raceDetector {
		return // reading the large files takes half a minute, and nothing in it runs at the same time
	}
	var lines []string
	add := func(name string, fields ...any) {
		line := name
		for i := 0; i < len(fields); i += 2 {
			line += fmt.Sprintf(" %s=%s", fields[i], base64.RawStdEncoding.EncodeToString(fields[i+1].([]byte)))
		}
		lines = append(lines, line)
	}
	digest := func(b []byte) []byte { d := sha256.Sum256(b); return d[:] }

	// ML-KEM: the first valid vector of Project Wycheproof that NIST's source gave.
	for _, bits := range []string{"512", "768", "1024"} {
		for _, g := range wycheproofFile(t, "mlkem_"+bits) {
			if g.Source.Name != "FIPS 203" {
				continue
			}
			c := g.Tests[slices.IndexFunc(g.Tests, func(c wycheproofCase) bool { return c.Result == "valid" && len(c.EK) > 0 })]
			add("ML-KEM-"+bits, "seed", []byte(c.Seed), "public", digest(c.EK), "ciphertext", []byte(c.C), "shared", []byte(c.K))
			break
		}
	}
	// X-Wing: the first test vector of the draft, appendix C.
	add(XWing, "seed", unhex(t, "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"),
		"coins", unhex(t, "3cb1eea988004b93103cfb0aeefd2a686e01fa4a58e8a3639ca8a1e3f9ae57e235b8cc873c23dc62b8d260169afa2f75ab916a58d974918835d25e6a435085b2"),
		"shared", unhex(t, "d2df0522128f09dd8e2c92b1e905c793d8f57a54c3da25861f10bf4ca613e384"))
	// DH KEMs: RFC 9180 appendix A, and for P-384, which has none there, what the standard library encapsulates, kept from then on.
	for _, name := range []string{DHKEMP256, DHKEMP384, DHKEMP521, DHKEMX25519, DHKEMX448} {
		if v, ok := rfc9180(t)[name]; ok {
			add(name, "seed", []byte(v.SkRm), "public", digest(v.PkRm), "ciphertext", []byte(v.Enc), "shared", []byte(v.Shared))
			continue
		}
		old, err := kat(name)
		if err != nil {
			old = p384KAT(t)
		}
		add(name, "seed", old["seed"], "ciphertext", old["ciphertext"], "shared", old["shared"])
	}
	// ML-DSA: Project Wycheproof, the first with a context.
	for _, name := range []string{"44", "65", "87"} {
		line := false
		for _, g := range wycheproofFile(t, "mldsa_"+name+"_sign_seed") {
			for _, c := range g.Tests {
				if c.Result == "valid" && len(c.Ctx) > 0 && len(c.Msg) > 0 && !slices.Contains(c.Flags, "Randomized") && !line {
					add("ML-DSA-"+name, "seed", []byte(g.PrivateSeed), "public", digest(g.PublicKey), "message", []byte(c.Msg),
						"context", []byte(c.Ctx), "signature", digest(c.Sig))
					line = true
				}
			}
		}
		if !line {
			t.Errorf("no vector for ML-DSA-%s", name)
		}
	}
	// SLH-DSA: NIST's, of each set that with the shortest message.
	const dir = "sign/slhdsa/testdata/"
	best := map[string]func(){}
	size := map[string]int{}
	choose := func(set string, n int, f func()) {
		if best[set] == nil || n < size[set] {
			best[set], size[set] = f, n
		}
	}
	acvpPair(t, dir+"sigGen_prompt.json.gz", dir+"sigGen_results.json.gz", func(_ *testing.T, g *acvpGroup, in, want *acvpCase) {
		if g.Deterministic && g.PreHash == "pure" && strings.HasSuffix(g.ParameterSet, "f") {
			n := len(in.SK) / 4
			choose(g.ParameterSet, len(in.Message)+len(in.Context), func() {
				add(g.ParameterSet, "seed", []byte(in.SK[:3*n]), "key", []byte(in.SK[2*n:]), "message", []byte(in.Message),
					"context", []byte(in.Context), "signature", []byte(want.Signature))
			})
		}
	})
	acvpPair(t, dir+"verify_prompt.json.gz", dir+"verify_results.json.gz", func(_ *testing.T, g *acvpGroup, in, want *acvpCase) {
		if want.Passed && g.PreHash == "pure" && strings.HasSuffix(g.ParameterSet, "s") {
			choose(g.ParameterSet, len(in.Message)+len(in.Context), func() {
				add(g.ParameterSet, "key", []byte(in.PK), "message", []byte(in.Message), "context", []byte(in.Context), "signature", []byte(in.Signature))
			})
		}
	})
	for _, a := range Algorithms() {
		if f := best[a.Name()]; f != nil {
			f()
		}
	}
	// Composites: appendix E of the draft, which tink-go carries.
	for name, v := range draftComposites(t) {
		add(name, "seed", v.seed, "public", digest(v.public), "message", v.message, "signature", v.signature)
	}
	slices.Sort(lines)
	made := strings.Join(lines, "\n") + "\n"
	if *writeKAT {
		if err := os.WriteFile("kat.txt", []byte(made), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if made != katText {
		t.Errorf("kat.txt is not what was published: %s", cmp.Diff(strings.Split(katText, "\n"), lines))
	}
	if len(lines) != len(table) {
		t.Errorf("%d known answers for %d algorithms", len(lines), len(table))
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// p384KAT is an encapsulation by the standard library.
func p384KAT(t *testing.T) map[string][]byte {
	t.Helper()
	priv, err := ecdh.P384().GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := hpke.NewDHKEMPublicKey(priv.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	// The standard library keeps the shared secret to itself: it is judged by what it exports in TestHPKEJudges. Here we take our own.
	a := lookup(t, DHKEMP384)
	p, err := a.ParsePublicKey(pub.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	ct, ss, err := p.Encapsulate()
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"seed": priv.Bytes(), "ciphertext": ct, "shared": ss}
}

type hpkeVector struct {
	Mode   int      `json:"mode"`
	KEM    int      `json:"kem_id"`
	KDF    int      `json:"kdf_id"`
	AEAD   int      `json:"aead_id"`
	Info   hexBytes `json:"info"`
	SkRm   hexBytes `json:"skRm"`
	PkRm   hexBytes `json:"pkRm"`
	Enc    hexBytes `json:"enc"`
	Shared hexBytes `json:"shared_secret"`
	IkmE   hexBytes `json:"ikmE"`
	Sealed []struct {
		AAD hexBytes `json:"aad"`
		CT  hexBytes `json:"ct"`
		PT  hexBytes `json:"pt"`
	} `json:"encryptions"`
}

// rfc9180All is the vectors of RFC 9180, as circl carries them: base mode with HKDF-SHA256.
func rfc9180All(t testing.TB) map[string][]hpkeVector {
	t.Helper()
	var all []hpkeVector
	circlJSON(t, "hpke/testdata/vectors_rfc9180_5f503c5.json.gz", &all)
	names := map[int]string{0x10: DHKEMP256, 0x11: DHKEMP384, 0x12: DHKEMP521, 0x20: DHKEMX25519, 0x21: DHKEMX448}
	m := map[string][]hpkeVector{}
	for _, v := range all {
		if v.Mode == 0 && v.KDF == 1 {
			m[names[v.KEM]] = append(m[names[v.KEM]], v)
		}
	}
	return m
}

func rfc9180(t testing.TB) map[string]hpkeVector {
	t.Helper()
	m := map[string]hpkeVector{}
	for name, all := range rfc9180All(t) {
		m[name] = all[0]
	}
	return m
}

type draftComposite struct{ seed, public, message, signature []byte }

// draftComposites reads the vectors of draft-ietf-lamps-pq-composite-sigs, appendix E, from the source of tink-go's tests: those of version 14,
// which the versions up to 19 kept.
func draftComposites(t testing.TB) map[string]draftComposite {
	t.Helper()
	constants := map[string][]byte{}
	dir := moduleDir(t, "github.com/tink-crypto/tink-go/v2")
	for _, file := range []string{"internal/signature/compositemldsa/testing/test_vectors.go", "signature/compositemldsa/signer_verifier_test.go"} {
		source, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^const hex(\w+) = "([0-9a-f]+)"`).FindAllStringSubmatch(string(source), -1) {
			constants[m[1]] = unhex(t, m[2])
		}
	}
	get := func(name string) []byte {
		if constants[name] == nil {
			t.Fatalf("no constant %s", name)
		}
		return constants[name]
	}
	return map[string]draftComposite{
		MLDSA65P256: {
			slices.Concat(get("MlDsa65PrivSeedForEcdsaP256"), get("MlDsa65EcdsaP256Priv")),
			slices.Concat(get("MlDsa65PubForEcdsaP256"), []byte{4}, get("MlDsa65EcdsaP256PubX"), get("MlDsa65EcdsaP256PubY")),
			get("Message"), get("MlDsa65EcdsaP256Signature"),
		},
		MLDSA65Ed25519: {
			slices.Concat(get("MlDsa65PrivSeedForEd25519"), get("MlDsa65Ed25519Priv")),
			slices.Concat(get("MlDsa65PubForEd25519"), get("MlDsa65Ed25519Pub")),
			get("Message"), get("MlDsa65Ed25519Signature"),
		},
	}
}
