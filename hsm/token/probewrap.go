package token

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"

	"github.com/cloudflare/circl/sign/ed448"
	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keyenc"
)

// newPrivate makes a key of a curve here.
func newPrivate(k kind) (crypto.PrivateKey, error) {
	switch k.Name {
	case backend.Ed25519:
		_, priv, err := ed25519.GenerateKey(rand.Reader)
		return priv, err
	case backend.Ed448:
		_, priv, err := ed448.GenerateKey(rand.Reader)
		return priv, err
	case backend.X25519:
		return ecdh.X25519().GenerateKey(rand.Reader)
	case backend.X448:
		var priv keyenc.X448PrivateKey
		rand.Read(priv[:]) // never fails (crypto/rand)
		return &priv, nil
	}
	return ecdsa.GenerateKey(k.curve, rand.Reader)
}

// wrapping proves for each algorithm that a key can be wrapped out, unwrapped and used, with a wrapping key of the session: nothing
// is made on the token before somebody wants a wrapped key. The tag needs HMAC-SHA-256.
func (p *prober) wrapping() {
	if !p.can[backend.HMACSHA256].has(MAC) {
		return
	}
	last := map[uint]wrapWay{}
	decides := false
	for _, info := range backend.Algorithms() {
		k, ok := kindOf(info.Name)
		c := p.can[info.Name]
		if !ok || c.ops == 0 {
			continue
		}
		ways := append([]wrapWay{last[k.class]}, p.unwrapWays(k)...)
		if k.Family == backend.FamilySLHDSA {
			ways = ways[:1] // each try makes a key and a signature, which may take seconds: the way of the others, or none
		}
		for i, w := range ways {
			if w.form == 0 || i > 0 && w == ways[0] {
				continue
			}
			if p.wraps(w, k) {
				c.wrap, last[k.class] = w, w
				p.can[info.Name] = c
				decides = decides || w.style&omitExtractable != p.style&omitExtractable
				break
			}
		}
	}
	if decides {
		p.quirk("decides itself whether an unwrapped key can be extracted")
	}
}

// kek makes a wrapping key for the session; value is nil when the token lets nobody know it.
func (p *prober) kek(s *session) (pkcs11.ObjectHandle, []byte, error) {
	o := object{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, label: objectLabel + "-probe", usages: []uint{pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP}}
	value := known(32)
	h, err := p.lib.CreateObject(s.SessionHandle, append(p.style.template(o), attr(pkcs11.CKA_VALUE, value)))
	if err == nil {
		return h, value, nil
	}
	h, err = s.secret(o, pkcs11.CKM_AES_KEY_GEN)
	return h, nil, err
}

// extractable makes a key to be wrapped. RSA keys are known ones where the token takes them.
func (p *prober) extractable(s *session, k kind, purpose backend.Purpose) (key pkcs11.ObjectHandle, pub crypto.PublicKey, err error) {
	if way := p.can[k.Name].imported; k.Family == backend.FamilyRSA && !way.none() {
		in, err := knownRSA(k)
		if err != nil {
			return 0, nil, err
		}
		key, err = s.introduce(way, k, purpose, nil, in, false, true)
		return key, in.pub, err
	}
	own, public := p.usagesOf(k, purpose)
	key, h, err := s.make(k, object{class: k.class, keyType: k.keyType, label: k.label(), extractable: true, usages: own}, public)
	if err == nil && h != 0 {
		pub, err = s.public(k, h)
	}
	return key, pub, err
}

