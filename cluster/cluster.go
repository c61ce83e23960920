// Package cluster is what a node knows of the others on the same store: the news of what they have changed, which of them does the
// work that one at a time may do, and which of them there are.
//
// It trusts the store, and the store's clock alone where times of several nodes are compared. It starts nothing by itself.
package cluster

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Kind is what a piece of news is about.
type Kind string

const (
	KindKey      Kind = "key"      // a key, its versions, or that it is a default; without an ID: only which keys of the tenant are defaults
	KindAPIKey   Kind = "api-key"  // a credential
	KindSettings Kind = "settings" // of a tenant; ID is the tenant's
	KindRoot     Kind = "root"     // the slots of the root; no ID
	KindTenant   Kind = "tenant"
	KindPolicy   Kind = "policy" // who may do what with keys
	KindJob      Kind = "job"
	KindWebhook  Kind = "webhook"
	KindSession  Kind = "session" // it has ended; ID is the session's
)

// News says that one committed item of the audit log has changed something. Counting uses and answers kept for idempotency
// are no news.
type News struct {
	Index  uint64    // of the audit entry that tells of the change
	At     time.Time // the entry's
	Tenant uuid.UUID // zero: of none
	Kind   Kind
	ID     uuid.UUID // of what was changed; zero: everything of its kind
}

// Lease is the right to do what one node at a time may do.
type Lease struct {
	Name   string
	Holder uuid.UUID // a Node.ID
	Term   int64     // grows with each change of holder
	Until  time.Time // by the store's clock
}

// Node is one running service. Nodes that have stopped, and those not seen for a minute, are forgotten by and by.
type Node struct {
	ID        uuid.UUID // made anew at each start
	Name      string    // as configured, or the machine's
	Address   string    // where it listens
	Version   string
	Backends  []NodeBackend
	StartedAt time.Time
	SeenAt    time.Time // by the store's clock
}

// NodeBackend is a backend that a node has open.
type NodeBackend struct {
	ID   string `json:"id"` // backend.Info.ID
	Name string `json:"name"`
	Kind string `json:"kind"`
}

// Store is what the nodes share. Implementations: store/sqlite (where there is one node), store/postgres; suite: store/storetest.
// None of it is an act that the audit log would tell of: leases and presence are written without an entry.
type Store interface {
	// News gives news in the order of the log from index from on, and the index at which to go on. A page that limit (at least
	// 1,000) cuts ends between two entries and has no fewer than limit pieces: one with fewer is all that there is. It sees all that
	// was committed before the call. lost says that news from index from on have been pruned, or that the log is not that long: who
	// gets it knows nothing of what has changed, and goes on at next, the end of the log.
	News(ctx context.Context, from uint64, limit int) (news []News, next uint64, lost bool, err error)
	// PruneNews forgets the news of entries older than before.
	PruneNews(ctx context.Context, before time.Time) error
	// Listen calls wake, at once and without blocking, whenever something may have been committed that is news, until ctx ends or
	// the connection that listens is lost. Wakes can be lost and come for nothing: who needs to know asks News in any case.
	Listen(ctx context.Context, wake func()) error

	// Acquire takes the lease for ttl, or prolongs it when holder has it already. held is false when another has it; then the
	// lease is that one's. Times are the store's clock's, the same for all nodes.
	Acquire(ctx context.Context, name string, holder uuid.UUID, ttl time.Duration) (l Lease, held bool, err error)
	// Release gives back a lease that holder has; another's is left alone.
	Release(ctx context.Context, name string, holder uuid.UUID) error
	// Leases lists all that are held now, by name.
	Leases(ctx context.Context) ([]Lease, error)

	// SaveNode writes what a node says of itself, seen now by the store's clock, and forgets nodes not seen for long.
	SaveNode(ctx context.Context, n *Node, forget time.Duration) error
	// RemoveNode forgets a node.
	RemoveNode(ctx context.Context, id uuid.UUID) error
	// Nodes lists the nodes seen within the time, by name and id.
	Nodes(ctx context.Context, within time.Duration) ([]*Node, error)
}
