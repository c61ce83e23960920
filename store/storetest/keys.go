package storetest

import (
	"fmt"
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

func testKeyRoundTrip(t *testing.T, e *env) {
	tenant := uuid.New()
	bare := e.insert(t, tenant, "bare", nil)
	full := e.insert(t, tenant, "full", func(k *keys.Key) {
		k.Algorithm, k.Purpose, k.Origin, k.BackendID, k.Custody = "RSA-3072", "sign", keys.OriginImported, "hsm:x", "sealed"
		k.Labels = map[string]string{"env": "prod", "empty": "", "text": "ü \"quoted\" % _ = ☃"}
		k.Policy = keys.Policy{
			Operations: nil, Exportable: true, RotationPeriod: 90 * 24 * time.Hour, DeletionProtection: true,
			RequiredContext: []string{"a", "b"}, UsageLimit: 1 << 40, RotateAfterMessages: 1 << 33, RotateAfterBytes: 1<<63 - 1,
			ActivatesAt: now().Add(-time.Hour), ExpiresAt: now().Add(time.Hour),
		}
		k.PrimaryVersion, k.LatestVersion, k.MinDecrypt, k.MinEncrypt = 3, 1<<32-1, 2, 3
		k.Uses, k.State, k.Revision = 17, keys.StatePendingDeletion, 42
		k.RotatedAt, k.DeletionAt = now().Add(-time.Hour), now().Add(time.Hour)
	})
	for range 2 {
		for _, want := range []*keys.Key{bare, full} {
			got, err := e.KeyByID(t.Context(), tenant, want.ID)
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, "by id", got, want)
			got, err = e.KeyByName(t.Context(), tenant, want.Name)
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, "by name", got, want)
		}
		_, err := e.KeyByID(t.Context(), uuid.New(), full.ID)
		wantFault(t, "by id, of another tenant", err, fault.KeyNotFound)
		_, err = e.KeyByID(t.Context(), tenant, uuid.New())
		wantFault(t, "by an unknown id", err, fault.KeyNotFound)
		_, err = e.KeyByName(t.Context(), uuid.New(), "full")
		wantFault(t, "by name, of another tenant", err, fault.KeyNotFound)
		_, err = e.KeyByName(t.Context(), tenant, "ful")
		wantFault(t, "by part of the name", err, fault.KeyNotFound)
		_, err = e.KeyByName(t.Context(), tenant, "FULL")
		wantFault(t, "by the name in other letters", err, fault.KeyNotFound)
		e.reopen(t)
	}
}

func testNames(t *testing.T, e *env) {
	tenant := uuid.New()
	first := e.insert(t, tenant, "n", nil)
	k, v := NewKey(tenant, "n")
	wantFault(t, "same name", e.do(t, e.InsertKey(k, v)), fault.NameTaken)
	k.Name = "N"
	e.must(t, e.InsertKey(k, v))
	other, ov := NewKey(tenant, "free")
	other.ID, ov.KeyID = first.ID, first.ID
	wantFault(t, "same id", e.do(t, e.InsertKey(other, ov)), fault.Conflict)
	e.insert(t, uuid.New(), "n", nil) // another tenant's names are its own
	internal, iv := NewKey(tenant, "n")
	internal.Internal = true
	wantFault(t, "an internal key of the same name", e.do(t, e.InsertKey(internal, iv)), fault.NameTaken)

	// The name of a destroyed key is free again, and its record stays.
	first.State = keys.StateDestroyed
	e.must(t, e.UpdateKey(first))
	second := e.insert(t, tenant, "n", nil)
	got, err := e.KeyByName(t.Context(), tenant, "n")
	if err != nil || got.ID != second.ID {
		t.Errorf("the name gives %v, %v", got, err)
	}
	got, err = e.KeyByID(t.Context(), tenant, first.ID)
	if err != nil || got.State != keys.StateDestroyed || got.Name != "n" {
		t.Errorf("the destroyed key is %+v, %v", got, err)
	}
	first.Revision++
	first.State = keys.StateActive
	wantFault(t, "back under a taken name", e.do(t, e.UpdateKey(first)), fault.NameTaken)
	second.State = keys.StateDestroyed
	e.must(t, e.UpdateKey(second)) // two destroyed keys of one name
}

