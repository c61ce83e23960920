package api

import (
	"context"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keys"
)

func wireBackend(b keys.BackendStatus) wire.Backend {
	w := wire.Backend{Name: b.Info.Name, Kind: b.Info.Kind, ID: b.Info.ID, Default: b.Default, State: "available",
		KeepsObjects: b.Info.KeepsObjects, Quirks: b.Info.Quirks, CustodyCaveat: b.Info.CustodyCaveat}
	for _, m := range b.Members {
		w.Members = append(w.Members, wire.BackendMember{Name: m.Name, State: m.State, Weight: m.Weight, Since: optional(m.Since), Reason: m.Reason})
	}
	if !b.Healthy {
		w.State = b.Error
	}
	for _, c := range b.Info.Custody {
		w.Custody = append(w.Custody, string(c))
	}
	for _, c := range b.Info.Capabilities {
		a, _ := backend.Lookup(c.Algorithm) // of one that is not in the table only the name is known
		can := wire.Capability{Algorithm: string(c.Algorithm), Standard: a.Standard, Custody: string(c.Custody),
			Import: c.Import, PostQuantum: a.PostQuantum, SecurityBits: a.SecurityBits}
		for _, o := range c.Operations {
			can.Operations = append(can.Operations, string(o))
		}
		w.Capabilities = append(w.Capabilities, can)
	}
	return w
}

func (s *Server) listBackends(ctx context.Context, _ *call, _ *wire.Empty) (wire.List[wire.Backend], error) {
	var out wire.List[wire.Backend]
	for _, b := range s.keys.Backends(ctx) {
		out.Items = append(out.Items, wireBackend(b))
	}
	return out, nil
}

func (s *Server) showBackend(ctx context.Context, c *call, _ *wire.Empty) (wire.Backend, error) {
	name, err := c.param("name")
	if err != nil {
		return wire.Backend{}, err
	}
	b, err := s.keys.Backend(ctx, name)
	if err != nil {
		return wire.Backend{}, err
	}
	return wireBackend(b), nil
}
