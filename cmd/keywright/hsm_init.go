package main

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
)

type hsmInitCmd struct {
	hsmToken
}

// initialised says which of the service's keys are on a token now.
type initialised struct {
	Backend  string           `json:"backend_id"` // identity in key records
	Serial   string           `json:"serial"`
	Label    string           `json:"label"`
	Keys     []initialisedKey `json:"keys"`
	Wrapping bool             `json:"wrapping_key"`
}

type initialisedKey struct {
	Name      string            `json:"name"`
	Algorithm backend.Algorithm `json:"algorithm"`
	Made      bool              `json:"made"` // now; else it was there
}

// Run makes what the service makes at its first start, so that a token can be prepared, and replicated, before it is in service.
func (k hsmInitCmd) Run(ctx context.Context, a *app) (err error) {
	t, u, err := k.open(ctx, a, func(_ *token.Config, o *remote.Options) { o.Processes = 1 })
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, t.Close())
		}
	}()
	before, err := t.List(ctx)
	if err != nil {
		return deviceError(err)
	}
	d := t.Describe()
	out := initialised{Serial: d.Serial, Label: d.Label, Keys: []initialisedKey{}}
	if d.Wrapping {
		if err := makeWrappingKey(ctx, t, d); err != nil {
			return deviceError(err)
		}
		out.Wrapping = true
	}
	b, err := hsm.Open(ctx, hsm.Options{Name: "init", Members: []hsm.Member{{Token: t}}, Placement: hsm.Placement(u.Placement)})
	if err != nil {
		return deviceError(err)
	}
	closed = true // with the backend
	out.Backend = b.Info().ID
	after, err := t.List(ctx)
	if err = errors.Join(err, b.Close()); err != nil {
		return deviceError(err)
	}
	has := func(list []token.Object, id token.ID) bool {
		return slices.ContainsFunc(list, func(o token.Object) bool { return o.ID == id })
	}
	for _, s := range hsm.ServiceKeys() {
		if has(after, s.ID) {
			out.Keys = append(out.Keys, initialisedKey{s.Name, s.Algorithm, !has(before, s.ID)})
		}
	}
	return a.show(out, func() error {
		if err := a.fields("token", printable(out.Label), "serial", printable(out.Serial), "backend id", out.Backend, "wrapping key", yesNo(out.Wrapping)); err != nil {
			return err
		}
		for _, key := range out.Keys {
			state := "was there"
			if key.Made {
				state = "made"
			}
			if err := a.printf("%s (%s): %s\n", key.Name, key.Algorithm, state); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeWrappingKey makes the key for wrapped placement, which comes with the first wrapped key; that one is forgotten.
func makeWrappingKey(ctx context.Context, t token.Token, d token.Description) error {
	for _, c := range d.Capabilities {
		info, ok := backend.Lookup(c.Algorithm)
		if !ok || !slices.Contains(d.Wrappable, c.Algorithm) {
			continue
		}
		var id token.ID
		rand.Read(id[:]) // never fails (crypto/rand)
		_, err := t.Generate(ctx, id, c.Algorithm, info.Purposes[0], true)
		return err
	}
	return nil
}
