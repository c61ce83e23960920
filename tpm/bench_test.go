package tpm_test

import (
	"crypto"
	"crypto/sha256"
	"net"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// BenchmarkSign is a P-256 signature by the backend, beside the same TPM2_Load, TPM2_Sign and TPM2_FlushContext sent straight to the TPM.
func BenchmarkSign(b *testing.B) {
	digest := sha256.Sum256([]byte("message"))
	b.Run("bare", func(b *testing.B) { benchBare(b, digest[:]) })
	b.Run("backend", func(b *testing.B) {
		be := open(b, rig.SWTPM(b).URI, "bench", nil)
		defer be.Close()
		ref, err := be.Generate(b.Context(), spec(backend.ECDSAP256, backend.PurposeSigning))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			k, err := be.Load(b.Context(), ref)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := k.(backend.Signer).Sign(b.Context(), digest[:], backend.SignOpts{Hash: crypto.SHA256}); err != nil {
				b.Fatal(err)
			}
			if err := k.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchBare(b *testing.B, digest []byte) {
	network, address := rig.SWTPM(b).Address()
	conn, err := net.Dial(network, address) //nolint:noctx // a local socket
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	t := line{conn}
	parent, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
	if err != nil {
		b.Fatal(err)
	}
	under := tpm2.AuthHandle{Handle: parent.ObjectHandle, Name: parent.Name, Auth: tpm2.PasswordAuth(nil)}
	template := tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})}
	made, err := tpm2.Create{ParentHandle: under, InPublic: tpm2.New2B(template)}.Execute(t)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		key, err := tpm2.Load{ParentHandle: under, InPrivate: made.OutPrivate, InPublic: made.OutPublic}.Execute(t)
		if err != nil {
			b.Fatal(err)
		}
		_, err = tpm2.Sign{KeyHandle: tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)}, Digest: tpm2.TPM2BDigest{Buffer: digest},
			InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck}}.Execute(t)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := (tpm2.FlushContext{FlushHandle: key.ObjectHandle}).Execute(t); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen is what a start costs, the tests with known keys included.
func BenchmarkOpen(b *testing.B) {
	m := rig.SWTPM(b)
	for b.Loop() {
		if err := open(b, m.URI, "bench", nil).Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBackend(b *testing.B) {
	be := open(b, rig.SWTPM(b).URI, "bench", nil)
	defer be.Close()
	backendtest.Bench(b, be)
}
