// Package storetest is the conformance suite of every store: what the contracts of audit, auth, root, keys, idempotency
// and cluster promise, clause by clause. It trusts nothing that a store says of itself: it reads back, and it opens again.
package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/audit/sink"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/ratelimit"
	"github.com/keywright/keywright/root"
)

// Store is what a store implements.
type Store interface {
	audit.Store
	auth.Store
	root.Store
	keys.Store
	idempotency.Store
	cluster.Store
	jobs.Store
	events.Store
	sink.Cursors
	ratelimit.Store
	// Ping reports whether the store can be used now.
	Ping(ctx context.Context) error
	// Close waits for the calls under way. Later calls answer fault.StoreUnavailable.
	Close() error
}

// Fresh opens an empty store, and gives a function that opens the same data again once the store is closed. Both fail the
// test when they cannot. The suite closes what it opens.
type Fresh func(t *testing.T) (s Store, again func(t *testing.T) Store)

// Run runs the suite.
func Run(t *testing.T, fresh Fresh) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, e *env)
	}{
		{"Log/Empty", testEmptyLog},
		{"Log/Order", testOrder},
		{"Log/Search", testSearch},
		{"Log/SearchInTime", testSearchInTime},
		{"Log/SearchBounded", testSearchBounded},
		{"Log/Checkpoint", testCheckpoint},
		{"Log/Copies", testCopies},
		{"Log/Pruned", testPruned},
		{"Log/PrunedTogether", testPrunedTogether},
		{"Commit/Atomic", testAtomic},
		{"Commit/ConflictsInBatch", testConflictsInBatch},
		{"Commit/ExtendFails", testExtendFails},
		{"Commit/ExtendLies", testExtendLies},
		{"Commit/ForeignChange", testForeignChange},
		{"Commit/AllFail", testAllFail},
		{"Commit/Durable", testDurable},
		{"Commit/Ended", testEnded},
		{"Commit/Concurrent", testConcurrentCommits},
		{"Keys/RoundTrip", testKeyRoundTrip},
		{"Keys/Names", testNames},
		{"Keys/Update", testUpdateKey},
		{"Keys/Race", testUpdateRace},
		{"Keys/Filters", testFilters},
		{"Keys/FilterModel", testFilterModel},
		{"Keys/Pages", testPages},
		{"Keys/PagesOfDestroyed", testPagesOfDestroyed},
		{"Keys/PagesWhileInserting", testPagesWhileInserting},
		{"Keys/Due", testDue},
		{"Keys/Uses", testUses},
		{"Keys/Default", testDefault},
		{"Keys/DueByClock", testDueByClock},
		{"Keys/DueByUse", testDueByUse},
		{"Keys/Reserve", testReserve},
		{"Keys/Days", testDays},
		{"Settings", testSettings},
		{"Versions", testVersions},
		{"APIKeys", testAPIKeys},
		{"APIKeys/Rotate", testRotateAPIKey},
		{"APIKeys/Quota", testAPIKeyQuota},
		{"Tenants", testTenants},
		{"Tenants/Security", testTenantSecurity},
		{"Sessions", testSessions},
		{"Sessions/Bounds", testSessionBounds},
		{"Sessions/Pruned", testSessionsPruned},
		{"Sessions/News", testSessionNews},
		{"Grants", testGrants},
		{"Grants/Full", testGrantsFull},
		{"Approvals", testApprovals},
		{"Approvals/Bounds", testApprovalBounds},
		{"Tenants/KeyQuota", testKeyQuota},
		{"Slots", testSlots},
		{"Webhooks", testWebhooks},
		{"SinkCursors", testSinkCursors},
		{"Webhooks/Progress", testWebhookProgress},
		{"Slots/First", testFirstSlot},
		{"Slots/Replace", testReplaceRoot},
		{"Slots/ReplaceRace", testReplaceRace},
		{"Versions/Material", testMaterial},
		{"Idempotency", testIdempotency},
		{"News", testNews},
		{"News/Pages", testNewsPages},
		{"News/Pruned", testPruneNews},
		{"News/Listen", testListen},
		{"News/ListenClosed", testListenClosed},
		{"Leases", testLeases},
		{"Nodes", testNodes},
		{"Jobs", testJobs},
		{"Jobs/Cancel", testJobsCancel},
		{"Jobs/Lists", testJobsLists},
		{"Jobs/Bound", testJobsBound},
		{"Rates", testRates},
		{"Rates/Together", testRatesTogether},
		{"Readers", testReadersDuringCommits},
		{"Cancelled", testCancelled},
		{"Closed", testClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := &env{}
			e.Store, e.again = fresh(t)
			t.Cleanup(func() {
				if err := e.Close(); err != nil {
					t.Errorf("closing: %v", err)
				}
			})
			test.run(t, e)
		})
	}
}

