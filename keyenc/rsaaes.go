package keyenc

import (
	"crypto"
	"crypto/rsa"
	"io"
)

// wrapKeySize is the size in bytes of the temporary AES key of RSA_AES_KEY_WRAP.
const wrapKeySize = 32

// WrapRSAAES wraps material in the form of PKCS#11 2.40 current mechanisms, section 2.1.21, CKM_RSA_AES_KEY_WRAP:
// RSA-OAEP(temporary AES-256 key) ‖ AES-KWP(material). OAEP takes hash, MGF1 with the same hash and no label. The
// temporary key is drawn from rand and wiped.
func WrapRSAAES(rand io.Reader, pub *rsa.PublicKey, hash crypto.Hash, material []byte) ([]byte, error) {
	if pub == nil || !OAEPHash(hash) {
		return nil, ErrUnsupported
	}
	kek := make([]byte, wrapKeySize)
	defer clear(kek)
	if _, err := io.ReadFull(rand, kek); err != nil {
		return nil, err
	}
	wrapped, err := KWPWrap(kek, material)
	if err != nil {
		return nil, err
	}
	head, err := rsa.EncryptOAEP(hash.New(), rand, pub, kek, nil)
	if err != nil {
		return nil, ErrUnsupported // the modulus is too small for the hash
	}
	return append(head, wrapped...), nil
}

// UnwrapRSAAES opens what WrapRSAAES made. modulusSize is the RSA key's size in bytes; oaep opens the first part wherever
// the private key lives and gives the temporary key, which is wiped here. A temporary key of 16 or 24 bytes is taken too,
// as the mechanism allows them.
//
// Everything that is wrong with wrapped is ErrUnwrap. When fatal reports that an error of oaep is not about the data, that
// error is returned as it is; all others are carried on with a random key, so that neither answer nor time tells which of
// the two parts was wrong.
func UnwrapRSAAES(rand io.Reader, modulusSize int, wrapped []byte, oaep func([]byte) ([]byte, error), fatal func(error) bool) ([]byte, error) {
	if modulusSize < 1 || len(wrapped) < modulusSize+16 {
		return nil, ErrUnwrap
	}
	spare := make([]byte, wrapKeySize)
	defer clear(spare)
	if _, err := io.ReadFull(rand, spare); err != nil {
		return nil, err
	}
	kek, err := oaep(wrapped[:modulusSize])
	defer clear(kek)
	if err != nil && fatal != nil && fatal(err) {
		return nil, err
	}
	opened := err == nil
	if !opened || (len(kek) != 16 && len(kek) != 24 && len(kek) != 32) {
		opened, kek = false, spare
	}
	material, err := KWPUnwrap(kek, wrapped[modulusSize:])
	if err != nil || !opened {
		clear(material)
		return nil, ErrUnwrap
	}
	return material, nil
}
