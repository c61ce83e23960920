package api

import (
	"context"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

func encryptOpts(hashName, format string) (o keys.EncryptOpts, err error) {
	if o.Hash, err = hash(hashName); err != nil {
		return o, err
	}
	switch format {
	case "", "envelope":
	case string(keys.FormatRaw), string(keys.FormatHPKE), string(keys.FormatKEMDEM):
		o.Format = keys.Format(format)
	default:
		return o, fault.New(fault.BadField, "the field format must be envelope, raw, hpke or kem-dem")
	}
	return o, nil
}

func toEncrypt(w *wire.EncryptItem) (keys.EncryptItem, string) {
	if w.Plaintext == nil {
		return keys.EncryptItem{}, "plaintext"
	}
	return keys.EncryptItem{Plaintext: w.Plaintext, AAD: w.AAD, Context: w.Context, Label: w.Label}, ""
}

func (s *Server) encrypt(ctx context.Context, c *call, r *wire.Encrypt) (appender, error) {
	t, err := c.target(r.Target)
	if err != nil {
		return nil, err
	}
	o, err := encryptOpts(r.Hash, r.Format)
	if err != nil {
		return nil, err
	}
	w := &r.EncryptItem
	given := w.Plaintext != nil || w.AAD != nil || w.Context != nil || w.Label != nil
	list, single, err := gather(c.batch.encrypt[:0], r.Items, w, given, toEncrypt)
	if err != nil {
		return nil, err
	}
	c.batch.encrypt = list
	out, err := s.keys.Encrypt(ctx, c.caller(), t, o, list, single)
	return c.results("ciphertext", false, single, len(list), out, err)
}

func toOpen(w *wire.DecryptItem) (keys.CiphertextItem, string) {
	if w.Ciphertext == nil {
		return keys.CiphertextItem{}, "ciphertext"
	}
	return keys.CiphertextItem{Ciphertext: w.Ciphertext, AAD: w.AAD, Context: w.Context, Label: w.Label}, ""
}

// ciphertexts reads what decrypt and rewrap share.
func (c *call) ciphertexts(r *wire.Decrypt) (t keys.Target, o keys.EncryptOpts, list []keys.CiphertextItem, single bool, err error) {
	if t, err = c.target(r.Target); err != nil {
		return t, o, nil, false, err
	}
	if o, err = encryptOpts(r.Hash, r.Format); err != nil {
		return t, o, nil, false, err
	}
	w := &r.DecryptItem
	given := w.Ciphertext != nil || w.AAD != nil || w.Context != nil || w.Label != nil
	list, single, err = gather(c.batch.open[:0], r.Items, w, given, toOpen)
	if err == nil {
		c.batch.open = list
	}
	return t, o, list, single, err
}

func (s *Server) decryptWith(ctx context.Context, c *call, r *wire.Decrypt) (appender, error) {
	t, o, list, single, err := c.ciphertexts(r)
	if err != nil {
		return nil, err
	}
	out, err := s.keys.Decrypt(ctx, c.caller(), t, o, list, single)
	return c.results("plaintext", true, single, len(list), out, err)
}

func (s *Server) rewrap(ctx context.Context, c *call, r *wire.Decrypt) (appender, error) {
	t, _, list, single, err := c.ciphertexts(r)
	if err != nil {
		return nil, err
	}
	if r.Hash != "" || r.Format != "" {
		return nil, fault.New(fault.BadField, "rewrap takes envelopes: it has neither hash nor format")
	}
	out, err := s.keys.Rewrap(ctx, c.caller(), t, list, single)
	return c.results("ciphertext", false, single, len(list), out, err)
}
