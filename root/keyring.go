package root

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"

	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// labelKeyring is what the key that seals entries of the keyring is derived under.
const labelKeyring = "keywright/v1/root-keyring"

// ring is what the Keeper holds in memory.
type ring struct {
	root       secret.Bytes // the newest
	generation uint32       // its
	earlier    map[uint32]secret.Bytes
	carried    map[string]secret.Bytes // by label; nil: it is there and does not open
}

func (r *ring) wipe() {
	r.root.Wipe()
	for _, old := range r.earlier {
		old.Wipe()
	}
	for _, key := range r.carried {
		key.Wipe()
	}
}

var (
	errGone    = fault.New(fault.KeyMaterial, "it is sealed under a root that is not kept any more")
	errCarried = fault.New(fault.KeyMaterial, "a key that outlives its root does not open")
	errRotated = fault.New(fault.Conflict, "the root was replaced meanwhile: try again")
)

// derive gives the key of a label. The mutex is held.
func (r *ring) derive(label string) (secret.Bytes, error) {
	if key, ok := r.carried[label]; ok {
		if key == nil {
			return nil, errCarried
		}
		return slices.Clone(key), nil
	}
	return expand(r.root, label)
}

// binding is what an entry is bound to: kind, the generations and label, the words length-prefixed.
func (e *Kept) binding() []byte {
	b := make([]byte, 0, 1+len(e.Kind)+8+1+len(e.Label))
	b = append(b, byte(len(e.Kind))) // constants
	b = append(b, e.Kind...)
	b = binary.BigEndian.AppendUint32(b, e.Under)
	b = binary.BigEndian.AppendUint32(b, e.Generation)
	b = append(b, byte(len(e.Label))) // at most maxDeriveName
	return append(b, e.Label...)
}

// keep seals value under a root as an entry.
func keep(under, value secret.Bytes, e Kept) (*Kept, error) {
	key, err := expand(under, labelKeyring)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	if e.Sealed, err = envelope.SealSoftware(key, value, e.binding()); err != nil {
		return nil, fmt.Errorf("sealing an entry of the keyring: %w", err)
	}
	return &e, nil
}

// open gives what keep sealed, or fault.KeyMaterial.
func (e *Kept) open(under secret.Bytes) (secret.Bytes, error) {
	if len(e.Kind) > 255 || len(e.Label) > maxDeriveName {
		return nil, fault.New(fault.KeyMaterial, "an entry of the keyring is malformed")
	}
	key, err := expand(under, labelKeyring)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	value, err := envelope.OpenSoftware(key, e.Sealed, e.binding())
	if err != nil {
		return nil, err
	}
	if len(value) != Size {
		value.Wipe()
		return nil, fault.New(fault.KeyMaterial, "an entry of the keyring holds something else than a key")
	}
	return value, nil
}

// complete reads what belongs to a root that was opened. It takes the root over, or wipes it.
func (k *Keeper) complete(ctx context.Context, generation uint32, root secret.Bytes) (ring, error) {
	newest, kept, err := k.store.Keyring(ctx)
	if err == nil && newest != max(generation, 1) {
		err = errRotated
	}
	if err != nil {
		root.Wipe()
		return ring{}, fmt.Errorf("reading the keyring: %w", err)
	}
	return k.completed(ctx, newest, root, kept), nil
}

// completed opens what is kept under a root. An entry that does not open is reported and passed over, so that damage to one does not keep the
// rest from working; what needs it is fault.KeyMaterial.
func (k *Keeper) completed(ctx context.Context, generation uint32, root secret.Bytes, kept []*Kept) ring {
	r := ring{root: root, generation: generation, earlier: map[uint32]secret.Bytes{}, carried: map[string]secret.Bytes{}}
	for _, e := range kept {
		if e.Under != generation || e.Kind == KeptNext {
			continue
		}
		value, err := e.open(root)
		if err != nil {
			k.log.LogAttrs(ctx, slog.LevelError, "an entry of the keyring is damaged", slog.String("kind", string(e.Kind)), slog.Uint64("generation", uint64(e.Generation)),
				slog.String("label", e.Label), slog.Any("error", err))
		}
		switch e.Kind {
		case KeptPrevious:
			r.earlier[e.Generation] = value
		case KeptCarried:
			r.carried[e.Label] = value
		}
	}
	return r
}
