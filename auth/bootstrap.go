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

// Bootstrap makes the first tenant of a deployment and its first key: the owner's, which is the operator's too, so that one person can
// run a deployment alone. fault.Conflict when the tenant has a key already.
// save, when not nil, is given the key before it is recorded, and must keep it durably: a crash in between leaves a key that
// is not valid, and the next Bootstrap makes another, but never a valid key that nobody has.
func (s *Service) Bootstrap(ctx context.Context, tenant uuid.UUID, save func(presented string) error) (*APIKey, string, error) {
	start := time.Now()
	there, err := s.store.APIKeys(ctx, tenant, uuid.Nil, 1)
	if err != nil {
		return nil, "", fmt.Errorf("listing API keys: %w", err)
	}
	if len(there) > 0 {
		return nil, "", fault.New(fault.Conflict, "the tenant has an API key already")
	}
	k, err := s.check(system(tenant), CreateRequest{Name: "owner", Role: RoleOwner, Scopes: bootstrapScopes()})
	if err != nil {
		return nil, "", err
	}
	t := &Tenant{ID: tenant, Name: DefaultTenantName, Status: TenantActive, CreatedAt: k.CreatedAt, UpdatedAt: k.CreatedAt, Revision: 1}
	presented, changes, err := s.prepare(k, idempotency.Token{})
	if err != nil {
		return nil, "", err
	}
	if save != nil {
		if err := save(presented); err != nil {
			return nil, "", fmt.Errorf("keeping the owner's API key: %w", err)
		}
	}
	err = s.record(ctx, start, &audit.Entry{Tenant: tenant, Principal: "system", Action: ActionCreate, Resource: k.PrincipalID(), Detail: "owner"}, nil,
		append([]audit.Change{s.store.InsertTenant(t)}, changes...)...)
	if err != nil {
		return nil, "", err
	}
	return k, presented, nil
}

// system is the service itself as the maker of credentials.
func system(tenant uuid.UUID) *Principal {
	return &Principal{ID: "system", Kind: KindSystem, Tenant: tenant, Name: "system", Scopes: Scopes()}
}
