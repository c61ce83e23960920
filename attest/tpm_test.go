package attest_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/attest"
)

// attributes are those of every key of the service.
func attributes(change func(*tpm2.TPMAObject)) tpm2.TPMAObject {
	a := tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true}
	change(&a)
	return a
}

func signs(a *tpm2.TPMAObject)    { a.SignEncrypt = true }
func decrypts(a *tpm2.TPMAObject) { a.Decrypt = true }

func curve(id tpm2.TPMECCCurve, change func(*tpm2.TPMAObject)) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes(change),
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: id})}
}

func rsa2048(change func(*tpm2.TPMAObject)) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes(change),
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048})}
}

func hmac(change func(*tpm2.TPMAObject)) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes(change),
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{
			Scheme: tpm2.TPMAlgHMAC, Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC, &tpm2.TPMSSchemeHMAC{HashAlg: tpm2.TPMAlgSHA256})}})}
}

func aes256() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{Type: tpm2.TPMAlgSymCipher, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: attributes(func(a *tpm2.TPMAObject) { signs(a); decrypts(a) }),
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgSymCipher, &tpm2.TPMSSymCipherParms{Sym: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgAES,
			KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)), Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCTR)}})}
}

func p256() part { return part{attest.RoleKey, curve(tpm2.TPMECCNistP256, signs)} }

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

func moment() time.Time { return time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC) }

func statement(change func(*attest.Statement)) attest.Statement {
	st := attest.Statement{Tenant: "8c05c1d4-d16c-4b5f-8813-ede67f865c50", KeyID: "0191d3a0-7b1c-7c3e-9f00-2b7d3c1f5a11", KeyVersion: 1, Algorithm: "ECDSA-P256", Purpose: "signing", Custody: "device",
		Origin: "generated", State: "active", Policy: attest.Policy{Operations: []string{"sign", "verify"}, RequireAttestation: true},
		Backend: attest.Backend{Kind: "tpm", ID: "tpm-1"}, Nonce: nonce(), Time: moment()}
	if change != nil {
		change(&st)
	}
	return st
}

func encoded[T attest.Statement | attest.TPM | attest.PKCS11](t testing.TB, v T) []byte {
	t.Helper()
	return must[[]byte](t)(attest.Encode(v))
}

// attest is the whole way of one key. alter changes the evidence before the service signs it.
func (m *machine) attest(t testing.TB, s *service, k *key, h how, st attest.Statement, alter func(*attest.TPM)) *attest.Document {
	t.Helper()
	if pub, err := tpm2.Pub(*must[*tpm2.TPMTPublic](t)(k.created[0].OutPublic.Contents())); err == nil && st.PublicKey == nil {
		st.PublicKey = must[[]byte](t)(x509.MarshalPKIXPublicKey(pub))
	}
	b := encoded(t, st)
	binding := attest.Binding(b)
	e := m.evidence(t, k, h, binding[:])
	if alter != nil {
		alter(e)
	}
	return s.document(b, attest.KindTPM, encoded(t, *e))
}

func pool(t testing.TB, pem []byte) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate")
	}
	return p
}

func refused(t testing.TB, what string, d *attest.Document, o attest.Options) {
	t.Helper()
	c, err := attest.Verify(d, o)
	if !errors.Is(err, attest.ErrEvidence) || c != nil {
		t.Errorf("%s: %+v, %v", what, c, err)
	}
}

func strict() attest.Require {
	return attest.Require{DeviceEvidence: true, GeneratedOnDevice: true, NotExportable: true}
}

// TestTPM asks a real TPM for evidence, and for what looks like evidence.
func TestTPM(t *testing.T) {
	m, s := makeTPM(t), newService(t, 1)
	t.Run("keys", func(t *testing.T) { testKeys(t, m, s) })
	t.Run("imported", func(t *testing.T) { testImported(t, m, s) })
	t.Run("judge", func(t *testing.T) { testJudge(t, m) })
	t.Run("refusals", func(t *testing.T) { testRefusals(t, m, s) })
	if *update {
		writeVectors(t, m, s)
	}
}