func testUpdateKey(t *testing.T, e *env) {
	tenant := uuid.New()
	k := e.insert(t, tenant, "k", func(k *keys.Key) {
		k.Labels = map[string]string{"a": "1", "b": "2"}
		k.Uses = 5
	})
	e.insert(t, tenant, "taken", nil)
	next := *k
	next.Name, next.BackendID, next.Custody, next.State = "renamed", "software:other", "sealed", keys.StateSuspended
	next.Labels = map[string]string{"b": "3", "c": "4"}
	next.Policy = keys.Policy{DeletionProtection: true}
	next.PrimaryVersion, next.LatestVersion, next.MinDecrypt, next.MinEncrypt = 4, 5, 2, 3
	next.UpdatedAt, next.RotatedAt, next.DeletionAt = now(), now(), now().Add(time.Hour)
	next.Uses = 1000 // not written
	e.must(t, e.UpdateKey(&next))
	want := next
	want.Uses, want.Revision = 5, k.Revision+1
	got, err := e.KeyByID(t.Context(), tenant, k.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "updated", got, &want)
	for _, c := range []struct {
		f    keys.Filter
		want int
	}{
		{keys.Filter{Label: "a"}, 0}, {keys.Filter{Label: "b=2"}, 0}, {keys.Filter{Label: "b=3"}, 1},
		{keys.Filter{Label: "c"}, 1}, {keys.Filter{Label: "b", NamePrefix: "k"}, 0}, {keys.Filter{Label: "b", NamePrefix: "re"}, 1},
	} {
		list, err := e.Keys(t.Context(), tenant, c.f, "", 10)
		if err != nil || len(list) != c.want {
			t.Errorf("%+v: %d keys, %v", c.f, len(list), err)
		}
	}
	wantFault(t, "an old revision", e.do(t, e.UpdateKey(&next)), fault.Conflict)
	want.Name = "taken"
	wantFault(t, "a taken name", e.do(t, e.UpdateKey(&want)), fault.NameTaken)
	unknown := want
	unknown.ID = uuid.New()
	wantFault(t, "an unknown key", e.do(t, e.UpdateKey(&unknown)), fault.Conflict)
	want.Name, want.Tenant = "renamed", uuid.New()
	wantFault(t, "a key of another tenant", e.do(t, e.UpdateKey(&want)), fault.Conflict)
	want.Tenant, want.Labels, want.DeletionAt, want.RotatedAt = tenant, nil, time.Time{}, time.Time{}
	e.must(t, e.UpdateKey(&want))
	want.Revision++
	if got, err = e.KeyByID(t.Context(), tenant, k.ID); err != nil {
		t.Fatal(err)
	}
	wantSame(t, "emptied", got, &want)
}

// testUpdateRace: of many who change one revision, one succeeds.
func testUpdateRace(t *testing.T, e *env) {
	tenant := uuid.New()
	k := e.insert(t, tenant, "k", nil)
	for round := range 10 {
		var won, lost atomic.Int32
		var group sync.WaitGroup
		for i := range 12 {
			group.Go(func() {
				mine := *k
				mine.LatestVersion++
				_, v := NewKey(tenant, "")
				v.KeyID, v.Version = k.ID, mine.LatestVersion
				v.Public = fmt.Appendf(nil, "of %d", i)
				item := Item(e.UpdateKey(&mine), e.InsertVersion(v))
				if err := e.Commit(t.Context(), []*audit.Item{item}, Extend); err != nil {
					t.Error(err)
				}
				switch fault.CodeOf(item.Err) {
				case "":
					won.Add(1)
				case fault.Conflict:
					lost.Add(1)
				default:
					t.Error(item.Err)
				}
			})
		}
		group.Wait()
		if won.Load() != 1 || lost.Load() != 11 {
			t.Fatalf("round %d: %d won, %d lost", round, won.Load(), lost.Load())
		}
		var err error
		if k, err = e.KeyByID(t.Context(), tenant, k.ID); err != nil {
			t.Fatal(err)
		}
	}
	versions, err := e.Versions(t.Context(), k.ID, 1, 100)
	if err != nil || len(versions) != 11 {
		t.Errorf("%d versions, %v", len(versions), err)
	}
}

