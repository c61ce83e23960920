package token

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rsa"
	"embed"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

// kat are RSA keys for known answers. They are public and protect nothing.
//
//go:embed kat/*.der
var kat embed.FS

func knownRSA(k kind) (*clearKey, error) {
	der, err := kat.ReadFile(fmt.Sprintf("kat/rsa%d.der", k.KeyBits))
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "reading a known key", err)
	}
	return parseMaterial(k, der)
}

// known is a secret for known answers, of any size.
func known(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(7*i + 1)
	}
	return out
}

// imported finds how a token takes material of an algorithm: the first way in which check succeeds.
func (p *prober) imported(k kind, purpose backend.Purpose, in *clearKey, check func(s *session, key pkcs11.ObjectHandle) error) bool {
	ways := []importWay{p.last[k.class]}
	for _, w := range p.unwrapWays(k) {
		ways = append(ways, importWay{unwrap: w})
	}
	ways = append(ways, importWay{create: true})
	for i, w := range ways {
		if w.none() || i > 0 && w == ways[0] {
			continue
		}
		if p.try(fmt.Sprintf("importing %s", k.Name), func(s *session) error {
			key, err := s.introduce(w, k, purpose, nil, in, false, false)
			if err != nil {
				return err
			}
			if err := s.held(key); err != nil {
				return err
			}
			if k.Symmetric() {
				// SoftHSM does not know how long a key is that it has unwrapped, and says 0.
				if n, err := s.number(key, pkcs11.CKA_VALUE_LEN); err != nil || n != uint(k.KeySize) {
					return errors.Join(errWrong, err)
				}
			}
			if err := check(s, key); err != nil {
				return err
			}
			return s.destroyObjects(key)
		}) {
			if !p.takes(k) {
				p.last[k.class] = w
			}
			c := p.can[k.Name]
			c.imported = w
			p.can[k.Name] = c
			return true
		}
	}
	return false
}

// takes reports whether the token takes material of a class at all: then a known answer that is wrong is the algorithm's fault.
func (p *prober) takes(k kind) bool { return !p.last[k.class].none() }

// mechanisms are those with which keys might be wrapped, the best first: the first two find out what was changed.
func (p *prober) wrapMechanisms() []wrapWay {
	var out []wrapWay
	for _, m := range append(p.profile.kwp[:len(p.profile.kwp):len(p.profile.kwp)], ckmAESKeyWrapKWP, pkcs11.CKM_AES_KEY_WRAP_PAD) {
		if _, ok := p.offers(m); ok {
			out = append(out, wrapWay{form: formKWP, mech: m})
		}
	}
	for _, w := range []wrapWay{{form: formKW, mech: pkcs11.CKM_AES_KEY_WRAP}, {form: formCBCPad, mech: pkcs11.CKM_AES_CBC_PAD}} {
		if _, ok := p.offers(w.mech); ok {
			out = append(out, w)
		}
	}
	return out
}

// unwrapWays adds to the mechanisms what templates might have to be like.
func (p *prober) unwrapWays(k kind) []wrapWay {
	var out []wrapWay
	for _, w := range p.wrapMechanisms() {
		for _, w.style = range []style{p.style, p.style | omitExtractable} {
			for _, w.length = range []bool{false, true} {
				for _, w.harden = range []bool{false, true} {
					if !w.length || k.class == pkcs11.CKO_SECRET_KEY {
						out = append(out, w)
					}
				}
			}
		}
	}
	return out
}

// aes proves AES-GCM, with nonces that are given, or else with the token's own.
func (p *prober) aes() {
	p.zeroNonce = p.profile.zeroNonce
	p.aesGCM()
	if _, offered := p.offers(pkcs11.CKM_AES_GCM); !offered || p.can[backend.AES256GCM].has(Encrypt) {
		return
	}
	p.zeroNonce = !p.zeroNonce
	p.aesGCM()
	if p.can[backend.AES256GCM].has(Encrypt) && p.zeroNonce {
		p.quirk("makes the nonces of AES-GCM itself")
	}
}

