package api

import (
	"context"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

func wireTenant(t *auth.Tenant) wire.Tenant {
	return wire.Tenant{ID: t.ID.String(), Name: t.Name, Status: string(t.Status), Quotas: wire.Quotas{Keys: t.Quotas.Keys, APIKeys: t.Quotas.APIKeys}, Plan: t.Plan,
		CreatedAt: t.CreatedAt.UTC(), UpdatedAt: t.UpdatedAt.UTC()}
}

// tenantID reads the tenant of the path.
func (c *call) tenantID() (uuid.UUID, error) {
	return c.pathID("id", fault.New(fault.TenantNotFound, "no such tenant"))
}

func (s *Server) createTenant(ctx context.Context, c *call, r *wire.CreateTenant) (wire.CreatedTenant, error) {
	who, err := c.creator()
	if err != nil {
		return wire.CreatedTenant{}, err
	}
	if err := required("name", r.Name); err != nil {
		return wire.CreatedTenant{}, err
	}
	in := auth.CreateTenantRequest{Name: r.Name, Plan: r.Plan}
	if q := r.Quotas; q != nil {
		in.Quotas = auth.Quotas{Keys: q.Keys, APIKeys: q.APIKeys}
	}
	t, k, presented, err := s.auth.CreateTenant(ctx, who.Principal, in, c.id, who.Idempotency)
	if err != nil {
		return wire.CreatedTenant{}, err
	}
	out := wire.CreatedTenant{Tenant: wireTenant(t), OwnerKey: wireAPIKey(k)}
	out.OwnerKey.Key = presented
	return out, nil
}

func (s *Server) listTenants(ctx context.Context, c *call, _ *wire.Empty) (wire.List[wire.Tenant], error) {
	limit, cursor, err := c.page()
	if err != nil {
		return wire.List[wire.Tenant]{}, err
	}
	list, next, err := s.auth.Tenants(ctx, c.principal, cursor, limit)
	if err != nil {
		return wire.List[wire.Tenant]{}, err
	}
	out := wire.List[wire.Tenant]{Items: make([]wire.Tenant, len(list)), NextCursor: next}
	for i, t := range list {
		out.Items[i] = wireTenant(t)
	}
	return out, nil
}

func (s *Server) showTenant(ctx context.Context, c *call, _ *wire.Empty) (wire.Tenant, error) {
	id, err := c.tenantID()
	if err != nil {
		return wire.Tenant{}, err
	}
	return shownTenant(s.auth.Tenant(ctx, c.principal, id))
}

func (s *Server) tenantUsage(ctx context.Context, c *call, _ *wire.Empty) (wire.Usage, error) {
	id, err := c.tenantID()
	if err != nil {
		return wire.Usage{}, err
	}
	t, u, err := s.auth.Usage(ctx, c.principal, id)
	if err != nil {
		return wire.Usage{}, err
	}
	return wire.Usage{Tenant: t.ID.String(), Plan: t.Plan, Keys: wire.Amount{Used: u.Keys, Limit: t.Quotas.Keys}, APIKeys: wire.Amount{Used: u.APIKeys, Limit: t.Quotas.APIKeys},
		OperationsToday: wire.Amount{Used: u.Operations, Limit: s.plans.Of(t.Plan).OperationsPerDay}, DayEndsAt: auth.DayEnd(u.At).UTC()}, nil
}

func shownTenant(t *auth.Tenant, err error) (wire.Tenant, error) {
	if err != nil {
		return wire.Tenant{}, err
	}
	return wireTenant(t), nil
}

func (s *Server) updateTenant(ctx context.Context, c *call, r *wire.UpdateTenant) (wire.Tenant, error) {
	id, err := c.tenantID()
	if err != nil {
		return wire.Tenant{}, err
	}
	in := auth.TenantUpdate{Name: r.Name, Plan: r.Plan}
	if q := r.Quotas; q != nil {
		in.Keys, in.APIKeys = q.Keys, q.APIKeys
	}
	return shownTenant(s.auth.UpdateTenant(ctx, c.principal, id, in, c.id))
}

func (s *Server) recoverTenant(ctx context.Context, c *call, r *wire.RecoverTenant) (wire.APIKey, error) {
	id, err := c.tenantID()
	if err != nil {
		return wire.APIKey{}, err
	}
	who, err := c.creator()
	if err != nil {
		return wire.APIKey{}, err
	}
	k, presented, err := s.auth.RecoverTenant(ctx, who.Principal, id, r.Name, c.id, who.Idempotency)
	if err != nil {
		return wire.APIKey{}, err
	}
	out := wireAPIKey(k)
	out.Key = presented
	return out, nil
}

func (s *Server) suspendTenant(ctx context.Context, c *call, _ *wire.Empty) (wire.Tenant, error) {
	id, err := c.tenantID()
	if err != nil {
		return wire.Tenant{}, err
	}
	return shownTenant(s.auth.SuspendTenant(ctx, c.principal, id, c.id))
}

func (s *Server) resumeTenant(ctx context.Context, c *call, _ *wire.Empty) (wire.Tenant, error) {
	id, err := c.tenantID()
	if err != nil {
		return wire.Tenant{}, err
	}
	return shownTenant(s.auth.ResumeTenant(ctx, c.principal, id, c.id))
}
