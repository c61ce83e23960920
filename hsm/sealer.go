package hsm

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"io"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/sealed"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

// A sealed text is
//
//	version 1 ‖ form ‖ length of the name (1) ‖ name of the token ‖ body
//	version 2 ‖ form ‖ generation (4, from 2) ‖ length of the name (1) ‖ name of the token ‖ body
//
// the first under the first generation of the sealing key, and the body, by form: 1: what AES-256-GCM on the token gives (nonce ‖ ciphertext ‖ tag). 2: AES-KWP by the token of a fresh
// AES-256 key (40 bytes), then AES-256-GCM by that key, done here (nonce ‖ ciphertext ‖ tag). The additional data is the header, a domain
// and the binding, each with its length in four bytes big-endian before it.
type sealForm byte

const (
	sealVersion                    = 1
	sealVersionGeneration          = 2
	formGCM               sealForm = 1
	formKWP               sealForm = 2
	// maxSealed bounds a plaintext in bytes: key material has 2.4 KB, the root's slots less.
	maxSealed = 1 << 20
)

// Domains keep what callers seal apart from key material: neither opens as the other, whatever the binding.
const (
	callerDomain = "keywright/v1/hsm-sealer"
	engineDomain = "keywright/v1/hsm-sealed-key"
)

var errNoSealer = fault.New(fault.Unsupported, "the token has no way to seal: neither AES-GCM nor AES-KWP")

// sealingKey gives the service key that seals.
func (b *Backend) sealingKey() (ServiceKey, bool) {
	switch b.form {
	case formGCM:
		return sealingGCM(), true
	case formKWP:
		return sealingKWP(), true
	}
	return ServiceKey{}, false
}

// Seal protects bytes, at most 1 MiB, under a key that never leaves the token. binding is authenticated, not stored.
func (b *Backend) Seal(ctx context.Context, plaintext, binding []byte) ([]byte, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.gate.Leave()
	return b.seal(ctx, callerDomain, plaintext, binding)
}

// Open opens what Seal made with the same binding; everything else is fault.KeyMaterial.
func (b *Backend) Open(ctx context.Context, sealed, binding []byte) (secret.Bytes, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.gate.Leave()
	return b.open(ctx, callerDomain, sealed, binding)
}

// engineSealer is the sealer of sealed custody. The engine calls it within a call of the backend.
type engineSealer struct{ b *Backend }

func (s engineSealer) Seal(ctx context.Context, plaintext, binding []byte) ([]byte, error) {
	return s.b.seal(ctx, engineDomain, plaintext, binding)
}

func (s engineSealer) Open(ctx context.Context, sealed, binding []byte) (secret.Bytes, error) {
	return s.b.open(ctx, engineDomain, sealed, binding)
}

// sealers leaves out the members that cannot seal. One that cannot open cannot seal either.
func (b *Backend) sealers(members []*member) []*member {
	if b.form == formKWP {
		return able(able(members, ability{backend.AES256KWP, backend.OpWrap}), ability{backend.AES256KWP, backend.OpUnwrap})
	}
	return able(able(members, ability{backend.AES256GCM, backend.OpEncrypt}), ability{backend.AES256GCM, backend.OpDecrypt})
}

func additional(header []byte, domain string, binding []byte) []byte {
	out := make([]byte, 0, 12+len(header)+len(domain)+len(binding))
	for _, part := range [][]byte{header, []byte(domain), binding} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part))) // bounded by the callers
		out = append(out, part...)
	}
	return out
}

func (b *Backend) seal(ctx context.Context, domain string, plaintext, binding []byte) ([]byte, error) {
	if b.form == 0 {
		return nil, errNoSealer
	}
	if len(plaintext) > maxSealed || len(binding) > maxSealed {
		return nil, fault.New(fault.BadSize, "what is sealed has at most 1 MiB")
	}
	return each(ctx, b, b.sealers(b.order()), opEncrypt, func(ctx context.Context, m *member) ([]byte, error) {
		if err := b.own(ctx, m, opMake); err != nil {
			return nil, err
		}
		generation := b.newestSealing(m)
		if generation == 0 {
			return nil, errNotThere
		}
		header := sealHeader(b.form, generation, m.serial)
		aad := additional(header, domain, binding)
		if b.form == formGCM {
			body, err := m.token.Use(ctx, token.Call{Op: token.Encrypt, ID: sealingGCM().at(generation).ID, Algorithm: backend.AES256GCM, Input: plaintext, AAD: aad})
			if err != nil {
				return nil, b.sealerFailed(err)
			}
			return append(header, body...), nil
		}
		dek := make(secret.Bytes, 32)
		defer dek.Wipe()
		rand.Read(dek) // never fails (crypto/rand)
		wrapped, err := m.token.Use(ctx, token.Call{Op: token.Wrap, ID: sealingKWP().at(generation).ID, Algorithm: backend.AES256KWP, Input: dek})
		if err != nil {
			return nil, b.sealerFailed(err)
		}
		if len(wrapped) != keyenc.KWPSize(len(dek)) {
			return nil, fault.New(fault.BackendUnavailable, "the token gave a wrapped key of the wrong size")
		}
		gcm, err := newGCM(dek)
		if err != nil {
			return nil, fault.Wrap(fault.Internal, "sealing", err)
		}
		// The nonce is the AEAD's own: it is drawn inside (SP 800-38D section 8.2.2).
		return gcm.Seal(append(header, wrapped...), nil, plaintext, aad), nil //nolint:gosec // G407 takes the absent nonce for a constant one
	})
}