// aesGCM proves AES-GCM against the standard library, both ways, with and without data.
func (p *prober) aesGCM() {
	for _, name := range []backend.Algorithm{backend.AES256GCM, backend.AES128GCM, backend.AES192GCM} {
		k, _ := kindOf(name)
		secret := known(k.KeySize)
		block, err := aes.NewCipher(secret)
		if err != nil {
			continue
		}
		judge, err := cipher.NewGCM(block)
		if err != nil {
			continue
		}
		check := func(s *session, key pkcs11.ObjectHandle) error { return s.provesGCM(key, judge) }
		if _, ok := p.offers(pkcs11.CKM_AES_GCM); !ok {
			// How material comes in is worth knowing even so; ECB shows that the key is the right one.
			check = func(s *session, key pkcs11.ObjectHandle) error { return s.provesECB(key, block) }
			p.imported(k, backend.PurposeEncryption, &clearKey{bytes: secret}, check)
			continue
		}
		if !p.imported(k, backend.PurposeEncryption, &clearKey{bytes: secret}, check) && p.takes(k) {
			continue // it takes keys, and does this wrong
		}
		if p.try("making a key for "+string(name), func(s *session) error { return s.roundTripGCM(k) }) {
			p.grant(name, Encrypt, Decrypt)
		}
	}
}

func (s *session) provesGCM(key pkcs11.ObjectHandle, judge cipher.AEAD) error {
	for _, n := range []int{0, 1, 16, 100} {
		text, aad := known(n), known(n/3)
		sealed, err := s.gcmSeal(key, text, aad)
		if err != nil {
			return err
		}
		got, err := judge.Open(nil, sealed[:nonceSize], sealed[nonceSize:], aad)
		if err != nil || !bytes.Equal(got, text) {
			return errWrong
		}
		if got, err = s.gcmOpen(key, sealed, aad); err != nil {
			return err
		}
		if !bytes.Equal(got, text) {
			return errWrong
		}
	}
	return nil
}

// roundTripGCM is all that can be had of a key whose value nobody knows: what it makes it opens, and two nonces differ.
func (s *session) roundTripGCM(k kind) error {
	own, _ := s.d.usagesOf(k, backend.PurposeEncryption)
	key, _, err := s.make(k, object{class: k.class, keyType: k.keyType, label: objectLabel + "-probe", usages: own}, nil)
	if err != nil {
		return err
	}
	var last []byte
	for range 2 {
		sealed, err := s.gcmSeal(key, known(33), known(5))
		if err != nil {
			return err
		}
		got, err := s.gcmOpen(key, sealed, known(5))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, known(33)) || bytes.Equal(last, sealed[:nonceSize]) {
			return errWrong
		}
		last = sealed[:nonceSize]
	}
	return s.destroyObjects(key)
}

func (s *session) provesECB(key pkcs11.ObjectHandle, block cipher.Block) error {
	var got, want [16]byte
	copy(got[:], known(16))
	block.Encrypt(want[:], got[:])
	err := s.d.lib.ecb(encrypting, s.SessionHandle, key, func(f func(*[16]byte) error) error { return f(&got) })
	if err == nil && got != want {
		err = errWrong
	}
	return err
}

func (p *prober) hmac() {
	for _, name := range []backend.Algorithm{backend.HMACSHA256, backend.HMACSHA384, backend.HMACSHA512} {
		k, _ := kindOf(name)
		if _, ok := p.offers(hmacMechanism(k)); !ok {
			continue
		}
		secret := known(k.KeySize)
		proven := p.imported(k, backend.PurposeMAC, &clearKey{bytes: secret}, func(s *session, key pkcs11.ObjectHandle) error {
			for _, n := range []int{0, 1, 200} {
				got, err := s.signInto(key, hmacMechanism(k), known(n), k.TagSize)
				if err != nil {
					return err
				}
				mac := hmac.New(k.Hash.New, secret)
				mac.Write(known(n))
				if !hmac.Equal(got, mac.Sum(nil)) {
					return errWrong
				}
			}
			return nil
		})
		if !proven && p.takes(k) {
			continue
		}
		if p.try("making a key for "+string(name), func(s *session) error {
			own, _ := p.usagesOf(k, backend.PurposeMAC)
			key, _, err := s.make(k, object{class: k.class, keyType: k.keyType, label: objectLabel + "-probe", usages: own}, nil)
			if err != nil {
				return err
			}
			if _, err := s.signInto(key, hmacMechanism(k), known(10), k.TagSize); err != nil {
				return err
			}
			return s.destroyObjects(key)
		}) {
			p.grant(name, MAC)
		}
	}
}

