package wire

// Target names key and version where the path does not: key is only for the routes without {key}.
type Target struct {
	Key        string `json:"key,omitempty"`
	KeyVersion uint32 `json:"key_version,omitempty"`
}

// Used says which key version did the work. KeyState appears only when it is "compromised".
type Used struct {
	KeyID      string `json:"key_id,omitempty"`
	KeyVersion uint32 `json:"key_version,omitempty"`
	KeyState   string `json:"key_state,omitempty"`
}

// EncryptItem is one plaintext. Context is bound together with aad.
type EncryptItem struct {
	Plaintext []byte            `json:"plaintext"`
	AAD       []byte            `json:"aad,omitempty"`
	Context   map[string]string `json:"context,omitempty"`
	Label     []byte            `json:"label,omitempty"` // RSA-OAEP label with format raw, HPKE info with format hpke
}

// Encrypt is POST /keys/{key}/encrypt and POST /encrypt. Format "raw" gives a bare RSA-OAEP ciphertext.
type Encrypt struct {
	Target
	EncryptItem
	Hash   string        `json:"hash,omitempty"`   // RSA-OAEP: SHA-1, SHA-256 (default), SHA-384, SHA-512
	Format string        `json:"format,omitempty"` // envelope (default), raw (RSA), hpke or kem-dem (KEM)
	Items  []EncryptItem `json:"items,omitempty"`
}

// Ciphertext is the result of encrypt and rewrap.
type Ciphertext struct {
	Ciphertext []byte `json:"ciphertext,omitempty"`
	Used
	Error *Error `json:"error,omitempty"`
}

// DecryptItem is one ciphertext.
type DecryptItem struct {
	Ciphertext []byte            `json:"ciphertext"`
	AAD        []byte            `json:"aad,omitempty"`
	Context    map[string]string `json:"context,omitempty"`
	Label      []byte            `json:"label,omitempty"`
}

// Decrypt is POST /keys/{key}/decrypt, /rewrap and POST /decrypt.
type Decrypt struct {
	Target
	DecryptItem
	Hash   string        `json:"hash,omitempty"`
	Format string        `json:"format,omitempty"`
	Items  []DecryptItem `json:"items,omitempty"`
}

// Plaintext is the result of decrypt. An empty plaintext is "".
type Plaintext struct {
	Plaintext []byte `json:"plaintext"`
	Used
	Error *Error `json:"error,omitempty"`
}

// DataKeyItem asks for one data key.
type DataKeyItem struct {
	Bytes            int               `json:"bytes,omitempty"` // 16 to 64; 32 when absent
	AAD              []byte            `json:"aad,omitempty"`
	Context          map[string]string `json:"context,omitempty"`
	WithoutPlaintext bool              `json:"without_plaintext,omitempty"`
}

// DataKey is POST /keys/{key}/data-key and POST /data-key.
type DataKey struct {
	Target
	DataKeyItem
	Items []DataKeyItem `json:"items,omitempty"`
}

// DataKeyResult is a fresh data key, in clear and encrypted under the key (decrypt opens it).
type DataKeyResult struct {
	Plaintext  []byte `json:"plaintext,omitempty"`
	Ciphertext []byte `json:"ciphertext,omitempty"`
	Used
	Error *Error `json:"error,omitempty"`
}

// WrapItem is one piece of key material (8 to 4096 bytes for AES-KWP).
type WrapItem struct {
	Plaintext []byte            `json:"plaintext"`
	AAD       []byte            `json:"aad,omitempty"` // not with AES-KWP, which has none
	Context   map[string]string `json:"context,omitempty"`
}

// Wrap is POST /keys/{key}/wrap.
type Wrap struct {
	Target
	WrapItem
	Items []WrapItem `json:"items,omitempty"`
}

// WrappedKey is its result: bare RFC 5649 output for AES-KWP keys, an envelope otherwise.
type WrappedKey struct {
	WrappedKey []byte `json:"wrapped_key,omitempty"`
	Used
	Error *Error `json:"error,omitempty"`
}

// UnwrapItem is one wrapped key.
type UnwrapItem struct {
	WrappedKey []byte            `json:"wrapped_key"`
	AAD        []byte            `json:"aad,omitempty"`
	Context    map[string]string `json:"context,omitempty"`
}

// Unwrap is POST /keys/{key}/unwrap. For AES-KWP key_version says which version wrapped it (the primary when absent).
type Unwrap struct {
	Target
	UnwrapItem
	Items []UnwrapItem `json:"items,omitempty"`
}

// SignItem is a message, which may be empty but not nil, or its digest by hash, or the message representative of ML-DSA.
type SignItem struct {
	Message []byte            `json:"message,omitzero"`
	Digest  []byte            `json:"digest,omitzero"`
	Mu      []byte            `json:"mu,omitzero"`
	Context map[string]string `json:"context,omitempty"`
}