// testKeys takes evidence of keys of every sort.
func testKeys(t *testing.T, m *machine, s *service) {
	roots := pool(t, m.roots)
	for name, c := range map[string]struct {
		algorithm, purpose string
		parts              []part
	}{
		"signing":    {"ECDSA-P256", "signing", []part{p256()}},
		"p384":       {"ECDSA-P384", "signing", []part{{attest.RoleKey, curve(tpm2.TPMECCNistP384, signs)}}},
		"agreement":  {"ECDH-P256", "agreement", []part{{attest.RoleKey, curve(tpm2.TPMECCNistP256, decrypts)}}},
		"rsa":        {"RSA-2048", "signing", []part{{attest.RoleKey, rsa2048(signs)}}},
		"encryption": {"RSA-2048", "encryption", []part{{attest.RoleKey, rsa2048(decrypts)}}},
		"mac":        {"HMAC-SHA256", "mac", []part{{attest.RoleKey, hmac(signs)}}},
		"aes":        {"AES-256-CTR-HMAC-SHA256", "encryption", []part{{attest.RoleCipher, aes256()}, {attest.RoleMAC, hmac(signs)}}},
	} {
		t.Run(name, func(t *testing.T) {
			st := statement(func(st *attest.Statement) { st.Algorithm, st.Purpose = c.algorithm, c.purpose })
			d := m.attest(t, s, m.key(t, st, c.parts...), properly(), st, nil)
			got, err := attest.Verify(d, attest.Options{Nonce: nonce(), Signer: s.spki, EKRoots: roots, Require: strict()})
			if err != nil {
				t.Fatal(err)
			}
			if got.Assurance != attest.AssuranceDevice || !got.GeneratedOnDevice || got.Exportable || got.Signer != attest.SignerTrusted ||
				got.Device.EKCertificate != attest.CertificateVerified || got.Device.DeviceIdentity != attest.IdentityUnproven ||
				len(got.PCRs) != 6 || len(got.Device.ObjectNames) != len(c.parts) {
				t.Errorf("claims: %+v", got)
			}
			name := must[[]byte](t)(hex.DecodeString(got.Device.AttestationKeyName))
			got, err = attest.Verify(d, attest.Options{Nonce: nonce(), AttestationKey: name, PCRs: got.PCRs[3:4], PublicKey: got.PublicKey})
			if err != nil {
				t.Fatal(err)
			}
			if got.Device.DeviceIdentity != attest.IdentityPinned || got.Signer != attest.SignerUnproven || got.Device.EKCertificate != attest.CertificateUnverified {
				t.Errorf("claims with a pinned attestation key: %+v", got)
			}
		})
	}
}

