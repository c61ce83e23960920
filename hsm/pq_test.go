package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/pqc"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// Of SLH-DSA the test token has two sets, which sign too slowly for the parts of the suite that sign often.
var postQuantum = []backend.Algorithm{backend.MLKEM512, backend.MLKEM768, backend.MLKEM1024, backend.MLDSA44, backend.MLDSA65, backend.MLDSA87}

func pqHarness(t *testing.T, h how) backendtest.Harness {
	t.Helper()
	p := rig.SoftHSM(t)
	f := rig.PostQuantum(t, p)
	// What else SoftHSM does is looked at elsewhere.
	for _, m := range []uint{pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKM_EC_KEY_PAIR_GEN, 0x1055, pkcs11.CKM_SHA384_HMAC, pkcs11.CKM_SHA512_HMAC, slhdsaKeyPairGen} {
		f.HideMechanism(t, m)
	}
	return h.harness(f.Part, p.Another(t, "foreign"), postQuantum)
}

const slhdsaKeyPairGen = 0x2d // CKM_SLH_DSA_KEY_PAIR_GEN

// TestPostQuantum is the suite on a token of PKCS#11 3.2: softhsm-test/faultmodule, for no product could be had.
func TestPostQuantum(t *testing.T) {
	h := pqHarness(t, how{})
	h.Only = []string{"info", "unsupported", "handles", "sign", "decapsulate", "batch", "refs", "import", "attest"}
	backendtest.Run(t, h)
}

func TestPostQuantumChild(t *testing.T) {
	h := pqHarness(t, how{processes: 1})
	h.Only = []string{"info", "handles", "sign", "decapsulate", "batch", "close-in-use"}
	backendtest.Run(t, h)
}

func pqSpec(a backend.Algorithm, p backend.Purpose) backend.Spec {
	return backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: a, Purpose: p}
}

// works uses a key of either kind.
func works(t *testing.T, b *hsm.Backend, r backend.Ref) {
	t.Helper()
	key, err := b.Load(t.Context(), r)
	if err != nil {
		t.Fatalf("Load of %s in %s custody: %v", r.Spec.Algorithm, r.Spec.Custody, err)
	}
	defer func() {
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	}()
	pub, ok := key.Public().(*pqc.PublicKey)
	if !ok {
		t.Fatalf("the public key is a %T", key.Public())
	}
	switch k := key.(type) {
	case backend.Signer:
		sig, err := k.Sign(t.Context(), []byte("message"), backend.SignOpts{Context: "context"})
		if err != nil {
			t.Fatalf("Sign in %s custody: %v", r.Spec.Custody, err)
		}
		if ok, err := pub.Verify([]byte("message"), sig, pqc.SignOptions{Context: []byte("context")}); err != nil || !ok {
			t.Errorf("the signature in %s custody does not verify (%v)", r.Spec.Custody, err)
		}
	case backend.Decapsulator:
		ct, want, err := pub.Encapsulate()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Decapsulate(t.Context(), ct); err != nil || !bytes.Equal(got, want) {
			t.Errorf("Decapsulate in %s custody: %v", r.Spec.Custody, err)
		}
	default:
		t.Fatalf("the key is a %T", key)
	}
}

func closed(t *testing.T, b *hsm.Backend) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// TestSealedStaySealed: a token that gets the mechanisms by a new firmware gives new keys device custody. Those in sealed custody stay what they
// are, and go on working.
func TestSealedStaySealed(t *testing.T) {
	p := rig.SoftHSM(t)
	specs := []backend.Spec{pqSpec(backend.MLDSA65, backend.PurposeSigning), pqSpec(backend.MLKEM768, backend.PurposeEncapsulation)}
	generate := func(b *hsm.Backend, s backend.Spec, want backend.Custody) backend.Ref {
		t.Helper()
		r, err := b.Generate(t.Context(), s)
		if err != nil {
			t.Fatalf("Generate of %s: %v", s.Algorithm, err)
		}
		if r.Spec.Custody != want {
			t.Errorf("a new key of %s has %s custody, wanted %s", s.Algorithm, r.Spec.Custody, want)
		}
		works(t, b, r)
		return r
	}
	var old []backend.Ref
	h := how{change: allowSealed}
	b := h.open(t, "before", rig.Fault(t, p).Part)
	for _, s := range specs {
		old = append(old, generate(b, s, backend.CustodySealed))
	}
	closed(t, b)

	f := rig.PostQuantum(t, p)
	f.HideMechanism(t, slhdsaKeyPairGen)
	b = h.open(t, "after", f.Part)
	defer closed(t, b)
	for i, r := range old {
		if r.Spec.Custody != backend.CustodySealed {
			t.Errorf("the record says %s", r.Spec.Custody)
		}
		works(t, b, r)
		r.Spec.Custody = backend.CustodyDevice
		if _, err := b.Load(t.Context(), r); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("a sealed key under a record of device custody: %v", err)
		}
		s := specs[i]
		s.Version++
		r = generate(b, s, backend.CustodyDevice)
		if err := b.Destroy(t.Context(), r); err != nil {
			t.Errorf("Destroy: %v", err)
		}
		if _, err := b.Load(t.Context(), r); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("a destroyed key: %v", err)
		}
		s.Custody = backend.CustodySealed
		s.Version++
		generate(b, s, backend.CustodySealed)
	}
}

