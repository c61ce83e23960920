package api

import (
	"context"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

func (s *Server) me(_ context.Context, c *call, _ *wire.Empty) (wire.Me, error) {
	p := c.principal
	m := wire.Me{ID: p.ID, Name: p.Name, Tenant: p.Tenant.String(), Scopes: make([]string, len(p.Scopes))}
	for i, scope := range p.Scopes {
		m.Scopes[i] = string(scope)
	}
	return m, nil
}

func wireAPIKey(k *auth.APIKey) wire.APIKey {
	w := wire.APIKey{ID: k.ID.String(), Name: k.Name, Brand: k.Brand, Prefix: k.Prefix, Scopes: make([]string, len(k.Scopes)),
		CreatedAt: k.CreatedAt.UTC(), ExpiresAt: optional(k.ExpiresAt), RevokedAt: optional(k.RevokedAt)}
	for i, scope := range k.Scopes {
		w.Scopes[i] = string(scope)
	}
	return w
}

func (s *Server) createAPIKey(ctx context.Context, c *call, r *wire.CreateAPIKey) (wire.APIKey, error) {
	who, err := c.creator()
	if err != nil {
		return wire.APIKey{}, err
	}
	if err := required("name", r.Name); err != nil {
		return wire.APIKey{}, err
	}
	in := auth.CreateRequest{Name: r.Name, Scopes: make([]auth.Scope, len(r.Scopes))}
	for i, scope := range r.Scopes {
		in.Scopes[i] = auth.Scope(scope)
	}
	in.Brand = r.Brand
	if r.ExpiresAt != nil {
		in.ExpiresAt = *r.ExpiresAt
	}
	k, presented, err := s.auth.CreateAPIKey(ctx, who.Principal, in, c.id, who.Idempotency)
	if err != nil {
		return wire.APIKey{}, err
	}
	w := wireAPIKey(k)
	w.Key = presented
	return w, nil
}

func (s *Server) listAPIKeys(ctx context.Context, c *call, _ *wire.Empty) (wire.List[wire.APIKey], error) {
	limit, cursor, err := c.page()
	if err != nil {
		return wire.List[wire.APIKey]{}, err
	}
	list, next, err := s.auth.APIKeys(ctx, c.principal, cursor, limit)
	if err != nil {
		return wire.List[wire.APIKey]{}, err
	}
	out := wire.List[wire.APIKey]{Items: make([]wire.APIKey, len(list)), NextCursor: next}
	for i, k := range list {
		out.Items[i] = wireAPIKey(k)
	}
	return out, nil
}

func (s *Server) revokeAPIKey(ctx context.Context, c *call, _ *wire.Empty) (wire.APIKey, error) {
	id, err := c.pathID("id", fault.New(fault.APIKeyNotFound, "no such API key in this tenant"))
	if err != nil {
		return wire.APIKey{}, err
	}
	if err := s.auth.RevokeAPIKey(ctx, c.principal, id, c.id); err != nil {
		return wire.APIKey{}, err
	}
	k, err := s.auth.APIKey(ctx, c.principal, id)
	if err != nil {
		return wire.APIKey{}, err
	}
	return wireAPIKey(k), nil
}

// pathID gives a path parameter as a UUID in its usual form; what is none names nothing.
func (c *call) pathID(name string, unknown *fault.Error) (uuid.UUID, error) {
	text := c.gin.Param(name)
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return uuid.Nil, unknown
	}
	return id, nil
}
