package pqc

import (
	"bytes"
	stdmlkem "crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/fault"
)

// TestWycheproofMLKEM runs Project Wycheproof's vectors, among them strcmp and modulus of C2SP's CCTV; its unlucky ones are in
// TestUnlucky.
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
				ct, ss, err := encapsulateWith(t, p, c.M)
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
	if sources["CCTV/strcmp"] < 3 || sources["CCTV/modulus"] < 3*12 {
		t.Errorf("vectors of CCTV are missing: %v", sources)
	}
}

// TestWycheproofExpanded has the vectors of expanded private keys, which this package takes nowhere: they go to the code behind it.
func TestWycheproofExpanded(t *testing.T) {
	kem, signed := 0, 0
	for _, bits := range []string{"512", "768", "1024"} {
		s := lookup(t, "ML-KEM-"+bits).scheme.(circlKEM)
		for _, g := range wycheproofFile(t, "mlkem_"+bits+"_semi_expanded_decaps") {
			for _, c := range g.Tests {
				kem++
				var ss []byte
				sk, err := s.UnmarshalBinaryPrivateKey(c.DK)
				if err == nil {
					ss, err = (&circlKEMPrivate{s.Scheme, sk}).decapsulate(c.C)
				}
				if ok := err == nil && bytes.Equal(ss, c.K); ok != (c.Result == "valid") {
					t.Errorf("%s %d (%s): %v", bits, c.ID, c.Comment, err)
				}
			}
		}
	}
	for _, name := range []string{"44", "65", "87"} {
		for _, g := range wycheproofFile(t, "mldsa_"+name+"_sign_noseed") {
			for _, c := range g.Tests {
				if c.Result != "valid" || len(c.Mu) == 0 {
					continue
				}
				signed++
				p, err := lookup(t, "ML-DSA-"+name).ParsePublicKey(g.PublicKey)
				if err != nil {
					t.Fatal(err)
				}
				if ok, err := p.Verify(c.Mu, c.Sig, SignOptions{ExternalMu: true}); err != nil || !ok {
					t.Errorf("%s %d (%s): %v, %v", name, c.ID, c.Comment, ok, err)
				}
				if c.Msg == nil {
					continue
				}
				if ok, err := p.Verify(c.Msg, c.Sig, SignOptions{Context: c.Ctx}); err != nil || !ok {
					t.Errorf("%s %d (%s): %v, %v", name, c.ID, c.Comment, ok, err)
				}
			}
		}
	}
	if kem < 24 || signed < 150 {
		t.Errorf("only %d and %d vectors", kem, signed)
	}
}

// TestUnlucky has C2SP's CCTV vectors whose matrix needs more than 575 bytes of SHAKE128, which happens to one key in 2^38. The judge's
// ciphertext is compared too, where there is a judge.
func TestUnlucky(t *testing.T) {
	const z, m = "8476013560151d986dc7834dcb57c75f845f8d7ee71558d0955f3f4feb723cf2", "e48f74ad416e99631003ded1478aec62a02c245d88ed7f2fae92aedf13ca03b3"
	for name, v := range map[string]struct{ d, k string }{
		MLKEM512: {"2d391adbf4f7e004b09449c48dca574e590c59bd1c8e8095c942b7dd99f7b5da",
			"1fbae951c9bc549639ea851d44e21da5fb9bd25407e09c1a888a309ca00b5f43"},
		MLKEM768: {"82c4a361586b9715c2375a45fb85c32d04be7fe6e26acd820ec5d4080093afe1",
			"4f7cc64c040fc4e335a539691f4638caf8b1bf5da6455754afe699e41813801b"},
		MLKEM1024: {"9526e27d918ae2379c067c81c59eca33fcd7045ea098c6ea6ed7d8aaea511cb6",
			"984b648fda1cc7ff5fb01d89387f1827ffd43f0bd6c12b157b8b6101273a01ee"},
	} {
		k, err := lookup(t, name).NewPrivateKey(unhex(t, v.d+z))
		if err != nil {
			t.Fatal(err)
		}
		ct, ss, err := encapsulateWith(t, k.public, unhex(t, m))
		if err != nil || !bytes.Equal(ss, unhex(t, v.k)) {
			t.Errorf("%s: another secret: %v", name, err)
		}
		if got, err := k.Decapsulate(ct); err != nil || !bytes.Equal(got, ss) {
			t.Errorf("%s: %v", name, err)
		}
		var judge []byte
		switch name {
		case MLKEM768:
			ek, err := stdmlkem.NewEncapsulationKey768(k.PublicKey().Bytes())
			if err != nil {
				t.Fatal(err)
			}
			_, judge, err = mlkemtest.Encapsulate768(ek, unhex(t, m))
			if err != nil {
				t.Fatal(err)
			}
		case MLKEM1024:
			ek, err := stdmlkem.NewEncapsulationKey1024(k.PublicKey().Bytes())
			if err != nil {
				t.Fatal(err)
			}
			_, judge, err = mlkemtest.Encapsulate1024(ek, unhex(t, m))
			if err != nil {
				t.Fatal(err)
			}
		}
		if judge != nil && !bytes.Equal(judge, ct) {
			t.Errorf("%s: the judge has another ciphertext", name)
		}
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
