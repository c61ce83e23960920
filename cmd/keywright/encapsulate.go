package main

import (
	"context"

	"github.com/keywright/keywright/api/wire"
)

type encapsulateCmd struct {
	keyFlag
	Context   map[string]string `placeholder:"NAME=VALUE" help:"Context that the key's policy asks for. Repeatable." mapsep:"none"`
	SecretOut string            `placeholder:"FILE" help:"Write the shared secret to this file (readable by you alone) instead of printing it."`
	sink
}

func (k encapsulateCmd) Run(ctx context.Context, a *app) error {
	if err := k.required(); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	r, err := c.Encapsulate(ctx, wire.Encapsulate{Target: k.target(), EncapsulateItem: wire.EncapsulateItem{Context: k.Context}})
	if err != nil {
		return err
	}
	defer clear(r.SharedSecret)
	if r.KeyState == "compromised" {
		a.warn("this key version is marked compromised")
	}
	if k.SecretOut != "" {
		if err := k.file(k.SecretOut, r.SharedSecret); err != nil {
			return err
		}
		clear(r.SharedSecret)
		r.SharedSecret = nil
	}
	if k.Out != "" {
		if err := k.file(k.Out, r.KEMCiphertext); err != nil {
			return err
		}
		r.KEMCiphertext = nil
	}
	return a.show(r, func() error {
		return a.fields("shared secret", base64Text(r.SharedSecret), "ciphertext", base64Text(r.KEMCiphertext), "key version", number(r.KeyVersion))
	})
}

type decapsulateCmd struct {
	keyFlag
	binarySource
	sink
	Context map[string]string `placeholder:"NAME=VALUE" help:"Context that the key's policy asks for. Repeatable." mapsep:"none"`
	As      string            `help:"How to print the secret: raw, base64 or hex." enum:"raw,base64,hex" default:"raw"`
}

func (k decapsulateCmd) Run(ctx context.Context, a *app) error {
	if err := k.required(); err != nil {
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
	r, err := c.Decapsulate(ctx, wire.Decapsulate{Target: k.target(), DecapsulateItem: wire.DecapsulateItem{KEMCiphertext: b, Context: k.Context}})
	if err != nil {
		return err
	}
	defer clear(r.SharedSecret)
	return binary{k.sink, encoding{k.As}}.put(a, r, r.SharedSecret, written{KeyID: r.KeyID, KeyVersion: r.KeyVersion, KeyState: r.KeyState})
}
