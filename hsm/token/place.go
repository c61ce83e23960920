package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/subtle"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

// Placer is a Token that can keep a copy of a wrapped key. The tokens of this package and of package remote are.
type Placer interface {
	// Place makes a key that Generate or Import has wrapped, here or on another token with the same wrapping key, an object of the token with
	// CKA_ID id: non-extractable and sensitive like those that Generate makes, but not CKA_LOCAL. public is its SPKI DER, nil for secret keys.
	// An id that exists is fault.Conflict; what does not open, or is another key, is fault.KeyMaterial.
	Place(ctx context.Context, id ID, a backend.Algorithm, p backend.Purpose, wrapped, public []byte) (Object, error)
}

var _ Placer = (*device)(nil)

// errUnsized: SoftHSM does not say how long a secret key is that it has unwrapped, and will not be told. Such a key is listed without an
// algorithm, and not found: who uses it knows what it is from elsewhere.
var errUnsized = fault.New(fault.KeyMaterial, "the token does not say how long its key is")

// Place is never repeated once the module was asked to make the object, as Generate is not.
func (d *device) Place(ctx context.Context, id ID, a backend.Algorithm, p backend.Purpose, wrapped, public []byte) (Object, error) {
	k, err := d.creatable(a, p, true)
	if err != nil {
		return Object{}, err
	}
	if k.Symmetric() != (len(public) == 0) {
		return Object{}, errSpoiled
	}
	var pub crypto.PublicKey
	if len(public) > 0 {
		if pub, err = keyenc.ParseSPKI(public); err != nil {
			return Object{}, errSpoiled
		}
		if e, ok := pub.(*ecdsa.PublicKey); ok && k.Family == backend.FamilyECDH {
			if pub, err = e.ECDH(); err != nil {
				return Object{}, errSpoiled
			}
		}
	}
	release, err := d.claim(id)
	if err != nil {
		return Object{}, err
	}
	blob := append([]byte(nil), wrapped...) // a call that was given up may still read it
	result := new(Object)
	err = d.do(ctx, once|making(k), func(s *session) error {
		defer release()
		if err := s.enter(); err != nil {
			return err
		}
		defer s.leave()
		out, err := s.place(k, p, id, blob, pub)
		*result = out
		return err
	})
	if err != nil {
		return Object{}, err
	}
	return *result, nil
}

func (s *session) place(k kind, p backend.Purpose, id ID, blob []byte, public crypto.PublicKey) (Object, error) {
	if err := s.free(id); err != nil {
		return Object{}, err
	}
	w, ks, way, err := s.genuine(k, id, blob)
	if err != nil {
		return Object{}, err
	}
	if w.purpose != p {
		return Object{}, errSpoiled
	}
	t := s.d.unwrapTemplate(way, k, p, id[:], true, false)
	if s.d.profile.nssDB && public != nil {
		index, err := keyenc.MarshalRaw(public)
		if key, ok := public.(*rsa.PublicKey); ok {
			index, err = key.N.Bytes(), nil
		}
		if err != nil {
			return Object{}, errSpoiled
		}
		t[len(t)-1] = attr(ckaNSSDB, index)
	}
	s.begin()
	var pub pkcs11.ObjectHandle
	key, err := s.d.lib.unwrap(s.SessionHandle, way.mech, w.iv, ks.wrap, w.material, t)
	if err == nil {
		err = s.settle(way, key, false)
	}
	if err == nil && public != nil {
		pub, err = s.publish(k, p, id[:], public)
	}
	var out Object
	if err == nil {
		out, err = s.finish(k, p, id, key, 0, false)
	}
	if err == nil && public != nil {
		if out.Public, err = spki(public); err == nil {
			err = s.consistent(k, p, key, public)
		}
	}
	if err == nil {
		return out, nil
	}
	s.kekFailed(err)
	if derr := s.destroyObjects(key, pub); derr != nil {
		s.d.log.Warn("destroying a copy that is not as it should be", "error", derr)
	}
	if c, ok := classOf(err); ok && c == classData {
		err = errSpoiled
	}
	return Object{}, err
}

// genuine takes a wrapped key apart once its tag is right.
func (s *session) genuine(k kind, id ID, blob []byte) (wrappedKey, keks, wrapWay, error) {
	fail := func(err error) (wrappedKey, keks, wrapWay, error) { return wrappedKey{}, keks{}, wrapWay{}, err }
	if err := matches(blob, k, id); err != nil {
		return fail(err)
	}
	w, err := parseWrapped(blob)
	if err != nil {
		return fail(err)
	}
	way, ok := s.wayBack(k, w.form)
	if !ok {
		return fail(fault.New(fault.Unsupported, "the token does not have the wrapping mechanism of this key"))
	}
	ks, err := s.keks(false)
	if err != nil {
		return fail(err)
	}
	if ks.id != w.kek {
		return fail(fault.New(fault.KeyMaterial, "the key is wrapped under another wrapping key than the token's"))
	}
	tag, err := s.tag(ks, w.signed)
	if err != nil {
		s.kekFailed(err)
		return fail(err)
	}
	if subtle.ConstantTimeCompare(tag, w.tag) != 1 {
		return fail(errSpoiled)
	}
	return w, ks, way, nil
}
