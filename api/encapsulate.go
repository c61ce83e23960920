package api

import (
	"context"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/keys"
)

func (s *Server) encapsulate(ctx context.Context, c *call, r *wire.Encapsulate) (appender, error) {
	t, err := c.target(r.Target)
	if err != nil {
		return nil, err
	}
	w := &r.EncapsulateItem
	list, single, err := gather(nil, r.Items, w, w.Context != nil, func(w *wire.EncapsulateItem) (keys.EncapsulateItem, string) {
		return keys.EncapsulateItem{Context: w.Context}, ""
	})
	if err != nil {
		return nil, err
	}
	out, err := s.keys.Encapsulate(ctx, c.caller(), t, list, single)
	for i := range out {
		c.answer.wipe = append(c.answer.wipe, out[i].Secret)
	}
	res := results[keys.Encapsulation]{single: single, list: out, call: c,
		failure: func(v *keys.Encapsulation) error { return v.Err },
		room:    func(v *keys.Encapsulation) int { return 64 + 2*len(v.Ciphertext) },
		one: func(b []byte, v *keys.Encapsulation) []byte {
			b = append(b, `{"kem_ciphertext":`...)
			b = appendBytes(b, v.Ciphertext)
			b = append(b, `,"shared_secret":`...)
			b = appendBytes(b, v.Secret)
			b = appendUsed(b, v.Used)
			return append(b, '}')
		}}
	return res.answer(len(list), err)
}

func (s *Server) decapsulate(ctx context.Context, c *call, r *wire.Decapsulate) (appender, error) {
	t, err := c.target(r.Target)
	if err != nil {
		return nil, err
	}
	w := &r.DecapsulateItem
	list, single, err := gather(nil, r.Items, w, w.KEMCiphertext != nil || w.Context != nil,
		func(w *wire.DecapsulateItem) (keys.DecapsulateItem, string) {
			if w.KEMCiphertext == nil {
				return keys.DecapsulateItem{}, "kem_ciphertext"
			}
			return keys.DecapsulateItem{Ciphertext: w.KEMCiphertext, Context: w.Context}, ""
		})
	if err != nil {
		return nil, err
	}
	out, err := s.keys.Decapsulate(ctx, c.caller(), t, list, single)
	return c.results("shared_secret", true, single, len(list), out, err)
}
