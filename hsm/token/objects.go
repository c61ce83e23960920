package token

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// maxList bounds what a search for all our objects gives.
const maxList = 1 << 17

// claim keeps an id to one Generate or Import at a time in this process.
func (d *device) claim(id ID) (release func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busyIDs[id] {
		return nil, errTaken
	}
	d.busyIDs[id] = true
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.busyIDs, id)
	}, nil
}

// creating runs what makes objects with an id, which is claimed until it is over. begun is false when it never ran, nor will.
func (d *device) creating(ctx context.Context, id ID, flags jobFlags, run func(s *session) error) (begun bool, err error) {
	release, err := d.claim(id)
	if err != nil {
		return false, err
	}
	var ran atomic.Bool
	err = d.do(ctx, once|flags, func(s *session) error {
		ran.Store(true)
		defer release()
		return run(s)
	})
	if !ran.Load() {
		release() // no session in time, or no room in the queue
	}
	return ran.Load(), err
}

// Generate is never repeated once the module was asked to make the key. When the caller's context ends after that, or the module
// fails in between, an object with the id may be there: Find tells.
func (d *device) Generate(ctx context.Context, id ID, a backend.Algorithm, p backend.Purpose, wrapped bool) (Object, error) {
	k, err := d.creatable(a, p, wrapped)
	if err != nil {
		return Object{}, err
	}
	result := new(Object)
	_, err = d.creating(ctx, id, making(k), func(s *session) error {
		if err := s.enter(); err != nil {
			return err
		}
		defer s.leave()
		out, err := s.generate(k, p, id, wrapped)
		*result = out
		return err
	})
	if err != nil {
		return Object{}, err
	}
	return *result, nil
}

func (d *device) creatable(a backend.Algorithm, p backend.Purpose, wrapped bool) (kind, error) {
	k, ok := kindOf(a)
	if !ok || d.can[a].ops == 0 {
		return kind{}, fault.New(fault.Unsupported, "the token does not have this algorithm")
	}
	if !slices.ContainsFunc(backend.OperationsOf(k.AlgorithmInfo, p), d.can[a].lists) {
		return kind{}, fault.New(fault.Unsupported, "the token does not have this algorithm for this purpose")
	}
	if wrapped && d.can[a].wrap.form == 0 {
		return kind{}, errNoWrapping
	}
	return k, nil
}

// free checks that nothing has the id yet.
func (s *session) free(id ID) error {
	for _, class := range ourClasses {
		found, err := s.search(id, class)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return errTaken
		}
	}
	return nil
}

func (s *session) generate(k kind, p backend.Purpose, id ID, wrapped bool) (Object, error) {
	if wrapped {
		if _, err := s.keks(true); err != nil {
			return Object{}, err
		}
	} else if err := s.free(id); err != nil {
		return Object{}, err
	}
	own, public := s.d.usagesOf(k, p)
	o := object{class: k.class, keyType: k.keyType, label: k.label(), id: id[:], onToken: !wrapped, extractable: wrapped, usages: own}
	s.begin()
	key, pub, err := s.make(k, o, public)
	if err != nil {
		return Object{}, err
	}
	out, err := s.finish(k, p, id, key, pub, wrapped)
	if err != nil || wrapped {
		// A session object has done its service; what is not as it should be must not stay either.
		derr := s.destroyObjects(key, pub)
		if err == nil {
			err = derr
		}
	}
	if err != nil {
		return Object{}, err
	}
	return out, nil
}

// make asks the module for a key or a pair. pub is 0 for secret keys.
func (s *session) make(k kind, o object, public []uint) (key, pub pkcs11.ObjectHandle, err error) {
	st := s.d.style
	mech := []*pkcs11.Mechanism{flat(k.generate, nil)}
	if k.class == pkcs11.CKO_SECRET_KEY {
		template := append(st.template(o), attr(pkcs11.CKA_VALUE_LEN, k.KeySize))
		key, err = s.d.lib.GenerateKey(s.SessionHandle, mech, template)
		return key, 0, err
	}
	template := st.publicTemplate(o, public...)
	switch {
	case k.set != 0:
		template = k.kemUsage(pkcs11.CKO_PUBLIC_KEY, append(template, attr(ckaParameterSet, k.set)))
	case k.Family == backend.FamilyRSA:
		template = append(template, attr(pkcs11.CKA_MODULUS_BITS, k.KeyBits), attr(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}))
	default:
		template = append(template, attr(pkcs11.CKA_EC_PARAMS, s.d.paramsOf(k)))
	}
	pub, key, err = s.d.lib.GenerateKeyPair(s.SessionHandle, mech, template, k.kemUsage(k.class, st.template(o)))
	return key, pub, err
}

