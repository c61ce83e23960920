package wire

import "time"

// Attest is POST /keys/{key}/attestation. Nonce is the verifier's, 16 to 64 bytes.
type Attest struct {
	Nonce   []byte `json:"nonce"`
	Version uint32 `json:"version,omitempty"`
}

// Attestation is its answer: the evidence to keep and verify offline, and what it says.
type Attestation struct {
	Format   string   `json:"format"`
	Evidence Evidence `json:"evidence"`
	Claims   Claims   `json:"claims"`
}

// Evidence is the document of docs/formats/attestation.md.
type Evidence struct {
	Format    string            `json:"format"`
	Statement []byte            `json:"statement"`
	Kind      string            `json:"kind"`
	Evidence  []byte            `json:"evidence"`
	Signature EvidenceSignature `json:"signature"`
}

// EvidenceSignature is the service's own, by Ed25519.
type EvidenceSignature struct {
	PublicKey []byte `json:"public_key"`
	Value     []byte `json:"value"`
}

// Claims are what evidence says, the same for all devices.
type Claims struct {
	Assurance         string         `json:"assurance"`
	Tenant            string         `json:"tenant"`
	KeyID             string         `json:"key_id"`
	KeyVersion        uint32         `json:"key_version"`
	Algorithm         string         `json:"algorithm"`
	Purpose           string         `json:"purpose"`
	PublicKey         []byte         `json:"public_key,omitempty"`
	Custody           string         `json:"custody"`
	Origin            string         `json:"origin"`
	State             string         `json:"state"`
	GeneratedOnDevice bool           `json:"generated_on_device"`
	Exportable        bool           `json:"exportable"`
	Policy            ClaimedPolicy  `json:"policy"`
	Device            AttestedDevice `json:"device"`
	Signer            string         `json:"signer"`
	PCRs              []PCR          `json:"pcrs,omitempty"`
	Nonce             []byte         `json:"nonce"`
	Time              time.Time      `json:"time"`
}

// ClaimedPolicy is what the service enforces for the key.
type ClaimedPolicy struct {
	Operations         []string `json:"operations,omitempty"`
	RequireAttestation bool     `json:"require_attestation,omitempty"`
	RequiredContext    []string `json:"required_context,omitempty"`
	UsageLimit         int64    `json:"usage_limit,omitempty"`
}

// AttestedDevice is where the key lives.
type AttestedDevice struct {
	Kind                   string           `json:"kind"`
	Identity               string           `json:"identity"`
	Manufacturer           string           `json:"manufacturer,omitempty"`
	Model                  string           `json:"model,omitempty"`
	Serial                 string           `json:"serial,omitempty"`
	Firmware               string           `json:"firmware,omitempty"`
	Placement              string           `json:"placement,omitempty"`
	Attributes             *TokenAttributes `json:"attributes,omitempty"`
	DeviceIdentity         string           `json:"device_identity,omitempty"`
	AttestationKeyName     string           `json:"attestation_key_name,omitempty"`
	EndorsementKey         string           `json:"endorsement_key_sha256,omitempty"`
	EndorsementCertificate string           `json:"endorsement_certificate,omitempty"`
	ObjectNames            []string         `json:"object_names,omitempty"`
	ResetCount             uint32           `json:"reset_count,omitempty"`
	RestartCount           uint32           `json:"restart_count,omitempty"`
}

// TokenAttributes are those of a PKCS#11 object.
type TokenAttributes struct {
	Local            bool `json:"CKA_LOCAL"`
	Sensitive        bool `json:"CKA_SENSITIVE"`
	AlwaysSensitive  bool `json:"CKA_ALWAYS_SENSITIVE"`
	Extractable      bool `json:"CKA_EXTRACTABLE"`
	NeverExtractable bool `json:"CKA_NEVER_EXTRACTABLE"`
}

// PCR is the value of one platform configuration register.
type PCR struct {
	Bank  string `json:"bank"`
	Index int    `json:"index"`
	Value []byte `json:"value"`
}

// AttestationKey is GET /attestation-key: who signs the service's statements. Public is PEM.
type AttestationKey struct {
	Algorithm string `json:"algorithm"`
	PublicKey string `json:"public_key"`
}