// Sign is POST /keys/{key}/sign and POST /sign.
type Sign struct {
	Target
	SignItem
	Hash             string     `json:"hash,omitempty"`              // SHA-256, SHA-384, SHA-512 (SHA-1 is refused)
	Padding          string     `json:"padding,omitempty"`           // RSA: pss (default), pkcs1v15
	Encoding         string     `json:"encoding,omitempty"`          // ECDSA: der (default), p1363
	SignatureContext []byte     `json:"signature_context,omitempty"` // ML-DSA, SLH-DSA, composite: signed with the message
	Deterministic    bool       `json:"deterministic,omitempty"`     // ML-DSA, SLH-DSA
	Items            []SignItem `json:"items,omitempty"`
}

// Signature is its result.
type Signature struct {
	Signature []byte `json:"signature,omitempty"`
	Used
	Error *Error `json:"error,omitempty"`
}

// VerifyItem is a signature to check.
type VerifyItem struct {
	Message   []byte            `json:"message,omitzero"`
	Digest    []byte            `json:"digest,omitzero"`
	Mu        []byte            `json:"mu,omitzero"`
	Signature []byte            `json:"signature"`
	Context   map[string]string `json:"context,omitempty"`
}

// Verify is POST /keys/{key}/verify and POST /verify.
type Verify struct {
	Target
	VerifyItem
	Hash             string       `json:"hash,omitempty"`
	Padding          string       `json:"padding,omitempty"`
	Encoding         string       `json:"encoding,omitempty"`
	SignatureContext []byte       `json:"signature_context,omitempty"`
	Items            []VerifyItem `json:"items,omitempty"`
}

// Validity is the result of verify and verify-mac. A wrong signature is valid: false, not an error.
type Validity struct {
	Valid *bool `json:"valid,omitempty"`
	Used
	Error *Error `json:"error,omitempty"`
}

// MACItem is one message; mac is for verify-mac only.
type MACItem struct {
	Message []byte            `json:"message"`
	MAC     []byte            `json:"mac,omitempty"`
	Context map[string]string `json:"context,omitempty"`
}

// MAC is POST /keys/{key}/mac and /verify-mac.
type MAC struct {
	Target
	MACItem
	Items []MACItem `json:"items,omitempty"`
}

// MACResult is the result of mac.
type MACResult struct {
	MAC []byte `json:"mac,omitempty"`
	Used
	Error *Error `json:"error,omitempty"`
}

// DeriveItem is one key agreement with a peer's public key (PEM, or base64 of SPKI DER or of the raw value).
type DeriveItem struct {
	PeerPublicKey string            `json:"peer_public_key"`
	Salt          []byte            `json:"salt,omitempty"`
	Info          []byte            `json:"info,omitempty"`
	Hash          string            `json:"hash,omitempty"`
	Length        int               `json:"length,omitempty"`
	Context       map[string]string `json:"context,omitempty"`
}

// Derive is POST /keys/{key}/derive: HKDF (RFC 5869) over the agreed secret.
type Derive struct {
	Target
	DeriveItem
	Items []DeriveItem `json:"items,omitempty"`
}

// EncapsulateItem asks for one shared secret; context is checked against the key's policy.
type EncapsulateItem struct {
	Context map[string]string `json:"context,omitempty"`
}

// Encapsulate is POST /keys/{key}/encapsulate.
type Encapsulate struct {
	Target
	EncapsulateItem
	Items []EncapsulateItem `json:"items,omitempty"`
}

// Encapsulation is its result: a fresh shared secret, and what carries it to the key's holder.
type Encapsulation struct {
	KEMCiphertext []byte `json:"kem_ciphertext,omitempty"`
	SharedSecret  []byte `json:"shared_secret,omitempty"`
	Used
	Error *Error `json:"error,omitempty"`
}

// DecapsulateItem is one KEM ciphertext.
type DecapsulateItem struct {
	KEMCiphertext []byte            `json:"kem_ciphertext"`
	Context       map[string]string `json:"context,omitempty"`
}

// Decapsulate is POST /keys/{key}/decapsulate.
type Decapsulate struct {
	Target
	DecapsulateItem
	Items []DecapsulateItem `json:"items,omitempty"`
}

// SharedSecret is its result.
type SharedSecret struct {
	SharedSecret []byte `json:"shared_secret,omitempty"`
	Used
	Error *Error `json:"error,omitempty"`
}

// DerivedKey is its result.
type DerivedKey struct {
	DerivedKey []byte `json:"derived_key,omitempty"`
	Used
	Error *Error `json:"error,omitempty"`
}

// RandomRequest is POST /random.
type RandomRequest struct {
	Bytes   int    `json:"bytes"`
	Backend string `json:"backend,omitempty"`
}

// RandomResult is its answer.
type RandomResult struct {
	Random []byte `json:"random"`
}
