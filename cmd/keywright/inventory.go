package main

import (
	"context"
	"iter"
	"strings"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/client"
)

type keysInventoryCmd struct {
	Prefix    string `help:"Only names that begin so."`
	Algorithm string `short:"a" help:"Only this algorithm."`
	State     string `help:"Only this state."`
	Label     string `short:"l" placeholder:"NAME[=VALUE]" help:"Only with this label."`
	Readiness string `help:"Only vulnerable, symmetric, post-quantum or hybrid." enum:"vulnerable,symmetric,post-quantum,hybrid," default:""`
	Limit     int    `help:"At most so many; 0: all."`
}

func (k keysInventoryCmd) Help() string {
	return "A vulnerable key is of an algorithm that a quantum computer breaks; what was encrypted under it can be recorded now and opened then. Each is shown with its recommended successor. New keys can be held to post-quantum algorithms: settings keys."
}

func (k keysInventoryCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	f := client.KeyFilter{NamePrefix: k.Prefix, Algorithm: k.Algorithm, State: k.State, Label: k.Label}
	found := ready(c.Inventory(ctx, f), k.Readiness)
	return list(a, take(found, k.Limit), []string{"NAME", "ALGORITHM", "PURPOSE", "CUSTODY", "READINESS", "SUCCESSORS", "STATE", "CREATED"}, func(k wire.InventoryKey) []string {
		return []string{k.Name, k.Algorithm, k.Purpose, k.Custody, k.Readiness, strings.Join(k.Successors, ", "), k.State, when(k.CreatedAt)}
	})
}

// ready leaves out what has another readiness; "" leaves out nothing.
func ready(in iter.Seq2[wire.InventoryKey, error], want string) iter.Seq2[wire.InventoryKey, error] {
	return func(yield func(wire.InventoryKey, error) bool) {
		for k, err := range in {
			if err == nil && want != "" && k.Readiness != want {
				continue
			}
			if !yield(k, err) {
				return
			}
		}
	}
}

type settingsCmd struct {
	Keys settingsKeysCmd `cmd:"" help:"Which algorithms the tenant takes for new keys."`

	Security settingsSecurityCmd `cmd:"" help:"The tenant's security: where its credentials may be used, and for how long."`
}

type settingsKeysCmd struct {
	NewKeys string `placeholder:"KIND" help:"Take any algorithm, post-quantum (and hybrid and symmetric) ones, or hybrid (and symmetric) ones alone." enum:"any,post-quantum,hybrid," default:""`
}

func (k settingsKeysCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	var s *wire.KeySettings
	if k.NewKeys == "" {
		s, err = c.KeySettings(ctx)
	} else {
		s, err = c.SetKeySettings(ctx, wire.KeySettings{NewKeys: k.NewKeys})
	}
	if err != nil {
		return err
	}
	return a.show(s, func() error { return a.fields("new keys", s.NewKeys) })
}
