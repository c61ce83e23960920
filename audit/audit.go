// Package audit is the record of what was done with each key: an append-only log whose entries are the leaves of an
// RFC 6962 Merkle tree, kept in the store and proven by signed checkpoints.
//
// The log is also the one way to change anything: a Change becomes durable only together with the entry that tells of it,
// in one transaction of the store. Package audit trusts the store to be durable when Commit returns, and nobody else;
// whoever keeps an old checkpoint can detect a store that lies.
package audit

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
)

// Change is one prepared alteration of the store. It is made by the store that will carry it out and is opaque to all others.
type Change interface {
	// StoreChange marks the type.
	StoreChange()
}

// Entry is one leaf: who did what with which key, and how it ended. It never holds plaintext, ciphertext or secrets.
type Entry struct {
	Time       time.Time // UTC, set by Record when zero
	Tenant     uuid.UUID // zero for acts that belong to no tenant
	Principal  string    // "api-key:<id>", "system", "anonymous"
	Action     string    // "encrypt", "key.create", "root.slot.add", …
	Key        uuid.UUID // zero when none
	KeyVersion uint32    // 0 when none
	Resource   string    // what was acted on when it is not a key: "api-key:<id>", "slot:<id>"
	Outcome    string    // "ok" or a fault code
	Items      int       // of a batch; 0 for a single operation
	Failed     []int     // positions of the failed items of a batch
	Latency    time.Duration
	RequestID  string
	Detail     string // bounded, from a fixed vocabulary or validated names; "" when there is nothing to say

	// Patience is how long the record may wait for others to share its transaction, five milliseconds at most. It is no part of the
	// leaf. Zero, the default, is not at all.
	Patience time.Duration
}

// Head is the tree at one moment: its size and the hashes from which it grows, largest complete subtree first (the
// compact range [0, Size)).
type Head struct {
	Size  uint64
	Range [][32]byte
}

// Node is the hash of a complete subtree of 2^Level leaves, the Index-th of its level. Only levels from NodeLevel up are
// stored: what lies below is computed from at most 2^NodeLevel leaves.
type Node struct {
	Level uint8
	Index uint64
	Hash  [32]byte
}

// NodeLevel is the lowest stored level: one node for 256 leaves, a tile of height 8.
const NodeLevel = 8

// Item is an entry on its way into the log, with the changes that it tells of.
type Item struct {
	Entry   *Entry
	Leaf    []byte   // the entry's encoding: what is hashed and what is exported
	Hash    [32]byte // RFC 6962 leaf hash of Leaf
	Changes []Change
	Index   uint64 // set by Commit's caller-supplied function for the items that survive
	Err     error  // set by the store: why this item's changes were not made; nothing of the item is stored then
}

// Stored is an entry as it lies in the store.
type Stored struct {
	Index uint64
	Leaf  []byte   // nil of one that was pruned
	Hash  [32]byte // of one that was pruned: its leaf hash
}

// Pruned reports whether only the hash of the entry is kept.
func (s *Stored) Pruned() bool { return s.Leaf == nil }

// LeafHash gives the entry's RFC 6962 §2.1 leaf hash.
func (s *Stored) LeafHash() [32]byte {
	if s.Pruned() {
		return s.Hash
	}
	return LeafHash(s.Leaf)
}

// Filter selects entries; zero fields select all. From and To bound the time: From ≤ t < To.
type Filter struct {
	Tenant    *uuid.UUID
	Key       *uuid.UUID
	Principal string
	Action    string
	Outcome   string
	From, To  time.Time
}

// Store keeps the log. Implementations: store/sqlite, store/postgres; suite: store/storetest.
type Store interface {
	// Commit carries out one batch in one durable transaction. Each item's changes are applied together or, when one
	// fails, not at all: then Item.Err is set and the others go on. It then calls extend with the head as stored and the
	// surviving items in order; extend sets their Index and returns the new head and nodes; entries, nodes and head are
	// stored. An error of extend ends the transaction and is what Commit returns; extend may be called again when the
	// store repeats its transaction. When Commit returns nil all of it is durable; when it returns an error nothing of
	// it is. One Commit runs at a time in a store, over all nodes. The items are reused once Commit has returned: the
	// store keeps copies.
	Commit(ctx context.Context, batch []*Item, extend func(Head, []*Item) (Head, []Node, error)) error
	// AuditHead gives the head as stored.
	AuditHead(ctx context.Context) (Head, error)
	// AuditEntries gives up to limit entries from index from upward, in order and without a gap. Fewer only at the end
	// of the log, none beyond it. Those that are pruned come as their hashes.
	AuditEntries(ctx context.Context, from uint64, limit int) ([]Stored, error)
	// AuditSearch gives up to limit matching entries below index before (math.MaxInt64: from the newest), newest first,
	// and the index below which the search goes on (0: done). It looks at a bounded number of entries a call, so it may
	// give fewer than limit, even none, and still not be done. Pruned entries match nothing.
	AuditSearch(ctx context.Context, f Filter, before uint64, limit int) (found []Stored, next uint64, err error)
	// AuditHashes gives n leaf hashes from index from. Fewer only at the end of the log.
	AuditHashes(ctx context.Context, from uint64, n int) ([][32]byte, error)
	// AuditNodes gives the hashes of the named nodes (Hash of the arguments is ignored), in the order asked. A node that
	// is not stored is an error.
	AuditNodes(ctx context.Context, nodes []Node) ([][32]byte, error)
	// AuditKept gives the index of the first entry that is not pruned, which is that of the next entry when there is none, and its time, as far
	// as there is one.
	AuditKept(ctx context.Context) (first uint64, at time.Time, err error)
	// PruneAudit takes the bodies of entries from first on, keeps these leaf hashes of them instead, and forgets what searches look at, in one
	// durable transaction. The error is fault.Conflict when first is not the first that is kept or no entry would be left behind them.
	// Whether the hashes are the entries' is the caller's to know.
	PruneAudit(ctx context.Context, first uint64, hashes [][32]byte) error
	// SaveCheckpoint keeps a signed checkpoint; Checkpoint gives the newest one kept, nil when there is none.
	SaveCheckpoint(ctx context.Context, size uint64, note []byte) error
	Checkpoint(ctx context.Context) ([]byte, error)
	// SaveCosigned and Cosigned are the same for the newest checkpoint that witnesses have cosigned. One of the same size replaces the
	// one kept.
	SaveCosigned(ctx context.Context, size uint64, note []byte) error
	Cosigned(ctx context.Context) ([]byte, error)
}

// ErrLate is under the error of a record that was not begun, since its context had ended.
var ErrLate = errors.New("the record was not begun")

// Recorder is what the services need of the log.
type Recorder interface {
	// Record makes the entry and its changes durable in one transaction and returns the entry's index. An error of one of
	// the changes comes back as the store made it (a fault.Error, such as Conflict or NameTaken) and nothing is stored.
	// When the log cannot be written the error is fault.AuditUnavailable, and the caller must not release its result.
	// When ctx ends while the record is under way the error is fault.Timeout: the record may or may not become durable. When ctx has ended
	// before, it wraps ErrLate as well: nothing is stored, and what has been done already is for the caller to record.
	// When too many wait it is fault.Overloaded, and after Close fault.Unavailable: nothing is stored then. The entry is
	// copied; e.Time is set when it was zero.
	Record(ctx context.Context, e *Entry, changes ...Change) (uint64, error)
}
