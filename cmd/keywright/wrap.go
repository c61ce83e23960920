package main

import (
	"context"
	"strings"

	"github.com/keywright/keywright/api/wire"
)

type wrapCmd struct {
	keyFlag
	source
	binary
	bound
}

func (k wrapCmd) Run(ctx context.Context, a *app) error {
	if err := k.required(); err != nil {
		return err
	}
	aad, err := k.aad()
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	b, err := k.read(a)
	if err != nil {
		return err
	}
	defer clear(b)
	r, err := c.Wrap(ctx, wire.Wrap{Target: k.target(), WrapItem: wire.WrapItem{Plaintext: b, AAD: aad, Context: k.Context}})
	if err != nil {
		return err
	}
	return k.put(a, r, r.WrappedKey, written{KeyID: r.KeyID, KeyVersion: r.KeyVersion, KeyState: r.KeyState})
}

type unwrapCmd struct {
	keyFlag
	binarySource
	sink
	bound
	As string `help:"How to print the material: raw, base64 or hex." enum:"raw,base64,hex" default:"raw"`
}

func (k unwrapCmd) Run(ctx context.Context, a *app) error {
	if err := k.required(); err != nil {
		return err
	}
	aad, err := k.aad()
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	b, err := k.read(a)
	if err != nil {
		return err
	}
	r, err := c.Unwrap(ctx, wire.Unwrap{Target: k.target(), UnwrapItem: wire.UnwrapItem{WrappedKey: b, AAD: aad, Context: k.Context}})
	if err != nil {
		return err
	}
	defer clear(r.Plaintext)
	return binary{k.sink, encoding{k.As}}.put(a, r, r.Plaintext, written{KeyID: r.KeyID, KeyVersion: r.KeyVersion, KeyState: r.KeyState})
}

type deriveCmd struct {
	keyFlag
	Peer    string            `required:"" placeholder:"FILE" help:"The peer's public key: PEM, DER, or the raw value."`
	Salt    string            `placeholder:"TEXT" help:"Salt of HKDF."`
	Info    string            `placeholder:"TEXT" help:"Info of HKDF: what the key is for."`
	Hash    string            `placeholder:"NAME" help:"Hash of HKDF; SHA-256 when not given."`
	Length  int               `placeholder:"BYTES" help:"Length of the derived key; 32 when not given."`
	Context map[string]string `placeholder:"NAME=VALUE" help:"Context that the key's policy asks for. Repeatable." mapsep:"none"`
	binary
}

func (k deriveCmd) Run(ctx context.Context, a *app) error {
	if err := k.required(); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	b, err := source{In: k.Peer}.read(a)
	if err != nil {
		return err
	}
	peer := string(b)
	if !strings.Contains(peer, "-----BEGIN") {
		peer = strings.TrimSpace(string(encoding{"base64"}.encode(unbase64(b), false)))
	}
	r, err := c.Derive(ctx, wire.Derive{Target: k.target(), DeriveItem: wire.DeriveItem{PeerPublicKey: peer, Salt: []byte(k.Salt), Info: []byte(k.Info),
		Hash: k.Hash, Length: k.Length, Context: k.Context}})
	if err != nil {
		return err
	}
	defer clear(r.DerivedKey)
	return k.put(a, r, r.DerivedKey, written{KeyID: r.KeyID, KeyVersion: r.KeyVersion, KeyState: r.KeyState})
}

type dataKeyCmd struct {
	keyFlag
	bound
	Bytes            int    `help:"Size of the data key, 16 to 64 bytes." default:"32"`
	WithoutPlaintext bool   `help:"Only the encrypted data key."`
	PlaintextOut     string `placeholder:"FILE" help:"Write the data key in clear to this file (readable by you alone) instead of printing it."`
	sink
}

func (k dataKeyCmd) Run(ctx context.Context, a *app) error {
	if err := k.required(); err != nil {
		return err
	}
	if k.WithoutPlaintext && k.PlaintextOut != "" {
		return usage("--without-plaintext does not go with --plaintext-out")
	}
	aad, err := k.aad()
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	r, err := c.DataKey(ctx, wire.DataKey{Target: k.target(), DataKeyItem: wire.DataKeyItem{Bytes: k.Bytes, AAD: aad, Context: k.Context, WithoutPlaintext: k.WithoutPlaintext}})
	if err != nil {
		return err
	}
	defer clear(r.Plaintext)
	if k.PlaintextOut != "" {
		if err := k.file(k.PlaintextOut, r.Plaintext); err != nil {
			return err
		}
		clear(r.Plaintext)
		r.Plaintext = nil
	}
	if k.Out != "" {
		if err := k.file(k.Out, r.Ciphertext); err != nil {
			return err
		}
		r.Ciphertext = nil
	}
	return a.show(r, func() error {
		return a.fields("plaintext", base64Text(r.Plaintext), "ciphertext", base64Text(r.Ciphertext), "key version", number(r.KeyVersion))
	})
}

// base64Text is base64 without the end of the line, for a field among others.
func base64Text(b []byte) string {
	return strings.TrimSpace(string(encoding{"base64"}.encode(b, false)))
}

type randomCmd struct {
	Bytes   int    `arg:"" help:"How many, 1 to 1048576."`
	Backend string `help:"Backend whose generator is mixed in; the default one when not given."`
	binary
}

func (k randomCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	b, err := c.Random(ctx, k.Bytes, k.Backend)
	if err != nil {
		return err
	}
	defer clear(b)
	return k.put(a, wire.RandomResult{Random: b}, b, written{})
}
