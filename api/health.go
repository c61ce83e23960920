package api

import (
	"context"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
)

// health answers as long as the process does. A locked service is alive: its state is in the answer, not in the status.
func (s *Server) health(context.Context, *call, *wire.Empty) (wire.Health, error) {
	h := wire.Health{Status: "ok", Version: s.version}
	if s.root.Locked() {
		h.Status = "locked"
	}
	return h, nil
}

// isReady answers 200 only when an operation would be carried out now.
func (s *Server) isReady(ctx context.Context, _ *call, _ *wire.Empty) (wire.Health, error) {
	if s.root.Locked() {
		return wire.Health{}, fault.New(fault.Locked, "the service is locked: its root is not open yet")
	}
	if err := s.ready(ctx); err != nil {
		return wire.Health{}, err
	}
	return wire.Health{Status: "ok", Version: s.version}, nil
}
