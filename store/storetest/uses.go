package storetest

import (
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// dueNames lists the names of the keys that are due.
func (e *env) dueNames(t *testing.T, at time.Time) string {
	t.Helper()
	list, _, err := e.KeysDue(t.Context(), at, keys.DueCursor{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, k := range list {
		names = append(names, k.Name)
	}
	return strings.Join(names, " ")
}

// testDueByClock: a pre-active key is due when it is to be activated, an active one when it expires or its period is over, others never.
func testDueByClock(t *testing.T, e *env) {
	at, hour := now(), time.Hour
	dated := func(state keys.State, activates, expires time.Duration) func(*keys.Key) {
		return func(k *keys.Key) {
			k.State = state
			if activates != 0 {
				k.Policy.ActivatesAt = at.Add(activates)
			}
			if expires != 0 {
				k.Policy.ExpiresAt = at.Add(expires)
			}
		}
	}
	tenant := uuid.New()
	e.insert(t, tenant, "activate-2", dated(keys.StatePreActive, -2*hour, hour))
	e.insert(t, tenant, "activate-later", dated(keys.StatePreActive, hour, 2*hour))
	e.insert(t, tenant, "by hand", dated(keys.StatePreActive, 0, hour))
	e.insert(t, tenant, "expire-3", dated(keys.StateActive, -5*hour, -3*hour))
	e.insert(t, tenant, "expire-later", dated(keys.StateActive, -5*hour, 90*time.Minute))
	e.insert(t, tenant, "expired", dated(keys.StateDeactivated, -5*hour, -3*hour))
	e.insert(t, tenant, "suspended", dated(keys.StateSuspended, -5*hour, -3*hour))
	e.insert(t, tenant, "rotate-1", func(k *keys.Key) {
		dated(keys.StateActive, -4*hour, 9*hour)(k)
		k.CreatedAt, k.Policy.RotationPeriod = at.Add(-90*hour), 3*hour // from the activation on
	})
	wantSame(t, "due", e.dueNames(t, at), "expire-3 activate-2 rotate-1")
	wantSame(t, "due two hours later", e.dueNames(t, at.Add(2*hour)), "expire-3 activate-2 rotate-1 activate-later expire-later")
}

// reserve is a reservation of the key's first version within bounds of 1,000 messages and 10,000 bytes.
func reserve(k *keys.Key, messages, bytes int64) keys.Reservation {
	return keys.Reservation{Key: k.ID, Version: 1, Messages: messages, Bytes: bytes, MaxMessages: 1000, MaxBytes: 10000, At: now()}
}

// testDueByUse: the key of a used-up primary version is due, until it has another or its record says otherwise.
func testDueByUse(t *testing.T, e *env) {
	tenant := uuid.New()
	k := e.insert(t, tenant, "k", func(k *keys.Key) { k.Policy.RotateAfterMessages, k.Policy.RotateAfterBytes = 100, 5000 })
	later := func() time.Time { return now().Add(time.Minute) }
	e.must(t, e.ReserveUses(reserve(k, 99, 4999)))
	wantSame(t, "below both", e.dueNames(t, later()), "")
	at := now()
	e.must(t, e.ReserveUses(keys.Reservation{Key: k.ID, Version: 1, Bytes: 1, At: at}))
	wantSame(t, "before", e.dueNames(t, at.Add(-time.Microsecond)), "")
	wantSame(t, "by bytes", e.dueNames(t, at), "k")
	e.must(t, e.ReserveUses(keys.Reservation{Key: k.ID, Version: 1, Messages: 1, At: at.Add(time.Hour)}))
	wantSame(t, "it stays due since then", e.dueNames(t, at), "k")

	// A change of something else leaves it due; another policy may end that, and another still begin it anew.
	update := func(change func()) {
		t.Helper()
		change()
		k.UpdatedAt = now()
		e.must(t, e.UpdateKey(k))
		k.Revision++
	}
	update(func() { k.Labels = map[string]string{"a": "b"} })
	wantSame(t, "with a label", e.dueNames(t, later()), "k")
	update(func() { k.Policy.RotateAfterMessages, k.Policy.RotateAfterBytes = 101, 5001 })
	wantSame(t, "with higher thresholds", e.dueNames(t, later()), "")
	update(func() { k.State = keys.StateSuspended; k.Policy.RotateAfterMessages = 50 })
	wantSame(t, "while it is suspended", e.dueNames(t, later()), "")
	e.must(t, e.ReserveUses(reserve(k, 1, 0)))
	wantSame(t, "while it is suspended, and used", e.dueNames(t, later()), "")
	update(func() { k.State = keys.StateActive })
	wantSame(t, "active again", e.dueNames(t, later()), "k")
	e.reopen(t)
	wantSame(t, "opened again", e.dueNames(t, later()), "k")

	_, v := NewKey(tenant, "")
	v.KeyID, v.Version = k.ID, 2
	k.PrimaryVersion, k.LatestVersion, k.UpdatedAt = 2, 2, now()
	e.must(t, e.InsertVersion(v), e.UpdateKey(k))
	k.Revision++
	wantSame(t, "rotated", e.dueNames(t, later()), "")
	e.must(t, e.ReserveUses(reserve(k, 100, 0)))
	wantSame(t, "an old version is used", e.dueNames(t, later()), "")

	// Records without thresholds of their own take those of the reservation, as do records that were never counted.
	imported := e.insert(t, tenant, "imported", func(k *keys.Key) { k.Origin = keys.OriginImported })
	e.must(t, e.ReserveUses(reserve(imported, 900, 0)))
	wantSame(t, "without thresholds", e.dueNames(t, later()), "")
	r := reserve(imported, 0, 0)
	r.RotateMessages = 901
	e.must(t, e.ReserveUses(r))
	wantSame(t, "below that of the reservation", e.dueNames(t, later()), "")
	r.RotateMessages = 900
	e.must(t, e.ReserveUses(r))
	wantSame(t, "at that of the reservation", e.dueNames(t, later()), "imported")
}

// testReserve: what a version may protect is exact, whoever counts at once, and nothing else of the records changes.
func testReserve(t *testing.T, e *env) {
	tenant := uuid.New()
	k := e.insert(t, tenant, "k", nil)
	e.must(t, e.ReserveUses(reserve(k, 600, 9000)))
	wantFault(t, "more messages", e.do(t, e.ReserveUses(reserve(k, 401, 0))), fault.UsageLimit)
	wantFault(t, "more bytes", e.do(t, e.ReserveUses(reserve(k, 0, 1001))), fault.UsageLimit)
	wantFault(t, "far more", e.do(t, e.ReserveUses(reserve(k, math.MaxInt64, math.MaxInt64))), fault.UsageLimit)
	wantFault(t, "less than nothing", e.do(t, e.ReserveUses(reserve(k, -1, 0))), fault.Internal)
	wantFault(t, "less bytes than none", e.do(t, e.ReserveUses(reserve(k, 0, -1))), fault.Internal)
	unknown := reserve(k, 1, 1)
	unknown.Version = 2
	wantFault(t, "an unknown version", e.do(t, e.ReserveUses(unknown)), fault.VersionNotFound)
	unknown = reserve(k, 1, 1)
	unknown.Key = uuid.New()
	wantFault(t, "an unknown key", e.do(t, e.ReserveUses(unknown)), fault.VersionNotFound)
	e.must(t, e.ReserveUses(reserve(k, 300, 500)))
	var counted atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 10 {
				batch := []*audit.Item{Item(e.ReserveUses(reserve(k, 1, 3))), Item(e.ReserveUses(reserve(k, 2, 5)))}
				if err := e.Commit(t.Context(), batch, Extend); err != nil {
					t.Error(err)
				}
				for n, it := range batch {
					if it.Err == nil {
						counted.Add(int64(n + 1))
					} else {
						wantFault(t, "at the limit", it.Err, fault.UsageLimit)
					}
				}
			}
		})
	}
	group.Wait()
	e.reopen(t)
	v, err := e.Version(t.Context(), k.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "messages", v.Messages, int64(1000))
	wantSame(t, "counted", counted.Load()+900, int64(1000))
	wantSame(t, "revision of the version", v.Revision, int64(1))
	got, err := e.KeyByID(t.Context(), tenant, k.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "the key", got, k)

	// Without bounds there is room up to the last number that can be counted.
	free := e.insert(t, tenant, "free", nil)
	e.must(t, e.ReserveUses(keys.Reservation{Key: free.ID, Version: 1, Messages: math.MaxInt64, Bytes: 7, At: now()}))
	wantFault(t, "beyond all numbers", e.do(t, e.ReserveUses(keys.Reservation{Key: free.ID, Version: 1, Messages: 1, At: now()})), fault.UsageLimit)
}

