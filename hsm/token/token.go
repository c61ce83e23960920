// Package token works one PKCS#11 token (OASIS PKCS#11 2.40, and of 3.2 the post-quantum mechanisms): sessions, logins, object handles, mechanisms and the healing of
// all of them. It says nothing of networks, processes or backends: package hsm/remote carries the same interface to a
// process of its own, and package hsm makes a backend of it.
//
// It trusts the module not to lie about results that it cannot check, and nothing else: lengths are bounded, public keys
// compared, a session that saw an error is dropped, a module that hangs is given up at the deadline. It never logs or returns a
// PIN, and never sends a PIN a second time that the token has called wrong.
package token

import (
	"context"
	"crypto"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/secret"
)

// IDSize is the size of CKA_ID of our objects in bytes: the 16 bytes of the key's UUID, then the version, big-endian.
const IDSize = 20

// ID is the CKA_ID of an object, or the cache identity of a wrapped key.
type ID [IDSize]byte

// Token is one token. All methods are safe for concurrent use and respect their context's deadline. Their errors are
// fault.Error values: fault.BackendUnavailable with RetryAfter while the token or module is being healed or is gone,
// fault.Overloaded when the queue is full, fault.Timeout, fault.Unsupported, fault.KeyMaterial (no such object, or several),
// fault.DecryptionFailed for every way in which data fails, fault.Conflict for an ID that exists.
type Token interface {
	// Describe tells what was found when the token was opened. It changes only with a new generation.
	Describe() Description
	// Generate makes a secret key or key pair with CKA_ID id: non-extractable, sensitive, with the usages of use alone. With
	// wrapped the object is a session object that leaves only wrapped under the token's KEK, and Object.Wrapped has it.
	Generate(ctx context.Context, id ID, a backend.Algorithm, p backend.Purpose, wrapped bool) (Object, error)
	// Import makes an object of clear material (raw, or PKCS#8) by wrapping it under a fresh session key and unwrapping it inside.
	Import(ctx context.Context, id ID, a backend.Algorithm, p backend.Purpose, material secret.Bytes, wrapped bool) (Object, error)
	// ImportWrapped makes an object of what is in an envelope, without its material or the envelope's temporary key ever being in clear
	// outside the token. Where the token cannot do that the answer is fault.Unsupported, and nothing was done.
	ImportWrapped(ctx context.Context, id ID, a backend.Algorithm, p backend.Purpose, e Envelope, wrapped bool) (Object, error)
	// Find gives the one object with the id, its public part and the attributes that say where it came from.
	Find(ctx context.Context, id ID) (Object, error)
	// List gives the objects whose CKA_ID has IDSize bytes and our label, without order. A secret key whose length the token does not tell is
	// among them without an algorithm.
	List(ctx context.Context) ([]Object, error)
	// Destroy removes every object with the id. What is gone is no error.
	Destroy(ctx context.Context, id ID) error
	// Use does one operation with one key.
	Use(ctx context.Context, c Call) ([]byte, error)
	// UseMany does one operation with one key on each of several inputs: c has everything but Input and AAD, which the items have. It is
	// for Sign, Encrypt, Decrypt with AES-GCM, and MAC; others are fault.Unsupported. The results are in the order of the items; an error is
	// about all of them, and then none is given. It may be repeated, as Use may.
	UseMany(ctx context.Context, c Call, items []backend.Item) ([]backend.Result, error)
	// Attributes gives what Find gives, of a wrapped key too: with wrapped (what Generate gave) the key is unwrapped, and the attributes are
	// those of the session object, which was made by unwrapping. Public is not given then. Nothing in it is proven to anybody but this
	// process: it is what the token says.
	Attributes(ctx context.Context, id ID, a backend.Algorithm, wrapped []byte) (Object, error)
	// Random gives n bytes of the token's generator.
	Random(ctx context.Context, n int) ([]byte, error)
	// Ping does a real operation with a test key on the token.
	Ping(ctx context.Context) error
	// Stats are counters since the opening.
	Stats() Stats
	Close() error
}

// Operation is what Use does.
type Operation uint8

const (
	Sign        Operation = iota + 1 // ECDSA (r ‖ s), RSA and HashML-DSA (digest as Input), Ed25519, ML-DSA and SLH-DSA (message)
	Encrypt                          // AES-GCM: nonce ‖ ciphertext ‖ tag
	Decrypt                          // AES-GCM of Encrypt's form, RSA-OAEP
	MAC                              // HMAC, full length
	Agree                            // ECDH: Input is the peer's SPKI DER; the raw shared secret
	Wrap                             // AES-KWP of Input
	Unwrap                           // AES-KWP
	Decapsulate                      // ML-KEM: Input is the ciphertext; the shared secret
)

