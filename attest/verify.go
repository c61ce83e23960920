package attest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/subtle"
	"crypto/x509"
	"time"

	"github.com/google/uuid"
)

// Options are what a verifier knows by itself. Nonce is required; everything else narrows what is accepted.
type Options struct {
	// Nonce is the verifier's, 16 to 64 bytes: what makes the evidence of now.
	Nonce []byte
	// Signer is the SPKI DER of the service's attestation signing key. nil: not known; then evidence that is the service's statement
	// alone is refused, since it would be anybody's.
	Signer []byte
	// PublicKey is the SPKI DER of the key that the evidence must be of; nil: any.
	PublicKey []byte
	// AttestationKey is the TPM Name of the attestation key; nil: any.
	AttestationKey []byte
	// EKRoots, when not nil, must be what the certificate of the endorsement key chains to.
	EKRoots *x509.CertPool
	// PCRs must be in the quote with these values.
	PCRs []PCR
	// Require is what the claims must be.
	Require Require
	// MaxAge is how old the statement may be by the service's clock; 0: not looked at.
	MaxAge time.Duration
	// Now is the time for MaxAge and certificates; zero: now.
	Now time.Time
}

// Require names claims that must hold.
type Require struct {
	DeviceEvidence    bool // Assurance is AssuranceDevice
	GeneratedOnDevice bool
	NotExportable     bool
}

// CheckNonce reports an error for what cannot be a nonce.
func CheckNonce(nonce []byte) error {
	if len(nonce) < MinNonce || len(nonce) > MaxNonce {
		return refuse("a nonce has %d to %d bytes", MinNonce, MaxNonce)
	}
	return nil
}

// Verify checks a document and gives its claims. Every error wraps ErrEvidence. It needs no network and no service.
func Verify(d *Document, o Options) (*Claims, error) {
	if err := CheckNonce(o.Nonce); err != nil {
		return nil, err
	}
	if d.Format != Format {
		return nil, refuse("the format is not %s", Format)
	}
	signer, err := d.signed(&o)
	if err != nil {
		return nil, err
	}
	st, err := decode[Statement](d.Statement, "statement")
	if err != nil {
		return nil, err
	}
	if err := st.check(&o); err != nil {
		return nil, err
	}
	c := &Claims{Assurance: AssuranceStatement, Tenant: st.Tenant, KeyID: st.KeyID, KeyVersion: st.KeyVersion, Algorithm: st.Algorithm, Purpose: st.Purpose,
		Custody: st.Custody, Origin: st.Origin, State: st.State, Policy: st.Policy, Signer: signer, Nonce: st.Nonce, Time: st.Time,
		Device: Device{Kind: st.Backend.Kind, Identity: st.Backend.ID}}
	if err := c.derive(d, st, &o); err != nil {
		return nil, err
	}
	if c.Assurance == AssuranceStatement && signer != SignerTrusted {
		return nil, refuse("it is a statement by the service, which is worth nothing without knowing the service's key: give its public key")
	}
	if o.PublicKey != nil && !bytes.Equal(o.PublicKey, c.PublicKey) {
		return nil, refuse("it is of another key than the expected one")
	}
	switch r := o.Require; {
	case r.DeviceEvidence && c.Assurance != AssuranceDevice:
		return nil, refuse("it is a statement by the service, and evidence by the device is required")
	case r.GeneratedOnDevice && !c.GeneratedOnDevice:
		return nil, refuse("the key was not generated on the device")
	case r.NotExportable && c.Exportable:
		return nil, refuse("the key is exportable")
	}
	return c, nil
}

// signed checks the service's signature and says whose it is.
func (d *Document) signed(o *Options) (string, error) {
	pub, err := x509.ParsePKIXPublicKey(d.Signature.PublicKey)
	k, ok := pub.(ed25519.PublicKey)
	if err != nil || !ok {
		return "", refuse("the service's public key is not an Ed25519 key")
	}
	if len(d.Statement) > MaxDocument || len(d.Evidence) > MaxDocument {
		return "", refuse("the document is too large")
	}
	if !ed25519.Verify(k, d.SignedBytes(), d.Signature.Value) {
		return "", refuse("the service's signature is wrong")
	}
	if o.Signer == nil {
		return SignerUnproven, nil
	}
	if subtle.ConstantTimeCompare(o.Signer, d.Signature.PublicKey) != 1 {
		return "", refuse("the service's key is another than the expected one")
	}
	return SignerTrusted, nil
}

