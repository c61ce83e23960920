package api

import (
	"context"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/cluster"
)

// NodesFunc lists the nodes that run on the store, and the leases that are held. self is the one that answers.
type NodesFunc = func(ctx context.Context) (nodes []*cluster.Node, leases []cluster.Lease, self uuid.UUID, err error)

func noNodes(context.Context) ([]*cluster.Node, []cluster.Lease, uuid.UUID, error) {
	return nil, nil, uuid.Nil, nil
}

func (s *Server) listNodes(ctx context.Context, _ *call, _ *wire.Empty) (wire.List[wire.Node], error) {
	var out wire.List[wire.Node]
	nodes, leases, self, err := s.nodes(ctx)
	if err != nil {
		return out, err
	}
	for _, n := range nodes {
		w := wire.Node{ID: n.ID.String(), Name: n.Name, Address: n.Address, Version: n.Version, StartedAt: n.StartedAt, SeenAt: n.SeenAt,
			Self: n.ID == self, Backends: []wire.NodeBackend{}, Leases: []string{}}
		for _, b := range n.Backends {
			w.Backends = append(w.Backends, wire.NodeBackend{Name: b.Name, Kind: b.Kind, ID: b.ID})
		}
		for _, l := range leases {
			if l.Holder == n.ID {
				w.Leases = append(w.Leases, l.Name)
			}
		}
		out.Items = append(out.Items, w)
	}
	return out, nil
}
