package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// ctrHMAC is AES-256-CTR with HMAC-SHA-256, encrypt-then-MAC, as backend.AES256CTRHMACSHA256 describes it. It is safe for concurrent use.
type ctrHMAC struct {
	block cipher.Block
	mac   []byte
}

const ctrHMACKey = 32

func newCTRHMAC(raw []byte) (cipher.AEAD, error) {
	if len(raw) != 2*ctrHMACKey {
		return nil, errImport
	}
	block, err := aes.NewCipher(raw[ctrHMACKey:])
	if err != nil {
		return nil, err
	}
	return &ctrHMAC{block, slices.Clone(raw[:ctrHMACKey])}, nil
}

func (c *ctrHMAC) NonceSize() int { return aes.BlockSize }
func (c *ctrHMAC) Overhead() int  { return sha256.Size }

func (c *ctrHMAC) tag(dst, nonce, ciphertext, aad []byte) []byte {
	m := hmac.New(sha256.New, c.mac)
	m.Write(aad)
	m.Write(nonce)
	m.Write(ciphertext)
	var bits [8]byte
	binary.BigEndian.PutUint64(bits[:], 8*uint64(len(aad)))
	m.Write(bits[:])
	return m.Sum(dst)
}

func (c *ctrHMAC) Seal(dst, nonce, plaintext, aad []byte) []byte {
	n := len(dst)
	dst = slices.Grow(dst, len(plaintext)+sha256.Size)[:n+len(plaintext)]
	cipher.NewCTR(c.block, nonce).XORKeyStream(dst[n:], plaintext)
	return c.tag(dst, nonce, dst[n:], aad)
}

// Open decrypts nothing before the tag is right.
func (c *ctrHMAC) Open(dst, nonce, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < sha256.Size {
		return nil, errDecrypt
	}
	body := sealed[:len(sealed)-sha256.Size]
	var sum [sha256.Size]byte
	if !hmac.Equal(c.tag(sum[:0], nonce, body, aad), sealed[len(body):]) {
		return nil, errDecrypt
	}
	n := len(dst)
	dst = slices.Grow(dst, len(body))[:n+len(body)]
	cipher.NewCTR(c.block, nonce).XORKeyStream(dst[n:], body)
	return dst, nil
}

// wipe overwrites what can be reached.
func (c *ctrHMAC) wipe() { clear(c.mac) }
