package sealed

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

// signing is material that signs.
type signing interface {
	material
	sign(ctx context.Context, e *Engine, input []byte, opts backend.SignOpts) ([]byte, error)
}

type signerKey struct {
	handle
	key signing
}

func (k *signerKey) Sign(ctx context.Context, input []byte, opts backend.SignOpts) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.end()
	return k.key.sign(ctx, k.engine, input, opts)
}

func newSigner(e *Engine, ent *entry, m signing) backend.Key {
	if ent.export != nil {
		return &exportableSigner{signerKey{handle{engine: e, entry: ent}, m}}
	}
	return &signerKey{handle{engine: e, entry: ent}, m}
}

// checkDigest: SHA-1 is for nobody's signatures (SP 800-131A section 3).
func checkDigest(input []byte, opts backend.SignOpts) error {
	h := opts.Hash
	if err := opts.Classical(); err != nil {
		return err
	}
	if !keyenc.SignatureHash(h) {
		return errHash
	}
	if len(input) != h.Size() {
		return errDigest
	}
	return nil
}

func signed(sig []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "signing", err)
	}
	return sig, nil
}

// rsaMaterial signs or decrypts, as its purpose has it: one key does not do both.
type rsaMaterial struct {
	key      *rsa.PrivateKey
	decrypts bool
}

func (m *rsaMaterial) public() crypto.PublicKey { return &m.key.PublicKey }
func (m *rsaMaterial) wipe()                    { wipePrivate(m.key) }

// footprint: the numbers, what is computed of them beforehand, and the standard library's own form of all that, about twelve times the modulus.
func (m *rsaMaterial) footprint() int { return 12 * m.key.Size() }

func (m *rsaMaterial) handle(e *Engine, ent *entry) backend.Key {
	switch {
	case !m.decrypts:
		return newSigner(e, ent, m)
	case ent.export != nil:
		return &exportableDecrypter{decrypterKey{handle{engine: e, entry: ent}, m.key}}
	default:
		return &decrypterKey{handle{engine: e, entry: ent}, m.key}
	}
}

func (m *rsaMaterial) sign(_ context.Context, _ *Engine, input []byte, opts backend.SignOpts) ([]byte, error) {
	if err := checkDigest(input, opts); err != nil {
		return nil, err
	}
	switch opts.Padding {
	case backend.PaddingPSS:
		return signed(rsa.SignPSS(rand.Reader, m.key, opts.Hash, input, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
	case backend.PaddingPKCS1v15:
		return signed(rsa.SignPKCS1v15(rand.Reader, m.key, opts.Hash, input))
	}
	return nil, errPadding
}

type decrypterKey struct {
	handle
	key *rsa.PrivateKey
}

func (k *decrypterKey) Decrypt(ctx context.Context, ciphertext []byte, opts backend.OAEPOpts) (secret.Bytes, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.end()
	if !keyenc.OAEPHash(opts.Hash) {
		return nil, errHash
	}
	out, err := rsa.DecryptOAEP(opts.Hash.New(), nil, k.key, ciphertext, opts.Label)
	if err != nil {
		return nil, errDecrypt // the cause says nothing more than this
	}
	return out, nil
}

type ecdsaMaterial struct {
	key  *ecdsa.PrivateKey
	size int // bytes of r and of s
}

func (m *ecdsaMaterial) public() crypto.PublicKey                 { return &m.key.PublicKey }
func (m *ecdsaMaterial) wipe()                                    { wipePrivate(m.key) }
func (m *ecdsaMaterial) handle(e *Engine, ent *entry) backend.Key { return newSigner(e, ent, m) }

func (m *ecdsaMaterial) sign(_ context.Context, _ *Engine, input []byte, opts backend.SignOpts) ([]byte, error) {
	if opts.Padding != "" {
		return nil, errPadding
	}
	if err := checkDigest(input, opts); err != nil {
		return nil, err
	}
	der, err := ecdsa.SignASN1(rand.Reader, m.key, input)
	if err != nil {
		return signed(nil, err)
	}
	return signed(keyenc.DERToP1363(der, m.size))
}

// checkMessage: Ed25519 and Ed448 sign the message itself (RFC 8032, the pure variants).
func checkMessage(opts backend.SignOpts) error {
	if opts.Hash != 0 {
		return errHash
	}
	if opts.Padding != "" {
		return errPadding
	}
	return opts.Classical()
}

type ed25519Material struct{ key ed25519.PrivateKey }

func (m *ed25519Material) public() crypto.PublicKey { return m.key.Public() }
func (m *ed25519Material) wipe()                    { wipePrivate(m.key) }
func (m *ed25519Material) handle(e *Engine, ent *entry) backend.Key {
	return newSigner(e, ent, m)
}

func (m *ed25519Material) sign(_ context.Context, _ *Engine, input []byte, opts backend.SignOpts) ([]byte, error) {
	if err := checkMessage(opts); err != nil {
		return nil, err
	}
	return ed25519.Sign(m.key, input), nil
}

type ed448Material struct{ key ed448.PrivateKey }

func (m *ed448Material) public() crypto.PublicKey { return m.key.Public() }
func (m *ed448Material) wipe()                    { wipePrivate(m.key) }
func (m *ed448Material) handle(e *Engine, ent *entry) backend.Key {
	return newSigner(e, ent, m)
}

func (m *ed448Material) sign(_ context.Context, _ *Engine, input []byte, opts backend.SignOpts) ([]byte, error) {
	if err := checkMessage(opts); err != nil {
		return nil, err
	}
	return ed448.Sign(m.key, input, ""), nil
}
