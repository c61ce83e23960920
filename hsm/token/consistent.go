package token

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/subtle"
	"math/big"

	"github.com/cloudflare/circl/sign/ed448"
	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
)

var errInconsistent = fault.New(fault.BackendUnavailable, "the token's new key does not fit its public key")

// consistent is the pairwise consistency test of FIPS 140-3 (ISO/IEC 19790 section 7.10.3.3): what the private key does, the public
// key undoes, here, outside the token.
func (s *session) consistent(k kind, p backend.Purpose, key pkcs11.ObjectHandle, pub crypto.PublicKey) error {
	message := sha512.Sum512([]byte("keywright pairwise consistency test"))
	switch pk := pub.(type) {
	case *rsa.PublicKey:
		if p == backend.PurposeEncryption {
			return s.rsaOpens(k, key, pk, s.d.oaepHash(), nil)
		}
		return s.rsaSigns(k, key, pk, crypto.SHA512, backend.PaddingPKCS1v15)
	case *ecdsa.PublicKey:
		sig, err := s.ecdsaSign(k, key, message[:])
		if err != nil {
			return err
		}
		if !ecdsa.Verify(pk, message[:], new(big.Int).SetBytes(sig[:k.field]), new(big.Int).SetBytes(sig[k.field:])) {
			return errInconsistent
		}
	case ed25519.PublicKey:
		sig, err := s.signInto(key, ckmEDDSA, message[:], edSize(k))
		if err != nil {
			return err
		}
		if !ed25519.Verify(pk, message[:], sig) {
			return errInconsistent
		}
	case ed448.PublicKey:
		sig, err := s.signInto(key, ckmEDDSA, message[:], edSize(k))
		if err != nil {
			return err
		}
		if !ed448.Verify(pk, message[:], sig, "") {
			return errInconsistent
		}
	case *ecdh.PublicKey:
		peer, err := pk.Curve().GenerateKey(rand.Reader)
		if err != nil {
			return fault.Wrap(fault.Internal, "making a peer", err)
		}
		want, err := peer.ECDH(pk)
		if err != nil {
			return errInconsistent
		}
		return s.agreesOn(k, key, peer.PublicKey(), want)
	case *pqc.PublicKey:
		return s.pqConsistent(k, key, pk)
	case keyenc.X448PublicKey:
		var peer keyenc.X448PrivateKey
		rand.Read(peer[:]) // never fails (crypto/rand)
		want, err := peer.ECDH(pk)
		if err != nil {
			return errInconsistent
		}
		return s.agreesOn(k, key, peer.Public(), want)
	}
	return nil
}

func (s *session) agreesOn(k kind, key pkcs11.ObjectHandle, peer crypto.PublicKey, want []byte) error {
	der, err := spki(peer)
	if err != nil {
		return err
	}
	got, err := s.agree(k, key, der)
	if err != nil {
		return err
	}
	defer clear(got)
	if subtle.ConstantTimeCompare(got, want) != 1 {
		return errInconsistent
	}
	return nil
}

func (s *session) rsaSigns(k kind, key pkcs11.ObjectHandle, pub *rsa.PublicKey, h crypto.Hash, p backend.Padding) error {
	f := h.New()
	f.Write([]byte("keywright pairwise consistency test"))
	digest := f.Sum(nil)
	sig, err := s.rsaSign(k, key, digest, h, p)
	if err != nil {
		return err
	}
	if p == backend.PaddingPSS {
		err = rsa.VerifyPSS(pub, h, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	} else {
		err = rsa.VerifyPKCS1v15(pub, h, digest, sig)
	}
	if err != nil {
		return errInconsistent
	}
	return nil
}

func (s *session) rsaOpens(k kind, key pkcs11.ObjectHandle, pub *rsa.PublicKey, h crypto.Hash, label []byte) error {
	message := []byte("keywright pairwise consistency test")
	ct, err := rsa.EncryptOAEP(h.New(), rand.Reader, pub, message, label)
	if err != nil {
		return errInconsistent
	}
	got, err := s.rsaDecrypt(k, key, ct, h, label)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(got, message) != 1 {
		return errInconsistent
	}
	return nil
}

// oaepHash is one that the token has.
func (d *device) oaepHash() crypto.Hash {
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if d.native.oaep[h] {
			return h
		}
	}
	if d.native.raw {
		return crypto.SHA256
	}
	return crypto.SHA1
}
