package sealed

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

// errPeer is for everything that is wrong with the peer's key: encoding, curve, a point off the curve, low order.
var errPeer = fault.New(fault.BadField, "the peer's public key is not a valid key of the same curve")

// agreeing is material that agrees.
type agreeing interface {
	material
	agree(peer crypto.PublicKey) ([]byte, error)
}

type agreerKey struct {
	handle
	key agreeing
}

func (k *agreerKey) Agree(ctx context.Context, peer []byte) (secret.Bytes, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.end()
	pub, err := keyenc.ParseSPKI(peer)
	if err != nil {
		return nil, errPeer
	}
	shared, err := k.key.agree(pub)
	if err != nil {
		return nil, errPeer
	}
	return shared, nil
}

func newAgreer(e *Engine, ent *entry, m agreeing) backend.Key {
	if ent.export != nil {
		return &exportableAgreer{agreerKey{handle{engine: e, entry: ent}, m}}
	}
	return &agreerKey{handle{engine: e, entry: ent}, m}
}

// ecdhMaterial is a key of a P curve or X25519. raw is kept because the standard library makes it anew on each call.
type ecdhMaterial struct {
	key *ecdh.PrivateKey
	raw *ecdh.PublicKey
}

func (m *ecdhMaterial) public() crypto.PublicKey                 { return m.raw }
func (m *ecdhMaterial) wipe()                                    {} // the scalar cannot be reached
func (m *ecdhMaterial) handle(e *Engine, ent *entry) backend.Key { return newAgreer(e, ent, m) }

// agree refuses a peer of another curve and, on X25519, an all-zero result (RFC 7748 section 6.1).
func (m *ecdhMaterial) agree(peer crypto.PublicKey) ([]byte, error) {
	switch p := peer.(type) {
	case *ecdh.PublicKey:
		return m.key.ECDH(p)
	case *ecdsa.PublicKey:
		x, err := p.ECDH()
		if err != nil {
			return nil, err
		}
		return m.key.ECDH(x)
	}
	return nil, errPeer
}

type x448Material struct {
	key *keyenc.X448PrivateKey
	raw keyenc.X448PublicKey
}

func (m *x448Material) public() crypto.PublicKey                 { return m.raw }
func (m *x448Material) wipe()                                    { m.key.Wipe() }
func (m *x448Material) handle(e *Engine, ent *entry) backend.Key { return newAgreer(e, ent, m) }

func (m *x448Material) agree(peer crypto.PublicKey) ([]byte, error) {
	p, ok := peer.(keyenc.X448PublicKey)
	if !ok {
		return nil, errPeer
	}
	return m.key.ECDH(p)
}
