package api

import (
	"context"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/keys"
)

func (s *Server) wrap(ctx context.Context, c *call, r *wire.Wrap) (appender, error) {
	t, err := c.target(r.Target)
	if err != nil {
		return nil, err
	}
	w := &r.WrapItem
	list, single, err := gather(c.batch.encrypt[:0], r.Items, w, w.Plaintext != nil || w.AAD != nil || w.Context != nil,
		func(w *wire.WrapItem) (keys.EncryptItem, string) {
			if w.Plaintext == nil {
				return keys.EncryptItem{}, "plaintext"
			}
			return keys.EncryptItem{Plaintext: w.Plaintext, AAD: w.AAD, Context: w.Context}, ""
		})
	if err != nil {
		return nil, err
	}
	c.batch.encrypt = list
	out, err := s.keys.Wrap(ctx, c.caller(), t, list, single)
	return c.results("wrapped_key", false, single, len(list), out, err)
}

func (s *Server) unwrap(ctx context.Context, c *call, r *wire.Unwrap) (appender, error) {
	t, err := c.target(r.Target)
	if err != nil {
		return nil, err
	}
	w := &r.UnwrapItem
	list, single, err := gather(c.batch.open[:0], r.Items, w, w.WrappedKey != nil || w.AAD != nil || w.Context != nil,
		func(w *wire.UnwrapItem) (keys.CiphertextItem, string) {
			if w.WrappedKey == nil {
				return keys.CiphertextItem{}, "wrapped_key"
			}
			return keys.CiphertextItem{Ciphertext: w.WrappedKey, AAD: w.AAD, Context: w.Context}, ""
		})
	if err != nil {
		return nil, err
	}
	c.batch.open = list
	out, err := s.keys.Unwrap(ctx, c.caller(), t, list, single)
	return c.results("plaintext", true, single, len(list), out, err)
}

func (s *Server) dataKey(ctx context.Context, c *call, r *wire.DataKey) (appender, error) {
	t, err := c.target(r.Target)
	if err != nil {
		return nil, err
	}
	w := &r.DataKeyItem
	list, single, err := gather(nil, r.Items, w, w.Bytes != 0 || w.AAD != nil || w.Context != nil || w.WithoutPlaintext,
		func(w *wire.DataKeyItem) (keys.DataKeyRequest, string) {
			return keys.DataKeyRequest{Bytes: w.Bytes, Hide: w.WithoutPlaintext, AAD: w.AAD, Context: w.Context}, ""
		})
	if err != nil {
		return nil, err
	}
	out, err := s.keys.DataKeys(ctx, c.caller(), t, list, single)
	for i := range out {
		c.answer.wipe = append(c.answer.wipe, out[i].Plaintext)
	}
	res := results[keys.DataKey]{single: single, list: out, call: c,
		failure: func(v *keys.DataKey) error { return v.Err },
		room:    func(v *keys.DataKey) int { return 128 + 2*len(v.Ciphertext) },
		one: func(b []byte, v *keys.DataKey) []byte {
			b = append(b, '{')
			if v.Plaintext != nil {
				b = append(b, `"plaintext":`...)
				b = appendBytes(b, v.Plaintext)
				b = append(b, ',')
			}
			b = append(b, `"ciphertext":`...)
			b = appendBytes(b, v.Ciphertext)
			b = appendUsed(b, v.Used)
			return append(b, '}')
		}}
	return res.answer(len(list), err)
}
