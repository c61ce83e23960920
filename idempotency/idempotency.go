// Package idempotency keeps what a creating call answered, so that the same Idempotency-Key with the same request gives
// the same answer instead of a second resource.
package idempotency

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
)

// TTL is how long a record is kept.
const TTL = 24 * time.Hour

// Token is what a caller sent with a creating call. The zero value means that nothing was sent.
type Token struct {
	Key     string   // the Idempotency-Key header, 1 to 255 visible ASCII characters
	Request [32]byte // SHA-256 over method, route and body
}

// Record is one answered call.
type Record struct {
	Tenant    uuid.UUID
	Key       string
	Request   [32]byte
	Resource  uuid.UUID
	Version   uint32
	Sealed    []byte // what can be shown once only, sealed under a key of the root; nil when the resource says it all
	CreatedAt time.Time
}

// Store keeps the records. The insertion fails with fault.Conflict when the tenant has a record under the key already.
type Store interface {
	// Idempotency gives the record, or nil when there is none or it is older than TTL.
	Idempotency(ctx context.Context, tenant uuid.UUID, key string, now time.Time) (*Record, error)
	InsertIdempotency(r *Record) audit.Change
	// PruneIdempotency removes records made before the time.
	PruneIdempotency(before time.Time) audit.Change
}