func testRefusals(t *testing.T, m *machine, s *service) {
	k := m.key(t, statement(nil), p256())
	good := attest.Options{Nonce: nonce(), Signer: s.spki, EKRoots: pool(t, m.roots), Require: strict()}
	d := m.attest(t, s, k, properly(), statement(nil), nil)
	claims, err := attest.Verify(d, good)
	if err != nil {
		t.Fatal(err)
	}

	for what, change := range map[string]func(*attest.Options){
		"another nonce":           func(o *attest.Options) { o.Nonce = []byte("another nonce of theirs") },
		"a longer nonce":          func(o *attest.Options) { o.Nonce = append(nonce(), 0) },
		"no nonce":                func(o *attest.Options) { o.Nonce = nil },
		"another service":         func(o *attest.Options) { o.Signer = newService(t, 2).spki },
		"another public key":      func(o *attest.Options) { o.PublicKey = s.spki },
		"another attestation key": func(o *attest.Options) { o.AttestationKey = make([]byte, 34) },
		"no roots":                func(o *attest.Options) { o.EKRoots = x509.NewCertPool() },
		"another PCR value": func(o *attest.Options) {
			o.PCRs = []attest.PCR{{Bank: "sha256", Index: 7, Value: bytes.Repeat([]byte{1}, 32)}}
		},
		"a PCR not quoted":    func(o *attest.Options) { o.PCRs = []attest.PCR{{Bank: "sha256", Index: 8, Value: make([]byte, 32)}} },
		"another bank":        func(o *attest.Options) { o.PCRs = []attest.PCR{{Bank: "sha384", Index: 7, Value: make([]byte, 48)}} },
		"too old":             func(o *attest.Options) { o.MaxAge, o.Now = time.Minute, moment().Add(2*time.Minute) },
		"of the future":       func(o *attest.Options) { o.MaxAge, o.Now = time.Minute, moment().Add(-2*time.Minute) },
		"expired certificate": func(o *attest.Options) { o.Now = moment().AddDate(-20, 0, 0) },
	} {
		o := good
		change(&o)
		refused(t, what, d, o)
	}

	made := func(what string, h how, st func(*attest.Statement), alter func(*attest.TPM)) {
		t.Helper()
		refused(t, what, m.attest(t, s, k, h, statement(st), alter), good)
	}
	h := properly()
	h.hierarchy = tpm2.TPMRHOwner
	made("an attestation key outside of the endorsement hierarchy", h, nil, nil)
	h = properly()
	h.ak.ObjectAttributes.Restricted = false
	made("an attestation key that signs anything", h, nil, nil)

	// The statement beside says otherwise.
	made("another algorithm", properly(), func(st *attest.Statement) { st.Algorithm = "ECDSA-P384" }, nil)
	made("an unknown algorithm", properly(), func(st *attest.Statement) { st.Algorithm = "Ed25519" }, nil)
	made("another purpose", properly(), func(st *attest.Statement) { st.Algorithm, st.Purpose = "ECDH-P256", "agreement" }, nil)
	made("another key's id", properly(), func(st *attest.Statement) { st.KeyID = "0191d3a0-7b1c-7c3e-9f00-2b7d3c1f5a12" }, nil)
	made("another version", properly(), func(st *attest.Statement) { st.KeyVersion = 2 }, nil)
	made("another tenant", properly(), func(st *attest.Statement) { st.Tenant = st.KeyID }, nil)
	made("an imported key", properly(), func(st *attest.Statement) { st.Origin = "imported" }, nil)
	made("sealed custody", properly(), func(st *attest.Statement) { st.Custody = "sealed" }, nil)
	made("exportable", properly(), func(st *attest.Statement) { st.Exportable = true }, nil)
	made("another backend", properly(), func(st *attest.Statement) { st.Backend.Kind = "hsm" }, nil)
	made("another public key in the statement", properly(), func(st *attest.Statement) { st.PublicKey = s.spki }, nil)

	// Parts of other evidence.
	old := m.evidence(t, k, properly(), bytes.Repeat([]byte{9}, 32))
	made("a replayed certification", properly(), nil, func(e *attest.TPM) { e.Objects = old.Objects })
	made("a replayed quote", properly(), nil, func(e *attest.TPM) { e.Quote = old.Quote })
	other := m.key(t, statement(nil), p256())
	made("another key's public area", properly(), nil, func(e *attest.TPM) { e.Objects[0].Public = other.created[0].OutPublic.Bytes() })
	made("no quote", properly(), nil, func(e *attest.TPM) { e.Quote = attest.Quote{} })
	made("no PCR", properly(), nil, func(e *attest.TPM) { e.Quote.PCRs = nil })
	made("PCRs in another order", properly(), nil, func(e *attest.TPM) { e.Quote.PCRs[0], e.Quote.PCRs[1] = e.Quote.PCRs[1], e.Quote.PCRs[0] })
	made("quote and certification changed", properly(), nil, func(e *attest.TPM) {
		e.Quote.Attest, e.Objects[0].Attest = e.Objects[0].Attest, e.Quote.Attest
		e.Quote.Signature, e.Objects[0].Signature = e.Objects[0].Signature, e.Quote.Signature
	})
	made("an object too many", properly(), nil, func(e *attest.TPM) { e.Objects = append(e.Objects, e.Objects[0]) })
	made("no object", properly(), nil, func(e *attest.TPM) { e.Objects = nil })
	made("no certificate", properly(), nil, func(e *attest.TPM) { e.EKCertificates = nil })
	made("a certificate without its key", properly(), nil, func(e *attest.TPM) { e.EK = nil })
	made("the certificate of an authority", properly(), nil, func(e *attest.TPM) { e.EKCertificates = e.EKCertificates[1:] })
	h = properly()
	h.restart = func() { run(t, "swtpm_ioctl", "--unix", m.ctrl, "-i"); m.startup(t) }
	made("parts of two boots", h, nil, nil)

	// An attestation key of another TPM, and its own in place of the pinned one.
	dir := t.TempDir()
	second := startTPM(t, dir, dir)
	foreign := second.attest(t, s, second.key(t, statement(nil), p256()), properly(), statement(nil), nil)
	o := good
	o.EKRoots, o.AttestationKey = nil, must[[]byte](t)(hex.DecodeString(claims.Device.AttestationKeyName))
	refused(t, "another TPM", foreign, o)
	refused(t, "another TPM without a certificate", foreign, good)
	good.EKRoots = nil
	if _, err := attest.Verify(foreign, good); err != nil {
		t.Errorf("a TPM without a certificate: %v", err)
	}
}

