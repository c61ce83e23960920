package token

import (
	"bytes"
	"crypto"
	"crypto/subtle"
	"slices"
	"strings"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
)

// postQuantum proves ML-DSA, ML-KEM and SLH-DSA against package pqc, each parameter set by itself: a mechanism list does not say which of them a token
// has, and many lists claim what does not work. The slow sets of SLH-DSA come last, and only as long as the opening has time: a token may need seconds for
// each of their signatures.
func (p *prober) postQuantum() {
	p.pq = map[backend.Algorithm]pqForm{}
	p.kemLength = true
	p.lib.findNewer(p.cfg.Module)
	enough := func() bool { return false }
	if deadline, ok := p.ctx.Deadline(); ok {
		half := time.Now().Add(time.Until(deadline) / 2)
		enough = func() bool { return time.Now().After(half) }
	}
	var way importWay
	var left []string
	for _, k := range p.pqKinds() {
		if k.Family == backend.FamilySLHDSA && enough() {
			left = append(left, string(k.Name))
			continue
		}
		works := p.provesKEM
		if k.Family != backend.FamilyKEM {
			works = p.provesSigning
		}
		if works(k) && k.Family != backend.FamilySLHDSA { // PKCS#11 has no seed of SLH-DSA
			p.pqImported(k, &way)
		}
	}
	if len(left) > 0 {
		p.quirk("was not asked for lack of time whether it has " + strings.Join(left, ", ") + ": raise open_timeout")
	}
}

// pqKinds lists the algorithms whose mechanisms the token lists, the slow ones last.
func (p *prober) pqKinds() (out []kind) {
	var slow []kind
	for _, info := range backend.Algorithms() {
		k, ok := kindOf(info.Name)
		if !ok || k.set == 0 {
			continue
		}
		_, makes := p.offers(k.generate)
		_, does := p.offers(k.mech)
		switch {
		case !makes || !does || k.pq.SelfTest() != nil:
		case k.Family == backend.FamilySLHDSA && strings.HasSuffix(string(k.Name), "s"):
			slow = append(slow, k)
		default:
			out = append(out, k)
		}
	}
	return append(out, slow...)
}

// pair makes a key pair of the session and runs f with it.
func (p *prober) pair(k kind, what string, f func(s *session, key pkcs11.ObjectHandle, pub *pqc.PublicKey) error) bool {
	return p.try(what+" with "+string(k.Name), func(s *session) error {
		own, public := p.usagesOf(k, k.Purposes[0])
		key, h, err := s.make(k, object{class: k.class, keyType: k.keyType, label: objectLabel + "-probe", usages: own}, public)
		if err != nil {
			return err
		}
		if err := s.held(key); err != nil {
			return err
		}
		parsed, err := s.pqPublic(k, h)
		if err != nil {
			return err
		}
		pub, ok := parsed.(*pqc.PublicKey)
		if !ok {
			return errWrong
		}
		if err := f(s, key, pub); err != nil {
			return err
		}
		return s.destroyObjects(key, h)
	})
}

// provesSigning finds out which signatures a token makes: hedged ones at least, else it is not offered. A token that can do all is asked with one key.
func (p *prober) provesSigning(k kind) bool {
	form := pqForm{hedge: ckhHedgeRequired, context: true, deterministic: true}
	p.pq[k.Name] = form
	whole := p.pair(k, "signing", func(s *session, key pkcs11.ObjectHandle, pub *pqc.PublicKey) error {
		if err := s.signs(k, key, pub, Call{Context: known(pqc.MaxContext)}, true); err != nil {
			return err
		}
		return s.signs(k, key, pub, Call{Deterministic: true}, false)
	})
	if whole {
		p.grant(k.Name, Sign)
		p.pqHashes(k, &form)
		p.pq[k.Name] = form
		return true
	}
	return p.provesEach(k)
}

// provesEach finds out what is missing of what provesSigning has asked for.
func (p *prober) provesEach(k kind) bool {
	var form pqForm
	for _, form.hedge = range []uint{ckhHedgeRequired, ckhHedgePreferred} {
		p.pq[k.Name] = form
		if p.pair(k, "signing", func(s *session, key pkcs11.ObjectHandle, pub *pqc.PublicKey) error {
			return s.signs(k, key, pub, Call{}, form.hedge == ckhHedgeRequired)
		}) {
			p.grant(k.Name, Sign)
			break
		}
	}
	if !p.can[k.Name].has(Sign) {
		delete(p.pq, k.Name)
		return false
	}
	if form.hedge == ckhHedgePreferred {
		p.quirk("decides itself whether signatures of " + string(k.Name) + " are hedged")
	}
	form.context = p.signsWith(k, form, Call{Context: []byte("context")}) && p.signsWith(k, form, Call{Context: known(pqc.MaxContext)})
	form.deterministic = p.signsWith(k, form, Call{Deterministic: true})
	p.pqHashes(k, &form)
	p.pq[k.Name] = form
	if !form.context || !form.deterministic {
		p.quirk("does not make all signatures of " + string(k.Name) + ": with a context " + yesNo(form.context) + ", deterministic " + yesNo(form.deterministic))
	}
	return true
}

