package token

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/subtle"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

const (
	nonceSize = 12 // SP 800-38D section 8.2: 96 bits
	tagSize   = 16
	// maxData bounds what one call takes: modules work on it in one piece. 16 MiB.
	maxData = 16 << 20
)

// Use does one operation. The call's slices may be changed when it returns, even if the module still has it then.
func (d *device) Use(ctx context.Context, c Call) ([]byte, error) {
	k, err := d.check(c)
	if err != nil {
		return nil, err
	}
	c.Input, c.AAD, c.Label, c.Wrapped = bytes.Clone(c.Input), bytes.Clone(c.AAD), bytes.Clone(c.Label), bytes.Clone(c.Wrapped)
	c.Context = bytes.Clone(c.Context)
	flags := as(Timed(c.Op))
	if c.Op == Decrypt || c.Op == Unwrap || c.Op == Decapsulate {
		flags |= opens
	}
	// What a call that was given up writes later goes into a variable of its own.
	result := new([]byte)
	err = d.do(ctx, flags, func(s *session) error {
		return s.with(k, c, func(h pkcs11.ObjectHandle) error {
			out, err := s.perform(k, c, h)
			*result = out
			return err
		})
	})
	if (c.Op == Wrap || c.Op == Encrypt) && !fault.Has(err, fault.Timeout) {
		secret.Bytes(c.Input).Wipe() // the copy; a call that was given up may still read it
	}
	if err != nil {
		return nil, err
	}
	return *result, nil
}

// check refuses what the token was not proven to do.
func (d *device) check(c Call) (kind, error) {
	k, ok := kindOf(c.Algorithm)
	if !ok || !d.does(c.Algorithm, c.Op) {
		return kind{}, fault.New(fault.Unsupported, "the token does not have this operation with this algorithm")
	}
	if len(c.Input) > maxData || len(c.AAD) > maxData {
		return kind{}, fault.New(fault.BadSize, "the data is longer than 16 MiB")
	}
	if c.Op == Decrypt && k.Family == backend.FamilyAEAD && len(c.Input) < nonceSize+tagSize {
		return kind{}, errDecrypt
	}
	return k, nil
}

// with gives the handle of the call's key: a token object by its id, or a wrapped key as the session object that it is unwrapped to.
func (s *session) with(k kind, c Call, f func(pkcs11.ObjectHandle) error) error {
	if c.Wrapped != nil {
		return s.withWrapped(k, c.ID, c.Wrapped, f)
	}
	return s.withKey(c.ID, k.class, f)
}

func (s *session) perform(k kind, c Call, key pkcs11.ObjectHandle) ([]byte, error) {
	switch c.Op {
	case Sign:
		switch k.Family {
		case backend.FamilyECDSA:
			return s.ecdsaSign(k, key, c.Input)
		case backend.FamilyRSA:
			return s.rsaSign(k, key, c.Input, c.Hash, c.Padding)
		case backend.FamilyMLDSA, backend.FamilySLHDSA:
			return s.pqSign(k, key, c)
		default:
			return s.signInto(key, ckmEDDSA, c.Input, edSize(k))
		}
	case Encrypt:
		return s.gcmSeal(key, c.Input, c.AAD)
	case Decrypt:
		if k.Family == backend.FamilyRSA {
			return s.rsaDecrypt(k, key, c.Input, c.Hash, c.Label)
		}
		return s.gcmOpen(key, c.Input, c.AAD)
	case MAC:
		return s.signInto(key, hmacMechanism(k), c.Input, k.TagSize)
	case Agree:
		return s.agree(k, key, c.Input)
	case Wrap:
		return s.kwpWrap(key, c.Input)
	case Unwrap:
		return s.kwpUnwrap(key, c.Input)
	case Decapsulate:
		return s.decapsulate(k, key, c.Input)
	}
	return nil, fault.New(fault.Unsupported, "the token does not know the operation")
}

