package backup

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"
)

const (
	magic         = "KWBK" // Keywright backup
	formatVersion = 1
	fixedSize     = 4 + 1 + 4
	// maxHeader bounds what is read of a header: 32 slots of 16 KiB, and what is around them.
	maxHeader = 1 << 20
)

// Header is what stands in clear at the start of a backup.
type Header struct {
	Deployment uuid.UUID `json:"deployment"`
	CreatedAt  time.Time `json:"created_at"` // UTC
	Release    string    `json:"release"`    // of the program that made it
	Schema     int64     `json:"schema"`     // number of the last migration of the store
	// Generation counts the roots that the deployment has had, from 1: the slots and the backup key are of this one.
	Generation uint32 `json:"root_generation"`
	// Checkpoint is a signed checkpoint of the audit log (C2SP tlog-checkpoint) of a size at most that of the log in the file, and
	// CheckpointKey what verifies it.
	Checkpoint    string `json:"checkpoint"`
	CheckpointKey string `json:"checkpoint_key"`
	// Signer is the key that the file is signed with, as VerifierKey writes it.
	Signer string `json:"signer"`
	// Slots are the ways to open the root of the generation, each sealed by its own secret or device.
	Slots []Slot `json:"slots"`

	raw []byte // the header as it stands in the file, with what is before it
}

// Slot is a slot of the root as the store keeps it.
type Slot struct {
	ID        uuid.UUID `json:"id"`
	Kind      string    `json:"kind"`
	Label     string    `json:"label"`
	Params    []byte    `json:"params"` // base64
	Sealed    []byte    `json:"sealed"` // base64
	CreatedAt time.Time `json:"created_at"`
}

// VerifierKey writes a key of signatures in note form, name+hash+key (C2SP signed-note, Ed25519).
func VerifierKey(deployment uuid.UUID, public ed25519.PublicKey) (string, error) {
	key, err := note.NewEd25519VerifierKey("keywright/"+deployment.String()+"/backup", public)
	if err != nil {
		return "", fmt.Errorf("writing the verifier key of backups: %w", err)
	}
	return key, nil
}

// publicKey reads what VerifierKey wrote.
func publicKey(key string) (ed25519.PublicKey, error) {
	if _, err := note.NewVerifier(key); err != nil {
		return nil, fmt.Errorf("%w: the verifier key is malformed", ErrSignature)
	}
	_, rest, _ := strings.Cut(key, "+")
	_, text, _ := strings.Cut(rest, "+")
	b, err := base64.StdEncoding.DecodeString(text)
	// The first byte is the algorithm, which NewVerifier has looked at.
	if err != nil || len(b) != 1+ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: the verifier key is malformed", ErrSignature)
	}
	return ed25519.PublicKey(b[1:]), nil
}

// encode writes the header with what is before it into h.raw.
func (h *Header) encode() error {
	text, err := json.Marshal(h, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("writing the header of a backup: %w", err)
	}
	if len(text) > maxHeader {
		return errors.New("writing the header of a backup: it is too long")
	}
	h.raw = append(make([]byte, 0, fixedSize+len(text)), magic...)
	h.raw = append(h.raw, formatVersion)
	h.raw = binary.BigEndian.AppendUint32(h.raw, uint32(len(text)))
	h.raw = append(h.raw, text...)
	return nil
}

// readHeader reads the header and leaves r behind it. Errors: ErrFormat, or those of r.
func readHeader(r io.Reader) (*Header, error) {
	fixed := make([]byte, fixedSize)
	if _, err := io.ReadFull(r, fixed); err != nil {
		return nil, short(err)
	}
	n := binary.BigEndian.Uint32(fixed[5:])
	switch {
	case string(fixed[:4]) != magic:
		return nil, ErrFormat
	case fixed[4] != formatVersion:
		return nil, fmt.Errorf("%w: version %d", ErrFormat, fixed[4])
	case n > maxHeader:
		return nil, fmt.Errorf("%w: malformed header", ErrFormat)
	}
	raw := make([]byte, fixedSize+int(n))
	copy(raw, fixed)
	if _, err := io.ReadFull(r, raw[fixedSize:]); err != nil {
		return nil, short(err)
	}
	h := &Header{}
	if err := json.Unmarshal(raw[fixedSize:], h, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: malformed header", ErrFormat) // the cause would repeat what stands there
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	// One header has one form: what was read is what would be written.
	if err := h.encode(); err != nil || !bytes.Equal(h.raw, raw) {
		return nil, fmt.Errorf("%w: the header is not in its one form", ErrFormat)
	}
	return h, nil
}

func (h *Header) check() error {
	malformed := func(what string) error { return fmt.Errorf("%w: malformed header: %s", ErrFormat, what) }
	switch {
	case h.Deployment == uuid.Nil:
		return malformed("no deployment")
	case h.Schema < 1:
		return malformed("no schema")
	case h.Generation < 1:
		return malformed("no generation")
	case len(h.Slots) == 0:
		return malformed("no slots")
	}
	name, err := note.NewVerifier(h.Signer)
	if err != nil || name.Name() != "keywright/"+h.Deployment.String()+"/backup" {
		return malformed("the signer is no key of this deployment")
	}
	return nil
}

func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends within its header", ErrFormat)
	}
	return fmt.Errorf("reading the header: %w", err)
}

// binding is what the sealed data key is bound to: the header, as a whole.
func (h *Header) binding() []byte {
	sum := sha256.Sum256(h.raw)
	return append([]byte("keywright/v1/backup-data-key"), sum[:]...)
}

// signed is what the signature is over: a label, and the SHA-256 of all that stands before the signature.
func signed(sum []byte) []byte { return append([]byte("keywright/v1/backup-signature\n"), sum...) }
