package token

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// traits are what the probing found; fixed before the first operation.
type traits struct {
	style   style
	kwp     kwpWay
	kwpMech uint
	native  native
	inside  inside
	// zeroNonce: AES-GCM takes zeros for a nonce, and makes its own.
	zeroNonce bool
	params    map[backend.Algorithm][]byte
	points    map[backend.Algorithm]pointForm
	peerForm  pointForm // "" or pointRaw: bare points in CKM_ECDH1_DERIVE
	can       map[backend.Algorithm]ability
	pq        map[backend.Algorithm]pqForm // how it signs
	kemLength bool                         // C_DecapsulateKey wants to be told the length
	testWith  backend.Algorithm            // of the test key; "": only the generator is tested
}

// ability is what was proven of one algorithm: bit n is Operation n.
type ability struct {
	ops      uint16
	imported importWay
	wrap     wrapWay
}

func (a ability) has(op Operation) bool { return a.ops&(1<<op) != 0 }

// lists reports whether an operation of a key is one that was proven, for a key's purpose.
func (a ability) lists(op backend.Operation) bool {
	for o := Sign; o <= Decapsulate; o++ {
		if a.has(o) && opOf(o) == op {
			return true
		}
	}
	return false
}

func ops(list ...Operation) (out uint16) {
	for _, o := range list {
		out |= 1 << o
	}
	return out
}

func (d *device) paramsOf(k kind) []byte {
	if p := d.params[k.Name]; p != nil {
		return p
	}
	return k.params[0]
}

// prober tries things on session objects of its own session. What fails does not stop it, unless the token itself is gone.
type prober struct {
	*device
	g     *generation
	s     *session
	ctx   context.Context
	fatal error
	last  map[uint]importWay // by class: the way that worked first is tried first
}

// probe finds out what works, by doing it. Nothing is left on the token.
func (d *device) probe(ctx context.Context, g *generation) error {
	out := &g.description
	if err := d.listMechanisms(out); err != nil {
		return err
	}
	d.profile = profileOf(d.cfg.Profile, *out)
	out.Quirks = slices.Clone(d.profile.quirks)
	d.can = map[backend.Algorithm]ability{}
	d.params, d.points = map[backend.Algorithm][]byte{}, map[backend.Algorithm]pointForm{}
	d.native = native{pss: map[crypto.Hash]bool{}, oaep: map[crypto.Hash]bool{}, label: map[crypto.Hash]bool{}}
	p := &prober{device: d, g: g, ctx: ctx, last: map[uint]importWay{}}
	defer p.end()
	for _, part := range []func(){p.templates, p.aes, p.hmac, p.kwrap, p.curves, p.rsa, p.postQuantum, p.envelopes, p.wrapping, p.leaks} {
		part()
		if p.fatal != nil {
			return p.fatal
		}
		if ctx.Err() != nil {
			return timeout(ctx)
		}
	}
	p.conclude()
	if len(out.Capabilities) == 0 {
		return fault.New(fault.BackendUnavailable, "the token does nothing that is of use here: see its mechanisms and the module's log")
	}
	if out.LeaksWrapped && !d.cfg.AcceptLeaks {
		return fault.New(fault.PolicyDenied, "the token lets a key that is marked as non-extractable be wrapped out, so that whoever has its PIN can have its keys; "+
			"refused unless the configuration accepts that knowingly")
	}
	return nil
}

func (d *device) listMechanisms(out *Description) error {
	list, err := d.lib.mechanisms(out.Slot)
	if err != nil {
		return fmt.Errorf("listing the mechanisms: %w", err)
	}
	for _, m := range list {
		entry := Mechanism{Type: m, Name: mechanismName(m)}
		if info, err := d.lib.GetMechanismInfo(out.Slot, []*pkcs11.Mechanism{flat(m, nil)}); err == nil {
			entry.MinSize, entry.MaxSize, entry.Flags = info.MinKeySize, info.MaxKeySize, info.Flags
		}
		out.Mechanisms = append(out.Mechanisms, entry)
	}
	return nil
}

// offers finds a mechanism in the token's list.
func (p *prober) offers(mech uint) (Mechanism, bool) {
	for _, m := range p.g.description.Mechanisms {
		if m.Type == mech {
			return m, true
		}
	}
	return Mechanism{}, false
}

func (p *prober) quirk(text string) { p.g.description.Quirks = append(p.g.description.Quirks, text) }

var errWrong = errors.New("the result is wrong")

