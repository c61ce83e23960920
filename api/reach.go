package api

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/keys"
)

// keyID gives the id of a key that may be named by it or by its name, nil for "". An id is taken as it is: its key may be long gone. A credential that is
// limited to keys names one that it reaches.
func (s *Server) keyID(ctx context.Context, c *call, key string) (*uuid.UUID, error) {
	if key == "" {
		return nil, nil
	}
	if id, err := uuid.Parse(key); err == nil && len(key) == 36 && (!c.principal.Limited() || c.reachesID(key)) {
		return &id, nil
	}
	k, err := s.keys.Get(ctx, c.caller(), key)
	if err != nil {
		return nil, err
	}
	return &k.ID, nil
}

// reachesID reports whether the limits name the id and nothing else that it would have to have.
func (c *call) reachesID(id string) bool {
	r := c.principal.Restrictions
	return len(r.Labels) == 0 && (len(r.Keys) == 0 || slices.Contains(r.Keys, id))
}

// told reports whether the caller is told of an entry of its tenant.
func (c *call) told(ctx context.Context, e *audit.Entry) (bool, error) {
	return c.s.keys.Told(ctx, keys.Caller{Principal: c.principal, RequestID: c.id}, keys.Happened{Action: e.Action, Principal: e.Principal, Key: e.Key})
}
