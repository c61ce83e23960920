package main

import (
	"context"
	"strings"

	"github.com/keywright/keywright/api/wire"
)

type nodesCmd struct {
	List nodesListCmd `cmd:"" default:"withargs" help:"List the nodes that run on the store."`
}

type nodesListCmd struct{}

func (nodesListCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, c.Nodes(ctx), []string{"NAME", "ADDRESS", "VERSION", "STARTED", "SEEN", "BACKENDS", "LEASES", "ID"}, func(n wire.Node) []string {
		backends := make([]string, len(n.Backends))
		for i, b := range n.Backends {
			backends[i] = b.Name
		}
		name := n.Name
		if n.Self {
			name += " (this)"
		}
		return []string{name, n.Address, n.Version, when(n.StartedAt), when(n.SeenAt), strings.Join(backends, ","), number(len(n.Leases)), n.ID}
	})
}