// kwrap proves AES-KWP of bytes for every length around a multiple of eight: SoftHSM's own is right for whole multiples alone.
func (p *prober) kwrap() {
	k, _ := kindOf(backend.AES256KWP)
	secret := known(k.KeySize)
	prove := func(s *session, key pkcs11.ObjectHandle) error {
		for _, n := range []int{1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40} {
			want, err := keyenc.KWPWrap(secret, known(n))
			if err != nil {
				return errWrong
			}
			got, err := s.kwpWrap(key, known(n))
			if err != nil {
				return err
			}
			back, err := s.kwpUnwrap(key, want)
			if err != nil {
				return err
			}
			if !bytes.Equal(got, want) || !bytes.Equal(back, known(n)) {
				return errWrong
			}
		}
		return nil
	}
	type attempt struct {
		way  kwpWay
		mech uint
	}
	var list []attempt
	for _, w := range p.wrapMechanisms() {
		if w.form == formKWP {
			list = append(list, attempt{kwpNative, w.mech})
		}
	}
	if _, ok := p.offers(pkcs11.CKM_AES_ECB); ok {
		list = append(list, attempt{kwpECB, 0})
	}
	for _, a := range list {
		p.kwp, p.kwpMech = a.way, a.mech
		if p.imported(k, backend.PurposeWrapping, &clearKey{bytes: secret}, prove) {
			p.grant(k.Name, Wrap, Unwrap)
			if a.way == kwpECB {
				p.quirk("AES-KWP is composed of the token's AES-ECB: it takes long for long material")
			}
			return
		}
	}
	p.kwp = kwpNone
}

// curves makes a pair on each curve and lets the standard library judge what it does.
func (p *prober) curves() {
	for _, info := range backend.Algorithms() {
		k, ok := kindOf(info.Name)
		if !ok || k.params == nil {
			continue
		}
		mech, op := uint(pkcs11.CKM_ECDSA), Sign
		switch k.Family {
		case backend.FamilyEdDSA:
			mech = ckmEDDSA
		case backend.FamilyECDH:
			mech, op = pkcs11.CKM_ECDH1_DERIVE, Agree
		}
		_, makes := p.offers(k.generate)
		_, does := p.offers(mech)
		if !makes || !does {
			continue
		}
		for _, params := range k.params {
			p.params[k.Name] = params
			if p.curve(k) {
				p.grant(k.Name, op)
				p.importCurve(k)
				break
			}
		}
	}
}

func (p *prober) curve(k kind) bool {
	forms := []pointForm{p.peerForm}
	if k.Family == backend.FamilyECDH && p.peerForm == "" {
		forms = []pointForm{pointRaw, pointOctets}
	}
	for _, form := range forms {
		p.peerForm = form
		if p.try("a pair of "+string(k.Name), func(s *session) error {
			own, public := p.usagesOf(k, k.Purposes[0])
			key, pub, err := s.make(k, object{class: k.class, keyType: k.keyType, label: objectLabel + "-probe", usages: own}, public)
			if err != nil {
				return err
			}
			point, err := p.lib.attribute(s.SessionHandle, pub, pkcs11.CKA_EC_POINT, maxAttribute)
			if err != nil {
				return err
			}
			parsed, how, err := decodePoint(k, point)
			if err != nil {
				return err
			}
			p.points[k.Name] = how
			if err := s.consistent(k, k.Purposes[0], key, parsed); err != nil {
				return err
			}
			return s.destroyObjects(key, pub)
		}) {
			if how := p.points[k.Name]; how != pointOctets && k.Name == backend.ECDSAP256 {
				p.quirk("gives points of curves as " + string(how))
			}
			return true
		}
	}
	if len(forms) > 1 {
		p.peerForm = ""
	}
	return false
}

// importCurve makes a pair here and lets the token use it.
func (p *prober) importCurve(k kind) {
	priv, err := newPrivate(k)
	if err != nil {
		return
	}
	der, err := keyenc.MarshalPKCS8(priv)
	if err != nil {
		return
	}
	in, err := parseMaterial(k, der)
	if err != nil {
		return
	}
	p.imported(k, k.Purposes[0], in, func(s *session, key pkcs11.ObjectHandle) error {
		return s.consistent(k, k.Purposes[0], key, in.pub)
	})
}

