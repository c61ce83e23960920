package api

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

func (s *Server) me(_ context.Context, c *call, _ *wire.Empty) (wire.Me, error) {
	p := c.principal
	m := wire.Me{ID: p.ID, Name: p.Name, Tenant: p.Tenant.String(), TenantName: p.TenantName, Role: string(p.Role), Scopes: scopeNames(p.Scopes),
		ExpiresAt: optional(p.ExpiresAt)}
	if r := p.Restrictions; r != nil {
		m.Keys, m.Labels, m.Operations, m.AllowedCIDRs, m.RateLimit = r.Keys, r.Labels, r.Operations, ranges(r.CIDRs), r.RateLimit
	}
	return m, nil
}

func scopeNames(scopes []auth.Scope) []string {
	out := make([]string, len(scopes))
	for i, scope := range scopes {
		out[i] = string(scope)
	}
	return out
}

func ranges(prefixes []netip.Prefix) []string {
	var out []string
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return out
}

func wireAPIKey(k *auth.APIKey) wire.APIKey {
	r := &k.Restrictions
	return wire.APIKey{ID: k.ID.String(), Name: k.Name, Brand: k.Brand, Prefix: k.Prefix, Role: string(k.Role), Scopes: scopeNames(k.Effective()),
		Keys: r.Keys, Labels: r.Labels, Operations: r.Operations, AllowedCIDRs: ranges(r.CIDRs), RateLimit: r.RateLimit,
		CreatedAt: k.CreatedAt.UTC(), CreatedBy: k.CreatedBy, ExpiresAt: optional(k.ExpiresAt), RotatedAt: optional(k.RotatedAt),
		PreviousUntil: optional(k.Previous.Until), RevokedAt: optional(k.RevokedAt)}
}

func (s *Server) createAPIKey(ctx context.Context, c *call, r *wire.CreateAPIKey) (wire.APIKey, error) {
	who, err := c.creator()
	if err != nil {
		return wire.APIKey{}, err
	}
	if err := required("name", r.Name); err != nil {
		return wire.APIKey{}, err
	}
	in := auth.CreateRequest{Name: r.Name, Role: auth.Role(r.Role), Brand: r.Brand,
		Restrictions: auth.Restrictions{Keys: r.Keys, Labels: r.Labels, Operations: r.Operations, RateLimit: r.RateLimit}}
	for _, scope := range r.Scopes {
		in.Scopes = append(in.Scopes, auth.Scope(scope))
	}
	for _, text := range r.AllowedCIDRs {
		p, err := parseRange(text)
		if err != nil {
			return wire.APIKey{}, badField("the field allowed_cidrs must hold ranges of addresses, as in 192.0.2.0/24 or 2001:db8::/32")
		}
		in.Restrictions.CIDRs = append(in.Restrictions.CIDRs, p)
	}
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

// parseRange reads a range of addresses, or one address as the range of itself.
func parseRange(s string) (netip.Prefix, error) {
	if strings.IndexByte(s, '/') >= 0 {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func (s *Server) showAPIKey(ctx context.Context, c *call, _ *wire.Empty) (wire.APIKey, error) {
	id, err := c.pathID("id", fault.New(fault.APIKeyNotFound, "no such API key in this tenant"))
	if err != nil {
		return wire.APIKey{}, err
	}
	k, err := s.auth.APIKey(ctx, c.principal, id)
	if err != nil {
		return wire.APIKey{}, err
	}
	return wireAPIKey(k), nil
}

func (s *Server) rotateAPIKey(ctx context.Context, c *call, r *wire.RotateAPIKey) (wire.APIKey, error) {
	id, err := c.pathID("id", fault.New(fault.APIKeyNotFound, "no such API key in this tenant"))
	if err != nil {
		return wire.APIKey{}, err
	}
	who, err := c.creator()
	if err != nil {
		return wire.APIKey{}, err
	}
	in := auth.RotateRequest{ID: id}
	if r.Overlap != "" {
		if in.Overlap, err = time.ParseDuration(r.Overlap); err != nil {
			return wire.APIKey{}, badField("the field overlap must be a duration, as in 24h")
		}
	}
	k, presented, err := s.auth.RotateAPIKey(ctx, who.Principal, in, c.id, who.Idempotency)
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