// try does one thing on the probing session, which is replaced when it fails: many modules leave an operation active.
func (p *prober) try(what string, f func(s *session) error) bool {
	if p.fatal != nil || p.ctx.Err() != nil {
		return false
	}
	if p.s == nil {
		h := p.g.pinned
		if !p.g.alone {
			var err error
			if h, err = p.g.open(p.device); err != nil {
				p.fatal = fmt.Errorf("opening a session: %w", err)
				return false
			}
		}
		p.s = &session{SessionHandle: h, d: p.device, gen: p.g, job: &job{ctx: p.ctx}}
	}
	err := f(p.s)
	if err == nil {
		return true
	}
	p.log.Debug("probing the token", "what", what, "error", err)
	if c, ok := classOf(err); ok && (c == classToken || c == classModule || c == classLogin) {
		p.fatal = fmt.Errorf("probing %s: %w", what, err)
	}
	p.end()
	return false
}

// end closes the probing session, and with it all that was made in it.
func (p *prober) end() {
	if p.s != nil && !p.g.alone {
		p.g.close(p.device, p.s.SessionHandle)
	}
	p.s = nil
}

func (p *prober) grant(a backend.Algorithm, list ...Operation) {
	c := p.can[a]
	c.ops |= ops(list...)
	p.can[a] = c
}

// templates finds the first style in which the token makes a key that is as it should be.
func (p *prober) templates() {
	aes, _ := kindOf(backend.AES256GCM)
	ec, _ := kindOf(backend.ECDSAP256)
	for _, k := range []kind{aes, ec} {
		if _, ok := p.offers(k.generate); !ok {
			continue
		}
		for _, st := range append(slices.Clone(p.profile.styles), styles[:]...) {
			p.style = st
			if p.try(fmt.Sprintf("a template of style %d", st), func(s *session) error { return s.makesSafely(k) }) {
				if st != 0 {
					p.quirk("does not take complete templates")
				}
				return
			}
		}
	}
	p.style = 0
}

// makesSafely makes a key and looks whether it is held as the template says.
func (s *session) makesSafely(k kind) error {
	own, public := s.d.usagesOf(k, k.Purposes[0])
	key, pub, err := s.make(k, object{class: k.class, keyType: k.keyType, label: objectLabel + "-probe", usages: own}, public)
	if err != nil {
		return err
	}
	f, err := s.flags(key)
	if err != nil {
		return err
	}
	if !f.Sensitive || f.Extractable {
		return errWrong
	}
	return s.destroyObjects(key, pub)
}

// conclude writes the capabilities down, in the order of the algorithm table.
func (p *prober) conclude() {
	out := &p.g.description
	for _, info := range backend.Algorithms() {
		a := p.can[info.Name]
		var list []backend.Operation
		add := func(op Operation, names ...backend.Operation) {
			if a.has(op) {
				list = append(list, names...)
			}
		}
		switch info.Family {
		case backend.FamilyAEAD:
			add(Encrypt, backend.OpEncrypt, backend.OpDecrypt, backend.OpRewrap, backend.OpDataKey, backend.OpWrap, backend.OpUnwrap)
		case backend.FamilyKWP:
			add(Wrap, backend.OpWrap, backend.OpUnwrap, backend.OpDataKey)
		case backend.FamilyHMAC:
			add(MAC, backend.OpMAC, backend.OpVerifyMAC)
		case backend.FamilyECDH:
			add(Agree, backend.OpDerive)
		case backend.FamilyKEM:
			add(Decapsulate, backend.OperationsOf(info, backend.PurposeEncapsulation)...)
		default:
			add(Sign, backend.OpSign, backend.OpVerify)
			add(Decrypt, backend.OpEncrypt, backend.OpDecrypt, backend.OpRewrap, backend.OpDataKey, backend.OpWrap, backend.OpUnwrap)
		}
		if len(list) > 0 {
			out.Capabilities = append(out.Capabilities, backend.Capability{Algorithm: info.Name, Custody: backend.CustodyDevice, Operations: list, Import: !a.imported.none()})
		}
	}
	var not []string
	for _, c := range out.Capabilities {
		if p.can[c.Algorithm].wrap.form != 0 {
			out.Wrapping = true
			out.Wrappable = append(out.Wrappable, c.Algorithm)
		} else {
			not = append(not, string(c.Algorithm))
		}
	}
	if out.Wrapping && len(not) > 0 {
		p.quirk("cannot keep keys wrapped of " + strings.Join(not, ", "))
	}
	for _, a := range []backend.Algorithm{backend.AES256GCM, backend.AES128GCM, backend.HMACSHA256, backend.ECDSAP256} {
		if p.can[a].ops != 0 {
			p.testWith = a
			break
		}
	}
}
