package token

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
)

// A wrapped key is kept outside the token as
//
//	version 1 ‖ form ‖ algorithm (2) ‖ purpose ‖ CKA_ID (20) ‖ CKA_ID of the KEK (20) ‖ [IV (16)] ‖ wrapped key ‖ HMAC-SHA-256 (32)
//
// The tag is over everything before it, by a second key of the token: it binds the material to its identity, which no wrapping
// mechanism does, and gives AES-CBC the integrity that it lacks (encrypt-then-MAC, SP 800-38F section 3.1 asks for either).
const (
	wrappedVersion = 1
	wrappedHeader  = 1 + 1 + 2 + 1 + IDSize + IDSize
	wrappedTag     = 32
	// maxWrapped bounds a wrapped key: PKCS#8 of RSA-4096 has about 2,400 bytes.
	maxWrapped = 4096
	ivSize     = 16
)

// wrapForm is how the material is wrapped; on the wire, never reused. 0: not at all.
type wrapForm uint8

const (
	formKWP    wrapForm = 1 // AES-KWP, RFC 5649
	formKW     wrapForm = 2 // AES-KW, RFC 3394; PKCS#8 is padded with zeros to eight bytes
	formCBCPad wrapForm = 3 // AES-CBC with PKCS#7 padding
)

type wrapWay struct {
	form   wrapForm
	mech   uint
	style  style // of the template when unwrapping
	length bool  // which must say CKA_VALUE_LEN for secret keys
	harden bool  // the attributes that hold the key are set afterwards
}

// settle makes a key that came in what it has to be.
func (s *session) settle(w wrapWay, key pkcs11.ObjectHandle, extractable bool) error {
	if !w.harden {
		return nil
	}
	holds := []*pkcs11.Attribute{attr(pkcs11.CKA_SENSITIVE, true)}
	if !extractable {
		holds = append(holds, attr(pkcs11.CKA_EXTRACTABLE, false))
	}
	return s.d.lib.SetAttributeValue(s.SessionHandle, key, holds)
}

// held reports whether a key is sensitive and not extractable.
func (s *session) held(key pkcs11.ObjectHandle) error {
	for attribute, want := range map[uint]bool{pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false} {
		is, err := s.yes(key, attribute)
		if err != nil {
			return err
		}
		if is != want {
			return errWrong
		}
	}
	return nil
}

var purposeNumbers = [...]backend.Purpose{1: backend.PurposeEncryption, backend.PurposeWrapping, backend.PurposeSigning, backend.PurposeMAC, backend.PurposeAgreement,
	backend.PurposeEncapsulation}

// wrappedKey is a parsed blob. Its parts belong to the blob.
type wrappedKey struct {
	form      wrapForm
	algorithm uint16
	purpose   backend.Purpose
	id, kek   ID
	iv        []byte
	material  []byte
	signed    []byte // everything before the tag
	tag       []byte
}

// parseWrapped takes a blob apart. Nothing in it is to be believed before the tag is checked.
func parseWrapped(b []byte) (wrappedKey, error) {
	if len(b) < wrappedHeader+16+wrappedTag || len(b) > wrappedHeader+ivSize+maxWrapped+wrappedTag || b[0] != wrappedVersion {
		return wrappedKey{}, errSpoiled
	}
	p := int(b[4])
	if p == 0 || p >= len(purposeNumbers) {
		return wrappedKey{}, errSpoiled
	}
	end := len(b) - wrappedTag
	w := wrappedKey{
		form: wrapForm(b[1]), algorithm: binary.BigEndian.Uint16(b[2:]), purpose: purposeNumbers[p],
		id: ID(b[5 : 5+IDSize]), kek: ID(b[5+IDSize : wrappedHeader]), material: b[wrappedHeader:end], signed: b[:end], tag: b[end:],
	}
	switch w.form {
	case formKWP, formKW:
		if len(w.material)%8 != 0 {
			return wrappedKey{}, errSpoiled
		}
	case formCBCPad:
		if len(w.material) < 2*ivSize || len(w.material)%ivSize != 0 {
			return wrappedKey{}, errSpoiled
		}
		w.iv, w.material = w.material[:ivSize], w.material[ivSize:]
	default:
		return wrappedKey{}, errSpoiled
	}
	return w, nil
}

func (s *session) tag(k keks, signed []byte) ([]byte, error) {
	return s.signInto(k.mac, pkcs11.CKM_SHA256_HMAC, signed, wrappedTag)
}

// wrapOut gives the blob of an extractable session object.
func (s *session) wrapOut(k kind, p backend.Purpose, id ID, key pkcs11.ObjectHandle) ([]byte, error) {
	ks, err := s.keks(false)
	if err != nil {
		return nil, err
	}
	way := s.d.can[k.Name].wrap
	out := make([]byte, 0, wrappedHeader+ivSize+maxWrapped+wrappedTag)
	out = append(out, wrappedVersion, byte(way.form))
	out = binary.BigEndian.AppendUint16(out, k.ID)
	number := byte(0)
	for i, q := range purposeNumbers {
		if q == p {
			number = byte(i)
		}
	}
	out = append(out, number)
	out = append(append(out, id[:]...), ks.id[:]...)
	material, err := s.wrapBy(way, ks.wrap, key)
	if err != nil {
		return nil, err
	}
	out = append(out, material...)
	tag, err := s.tag(ks, out)
	if err != nil {
		return nil, err
	}
	return append(out, tag...), nil
}

