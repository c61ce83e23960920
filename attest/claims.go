package attest

import (
	"time"
)

// Assurance says what the claims about the device rest on.
type Assurance string

const (
	// AssuranceDevice: signatures by a key of the TPM. How far that key itself is to be believed is DeviceIdentity.
	AssuranceDevice Assurance = "device-evidence"
	// AssuranceStatement: the service's word.
	AssuranceStatement Assurance = "service-statement"
)

// Identity says how the verifier knows whose the attestation key is.
type Identity string

const (
	// IdentityUnproven: nobody but the document says that the attestation key is a TPM's. Also with a verified EK certificate: that an
	// attestation key is in the same TPM as an endorsement key is proven by TPM2_ActivateCredential alone, in an exchange with the TPM.
	IdentityUnproven Identity = "unproven"
	// IdentityPinned: it is the attestation key that the verifier was told to expect.
	IdentityPinned Identity = "attestation-key"
)

// States of the endorsement key's certificate.
const (
	CertificateAbsent     = "absent"
	CertificateUnverified = "unverified" // there is one, it is of the endorsement key, and no roots were given
	CertificateVerified   = "verified"   // it chains to the verifier's roots
)

// Claims are what a document says, in one form for all devices. With AssuranceDevice, Tenant, KeyID, KeyVersion, Algorithm, Purpose, PublicKey,
// GeneratedOnDevice, Exportable, PCRs and the counters of Device come from structures that the attestation key signed. The rest is the
// service's word, bound to them.
type Claims struct {
	Assurance  Assurance `json:"assurance"`
	Tenant     string    `json:"tenant"`
	KeyID      string    `json:"key_id"`
	KeyVersion uint32    `json:"key_version"`
	Algorithm  string    `json:"algorithm"`
	Purpose    string    `json:"purpose"`
	PublicKey  []byte    `json:"public_key,omitempty"` // SPKI DER
	Custody    string    `json:"custody"`
	Origin     string    `json:"origin"`
	State      string    `json:"state"`
	// GeneratedOnDevice: the device itself made the private or secret part.
	GeneratedOnDevice bool `json:"generated_on_device"`
	// Exportable: something else than the device alone decides whether the material leaves it. It is true in sealed and software custody,
	// where the material is in the service's memory while it is in use.
	Exportable bool   `json:"exportable"`
	Policy     Policy `json:"policy"`
	Device     Device `json:"device"`
	// Signer is trusted when the service's signature is by the key that the verifier gave, else unproven.
	Signer string    `json:"signer"`
	PCRs   []PCR     `json:"pcrs,omitempty"`
	Nonce  []byte    `json:"nonce"`
	Time   time.Time `json:"time"`
}

// States of Claims.Signer.
const (
	SignerTrusted  = "trusted"
	SignerUnproven = "unproven"
)

// Device is where the key lives.
type Device struct {
	Kind         string `json:"kind"`     // of the backend: software, hsm or tpm
	Identity     string `json:"identity"` // in the service's records
	Manufacturer string `json:"manufacturer,omitempty"`
	Model        string `json:"model,omitempty"`
	Serial       string `json:"serial,omitempty"`
	Firmware     string `json:"firmware,omitempty"`
	// Placement is PKCS#11's: resident or wrapped.
	Placement string `json:"placement,omitempty"`
	// Attributes are PKCS#11's, of a resident key.
	Attributes *Attributes `json:"attributes,omitempty"`
	// The rest is of a TPM.
	DeviceIdentity     Identity `json:"device_identity,omitempty"`
	AttestationKeyName string   `json:"attestation_key_name,omitempty"`   // hexadecimal, TPM2B_NAME: hash algorithm and hash of the public area
	EndorsementKey     string   `json:"endorsement_key_sha256,omitempty"` // hexadecimal, SHA-256 of the SPKI: what the certificate is of
	EKCertificate      string   `json:"endorsement_certificate,omitempty"`
	ObjectNames        []string `json:"object_names,omitempty"`
	ResetCount         uint32   `json:"reset_count,omitempty"`
	RestartCount       uint32   `json:"restart_count,omitempty"`
}