// signsWith tries a choice of a signature, as if the token could do it.
func (p *prober) signsWith(k kind, form pqForm, c Call) bool {
	claim := pqForm{hedge: form.hedge, context: true, deterministic: true, hashes: []crypto.Hash{c.Hash}}
	p.pq[k.Name] = claim
	return p.pair(k, "a choice of signature", func(s *session, key pkcs11.ObjectHandle, pub *pqc.PublicKey) error {
		return s.signs(k, key, pub, c, !c.Deterministic && form.hedge == ckhHedgeRequired)
	})
}

// pqHashes finds the hashes of HashML-DSA.
func (p *prober) pqHashes(k kind, form *pqForm) {
	if _, ok := p.offers(ckmHashMLDSA); !ok || k.Family != backend.FamilyMLDSA {
		return
	}
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		c := Call{Hash: h}
		if form.context {
			c.Context = []byte("context")
		}
		if p.signsWith(k, *form, c) {
			form.hashes = append(form.hashes, h)
		}
	}
}

func yesNo(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

// signs makes two signatures of one message, which must hold, and must differ when they are to be hedged and not when they are deterministic.
func (s *session) signs(k kind, key pkcs11.ObjectHandle, pub *pqc.PublicKey, c Call, hedged bool) error {
	c.Input = known(100)
	o := pqc.SignOptions{Context: c.Context}
	if c.Hash != 0 {
		c.Input = known(c.Hash.Size())
		o.PreHash, _ = pqc.PreHashOf(c.Hash)
		o.Digest = true
	}
	var last []byte
	for range 2 {
		sig, err := s.pqSign(k, key, c)
		if err != nil {
			return err
		}
		if ok, err := pub.Verify(c.Input, sig, o); err != nil || !ok {
			return errWrong
		}
		same := bytes.Equal(last, sig)
		if last != nil && (same && hedged || !same && c.Deterministic) {
			return errWrong
		}
		last = sig
	}
	return nil
}

// provesKEM lets this process encapsulate and the token decapsulate. A ciphertext that was changed must give another secret, the same one each time
// (FIPS 203 section 6.3), and no error.
func (p *prober) provesKEM(k kind) bool {
	if !p.lib.newer.has() {
		return false
	}
	works := func() bool { return p.pair(k, "decapsulating", p.decapsulates(k)) }
	if !works() {
		// Some tokens know how long the secret is, and do not want to be told.
		p.kemLength = !p.kemLength
		if !works() {
			p.kemLength = !p.kemLength
			return false
		}
	}
	p.grant(k.Name, Decapsulate)
	return true
}

func (p *prober) decapsulates(k kind) func(s *session, key pkcs11.ObjectHandle, pub *pqc.PublicKey) error {
	return func(s *session, key pkcs11.ObjectHandle, pub *pqc.PublicKey) error {
		ct, want, err := pub.Encapsulate()
		if err != nil {
			return errWrong
		}
		defer want.Wipe()
		got, err := s.decapsulate(k, key, ct)
		if err != nil {
			return err
		}
		defer clear(got)
		if subtle.ConstantTimeCompare(got, want) != 1 {
			return errWrong
		}
		ct[len(ct)/2] ^= 1
		first, err := s.decapsulate(k, key, ct)
		if err != nil {
			return err
		}
		again, err := s.decapsulate(k, key, ct)
		if err != nil {
			return err
		}
		if !bytes.Equal(first, again) || bytes.Equal(first, got) {
			return errWrong
		}
		return nil
	}
}

// pqImported finds how a token takes seeds. last is the way that another parameter set came in.
func (p *prober) pqImported(k kind, last *importWay) {
	priv, err := k.pq.NewPrivateKey(known(k.pq.Info().SeedSize))
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
	ways := []importWay{*last}
	for _, w := range p.unwrapWays(k) {
		ways = append(ways, importWay{unwrap: w})
	}
	ways = append(ways, importWay{create: true})
	for i, w := range ways {
		if w.none() || i > 0 && w == ways[0] {
			continue
		}
		if p.try("importing "+string(k.Name), func(s *session) error { return s.takesSeed(w, k, in, priv) }) {
			*last = w
			c := p.can[k.Name]
			c.imported = w
			p.can[k.Name] = c
			return
		}
	}
}

// takesSeed holds a known key of the token against this process's: it is the same one, and a deterministic signature is the same bytes.
func (s *session) takesSeed(w importWay, k kind, in *clearKey, priv *pqc.PrivateKey) error {
	key, err := s.introduce(w, k, k.Purposes[0], nil, in, false, false)
	if err != nil {
		return err
	}
	if err := s.held(key); err != nil {
		return err
	}
	if err := s.pqConsistent(k, key, priv.PublicKey()); err != nil {
		return err
	}
	if form := s.d.pq[k.Name]; form.deterministic {
		c := Call{Input: known(40), Deterministic: true}
		got, err := s.pqSign(k, key, c)
		if err != nil {
			return err
		}
		want, err := priv.Sign(c.Input, pqc.SignOptions{Deterministic: true})
		if err != nil || !slices.Equal(got, want) {
			return errWrong
		}
	}
	return s.destroyObjects(key)
}