// rsa lets the token use known keys, which takes milliseconds, where making one can take a minute. That it makes keys of a size is
// taken from its mechanism's range, and every pair that it makes is tested before it is given out.
func (p *prober) rsa() {
	making, ok := p.offers(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN)
	if !ok {
		return
	}
	for i, name := range []backend.Algorithm{backend.RSA2048, backend.RSA3072, backend.RSA4096} {
		k, _ := kindOf(name)
		if uint(k.KeyBits) < making.MinSize || uint(k.KeyBits) > making.MaxSize && making.MaxSize > 0 {
			continue
		}
		in, err := knownRSA(k)
		if err != nil {
			continue
		}
		pub, ok := in.pub.(*rsa.PublicKey)
		if !ok {
			continue
		}
		if i == 0 {
			p.rsaMatrix(k, in, pub)
		}
		signs := func(s *session, key pkcs11.ObjectHandle) error {
			if err := s.rsaSigns(k, key, pub, crypto.SHA256, backend.PaddingPKCS1v15); err != nil {
				return err
			}
			return s.rsaSigns(k, key, pub, crypto.SHA512, backend.PaddingPSS)
		}
		opens := func(s *session, key pkcs11.ObjectHandle) error { return s.rsaOpens(k, key, pub, p.oaepHash(), nil) }
		canSign, canOpen := p.rsaWorks(k, backend.PurposeSigning, in, signs), p.rsaWorks(k, backend.PurposeEncryption, in, opens)
		if canSign {
			p.grant(name, Sign)
		}
		if canOpen && p.everyOAEP() {
			p.grant(name, Decrypt)
		}
	}
}

// rsaWorks tries a known key, or a made one where the token takes none.
func (p *prober) rsaWorks(k kind, purpose backend.Purpose, in *clearKey, check func(*session, pkcs11.ObjectHandle) error) bool {
	if p.imported(k, purpose, in, check) {
		return true
	}
	if p.takes(k) {
		return false
	}
	return p.try("a pair of "+string(k.Name), func(s *session) error {
		own, public := p.usagesOf(k, purpose)
		key, pub, err := s.make(k, object{class: k.class, keyType: k.keyType, label: objectLabel + "-probe", usages: own}, public)
		if err != nil {
			return err
		}
		parsed, err := s.public(k, pub)
		if err != nil {
			return err
		}
		if err := s.consistent(k, purpose, key, parsed); err != nil {
			return err
		}
		return s.destroyObjects(key, pub)
	})
}

// rsaMatrix finds out which hashes the token's PSS and OAEP take, and OAEP with a label. What is wrong once is not used.
func (p *prober) rsaMatrix(k kind, in *clearKey, pub *rsa.PublicKey) {
	each := func(purpose backend.Purpose, what string, f func(s *session, key pkcs11.ObjectHandle) error) bool {
		if p.can[k.Name].imported.none() && !p.imported(k, backend.PurposeSigning, in, func(s *session, key pkcs11.ObjectHandle) error {
			return s.rsaSigns(k, key, pub, crypto.SHA256, backend.PaddingPKCS1v15)
		}) {
			return false
		}
		return p.try(what, func(s *session) error {
			key, err := s.introduce(p.can[k.Name].imported, k, purpose, nil, in, false, false)
			if err != nil {
				return err
			}
			if err := f(s, key); err != nil {
				return err
			}
			return s.destroyObjects(key)
		})
	}
	if _, ok := p.offers(pkcs11.CKM_RSA_X_509); ok {
		p.native.raw = true
		p.native.raw = each(backend.PurposeEncryption, "raw RSA, decrypting", func(s *session, key pkcs11.ObjectHandle) error {
			return s.rsaOpens(k, key, pub, crypto.SHA256, []byte("label"))
		}) && each(backend.PurposeSigning, "raw RSA, signing", func(s *session, key pkcs11.ObjectHandle) error {
			return s.rsaSigns(k, key, pub, crypto.SHA256, backend.PaddingPSS)
		})
	}
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if _, ok := p.offers(pkcs11.CKM_RSA_PKCS_PSS); ok && h != crypto.SHA1 {
			p.native.pss[h] = true
			p.native.pss[h] = each(backend.PurposeSigning, "PSS", func(s *session, key pkcs11.ObjectHandle) error {
				return s.rsaSigns(k, key, pub, h, backend.PaddingPSS)
			})
		}
		if _, ok := p.offers(pkcs11.CKM_RSA_PKCS_OAEP); !ok {
			continue
		}
		for label, m := range map[string]map[crypto.Hash]bool{"": p.native.oaep, "label": p.native.label} {
			m[h] = true
			m[h] = each(backend.PurposeEncryption, "OAEP", func(s *session, key pkcs11.ObjectHandle) error {
				return s.rsaOpens(k, key, pub, h, []byte(label))
			})
		}
	}
	if p.native.raw && !p.nativeOAEP() {
		p.quirk("RSA-OAEP is composed of the token's raw RSA for the hashes and labels that it lacks")
	}
}

func (p *prober) nativeOAEP() bool {
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if !p.native.oaep[h] || !p.native.label[h] {
			return false
		}
	}
	return true
}

// everyOAEP reports whether all hashes can be had, with a label too: an RSA key for encryption must have them all.
func (p *prober) everyOAEP() bool { return p.native.raw || p.nativeOAEP() }