func (b *Backend) open(ctx context.Context, domain string, sealed, binding []byte) (secret.Bytes, error) {
	if b.form == 0 {
		return nil, errNoSealer
	}
	p, ok := parseSealedText(sealed)
	if !ok || len(binding) > maxSealed || p.form != b.form {
		return nil, errUnreadable
	}
	body := p.body
	members, err := b.homed(p.name)
	if err != nil {
		return nil, err
	}
	if p.generation > 1 {
		if members = b.sealedUnder(ctx, members, p.generation); len(members) == 0 {
			return nil, errUnreadable
		}
	}
	aad := additional(p.header, domain, binding)
	if b.form == formGCM {
		if len(body) < 12+16 {
			return nil, errUnreadable
		}
		out, err := each(ctx, b, b.sealers(members), opDecrypt, func(ctx context.Context, m *member) ([]byte, error) {
			return m.token.Use(ctx, token.Call{Op: token.Decrypt, ID: sealingGCM().at(p.generation).ID, Algorithm: backend.AES256GCM, Input: body, AAD: aad})
		})
		if err != nil {
			return nil, b.sealerFailed(err)
		}
		return out, nil
	}
	n := keyenc.KWPSize(32)
	if len(body) < n+12+16 {
		return nil, errUnreadable
	}
	unwrapped, err := each(ctx, b, b.sealers(members), opUnwrap, func(ctx context.Context, m *member) ([]byte, error) {
		return m.token.Use(ctx, token.Call{Op: token.Unwrap, ID: sealingKWP().at(p.generation).ID, Algorithm: backend.AES256KWP, Input: body[:n]})
	})
	if err != nil {
		return nil, b.sealerFailed(err)
	}
	dek := secret.Bytes(unwrapped)
	defer dek.Wipe()
	if len(dek) != 32 {
		return nil, errUnreadable
	}
	gcm, err := newGCM(dek)
	if err != nil {
		return nil, errUnreadable
	}
	out, err := gcm.Open(nil, nil, body[n:], aad)
	if err != nil {
		return nil, errUnreadable
	}
	return out, nil
}

// newGCM gives AES-256-GCM whose Seal picks a random nonce and puts it in front (SP 800-38D section 8.2.2).
func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// sealerFailed tells a text that does not open from a token that has lost the sealing key.
func (b *Backend) sealerFailed(err error) error {
	switch {
	case fault.Has(err, fault.DecryptionFailed):
		return errUnreadable
	case fault.Has(err, fault.KeyMaterial):
		return fault.Wrap(fault.BackendUnavailable, "the token has lost the service's sealing key", err)
	}
	return err
}

// generator is what the engine draws key material from.
func (b *Backend) generator() io.Reader {
	if b.o.Rand != nil {
		return b.o.Rand
	}
	return sealed.Mixed(deviceRandom{b})
}

// deviceRandom reads the tokens' generator. The reader that the engine wants has no context, so the time is bounded here.
type deviceRandom struct{ b *Backend }

const randomTimeout = 10 * time.Second

func (r deviceRandom) Read(p []byte) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), randomTimeout)
	defer cancel()
	if err := r.b.Random(ctx, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Random fills p from the generator of a token.
func (b *Backend) Random(ctx context.Context, p []byte) error {
	if err := b.enter(ctx); err != nil {
		return err
	}
	defer b.gate.Leave()
	const most = 1 << 16 // of what a token gives at once
	for rest := p; len(rest) > 0; {
		n := min(len(rest), most)
		out, err := each(ctx, b, b.order(), opRandom, func(ctx context.Context, m *member) ([]byte, error) { return m.token.Random(ctx, n) })
		if err == nil && len(out) != n {
			err = fault.New(fault.BackendUnavailable, "the token gave fewer random bytes than asked for")
		}
		if err != nil {
			clear(p)
			return err
		}
		copy(rest, out)
		clear(out)
		rest = rest[n:]
	}
	return nil
}
