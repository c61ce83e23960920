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

// Bootstrap makes the first key of a tenant, with every scope: the owner's. fault.Conflict when the tenant has a key already.
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
	k, err := s.check(&Principal{ID: "system", Tenant: tenant, Scopes: Scopes()}, CreateRequest{Name: "owner", Scopes: Scopes()})
	if err != nil {
		return nil, "", err
	}
	presented, changes, err := s.prepare(k, idempotency.Token{})
	if err != nil {
		return nil, "", err
	}
	if save != nil {
		if err := save(presented); err != nil {
			return nil, "", fmt.Errorf("keeping the owner's API key: %w", err)
		}
	}
	err = s.record(ctx, start, &audit.Entry{Tenant: tenant, Principal: "system", Action: ActionCreate, Resource: k.PrincipalID(), Detail: "owner"}, nil, changes...)
	if err != nil {
		return nil, "", err
	}
	return k, presented, nil
}