func testDue(t *testing.T, e *env) {
	a, b := uuid.New(), uuid.New()
	at := now()
	hour := time.Hour
	rotate := func(created, rotated time.Time) func(*keys.Key) {
		return func(k *keys.Key) {
			k.CreatedAt, k.RotatedAt, k.Policy.RotationPeriod = created, rotated, 10*hour
		}
	}
	e.insert(t, a, "never", nil)
	e.insert(t, a, "rotate-2", rotate(at.Add(-12*hour), time.Time{}))
	e.insert(t, b, "rotate-5", rotate(at.Add(-90*hour), at.Add(-15*hour)))
	e.insert(t, b, "rotated", rotate(at.Add(-90*hour), at.Add(-5*hour)))
	e.insert(t, b, "rotate-0", rotate(at.Add(-10*hour), time.Time{}))
	deleted := e.insert(t, a, "delete-3", func(k *keys.Key) { k.State, k.DeletionAt = keys.StatePendingDeletion, at.Add(-3*hour) })
	e.insert(t, a, "later", func(k *keys.Key) { k.State, k.DeletionAt = keys.StatePendingDeletion, at.Add(hour) })
	e.insert(t, a, "gone", func(k *keys.Key) { k.State, k.DeletionAt = keys.StateDestroyed, at.Add(-9*hour) })
	e.insert(t, b, "suspended", func(k *keys.Key) { // a key that is not active has no rotation time
		rotate(at.Add(-90*hour), time.Time{})(k)
		k.State = keys.StateSuspended
	})
	creating := func(name string, since time.Time) *keys.Version {
		k, v := NewKey(b, name)
		k.State, v.State, v.StateAt = keys.StateCreating, keys.StateCreating, since
		e.must(t, e.InsertKey(k, v))
		return v
	}
	stuck := creating("stuck-4", at.Add(-5*hour))
	creating("just made", at.Add(-time.Minute))
	both := e.insert(t, b, "both-1.5", rotate(at.Add(-11*hour), time.Time{})) // due for rotation, too: named once
	_, second := NewKey(b, "")
	second.KeyID, second.Version, second.State, second.StateAt = both.ID, 2, keys.StateCreating, at.Add(-150*time.Minute)
	e.must(t, e.InsertVersion(second))

	due := func(limit int) string {
		t.Helper()
		list, _, err := e.KeysDue(t.Context(), at, keys.DueCursor{}, limit)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, k := range list {
			names = append(names, k.Name)
		}
		return strings.Join(names, " ")
	}
	// pages walks all that is due in pages: nothing is missed, also where a key is due twice.
	pages := func(limit int) int {
		t.Helper()
		seen := map[uuid.UUID]bool{}
		for after := (keys.DueCursor{}); ; {
			list, next, err := e.KeysDue(t.Context(), at, after, limit)
			if err != nil || len(list) > limit {
				t.Fatalf("%d keys of at most %d, %v", len(list), limit, err)
			}
			for _, k := range list {
				seen[k.ID] = true
			}
			if next == (keys.DueCursor{}) {
				return len(seen)
			}
			after = next
		}
	}
	wantSame(t, "due", due(100), "rotate-5 stuck-4 delete-3 rotate-2 both-1.5 rotate-0")
	wantSame(t, "the oldest two", due(2), "rotate-5 stuck-4")
	wantSame(t, "none", due(0), "")
	for limit := 1; limit < 9; limit++ {
		wantSame(t, "all, in pages", pages(limit), 6)
	}
	deleted.State, deleted.DeletionAt = keys.StateActive, time.Time{}
	e.must(t, e.UpdateKey(deleted))
	stuck.State = keys.StateActive
	e.must(t, e.UpdateVersion(stuck))
	wantSame(t, "after two are done", due(100), "rotate-5 rotate-2 both-1.5 rotate-0")
	for i := range 7 { // due at the same moment
		e.insert(t, a, fmt.Sprint("same-", i), rotate(at.Add(-20*hour), time.Time{}))
	}
	for limit := 1; limit < 9; limit++ {
		wantSame(t, "all, in pages", pages(limit), 11)
	}
}

