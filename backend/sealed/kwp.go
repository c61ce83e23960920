package sealed

import (
	"context"
	"crypto"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

// maxWrap is the most material in bytes that backend.Wrapper takes. PKCS#8 of RSA-4096 has 2.4 KB.
const maxWrap = 4096

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
	if len(material) == 0 || len(material) > maxWrap {
		return nil, fault.New(fault.BadSize, "material to wrap must have 1 to 4096 bytes")
	}
	out, err := k.kwp.Wrap(material)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "wrapping", err)
	}
	return out, nil
}

func (k *kwpKey) Unwrap(ctx context.Context, wrapped []byte) (secret.Bytes, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.end()
	if len(wrapped) > keyenc.KWPSize(maxWrap) {
		return nil, errDecrypt
	}
	out, err := k.kwp.Unwrap(wrapped)
	if err != nil {
		return nil, errDecrypt
	}
	return out, nil
}
