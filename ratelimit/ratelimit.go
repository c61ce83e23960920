// Package ratelimit says how often somebody may ask: the generic cell rate algorithm (ITU-T I.371 annex A, in its virtual scheduling
// form), shared by all nodes on one store.
//
// The truth of a bucket is one time in the store, that at which it would be empty again. A node does not ask the store for each
// request: it takes as many cells as it has needed in a tenth of a second lately, but no more than a tenth of what it has used, and lets requests through on those. So no
// more is ever let through than the rate allows over all nodes, and what a node took and did not need is the only loss. On a store of one node
// there is nothing to share, and nothing is written.
//
// It trusts the store and its clock, and its callers to have authenticated whom they count.
package ratelimit

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Kind is what a bucket counts the requests of.
type Kind string

const (
	KindTenant     Kind = "tenant"
	KindCredential Kind = "credential"
)

// Bucket names what is limited.
type Bucket struct {
	Kind Kind
	ID   uuid.UUID
}

// Limits of a Rate.
const (
	MaxPerMinute = 60_000_000
	MaxBurst     = 60_000_000
)

// Rate is how many requests a bucket lets through. The zero value lets all through.
type Rate struct {
	PerMinute int // 0: no limit
	Burst     int // how many at once after a rest; 0: PerMinute
}

// interval is the emission interval of the algorithm: the time that one request costs.
func (r Rate) interval() time.Duration { return time.Minute / time.Duration(r.PerMinute) }

func (r Rate) burst() int {
	if r.Burst <= 0 {
		return r.PerMinute
	}
	return r.Burst
}

// tolerance is how far ahead of the clock a bucket may be.
func (r Rate) tolerance() time.Duration { return r.interval() * time.Duration(r.burst()) }

// Demand is one bucket that a request has to pass.
type Demand struct {
	Bucket Bucket
	Rate   Rate
}

// Decision is the answer to a request, and what the strictest bucket says of itself as far as this node knows.
type Decision struct {
	Limited    bool // some bucket has a rate; else the rest is empty
	Allowed    bool
	Limit      int           // requests a minute
	Remaining  int           // that would pass at once
	Reset      time.Duration // until all of the burst is there again
	RetryAfter time.Duration // until one passes; 0 when allowed
	Kind       Kind          // of that bucket
}

// Store keeps the buckets that nodes share. It is written without an audit entry. Implementations: store/sqlite, store/postgres;
// suite: store/storetest.
type Store interface {
	// TakeCells takes up to want cells of a bucket whose cells cost interval each and that may be tolerance ahead of the store's clock. It
	// gives how many it took, and how far ahead the bucket is then. Times are of the store's clock, the same for all nodes.
	TakeCells(ctx context.Context, b Bucket, interval, tolerance time.Duration, want int) (got int, ahead time.Duration, err error)
	// PruneCells forgets the buckets that are not ahead of the clock: they are as if they had never been.
	PruneCells(ctx context.Context) error
}
