package token

import (
	"crypto/sha256"
	"crypto/subtle"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

var errTestKey = fault.New(fault.BackendUnavailable, "the token's test key gives a wrong result")

// testKey makes the generation's test key, in the pinned session, and uses it once.
func (d *device) testKey(g *generation) error {
	if d.testWith != "" {
		k, _ := kindOf(d.testWith)
		own, public := d.usagesOf(k, k.Purposes[0])
		s := &session{SessionHandle: g.pinned, d: d, gen: g}
		key, _, err := s.make(k, object{class: k.class, keyType: k.keyType, label: objectLabel + "-test", usages: own}, public)
		if err != nil {
			return err
		}
		g.test = key
	}
	return d.exercise(g, g.pinned)
}

// exercise uses the test key.
func (d *device) exercise(g *generation, h pkcs11.SessionHandle) error {
	s := &session{SessionHandle: h, d: d, gen: g}
	if d.testWith == "" {
		var b [16]byte
		return d.lib.random(h, b[:])
	}
	k, _ := kindOf(d.testWith)
	err := func() error {
		switch k.Family {
		case backend.FamilyAEAD:
			text := []byte("keywright test")
			sealed, err := s.gcmSeal(g.test, text, nil)
			if err != nil {
				return err
			}
			got, err := s.gcmOpen(g.test, sealed, nil)
			if err != nil {
				return err
			}
			if subtle.ConstantTimeCompare(got, text) != 1 {
				return errTestKey
			}
			return nil
		case backend.FamilyHMAC:
			_, err := s.signInto(g.test, hmacMechanism(k), []byte("keywright test"), k.TagSize)
			return err
		default:
			digest := sha256.Sum256([]byte("keywright test"))
			_, err := s.ecdsaSign(k, g.test, digest[:])
			return err
		}
	}()
	if c, ok := classOf(err); ok && c == classHandle {
		// The pinned session is gone, and the login with it.
		return pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN)
	}
	return err
}

// ping exercises the test key on a session opened for it. The gate is held.
func (d *device) ping() error {
	g := d.gen.Load()
	if g.alone {
		return d.exercise(g, g.pinned)
	}
	h, err := g.open(d)
	if err != nil {
		return err
	}
	defer g.close(d, h)
	return d.exercise(g, h)
}
