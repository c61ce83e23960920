package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm/device"
)

func openInner(t *testing.T, uri string, change func(*device.Options)) *Backend {
	t.Helper()
	u, err := device.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	o := device.Options{URI: u}
	if change != nil {
		change(&o)
	}
	d, err := device.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), Options{Name: "test", Device: d, Derive: func(string) (secret.Bytes, error) { return bytes.Repeat([]byte{3}, 32), nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// TestAuthValue: whoever has the TPM and everything but the root's secret can neither use a key, nor make one in its place that is used. Wrong auth
// values do not bring the TPM nearer to its lockout.
func TestAuthValue(t *testing.T) {
	b := openInner(t, rig.SWTPM(t).URI, nil)
	s := backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: backend.ECDSAP256, Purpose: backend.PurposeSigning, Custody: backend.CustodyDevice}
	ref, err := b.Generate(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := backend.Lookup(s.Algorithm)
	digest := sha256.Sum256(nil)
	p, _ := parseBlob(ref.Blob)
	use := func(auth []byte) error {
		return b.dev.Do(t.Context(), "test", func(tx *device.Tx) error {
			key, err := load(tx, p.objects[0])
			if err != nil {
				return err
			}
			_, err = sign(tx, loaded{key, tx, auth}, info, digest[:], backend.SignOpts{Hash: crypto.SHA256})
			return err
		})
	}
	right, err := b.auth(&s, info.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := use(right); err != nil {
		t.Errorf("with the right auth value: %v", err)
	}
	for range 40 { // more than any TPM lets pass of objects that it protects
		if err := use(bytes.Repeat([]byte{9}, 32)); !fault.Has(refused(err), fault.KeyMaterial) {
			t.Fatalf("with a wrong auth value: %v", err)
		}
	}
	if err := use(nil); !fault.Has(refused(err), fault.KeyMaterial) {
		t.Errorf("without an auth value: %v", err)
	}
	// An object with the right policy and another auth value, as somebody without the root would make it, in a record that looks right.
	areas := templates(info, s.Purpose, policyOf(&s, info.ID), false)
	var forged object
	err = b.dev.Do(t.Context(), "test", func(tx *device.Tx) (err error) {
		forged, err = create(tx, areas[0], bytes.Repeat([]byte{9}, 32), nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.ref(s, info, areas, []object{forged})
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.Load(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.(backend.Signer).Sign(t.Context(), digest[:], backend.SignOpts{Hash: crypto.SHA256}); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("a key with another auth value: %v", err)
	}
	if err := use(right); err != nil {
		t.Errorf("the TPM is locked out: %v", err)
	}
}

// TestOtherKey: a TPM that makes something else than it was asked for is found out.
func TestOtherKey(t *testing.T) {
	b := openInner(t, rig.SWTPM(t).URI, nil)
	s := backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: backend.ECDSAP256, Purpose: backend.PurposeSigning, Custody: backend.CustodyDevice}
	info, _ := backend.Lookup(s.Algorithm)
	asked := templates(info, s.Purpose, policyOf(&s, info.ID), false)
	for what, change := range map[string]func(*tpm2.TPMTPublic){
		"without fixedTPM":        func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM, p.ObjectAttributes.FixedParent = false, false },
		"under dictionary attack": func(p *tpm2.TPMTPublic) { p.ObjectAttributes.NoDA = false },
		"that also agrees":        func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true },
		"of another policy":       func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = make([]byte, 32) },
		"of another curve": func(p *tpm2.TPMTPublic) {
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP384})
		},
	} {
		template := asked[0]
		change(&template)
		var o object
		err := b.dev.Do(t.Context(), "test", func(tx *device.Tx) (err error) {
			o, err = create(tx, template, bytes.Repeat([]byte{9}, 32), nil)
			return err
		})
		if err != nil {
			t.Fatalf("a key %s: %v", what, err)
		}
		if r, err := b.ref(s, info, asked, []object{o}); !fault.Has(err, fault.BackendUnavailable) || r.Blob != nil {
			t.Errorf("a key %s is taken: %v", what, err)
		}
	}
}

// TestEndorsementPassword: without the password of the endorsement hierarchy there is no evidence, which is said; everything else works.
func TestEndorsementPassword(t *testing.T) {
	m := rig.SWTPM(t)
	password := secret.Bytes("endorsement password")
	attests := func(b *Backend) error {
		t.Helper()
		ref, err := b.Generate(t.Context(), backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: backend.HMACSHA256, Purpose: backend.PurposeMAC})
		if err != nil {
			t.Fatal(err)
		}
		k, err := b.Load(context.Background(), ref)
		if err != nil {
			t.Fatal(err)
		}
		_, err = k.(backend.Attester).Attest(t.Context(), make([]byte, backend.AttestationBinding))
		return err
	}
	b := openInner(t, m.URI, nil)
	if err := attests(b); err != nil {
		t.Errorf("without a password: %v", err)
	}
	err := b.dev.Do(t.Context(), "test", func(tx *device.Tx) error {
		_, err := tpm2.HierarchyChangeAuth{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, NewAuth: tpm2.TPM2BAuth{Buffer: password}}.Execute(tx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = openInner(t, m.URI, nil)
	if err := attests(b); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("with a wrong password: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = openInner(t, m.URI, func(o *device.Options) { o.EndorsementAuth = password })
	if err := attests(b); err != nil {
		t.Errorf("with the right password: %v", err)
	}
}

// TestDestroyFlushes: a key that was just used stays loaded, and is not after it was destroyed.
func TestDestroyFlushes(t *testing.T) {
	b := openInner(t, rig.SWTPM(t).URI, nil)
	s := backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: backend.HMACSHA256, Purpose: backend.PurposeMAC}
	ref, err := b.Generate(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.Load(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.(backend.MACer).MAC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	loaded := func() (n int) {
		t.Helper()
		err := b.dev.Do(t.Context(), "test", func(tx *device.Tx) error {
			rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x80000000, PropertyCount: 16}.Execute(tx)
			if err != nil {
				return err
			}
			list, err := rsp.CapabilityData.Data.Handles()
			if err == nil {
				n = len(list.Handle)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := loaded()
	if err := b.Destroy(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if after := loaded(); after != before-1 {
		t.Errorf("%d objects loaded before Destroy, %d after it", before, after)
	}
}

// TestPolicyAlone: an object under a policy does nothing for its empty auth value, neither as its user nor as its administrator.
func TestPolicyAlone(t *testing.T) {
	b := openInner(t, rig.SWTPM(t).URI, nil)
	policy := sha256.Sum256([]byte("a policy"))
	err := b.dev.Do(t.Context(), "test", func(tx *device.Tx) error {
		o, err := create(tx, dataPublic(policy[:], false), nil, make([]byte, dekSize))
		if err != nil {
			return err
		}
		key, err := load(tx, o)
		if err != nil {
			return err
		}
		if rsp, err := (tpm2.Unseal{ItemHandle: tx.Auth(key, nil, device.Out)}).Execute(tx); !errors.Is(err, tpm2.TPMRCAuthUnavailable) {
			t.Errorf("Unseal: %v, %v", rsp, err)
		}
		parent := tx.Parent()
		_, err = tpm2.ObjectChangeAuth{ObjectHandle: tx.Auth(key, nil, device.In), ParentHandle: parent, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("mine")}}.Execute(tx)
		if !errors.Is(err, tpm2.TPMRCAuthUnavailable) && !errors.Is(err, tpm2.TPMRCAuthType) {
			t.Errorf("ObjectChangeAuth: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
