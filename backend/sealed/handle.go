package sealed

import (
	"context"
	"crypto"
	"crypto/rsa"
	"sync/atomic"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

var (
	errHash    = fault.New(fault.BadField, "the hash is not one for this operation")
	errPadding = fault.New(fault.BadField, "the padding is not one for this algorithm")
	errDigest  = fault.New(fault.BadSize, "the digest is not as long as its hash")
)

// handle is what all handles have in common. It holds one share of its entry until Close. Every operation holds another,
// so that a Close in the middle of it takes nothing from under it.
type handle struct {
	engine *Engine
	entry  *entry
	closed atomic.Bool
}

func (h *handle) Public() crypto.PublicKey { return h.entry.pub }

func (h *handle) Close() error {
	if !h.closed.Swap(true) {
		h.entry.release()
	}
	return nil
}

// begin starts an operation; end finishes it.
func (h *handle) begin(ctx context.Context) error {
	if err := h.engine.enter(ctx); err != nil {
		return err
	}
	if h.closed.Load() || !h.entry.retain() {
		h.engine.gate.Leave()
		return errHandleClosed
	}
	return nil
}

func (h *handle) end() {
	h.entry.release()
	h.engine.gate.Leave()
}

// export wraps the material to an RSA key of at least 2048 bits.
func (h *handle) export(ctx context.Context, to crypto.PublicKey, hash crypto.Hash) ([]byte, error) {
	if err := h.begin(ctx); err != nil {
		return nil, err
	}
	defer h.end()
	pub, ok := to.(*rsa.PublicKey)
	if !ok || pub == nil || pub.N == nil || pub.N.BitLen() < 2048 {
		return nil, fault.New(fault.BadField, "the key to wrap to is not an RSA key of at least 2048 bits")
	}
	if !keyenc.OAEPHash(hash) {
		return nil, errHash
	}
	out, err := keyenc.WrapRSAAES(h.engine.rand, pub, hash, h.entry.export)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "wrapping a key", err)
	}
	return out, nil
}

// exportable are the families' handles with backend.Exporter added. A handle of a key that is not exportable does not have
// the method at all.
type (
	exportableAEAD      struct{ aeadKey }
	exportableKWP       struct{ kwpKey }
	exportableMAC       struct{ macKey }
	exportableSigner    struct{ signerKey }
	exportableDecrypter struct{ decrypterKey }
	exportableAgreer    struct{ agreerKey }

	exportableDecapsulator struct{ decapsulatorKey }
)

func (k *exportableAEAD) Export(ctx context.Context, to crypto.PublicKey, h crypto.Hash) ([]byte, error) {
	return k.export(ctx, to, h)
}
func (k *exportableKWP) Export(ctx context.Context, to crypto.PublicKey, h crypto.Hash) ([]byte, error) {
	return k.export(ctx, to, h)
}
func (k *exportableMAC) Export(ctx context.Context, to crypto.PublicKey, h crypto.Hash) ([]byte, error) {
	return k.export(ctx, to, h)
}
func (k *exportableSigner) Export(ctx context.Context, to crypto.PublicKey, h crypto.Hash) ([]byte, error) {
	return k.export(ctx, to, h)
}
func (k *exportableDecrypter) Export(ctx context.Context, to crypto.PublicKey, h crypto.Hash) ([]byte, error) {
	return k.export(ctx, to, h)
}
func (k *exportableAgreer) Export(ctx context.Context, to crypto.PublicKey, h crypto.Hash) ([]byte, error) {
	return k.export(ctx, to, h)
}

func (k *exportableDecapsulator) Export(ctx context.Context, to crypto.PublicKey, h crypto.Hash) ([]byte, error) {
	return k.export(ctx, to, h)
}

var (
	_ backend.Exporter  = (*exportableAEAD)(nil)
	_ backend.AEAD      = (*exportableAEAD)(nil)
	_ backend.Wrapper   = (*exportableKWP)(nil)
	_ backend.MACer     = (*exportableMAC)(nil)
	_ backend.Signer    = (*exportableSigner)(nil)
	_ backend.Decrypter = (*exportableDecrypter)(nil)
	_ backend.Agreer    = (*exportableAgreer)(nil)

	_ backend.Decapsulator = (*exportableDecapsulator)(nil)
)
