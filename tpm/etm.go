package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/tpm/device"
)

// AES-256-CTR-HMAC-SHA256 (see package backend) on TPMs that have TPM2_EncryptDecrypt2: two objects, a cipher key and a MAC key, both of which stay in the TPM. Encrypt-then-MAC is composed here:
// no byte is decrypted before the tag of the whole was right.
const (
	cipherObject = 0
	macObject    = 1
	etmKey       = 32 // bytes of either key
	// etmTurn is how much is ciphered with one turn at the TPM in bytes, so that others get theirs.
	etmTurn = 64 * maxBuffer
)

// etmTemplates are the public areas of cipher and MAC key. The mode is fixed in the key: it does CTR and nothing else.
func etmTemplates(policy []byte, imported bool) []tpm2.TPMTPublic {
	a := attributes(imported)
	a.SignEncrypt, a.Decrypt = true, true
	block := newPublic(tpm2.TPMAlgSymCipher, a, policy, tpm2.NewTPMUPublicParms(tpm2.TPMAlgSymCipher, &tpm2.TPMSSymCipherParms{Sym: tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(8*etmKey)),
		Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCTR)}}))
	a.Decrypt = false
	mac, _ := hmacPublic(a, policy, crypto.SHA256) // SHA-256 is a TPM's hash
	return []tpm2.TPMTPublic{block, mac}
}

type aeadKey struct{ handle }

func (k *aeadKey) Seal(ctx context.Context, dst, plaintext, aad []byte) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	nonce := make([]byte, k.e.info.NonceSize)
	rand.Read(nonce) // never fails (crypto/rand)
	ct, err := k.ctr(ctx, "encrypt", nonce, plaintext)
	if err != nil {
		return nil, err
	}
	tag, err := k.tag(ctx, nonce, ct, aad)
	if err != nil {
		return nil, err
	}
	return append(append(append(slices.Grow(dst, len(nonce)+len(ct)+len(tag)), nonce...), ct...), tag...), nil
}

func (k *aeadKey) Open(ctx context.Context, dst, sealed, aad []byte) ([]byte, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	n, t := k.e.info.NonceSize, k.e.info.TagSize
	if len(sealed) < n+t {
		return nil, errDecrypt
	}
	nonce, ct, tag := sealed[:n], sealed[n:len(sealed)-t], sealed[len(sealed)-t:]
	want, err := k.tag(ctx, nonce, ct, aad)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(want, tag) {
		return nil, errDecrypt
	}
	out, err := k.ctr(ctx, "decrypt", nonce, ct)
	if err != nil {
		return nil, err
	}
	defer clear(out)
	return append(dst, out...), nil
}

// tag has the TPM compute the tag: the input of RFC 7518 section 5.2.2.1 step 5.
func (k *aeadKey) tag(ctx context.Context, nonce, ct, aad []byte) (out []byte, err error) {
	bits := binary.BigEndian.AppendUint64(nil, 8*uint64(len(aad)))
	err = k.use(ctx, "hmac", macObject, func(tx *device.Tx, key loaded) (err error) {
		out, err = mac(tx, key, crypto.SHA256, aad, nonce, ct, bits)
		return err
	})
	return out, err
}

// ctr ciphers with the counter beginning at nonce.
func (k *aeadKey) ctr(ctx context.Context, op string, nonce, in []byte) ([]byte, error) {
	out := make([]byte, 0, len(in))
	for len(in) > len(out) {
		at := len(out)
		err := k.use(ctx, op, cipherObject, func(tx *device.Tx, key loaded) (err error) {
			out, err = ctr(tx, key, out[:at], nonce, in[at:min(at+etmTurn, len(in))])
			return err
		})
		if err != nil {
			clear(out[:cap(out)])
			return nil, err
		}
	}
	return out, nil
}

// ctr appends the ciphered in to out. The counter begins at nonce, with what is in out already counted: a multiple of the block.
func ctr(tx *device.Tx, key loaded, out, nonce, in []byte) ([]byte, error) {
	for len(in) > 0 {
		n := min(len(in), maxBuffer)
		rsp, err := tpm2.EncryptDecrypt2{KeyHandle: key.as(device.InOut), Message: tpm2.TPM2BMaxBuffer{Buffer: in[:n]}, Mode: tpm2.TPMAlgCTR,
			IV: tpm2.TPM2BIV{Buffer: counter(nonce, len(out)/aes.BlockSize)}}.Execute(tx)
		if err != nil {
			return out, err
		}
		if len(rsp.OutData.Buffer) != n {
			return out, fault.New(fault.BackendUnavailable, "the TPM gave a ciphertext of the wrong size")
		}
		out = append(out, rsp.OutData.Buffer...)
		clear(rsp.OutData.Buffer)
		in = in[n:]
	}
	return out, nil
}

// counter adds blocks to the nonce as a number of 128 bits (SP 800-38A appendix B.1).
func counter(nonce []byte, blocks int) []byte {
	out := bytes.Clone(nonce)
	carry := uint64(blocks) //nolint:gosec // not negative
	for i := len(out) - 1; i >= 0 && carry > 0; i-- {
		carry += uint64(out[i])
		out[i] = byte(carry)
		carry >>= 8
	}
	return out
}

// tryETM ciphers with a known key, over the end of the counter, and computes a tag.
func tryETM(tx *device.Tx, objects []foreign, info backend.AlgorithmInfo, material []byte) error {
	key, err := external(tx, &objects[cipherObject])
	if err != nil {
		return err
	}
	nonce, plain := bytes.Repeat([]byte{0xff}, info.NonceSize), bytes.Repeat([]byte{8}, maxBuffer+20)
	got, err := ctr(tx, key, nil, nonce, plain)
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(material[etmKey:])
	if err != nil {
		return err
	}
	cipher.NewCTR(block, nonce).XORKeyStream(plain, plain)
	if !bytes.Equal(got, plain) {
		return errWrong
	}
	if _, err := (tpm2.FlushContext{FlushHandle: key.Handle}).Execute(tx); err != nil {
		return err
	}
	if key, err = external(tx, &objects[macObject]); err != nil {
		return err
	}
	return tryMAC(tx, key, crypto.SHA256, material[:etmKey])
}