// gcmSeal gives nonce ‖ ciphertext ‖ tag. The nonce is random and ours, always 12 bytes: SoftHSM takes an empty one and repeats it.
// At 2^32 messages under one key the chance of a repetition reaches 2^-32 (SP 800-38D section 8.3). A token that makes nonces of
// its own has written it over ours; one that insists on them gets zeros, and must not have left them.
func (s *session) gcmSeal(key pkcs11.ObjectHandle, plaintext, aad []byte) ([]byte, error) {
	out := make([]byte, nonceSize+len(plaintext)+tagSize, nonceSize+len(plaintext)+2*tagSize)
	nonce := out[:nonceSize:nonceSize]
	if !s.d.zeroNonce {
		rand.Read(nonce) // never fails (crypto/rand)
	}
	n, err := s.d.lib.gcm(encrypting, s.SessionHandle, key, nonce, aad, plaintext, out[nonceSize:cap(out)])
	if err == nil && (n != len(plaintext)+tagSize || s.d.zeroNonce && [nonceSize]byte(nonce) == [nonceSize]byte{}) {
		err = errLength
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *session) gcmOpen(key pkcs11.ObjectHandle, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < nonceSize+tagSize {
		return nil, errDecrypt
	}
	// Some modules write as far as the ciphertext is long before they look at the tag.
	out := make([]byte, len(sealed)-nonceSize)
	nonce := bytes.Clone(sealed[:nonceSize])
	n, err := s.d.lib.gcm(decrypting, s.SessionHandle, key, nonce, aad, sealed[nonceSize:], out)
	if err == nil && n != len(out)-tagSize {
		err = errLength
	}
	if err != nil {
		clear(out)
		return nil, err
	}
	return out[:n], nil
}

// signInto is a signature or tag of exactly size bytes.
func (s *session) signInto(key pkcs11.ObjectHandle, mech uint, in []byte, size int) ([]byte, error) {
	out := make([]byte, size)
	n, err := s.d.lib.operate(signing, s.SessionHandle, mech, nil, key, in, out)
	if err == nil && n != size {
		err = errLength
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ecdsaSign gives r ‖ s. The digest is cut to the size of the curve here (FIPS 186-5 section 6.4.1), since modules disagree about
// who does it.
func (s *session) ecdsaSign(k kind, key pkcs11.ObjectHandle, digest []byte) ([]byte, error) {
	switch len(digest) {
	case crypto.SHA256.Size(), crypto.SHA384.Size(), crypto.SHA512.Size():
	default:
		return nil, fault.New(fault.BadSize, "the digest is not as long as its hash")
	}
	return s.signInto(key, pkcs11.CKM_ECDSA, digest[:min(len(digest), k.field)], 2*k.field)
}

func edSize(k kind) int {
	if k.Name == backend.Ed448 {
		return 114
	}
	return 64
}

func hmacMechanism(k kind) uint {
	switch k.Hash {
	case crypto.SHA256:
		return pkcs11.CKM_SHA256_HMAC
	case crypto.SHA384:
		return pkcs11.CKM_SHA384_HMAC
	}
	return pkcs11.CKM_SHA512_HMAC
}

// peerPoint parses the peer's SPKI and gives its bare point. The standard library refuses points off the curve.
func peerPoint(k kind, der []byte) ([]byte, error) {
	pub, err := keyenc.ParseSPKI(der)
	if err != nil {
		return nil, errPeer
	}
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		if p.Curve != k.curve {
			return nil, errPeer
		}
	case *ecdh.PublicKey:
		if k.Name != backend.X25519 {
			return nil, errPeer
		}
	case keyenc.X448PublicKey:
		if k.Name != backend.X448 {
			return nil, errPeer
		}
	default:
		return nil, errPeer
	}
	raw, err := keyenc.MarshalRaw(pub)
	if err != nil {
		return nil, errPeer
	}
	return raw, nil
}

// agree is ECDH without a key derivation (CKD_NULL): the result becomes a session object, is read and destroyed.
func (s *session) agree(k kind, key pkcs11.ObjectHandle, peer []byte) ([]byte, error) {
	point, err := peerPoint(k, peer)
	if err != nil {
		return nil, err
	}
	if s.d.peerForm != "" {
		if point, err = wrapPoint(s.d.peerForm, point); err != nil {
			return nil, errPeer
		}
	}
	template := []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, uint(pkcs11.CKO_SECRET_KEY)), attr(pkcs11.CKA_KEY_TYPE, uint(pkcs11.CKK_GENERIC_SECRET)),
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_SENSITIVE, false), attr(pkcs11.CKA_EXTRACTABLE, true),
		attr(pkcs11.CKA_VALUE_LEN, k.field),
	}
	mech := pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, point))
	shared, err := s.d.lib.DeriveKey(s.SessionHandle, []*pkcs11.Mechanism{mech}, key, template)
	if err != nil {
		if c, ok := classOf(err); ok && c == classData {
			return nil, errPeer
		}
		return nil, err
	}
	out := make([]byte, k.field)
	value, err := s.d.lib.attribute(s.SessionHandle, shared, pkcs11.CKA_VALUE, k.field)
	if derr := s.d.lib.DestroyObject(s.SessionHandle, shared); err == nil {
		err = derr
	}
	if err != nil {
		return nil, err
	}
	// SP 800-56A section 5.7.1.2 wants the full field; some tokens leave leading zeros away.
	copy(out[k.field-len(value):], value)
	clear(value)
	// RFC 7748 section 6.1: a peer of low order. On a P curve the peer was checked, and x = 0 is one result of many.
	if k.curve == nil && subtle.ConstantTimeCompare(out, make([]byte, k.field)) == 1 {
		return nil, errPeer
	}
	return out, nil
}

// Random gives n bytes, at most 64 KiB.
func (d *device) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 0 || n > 1<<16 {
		return nil, fault.New(fault.BadSize, "between 0 and 65,536 random bytes")
	}
	out := make([]byte, n)
	if n == 0 {
		return out, nil
	}
	err := d.do(ctx, as(TimeRandom), func(s *session) error { return d.lib.random(s.SessionHandle, out) })
	if err != nil {
		return nil, err // out may still be written to: it goes nowhere
	}
	return out, nil
}

// Ping does what the test key is for on a session of the pool.
func (d *device) Ping(ctx context.Context) error {
	return d.do(ctx, 0, func(s *session) error { return d.exercise(s.gen, s.SessionHandle) })
}

// opOf names what Use does in the words of capabilities.
func opOf(op Operation) backend.Operation {
	switch op {
	case Sign:
		return backend.OpSign
	case Encrypt:
		return backend.OpEncrypt
	case Decrypt:
		return backend.OpDecrypt
	case MAC:
		return backend.OpMAC
	case Agree:
		return backend.OpDerive
	case Wrap:
		return backend.OpWrap
	case Unwrap:
		return backend.OpUnwrap
	case Decapsulate:
		return backend.OpDecapsulate
	}
	return ""
}

// does reports whether the operation was proven.
func (d *device) does(a backend.Algorithm, op Operation) bool {
	return d.can[a].has(op)
}
