package token

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// Attributes reads the key's attributes each time.
func (d *device) Attributes(ctx context.Context, id ID, a backend.Algorithm, wrapped []byte) (Object, error) {
	if len(wrapped) == 0 {
		o, err := d.Find(ctx, id)
		if err == nil && o.Algorithm != a {
			return Object{}, fault.New(fault.KeyMaterial, "the token's key is of another algorithm than its record")
		}
		return o, err
	}
	k, ok := kindOf(a)
	if !ok || d.can[a].wrap.form == 0 {
		return Object{}, errNoWrapping
	}
	blob := bytes.Clone(wrapped)
	result := new(Object)
	err := d.do(ctx, 0, func(s *session) error {
		return s.withWrapped(k, id, blob, func(h pkcs11.ObjectHandle) error {
			o, err := s.flags(h)
			o.ID, o.Algorithm = id, a
			*result = o
			return err
		})
	})
	if err != nil {
		return Object{}, err
	}
	return *result, nil
}

// madeBy reads CKA_KEY_GEN_MECHANISM. Tokens that do not have it, or have it in another size, say nothing about it.
func (s *session) madeBy(h pkcs11.ObjectHandle) (uint, error) {
	v, err := s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_KEY_GEN_MECHANISM, 8)
	if is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) || is(err, pkcs11.CKR_ATTRIBUTE_SENSITIVE) || is(err, pkcs11.CKR_BUFFER_TOO_SMALL) || err == nil && len(v) != 8 {
		return NoMechanism, nil
	}
	if err != nil {
		return NoMechanism, err
	}
	return uint(binary.NativeEndian.Uint64(v)), nil
}
