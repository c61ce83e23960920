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

// wrapping proves that a key can be made, wrapped out, unwrapped and used, with a wrapping key of the session: nothing is made on
// the token before somebody wants a wrapped key. The tag needs HMAC-SHA-256.
func (p *prober) wrapping() {
	if !p.can[backend.HMACSHA256].has(MAC) {
		return
	}
	secret, okSecret := p.first(backend.AES256GCM, backend.HMACSHA256)
	private, okPrivate := p.first(backend.ECDSAP256, backend.RSA2048, backend.Ed25519)
	for _, w := range p.unwrapWays() {
		for _, st := range []style{p.unwrapStyle, p.unwrapStyle | omitExtractable} {
			for _, length := range []bool{p.unwrapLength, !p.unwrapLength} {
				was := p.traits
				p.unwrapStyle, p.unwrapLength = st, length
				if okSecret && p.secretWrap.form == 0 && p.wraps(w, secret) {
					p.secretWrap = w
					continue
				}
				if okPrivate && p.privateWrap.form == 0 && p.wraps(w, private) {
					p.privateWrap = w
					continue
				}
				p.unwrapStyle, p.unwrapLength = was.unwrapStyle, was.unwrapLength
			}
		}
	}
	if p.secretWrap.form != 0 && p.unwrapStyle&omitExtractable != 0 {
		p.quirk("decides itself whether an unwrapped key can be extracted")
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

func (p *prober) wraps(w wrapWay, k kind) bool {
	return p.try("wrapping "+string(k.Name), func(s *session) error {
		kek, err := s.secret(object{keyType: pkcs11.CKK_AES, label: objectLabel + "-probe", usages: []uint{pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP}}, pkcs11.CKM_AES_KEY_GEN)
		if err != nil {
			return err
		}
		own, public := p.usagesOf(k, k.Purposes[0])
		key, pub, err := s.make(k, object{class: k.class, keyType: k.keyType, label: k.label(), extractable: true, usages: own}, public)
		if err != nil {
			return err
		}
		blob, err := s.wrapBy(w, kek, key)
		if err != nil {
			return err
		}
		var iv []byte
		if w.form == formCBCPad {
			iv, blob = blob[:ivSize], blob[ivSize:]
		}
		back, err := p.lib.unwrap(s.SessionHandle, w.mech, iv, kek, blob, p.unwrapTemplate(k, k.Purposes[0], nil, false))
		if err != nil {
			return err
		}
		if pub != 0 {
			parsed, err := s.public(k, pub)
			if err != nil {
				return err
			}
			if err := s.consistent(k, k.Purposes[0], back, parsed); err != nil {
				return err
			}
		} else if err := s.same(k, key, back); err != nil {
			return err
		}
		return s.destroyObjects(kek, key, pub, back)
	})
}

// same shows that two secret keys are one: what the first makes the second knows.
func (s *session) same(k kind, a, b pkcs11.ObjectHandle) error {
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
	ways := p.unwrapWays()
	for _, m := range []uint{pkcs11.CKM_AES_ECB, pkcs11.CKM_AES_CBC} {
		if _, ok := p.offers(m); ok {
			ways = append(ways, wrapWay{formCBCPad, m})
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
