package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cursor"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

// Actions on tenants in the audit log. They stand under the operator's own tenant.
const (
	ActionTenantCreate  = "tenant.create"
	ActionTenantUpdate  = "tenant.update"
	ActionTenantSuspend = "tenant.suspend"
	ActionTenantResume  = "tenant.resume"
	ActionTenantRecover = "tenant.recover" // also under the tenant that it is about
)

// maxQuota bounds a quota: beyond it there is no telling it from none.
const maxQuota = 1_000_000_000

// CreateTenantRequest asks for a tenant.
type CreateTenantRequest struct {
	Name   string
	Quotas Quotas
	Plan   string // "": the default plan
}

// TenantUpdate changes what is not nil.
type TenantUpdate struct {
	Name    *string
	Keys    *int64
	APIKeys *int64
	Plan    *string
}

// CreateTenant makes a tenant and its first API key, the owner's, which is given this once. It needs scope tenants:write. Errors:
// fault.BadName, BadField, NameTaken, IdempotencyConflict. Allowed or denied, it is recorded.
func (s *Service) CreateTenant(ctx context.Context, caller *Principal, r CreateTenantRequest, requestID string, t idempotency.Token) (*Tenant, *APIKey, string, error) {
	if caller == nil {
		return nil, nil, "", errUnauthenticated
	}
	start := time.Now()
	e := audit.Entry{Tenant: caller.Tenant, Principal: caller.ID, Action: ActionTenantCreate, RequestID: requestID}
	tenant, k, presented, err := s.createTenant(ctx, caller, r, e, t, start)
	if err != nil {
		return nil, nil, "", s.denied(ctx, start, &e, err)
	}
	return tenant, k, presented, nil
}

func (s *Service) createTenant(ctx context.Context, caller *Principal, r CreateTenantRequest, e audit.Entry, t idempotency.Token, start time.Time) (*Tenant, *APIKey, string, error) {
	if err := s.decide(caller, ActionTenantCreate, nil); err != nil {
		return nil, nil, "", err
	}
	if err := s.checkTenant(r.Name, r.Quotas, r.Plan); err != nil {
		return nil, nil, "", err
	}
	for try := 0; ; try++ {
		tenant, k, presented, err := s.replayTenant(ctx, caller, t, e.RequestID, start)
		if tenant != nil || err != nil {
			return tenant, k, presented, err
		}
		id, err := uuid.NewV7()
		if err != nil {
			return nil, nil, "", fmt.Errorf("making an id: %w", err)
		}
		maker := system(id)
		maker.ID = caller.ID
		if k, err = s.check(maker, CreateRequest{Name: "owner", Role: RoleOwner}); err != nil {
			return nil, nil, "", err
		}
		tenant = &Tenant{ID: id, Name: r.Name, Status: TenantActive, Quotas: r.Quotas, Plan: r.Plan, CreatedAt: k.CreatedAt, UpdatedAt: k.CreatedAt, Revision: 1}
		presented, made, err := s.prepare(k, idempotency.Token{})
		if err != nil {
			return nil, nil, "", err
		}
		changes := append([]audit.Change{s.store.InsertTenant(tenant)}, made...)
		if t.Key != "" {
			r, err := s.rememberFor(caller.Tenant, tenant.ID, presented, t)
			if err != nil {
				return nil, nil, "", err
			}
			changes = append(changes, s.idem.InsertIdempotency(r))
		}
		ok := e
		ok.Resource, ok.Detail = "tenant:"+id.String(), "owner "+k.PrincipalID()
		err = s.record(ctx, start, &ok, nil, changes...)
		if fault.Has(err, fault.Conflict) && try == 0 {
			continue
		}
		if err != nil {
			return nil, nil, "", err
		}
		return tenant, k, presented, nil
	}
}