// finish reads the new key back, checks it and wraps it if it is not to stay.
func (s *session) finish(k kind, p backend.Purpose, id ID, key, pub pkcs11.ObjectHandle, wrapped bool) (Object, error) {
	out, err := s.flags(key)
	if err != nil {
		return Object{}, err
	}
	out.ID, out.Algorithm = id, k.Name
	if !out.Sensitive || out.Extractable && !wrapped {
		return Object{}, fault.New(fault.Unsupported, "the token made a key that is not sensitive or can be extracted")
	}
	if pub != 0 {
		parsed, err := s.public(k, pub)
		if err != nil {
			return Object{}, err
		}
		if out.Public, err = spki(parsed); err != nil {
			return Object{}, err
		}
		if err := s.consistent(k, p, key, parsed); err != nil {
			return Object{}, err
		}
	}
	if wrapped {
		if out.Wrapped, err = s.wrapOut(k, p, id, key); err != nil {
			return Object{}, err
		}
		// What the module says of a length is all that there is of the material: it is a key once it has come in again.
		back, _, err := s.load(s.job.ctx, k, id, out.Wrapped)
		if err == nil {
			err = s.d.lib.DestroyObject(s.SessionHandle, back)
		}
		if fault.Has(err, fault.KeyMaterial) {
			err = fault.Wrap(fault.BackendUnavailable, "the token gave a wrapped key that does not open again", err).RetryAfter(time.Second)
		}
		if err != nil {
			return Object{}, err
		}
		// As it will be when it is used.
		out.Extractable = false
	}
	return out, nil
}

func (s *session) destroyObjects(handles ...pkcs11.ObjectHandle) error {
	var first error
	for _, h := range handles {
		if h == 0 {
			continue
		}
		if err := s.d.lib.DestroyObject(s.SessionHandle, h); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// flags reads where a key came from and what holds it.
func (s *session) flags(h pkcs11.ObjectHandle) (Object, error) {
	var out Object
	for _, f := range []struct {
		attribute uint
		to        *bool
	}{
		{pkcs11.CKA_LOCAL, &out.Local}, {pkcs11.CKA_SENSITIVE, &out.Sensitive}, {pkcs11.CKA_ALWAYS_SENSITIVE, &out.AlwaysSensitive},
		{pkcs11.CKA_EXTRACTABLE, &out.Extractable}, {pkcs11.CKA_NEVER_EXTRACTABLE, &out.NeverExtractable},
	} {
		var err error
		if *f.to, err = s.yes(h, f.attribute); err != nil {
			return Object{}, err
		}
	}
	var err error
	out.KeyGenMechanism, err = s.madeBy(h)
	return out, err
}

// yes reads a CK_BBOOL. An attribute that the token does not have is no.
func (s *session) yes(h pkcs11.ObjectHandle, attribute uint) (bool, error) {
	v, err := s.d.lib.attribute(s.SessionHandle, h, attribute, 8)
	if is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return len(v) == 1 && v[0] != 0, nil
}

// number reads a CK_ULONG.
func (s *session) number(h pkcs11.ObjectHandle, attribute uint) (uint, error) {
	v, err := s.d.lib.attribute(s.SessionHandle, h, attribute, 8)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, errLength
	}
	return uint(binary.NativeEndian.Uint64(v)), nil
}

// Find reads the key's attributes each time.
func (d *device) Find(ctx context.Context, id ID) (Object, error) {
	result := new(Object)
	err := d.do(ctx, 0, func(s *session) error {
		found, class, err := s.keysWith(id)
		for try := 0; err == nil && len(found) != 1 && try < searches; try++ {
			time.Sleep(unseen << (2 * try))
			found, class, err = s.keysWith(id)
		}
		if err != nil {
			return err
		}
		switch len(found) {
		case 0:
			return s.missing()
		case 1:
		default:
			return errAmbiguous
		}
		out, err := s.inspect(found[0], class)
		if err == nil && out.ID != id {
			err = fault.New(fault.KeyMaterial, "the token gave another key than the one asked for")
		}
		*result = out
		return err
	})
	if err != nil {
		return Object{}, err
	}
	return *result, nil
}

// keysWith searches for private and secret keys with an id. class is that of the last.
func (s *session) keysWith(id ID) (found []pkcs11.ObjectHandle, class uint, err error) {
	if err := s.enter(); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	for _, c := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY} {
		hs, err := s.search(id, c)
		if err != nil {
			return nil, 0, err
		}
		if len(hs) > 0 {
			class = c
		}
		found = append(found, hs...)
	}
	return found, class, nil
}

// inspect makes an Object of a token object.
func (s *session) inspect(h pkcs11.ObjectHandle, class uint) (Object, error) {
	out, err := s.flags(h)
	if err != nil {
		return Object{}, err
	}
	id, err := s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_ID, 256)
	if err != nil {
		return Object{}, err
	}
	if len(id) != IDSize {
		return Object{}, fault.New(fault.KeyMaterial, "the token's key has an identity that is not ours")
	}
	out.ID = ID(id)
	if out.Algorithm, err = s.algorithm(h, class); err == errUnsized { //nolint:errorlint // our own value, never wrapped
		return out, err
	}
	if err != nil {
		return Object{}, err
	}
	if class != pkcs11.CKO_PRIVATE_KEY {
		return out, nil
	}
	pub, err := s.lookup(out.ID, pkcs11.CKO_PUBLIC_KEY)
	if err != nil {
		return Object{}, err
	}
	k, _ := kindOf(out.Algorithm)
	parsed, err := s.public(k, pub)
	if err != nil {
		return Object{}, err
	}
	out.Public, err = spki(parsed)
	return out, err
}

