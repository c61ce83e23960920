package root

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	json "github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// slotVersion is the version of the slot format: docs/formats/root-slots.md.
const slotVersion = 1

// maxParams bounds what is read of a slot's parameters: MaxShares hashes and what is around them.
const maxParams = 8 << 10

func encodeParams(p any) ([]byte, error) {
	b, err := json.Marshal(p, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("writing slot parameters: %w", err)
	}
	return b, nil
}

// decodeParams reads parameters strictly: unknown and repeated members and trailing bytes are errors. What the values may
// be is for each kind to check.
func decodeParams(b []byte, p any) error {
	if len(b) > maxParams {
		return fault.New(fault.KeyMaterial, "the parameters of a root slot are too long")
	}
	if err := json.Unmarshal(b, p, json.RejectUnknownMembers(true)); err != nil {
		return fault.Wrap(fault.KeyMaterial, "the parameters of a root slot are malformed", err)
	}
	return nil
}

// slotKey derives the key that seals the root in one slot from the slot's secret: HKDF-SHA-256 (RFC 5869), the slot's id as salt,
// so that one secret used for two slots gives two keys.
func slotKey(id uuid.UUID, kind Kind, ikm secret.Bytes) (secret.Bytes, error) {
	key, err := hkdf.Key(sha256.New, ikm, id[:], "keywright/v1/root-slot/"+string(kind), Size)
	if err != nil {
		return nil, fmt.Errorf("deriving a slot key: %w", err)
	}
	return key, nil
}

// binding is what the sealed root is bound to: id ‖ kind ‖ params, the latter two length-prefixed, and from the second generation on the
// generation. A slot whose id, kind, parameters or generation were changed does not open.
func (s *Slot) binding() []byte {
	b := make([]byte, 0, len(s.ID)+1+len(s.Kind)+4+len(s.Params)+4)
	b = append(b, s.ID[:]...)
	b = append(b, byte(len(s.Kind)))
	b = append(b, s.Kind...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.Params)))
	b = append(b, s.Params...)
	if s.Generation > 1 {
		b = binary.BigEndian.AppendUint32(b, s.Generation)
	}
	return b
}

// seal fills s.Sealed with root under the slot's secret.
func (s *Slot) seal(ikm, root secret.Bytes) error {
	key, err := slotKey(s.ID, s.Kind, ikm)
	if err != nil {
		return err
	}
	defer key.Wipe()
	s.Sealed, err = envelope.SealSoftware(key, root, s.binding())
	return err
}

// open gives the root, or fault.KeyMaterial when the secret is not the slot's or the slot was changed.
func (s *Slot) open(ikm secret.Bytes) (secret.Bytes, error) {
	if len(s.Kind) > 255 || len(s.Params) > maxParams {
		return nil, fault.New(fault.KeyMaterial, "a root slot is malformed")
	}
	key, err := slotKey(s.ID, s.Kind, ikm)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	root, err := envelope.OpenSoftware(key, s.Sealed, s.binding())
	if err != nil {
		return nil, err
	}
	if len(root) != Size {
		root.Wipe()
		return nil, fault.New(fault.KeyMaterial, "a root slot holds something else than a root")
	}
	return root, nil
}

// make prepares a slot for root, which is of the generation. The caller holds the turn.
func (k *Keeper) make(ctx context.Context, n NewSlot, generation uint32, root secret.Bytes) (*Added, error) {
	if err := checkLabel(n.Label); err != nil {
		return nil, err
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, fmt.Errorf("making a slot id: %w", err)
	}
	a := &Added{Slot: &Slot{ID: id, Kind: n.Kind, Label: n.Label, CreatedAt: k.now().UTC().Truncate(time.Microsecond), Generation: generation}}
	switch {
	case n.Device != "" || n.Kind.OnDevice():
		err = k.makeDevice(ctx, a.Slot, n.Device, root)
	case n.Kind == KindPassphrase:
		err = k.makePassphrase(a.Slot, n.Passphrase, root)
	case n.Kind == KindKeyFile:
		err = makeKeyFile(a.Slot, n.KeyFile, root)
	case n.Kind == KindShamir:
		a.Shares, err = makeShares(a.Slot, n.Shares, n.Threshold, root)
	default:
		err = fault.New(fault.BadField, "the kind of a root slot is passphrase, key-file, shamir, hsm or tpm")
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

func checkLabel(label string) error {
	if len(label) > MaxLabel || !utf8.ValidString(label) {
		return fault.New(fault.BadName, fmt.Sprintf("a slot's label has at most %d bytes of UTF-8", MaxLabel))
	}
	for _, r := range label {
		if !unicode.IsPrint(r) {
			return fault.New(fault.BadName, "a slot's label has printable characters only")
		}
	}
	return nil
}
