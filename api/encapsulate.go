package api

import (
	"context"
	"fmt"

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
		c.itemFailed(out[i].Err)
	}
	if err != nil {
		return nil, err
	}
	if len(out) != len(list) {
		return nil, fmt.Errorf("api: the service gave %d encapsulations for %d items", len(out), len(list))
	}
	if single && out[0].Err != nil {
		return nil, out[0].Err
	}
	return &encapsulations{single: single, list: out, call: c}, nil
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

// encapsulations is the answer of encapsulate.
type encapsulations struct {
	single bool
	list   []keys.Encapsulation
	call   *call
}

func (r *encapsulations) size() int { return 256 + 2560*len(r.list) }

func (r *encapsulations) appendJSON(b []byte) []byte {
	if r.single {
		return r.one(b, &r.list[0])
	}
	b = append(b, `{"items":[`...)
	for i := range r.list {
		if i > 0 {
			b = append(b, ',')
		}
		if err := r.list[i].Err; err != nil {
			b = r.call.appendItemError(b, i, err)
			continue
		}
		b = r.one(b, &r.list[i])
	}
	return append(b, "]}"...)
}

func (r *encapsulations) one(b []byte, v *keys.Encapsulation) []byte {
	b = append(b, `{"kem_ciphertext":`...)
	b = appendBytes(b, v.Ciphertext)
	b = append(b, `,"shared_secret":`...)
	b = appendBytes(b, v.Secret)
	b = appendUsed(b, v.Used)
	return append(b, '}')
}
