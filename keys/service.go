package keys

import (
	"context"
	"crypto"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/jobs"
)

// Caller is who asks, and under which request.
type Caller struct {
	Principal   *auth.Principal
	RequestID   string
	Idempotency idempotency.Token
	Approval    *Presented // nil: none was sent
}

// CreateRequest asks for a new key. Only Name and Algorithm are required.
type CreateRequest struct {
	Name      string
	Algorithm backend.Algorithm
	Purpose   backend.Purpose // "" : from Policy.Operations, else the algorithm's default
	Backend   string          // configured name; "" : the default backend
	Custody   backend.Custody // "" : the backend's default
	Origin    Origin          // OriginGenerated, or OriginImported: the first version waits in pending-import
	Labels    map[string]string
	Policy    Policy
	Default   bool // make it the tenant's default key for its purpose
}

// UpdateRequest changes what is not nil. Labels are merged: a nil value removes one.
type UpdateRequest struct {
	Name       *string
	Labels     map[string]*string
	Policy     *Policy
	MinDecrypt *uint32
	MinEncrypt *uint32
	Default    *bool
}

// ListRequest is a page of keys.
type ListRequest struct {
	Filter Filter
	Cursor string
	Limit  int // 1 to 1000; 0: 100
}

// ImportParameters is what a caller needs to wrap a key for import: RSA_AES_KEY_WRAP (PKCS#11 2.40 section 2.1.21).
type ImportParameters struct {
	Token     string // names the wrapping key in ImportRequest
	PublicKey []byte // SPKI DER, RSA-3072
	Wrapping  string // "RSA_AES_KEY_WRAP_SHA_256"
	Hash      crypto.Hash
	ExpiresAt time.Time
}

// ImportRequest brings material. Key names an existing key (pending-import: its version gets the material; otherwise a
// new version); without it a new key is made from Create. Exactly one of Wrapped and Public is set.
type ImportRequest struct {
	Key     string
	Create  CreateRequest
	Token   string
	Wrapped []byte
	Public  []byte // SPKI DER: a public-only key
}

// ExportRequest names the RSA key to wrap to: a key of the tenant, or SPKI DER.
type ExportRequest struct {
	Key     string
	Version uint32
	To      string
	Public  []byte
	Hash    crypto.Hash // SHA-256 when zero
}

// ItemError is why one item of a batch failed: nil when it did not.
type ItemError = error

// Target says which key and version an operation is on. Key is an id or a name; "" is the tenant's default key (or, for
// decrypt, rewrap and unwrap of envelopes, the key that the envelope names). Version 0 is the primary version, or the envelope's.
// A key that is not of Algorithm, when that is set, is as if it were not there: for front ends that know keys by their algorithm.
type Target struct {
	Key       string
	Version   uint32
	Algorithm backend.Algorithm
}

// Used says which key version did the work. Compromised is set when its state is, and every reply must show it.
type Used struct {
	KeyID       uuid.UUID
	Version     uint32
	Compromised bool
}

// EncryptItem is one plaintext. Context is bound together with AAD.
type EncryptItem struct {
	Plaintext []byte
	AAD       []byte
	Context   map[string]string
	Label     []byte // with FormatRaw and FormatHPKE
	Salt      []byte // with FormatKEMDEM; not nil: at least 32 bytes, and the same plaintext and salt give the same ciphertext
}

// Format is the form of a ciphertext.
type Format string

const (
	// FormatEnvelope is the service's own: docs/formats/envelope.md. It names key and version.
	FormatEnvelope Format = ""
	// FormatRaw is a bare RSA-OAEP ciphertext (RFC 8017 section 7.1) of an RSA key. It binds a label, and no aad or context.
	FormatRaw Format = "raw"
	// FormatHPKE is enc ‖ ciphertext of RFC 9180 section 6.1 in base mode, of a KEM key. It binds aad, and the label as info; no context.
	FormatHPKE Format = "hpke"
	// FormatKEMDEM is KEM ciphertext ‖ nonce ‖ AES-256-GCM ciphertext ‖ tag of a KEM key: docs/formats/qpher.md. It binds nothing.
	FormatKEMDEM Format = "kem-dem"
)

// EncryptOpts are the choices of RSA and KEM keys. Hash is that of OAEP (SHA-256 when zero). It is not in the ciphertext: who encrypts
// with another than SHA-256 names it again to decrypt. Rewrap, data-key, wrap and unwrap use SHA-256 and envelopes.
type EncryptOpts struct {
	Hash   crypto.Hash
	Format Format
}

// CiphertextItem is one ciphertext to open.
type CiphertextItem struct {
	Ciphertext []byte
	AAD        []byte
	Context    map[string]string
	Label      []byte
}