// testSharedUses: what a version may protect is exact over both nodes, and its key is due once, for both.
func testSharedUses(t *testing.T, nodes [2]*env, _ func(t *testing.T) Store) {
	tenant := uuid.New()
	k := nodes[0].insert(t, tenant, "k", func(k *keys.Key) { k.Policy.RotateAfterMessages = 40 })
	const most = 50
	var counted atomic.Int64
	var group sync.WaitGroup
	for n, e := range nodes {
		group.Go(func() {
			for i := range 30 {
				r := keys.Reservation{Key: k.ID, Version: 1, Messages: int64(1 + (i+n)%3), Bytes: 10, MaxMessages: most, At: now()}
				item := Item(e.ReserveUses(r))
				if err := e.Commit(t.Context(), []*audit.Item{item}, Extend); err != nil {
					t.Error(err)
					return
				}
				if item.Err == nil {
					counted.Add(r.Messages)
				} else {
					wantFault(t, "at the limit", item.Err, fault.UsageLimit)
				}
			}
		})
	}
	group.Wait()
	wantSame(t, "counted", counted.Load(), int64(most))
	for _, e := range nodes {
		v, err := e.Version(t.Context(), k.ID, 1)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "messages", v.Messages, int64(most))
		wantSame(t, "due", e.dueNames(t, now().Add(time.Second)), "k")
	}
}
