// Package backend is what a device that keeps keys looks like to the rest of the program: a small core interface,
// optional capabilities on the key handle, and the one algorithm table.
//
// A backend trusts its caller to have authenticated, authorized and recorded the request: only package keys calls it.
// The caller trusts the backend to say truthfully where a key lives (Custody) and what it can do (Info).
//
// Errors: a backend answers with fault.Error values. fault.Unsupported: not among its capabilities.
// fault.KeyMaterial: the Ref does not open, is corrupted, or belongs to another root, device, tenant, key or version.
// fault.BackendUnavailable: the device cannot be reached now, or the backend is closed. fault.Locked: the root is not open.
// fault.Timeout: the context ended first, by deadline or cancellation; a context that has ended before the call always gives
// this, with nothing done. fault.DecryptionFailed: for every way in which opening caller's data fails, always with the same message.
package backend

import (
	"context"
	"crypto"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Custody says where a private operation happens and who can see the material. It is always shown, never flattered.
type Custody string

const (
	CustodyDevice   Custody = "device"   // generated and used inside the device, not extractable
	CustodySealed   Custody = "sealed"   // sealed by a key that never leaves the device; opened in this process for use
	CustodySoftware Custody = "software" // sealed by the software root
)

// Backend is an opened device. All methods are safe for concurrent use. After Close every method but Info and Close, and every
// method of a handle but Public and Close, answers fault.BackendUnavailable; Close waits for calls under way, ends every goroutine
// of the backend, and does nothing the second time.
type Backend interface {
	// Info describes the backend. It is fixed once the backend is open. One whose device has not been there since the start answers
	// fault.BackendUnavailable to everything, and says here what is known from before: ID and Name at least, perhaps no capabilities.
	Info() Info
	// Generate makes new key material. It is durable, as far as the device keeps anything, when it returns.
	// It is never retried. s.KeyID and s.Version must not have been used before with this backend if the device keeps objects:
	// then fault.Conflict, and the object that is there stays untouched. The Ref's Spec is s with its custody filled in.
	// An algorithm, purpose, custody or export that is not among the capabilities is fault.Unsupported.
	Generate(ctx context.Context, s Spec) (Ref, error)
	// Load gives a handle for use. It is cheap enough for every operation: the backend caches what is worth caching.
	// The whole Spec is bound to the blob and the stored public key is compared with the device's: a Ref with any part of it
	// changed is fault.KeyMaterial, and so is one whose object is gone. Handles must be closed.
	Load(ctx context.Context, r Ref) (Key, error)
	// Destroy erases what the device keeps of the key. It is idempotent: what is gone already is no error.
	// With Info().KeepsObjects false it only drops cached material; the Ref's bytes are the caller's to erase.
	Destroy(ctx context.Context, r Ref) error
	Close() error
}

// Info is what a backend is and can do.
type Info struct {
	Kind         string       // "software", "hsm", "tpm"
	Name         string       // the configured name; it may change between starts
	ID           string       // the device's own identity, the same under any configured name: what key records keep
	Custody      []Custody    // what it can give, strongest first; the first is the default
	Capabilities []Capability // one for each algorithm it can generate; everything else answers fault.Unsupported
	KeepsObjects bool         // true: key material lives in the device and Destroy erases it; false: the Ref is all there is
	Quirks       []string     // what an operator should know, in words
	// CustodyCaveat says in a sentence what weakens the custody of every key in this backend, and is shown with each; "" for nothing.
	CustodyCaveat string
}

// Capability is what a backend can do with one algorithm.
type Capability struct {
	Algorithm  Algorithm
	Custody    Custody
	Operations []Operation
	Import     bool
}

// Can gives the capability for an algorithm.
func (i Info) Can(a Algorithm) (Capability, bool) {
	for _, c := range i.Capabilities {
		if c.Algorithm == a {
			return c, true
		}
	}
	return Capability{}, false
}

// Spec says which key version material is for. Tenant, KeyID, Version and Algorithm are bound to the material: a Ref
// does not load under any other.
type Spec struct {
	Tenant     uuid.UUID
	KeyID      uuid.UUID
	Version    uint32
	Algorithm  Algorithm
	Purpose    Purpose
	Custody    Custody // "" is the backend's default for the algorithm
	Exportable bool    // whether the policy may ever allow an export; bound when the material is made
}

// Ref is what the store keeps of a key version: enough for the backend to find or open the material, no secrets in clear.
type Ref struct {
	Spec   Spec
	Public []byte // SPKI DER (RFC 5280 section 4.1.2.7), nil for symmetric keys
	Blob   []byte // opaque; its first byte is the blob's format version
	// Inside is set by ImportWrapped alone, and not kept with the rest: the material was never in clear outside the device.
	Inside bool
}

// Key is a loaded key version. What it can do beyond this is found by asserting one of the capability interfaces below;
// a handle implements exactly those of its purpose in the backend's capability list for its algorithm: AEAD and Decrypter for
// PurposeEncryption, Wrapper for PurposeWrapping, Signer, MACer, Agreer, Decapsulator for theirs. Safe for concurrent use.
// After its Close a handle answers fault.BackendUnavailable or goes on working until the backend closes; it never panics.
type Key interface {
	// Public is the public key, nil for symmetric keys: *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey,
	// *ecdh.PublicKey (X25519 and the ECDH curves), circl's ed448.PublicKey, keyenc.X448PublicKey, pqc.PublicKey for ML-KEM, X-Wing,
	// ML-DSA, SLH-DSA and composites; the KEMs of RFC 9180 have the keys of their curves.
	Public() crypto.PublicKey
	// Close ends the use of this handle. A second Close does nothing.
	Close() error
}

// AEAD encrypts with a nonce that the backend picks.
type AEAD interface {
	Key
	// Seal appends nonce ‖ ciphertext ‖ tag to dst (sizes in the algorithm table) and returns the result.
	Seal(ctx context.Context, dst, plaintext, aad []byte) ([]byte, error)
	// Open appends the plaintext of a Seal result to dst. Every failure of the data is fault.DecryptionFailed.
	Open(ctx context.Context, dst, sealed, aad []byte) ([]byte, error)
}

// Signer signs. Input is the digest by opts.Hash for RSA and ECDSA (its size must be the hash's), the message itself for
// Ed25519, Ed448, ML-DSA, SLH-DSA and composites (opts.Hash zero). ECDSA signatures are r ‖ s (IEEE P1363), both of the field's size. The hashes are SHA-256,
// SHA-384 and SHA-512. Another hash, or a padding that the algorithm does not have, is fault.BadField; an input that is not as
// long as its hash is fault.BadSize.
type Signer interface {
	Key
	Sign(ctx context.Context, input []byte, opts SignOpts) ([]byte, error)
}

// SignOpts are the choices of a signature. The zero value fits Ed25519 and Ed448, and is the pure, hedged form of ML-DSA, SLH-DSA
// and the composites.
type SignOpts struct {
	// Hash of RSA and ECDSA. With ML-DSA and SLH-DSA it makes the pre-hash variant (FIPS 204 section 5.4, FIPS 205 section 10.2): then
	// the input of ML-DSA is the digest, that of SLH-DSA still the message. Composites hash by themselves and take none.
	Hash    crypto.Hash
	Padding Padding // RSA only: PaddingPKCS1v15 or PaddingPSS (salt as long as the hash, MGF1 with the same hash)
	// Context is the context string of ML-DSA, SLH-DSA and the composites, up to 255 bytes of any value (FIPS 204 section 5.2).
	Context string
	// Deterministic leaves out the fresh randomness of ML-DSA and SLH-DSA (FIPS 204 section 3.4, FIPS 205 section 9.2).
	Deterministic bool
	// ExternalMu says that the input is the 64-byte message representative of ML-DSA (FIPS 204 section 6.2); then Hash and Context
	// are zero, for mu has them in it.
	ExternalMu bool
}

// Classical gives fault.BadField when o makes a choice that only post-quantum signatures have; for whoever signs or verifies others.
func (o SignOpts) Classical() error {
	if o.Context != "" || o.Deterministic || o.ExternalMu {
		return fault.New(fault.BadField, "context, deterministic and external mu are for post-quantum signatures")
	}
	return nil
}

// Item is one of several inputs to the same operation with the same key.
type Item struct {
	Input []byte // what the operation works on
	AAD   []byte // of AEAD operations
}

// Result is what became of an Item. Err is nil, or what is wrong with this item alone: fault.DecryptionFailed, fault.BadField,
// fault.BadSize.
type Result struct {
	Output []byte
	Err    error
}

// BatchAEAD is an AEAD that does many items at less cost than one after the other. The results are in the order of the items. An error is
// about all of them, and then there are no results; what was done is lost, and may be done again.
type BatchAEAD interface {
	AEAD
	// SealMany gives nonce ‖ ciphertext ‖ tag of each item, as Seal does.
	SealMany(ctx context.Context, items []Item) ([]Result, error)
	// OpenMany gives the plaintext of each item, as Open does.
	OpenMany(ctx context.Context, items []Item) ([]Result, error)
}

// BatchSigner is a Signer that signs many inputs, as BatchAEAD does. An input that is not as long as its hash is the item's error.
type BatchSigner interface {
	Signer
	SignMany(ctx context.Context, items []Item, opts SignOpts) ([]Result, error)
}

// BatchMACer is a MACer that computes the tags of many messages, as BatchAEAD does.
type BatchMACer interface {
	MACer
	MACMany(ctx context.Context, items []Item) ([]Result, error)
}

// Decrypter opens RSA-OAEP ciphertexts (RFC 8017 section 7.1, MGF1 with the same hash: SHA-1, SHA-256, SHA-384 or SHA-512; another
// is fault.BadField). Every failure of the data is fault.DecryptionFailed.
type Decrypter interface {
	Key
	Decrypt(ctx context.Context, ciphertext []byte, opts OAEPOpts) (secret.Bytes, error)
}

// OAEPOpts are hash and label of RSA-OAEP.
type OAEPOpts struct {
	Hash  crypto.Hash
	Label []byte
}

// MACer computes the full-length tag of a message (RFC 2104).
type MACer interface {
	Key
	MAC(ctx context.Context, message []byte) ([]byte, error)
}

// Agreer computes a raw shared secret with a peer's public key (SP 800-56A section 5.7.1.2, RFC 7748 section 6). Invalid, off-curve
// and all-zero results are fault.BadField. peer is SPKI DER of the same curve.
type Agreer interface {
	Key
	Agree(ctx context.Context, peer []byte) (secret.Bytes, error)
}

// Decapsulator recovers the shared secret of a KEM ciphertext (32 bytes for ML-KEM and X-Wing, the KDF's size for the KEMs of RFC 9180). A
// ciphertext of the wrong size is fault.DecryptionFailed. An ML-KEM or X-Wing ciphertext that was changed gives another secret and
// no error (implicit rejection, FIPS 203 section 6.3). Encapsulation needs the public key alone: see package verify.
type Decapsulator interface {
	Key
	Decapsulate(ctx context.Context, ciphertext []byte) (secret.Bytes, error)
}

// Wrapper wraps key material of 1 to 4096 bytes by AES-KWP (RFC 5649); another length is fault.BadSize. Every failure of the data
// given to Unwrap is fault.DecryptionFailed.
type Wrapper interface {
	Key
	Wrap(ctx context.Context, material []byte) ([]byte, error)
	Unwrap(ctx context.Context, wrapped []byte) (secret.Bytes, error)
}

// Exporter gives out the key's material, wrapped to an RSA public key in the RSA_AES_KEY_WRAP form of PKCS#11 2.40
// section 2.1.21: RSA-OAEP(fresh AES-256 key) ‖ AES-KWP(material), material being PKCS#8 or raw symmetric bytes. Handles have it
// only when Spec.Exportable was set when the material was made. A hash or key that does not fit is fault.BadField; the hashes are
// those of Decrypter.
type Exporter interface {
	Key
	Export(ctx context.Context, to crypto.PublicKey, hash crypto.Hash) ([]byte, error)
}

// Attester is a key handle that can say more of where its key lives than the program's own word. Handles of keys in device custody have
// it where the device can; nobody else's have.
type Attester interface {
	Key
	// Attest gives what the device says of this key version now. binding is AttestationBinding bytes: what a device signs holds it (TPM 2.0:
	// the qualifying data of every TPM2_Certify and of the TPM2_Quote), so that the evidence is of this one request. Devices that sign
	// nothing ignore it. Another length is fault.BadSize. It changes nothing on the device and may be repeated.
	Attest(ctx context.Context, binding []byte) (Evidence, error)
}

// AttestationBinding is the size in bytes of the binding that Attester.Attest takes: a SHA-256.
const AttestationBinding = 32

// Evidence is what a device says of a key. It is not secret and nothing to be believed before package attest has verified it.
type Evidence struct {
	Kind     string // "tpm" or "pkcs11": which of the forms of package attest the document has
	Document []byte // JSON: that of attest.TPM or attest.PKCS11, as attest.Encode gives it
}

// Importer is a backend that takes keys made elsewhere.
type Importer interface {
	// Import takes raw symmetric bytes, or PKCS#8 DER (RFC 5958) for asymmetric keys. Material that is not a key of the
	// algorithm is fault.BadImport: symmetric keys have exactly the size in the table, RSA keys two primes and a public exponent
	// above 2^16 (FIPS 186-5 section A.1.1). It does not keep or wipe material: that is the caller's.
	Import(ctx context.Context, s Spec, material []byte) (Ref, error)
	// ImportWrapped opens an RSA_AES_KEY_WRAP blob by the RSA key of with (an encryption key) and imports what is in it, inside
	// the device where the device can. A blob that does not open is fault.BadImport, and why is not said.
	ImportWrapped(ctx context.Context, s Spec, with Ref, hash crypto.Hash, wrapped []byte) (Ref, error)
}

// Resealer is a backend whose material can be protected anew when the key over it was replaced by another: the root's for software custody, the
// device's own for sealed custody and wrapped keys.
type Resealer interface {
	// Stale reports whether a Ref is protected by another key than new material gets. It asks no device and believes the Ref; one that it cannot
	// read is not stale, nor is any while the backend cannot tell which key is the newest.
	Stale(r Ref) bool
	// Reseal gives the Ref with the same material under the newest key: Spec and Public stay. It has opened what it gives. Errors are those of Load; a
	// Ref that is not stale may be given back as it is. r stays as good as it was.
	Reseal(ctx context.Context, r Ref) (Ref, error)
}

// KEK is a key of a device that protects other keys, of one generation. Only generations that are there are listed.
type KEK struct {
	Name       string // what it is for, as the backend calls it
	Generation uint32 // from 1
	Newest     bool   // new material gets it
}

// KEKRotator is a Resealer that has such keys on its device. Generations are the same for all of a backend's.
type KEKRotator interface {
	Resealer
	// RotateKEK makes keys of the next generation on the device, and every member of a group must have them before they are used. It gives the new
	// generation. The keys before stay.
	RotateKEK(ctx context.Context) (uint32, error)
	// RetireKEK destroys the keys of an earlier generation, for good. It is for the caller to know that no Ref is under it any more. fault.Conflict for the newest;
	// a generation that is not there is no error.
	RetireKEK(ctx context.Context, generation uint32) error
	// KEKs lists the keys, asking the device.
	KEKs(ctx context.Context) ([]KEK, error)
	// Generation gives the generation of the KEK that a Ref is under, 0 when it is under none of them.
	Generation(r Ref) uint32
}

// Sealer protects bytes at rest under a key that stays in the backend. What does not open, for whatever reason, is
// fault.KeyMaterial.
type Sealer interface {
	Seal(ctx context.Context, plaintext, binding []byte) ([]byte, error)
	Open(ctx context.Context, sealed, binding []byte) (secret.Bytes, error)
}

// Randomer fills p from the device's generator.
type Randomer interface {
	Random(ctx context.Context, p []byte) error
}

// Queuer is a backend that carries out one operation after the other.
type Queuer interface {
	// Queued is how many operations wait for their turn now.
	Queued() int
}

// Pinger proves by a real operation that the device works.
type Pinger interface {
	Ping(ctx context.Context) error
}
