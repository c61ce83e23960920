package verify_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"maps"
	"testing"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/verify"
)

// run is how the signatures of one file are checked.
type run struct {
	file    string
	padding backend.Padding
	p1363   bool
}

// leastVectors keeps a change of the vectors' form from making the test empty.
var leastVectors = map[backend.Algorithm]int{
	backend.ECDSAP256: 1632, backend.ECDSAP384: 2116, backend.ECDSAP521: 860, backend.Ed25519: 151, backend.Ed448: 87,
	backend.RSA2048: 1220, backend.RSA3072: 886, backend.RSA4096: 1300,
}

func TestWycheproof(t *testing.T) {
	var runs []run
	for curve, hashes := range map[string][]int{"256": {256, 512}, "384": {256, 384, 512}, "521": {512}} {
		for _, h := range hashes {
			runs = append(runs, run{file: fmt.Sprintf("ecdsa_secp%sr1_sha%d", curve, h)})
			if curve != "384" || h != 256 { // the one that has no vectors
				runs = append(runs, run{file: fmt.Sprintf("ecdsa_secp%sr1_sha%d_p1363", curve, h), p1363: true})
			}
		}
	}
	for _, bits := range []int{2048, 3072, 4096} {
		for _, h := range []int{256, 384, 512} {
			runs = append(runs, run{file: fmt.Sprintf("rsa_signature_%d_sha%d", bits, h), padding: backend.PaddingPKCS1v15})
		}
	}
	for _, pss := range []string{
		"2048_sha256_mgf1_32", "2048_sha384_mgf1_48", "2048_sha256_mgf1_0", "2048_sha256_mgf1sha1_20", "3072_sha256_mgf1_32",
		"4096_sha256_mgf1_32", "4096_sha384_mgf1_48", "4096_sha512_mgf1_32", "4096_sha512_mgf1_64", "misc",
	} {
		runs = append(runs, run{file: "rsa_pss_" + pss, padding: backend.PaddingPSS})
	}
	runs = append(runs, run{file: "ed25519"}, run{file: "ed448"})

	var tally backendtest.Tally[backend.Algorithm]
	for _, r := range runs {
		t.Run(r.file, func(t *testing.T) {
			for _, g := range backendtest.Vectors(t, r.file) {
				r.group(t, &g, &tally)
			}
		})
	}
	least := maps.Clone(leastVectors)
	if backendtest.RaceDetector {
		least[backend.ECDSAP384], least[backend.ECDSAP521] = 700, 280
	}
	tally.AtLeast(t, least)
}

func (r run) group(t *testing.T, g *backendtest.VectorGroup, tally *backendtest.Tally[backend.Algorithm]) {
	pub, err := keyenc.ParseSPKI(g.PublicKeyDER)
	if err != nil {
		t.Fatalf("public key: %v", err)
	}
	alg := algorithmOf(pub)
	opts := backend.SignOpts{Padding: r.padding}
	if g.Sha != "" && alg != backend.Ed25519 && alg != backend.Ed448 {
		var ok bool
		if opts.Hash, ok = backendtest.VectorHash(g.Sha); !ok || opts.Hash == crypto.SHA1 || alg == "" {
			tally.Passed(alg, len(g.Tests))
			return
		}
	}
	// A salt of another length, or MGF1 with another hash, is another scheme: there every valid signature is a wrong one, and
	// what is wrong there may be right here.
	foreign := r.padding == backend.PaddingPSS && (g.SLen != opts.Hash.Size() || g.MGFSha != g.Sha)
	slow := backendtest.RaceDetector && (alg == backend.ECDSAP384 || alg == backend.ECDSAP521)
	for _, v := range g.Tests {
		if slow && v.ID%3 != 0 {
			tally.Passed(alg, 1)
			continue
		}
		if foreign && v.Result != "valid" {
			tally.Passed(alg, 1)
			continue
		}
		input := []byte(v.Msg)
		if opts.Hash != 0 {
			h := opts.Hash.New()
			h.Write(v.Msg)
			input = h.Sum(nil)
		}
		valid, err := verify.Signature(pub, alg, input, opts, r.p1363, v.Sig)
		if err != nil {
			t.Errorf("vector %d: %v", v.ID, err)
			continue
		}
		// "acceptable" are PKCS#1 v1.5 signatures without the NULL of RFC 8017 appendix A.2.4: strictly, wrong.
		if want := v.Result == "valid" && !foreign; valid != want {
			t.Errorf("vector %d (%s %v): valid %v, want %v", v.ID, v.Comment, v.Flags, valid, want)
		}
		tally.Ran(alg)
	}
}

// algorithmOf is "" for keys of a size that the table does not have.
func algorithmOf(pub crypto.PublicKey) backend.Algorithm {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		a, _ := backend.Lookup(backend.Algorithm(fmt.Sprintf("RSA-%d", k.N.BitLen())))
		return a.Name
	case *ecdsa.PublicKey:
		a, _ := backend.Lookup(backend.Algorithm(fmt.Sprintf("ECDSA-P%d", k.Curve.Params().BitSize)))
		return a.Name
	case ed25519.PublicKey:
		return backend.Ed25519
	case ed448.PublicKey:
		return backend.Ed448
	}
	return ""
}