func (s *Service) checkTenant(name string, q Quotas, plan string) error {
	if err := checkName(name); err != nil {
		return fault.New(fault.BadName, fmt.Sprintf("the name of a tenant has 1 to %d bytes of printable text", MaxName))
	}
	if min(q.Keys, q.APIKeys) < 0 || max(q.Keys, q.APIKeys) > maxQuota {
		return fault.New(fault.BadField, "a quota is 0, for none, to 1000000000")
	}
	if plan != "" && (s.plans == nil || !s.plans(plan)) {
		return fault.New(fault.BadField, "the configuration has no plan of this name")
	}
	return nil
}

// replayTenant gives what the same call made before: nil when there was none.
func (s *Service) replayTenant(ctx context.Context, caller *Principal, t idempotency.Token, requestID string, start time.Time) (*Tenant, *APIKey, string, error) {
	r, err := s.remembered(ctx, caller.Tenant, t)
	if r == nil || err != nil {
		return nil, nil, "", err
	}
	tenant, err := s.store.Tenant(ctx, r.Resource)
	if err != nil {
		return nil, nil, "", fmt.Errorf("reading a tenant: %w", err)
	}
	first, err := s.store.APIKeys(ctx, tenant.ID, uuid.Nil, 1) // by id, which is the order of their making
	if err != nil {
		return nil, nil, "", fmt.Errorf("reading an API key: %w", err)
	}
	if len(first) != 1 || first[0].CreatedBy != caller.ID {
		return nil, nil, "", fault.New(fault.IdempotencyConflict, "the Idempotency-Key was used before by another caller")
	}
	presented, err := s.recall(caller.Tenant, r)
	if err != nil {
		return nil, nil, "", err
	}
	defer presented.Wipe()
	err = s.record(ctx, start, &audit.Entry{Tenant: caller.Tenant, Principal: caller.ID, Action: ActionTenantCreate, Resource: "tenant:" + tenant.ID.String(),
		RequestID: requestID, Detail: "replayed"}, nil)
	if err != nil {
		return nil, nil, "", err
	}
	return tenant, first[0], string(presented), nil
}

// Tenant shows a tenant. Whoever belongs to it may look; another takes scope tenants:read. fault.TenantNotFound.
func (s *Service) Tenant(ctx context.Context, caller *Principal, id uuid.UUID) (*Tenant, error) {
	return s.tenant(ctx, caller, "tenant.get", id)
}

func (s *Service) tenant(ctx context.Context, caller *Principal, act string, id uuid.UUID) (*Tenant, error) {
	if err := s.decide(caller, act, &Resource{Tenant: id, Deployment: true}); err != nil {
		return nil, unwrapped(err)
	}
	return s.store.Tenant(ctx, id)
}

// Usage shows a tenant, and what it has of its quotas and has done today, to whom Tenant shows it but for credentials that are limited to some
// keys or operations. fault.TenantNotFound, Forbidden.
func (s *Service) Usage(ctx context.Context, caller *Principal, id uuid.UUID) (*Tenant, Usage, error) {
	t, err := s.tenant(ctx, caller, "tenant.usage", id)
	if err != nil {
		return nil, Usage{}, err
	}
	now := s.now()
	u, err := s.store.Usage(ctx, id, now)
	u.At = now
	return t, u, err
}

// Tenants lists the tenants by id, which is the order of their creation but for the first, 1 to 1000 a page (0: 100). It needs scope
// tenants:read. fault.BadCursor, fault.BadQuery.
func (s *Service) Tenants(ctx context.Context, caller *Principal, from string, limit int) (page []*Tenant, next string, err error) {
	if err := s.decide(caller, "tenant.list", nil); err != nil {
		return nil, "", unwrapped(err)
	}
	after, limit, err := pageOf(from, limit)
	if err != nil {
		return nil, "", err
	}
	if page, err = s.store.Tenants(ctx, after, limit+1); err != nil {
		return nil, "", fmt.Errorf("listing tenants: %w", err)
	}
	if len(page) > limit {
		page = page[:limit]
		next = cursor.Behind(page[limit-1].ID)
	}
	return page, next, nil
}