func (p *prober) wraps(w wrapWay, k kind) bool {
	return p.try("wrapping "+string(k.Name), func(s *session) error {
		kek, value, err := p.kek(s)
		if err != nil {
			return err
		}
		purpose := k.Purposes[0]
		if k.Family == backend.FamilyRSA && !p.can[k.Name].has(Sign) {
			purpose = backend.PurposeEncryption
		}
		key, pub, err := p.extractable(s, k, purpose)
		if err != nil {
			return err
		}
		blob, err := s.wrapBy(w, kek, key)
		if err != nil {
			return err
		}
		if w.form == formKWP && value != nil {
			// SoftHSM pads with zeros to eight bytes before it wraps, which PKCS#8 bears; nothing else may be different.
			if _, err := keyenc.KWPUnwrap(value, blob); err != nil {
				return errWrong
			}
		}
		var iv []byte
		if w.form == formCBCPad {
			iv, blob = blob[:ivSize], blob[ivSize:]
		}
		back, err := p.lib.unwrap(s.SessionHandle, w.mech, iv, kek, blob, p.unwrapTemplate(w, k, purpose, nil, false, false))
		if err != nil {
			return err
		}
		if err := s.settle(w, back, false); err != nil {
			return err
		}
		if err := s.held(back); err != nil {
			return err
		}
		if pub != nil {
			err = s.consistent(k, purpose, back, pub)
		} else {
			err = s.same(k, key, back)
		}
		if err != nil {
			return err
		}
		return s.destroyObjects(kek, key, back)
	})
}

// same shows that two secret keys are one: what the first makes the second knows.
func (s *session) same(k kind, a, b pkcs11.ObjectHandle) error {
	if k.Family == backend.FamilyKWP {
		wrapped, err := s.kwpWrap(a, known(20))
		if err != nil {
			return err
		}
		got, err := s.kwpUnwrap(b, wrapped)
		if err != nil {
			return err
		}
		if string(got) != string(known(20)) {
			return errWrong
		}
		return nil
	}
	if k.Family == backend.FamilyHMAC {
		x, err := s.signInto(a, hmacMechanism(k), known(20), k.TagSize)
		if err != nil {
			return err
		}
		y, err := s.signInto(b, hmacMechanism(k), known(20), k.TagSize)
		if err != nil {
			return err
		}
		if string(x) != string(y) {
			return errWrong
		}
		return nil
	}
	sealed, err := s.gcmSeal(a, known(20), nil)
	if err != nil {
		return err
	}
	got, err := s.gcmOpen(b, sealed, nil)
	if err != nil {
		return err
	}
	if string(got) != string(known(20)) {
		return errWrong
	}
	return nil
}

// leaks is the self-test: a sensitive key that is not extractable must not come out of C_WrapKey, by any mechanism that wraps.
func (p *prober) leaks() {
	k, ok := p.first(backend.AES256GCM, backend.HMACSHA256)
	if !ok {
		if _, makes := p.offers(pkcs11.CKM_AES_KEY_GEN); !makes {
			return
		}
		k, _ = kindOf(backend.AES256GCM)
	}
	ways := p.wrapMechanisms()
	for _, m := range []uint{pkcs11.CKM_AES_ECB, pkcs11.CKM_AES_CBC} {
		if _, ok := p.offers(m); ok {
			ways = append(ways, wrapWay{form: formCBCPad, mech: m})
		}
	}
	for _, w := range ways {
		if p.try("whether it refuses to wrap a key that is not extractable", func(s *session) error {
			kek, err := s.secret(object{keyType: pkcs11.CKK_AES, label: objectLabel + "-probe", usages: []uint{pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP}}, pkcs11.CKM_AES_KEY_GEN)
			if err != nil {
				return err
			}
			own, _ := p.usagesOf(k, k.Purposes[0])
			key, _, err := s.make(k, object{class: k.class, keyType: k.keyType, label: objectLabel + "-probe", usages: own}, nil)
			if err != nil {
				return err
			}
			if w.mech == pkcs11.CKM_AES_ECB {
				_, err = p.lib.wrap(s.SessionHandle, w.mech, nil, kek, key, maxWrapped)
			} else {
				_, err = s.wrapBy(w, kek, key)
			}
			return err
		}) {
			p.g.description.LeaksWrapped = true
			p.quirk("lets keys that are marked as non-extractable be wrapped out")
			return
		}
	}
}

func (p *prober) first(names ...backend.Algorithm) (kind, bool) {
	for _, n := range names {
		if p.can[n].ops != 0 {
			return kindOf(n)
		}
	}
	return kind{}, false
}
