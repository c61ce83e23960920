package device_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm/device"
)

func uri(t testing.TB, s string) device.URI {
	t.Helper()
	u, err := device.ParseURI(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func open(t testing.TB, o device.Options) *device.Device {
	t.Helper()
	d, err := device.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return d
}

// key is a P-256 signing key with a password.
type key struct {
	private tpm2.TPM2BPrivate
	public  tpm2.TPM2BPublic
	auth    []byte
}

func signingKey(t testing.TB, d *device.Device) (k key) {
	t.Helper()
	k.auth = []byte{7, 0, 9, 1, 0} // a zero inside belongs to it, one at the end does not
	err := d.Do(t.Context(), "create", func(tx *device.Tx) error {
		rsp, err := tpm2.Create{
			ParentHandle: tx.Auth(tx.Parent(), nil, device.InOut),
			InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: k.auth}}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
				Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
					Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}}),
			}),
		}.Execute(tx)
		if err != nil {
			return err
		}
		k.private, k.public = rsp.OutPrivate, rsp.OutPublic
		return nil
	})
	if err != nil {
		t.Fatalf("creating a key: %v", err)
	}
	return k
}

// sign signs in one transaction.
func (k key) sign(ctx context.Context, d *device.Device, digest []byte) (r, s []byte, err error) {
	err = d.Do(ctx, "sign", func(tx *device.Tx) error {
		r, s, err = k.signIn(tx, digest)
		return err
	})
	return r, s, err
}

func (k key) signIn(tx *device.Tx, digest []byte) (r, s []byte, err error) {
	h, err := tx.Load(k.private, k.public)
	if err != nil {
		return nil, nil, err
	}
	rsp, err := tpm2.Sign{KeyHandle: tx.Auth(h, k.auth, device.In), Digest: tpm2.TPM2BDigest{Buffer: digest},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}.Execute(tx)
	if err != nil {
		return nil, nil, err
	}
	sig, err := rsp.Signature.Signature.ECDSA()
	if err != nil {
		return nil, nil, err
	}
	return sig.SignatureR.Buffer, sig.SignatureS.Buffer, nil
}

func (k key) verifies(t testing.TB, digest, r, s []byte) bool {
	t.Helper()
	area, err := k.public.Contents()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := tpm2.Pub(*area)
	if err != nil {
		t.Fatal(err)
	}
	return ecdsa.Verify(pub.(*ecdsa.PublicKey), digest, number(r), number(s))
}

func TestSign(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *rig.TPM{"unix": rig.SWTPM, "tcp": rig.TCPSWTPM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := start(t)
			d := open(t, device.Options{URI: uri(t, m.URI)})
			k := signingKey(t, d)
			for i := range 20 {
				digest := sha256.Sum256([]byte{byte(i)})
				r, s, err := k.sign(t.Context(), d, digest[:])
				if err != nil {
					t.Fatal(err)
				}
				if !k.verifies(t, digest[:], r, s) {
					t.Fatal("the signature does not verify")
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := d.Ping(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}
