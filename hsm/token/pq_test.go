package token

import (
	"crypto"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// pqCan lists what the token was proven to do of post-quantum algorithms.
func pqCan(d *device) (out []backend.Algorithm) {
	for _, c := range d.Describe().Capabilities {
		if info, _ := backend.Lookup(c.Algorithm); info.PostQuantum {
			out = append(out, c.Algorithm)
		}
	}
	return out
}

var (
	mlkems  = []backend.Algorithm{backend.MLKEM512, backend.MLKEM768, backend.MLKEM1024}
	mldsas  = []backend.Algorithm{backend.MLDSA44, backend.MLDSA65, backend.MLDSA87}
	slhdsas = []backend.Algorithm{backend.SLHDSASHA2128f, backend.SLHDSASHAKE128f}
)

func TestPostQuantumProbe(t *testing.T) {
	part := rig.SoftHSM(t)
	d := openToken(t, rig.PostQuantum(t, part).Part)
	if got, want := pqCan(d), slices.Concat(mlkems, mldsas, slhdsas); !slices.Equal(got, want) {
		t.Errorf("the token is offered with %v, it has %v", got, want)
	}
}

// TestPostQuantumLies: what is claimed and does not work, or works otherwise than its standard says, is not offered.
func TestPostQuantumLies(t *testing.T) {
	part := rig.SoftHSM(t)
	hide := func(f *rig.FaultModule, slh bool) *rig.FaultModule {
		for _, m := range []uint{pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKM_EC_KEY_PAIR_GEN, ckmECEdwardsKeyPairGen} {
			f.HideMechanism(t, m)
		}
		if !slh {
			f.HideMechanism(t, ckmSLHDSAKeyPairGen)
		}
		return f
	}
	for _, c := range []struct {
		wrong string
		want  []backend.Algorithm
	}{
		{"signature", mlkems}, {"public", nil}, {"secret", mldsas}, {"rejection", mldsas}, {"no-secret", mldsas}, {"no-signature", mlkems},
	} {
		t.Run(c.wrong, func(t *testing.T) {
			if got := pqCan(openToken(t, hide(rig.PostQuantum(t, part, c.wrong), c.wrong == "signature").Part)); !slices.Equal(got, c.want) {
				t.Errorf("offered are %v, wanted %v", got, c.want)
			}
		})
	}
	t.Run("the list alone", func(t *testing.T) {
		f := hide(rig.Fault(t, part), true)
		for _, m := range []uint{ckmMLKEMKeyPairGen, ckmMLKEM, ckmMLDSAKeyPairGen, ckmMLDSA, ckmHashMLDSA, ckmSLHDSAKeyPairGen, ckmSLHDSA} {
			f.AddMechanism(t, m, 0, 1<<20, 0)
		}
		d := openToken(t, f.Part)
		if got := pqCan(d); got != nil {
			t.Errorf("offered are %v", got)
		}
		if d.lib.newer.has() {
			t.Error("a module of 2.40 has an interface of 3.2")
		}
	})
	every := []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}
	for wrong, want := range map[string]pqForm{
		"context": {hedge: ckhHedgeRequired, deterministic: true, hashes: every},
		"hedge":   {hedge: ckhHedgePreferred, context: true, deterministic: true, hashes: every},
		"random":  {hedge: ckhHedgeRequired, context: true, hashes: every},
		"prehash": {hedge: ckhHedgeRequired, context: true, deterministic: true},
	} {
		t.Run(wrong, func(t *testing.T) {
			d := openToken(t, hide(rig.PostQuantum(t, part, wrong, "no-secret"), false).Part)
			if diff := cmp.Diff(want, d.pq[backend.MLDSA65], cmp.AllowUnexported(pqForm{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDecapsulatedSecretGoes: no secret stays behind as an object.
func TestDecapsulatedSecretGoes(t *testing.T) {
	f := rig.PostQuantum(t, rig.SoftHSM(t), "no-signature")
	f.HideMechanism(t, pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN)
	d := openToken(t, f.Part)
	id := newID()
	o, err := d.Generate(t.Context(), id, backend.MLKEM512, backend.PurposeEncapsulation, false)
	if err != nil {
		t.Fatal(err)
	}
	if !o.Local || !o.AlwaysSensitive || !o.NeverExtractable || o.KeyGenMechanism != ckmMLKEMKeyPairGen {
		t.Errorf("the key is %+v", o)
	}
	secrets := func() (n int) {
		t.Helper()
		err := d.do(t.Context(), 0, func(s *session) error {
			found, err := d.lib.find(s.SessionHandle, pkcs11.CKO_SECRET_KEY, inSession, nil, "", 100)
			n = len(found)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := secrets()
	for range 5 {
		if _, err := d.Use(t.Context(), Call{Op: Decapsulate, ID: id, Algorithm: backend.MLKEM512, Input: make([]byte, 768)}); err != nil {
			t.Fatal(err)
		}
	}
	if after := secrets(); after != before {
		t.Errorf("%d secrets stay behind", after-before)
	}
	if _, err := d.Use(t.Context(), Call{Op: Decapsulate, ID: id, Algorithm: backend.MLKEM512, Input: make([]byte, 767)}); !fault.Has(err, fault.DecryptionFailed) {
		t.Errorf("a short ciphertext: %v", err)
	}
	if _, err := d.Use(t.Context(), Call{Op: Sign, ID: id, Algorithm: backend.MLDSA44, Input: []byte("message")}); !fault.Has(err, fault.Unsupported) {
		t.Errorf("an algorithm that the token lacks: %v", err)
	}
}
