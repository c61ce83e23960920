package token

import (
	"crypto"
	"crypto/rand"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

// digestInfo gives the DER prefix of EMSA-PKCS1-v1_5 (RFC 8017 section 9.2, note 1).
func digestInfo(h crypto.Hash) []byte {
	switch h {
	case crypto.SHA256:
		return []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}
	case crypto.SHA384:
		return []byte{0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30}
	case crypto.SHA512:
		return []byte{0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40}
	}
	return nil
}

// hashNumbers gives the mechanism of a hash and its MGF1.
func hashNumbers(h crypto.Hash) (mech, mgf uint) {
	switch h {
	case crypto.SHA1:
		return pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1
	case crypto.SHA256:
		return pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256
	case crypto.SHA384:
		return pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384
	}
	return pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512
}

// native says for which hashes a token does an RSA scheme itself. What it does not is composed of its private operation
// (CKM_RSA_X_509) and the encoding here.
type native struct {
	pss   map[crypto.Hash]bool
	oaep  map[crypto.Hash]bool // without a label
	label map[crypto.Hash]bool // with one
	raw   bool                 // CKM_RSA_X_509 works
}

func (s *session) rsaSign(k kind, key pkcs11.ObjectHandle, digest []byte, h crypto.Hash, p backend.Padding) ([]byte, error) {
	if !keyenc.SignatureHash(h) {
		return nil, fault.New(fault.BadField, "the hash is not one for signatures")
	}
	if len(digest) != h.Size() {
		return nil, fault.New(fault.BadSize, "the digest is not as long as its hash")
	}
	out := make([]byte, k.KeyBits/8)
	var n int
	var err error
	switch {
	case p == backend.PaddingPKCS1v15:
		in := append(digestInfo(h), digest...)
		n, err = s.d.lib.operate(signing, s.SessionHandle, pkcs11.CKM_RSA_PKCS, nil, key, in, out)
	case p != backend.PaddingPSS:
		return nil, fault.New(fault.BadField, "the padding is not one of RSA signatures")
	case s.d.native.pss[h]:
		mech, mgf := hashNumbers(h)
		n, err = s.d.lib.operate(signing, s.SessionHandle, pkcs11.CKM_RSA_PKCS_PSS, pkcs11.NewPSSParams(mech, mgf, uint(h.Size())), key, digest, out)
	case s.d.native.raw:
		var em []byte
		if em, err = encodePSS(h, digest, k.KeyBits); err != nil {
			return nil, err
		}
		n, err = s.d.lib.operate(signing, s.SessionHandle, pkcs11.CKM_RSA_X_509, nil, key, em, out)
	default:
		return nil, fault.New(fault.Unsupported, "the token does not have RSA-PSS with this hash")
	}
	if err != nil {
		return nil, err
	}
	for _, b := range out[n:] {
		if b != 0 {
			return nil, errLength // more was written than is said: not a number without its leading zeros
		}
	}
	return leftPad(out, n), nil
}

// leftPad moves n bytes to the end of their buffer: some tokens leave the leading zeros of a number away.
func leftPad(out []byte, n int) []byte {
	if n < len(out) {
		copy(out[len(out)-n:], out[:n])
		clear(out[:len(out)-n])
	}
	return out
}

// encodePSS is EMSA-PSS-ENCODE (RFC 8017 section 9.1.1) with a salt as long as the hash, for a modulus of whole bytes.
func encodePSS(h crypto.Hash, digest []byte, bits int) ([]byte, error) {
	emBits := bits - 1
	emLen := (emBits + 7) / 8
	hLen := h.Size()
	if emLen < 2*hLen+2 {
		return nil, fault.New(fault.BadField, "the RSA key is too small for the hash")
	}
	salt := make([]byte, hLen)
	rand.Read(salt) // never fails (crypto/rand)
	f := h.New()
	f.Write(make([]byte, 8))
	f.Write(digest)
	f.Write(salt)
	sum := f.Sum(nil)

	em := make([]byte, emLen)
	db := em[:emLen-hLen-1]
	db[len(db)-hLen-1] = 1
	copy(db[len(db)-hLen:], salt)
	keyenc.MaskMGF1(db, h, sum)
	db[0] &= 0xff >> (8*emLen - emBits)
	copy(em[len(db):], sum)
	em[emLen-1] = 0xbc
	return em, nil
}

func (s *session) rsaDecrypt(k kind, key pkcs11.ObjectHandle, ciphertext []byte, h crypto.Hash, label []byte) ([]byte, error) {
	if !keyenc.OAEPHash(h) {
		return nil, fault.New(fault.BadField, "the hash is not one for RSA-OAEP")
	}
	if len(ciphertext) != k.KeyBits/8 {
		return nil, errDecrypt
	}
	out := make([]byte, k.KeyBits/8)
	if s.d.native.oaep[h] && len(label) == 0 || s.d.native.label[h] && len(label) > 0 {
		mech, mgf := hashNumbers(h)
		n, err := s.d.lib.oaep(decrypting, s.SessionHandle, key, mech, mgf, label, ciphertext, out)
		if err != nil {
			clear(out)
			return nil, err
		}
		return out[:n], nil
	}
	if !s.d.native.raw {
		return nil, fault.New(fault.Unsupported, "the token does not have RSA-OAEP with this hash and label")
	}
	n, err := s.d.lib.operate(decrypting, s.SessionHandle, pkcs11.CKM_RSA_X_509, nil, key, ciphertext, out)
	if err != nil {
		clear(out)
		return nil, err
	}
	em := leftPad(out, n)
	defer clear(em)
	out, err = keyenc.DecodeOAEP(em, h, label)
	if err != nil {
		return nil, errDecrypt
	}
	return out, nil
}
