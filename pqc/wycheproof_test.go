package pqc

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/fault"
)

// TestWycheproofMLKEM runs Project Wycheproof's vectors, among them C2SP's CCTV: strcmp, modulus, and the unlucky ones that need more than
// the usual rejection sampling.
func TestWycheproofMLKEM(t *testing.T) {
	sources, flags := map[string]int{}, map[string]int{}
	decapsulated, encapsulated, generated := 0, 0, 0
	for _, bits := range []string{"512", "768", "1024"} {
		alg := lookup(t, "ML-KEM-"+bits)
		for _, g := range wycheproofFile(t, "mlkem_"+bits) {
			for _, c := range g.Tests {
				sources[g.Source.Name]++
				for _, f := range c.Flags {
					flags[f]++
				}
				decapsulated++
				k, err := alg.NewPrivateKey(c.Seed)
				if err != nil {
					if c.Result == "valid" || !fault.Has(err, fault.BadImport) {
						t.Errorf("%s %d: %v", bits, c.ID, err)
					}
					continue
				}
				if c.EK != nil && !bytes.Equal(k.PublicKey().Bytes(), c.EK) && c.Result == "valid" {
					t.Errorf("%s %d: another public key", bits, c.ID)
				}
				ss, err := k.Decapsulate(c.C)
				switch {
				case c.Result == "valid" && (err != nil || !bytes.Equal(ss, c.K)):
					t.Errorf("%s %d (%s): %v", bits, c.ID, c.Comment, err)
				case c.Result == "invalid" && err == nil && bytes.Equal(ss, c.K) && len(c.K) > 0:
					t.Errorf("%s %d (%s): taken", bits, c.ID, c.Comment)
				case err != nil && !fault.Has(err, fault.DecryptionFailed):
					t.Errorf("%s %d: %v", bits, c.ID, err)
				}
			}
		}
		for _, g := range wycheproofFile(t, "mlkem_"+bits+"_encaps") {
			for _, c := range g.Tests {
				sources[g.Source.Name]++
				encapsulated++
				p, err := alg.ParsePublicKey(c.EK)
				if c.Result == "invalid" {
					if !fault.Has(err, fault.BadImport) {
						t.Errorf("%s %d (%s): %v", bits, c.ID, c.Comment, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s %d: %v", bits, c.ID, err)
					continue
				}
				ct, ss, err := p.impl.(kemPublic).encapsulate(c.M)
				if err != nil || !bytes.Equal(ct, c.C) || !bytes.Equal(ss, c.K) {
					t.Errorf("%s %d: %v", bits, c.ID, err)
				}
			}
		}
		for _, g := range wycheproofFile(t, "mlkem_"+bits+"_keygen_seed") {
			for _, c := range g.Tests {
				generated++
				k, err := alg.NewPrivateKey(c.Seed)
				if err != nil {
					t.Fatal(err)
				}
				dk, err := k.Expanded()
				if err != nil || !bytes.Equal(dk, c.DK) || !bytes.Equal(k.PublicKey().Bytes(), c.EK) {
					t.Errorf("%s %d: %v", bits, c.ID, err)
				}
			}
		}
	}
	t.Logf("%d decapsulated, %d encapsulated, %d generated; sources %v; flags %v", decapsulated, encapsulated, generated, sources, flags)
	if decapsulated < 500 || encapsulated < 500 || generated < 250 {
		t.Errorf("only %d, %d, %d vectors", decapsulated, encapsulated, generated)
	}
	if sources["CCTV/strcmp"] < 3 || sources["CCTV/modulus"] < 3*100 || sources["CCTV/unlucky"] < 3 {
		t.Errorf("vectors of CCTV are missing: %v", sources)
	}
}

func TestWycheproofMLDSA(t *testing.T) {
	signed, verified, byMu := 0, 0, 0
	for _, name := range []string{"44", "65", "87"} {
		alg := lookup(t, "ML-DSA-"+name)
		for _, g := range wycheproofFile(t, "mldsa_"+name+"_sign_seed") {
			k, err := alg.NewPrivateKey(g.PrivateSeed)
			if err != nil {
				if g.Tests[0].Result == "valid" || !fault.Has(err, fault.BadImport) {
					t.Errorf("%s %d: %v", name, g.Tests[0].ID, err)
				}
				continue
			}
			if g.PublicKey != nil && !bytes.Equal(g.PublicKey, k.PublicKey().Bytes()) {
				t.Errorf("%s: another public key", name)
			}
			for _, c := range g.Tests {
				signed++
				internal := slices.Contains(c.Flags, "Internal") || c.Msg == nil && c.Mu != nil
				o := SignOptions{Context: c.Ctx, Deterministic: true}
				if !internal && !slices.Contains(c.Flags, "Randomized") {
					sig, err := k.Sign(c.Msg, o)
					if c.Result == "valid" && (err != nil || !bytes.Equal(sig, c.Sig)) || c.Result == "invalid" && err == nil {
						t.Errorf("%s %d (%s): %v", name, c.ID, c.Comment, err)
					}
					if c.Result == "invalid" && !fault.Has(err, fault.BadSize) {
						t.Errorf("%s %d: %v", name, c.ID, err)
					}
				}
				if c.Mu == nil || c.Result != "valid" {
					continue
				}
				byMu++
				if !internal {
					if mu, err := k.PublicKey().Mu(c.Msg, o); err != nil || !bytes.Equal(mu, c.Mu) {
						t.Errorf("%s %d: another mu: %v", name, c.ID, err)
					}
				}
				if !slices.Contains(c.Flags, "Randomized") {
					if sig, err := k.Sign(c.Mu, SignOptions{ExternalMu: true, Deterministic: true}); err != nil || !bytes.Equal(sig, c.Sig) {
						t.Errorf("%s %d (%s): external mu: %v", name, c.ID, c.Comment, err)
					}
				}
				if ok, err := k.PublicKey().Verify(c.Mu, c.Sig, SignOptions{ExternalMu: true}); err != nil || !ok {
					t.Errorf("%s %d (%s): external mu does not verify: %v", name, c.ID, c.Comment, err)
				}
			}
		}
		for _, g := range wycheproofFile(t, "mldsa_"+name+"_verify") {
			p, err := alg.ParsePublicKey(g.PublicKey)
			for _, c := range g.Tests {
				verified++
				if err != nil {
					if c.Result == "valid" || !fault.Has(err, fault.BadImport) {
						t.Errorf("%s %d: %v", name, c.ID, err)
					}
					continue
				}
				ok, err := p.Verify(c.Msg, c.Sig, SignOptions{Context: c.Ctx})
				if ok != (c.Result == "valid") || err != nil && (len(c.Ctx) <= MaxContext || !fault.Has(err, fault.BadSize)) {
					t.Errorf("%s %d (%s): %v, %v", name, c.ID, c.Comment, ok, err)
				}
				if len(c.Ctx) > MaxContext {
					continue
				}
				// The same by the message representative, which is our own code.
				mu, err := p.Mu(c.Msg, SignOptions{Context: c.Ctx})
				if err != nil {
					t.Fatal(err)
				}
				if again, err := p.Verify(mu, c.Sig, SignOptions{ExternalMu: true}); err != nil || again != ok {
					t.Errorf("%s %d (%s): %v by mu, %v", name, c.ID, strings.Join(c.Flags, " "), again, err)
				}
			}
		}
	}
	t.Logf("%d signed, %d by mu, %d verified", signed, byMu, verified)
	if signed < 270 || byMu < 250 || verified < 500 {
		t.Errorf("only %d, %d, %d vectors", signed, byMu, verified)
	}
}