// canonical reports whether s is a UUID as RFC 9562 section 4 writes it, in lower case.
func canonical(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

// check looks at what is the same with all kinds of evidence.
func (st *Statement) check(o *Options) error {
	if !canonical(st.KeyID) || !canonical(st.Tenant) || st.KeyVersion == 0 || st.Algorithm == "" || st.Purpose == "" || st.State == "" ||
		st.Backend.Kind == "" || st.Backend.ID == "" || st.Time.IsZero() {
		return refuse("the statement is incomplete")
	}
	if st.Origin != "generated" && st.Origin != "imported" {
		return refuse("the statement is of a key without a private part")
	}
	if subtle.ConstantTimeCompare(st.Nonce, o.Nonce) != 1 {
		return refuse("the nonce is another")
	}
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	if o.MaxAge > 0 && (now.Sub(st.Time) > o.MaxAge || st.Time.Sub(now) > o.MaxAge) {
		return refuse("the statement is too old, or of the future")
	}
	return nil
}

// derive fills in what follows from the evidence.
func (c *Claims) derive(d *Document, st *Statement, o *Options) error {
	if d.Kind != KindTPM {
		c.PublicKey = st.PublicKey
		if len(st.PublicKey) > 0 && len(st.PublicKey) > maxPart {
			return refuse("the public key is too large")
		}
		if len(o.PCRs) > 0 || o.EKRoots != nil || len(o.AttestationKey) > 0 {
			return refuse("it is no evidence of a TPM")
		}
	}
	switch d.Kind {
	case KindTPM:
		t, err := decode[TPM](d.Evidence, "evidence")
		if err != nil {
			return err
		}
		binding := Binding(d.Statement)
		return c.tpm(t, st, binding[:], o)
	case KindPKCS11:
		p, err := decode[PKCS11](d.Evidence, "evidence")
		if err != nil {
			return err
		}
		return c.pkcs11(p, st)
	case KindNone:
		if len(d.Evidence) > 0 {
			return refuse("there is evidence where none is said to be")
		}
		switch st.Custody {
		case "device", "sealed", "software":
		default:
			return refuse("the custody is unknown")
		}
		// Sealed and software material is made by the service and opened in its memory; of a device that says nothing nothing is claimed.
		c.GeneratedOnDevice, c.Exportable = false, true
		return nil
	}
	return refuse("the kind of the evidence is unknown")
}

// pkcs11 reads what the service says that the token says.
func (c *Claims) pkcs11(p *PKCS11, st *Statement) error {
	if st.Custody != "device" || st.Backend.Kind != "hsm" || st.Exportable {
		return refuse("the statement contradicts the evidence: it is of a key on a token")
	}
	c.Device.Manufacturer, c.Device.Model, c.Device.Serial, c.Device.Firmware = p.Manufacturer, p.Model, p.Serial, p.Firmware
	c.Device.Placement, c.Device.Attributes = p.Placement, p.Attributes
	a := p.Attributes
	switch {
	case p.Placement == PlacementWrapped && a == nil:
		// Wrapped means extractable to the token: it leaves under a key of the token, and whoever logs in could have it under another.
		c.GeneratedOnDevice, c.Exportable = st.Origin == "generated", true
		return nil
	case p.Placement != PlacementResident || a == nil:
		return refuse("the evidence is incomplete")
	case a.Extractable && a.NeverExtractable || !a.Sensitive && a.AlwaysSensitive:
		return refuse("the attributes contradict each other")
	case a.Local && st.Origin != "generated":
		return refuse("the statement contradicts the evidence: the origin of the key is another")
	}
	// A key that the service had made need not be local: NSS says it of no object that it keeps.
	c.GeneratedOnDevice = a.Local
	c.Exportable = a.Extractable || !a.NeverExtractable || !a.Sensitive || !a.AlwaysSensitive || p.LeaksWrapped
	return nil
}
