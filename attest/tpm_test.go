package attest_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/attest"
)

var storage = tpm2.ECCSRKTemplate

// p256 is the public area of a signing key of the service.
func p256(change func(*tpm2.TPMAObject)) tpm2.TPMTPublic {
	p := tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})}
	if change != nil {
		change(&p.ObjectAttributes)
	}
	return p
}

type service struct {
	private ed25519.PrivateKey
	spki    []byte
}

func newService(t testing.TB, seed byte) *service {
	s := &service{private: ed25519.NewKeyFromSeed(append(make([]byte, 31), seed))}
	s.spki = must[[]byte](t)(x509.MarshalPKIXPublicKey(s.private.Public()))
	return s
}

// document signs what it is given.
func (s *service) document(statement []byte, kind string, evidence []byte) *attest.Document {
	d := &attest.Document{Format: attest.Format, Statement: statement, Kind: kind, Evidence: evidence}
	d.Signature = attest.Signature{PublicKey: s.spki, Value: ed25519.Sign(s.private, d.SignedBytes())}
	return d
}

func nonce() []byte { return []byte("a nonce of the verifier") }

func statement(change func(*attest.Statement)) attest.Statement {
	st := attest.Statement{KeyID: "0191d3a0-7b1c-7c3e-9f00-2b7d3c1f5a11", KeyVersion: 1, Algorithm: "ECDSA-P256", Purpose: "signing", Custody: "device",
		Origin: "generated", State: "active", Policy: attest.Policy{Operations: []string{"sign", "verify"}, RequireAttestation: true},
		Backend: attest.Backend{Kind: "tpm", ID: "tpm-1"}, Nonce: nonce(), Time: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
	if change != nil {
		change(&st)
	}
	return st
}

// attestKey is the whole way of one key.
func (m *machine) attestKey(t testing.TB, s *service, key *loaded, role string, st attest.Statement) *attest.Document {
	t.Helper()
	pub := must[*tpm2.TPMTPublic](t)(tpm2.Unmarshal[tpm2.TPMTPublic](key.public))
	if k, err := tpm2.Pub(*pub); err == nil {
		st.PublicKey = must[[]byte](t)(x509.MarshalPKIXPublicKey(k))
	}
	b := must[[]byte](t)(attest.Encode(st))
	binding := attest.Binding(b)
	e := m.evidence(t, key, role, attest.AKTemplate(), tpm2.TPMRHEndorsement, binding[:])
	return s.document(b, attest.KindTPM, must[[]byte](t)(attest.Encode(*e)))
}

func pool(t testing.TB, pem []byte) *x509.CertPool {
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate")
	}
	return p
}

func TestTPMEvidence(t *testing.T) {
	m, s := startTPM(t), newService(t, 1)
	parent := m.primary(t, tpm2.TPMRHOwner, storage)
	key := m.create(t, parent, p256(nil))
	d := m.attestKey(t, s, key, attest.RoleKey, statement(nil))
	c, err := attest.Verify(d, attest.Options{Nonce: nonce(), Signer: s.spki, EKRoots: pool(t, m.roots),
		Require: attest.Require{DeviceEvidence: true, GeneratedOnDevice: true, NotExportable: true}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Assurance != attest.AssuranceDevice || !c.GeneratedOnDevice || c.Exportable || c.Device.EKCertificate != attest.CertificateVerified ||
		c.Device.DeviceIdentity != attest.IdentityUnproven || c.Signer != attest.SignerTrusted || len(c.PCRs) != 6 {
		t.Errorf("claims: %+v", c)
	}
	t.Logf("%+v", c)
}
