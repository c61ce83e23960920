package sealed

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"hash"
	"sync"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/secret"
)

// macMaterial keeps keyed states, so that a tag of a short message does not hash the key again.
type macMaterial struct {
	key    secret.Bytes
	size   int
	states sync.Pool
}

func newMAC(info backend.AlgorithmInfo, raw []byte) material {
	m := &macMaterial{key: bytes.Clone(raw), size: info.TagSize}
	h := info.Hash
	m.states.New = func() any { return hmac.New(h.New, m.key) }
	return m
}

func (m *macMaterial) public() crypto.PublicKey { return nil }
func (m *macMaterial) wipe()                    { m.key.Wipe() }

func (m *macMaterial) handle(e *Engine, ent *entry) backend.Key {
	if ent.export != nil {
		return &exportableMAC{macKey{handle{engine: e, entry: ent}, m}}
	}
	return &macKey{handle{engine: e, entry: ent}, m}
}

type macKey struct {
	handle
	mac *macMaterial
}

func (k *macKey) MAC(ctx context.Context, message []byte) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.end()
	h := k.mac.states.Get().(hash.Hash)
	h.Write(message) // a hash.Hash never fails
	tag := h.Sum(make([]byte, 0, k.mac.size))
	h.Reset() // the message does not stay
	k.mac.states.Put(h)
	return tag, nil
}