// env is a test's store.
type env struct {
	Store
	again func(t *testing.T) Store
}

// reopen closes the store and opens it again.
func (e *env) reopen(t *testing.T) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatalf("closing: %v", err)
	}
	e.Store = e.again(t)
}

// do commits one item with the changes and gives what became of it.
func (e *env) do(t *testing.T, changes ...audit.Change) error {
	t.Helper()
	item := Item(changes...)
	if err := e.Commit(t.Context(), []*audit.Item{item}, Extend); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return item.Err
}

// must is do for changes that succeed.
func (e *env) must(t *testing.T, changes ...audit.Change) {
	t.Helper()
	if err := e.do(t, changes...); err != nil {
		t.Fatalf("change: %v", err)
	}
}

// size gives the number of entries of the log.
func (e *env) size(t *testing.T) uint64 {
	t.Helper()
	h, err := e.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h.Size
}

// wantFault checks the code of an error; "" is no error.
func wantFault(t *testing.T, what string, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("%s: got %v, want code %q", what, err, code)
	}
}

func wantSame(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// now is a time as stores keep it: UTC, in microseconds.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

var leaves atomic.Uint64 // makes each leaf of a run another one

// Item makes an item with an entry of its own.
func Item(changes ...audit.Change) *audit.Item {
	return ItemOf(audit.Entry{Principal: "system", Action: "test", Outcome: "ok"}, changes...)
}

// ItemOf makes an item with this entry.
func ItemOf(e audit.Entry, changes ...audit.Change) *audit.Item {
	if e.Time.IsZero() {
		e.Time = now()
	}
	leaf := fmt.Appendf(nil, "leaf %d: %s %s %s %s %s", leaves.Add(1), e.Tenant, e.Key, e.Principal, e.Action, rand.Text())
	return &audit.Item{Entry: &e, Leaf: leaf, Hash: tlog.RecordHash(leaf), Changes: changes}
}

// Extend grows the compact range (RFC 6962 section 2.1) by the items. It is what Commit is called with.
func Extend(h audit.Head, items []*audit.Item) (audit.Head, []audit.Node, error) {
	h.Range = append([][32]byte(nil), h.Range...)
	var nodes []audit.Node
	for _, it := range items {
		it.Index = h.Size
		hash, level := it.Hash, uint8(0)
		for ; h.Size>>level&1 == 1; level++ {
			last := len(h.Range) - 1
			hash = tlog.NodeHash(h.Range[last], tlog.Hash(hash))
			h.Range = h.Range[:last]
			if level+1 >= audit.NodeLevel {
				nodes = append(nodes, audit.Node{Level: level + 1, Index: h.Size >> (level + 1), Hash: hash})
			}
		}
		h.Range = append(h.Range, hash)
		h.Size++
	}
	return h, nodes, nil
}

var errExtend = errors.New("extend refused")

// NewKey makes a key record, active, with its first version.
func NewKey(tenant uuid.UUID, name string) (*keys.Key, *keys.Version) {
	at := now()
	k := &keys.Key{
		ID: uuid.Must(uuid.NewV7()), Tenant: tenant, Name: name, Algorithm: "AES-256-GCM", Purpose: "encrypt",
		Origin: keys.OriginGenerated, BackendID: "software:test", Custody: backend.CustodySoftware, PrimaryVersion: 1,
		LatestVersion: 1, State: keys.StateActive, CreatedAt: at, UpdatedAt: at, Revision: 1,
	}
	v := &keys.Version{
		KeyID: k.ID, Version: 1, State: keys.StateActive, Origin: k.Origin, BackendID: k.BackendID, Custody: k.Custody,
		Blob: []byte(rand.Text() + rand.Text() + rand.Text()), CreatedAt: at, StateAt: at, Revision: 1,
	}
	return k, v
}

// insert adds a key after set has changed its record.
func (e *env) insert(t *testing.T, tenant uuid.UUID, name string, set func(*keys.Key)) *keys.Key {
	t.Helper()
	k, v := NewKey(tenant, name)
	if set != nil {
		set(k)
	}
	e.must(t, e.InsertKey(k, v))
	return k
}