// unwrapped takes the rule off an error that is not recorded.
func unwrapped(err error) error {
	var r *refusal
	if errors.As(err, &r) {
		return r.error
	}
	return err
}

// UpdateTenant changes name, quotas and plan. It needs scope tenants:write. A quota below what there is takes nothing away: it lets nothing more
// be made. Errors: fault.TenantNotFound, BadName, BadField, NameTaken, Conflict.
func (s *Service) UpdateTenant(ctx context.Context, caller *Principal, id uuid.UUID, u TenantUpdate, requestID string) (*Tenant, error) {
	return s.changeTenant(ctx, caller, id, ActionTenantUpdate, requestID, func(t *Tenant) error {
		for _, f := range []struct{ set, old *int64 }{{u.Keys, &t.Quotas.Keys}, {u.APIKeys, &t.Quotas.APIKeys}} {
			if f.set != nil {
				*f.old = *f.set
			}
		}
		if u.Name != nil {
			t.Name = *u.Name
		}
		plan := ""
		if u.Plan != nil {
			t.Plan, plan = *u.Plan, *u.Plan
		}
		return s.checkTenant(t.Name, t.Quotas, plan)
	})
}

// SuspendTenant refuses every credential of a tenant: at once on this node, within Recheck on others. Nothing of it is lost but its sessions, which end. It needs scope
// tenants:write, and is not for the caller's own tenant, which nobody could resume: fault.Forbidden. Errors: fault.TenantNotFound, Conflict.
func (s *Service) SuspendTenant(ctx context.Context, caller *Principal, id uuid.UUID, requestID string) (*Tenant, error) {
	return s.changeTenant(ctx, caller, id, ActionTenantSuspend, requestID, func(t *Tenant) error {
		if caller.Tenant == t.ID {
			return fault.New(fault.Forbidden, "a tenant cannot suspend itself")
		}
		t.Status = TenantSuspended
		return nil
	})
}

// ResumeTenant ends a suspension. It needs scope tenants:write. Errors: fault.TenantNotFound, Conflict.
func (s *Service) ResumeTenant(ctx context.Context, caller *Principal, id uuid.UUID, requestID string) (*Tenant, error) {
	return s.changeTenant(ctx, caller, id, ActionTenantResume, requestID, func(t *Tenant) error { t.Status = TenantActive; return nil })
}

func (s *Service) changeTenant(ctx context.Context, caller *Principal, id uuid.UUID, action, requestID string, change func(*Tenant) error) (*Tenant, error) {
	if caller == nil {
		return nil, errUnauthenticated
	}
	start := time.Now()
	e := audit.Entry{Tenant: caller.Tenant, Principal: caller.ID, Action: action, Resource: "tenant:" + id.String(), RequestID: requestID}
	t, err := s.changedTenant(ctx, caller, id, action, change)
	if err == nil {
		ok := e
		changes := []audit.Change{s.store.UpdateTenant(t)}
		if t.Status == TenantSuspended {
			changes = append(changes, s.endsSessions(id)) // for good: they are not there again when it is resumed
		}
		err = s.record(ctx, start, &ok, nil, changes...)
		s.ForgetTenant(id) // also after an error: it may have become durable although nobody can say so
	}
	if err != nil {
		return nil, s.denied(ctx, start, &e, err)
	}
	t.Revision++
	return t, nil
}

func (s *Service) changedTenant(ctx context.Context, caller *Principal, id uuid.UUID, action string, change func(*Tenant) error) (*Tenant, error) {
	if err := s.decide(caller, action, &Resource{Tenant: id, Deployment: true}); err != nil {
		return nil, err
	}
	t, err := s.store.Tenant(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := change(t); err != nil {
		return nil, err
	}
	t.UpdatedAt = s.now().UTC().Truncate(time.Microsecond)
	return t, nil
}
