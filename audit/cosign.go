package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"

	"github.com/keywright/keywright/pqc"
)

// Signature types of signed notes (C2SP signed-note), the first byte of the key material in a verifier key.
const (
	typeEd25519 = 0x01 // a signature over the text
	typeCosign  = 0x04 // a witness's, by Ed25519: C2SP tlog-cosignature
	typeMLDSA44 = 0x06 // a witness's or the log's own, by ML-DSA-44: C2SP tlog-cosignature
)

// timestamped is the size of the time before a cosignature's signature (tlog-cosignature, timestamped_signature).
const timestamped = 8

// latest is the last second that a cosignature may be of: what is later is no time, and fits into no year of four digits.
const latest = 253402300799 // 9999-12-31T23:59:59Z

// subtreeLabel begins what an ML-DSA-44 cosignature is over.
const subtreeLabel = "subtree/v1\n\x00"

// PostQuantumSigner is the second key that signs checkpoints: ML-DSA-44 (FIPS 204), pure and with an empty context.
type PostQuantumSigner interface {
	PublicBytes() []byte // 1,312 bytes
	Sign(ctx context.Context, msg []byte) ([]byte, error)
}

// cosignVerifier verifies cosignatures of one key over the text of a checkpoint.
type cosignVerifier struct {
	name string
	hash uint32
	kind byte
	ed   ed25519.PublicKey
	pq   *pqc.PublicKey
}

func (v *cosignVerifier) Name() string    { return v.name }
func (v *cosignVerifier) KeyHash() uint32 { return v.hash }

// Verify reports whether sig is a cosignature of the text.
func (v *cosignVerifier) Verify(text, sig []byte) bool {
	if len(sig) < timestamped {
		return false
	}
	at, sig := binary.BigEndian.Uint64(sig), sig[timestamped:]
	if at > latest {
		return false
	}
	c, err := parseCheckpoint(string(text))
	if err != nil {
		return false
	}
	if v.kind == typeCosign {
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(v.ed, cosignedText(at, text), sig)
	}
	msg, err := cosignedSubtree(v.name, at, c)
	if err != nil {
		return false
	}
	ok, err := v.pq.Verify(msg, sig, pqc.SignOptions{})
	return ok && err == nil
}

// cosignedText is what an Ed25519 cosignature is over.
func cosignedText(at uint64, text []byte) []byte {
	return append([]byte("cosignature/v1\ntime "+strconv.FormatUint(at, 10)+"\n"), text...)
}

// cosignedSubtree is what an ML-DSA-44 cosignature of a whole tree is over: the structure cosigned_message with start 0.
func cosignedSubtree(name string, at uint64, c Checkpoint) ([]byte, error) {
	if name == "" || len(name) > 255 || len(c.Origin) > 255 {
		return nil, errors.New("a name is too long to be cosigned")
	}
	msg := append([]byte(subtreeLabel), byte(len(name)))
	msg = append(msg, name...)
	msg = binary.BigEndian.AppendUint64(msg, at)
	msg = append(append(msg, byte(len(c.Origin))), c.Origin...)
	msg = binary.BigEndian.AppendUint64(msg, 0)
	msg = binary.BigEndian.AppendUint64(msg, c.Size)
	return append(msg, c.Root[:]...), nil
}