// wrapBy is C_WrapKey; AES-CBC gets a random IV, which stands before the result.
func (s *session) wrapBy(way wrapWay, kek, key pkcs11.ObjectHandle) ([]byte, error) {
	var iv []byte
	if way.form == formCBCPad {
		iv = make([]byte, ivSize)
		rand.Read(iv) // never fails (crypto/rand)
	}
	out, err := s.d.lib.wrap(s.SessionHandle, way.mech, iv, kek, key, maxWrapped)
	if err != nil {
		return nil, err
	}
	return slices.Concat(iv, out), nil
}

// unwrapTemplate is for a key that comes in under another, or as bytes.
func (d *device) unwrapTemplate(w wrapWay, k kind, p backend.Purpose, id []byte, onToken, extractable bool) []*pkcs11.Attribute {
	own, _ := d.usagesOf(k, p)
	t := w.style.template(object{class: k.class, keyType: k.keyType, label: k.label(), id: id, onToken: onToken, extractable: extractable, usages: own})
	if k.class == pkcs11.CKO_SECRET_KEY && w.length {
		t = append(t, attr(pkcs11.CKA_VALUE_LEN, k.KeySize))
	}
	if k.class == pkcs11.CKO_PRIVATE_KEY && d.profile.nssDB {
		// The last one: an index of NSS's database, the public key by custom; for session objects anything does.
		t = append(t, attr(ckaNSSDB, append([]byte{0}, id...)))
	}
	return k.kemUsage(k.class, t)
}

// withWrapped runs f with the session object of a wrapped key.
func (s *session) withWrapped(k kind, id ID, blob []byte, f func(pkcs11.ObjectHandle) error) error {
	ctx := s.job.ctx
	c := &s.d.wrapped
	e, load, evicted := c.acquire(blob, s.gen)
	for _, old := range evicted {
		s.discard(old)
	}
	defer func() {
		if c.release(e) {
			s.discard(e)
		}
	}()
	if load {
		h, epoch, err := s.load(ctx, k, id, blob)
		c.loaded(e, h, epoch, err)
		if err != nil {
			c.forget(e)
		}
	} else {
		select {
		case <-e.ready:
		case <-ctx.Done():
			return timeout(ctx)
		}
	}
	if e.err != nil {
		return e.err
	}
	// A hit must not be answered for another identity than the blob's: the header is part of the cache's key and was authenticated.
	if err := matches(blob, k, id); err != nil {
		return err
	}
	err := f(e.handle)
	if cl, ok := classOf(err); ok && (cl == classHandle || cl == classKey) {
		c.forget(e)
	}
	return err
}

// discard destroys the object of an entry that nobody uses any more.
func (s *session) discard(e *wrappedEntry) {
	if e.handle == 0 || e.gen != s.gen || e.epoch != s.gen.holder.epoch.Load() {
		return // gone with its session
	}
	if err := s.d.lib.DestroyObject(s.SessionHandle, e.handle); err != nil {
		s.d.log.Warn("destroying an unwrapped key", "error", err)
	}
}

// matches compares a blob's header with what it is used as.
func matches(blob []byte, k kind, id ID) error {
	w, err := parseWrapped(blob)
	if err != nil || w.id != id || w.algorithm != k.ID {
		return errSpoiled
	}
	return nil
}

// load checks the tag and unwraps the key into the holder's session.
func (s *session) load(ctx context.Context, k kind, id ID, blob []byte) (pkcs11.ObjectHandle, uint64, error) {
	w, ks, way, err := s.genuine(k, id, blob)
	if err != nil {
		return 0, 0, err
	}
	var h pkcs11.ObjectHandle
	var epoch uint64
	err = s.gen.holder.with(ctx, s, func(hs *session, now uint64) error {
		epoch = now
		var err error
		h, err = s.d.lib.unwrap(hs.SessionHandle, way.mech, w.iv, ks.wrap, w.material, s.d.unwrapTemplate(way, k, w.purpose, id[:], false, false))
		if err == nil {
			err = hs.settle(way, h, false)
		}
		if err == nil && way != s.d.can[k.Name].wrap {
			if err = hs.held(h); err != nil { // nobody has proven it of this way
				_ = hs.d.lib.DestroyObject(hs.SessionHandle, h) // it goes with its session otherwise
			}
		}
		return err
	})
	if err != nil {
		s.kekFailed(err)
		if c, ok := classOf(err); ok && c == classData {
			err = errSpoiled
		}
		return 0, 0, err
	}
	return h, epoch, nil
}

// padded rounds PKCS#8 up to what AES-KW takes.
func padded(b []byte) []byte {
	out := make([]byte, (len(b)+7)/8*8)
	copy(out, b)
	return out
}