// Call is one operation with one key.
type Call struct {
	Op        Operation
	ID        ID
	Algorithm backend.Algorithm
	Wrapped   []byte // of a wrapped key: what Generate gave; nil for a resident one
	Input     []byte
	AAD       []byte          // Encrypt, Decrypt
	Hash      crypto.Hash     // Sign with RSA and HashML-DSA, Decrypt with OAEP
	Padding   backend.Padding // Sign with RSA
	Label     []byte          // OAEP
	// Sign with ML-DSA and SLH-DSA: the context string, up to 255 bytes, and no fresh randomness. What the token cannot is fault.Unsupported.
	Context       []byte
	Deterministic bool
}

// Object is a key on the token.
type Object struct {
	ID        ID
	Algorithm backend.Algorithm
	Public    []byte // SPKI DER, nil for secret keys
	Wrapped   []byte // only from Generate and Import with wrapped: the material under the KEK
	// What CKA_LOCAL, CKA_SENSITIVE, CKA_ALWAYS_SENSITIVE, CKA_EXTRACTABLE and CKA_NEVER_EXTRACTABLE say.
	Local, Sensitive, AlwaysSensitive, Extractable, NeverExtractable bool
	// KeyGenMechanism is CKA_KEY_GEN_MECHANISM: with which mechanism the token made the key. NoMechanism: it came from elsewhere, or
	// the token does not say.
	KeyGenMechanism uint
	// Inside is set by ImportWrapped alone: the material was never in clear outside the token.
	Inside bool
}

// NoMechanism is CK_UNAVAILABLE_INFORMATION, which CKA_KEY_GEN_MECHANISM is for keys that the token has not generated (PKCS#11 base
// specification 2.40, section 4.7.2).
const NoMechanism = ^uint(0)

// Description is what a token turned out to be.
type Description struct {
	Serial, Label, Manufacturer, Model, Firmware string // trimmed
	Library                                      string // C_GetInfo's description and version
	Slot                                         uint   // for people only: slot numbers move
	MaxSessions                                  int    // 0: not limited
	Mechanisms                                   []Mechanism
	Capabilities                                 []backend.Capability // what was probed to work, with custody device
	Wrapping                                     bool                 // wrapped placement works
	Wrappable                                    []backend.Algorithm  // with which of the algorithms
	Inside                                       []backend.Algorithm  // those that ImportWrapped takes
	InsideHashes                                 []string             // and with which hashes of RSA-OAEP, in Go's words
	Quirks                                       []string             // in words
	LeaksWrapped                                 bool                 // the self-test could wrap a non-extractable key out
	Generation                                   uint64               // of the module: grows with each initialisation
}

// Mechanism is one entry of C_GetMechanismList.
type Mechanism struct {
	Type             uint
	Name             string
	MinSize, MaxSize uint
	Flags            uint
}

// Stats are counters of one token.
type Stats struct {
	Sessions, SessionsInUse            int
	Reinitialisations, SessionsDropped uint64
	Logins, LoginsRefused              uint64
	Stuck                              int               // calls that were given up at their deadline and that the module still has
	StuckFor                           time.Duration     // how long the one of them that was given up first has been so; of an RSA key's making, beyond its 30 s
	SilentFor                          time.Duration     // the same of those since whose giving up nothing of their kind has come to an end
	MendingFor                         time.Duration     // how long the healer has been in the module; 0: it is not
	Returns                            uint64            // how often the module has come back from something: it grows while a slow one works
	Breaker                            string            // closed, open, half-open
	Queued                             int               // operations that wait for a session now
	Calls                              uint64            // operations that reached a session
	QueueTime, DeviceTime              time.Duration     // of all of them together: waiting, and on a session
	Times                              [TimedKinds]Times // the same by what they were, as histograms; by Timed
}

// Config is how a token is opened.
type Config struct {
	Module       string // path of the PKCS#11 module
	InitArgs     string // C_Initialize's pReserved string (NSS)
	Serial       string // one of Serial and Label names the token; both may
	Label        string
	PIN          secret.Bytes
	Profile      string // vendor profile: softhsm, nss, opencryptoki, luna, nshield, utimaco, cloudhsm, yubihsm2, or "" (probed)
	Sessions     int    // at most so many; 0: 64, less what the token allows less a reserve of 2
	Queue        int    // calls that wait for a session; 0: 1024
	AcceptLeaks  bool   // open a token that lets non-extractable keys be wrapped out
	ReinitEvery  int    // seconds between re-initialisations at least; 0: 1
	KEKLabel     string // label of the wrapping key for wrapped placement; "": "keywright-kek"
	WrappedCache int    // wrapped keys that stay loaded as session objects; 0: 1024
	// LoginGate, when not nil, is called instead of each login. It calls login at most once, whose error has ErrPINRefused in its chain
	// when the token refused the PIN; or not at all when the PIN is known to be refused: then its own error has that. So several
	// processes with one token never send a wrong PIN twice.
	LoginGate func(ctx context.Context, login func() error) error
}