// testImported: what was brought to the TPM, or can leave it, is claimed so.
func testImported(t *testing.T, m *machine, s *service) {
	for what, c := range map[string]struct {
		change     func(*tpm2.TPMAObject)
		origin     string
		exportable bool
	}{
		"imported": {func(a *tpm2.TPMAObject) { signs(a); a.SensitiveDataOrigin = false }, "imported", false},
		"movable":  {func(a *tpm2.TPMAObject) { signs(a); a.FixedTPM, a.FixedParent = false, false }, "imported", true},
		"imported, movable": {func(a *tpm2.TPMAObject) {
			signs(a)
			a.SensitiveDataOrigin, a.FixedTPM, a.FixedParent = false, false, false
		}, "imported", true},
	} {
		st := statement(func(st *attest.Statement) { st.Algorithm, st.Purpose, st.Origin = "HMAC-SHA256", "mac", c.origin })
		k := m.key(t, st, part{attest.RoleKey, hmac(c.change)})
		d := m.attest(t, s, k, properly(), st, nil)
		got, err := attest.Verify(d, attest.Options{Nonce: nonce(), Signer: s.spki})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got.GeneratedOnDevice || got.Exportable != c.exportable {
			t.Errorf("%s: %+v", what, got)
		}
		refused(t, what, d, attest.Options{Nonce: nonce(), Signer: s.spki, Require: attest.Require{GeneratedOnDevice: true}})
		st.Origin = "generated"
		refused(t, what+" said to be generated", m.attest(t, s, k, properly(), st, nil), attest.Options{Nonce: nonce(), Signer: s.spki})
	}
}