// testUses: the limit is exact, whoever counts at once.
func testUses(t *testing.T, e *env) {
	tenant := uuid.New()
	k := e.insert(t, tenant, "k", nil)
	e.must(t, e.AddUses(k.ID, 3, 10))
	wantFault(t, "beyond", e.do(t, e.AddUses(k.ID, 8, 10)), fault.UsageLimit)
	e.must(t, e.AddUses(k.ID, 7, 10))
	wantFault(t, "one more", e.do(t, e.AddUses(k.ID, 1, 10)), fault.UsageLimit)
	wantFault(t, "far more", e.do(t, e.AddUses(k.ID, 1<<62, 10)), fault.UsageLimit)
	wantFault(t, "unknown", e.do(t, e.AddUses(uuid.New(), 1, 10)), fault.KeyNotFound)
	const limit = 50
	var counted atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 10 {
				batch := []*audit.Item{Item(e.AddUses(k.ID, 1, limit)), Item(e.AddUses(k.ID, 2, limit))}
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
	got, err := e.KeyByID(t.Context(), tenant, k.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "uses", got.Uses, int64(limit))
	wantSame(t, "counted", counted.Load()+10, int64(limit))
	wantSame(t, "revision", got.Revision, k.Revision) // counting is no change that others would conflict with
}

func testDefault(t *testing.T, e *env) {
	tenant := uuid.New()
	a, b := e.insert(t, tenant, "a", nil), e.insert(t, tenant, "b", nil)
	want := func(what string, id uuid.UUID, code fault.Code) {
		t.Helper()
		got, err := e.DefaultKey(t.Context(), tenant, "encrypt")
		wantFault(t, what, err, code)
		wantSame(t, what, got, id)
	}
	want("none", uuid.Nil, fault.NoDefaultKey)
	e.must(t, e.SetDefaultKey(tenant, "encrypt", uuid.Nil))
	e.must(t, e.SetDefaultKey(tenant, "encrypt", a.ID))
	want("a", a.ID, "")
	e.must(t, e.SetDefaultKey(tenant, "encrypt", b.ID), e.SetDefaultKey(tenant, "sign", a.ID))
	e.reopen(t)
	want("b", b.ID, "")
	wantFault(t, "a key of another tenant", e.do(t, e.SetDefaultKey(uuid.New(), "encrypt", a.ID)), fault.KeyNotFound)
	wantFault(t, "an unknown key", e.do(t, e.SetDefaultKey(tenant, "encrypt", uuid.New())), fault.KeyNotFound)
	want("still b", b.ID, "")
	e.must(t, e.SetDefaultKey(tenant, "encrypt", uuid.Nil))
	want("taken away", uuid.Nil, fault.NoDefaultKey)
	_, err := e.DefaultKey(t.Context(), uuid.New(), "sign")
	wantFault(t, "another tenant", err, fault.NoDefaultKey)
}

func testVersions(t *testing.T, e *env) {
	tenant := uuid.New()
	k := e.insert(t, tenant, "k", nil)
	var made []*keys.Version
	for i := uint32(2); i <= 12; i++ {
		_, v := NewKey(tenant, "")
		v.KeyID, v.Version, v.State = k.ID, i, keys.StatePreActive
		if i%2 == 0 {
			v.Public, v.Exportable, v.PriorState = []byte{1, 2, byte(i)}, true, keys.StateActive
		} else {
			v.Blob = nil
		}
		made = append(made, v)
		e.must(t, e.InsertVersion(v))
	}
	for _, want := range made {
		got, err := e.Version(t.Context(), k.ID, want.Version)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "version", got, want)
	}
	page, err := e.Versions(t.Context(), k.ID, 5, 4)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "page", page, made[3:7])
	page, err = e.Versions(t.Context(), k.ID, 13, 4)
	if err != nil || len(page) != 0 {
		t.Errorf("beyond the last: %d, %v", len(page), err)
	}
	for _, n := range []uint32{0, 13, 1<<32 - 1} {
		_, err := e.Version(t.Context(), k.ID, n)
		wantFault(t, "no such version", err, fault.VersionNotFound)
	}
	wantFault(t, "same number", e.do(t, e.InsertVersion(made[0])), fault.Conflict)
	orphan := *made[0]
	orphan.KeyID = uuid.New()
	wantFault(t, "no such key", e.do(t, e.InsertVersion(&orphan)), fault.KeyNotFound)

	next := *made[0]
	next.State, next.PriorState, next.Custody = keys.StateDestroyed, keys.StateActive, "sealed"
	next.Blob, next.Public, next.StateAt = nil, []byte("public"), now()
	next.Messages, next.Bytes = 1000, 1000 // not written
	e.must(t, e.UpdateVersion(&next))
	next.Messages, next.Bytes = 0, 0
	wantFault(t, "an old revision", e.do(t, e.UpdateVersion(&next)), fault.Conflict)
	wantFault(t, "an unknown version", e.do(t, e.UpdateVersion(&orphan)), fault.Conflict)
	next.Revision++
	e.reopen(t)
	got, err := e.Version(t.Context(), k.ID, next.Version)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "updated", got, &next)
}
