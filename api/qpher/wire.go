package qpher

// Encrypt is POST /kem/encrypt.
type Encrypt struct {
	Plaintext  []byte `json:"plaintext"`
	KeyVersion int64  `json:"key_version"`
	Mode       string `json:"mode,omitempty"`
	Salt       []byte `json:"salt,omitempty"`
	Algorithm  string `json:"algorithm,omitempty"`
}

// Ciphertext answers Encrypt.
type Ciphertext struct {
	Ciphertext []byte `json:"ciphertext"`
	Used
}

// Decrypt is POST /kem/decrypt.
type Decrypt struct {
	Ciphertext []byte `json:"ciphertext"`
	KeyVersion int64  `json:"key_version"`
	Algorithm  string `json:"algorithm,omitempty"`
}

// Plaintext answers Decrypt.
type Plaintext struct {
	Plaintext []byte `json:"plaintext"`
	Used
}

// Encapsulate is POST /kem/encapsulate.
type Encapsulate struct {
	KeyVersion int64  `json:"key_version"`
	Algorithm  string `json:"algorithm,omitempty"`
}

// Encapsulation answers Encapsulate.
type Encapsulation struct {
	KEMCiphertext []byte `json:"kem_ciphertext"`
	SharedSecret  []byte `json:"shared_secret"`
	Used
}

// Decapsulate is POST /kem/decapsulate.
type Decapsulate struct {
	KEMCiphertext []byte `json:"kem_ciphertext"`
	KeyVersion    int64  `json:"key_version"`
	Algorithm     string `json:"algorithm,omitempty"`
}

// SharedSecret answers Decapsulate.
type SharedSecret struct {
	SharedSecret []byte `json:"shared_secret"`
	Used
}

// Wrap is POST /kem/key/wrap and /kem/wrap.
type Wrap struct {
	SymmetricKey []byte `json:"symmetric_key"`
	KeyVersion   int64  `json:"key_version"`
	Algorithm    string `json:"algorithm,omitempty"`
}

// WrappedKey answers Wrap.
type WrappedKey struct {
	WrappedKey []byte `json:"wrapped_key"`
	Used
	WrappingMethod string `json:"wrapping_method"`
}

// Unwrap is POST /kem/key/unwrap and /kem/unwrap.
type Unwrap struct {
	WrappedKey []byte `json:"wrapped_key"`
	KeyVersion int64  `json:"key_version"`
	Algorithm  string `json:"algorithm,omitempty"`
}

// SymmetricKey answers Unwrap.
type SymmetricKey struct {
	SymmetricKey []byte `json:"symmetric_key"`
	Used
}

// Sign is POST /signature/sign.
type Sign struct {
	Message    []byte `json:"message"`
	KeyVersion int64  `json:"key_version"`
	Algorithm  string `json:"algorithm,omitempty"`
}

// Signature answers Sign.
type Signature struct {
	Signature []byte `json:"signature"`
	Used
}

// Verify is POST /signature/verify.
type Verify struct {
	Message    []byte `json:"message"`
	Signature  []byte `json:"signature"`
	KeyVersion int64  `json:"key_version"`
	Algorithm  string `json:"algorithm,omitempty"`
}

// Validity answers Verify.
type Validity struct {
	Valid bool `json:"valid"`
	Used
}

// SignHash is POST /signature/sign-hash.
type SignHash struct {
	Hash          []byte `json:"hash"`
	HashAlgorithm string `json:"hash_algorithm"`
	KeyVersion    int64  `json:"key_version"`
	Algorithm     string `json:"algorithm,omitempty"`
}

// HashSignature answers SignHash.
type HashSignature struct {
	Signature []byte `json:"signature"`
	Used
	HashAlgorithm string `json:"hash_algorithm"`
	SignatureType string `json:"signature_type"`
}

// VerifyHash is POST /signature/verify-hash.
type VerifyHash struct {
	Hash          []byte `json:"hash"`
	HashAlgorithm string `json:"hash_algorithm"`
	Signature     []byte `json:"signature"`
	KeyVersion    int64  `json:"key_version"`
	Algorithm     string `json:"algorithm,omitempty"`
}

// HashValidity answers VerifyHash.
type HashValidity struct {
	Valid bool `json:"valid"`
	Used
	HashAlgorithm string `json:"hash_algorithm"`
}

// Used says what did the work.
type Used struct {
	KeyVersion int64  `json:"key_version"`
	Algorithm  string `json:"algorithm"`
	KeyState   string `json:"key_state,omitempty"`
}

// Generate is POST /kms/keys/generate and /kms/keys/rotate.
type Generate struct {
	Algorithm string `json:"algorithm"`
}

// Retire is POST /kms/keys/retire.
type Retire struct {
	Algorithm  string `json:"algorithm"`
	KeyVersion int64  `json:"key_version"`
}

// Key is a version of a key.
type Key struct {
	KeyVersion int64  `json:"key_version"`
	Algorithm  string `json:"algorithm"`
	Status     string `json:"status"`
	PublicKey  []byte `json:"public_key"`
	CreatedAt  string `json:"created_at"`
}

// Rotated answers a rotation.
type Rotated struct {
	KeyVersion    int64  `json:"key_version"`
	Algorithm     string `json:"algorithm"`
	PublicKey     []byte `json:"public_key"`
	OldKeyVersion int64  `json:"old_key_version"`
}

// KeyList is all keys that fit.
type KeyList struct {
	Keys  []Key `json:"keys"`
	Total int   `json:"total"`
}
