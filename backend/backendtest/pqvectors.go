package backendtest

import (
	"bytes"
	"compress/gzip"
	"encoding/asn1"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"
	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// pqSets are the algorithms of FIPS 203 and 204 by their names in the vectors, with their object identifiers (RFC 9935 section 3, RFC 9881 section 2).
var pqSets = map[backend.Algorithm]struct {
	file string // of Wycheproof
	oid  asn1.ObjectIdentifier
	seed int // bytes
}{
	backend.MLKEM512:  {"mlkem_512", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 1}, 64},
	backend.MLKEM768:  {"mlkem_768", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 2}, 64},
	backend.MLKEM1024: {"mlkem_1024", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 3}, 64},
	backend.MLDSA44:   {"mldsa_44_sign_seed", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}, 32},
	backend.MLDSA65:   {"mldsa_65_sign_seed", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}, 32},
	backend.MLDSA87:   {"mldsa_87_sign_seed", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 19}, 32},
}

// seedPKCS8 encodes a seed, also one of a wrong size, without the program's own codecs: the seed form is [0] IMPLICIT OCTET STRING.
func seedPKCS8(t testing.TB, a backend.Algorithm, seed []byte) []byte {
	t.Helper()
	inner := marshal(t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: seed})
	return marshal(t, oneAsymmetricKey{Algorithm: algorithmIdentifier{pqSets[a].oid}, PrivateKey: inner})
}

type pqGroup struct {
	PrivateSeed Hex        `json:"privateSeed"`
	PublicKey   Hex        `json:"publicKey"`
	Tests       []pqVector `json:"tests"`
}

type pqVector struct {
	ID      int      `json:"tcId"`
	Comment string   `json:"comment"`
	Flags   []string `json:"flags"`
	Result  string   `json:"result"`
	Seed    Hex      `json:"seed"`
	EK      Hex      `json:"ek"`
	C       Hex      `json:"c"`
	K       Hex      `json:"K"`
	Msg     Hex      `json:"msg"`
	Ctx     Hex      `json:"ctx"`
	Mu      Hex      `json:"mu"`
	Sig     Hex      `json:"sig"`
}

func pqVectors(t testing.TB, a backend.Algorithm) []pqGroup {
	t.Helper()
	data, err := fs.ReadFile(wycheproof.TestVectors, pqSets[a].file+"_test.json")
	if err != nil {
		t.Fatalf("Wycheproof: %v", err)
	}
	var file struct {
		Groups []pqGroup `json:"testGroups"`
	}
	if err := json.Unmarshal(data, &file); err != nil || len(file.Groups) == 0 {
		t.Fatalf("Wycheproof: %s: %d groups, %v", pqSets[a].file, len(file.Groups), err)
	}
	return file.Groups
}

// withSeed is with for a seed that may be a wrong one, and compares the public key that comes out.
func (w *wycheproofRun) withSeed(t *testing.T, k kind, id int, seed, public []byte, f func(backend.Key)) {
	t.Helper()
	der := seedPKCS8(t, k.Algorithm, seed)
	if len(seed) != pqSets[k.Algorithm].seed {
		_, err := w.imp.Import(t.Context(), w.spec(k), der)
		want(t, "Import of a seed of another size", err, fault.BadImport)
		return
	}
	w.with(t, k, der, func(key backend.Key) {
		if got := rawPublic(t, spki(t, key.Public())); public != nil && !bytes.Equal(got, public) {
			t.Errorf("vector %d: another public key", id)
			return
		}
		f(key)
	})
}

// mlkem runs the decapsulations of Wycheproof, with those of C2SP's CCTV that are among them, and the keys of NIST's ACVP.
func (w *wycheproofRun) mlkem(t *testing.T, k kind) {
	for _, g := range pqVectors(t, k.Algorithm) {
		for _, v := range g.Tests {
			w.tally.Ran(k.Algorithm)
			public := v.EK
			if v.Result != "valid" {
				public = nil // some are wrong in this
			}
			w.withSeed(t, k, v.ID, v.Seed, public, func(key backend.Key) {
				ss, err := key.(backend.Decapsulator).Decapsulate(t.Context(), v.C)
				switch {
				case v.Result == "valid" && (err != nil || !bytes.Equal(ss, v.K)):
					t.Errorf("vector %d (%s): %v", v.ID, v.Comment, err)
				case v.Result == "invalid" && err == nil && bytes.Equal(ss, v.K):
					t.Errorf("vector %d (%s): accepted", v.ID, v.Comment)
				case err != nil:
					want(t, v.Comment, err, fault.DecryptionFailed)
				}
			})
		}
	}
	for _, c := range acvpKeys(t, "kem/mlkem/testdata/ML-KEM-keyGen-FIPS203", k.Algorithm) {
		w.tally.Ran(k.Algorithm)
		w.withSeed(t, k, c.ID, slices.Concat(c.D, c.Z), c.EK, func(key backend.Key) { checkDecapsulator(t, k, key.(backend.Decapsulator)) })
	}
}