// TestForgery: whoever makes up an attestation key in software can say anything, which is why nothing is called proven until it is pinned.
func TestForgery(t *testing.T) {
	s := newService(t, 1)
	forger := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	point := must[[]byte](t)(forger.PublicKey.Bytes())
	ak := attest.AKTemplate()
	ak.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
	key := curve(tpm2.TPMECCNistP256, signs)
	key.Unique = ak.Unique
	st := statement(func(st *attest.Statement) {
		st.PublicKey = must[[]byte](t)(x509.MarshalPKIXPublicKey(&forger.PublicKey))
	})
	key.AuthPolicy = tpm2.TPM2BDigest{Buffer: must[[]byte](t)(attest.ObjectPolicy(&st))}
	b := encoded(t, st)
	binding := attest.Binding(b)
	akName := must[*tpm2.TPM2BName](t)(tpm2.ObjectName(&ak))
	keyName := must[*tpm2.TPM2BName](t)(tpm2.ObjectName(&key))
	qualified := sha256.Sum256(append([]byte{0x40, 0, 0, 0x0b}, akName.Buffer...))
	sign := func(kind tpm2.TPMST, attested tpm2.TPMUAttest) ([]byte, []byte) {
		a := tpm2.Marshal(tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: kind, QualifiedSigner: tpm2.TPM2BName{Buffer: append([]byte{0, 0x0b}, qualified[:]...)},
			ExtraData: tpm2.TPM2BData{Buffer: binding[:]}, Attested: attested})
		sum := sha256.Sum256(a)
		der := must[[]byte](t)(forger.Sign(rand.Reader, sum[:], crypto.SHA256))
		r, v := fromDER(t, der)
		return a, tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA,
			&tpm2.TPMSSignatureECC{Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r}, SignatureS: tpm2.TPM2BECCParameter{Buffer: v}})})
	}
	value := make([]byte, 32)
	digest := sha256.Sum256(value)
	e := attest.TPM{AK: tpm2.Marshal(ak), Objects: []attest.Object{{Role: attest.RoleKey, Public: tpm2.Marshal(key)}}}
	e.Objects[0].Attest, e.Objects[0].Signature = sign(tpm2.TPMSTAttestCertify, tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify,
		&tpm2.TPMSCertifyInfo{Name: *keyName, QualifiedName: *keyName}))
	e.Quote.Attest, e.Quote.Signature = sign(tpm2.TPMSTAttestQuote, tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{1, 0, 0}}}},
		PCRDigest: tpm2.TPM2BDigest{Buffer: digest[:]}}))
	e.Quote.PCRs = []attest.PCR{{Bank: "sha256", Value: value}}
	d := s.document(b, attest.KindTPM, encoded(t, e))
	c, err := attest.Verify(d, attest.Options{Nonce: nonce(), Signer: s.spki})
	if err != nil {
		t.Fatal(err)
	}
	if c.Device.DeviceIdentity != attest.IdentityUnproven || c.Device.EKCertificate != attest.CertificateAbsent {
		t.Errorf("a forgery is called proven: %+v", c)
	}
	refused(t, "a forgery against a pinned key", d, attest.Options{Nonce: nonce(), Signer: s.spki, AttestationKey: make([]byte, 34)})
	refused(t, "a forgery against makers' roots", d, attest.Options{Nonce: nonce(), Signer: s.spki, EKRoots: x509.NewCertPool()})
}

func fromDER(t testing.TB, der []byte) (r, s []byte) {
	t.Helper()
	var v struct{ R, S *big.Int }
	unmarshalDER(t, der, &v)
	return v.R.Bytes(), v.S.Bytes()
}

// testJudge has tpm2-tools check the quote and the certification: code that shares nothing with this.
func testJudge(t *testing.T, m *machine) {
	b := encoded(t, statement(nil))
	binding := attest.Binding(b)
	e := m.evidence(t, m.key(t, statement(nil), p256()), properly(), binding[:])
	ak := must[*tpm2.TPMTPublic](t)(tpm2.Unmarshal[tpm2.TPMTPublic](e.AK))
	spki := must[[]byte](t)(x509.MarshalPKIXPublicKey(must[crypto.PublicKey](t)(tpm2.Pub(*ak))))
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	pub := file("ak.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	run(t, "tpm2_checkquote", "--public", pub, "--message", file("quote", e.Quote.Attest), "--signature", file("quote.sig", e.Quote.Signature),
		"--qualification", hex.EncodeToString(binding[:]), "--hash-algorithm", "sha256")
	sig := must[*tpm2.TPMTSignature](t)(tpm2.Unmarshal[tpm2.TPMTSignature](e.Objects[0].Signature))
	ecc := must[*tpm2.TPMSSignatureECC](t)(sig.Signature.ECDSA())
	der := marshalDER(t, struct{ R, S *big.Int }{new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer)})
	run(t, "openssl", "dgst", "-sha256", "-verify", pub, "-signature", file("certify.sig", der), file("certify", e.Objects[0].Attest))
}

func marshalDER(t testing.TB, v any) []byte { return must[[]byte](t)(asn1.Marshal(v)) }

func unmarshalDER(t testing.TB, der []byte, v any) {
	t.Helper()
	if rest, err := asn1.Unmarshal(der, v); err != nil || len(rest) > 0 {
		t.Fatalf("malformed DER: %v", err)
	}
}
