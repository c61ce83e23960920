package sealed

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/keywright/keywright/backend"
)

// aeadMaterial is a cipher whose Seal gives nonce ‖ ciphertext ‖ tag under a random nonce of 96 bits (SP 800-38D section
// 8.2.2: at most 2^32 calls with one key; usage limits and rotation are the policy's).
type aeadMaterial struct{ aead cipher.AEAD }

func newAEAD(info backend.AlgorithmInfo, raw []byte) (material, error) {
	if info.Name == backend.ChaCha20Poly1305 {
		c, err := chacha20poly1305.New(raw)
		if err != nil {
			return nil, errImport
		}
		return &aeadMaterial{randomNonce{c}}, nil
	}
	if info.Name == backend.AES256CTRHMACSHA256 {
		c, err := newCTRHMAC(raw)
		if err != nil {
			return nil, errImport
		}
		return &aeadMaterial{randomNonce{c}}, nil
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, errImport
	}
	c, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, errImport
	}
	return &aeadMaterial{c}, nil
}

// randomNonce does for ChaCha20-Poly1305 what cipher.NewGCMWithRandomNonce does for AES.
type randomNonce struct{ cipher.AEAD }

func (c randomNonce) NonceSize() int { return 0 }
func (c randomNonce) Overhead() int  { return c.AEAD.NonceSize() + c.AEAD.Overhead() }

func (c randomNonce) Seal(dst, _, plaintext, aad []byte) []byte {
	n := len(dst)
	if need := n + len(plaintext) + c.Overhead(); cap(dst) < need {
		dst = append(make([]byte, 0, need), dst...)
	}
	dst = dst[:n+c.AEAD.NonceSize()]
	nonce := dst[n:]
	rand.Read(nonce) // never fails (crypto/rand, since Go 1.24)
	return c.AEAD.Seal(dst, nonce, plaintext, aad)
}

func (c randomNonce) Open(dst, _, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < c.Overhead() {
		return nil, errDecrypt
	}
	n := c.AEAD.NonceSize()
	return c.AEAD.Open(dst, sealed[:n], sealed[n:], aad)
}

func (m *aeadMaterial) public() crypto.PublicKey { return nil }

// wipe overwrites what can be reached: key schedules cannot.
func (m *aeadMaterial) wipe() {
	if r, ok := m.aead.(randomNonce); ok {
		if c, ok := r.AEAD.(*ctrHMAC); ok {
			c.wipe()
		}
	}
}

func (m *aeadMaterial) handle(e *Engine, ent *entry) backend.Key {
	if ent.export != nil {
		return &exportableAEAD{aeadKey{handle{engine: e, entry: ent}, m.aead}}
	}
	return &aeadKey{handle{engine: e, entry: ent}, m.aead}
}

type aeadKey struct {
	handle
	aead cipher.AEAD
}

func (k *aeadKey) Seal(ctx context.Context, dst, plaintext, aad []byte) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	out := k.aead.Seal(dst, nil, plaintext, aad) //nolint:gosec // these ciphers pick the nonce themselves and take none
	k.end()
	return out, nil
}

func (k *aeadKey) Open(ctx context.Context, dst, sealed, aad []byte) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	out, err := k.aead.Open(dst, nil, sealed, aad)
	k.end()
	if err != nil {
		return nil, errDecrypt // the cause says nothing more than this
	}
	return out, nil
}