// BytesResult is one result of an operation that gives bytes: Err is set, or the rest is. Bytes are the caller's own and no other
// result's, though those of one batch may share memory: appending to one does not touch the next. The front end wipes plaintexts
// and derived keys after writing them.
type BytesResult struct {
	Bytes []byte
	Used  Used
	Err   ItemError
}

// DataKeyRequest asks for a fresh data key, in clear (unless Hide) and encrypted under the key.
type DataKeyRequest struct {
	Bytes   int // 16 to 64; 0: 32
	Hide    bool
	AAD     []byte
	Context map[string]string
}

// DataKey is a fresh data key.
type DataKey struct {
	Plaintext  []byte // nil when hidden; the front end wipes it after writing
	Ciphertext []byte
	Used       Used
	Err        ItemError
}

// SignItem is one message, digest or message representative (exactly one of them).
type SignItem struct {
	Message []byte
	Digest  []byte
	Mu      []byte            // of ML-DSA: 64 bytes (FIPS 204 section 6.2)
	Context map[string]string // checked against the policy, not signed
}

// SignOpts: Hash is the algorithm's default when zero; Padding is PSS when "" (RSA only); P1363 gives r ‖ s instead of DER
// (ECDSA only). ML-DSA and SLH-DSA sign the message itself when Hash is zero, else by their pre-hash variant; they and the
// composites take a Context, the context string of the standard, which is signed; Deterministic is for signing with ML-DSA and SLH-DSA.
type SignOpts struct {
	Hash          crypto.Hash
	Padding       backend.Padding
	P1363         bool
	Context       []byte // at most 255 bytes
	Deterministic bool
}

// VerifyItem is one signature to check.
type VerifyItem struct {
	Message   []byte
	Digest    []byte
	Mu        []byte
	Signature []byte
	Context   map[string]string
}

// VerifyResult says whether a signature or tag is valid; a wrong one is no error.
type VerifyResult struct {
	Valid bool
	Used  Used
	Err   ItemError
}

// MACItem is one message, with the tag to check for VerifyMAC.
type MACItem struct {
	Message []byte
	MAC     []byte
	Context map[string]string
}

// DeriveItem is one key agreement: HKDF (RFC 5869) over the shared secret with the peer.
type DeriveItem struct {
	Peer    []byte // SPKI DER, or the raw public value of X25519, X448 and uncompressed points
	Salt    []byte
	Info    []byte
	Hash    crypto.Hash // SHA-256 when zero
	Length  int         // bytes, 16 to 255 × hash size, at most 1024; 0: 32
	Context map[string]string
}

// EncapsulateItem asks for one shared secret.
type EncapsulateItem struct {
	Context map[string]string // checked against the policy, bound to nothing
}

// Encapsulation is a fresh shared secret and the ciphertext that carries it.
type Encapsulation struct {
	Ciphertext []byte
	Secret     []byte // the front end wipes it after writing
	Used       Used
	Err        ItemError
}

// DecapsulateItem is one KEM ciphertext.
type DecapsulateItem struct {
	Ciphertext []byte
	Context    map[string]string
}

// BackendStatus is a backend as GET /backends shows it.
type BackendStatus struct {
	Info    backend.Info
	Members []backend.MemberStatus // of a backend made of several devices, or of one that comes and goes
	Default bool
	Healthy bool
	Error   string // a fault code, when not healthy
}

