package api

import (
	"context"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keys"
)

func (s *Server) moveKey(ctx context.Context, c *call, r *wire.MoveKey) (wire.Job, error) {
	key, err := c.param("key")
	if err != nil {
		return wire.Job{}, err
	}
	return s.move(ctx, c, r, keys.MoveRequest{Key: key})
}

func (s *Server) moveKeys(ctx context.Context, c *call, r *wire.MoveKeys) (wire.Job, error) {
	return s.move(ctx, c, &r.MoveKey, keys.MoveRequest{Filter: keys.Filter{NamePrefix: r.NamePrefix, Algorithm: backend.Algorithm(r.Algorithm),
		State: keys.State(r.State), Label: r.Label}})
}

func (s *Server) move(ctx context.Context, c *call, r *wire.MoveKey, m keys.MoveRequest) (wire.Job, error) {
	who, err := c.creator()
	if err != nil {
		return wire.Job{}, err
	}
	if err := required("backend", r.Backend); err != nil {
		return wire.Job{}, err
	}
	m.Backend, m.Custody, m.Mode, m.AllowWeaker = r.Backend, backend.Custody(r.Custody), keys.MoveMode(r.Mode), r.AllowWeaker
	j, err := s.keys.Move(ctx, who, m)
	if err != nil {
		return wire.Job{}, err
	}
	return wireJob(j), nil
}
