package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

// RecoverTenant gives a tenant that has lost its owner's API key another one, this once. It needs scope tenants:write. It is recorded under the operator's tenant,
// and under the tenant itself together with the key, so that the key cannot be without an entry that the tenant sees. Keys that the tenant has stay as
// they are. Errors: fault.TenantNotFound, BadName, QuotaExceeded, IdempotencyConflict. Allowed or denied, it is recorded.
func (s *Service) RecoverTenant(ctx context.Context, caller *Principal, id uuid.UUID, name, requestID string, t idempotency.Token) (*APIKey, string, error) {
	if caller == nil {
		return nil, "", errUnauthenticated
	}
	start := time.Now()
	e := audit.Entry{Tenant: caller.Tenant, Principal: caller.ID, Action: ActionTenantRecover, Resource: "tenant:" + id.String(), RequestID: requestID}
	k, presented, err := s.recoverTenant(ctx, caller, id, name, e, t, start)
	if err != nil {
		return nil, "", s.denied(ctx, start, &e, err)
	}
	return k, presented, nil
}

func (s *Service) recoverTenant(ctx context.Context, caller *Principal, id uuid.UUID, name string, e audit.Entry, t idempotency.Token, start time.Time) (*APIKey, string, error) {
	if err := s.decide(caller, ActionTenantRecover, &Resource{Tenant: id, Deployment: true}); err != nil {
		return nil, "", err
	}
	if _, err := s.store.Tenant(ctx, id); err != nil {
		return nil, "", err
	}
	if name == "" {
		name = "owner, recovered"
	}
	for try := 0; ; try++ {
		k, presented, err := s.replayRecovery(ctx, caller, id, e, t, start)
		if k != nil || err != nil {
			return k, presented, err
		}
		maker := system(id)
		maker.ID = caller.ID
		if k, err = s.check(maker, CreateRequest{Name: name, Role: RoleOwner}); err != nil {
			return nil, "", err
		}
		presented, changes, err := s.prepare(k, idempotency.Token{})
		if err != nil {
			return nil, "", err
		}
		if t.Key != "" {
			r, err := s.rememberFor(caller.Tenant, k.ID, presented, t)
			if err != nil {
				return nil, "", err
			}
			changes = append(changes, s.idem.InsertIdempotency(r))
		}
		// First what the operator does, then the key with what the tenant sees of it: the other way round the key could be without the first.
		if caller.Tenant != id {
			begun := e
			begun.Detail = "owner " + k.PrincipalID()
			if err := s.record(ctx, start, &begun, nil); err != nil {
				return nil, "", err
			}
		}
		told := e
		told.Tenant, told.Resource, told.Detail = id, k.PrincipalID(), "by an operator of the deployment"
		err = s.record(ctx, start, &told, nil, changes...)
		if fault.Has(err, fault.Conflict) && try == 0 {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		return k, presented, nil
	}
}

// replayRecovery gives what the same call made before: nil when there was none.
func (s *Service) replayRecovery(ctx context.Context, caller *Principal, id uuid.UUID, e audit.Entry, t idempotency.Token, start time.Time) (*APIKey, string, error) {
	r, err := s.remembered(ctx, caller.Tenant, t)
	if r == nil || err != nil {
		return nil, "", err
	}
	k, err := s.store.APIKey(ctx, id, r.Resource)
	if err != nil {
		return nil, "", fmt.Errorf("reading an API key: %w", err)
	}
	if k.CreatedBy != caller.ID {
		return nil, "", fault.New(fault.IdempotencyConflict, "the Idempotency-Key was used before by another caller")
	}
	presented, err := s.recall(caller.Tenant, r)
	if err != nil {
		return nil, "", err
	}
	defer presented.Wipe()
	e.Detail = "replayed"
	if err := s.record(ctx, start, &e, nil); err != nil {
		return nil, "", err
	}
	if caller.Tenant != id {
		e.Tenant, e.Resource = id, k.PrincipalID()
		if err := s.record(ctx, start, &e, nil); err != nil {
			return nil, "", err
		}
	}
	return k, string(presented), nil
}
