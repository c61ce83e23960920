package auth

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/secret"
)

// replay gives what the same call made before: nil when there was none. fault.IdempotencyConflict when the token was used
// for another request. That a key was shown again is recorded.
func (s *Service) replay(ctx context.Context, creator *Principal, t idempotency.Token, action, requestID string, start time.Time) (*APIKey, string, error) {
	r, err := s.remembered(ctx, creator.Tenant, t)
	if r == nil || err != nil {
		return nil, "", err
	}
	k, err := s.store.APIKey(ctx, creator.Tenant, r.Resource)
	if err != nil {
		return nil, "", fmt.Errorf("reading an API key: %w", err)
	}
	// The answer of another caller, with other rights, is not for this one.
	if k.maker() != creator.ID {
		return nil, "", fault.New(fault.IdempotencyConflict, "the Idempotency-Key was used before by another caller")
	}
	presented, err := s.recall(creator.Tenant, r)
	if err != nil {
		return nil, "", err
	}
	defer presented.Wipe()
	err = s.record(ctx, start, &audit.Entry{Tenant: k.Tenant, Principal: creator.ID, Action: action,
		Resource: k.PrincipalID(), RequestID: requestID, Detail: "replayed"}, nil)
	if err != nil {
		return nil, "", err
	}
	return k, string(presented), nil
}

// remembered gives the record of the same call: nil when there was none.
func (s *Service) remembered(ctx context.Context, tenant uuid.UUID, t idempotency.Token) (*idempotency.Record, error) {
	if t.Key == "" {
		return nil, nil
	}
	if s.idem == nil {
		return nil, fault.New(fault.Internal, "there is no store for idempotency records")
	}
	r, err := s.idem.Idempotency(ctx, tenant, t.Key, s.now().UTC())
	if err != nil {
		return nil, fmt.Errorf("reading an idempotency record: %w", err)
	}
	if r != nil && r.Request != t.Request {
		return nil, fault.New(fault.IdempotencyConflict, "the Idempotency-Key was used before with another request")
	}
	return r, nil
}

// recall opens what a record has sealed.
func (s *Service) recall(tenant uuid.UUID, r *idempotency.Record) (secret.Bytes, error) {
	sealed, err := envelope.ParseSealed(r.Sealed)
	if err != nil {
		return nil, fmt.Errorf("opening an idempotency record: %w", err)
	}
	key, err := s.deriveAt(LabelIdempotency, sealed.Generation)
	if fault.Has(err, fault.KeyMaterial) {
		return nil, fault.Wrap(fault.IdempotencyConflict, "the answer to this Idempotency-Key is under a root that was given up: it is not shown again", err)
	}
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	presented, err := envelope.OpenGeneration(key, sealed.Generation, r.Sealed, replayBinding(tenant, r.Key, r.Resource))
	if err != nil {
		return nil, fmt.Errorf("opening an idempotency record: %w", err)
	}
	return presented, nil
}

// remember makes the record by which the same call is answered again.
func (s *Service) remember(k *APIKey, presented string, t idempotency.Token) (*idempotency.Record, error) {
	return s.rememberFor(k.Tenant, k.ID, presented, t)
}

// rememberFor makes the record by which the same call is answered again. The key is sealed: the record must not be a place
// where keys lie in clear.
func (s *Service) rememberFor(tenant, resource uuid.UUID, presented string, t idempotency.Token) (*idempotency.Record, error) {
	generation, err := s.newest()
	if err != nil {
		return nil, err
	}
	key, err := s.deriveAt(LabelIdempotency, generation)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	clearText := []byte(presented)
	defer clear(clearText)
	sealed, err := envelope.SealGeneration(key, generation, clearText, replayBinding(tenant, t.Key, resource))
	if err != nil {
		return nil, err
	}
	return &idempotency.Record{Tenant: tenant, Key: t.Key, Request: t.Request, Resource: resource, Sealed: sealed,
		CreatedAt: s.now().UTC().Truncate(time.Microsecond)}, nil
}

// replayBinding is what a sealed answer is bound to: a label, the tenant, the token (length-prefixed) and the key's id.
func replayBinding(tenant uuid.UUID, token string, id uuid.UUID) []byte {
	b := []byte("api-key\x00")
	b = append(b, tenant[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(token)))
	b = append(b, token...)
	return append(b, id[:]...)
}
