package sqlite

import (
	"context"
	"database/sql/driver"

	"github.com/google/uuid"
)

// Deployment is the identity of the deployment that this store belongs to: random, made with the store, never changed. The
// audit log's origin and the first tenant's id come from it.
func (s *Store) Deployment() uuid.UUID { return s.deployment }

// identify reads the identity, or makes it.
func (s *Store) identify(ctx context.Context) error {
	got := make([]driver.Value, 1)
	have, err := s.w.row(sqlDeployment, got)
	if err != nil {
		return translate("reading the deployment's identity", err)
	}
	if have {
		b, ok := got[0].([]byte)
		if !ok || len(b) != len(s.deployment) {
			return corrupted("the identity of the deployment is damaged", nil)
		}
		copy(s.deployment[:], b)
		return nil
	}
	fresh, err := uuid.NewRandom()
	if err != nil {
		return unavailable("no randomness for the deployment's identity", err)
	}
	err = s.w.transaction(ctx, func() error {
		_, err := s.w.exec(sqlInsertDeployment, fresh[:])
		return err
	})
	if err != nil {
		return translate("writing the deployment's identity", err)
	}
	s.deployment = fresh
	return nil
}

const (
	sqlDeployment       = "SELECT uuid FROM deployment WHERE id = 1"
	sqlInsertDeployment = "INSERT INTO deployment (id, uuid) VALUES (1, ?)"
)
