package api

import (
	"context"
	"crypto"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

func signOpts(hashName, padding, encoding string, context []byte) (o keys.SignOpts, err error) {
	o.Context = context
	if o.Hash, err = hash(hashName); err != nil {
		return o, err
	}
	if o.Hash == crypto.SHA1 {
		return o, fault.New(fault.BadField, "SHA-1 is not for signatures")
	}
	switch p := backend.Padding(padding); p {
	case "", backend.PaddingPSS, backend.PaddingPKCS1v15:
		o.Padding = p
	default:
		return o, fault.New(fault.BadField, "the field padding must be pss or pkcs1v15")
	}
	switch encoding {
	case "", "der":
	case "p1363":
		o.P1363 = true
	default:
		return o, fault.New(fault.BadField, "the field encoding must be der or p1363")
	}
	return o, nil
}

// subjects names what can be signed, where it is missing.
const subjects = "message (or digest or mu, but one alone)"

// one reports whether exactly one of the fields is there.
func one(fields ...[]byte) bool {
	n := 0
	for _, f := range fields {
		if f != nil {
			n++
		}
	}
	return n == 1
}

func (s *Server) sign(ctx context.Context, c *call, r *wire.Sign) (appender, error) {
	t, err := c.target(r.Target)
	if err != nil {
		return nil, err
	}
	o, err := signOpts(r.Hash, r.Padding, r.Encoding, r.SignatureContext)
	if err != nil {
		return nil, err
	}
	o.Deterministic = r.Deterministic
	w := &r.SignItem
	given := w.Message != nil || w.Digest != nil || w.Mu != nil || w.Context != nil
	list, single, err := gather(nil, r.Items, w, given,
		func(w *wire.SignItem) (keys.SignItem, string) {
			if !one(w.Message, w.Digest, w.Mu) {
				return keys.SignItem{}, subjects
			}
			return keys.SignItem{Message: w.Message, Digest: w.Digest, Mu: w.Mu, Context: w.Context}, ""
		})
	if err != nil {
		return nil, err
	}
	out, err := s.keys.Sign(ctx, c.caller(), t, o, list, single)
	return c.results("signature", false, single, len(list), out, err)
}

func (s *Server) verify(ctx context.Context, c *call, r *wire.Verify) (appender, error) {
	t, err := c.target(r.Target)
	if err != nil {
		return nil, err
	}
	o, err := signOpts(r.Hash, r.Padding, r.Encoding, r.SignatureContext)
	if err != nil {
		return nil, err
	}
	w := &r.VerifyItem
	given := w.Message != nil || w.Digest != nil || w.Mu != nil || w.Signature != nil || w.Context != nil
	list, single, err := gather(nil, r.Items, w, given,
		func(w *wire.VerifyItem) (keys.VerifyItem, string) {
			if !one(w.Message, w.Digest, w.Mu) {
				return keys.VerifyItem{}, subjects
			}
			if w.Signature == nil {
				return keys.VerifyItem{}, "signature"
			}
			return keys.VerifyItem{Message: w.Message, Digest: w.Digest, Mu: w.Mu, Signature: w.Signature, Context: w.Context}, ""
		})
	if err != nil {
		return nil, err
	}
	out, err := s.keys.Verify(ctx, c.caller(), t, o, list, single)
	return c.verdicts(single, len(list), out, err)
}
