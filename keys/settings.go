package keys

import (
	"context"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// NewKeys says which algorithms a tenant takes for new keys.
type NewKeys string

const (
	// NewKeysAny takes every algorithm.
	NewKeysAny NewKeys = ""
	// NewKeysPostQuantum takes what a quantum computer does not break: post-quantum, hybrid and symmetric algorithms.
	NewKeysPostQuantum NewKeys = "post-quantum"
	// NewKeysHybrid takes hybrid and symmetric algorithms alone.
	NewKeysHybrid NewKeys = "hybrid"
)

// takes reports whether a new key may have the algorithm.
func (n NewKeys) takes(a backend.AlgorithmInfo) bool {
	switch r := a.Readiness(); n {
	case NewKeysAny:
		return true
	case NewKeysPostQuantum:
		return r != backend.ReadinessVulnerable
	default:
		return r == backend.ReadinessHybrid || r == backend.ReadinessSymmetric
	}
}

// Settings are what a tenant has settled for its keys. The zero value settles nothing.
type Settings struct {
	NewKeys NewKeys `json:"new_keys,omitempty"`
}

// Settings gives the settings of the caller's tenant.
func (s *Service) Settings(ctx context.Context, c Caller) (Settings, error) {
	return pipeline(ctx, s, c, verbSettings, func(ctx context.Context, q *request) (Settings, error) {
		q.entry.Resource = "settings:keys"
		return s.store.TenantSettings(ctx, q.tenant())
	}, nil)
}

// SetSettings replaces the settings of the caller's tenant. They bind keys that are made or imported afterwards; existing ones stay, and
// rotate as before.
func (s *Service) SetSettings(ctx context.Context, c Caller, n Settings) (Settings, error) {
	return pipeline(ctx, s, c, verbSetSettings, func(_ context.Context, q *request) (Settings, error) {
		q.entry.Resource = "settings:keys"
		switch n.NewKeys {
		case NewKeysAny, NewKeysPostQuantum, NewKeysHybrid:
		default:
			return Settings{}, fault.New(fault.BadField, "new keys are any, post-quantum or hybrid")
		}
		q.entry.Detail = "new-keys=" + string(n.NewKeys)
		if n.NewKeys == NewKeysAny {
			q.entry.Detail = "new-keys=any"
		}
		q.changes = append(q.changes, s.store.SetTenantSettings(q.tenant(), n))
		return n, nil
	}, nil)
}

// admit refuses an algorithm that the tenant does not take for new keys.
func (s *Service) admit(ctx context.Context, tenant uuid.UUID, a backend.AlgorithmInfo) error {
	settled, err := s.store.TenantSettings(ctx, tenant)
	if err != nil {
		return err
	}
	if !settled.NewKeys.takes(a) {
		return fault.New(fault.PolicyDenied, "the settings of the tenant do not allow this algorithm for new keys")
	}
	return nil
}
