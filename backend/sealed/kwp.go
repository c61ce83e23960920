package sealed

import (
	"context"
	"crypto"
	"errors"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

type kwpMaterial struct{ kwp *keyenc.KWP }

func newKWP(raw []byte) (material, error) {
	w, err := keyenc.NewKWP(raw)
	if err != nil {
		return nil, errImport
	}
	return &kwpMaterial{w}, nil
}

func (m *kwpMaterial) public() crypto.PublicKey { return nil }
func (m *kwpMaterial) wipe()                    {} // the key schedule cannot be reached

func (m *kwpMaterial) handle(e *Engine, ent *entry) backend.Key {
	if ent.export != nil {
		return &exportableKWP{kwpKey{handle{engine: e, entry: ent}, m.kwp}}
	}
	return &kwpKey{handle{engine: e, entry: ent}, m.kwp}
}

type kwpKey struct {
	handle
	kwp *keyenc.KWP
}

func (k *kwpKey) Wrap(ctx context.Context, material []byte) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.end()
	out, err := k.kwp.Wrap(material)
	if errors.Is(err, keyenc.ErrSize) {
		return nil, fault.New(fault.BadSize, "material to wrap must have at least one byte")
	}
	return out, err
}

func (k *kwpKey) Unwrap(ctx context.Context, wrapped []byte) (secret.Bytes, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.end()
	out, err := k.kwp.Unwrap(wrapped)
	if err != nil {
		return nil, errDecrypt
	}
	return out, nil
}