// TestPostQuantumWrapped: keys that the token wraps are kept outside, in device custody; those of one that does not wrap them are sealed, and say so.
func TestPostQuantumWrapped(t *testing.T) {
	p := rig.SoftHSM(t)
	for custody, wrongs := range map[backend.Custody][]string{backend.CustodyDevice: nil, backend.CustodySealed: {"no-wrapping"}} {
		t.Run(string(custody), func(t *testing.T) {
			f := rig.PostQuantum(t, p, wrongs...)
			for _, m := range []uint{pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKM_EC_KEY_PAIR_GEN, 0x1055, slhdsaKeyPairGen} {
				f.HideMechanism(t, m)
			}
			b := how{change: func(o *hsm.Options) { wrapped(o); allowSealed(o) }}.open(t, "wrapped", f.Part)
			defer closed(t, b)
			for _, s := range []backend.Spec{pqSpec(backend.MLDSA65, backend.PurposeSigning), pqSpec(backend.MLKEM768, backend.PurposeEncapsulation)} {
				r, err := b.Generate(t.Context(), s)
				if err != nil || r.Spec.Custody != custody {
					t.Fatalf("a key in %q custody: %v", r.Spec.Custody, err)
				}
				works(t, b, r)
			}
		})
	}
}

// TestPostQuantumChoices: what this token cannot is refused as such.
func TestPostQuantumChoices(t *testing.T) {
	f := rig.PostQuantum(t, rig.SoftHSM(t), "context", "random", "prehash")
	f.HideMechanism(t, slhdsaKeyPairGen)
	b := how{}.open(t, "choices", f.Part)
	defer closed(t, b)
	r, err := b.Generate(t.Context(), pqSpec(backend.MLDSA44, backend.PurposeSigning))
	if err != nil {
		t.Fatal(err)
	}
	key, err := b.Load(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	signer := key.(backend.Signer)
	if _, err := signer.Sign(t.Context(), []byte("message"), backend.SignOpts{}); err != nil {
		t.Errorf("Sign: %v", err)
	}
	for _, o := range []backend.SignOpts{{Context: "context"}, {Deterministic: true}, {Hash: crypto.SHA512}, {ExternalMu: true}} {
		if _, err := signer.Sign(t.Context(), make([]byte, 64), o); !fault.Has(err, fault.Unsupported) {
			t.Errorf("Sign with %+v: %v, wanted %s", o, err, fault.Unsupported)
		}
	}
}

// TestSLHDSA: the token has one set and not another, and says so.
func TestSLHDSA(t *testing.T) {
	f := rig.PostQuantum(t, rig.SoftHSM(t), "no-secret")
	f.HideMechanism(t, pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN)
	b := how{}.open(t, "slh-dsa", f.Part)
	defer closed(t, b)
	r, err := b.Generate(t.Context(), pqSpec(backend.SLHDSASHA2128f, backend.PurposeSigning))
	if err != nil {
		t.Fatal(err)
	}
	if r.Spec.Custody != backend.CustodyDevice {
		t.Errorf("the key has %s custody", r.Spec.Custody)
	}
	works(t, b, r)
	if _, err := b.Generate(t.Context(), pqSpec(backend.SLHDSASHA2256s, backend.PurposeSigning)); !fault.Has(err, fault.Unsupported) {
		t.Errorf("a set that the token lacks: %v", err)
	}
}

// TestPostQuantumHeals: errors and lost sessions in the calls that are new.
func TestPostQuantumHeals(t *testing.T) {
	f := rig.PostQuantum(t, rig.SoftHSM(t))
	f.HideMechanism(t, slhdsaKeyPairGen)
	b := how{}.open(t, "heals", f.Part)
	defer closed(t, b)
	var refs []backend.Ref
	for _, s := range []backend.Spec{pqSpec(backend.MLDSA65, backend.PurposeSigning), pqSpec(backend.MLKEM768, backend.PurposeEncapsulation)} {
		r, err := b.Generate(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, r)
	}
	for _, spoil := range []func(){
		func() { f.Set(t, "C_DecapsulateKey,C_Sign", "CKR_SESSION_HANDLE_INVALID", "times=1") },
		func() { f.Set(t, "C_DecapsulateKey,C_Sign", "CKR_GENERAL_ERROR", "times=1", "at=after") },
		func() { f.DropSessions(t) },
	} {
		spoil()
		for _, r := range refs {
			deadline := time.Now().Add(30 * time.Second)
			for {
				key, err := b.Load(t.Context(), r)
				if err == nil || !fault.Has(err, fault.BackendUnavailable) || time.Now().After(deadline) {
					if err == nil {
						err = errors.Join(use(t.Context(), key), key.Close())
					}
					if err == nil || time.Now().After(deadline) {
						break
					}
				}
				time.Sleep(10 * time.Millisecond)
			}
			works(t, b, r)
		}
	}
	if f.Fired(t, "C_DecapsulateKey") != 2 {
		t.Error("C_DecapsulateKey was not told to fail")
	}
	key, err := b.Load(t.Context(), refs[1])
	if err != nil {
		t.Fatal(err)
	}
	f.Set(t, "C_DecapsulateKey", "CKR_ENCRYPTED_DATA_INVALID")
	if _, err := key.(backend.Decapsulator).Decapsulate(t.Context(), make([]byte, 1088)); !fault.Has(err, fault.DecryptionFailed) {
		t.Errorf("a ciphertext that the token refuses: %v", err)
	}
}

// use does what the key is for, and does not look at the result.
func use(ctx context.Context, key backend.Key) error {
	var err error
	switch k := key.(type) {
	case backend.Signer:
		_, err = k.Sign(ctx, []byte("message"), backend.SignOpts{})
	case backend.Decapsulator:
		_, err = k.Decapsulate(ctx, make([]byte, 1088))
	}
	return err
}
