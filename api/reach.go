package api

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// limited reports whether the credential is limited to keys, by name or by label. Then it is told of others neither by the log nor by events.
func (c *call) limited() bool {
	r := c.principal.Restrictions
	return r != nil && (len(r.Keys) > 0 || len(r.Labels) > 0)
}

// beyond refuses and records what a credential that is limited to keys asks about all of them.
func (c *call) beyond(ctx context.Context) error {
	if err := c.denied(ctx, &auth.Decision{Rule: auth.RuleKeys, Code: fault.Forbidden}); !fault.Has(err, fault.Forbidden) {
		return err // it could not be recorded
	}
	return fault.New(fault.Forbidden, "a credential that is limited to keys has to name one of them")
}

// keyID gives the id of a key that may be named by it or by its name, nil for "". An id is taken as it is: its key may be long gone. A credential that is
// limited to keys names one that it reaches.
func (s *Server) keyID(ctx context.Context, c *call, key string) (*uuid.UUID, error) {
	limited := c.limited()
	if key == "" {
		if limited {
			return nil, c.beyond(ctx)
		}
		return nil, nil
	}
	if id, err := uuid.Parse(key); err == nil && len(key) == 36 && (!limited || c.reachesID(key)) {
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
	return len(r.Labels) == 0 && slices.Contains(r.Keys, id)
}

// reachesEntry reports whether the credential may be shown an entry of its tenant: one that is limited to keys is shown those of them, and its own.
func (s *Server) reachesEntry(ctx context.Context, c *call, e *audit.Entry) (bool, error) {
	switch {
	case !c.limited() || e.Principal == c.principal.ID:
		return true, nil
	case e.Key == uuid.Nil:
		return false, nil
	}
	_, err := s.keyID(ctx, c, e.Key.String())
	if fault.Has(err, fault.Forbidden) || fault.Has(err, fault.KeyNotFound) || fault.Has(err, fault.InsufficientScope) {
		return false, nil
	}
	return err == nil, err
}
