package token

import (
	"bytes"
	"crypto"
	"crypto/subtle"
	"slices"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
)

// postQuantum proves ML-DSA, ML-KEM and SLH-DSA against package pqc, each parameter set by itself: a mechanism list does not say which of them a token
// has, and many lists claim what does not work.
func (p *prober) postQuantum() {
	p.pq = map[backend.Algorithm]pqForm{}
	p.kemLength = true
	p.lib.findNewer(p.cfg.Module)
	var way importWay
	for _, info := range backend.Algorithms() {
		k, ok := kindOf(info.Name)
		if !ok || k.set == 0 {
			continue
		}
		_, makes := p.offers(k.generate)
		_, does := p.offers(k.mech)
		if !makes || !does || k.pq.SelfTest() != nil {
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

// provesSigning finds out which signatures a token makes: hedged ones at least, else it is not offered.
func (p *prober) provesSigning(k kind) bool {
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
	// As if it could; what does not is taken back.
	claim := pqForm{hedge: form.hedge, context: true, deterministic: true}
	try := func(what string, c Call) bool {
		p.pq[k.Name] = claim
		return p.pair(k, what, func(s *session, key pkcs11.ObjectHandle, pub *pqc.PublicKey) error {
			return s.signs(k, key, pub, c, !c.Deterministic && form.hedge == ckhHedgeRequired)
		})
	}
	form.context = try("a context", Call{Context: []byte("context")}) && try("a long context", Call{Context: known(pqc.MaxContext)})
	form.deterministic = try("a deterministic signature", Call{Deterministic: true})
	if _, ok := p.offers(ckmHashMLDSA); ok && k.Family == backend.FamilyMLDSA {
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			claim.hashes = []crypto.Hash{h}
			if try("a digest", Call{Hash: h}) && (!form.context || try("a digest and a context", Call{Hash: h, Context: []byte("context")})) {
				form.hashes = append(form.hashes, h)
			}
		}
	}
	p.pq[k.Name] = form
	if !form.context || !form.deterministic {
		p.quirk("does not make all signatures of " + string(k.Name) + ": with a context " + yesNo(form.context) + ", deterministic " + yesNo(form.deterministic))
	}
	return true
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
