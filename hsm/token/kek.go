package token

import (
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/fault"
)

// kekCache holds the handles of the two wrapping keys of a generation.
type kekCache struct {
	mu   sync.Mutex // guards the rest; held while they are searched and made
	keks keks
	ok   bool
}

type keks struct {
	id        ID
	wrap, mac pkcs11.ObjectHandle
}

// keks gives the token's wrapping key and its companion for tags: one pair with the configured label, made when make is set and
// there is none.
func (s *session) keks(make bool) (keks, error) {
	c := &s.gen.kek
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ok {
		return c.keks, nil
	}
	for try := 0; ; try++ {
		found, err := s.findKEKs()
		if cl, ok := classOf(err); ok && (cl == classHandle || cl == classDoubt) && try < 8 {
			pause() // another process takes back what it made while we look at it
			continue
		}
		switch {
		case err != nil:
			return keks{}, err
		case len(found) == 1:
			// SoftHSM shows a key before it has its value: CKR_KEY_SIZE_RANGE.
			if _, err := s.tag(found[0], nil); err != nil {
				if try < 8 {
					pause()
					continue
				}
				return keks{}, err
			}
			c.keks, c.ok = found[0], true
			return found[0], nil
		case len(found) > 1:
			return keks{}, fault.New(fault.KeyMaterial, "the token has several wrapping keys with the configured label")
		case !make || try >= 16:
			return keks{}, fault.New(fault.KeyMaterial, "the token does not have the wrapping key, or only half of it")
		}
		if err := s.missing(); !fault.Has(err, fault.KeyMaterial) {
			return keks{}, err // not logged in: it is not shown
		}
		err = s.makeKEKs()
		if cl, ok := classOf(err); ok && (cl == classDoubt || cl == classAbsent) && try < 8 {
			pause() // SoftHSM says CKR_GENERAL_ERROR and CKR_TEMPLATE_INCONSISTENT when objects come and go at the same time
			continue
		}
		if err != nil {
			return keks{}, err
		}
	}
}

// findKEKs lists the complete pairs.
func (s *session) findKEKs() ([]keks, error) {
	label := s.d.cfg.KEKLabel
	wraps, err := s.d.lib.find(s.SessionHandle, pkcs11.CKO_SECRET_KEY, onToken, nil, label, 8)
	if err != nil {
		return nil, err
	}
	var out []keks
	for _, h := range wraps {
		id, err := s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_ID, 256)
		if err != nil {
			return nil, err
		}
		if len(id) != IDSize {
			continue
		}
		other := companion(ID(id))
		macs, err := s.d.lib.find(s.SessionHandle, pkcs11.CKO_SECRET_KEY, onToken, other[:], label+"-mac", 2)
		if err != nil {
			return nil, err
		}
		if len(macs) == 1 {
			out = append(out, keks{ID(id), h, macs[0]})
		}
	}
	return out, nil
}

// companion gives the CKA_ID of the key for tags that belongs to a wrapping key. It cannot be the same: NSS replaces a secret key by
// another one with its CKA_ID.
func companion(id ID) ID {
	id[IDSize-1] ^= 1
	return id
}

// makeKEKs makes a pair. Several processes may do so at once, and a pair that anybody has found must never go again: so the wrapping
// key comes first, then its maker looks whether it is the only one, and only then makes the key for tags, without which nobody
// uses it. Of two makers the one who came later sees the other and takes its own back; if both see each other, both do.
func (s *session) makeKEKs() error {
	s.begin()
	var id ID
	rand.Read(id[:]) // never fails (crypto/rand)
	label, other := s.d.cfg.KEKLabel, companion(id)
	wrap, err := s.secret(object{keyType: pkcs11.CKK_AES, label: label, id: id[:], onToken: true, usages: []uint{pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP}}, pkcs11.CKM_AES_KEY_GEN)
	if err != nil {
		return err
	}
	all, err := s.d.lib.find(s.SessionHandle, pkcs11.CKO_SECRET_KEY, onToken, nil, label, 8)
	if err != nil || len(all) != 1 || all[0] != wrap {
		return s.takeBack(wrap)
	}
	_, err = s.secret(object{keyType: pkcs11.CKK_GENERIC_SECRET, label: label + "-mac", id: other[:], onToken: true, usages: []uint{pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY}}, pkcs11.CKM_GENERIC_SECRET_KEY_GEN)
	if err != nil {
		// Its answer may be all that is missing: then the pair may be in use.
		if made, ferr := s.d.lib.find(s.SessionHandle, pkcs11.CKO_SECRET_KEY, onToken, other[:], label+"-mac", 1); ferr == nil && len(made) == 0 {
			return errors.Join(err, s.takeBack(wrap))
		}
		return err
	}
	s.d.log.Info("made the token's wrapping key", "label", label)
	return nil
}

// takeBack destroys a wrapping key that nobody can have used, and waits a while.
func (s *session) takeBack(wrap pkcs11.ObjectHandle) error {
	for try := 0; ; try++ {
		err := s.destroyObjects(wrap)
		pause()
		if err == nil || is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
			return nil
		}
		if try == 4 {
			return err
		}
	}
}

// pause waits up to 128 ms, by chance, so that processes that met do not meet again.
func pause() {
	var r [1]byte
	rand.Read(r[:]) // never fails (crypto/rand)
	time.Sleep(time.Duration(r[0]) * time.Millisecond / 2)
}

// secret makes a secret key of 32 bytes.
func (s *session) secret(o object, mech uint) (pkcs11.ObjectHandle, error) {
	o.class = pkcs11.CKO_SECRET_KEY
	template := append(s.d.style.template(o), attr(pkcs11.CKA_VALUE_LEN, 32))
	return s.d.lib.GenerateKey(s.SessionHandle, []*pkcs11.Mechanism{flat(mech, nil)}, template)
}

// kekFailed forgets the wrapping keys' handles when one of them is stale.
func (s *session) kekFailed(err error) {
	if c, ok := classOf(err); ok && c == classHandle {
		s.gen.kek.mu.Lock()
		s.gen.kek.ok = false
		s.gen.kek.mu.Unlock()
	}
}
