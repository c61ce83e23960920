package keys

import (
	"context"

	"github.com/keywright/keywright/fault"
)

// IsDefault reports whether a key, as Get gave it, is its tenant's default for its purpose.
func (s *Service) IsDefault(ctx context.Context, k *Key) (bool, error) {
	if err := s.enter(); err != nil {
		return false, err
	}
	defer s.leave()
	id, err := s.defaultOf(ctx, k.Tenant, k.Purpose)
	if fault.Has(err, fault.NoDefaultKey) {
		return false, nil
	}
	return err == nil && id == k.ID, err
}
