package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"sync/atomic"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm/device"
)

// handle is what all handles have in common. It holds nothing of the TPM: each operation loads the key, uses it and flushes it.
type handle struct {
	b      *Backend
	e      *entry
	closed atomic.Bool
}

func (h *handle) Public() crypto.PublicKey { return h.e.pub }

func (h *handle) Close() error {
	h.closed.Store(true)
	return nil
}

// handle gives the handle of an entry's purpose.
func (b *Backend) handle(e *entry) backend.Key {
	switch e.spec.Purpose {
	case backend.PurposeEncryption:
		if e.info.Family == backend.FamilyAEAD {
			return &aeadKey{handle{b: b, e: e}}
		}
		return &decrypterKey{handle{b: b, e: e}}
	case backend.PurposeSigning:
		return &signerKey{handle{b: b, e: e}}
	case backend.PurposeMAC:
		return &macKey{handle{b: b, e: e}}
	}
	return &agreerKey{handle{b: b, e: e}}
}

// begin starts an operation; gate.Leave ends it.
func (h *handle) begin(ctx context.Context) error {
	if err := h.b.enter(ctx); err != nil {
		return err
	}
	if h.closed.Load() {
		h.b.gate.Leave()
		return errHandleClosed
	}
	return nil
}

// loaded is an object in the TPM with its auth value.
type loaded struct {
	tpm2.NamedHandle
	tx   *device.Tx
	auth secret.Bytes
}

// as authorizes a command whose parameters are encrypted in a direction.
func (l loaded) as(dir device.Direction) tpm2.AuthHandle {
	return l.tx.Auth(l.NamedHandle, l.auth, dir)
}

// use calls f with one of the key's objects loaded. Nothing that f does changes anything on the TPM.
func (h *handle) use(ctx context.Context, op string, which int, f func(tx *device.Tx, key loaded) error) error {
	auth, err := h.b.auth(&h.e.spec, h.e.info.ID)
	if err != nil {
		return err
	}
	defer auth.Wipe()
	err = h.b.dev.Do(ctx, op, func(tx *device.Tx) error {
		key, err := load(tx, h.e.objects[which])
		if err != nil {
			return err
		}
		return f(tx, loaded{key, tx, auth})
	})
	return refused(err)
}

// load brings an object into the TPM, which refuses what it did not make under this parent. The Name that it gives is held against the public area.
func load(tx *device.Tx, o object) (tpm2.NamedHandle, error) {
	key, err := tx.Load(o.load2B())
	if err != nil {
		return key, loadRefused(err)
	}
	if !bytes.Equal(key.Name.Buffer, nameOf(o.public)) {
		return key, errUnreadable
	}
	return key, nil
}

// nameOf is the Name of an object: its name algorithm, SHA-256 for all of ours, and the digest of its public area (part 1, section 16).
func nameOf(public []byte) []byte {
	sum := sha256.Sum256(public)
	return append([]byte{0x00, 0x0b}, sum[:]...)
}

type signerKey struct{ handle }

func (k *signerKey) Sign(ctx context.Context, input []byte, opts backend.SignOpts) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	isRSA := k.e.info.Family == backend.FamilyRSA
	if isRSA != (opts.Padding == backend.PaddingPSS || opts.Padding == backend.PaddingPKCS1v15) || !isRSA && opts.Padding != "" {
		return nil, errPadding
	}
	if err := opts.Classical(); err != nil {
		return nil, err
	}
	if !keyenc.SignatureHash(opts.Hash) {
		return nil, errHash
	}
	if len(input) != opts.Hash.Size() {
		return nil, errDigest
	}
	var out []byte
	err := k.use(ctx, "sign", 0, func(tx *device.Tx, key loaded) (err error) {
		out, err = sign(tx, key, k.e.info, input, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

type decrypterKey struct{ handle }

// Decrypt has the TPM do the bare private operation, and decodes here: the TPM's own OAEP ends every label with a zero byte (part 1, annex B.4) and has the hashes
// of its own choice.
func (k *decrypterKey) Decrypt(ctx context.Context, ciphertext []byte, opts backend.OAEPOpts) (secret.Bytes, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	if !keyenc.OAEPHash(opts.Hash) {
		return nil, errHash
	}
	pub, ok := k.e.pub.(*rsa.PublicKey)
	if !ok {
		return nil, errUnreadable
	}
	if len(ciphertext) != pub.Size() || new(big.Int).SetBytes(ciphertext).Cmp(pub.N) >= 0 {
		return nil, errDecrypt
	}
	var em secret.Bytes
	defer func() { em.Wipe() }()
	err := k.use(ctx, "rsa-decrypt", 0, func(tx *device.Tx, key loaded) (err error) {
		em, err = rsadp(tx, key, pub.Size(), ciphertext)
		return err
	})
	if err != nil {
		return nil, err
	}
	out, err := keyenc.DecodeOAEP(em, opts.Hash, opts.Label)
	if err != nil {
		return nil, errDecrypt
	}
	return out, nil
}

type macKey struct{ handle }

func (k *macKey) MAC(ctx context.Context, message []byte) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	var out []byte
	err := k.use(ctx, "hmac", 0, func(tx *device.Tx, key loaded) (err error) {
		out, err = mac(tx, key, k.e.info.Hash, message)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

type agreerKey struct{ handle }

var errPeer = fault.New(fault.BadField, "the peer's public key is not one of the curve")

func (k *agreerKey) Agree(ctx context.Context, peer []byte) (secret.Bytes, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	c, ok := curveOf(k.e.info)
	if !ok {
		return nil, errUnreadable
	}
	point, ok := peerPoint(c, peer)
	if !ok {
		return nil, errPeer
	}
	var out secret.Bytes
	err := k.use(ctx, "ecdh", 0, func(tx *device.Tx, key loaded) (err error) {
		out, err = zgen(tx, key, c, point)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