// mldsa runs Wycheproof's signatures of the pure and deterministic form, by message and by mu where the device takes one, and the keys of NIST's ACVP.
func (w *wycheproofRun) mldsa(t *testing.T, k kind) {
	for _, g := range pqVectors(t, k.Algorithm) {
		if len(g.PrivateSeed) != pqSets[k.Algorithm].seed {
			w.tally.Ran(k.Algorithm)
		}
		w.withSeed(t, k, g.Tests[0].ID, g.PrivateSeed, g.PublicKey, func(key backend.Key) {
			signer := key.(backend.Signer)
			for _, v := range g.Tests {
				if slices.Contains(v.Flags, "Randomized") {
					w.tally.Passed(k.Algorithm, 1)
					continue
				}
				w.tally.Ran(k.Algorithm)
				if v.Msg != nil && !slices.Contains(v.Flags, "Internal") {
					got, err := signer.Sign(t.Context(), v.Msg, backend.SignOpts{Context: string(v.Ctx), Deterministic: true})
					judge(t, &Vector{ID: v.ID, Comment: v.Comment, Flags: v.Flags, Result: v.Result}, got, v.Sig, err, fault.BadSize)
				}
				if v.Mu != nil && v.Result == "valid" {
					got, err := signer.Sign(t.Context(), v.Mu, backend.SignOpts{ExternalMu: true, Deterministic: true})
					if k.Custody == backend.CustodyDevice && fault.Has(err, fault.Unsupported) {
						continue // PKCS#11 3.2 has no mechanism for it
					}
					judge(t, &Vector{ID: v.ID, Comment: "mu: " + v.Comment, Flags: v.Flags, Result: v.Result}, got, v.Sig, err, fault.BadSize)
				}
			}
		})
	}
	for _, c := range acvpKeys(t, "sign/mldsa/testdata/ML-DSA-keyGen-FIPS204", k.Algorithm) {
		w.tally.Ran(k.Algorithm)
		w.withSeed(t, k, c.ID, c.Seed, c.PK, func(key backend.Key) { checkSigner(t, k, key.(backend.Signer), backend.SignOpts{}) })
	}
}

// acvpKey is a case of NIST's vectors of key generation: its seed, and what comes of it.
type acvpKey struct {
	ID   int `json:"tcId"`
	D    Hex `json:"d"`
	Z    Hex `json:"z"`
	Seed Hex `json:"seed"`
	EK   Hex `json:"ek"`
	PK   Hex `json:"pk"`
}

// acvpKeys reads the vectors of an algorithm, which circl's module carries. The other vectors of ACVP for private keys have expanded keys, which no
// backend takes: package pqc runs those.
func acvpKeys(t testing.TB, dir string, a backend.Algorithm) []acvpKey {
	t.Helper()
	type file struct {
		Groups []struct {
			ParameterSet string    `json:"parameterSet"`
			Tests        []acvpKey `json:"tests"`
		} `json:"testGroups"`
	}
	var prompt, results file
	module := circlDir(t)
	readGzip(t, filepath.Join(module, dir, "prompt.json.gz"), &prompt)
	readGzip(t, filepath.Join(module, dir, "expectedResults.json.gz"), &results)
	right := map[int]acvpKey{}
	for _, g := range results.Groups {
		for _, c := range g.Tests {
			right[c.ID] = c
		}
	}
	var out []acvpKey
	for _, g := range prompt.Groups {
		if g.ParameterSet != string(a) {
			continue
		}
		for _, c := range g.Tests {
			c.EK, c.PK = right[c.ID].EK, right[c.ID].PK
			if len(c.EK)+len(c.PK) == 0 {
				t.Fatalf("ACVP: case %d has no result", c.ID)
			}
			out = append(out, c)
		}
	}
	if len(out) < 25 {
		t.Fatalf("ACVP: only %d cases of %s", len(out), a)
	}
	return out
}

// circlDir is where the go command keeps circl, with its test data.
func circlDir(t testing.TB) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cloudflare/circl").Output()
	if err != nil {
		t.Fatalf("go list of circl: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func readGzip(t testing.TB, path string, into any) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}