// API is the list of what a Service does. It is written down here so that a front end can be read against it; *Service is
// the only implementation.
type API interface {
	Create(ctx context.Context, c Caller, r CreateRequest) (*Key, error)
	Get(ctx context.Context, c Caller, key string) (*Key, error)
	List(ctx context.Context, c Caller, r ListRequest) (keys []*Key, next string, err error)
	Update(ctx context.Context, c Caller, key string, r UpdateRequest) (*Key, error)
	// Delete schedules the end of a key after 7 to 30 days (0: 30).
	Delete(ctx context.Context, c Caller, key string, waiting time.Duration) (*Key, error)
	CancelDeletion(ctx context.Context, c Caller, key string) (*Key, error)
	Rotate(ctx context.Context, c Caller, key string) (*Key, error)
	// RotateRetiring and Retire are for front ends where a key has at most one version in use.
	RotateRetiring(ctx context.Context, c Caller, r RotateRequest) (k *Key, old uint32, err error)
	Retire(ctx context.Context, c Caller, t Target) (*Version, error)
	Versions(ctx context.Context, c Caller, key string, from uint32, limit int) ([]*Version, error)
	Version(ctx context.Context, c Caller, key string, version uint32) (*Version, error) // 0: primary
	SetVersionState(ctx context.Context, c Caller, key string, version uint32, to State) (*Version, error)
	ImportParameters(ctx context.Context, c Caller, backend string) (*ImportParameters, error)
	Import(ctx context.Context, c Caller, r ImportRequest) (*Key, error)
	Export(ctx context.Context, c Caller, r ExportRequest) (wrapped []byte, used Used, err error)

	// Attest gives evidence of where a key version lives, AttestationKey the SPKI of the key that signs the service's statements.
	Attest(ctx context.Context, c Caller, r AttestRequest) (*Attestation, error)
	AttestationKey(ctx context.Context, c Caller) ([]byte, error)

	// The operations take one item or many. single says that the caller sent one item outside a list: then its error is
	// the call's error. The results have the items' order and number.
	Encrypt(ctx context.Context, c Caller, t Target, o EncryptOpts, items []EncryptItem, single bool) ([]BytesResult, error)
	Decrypt(ctx context.Context, c Caller, t Target, o EncryptOpts, items []CiphertextItem, single bool) ([]BytesResult, error)
	Rewrap(ctx context.Context, c Caller, t Target, items []CiphertextItem, single bool) ([]BytesResult, error)
	DataKeys(ctx context.Context, c Caller, t Target, items []DataKeyRequest, single bool) ([]DataKey, error)
	Wrap(ctx context.Context, c Caller, t Target, items []EncryptItem, single bool) ([]BytesResult, error)
	Unwrap(ctx context.Context, c Caller, t Target, items []CiphertextItem, single bool) ([]BytesResult, error)
	WrapKEMDEM(ctx context.Context, c Caller, t Target, items []EncryptItem, single bool) ([]BytesResult, error)
	UnwrapKEMDEM(ctx context.Context, c Caller, t Target, items []CiphertextItem, single bool) ([]BytesResult, error)
	Sign(ctx context.Context, c Caller, t Target, o SignOpts, items []SignItem, single bool) ([]BytesResult, error)
	Verify(ctx context.Context, c Caller, t Target, o SignOpts, items []VerifyItem, single bool) ([]VerifyResult, error)
	MAC(ctx context.Context, c Caller, t Target, items []MACItem, single bool) ([]BytesResult, error)
	VerifyMAC(ctx context.Context, c Caller, t Target, items []MACItem, single bool) ([]VerifyResult, error)
	Derive(ctx context.Context, c Caller, t Target, items []DeriveItem, single bool) ([]BytesResult, error)
	Encapsulate(ctx context.Context, c Caller, t Target, items []EncapsulateItem, single bool) ([]Encapsulation, error)
	Decapsulate(ctx context.Context, c Caller, t Target, items []DecapsulateItem, single bool) ([]BytesResult, error)
	Random(ctx context.Context, c Caller, backend string, n int) ([]byte, error)

	// Move makes a job that moves keys to another backend.
	Move(ctx context.Context, c Caller, r MoveRequest) (*jobs.Job, error)

	Settings(ctx context.Context, c Caller) (Settings, error)
	SetSettings(ctx context.Context, c Caller, s Settings) (Settings, error)

	Grants(ctx context.Context, c Caller, key, cursor string, limit int) (grants []*auth.Grant, next string, err error)
	Grant(ctx context.Context, c Caller, key string, id uuid.UUID) (*auth.Grant, error)
	PutGrant(ctx context.Context, c Caller, key string, r GrantRequest) (*auth.Grant, error)
	DeleteGrant(ctx context.Context, c Caller, key string, id uuid.UUID) (*auth.Grant, error)
	RequestApproval(ctx context.Context, c Caller, r ApprovalRequest) (*ApprovalInfo, error)
	Approval(ctx context.Context, c Caller, id uuid.UUID) (*ApprovalInfo, error)
	Approvals(ctx context.Context, c Caller, cursor string, limit int) (list []*ApprovalInfo, next string, err error)
	Approve(ctx context.Context, c Caller, id uuid.UUID) (*ApprovalInfo, error)
	Reject(ctx context.Context, c Caller, id uuid.UUID) (*ApprovalInfo, error)
	// Authorize says what would be decided, and by which rule.
	Authorize(ctx context.Context, c Caller, r AuthorizeRequest) (auth.Decision, error)
	// Told reports whether the log and the events tell a caller of something.
	Told(ctx context.Context, c Caller, h Happened) (bool, error)

	Backends(ctx context.Context) []BackendStatus
	Backend(ctx context.Context, name string) (BackendStatus, error)
	// BackendName gives the configured name of a backend by its identity, or the identity when it is not open here.
	BackendName(id string) string
	// CustodyCaveat says what weakens the custody of every key in a backend, by its identity: "" nothing.
	CustodyCaveat(id string) string
}
