package backendtest

import (
	"crypto/aes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"math/big"
	"slices"
)

// ctrHMAC judges AES-256-CTR-HMAC-SHA256. It is written for clearness, from the block cipher alone: nothing of what it judges is in it.
type ctrHMAC []byte

func (k ctrHMAC) NonceSize() int { return 16 }
func (k ctrHMAC) Overhead() int  { return 32 }

// stream is SP 800-38A section 6.5 with the standard incrementing function of appendix B.1 over all 128 bits.
func (k ctrHMAC) stream(nonce, in []byte) []byte {
	block, err := aes.NewCipher(k[32:])
	if err != nil {
		panic(err) // the key has its size
	}
	counter, modulus := new(big.Int).SetBytes(nonce), new(big.Int).Lsh(big.NewInt(1), 128)
	out := slices.Clone(in)
	for at := 0; at < len(out); at += 16 {
		pad := counter.FillBytes(make([]byte, 16))
		block.Encrypt(pad, pad)
		for i := at; i < min(at+16, len(out)); i++ {
			out[i] ^= pad[i-at]
		}
		counter.Mod(counter.Add(counter, big.NewInt(1)), modulus)
	}
	return out
}

func (k ctrHMAC) tag(nonce, ciphertext, aad []byte) []byte {
	m := hmac.New(sha256.New, k[:32])
	m.Write(slices.Concat(aad, nonce, ciphertext, new(big.Int).SetInt64(int64(len(aad)*8)).FillBytes(make([]byte, 8))))
	return m.Sum(nil)
}

func (k ctrHMAC) Seal(dst, nonce, plaintext, aad []byte) []byte {
	nonce = slices.Clone(nonce) // it may be dst
	ct := k.stream(nonce, plaintext)
	return append(append(dst, ct...), k.tag(nonce, ct, aad)...)
}

func (k ctrHMAC) Open(dst, nonce, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < 32 {
		return nil, errors.New("too short")
	}
	ct := sealed[:len(sealed)-32]
	if !hmac.Equal(k.tag(nonce, ct, aad), sealed[len(ct):]) {
		return nil, errors.New("wrong tag")
	}
	return append(dst, k.stream(nonce, ct)...), nil
}