// keyHash is the id of a key in notes (C2SP signed-note).
func keyHash(name string, kind byte, key []byte) uint32 {
	h := sha256.New()
	h.Write(append(append([]byte(name+"\n"), kind), key...)) // never fails (hash.Hash)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

func encodeVerifierKey(name string, kind byte, key []byte) string {
	return fmt.Sprintf("%s+%08x+%s", name, keyHash(name, kind, key), base64.StdEncoding.EncodeToString(append([]byte{kind}, key...)))
}

// newVerifier reads a verifier key of any of the types that checkpoints are signed by.
func newVerifier(key string) (note.Verifier, byte, error) {
	name, rest, _ := strings.Cut(key, "+")
	id, material, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.Strict().DecodeString(material)
	if err != nil || len(raw) < 2 || !validName(name) {
		return nil, 0, errors.New("malformed verifier key")
	}
	if raw[0] == typeEd25519 {
		v, err := note.NewVerifier(key)
		return v, typeEd25519, err
	}
	v := &cosignVerifier{name: name, kind: raw[0], hash: keyHash(name, raw[0], raw[1:])}
	given, err := hex.DecodeString(id)
	if err != nil || len(given) != 4 || binary.BigEndian.Uint32(given) != v.hash {
		return nil, 0, errors.New("malformed verifier key")
	}
	switch raw[0] {
	case typeCosign:
		if len(raw) != 1+ed25519.PublicKeySize {
			return nil, 0, errors.New("malformed verifier key")
		}
		v.ed = ed25519.PublicKey(raw[1:])
	case typeMLDSA44:
		alg, ok := pqc.Lookup(pqc.MLDSA44)
		if !ok {
			return nil, 0, errors.New("ML-DSA-44 is not there")
		}
		if v.pq, err = alg.ParsePublicKey(raw[1:]); err != nil {
			return nil, 0, errors.New("malformed verifier key")
		}
	default:
		return nil, 0, errors.New("a verifier key of an unknown type")
	}
	return v, raw[0], nil
}

// validName is what a key may be called in a note.
func validName(name string) bool {
	return name != "" && utf8.ValidString(name) && strings.IndexFunc(name, unicode.IsSpace) < 0 && !strings.Contains(name, "+")
}

// pqNoteSigner lends a PostQuantumSigner to the note package for one signature. It states no time: that is for witnesses to say.
type pqNoteSigner struct {
	note.Verifier
	ctx    context.Context //nolint:containedctx // lives for one call; note's interface has no place for it
	signer PostQuantumSigner
}

func (s pqNoteSigner) Sign(text []byte) ([]byte, error) {
	c, err := parseCheckpoint(string(text))
	if err != nil {
		return nil, err
	}
	msg, err := cosignedSubtree(s.Name(), 0, c)
	if err != nil {
		return nil, err
	}
	raw, err := s.signer.Sign(s.ctx, msg)
	if err != nil {
		return nil, err
	}
	sig := append(make([]byte, timestamped), raw...)
	if !s.Verify(text, sig) {
		return nil, errors.New("the ML-DSA-44 signature does not verify under the key's own public key")
	}
	return sig, nil
}

// Cosignature says which witness has seen a checkpoint, and when.
type Cosignature struct {
	Witness string // the name of its key
	At      time.Time
}

// Cosignatures verifies the cosignatures of a signed checkpoint under the verifier keys of witnesses and lists those that are there, in
// the order of the keys. Signatures of other keys are passed over; a wrong one under one of these keys is an error that wraps
// ErrCheckpoint. Whether the log itself has signed is what OpenCheckpoint says.
func Cosignatures(signed []byte, witnessKeys []string) ([]Cosignature, error) {
	var found []Cosignature
	origin, _, _ := strings.Cut(string(signed), "\n")
	for _, key := range witnessKeys {
		v, kind, err := newVerifier(key)
		if err != nil || kind == typeEd25519 || v.Name() == origin { // of the last kind is the log's own second key
			return nil, fmt.Errorf("%w: a key is not that of a witness", ErrCheckpoint)
		}
		n, err := note.Open(signed, note.VerifierList(v))
		var missing *note.UnverifiedNoteError
		if errors.As(err, &missing) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: the cosignature of %s: %w", ErrCheckpoint, v.Name(), err)
		}
		raw, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
		if err != nil || len(raw) < 4+timestamped {
			return nil, fmt.Errorf("%w: the cosignature of %s is malformed", ErrCheckpoint, v.Name())
		}
		at := binary.BigEndian.Uint64(raw[4:])
		found = append(found, Cosignature{Witness: v.Name(), At: time.Unix(int64(at), 0).UTC()})
	}
	return found, nil
}
