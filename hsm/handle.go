package hsm

import (
	"context"
	"crypto"
	"sync/atomic"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

// handle is what all handles have in common. It holds nothing of the token: an operation names the key by its CKA_ID, and the token
// finds its object, or unwraps the key, in whatever session it has.
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
		if e.info.Family == backend.FamilyRSA {
			return &decrypterKey{handle{b: b, e: e}}
		}
		return &aeadKey{handle{b: b, e: e}}
	case backend.PurposeWrapping:
		return &wrapperKey{handle{b: b, e: e}}
	case backend.PurposeSigning:
		return &signerKey{handle{b: b, e: e}}
	case backend.PurposeMAC:
		return &macKey{handle{b: b, e: e}}
	case backend.PurposeEncapsulation:
		return &decapsulatorKey{handle{b: b, e: e}}
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

// use has a token do the operation. All operations may be repeated: none changes anything on a token.
func (h *handle) use(ctx context.Context, kind operation, c token.Call) ([]byte, error) {
	c.ID, c.Algorithm, c.Wrapped = h.e.id, h.e.spec.Algorithm, h.e.wrapped
	if len(c.Wrapped) == 0 || h.e.copied {
		c.Wrapped = nil
	}
	members, err := h.b.homed(h.e.name)
	if err != nil {
		return nil, err
	}
	members = able(members, ability{c.Algorithm, abilities[kind]})
	out, err := each(ctx, h.b, members, kind, func(ctx context.Context, m *member) ([]byte, error) {
		if !h.e.copied {
			return m.token.Use(ctx, c)
		}
		return withCopy(ctx, h.b, m, h.e, func() ([]byte, error) { return m.token.Use(ctx, c) })
	})
	switch {
	case err == nil:
		return out, nil
	case fault.Has(err, fault.DecryptionFailed):
		return nil, errDecrypt // the cause says nothing more than this
	case fault.Has(err, fault.KeyMaterial):
		h.b.refs.drop(&h.e.spec) // the object is gone, or another: to be checked again
		return nil, unreadable(err)
	}
	return nil, err
}

type aeadKey struct{ handle }

func (k *aeadKey) Seal(ctx context.Context, dst, plaintext, aad []byte) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	out, err := k.use(ctx, opEncrypt, token.Call{Op: token.Encrypt, Input: plaintext, AAD: aad})
	if err != nil {
		return nil, err
	}
	if len(out) != k.e.info.NonceSize+len(plaintext)+k.e.info.TagSize {
		return nil, fault.New(fault.BackendUnavailable, "the token gave a ciphertext of the wrong size")
	}
	return appended(dst, out), nil
}

func (k *aeadKey) Open(ctx context.Context, dst, sealed, aad []byte) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	if len(sealed) < k.e.info.NonceSize+k.e.info.TagSize {
		return nil, errDecrypt
	}
	out, err := k.use(ctx, opDecrypt, token.Call{Op: token.Decrypt, Input: sealed, AAD: aad})
	if err != nil {
		return nil, err
	}
	if dst != nil { // it gets a copy
		defer clear(out)
	}
	return appended(dst, out), nil
}

// appended is append without a copy where there is nothing to append to.
func appended(dst, out []byte) []byte {
	if dst == nil {
		return out
	}
	return append(dst, out...)
}

type signerKey struct{ handle }

func (k *signerKey) Sign(ctx context.Context, input []byte, opts backend.SignOpts) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	if err := k.acceptable(input, opts); err != nil {
		return nil, err
	}
	c := signCall(opts)
	c.Input = input
	return k.use(ctx, opSign, c)
}

func signCall(opts backend.SignOpts) token.Call {
	c := token.Call{Op: token.Sign, Hash: opts.Hash, Padding: opts.Padding, Deterministic: opts.Deterministic}
	if opts.Context != "" {
		c.Context = []byte(opts.Context)
	}
	return c
}

// acceptable checks input and choices. SHA-1 is for nobody's signatures (SP 800-131A section 3).
func (k *signerKey) acceptable(input []byte, opts backend.SignOpts) error {
	if k.e.info.PostQuantum {
		return acceptablePQ(k.e.info, input, opts)
	}
	if err := opts.Classical(); err != nil {
		return err
	}
	if k.e.info.Family == backend.FamilyEdDSA {
		// RFC 8032, the pure variants: the message itself.
		if opts.Hash != 0 {
			return errHash
		}
		if opts.Padding != "" {
			return errPadding
		}
		return nil
	}
	rsa := k.e.info.Family == backend.FamilyRSA
	if rsa != (opts.Padding == backend.PaddingPSS || opts.Padding == backend.PaddingPKCS1v15) || !rsa && opts.Padding != "" {
		return errPadding
	}
	if !keyenc.SignatureHash(opts.Hash) {
		return errHash
	}
	if len(input) != opts.Hash.Size() {
		return errDigest
	}
	return nil
}

type decrypterKey struct{ handle }

func (k *decrypterKey) Decrypt(ctx context.Context, ciphertext []byte, opts backend.OAEPOpts) (secret.Bytes, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	if !keyenc.OAEPHash(opts.Hash) {
		return nil, errHash
	}
	if len(ciphertext) != k.e.info.KeyBits/8 {
		return nil, errDecrypt
	}
	return k.use(ctx, opDecrypt, token.Call{Op: token.Decrypt, Input: ciphertext, Hash: opts.Hash, Label: opts.Label})
}

type macKey struct{ handle }

func (k *macKey) MAC(ctx context.Context, message []byte) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	return k.use(ctx, opMAC, token.Call{Op: token.MAC, Input: message})
}

type agreerKey struct{ handle }

func (k *agreerKey) Agree(ctx context.Context, peer []byte) (secret.Bytes, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	return k.use(ctx, opAgree, token.Call{Op: token.Agree, Input: peer})
}

// maxWrap is the most material in bytes that backend.Wrapper takes.
const maxWrap = 4096

type wrapperKey struct{ handle }

func (k *wrapperKey) Wrap(ctx context.Context, material []byte) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	if len(material) == 0 || len(material) > maxWrap {
		return nil, fault.New(fault.BadSize, "material to wrap must have 1 to 4096 bytes")
	}
	return k.use(ctx, opWrap, token.Call{Op: token.Wrap, Input: material})
}

func (k *wrapperKey) Unwrap(ctx context.Context, wrapped []byte) (secret.Bytes, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	if len(wrapped) < 16 || len(wrapped)%8 != 0 || len(wrapped) > keyenc.KWPSize(maxWrap) {
		return nil, errDecrypt
	}
	return k.use(ctx, opUnwrap, token.Call{Op: token.Unwrap, Input: wrapped})
}
