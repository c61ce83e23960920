package backendtest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// testAttest has every key that the backend generated prove where it is, as the service's readers will check it, and one that it imported
// say that it was not generated there.
func (s *suite) testAttest(t *testing.T) {
	for _, k := range s.kinds() {
		if !k.has(backend.OpAttest) {
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			ref := s.ref(t, k)
			c := s.attested(t, ref, s.key(t, k), "generated")
			if !c.GeneratedOnDevice && !s.h.Untold {
				t.Error("a key of the device's own is not called generated on it")
			}
			material := fresh(t, k.Info).bytes
			if imp, ok := s.b.(backend.Importer); ok && k.Import {
				ref, err := imp.Import(t.Context(), s.spec(k), material)
				if err != nil {
					t.Fatalf("Import: %v", err)
				}
				s.destroyLater(t, ref)
				if c := s.attested(t, ref, load(t, s.b, ref), "imported"); c.GeneratedOnDevice {
					t.Error("an imported key is called generated on the device")
				}
			}
		})
	}
}

// attested takes evidence and verifies it.
func (s *suite) attested(t *testing.T, ref backend.Ref, key backend.Key, origin string) *attest.Claims {
	t.Helper()
	a, ok := key.(backend.Attester)
	if !ok {
		t.Fatal("the handle is no Attester")
	}
	for _, binding := range [][]byte{nil, make([]byte, backend.AttestationBinding-1), make([]byte, backend.AttestationBinding+1)} {
		_, err := a.Attest(t.Context(), binding)
		want(t, "Attest with a binding of another size", err, fault.BadSize)
	}
	nonce := bytes.Repeat([]byte{7}, 32)
	statement, err := attest.Encode(attest.Statement{Tenant: ref.Spec.Tenant.String(), KeyID: ref.Spec.KeyID.String(), KeyVersion: ref.Spec.Version, Algorithm: string(ref.Spec.Algorithm),
		Purpose: string(ref.Spec.Purpose), PublicKey: ref.Public, Custody: string(ref.Spec.Custody), Origin: origin, State: "active",
		Backend: attest.Backend{Kind: s.info.Kind, ID: s.info.ID}, Nonce: nonce, Time: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	binding := attest.Binding(statement)
	e, err := a.Attest(t.Context(), slices.Clone(binding[:]))
	if err != nil {
		t.Fatalf("Attest: %v", err)
	}
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	d := &attest.Document{Format: attest.Format, Statement: statement, Kind: e.Kind, Evidence: e.Document, Signature: attest.Signature{PublicKey: spki}}
	d.Signature.Value = ed25519.Sign(private, d.SignedBytes())
	c, err := attest.Verify(d, attest.Options{Nonce: nonce, Signer: spki, PublicKey: ref.Public})
	if err != nil {
		t.Fatalf("the evidence: %v", err)
	}
	if kind := map[string]string{"tpm": attest.KindTPM, "hsm": attest.KindPKCS11}[s.info.Kind]; e.Kind != kind {
		t.Errorf("the evidence of a backend of kind %s is of kind %s", s.info.Kind, e.Kind)
	}
	return c
}