// algorithm tells which of ours a key object is, from its type, size and label.
func (s *session) algorithm(h pkcs11.ObjectHandle, class uint) (backend.Algorithm, error) {
	typ, err := s.number(h, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return "", err
	}
	label, err := s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_LABEL, 256)
	if err != nil {
		return "", err
	}
	var size uint
	var params []byte
	switch {
	case class == pkcs11.CKO_SECRET_KEY:
		size, err = s.number(h, pkcs11.CKA_VALUE_LEN)
	case typ == pkcs11.CKK_RSA:
		var n []byte
		n, err = s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_MODULUS, maxAttribute)
		size = uint(len(bytes.TrimLeft(n, "\x00")) * 8)
	case typ == ckkMLKEM || typ == ckkMLDSA || typ == ckkSLHDSA:
		size, err = s.number(h, ckaParameterSet)
	default:
		params, err = s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_EC_PARAMS, 256)
	}
	if err != nil {
		return "", err
	}
	for _, info := range backend.Algorithms() {
		k, ok := kindOf(info.Name)
		if !ok || k.class != class || k.keyType != typ || k.label() != string(label) {
			continue
		}
		switch {
		case class == pkcs11.CKO_SECRET_KEY:
			ok = uint(k.KeySize) == size
		case typ == pkcs11.CKK_RSA:
			ok = uint(k.KeyBits) == size
		case k.set != 0:
			ok = k.set == size
		default:
			ok = slices.ContainsFunc(k.params, func(p []byte) bool { return bytes.Equal(p, params) })
		}
		if ok {
			return k.Name, nil
		}
	}
	if class == pkcs11.CKO_SECRET_KEY && size == 0 {
		return "", errUnsized
	}
	return "", fault.New(fault.KeyMaterial, "the token's key is of no algorithm that we know")
}

// List leaves out objects that cannot be read or are of no algorithm of ours.
func (d *device) List(ctx context.Context) ([]Object, error) {
	result := new([]Object)
	err := d.do(ctx, whole, func(s *session) error {
		var out []Object
		if err := s.knowPublic(ctx); err != nil {
			return err
		}
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY} {
			for _, label := range labels {
				handles, err := d.lib.find(s.SessionHandle, class, onToken, nil, label, maxList)
				if err != nil {
					return err
				}
				for _, h := range handles {
					if ctx.Err() != nil {
						return timeout(ctx)
					}
					o, err := s.inspect(h, class)
					s.came()
					if err == errUnsized { //nolint:errorlint // as above
						err = nil
					}
					if fault.Has(err, fault.KeyMaterial) {
						continue
					}
					if c, ok := classOf(err); ok && c == classHandle {
						continue // destroyed since the search
					}
					if err != nil {
						return err
					}
					out = append(out, o)
				}
			}
		}
		if len(out) == 0 {
			if err := s.missing(); !fault.Has(err, fault.KeyMaterial) {
				return err // not logged in: private objects are not shown
			}
		}
		*result = out
		return nil
	})
	if err != nil {
		return nil, err
	}
	return *result, nil
}

// knowPublic finds the public keys of our labels all at once: looked up one by one each of them would take a search through the whole token.
func (s *session) knowPublic(ctx context.Context) error {
	found := map[ID][]pkcs11.ObjectHandle{}
	for _, label := range labels {
		handles, err := s.d.lib.find(s.SessionHandle, pkcs11.CKO_PUBLIC_KEY, onToken, nil, label, maxList)
		if err != nil {
			return err
		}
		for _, h := range handles {
			if ctx.Err() != nil {
				return timeout(ctx)
			}
			id, err := s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_ID, 256)
			s.came()
			if c, ok := classOf(err); ok && (c == classHandle || c == classAbsent) {
				continue // destroyed since the search, or without an identity
			}
			if err != nil {
				return err
			}
			if len(id) == IDSize {
				found[ID(id)] = append(found[ID(id)], h)
			}
		}
	}
	for id, handles := range found {
		if len(handles) == 1 {
			s.gen.handles.put(handleKey{id, pkcs11.CKO_PUBLIC_KEY}, handles[0])
		}
	}
	return nil
}

// Destroy is done when no object with the id is found any more.
func (d *device) Destroy(ctx context.Context, id ID) error {
	return d.do(ctx, as(TimeDestroy), func(s *session) error {
		if err := s.enter(); err != nil {
			return err
		}
		defer s.leave()
		s.gen.handles.forget(id)
		defer s.gen.handles.forget(id) // what was looked up meanwhile
		gone := true
		for _, class := range ourClasses {
			handles, err := s.search(id, class)
			if err != nil {
				return err
			}
			for _, h := range handles {
				gone = false
				if err := d.lib.DestroyObject(s.SessionHandle, h); err != nil && !is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
					return err
				}
			}
		}
		if gone {
			if err := s.missing(); !fault.Has(err, fault.KeyMaterial) {
				return err // not logged in: private objects are not shown
			}
		}
		return nil
	})
}
