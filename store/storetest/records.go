package storetest

import (
	"bytes"
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/root"
)

func testAPIKeys(t *testing.T, e *env) {
	tenant := uuid.New()
	var made []*auth.APIKey
	for i := range 7 {
		k := &auth.APIKey{
			ID: uuid.New(), Tenant: tenant, Name: "ci", Brand: "kw", Prefix: strings.Repeat("x", i+1),
			MAC: [32]byte{1, byte(i)}, CreatedAt: now(), CreatedBy: "system",
		}
		if i%2 == 0 {
			k.Scopes = []auth.Scope{auth.ScopeKeysRead, auth.ScopeAuditRead}
			k.ExpiresAt = now().Add(time.Hour)
		}
		if i%3 == 0 {
			k.Role = auth.RoleDeveloper
			k.Restrictions = auth.Restrictions{Keys: []string{"a/b", uuid.NewString()}, Labels: map[string]string{"env": "prod"},
				Operations: []string{"sign"}, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}, RateLimit: 60}
		}
		made = append(made, k)
		e.must(t, e.InsertAPIKey(k))
	}
	other := *made[0]
	other.ID, other.Brand, other.Tenant = uuid.New(), "qh", uuid.New()
	e.must(t, e.InsertAPIKey(&other))
	for range 2 {
		for _, want := range append(slices.Clone(made), &other) {
			got, err := e.APIKeyByPrefix(t.Context(), want.Brand, want.Prefix)
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, "by prefix", got, want)
			got, err = e.APIKey(t.Context(), want.Tenant, want.ID)
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, "by id", got, want)
		}
		e.reopen(t)
	}
	_, err := e.APIKeyByPrefix(t.Context(), "kw", "y")
	wantFault(t, "unknown prefix", err, fault.APIKeyNotFound)
	_, err = e.APIKeyByPrefix(t.Context(), "qapi", "x")
	wantFault(t, "unknown brand", err, fault.APIKeyNotFound)
	_, err = e.APIKey(t.Context(), tenant, other.ID)
	wantFault(t, "another tenant's", err, fault.APIKeyNotFound)

	same := *made[0]
	same.ID = uuid.New()
	wantFault(t, "same prefix", e.do(t, e.InsertAPIKey(&same)), fault.Conflict)
	same = *made[0]
	same.Prefix = "new"
	wantFault(t, "same id", e.do(t, e.InsertAPIKey(&same)), fault.Conflict)

	slices.SortFunc(made, func(a, b *auth.APIKey) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	var listed []*auth.APIKey
	for after := uuid.Nil; ; {
		page, err := e.APIKeys(t.Context(), tenant, after, 3)
		if err != nil || len(page) > 3 {
			t.Fatal(len(page), err)
		}
		if len(page) == 0 {
			break
		}
		listed = append(listed, page...)
		after = page[len(page)-1].ID
	}
	wantSame(t, "listed", listed, made)

	at := now()
	e.must(t, e.RevokeAPIKey(tenant, made[0].ID, at))
	e.must(t, e.RevokeAPIKey(tenant, made[0].ID, at.Add(time.Hour)))
	made[0].RevokedAt = at
	got, err := e.APIKey(t.Context(), tenant, made[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "revoked", got, made[0])
	wantFault(t, "revoking another tenant's", e.do(t, e.RevokeAPIKey(tenant, other.ID, at)), fault.APIKeyNotFound)
	wantFault(t, "revoking an unknown one", e.do(t, e.RevokeAPIKey(tenant, uuid.New(), at)), fault.APIKeyNotFound)
}

func newSlot() *root.Slot {
	return &root.Slot{
		ID: uuid.New(), Kind: root.KindPassphrase, Label: "by hand", Params: []byte(`{"t":1}`), Sealed: []byte{1, 2, 3}, CreatedAt: now(), Generation: 1,
	}
}

func testSlots(t *testing.T, e *env) {
	a, b := newSlot(), newSlot()
	b.Kind, b.CreatedAt = root.KindShamir, a.CreatedAt.Add(time.Second)
	want := func(what string, slots ...*root.Slot) {
		t.Helper()
		got, err := e.Slots(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, what, got, slots)
	}
	want("none")
	wantFault(t, "deleting from none", e.do(t, e.DeleteSlot(a.ID)), fault.SlotNotFound)
	e.must(t, e.InsertSlot(b))
	e.must(t, e.InsertSlot(a))
	want("two, oldest first", a, b)
	wantFault(t, "same id", e.do(t, e.InsertSlot(a)), fault.Conflict)
	wantFault(t, "unknown", e.do(t, e.DeleteSlot(uuid.New())), fault.SlotNotFound)
	wantFault(t, "both at once", e.do(t, e.DeleteSlot(a.ID), e.DeleteSlot(b.ID)), fault.LastSlot)
	want("still two", a, b)

	// Two that each remove another slot in one batch: one of them would remove the last.
	batch := []*audit.Item{Item(e.DeleteSlot(a.ID)), Item(e.DeleteSlot(b.ID))}
	if err := e.Commit(t.Context(), batch, Extend); err != nil {
		t.Fatal(err)
	}
	wantFault(t, "the first", batch[0].Err, "")
	wantFault(t, "the last", batch[1].Err, fault.LastSlot)
	e.reopen(t)
	want("one", b)
	wantFault(t, "unknown beside the last", e.do(t, e.DeleteSlot(a.ID)), fault.SlotNotFound)
	e.must(t, e.InsertSlot(a), e.DeleteSlot(b.ID)) // one takes the place of the other
	want("the other", a)
}

func testFirstSlot(t *testing.T, e *env) {
	var won atomic.Int32
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			item := Item(e.InsertFirstSlot(newSlot()))
			if err := e.Commit(t.Context(), []*audit.Item{item}, Extend); err != nil {
				t.Error(err)
			}
			if item.Err == nil {
				won.Add(1)
				return
			}
			wantFault(t, "a second first slot", item.Err, fault.Conflict)
		})
	}
	group.Wait()
	slots, err := e.Slots(t.Context())
	if err != nil || len(slots) != 1 || won.Load() != 1 {
		t.Errorf("%d slots, %d won, %v", len(slots), won.Load(), err)
	}
}

func testIdempotency(t *testing.T, e *env) {
	tenant, at := uuid.New(), now()
	r := &idempotency.Record{
		Tenant: tenant, Key: "key-1", Request: [32]byte{7}, Resource: uuid.New(), Version: 3, Sealed: []byte("sealed"), CreatedAt: at,
	}
	read := func(tenant uuid.UUID, key string, when time.Time) *idempotency.Record {
		t.Helper()
		got, err := e.Idempotency(t.Context(), tenant, key, when)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	var none *idempotency.Record
	wantSame(t, "before", read(tenant, "key-1", at), none)
	e.must(t, e.InsertIdempotency(r))
	e.reopen(t)
	wantSame(t, "after", read(tenant, "key-1", at), r)
	wantSame(t, "at its last moment", read(tenant, "key-1", at.Add(idempotency.TTL)), r)
	wantSame(t, "too old", read(tenant, "key-1", at.Add(idempotency.TTL+time.Microsecond)), none)
	wantSame(t, "another tenant", read(uuid.New(), "key-1", at), none)
	wantSame(t, "another key", read(tenant, "key-2", at), none)

	again := *r
	again.Resource, again.Sealed, again.CreatedAt = uuid.New(), nil, at.Add(idempotency.TTL)
	wantFault(t, "a second record", e.do(t, e.InsertIdempotency(&again)), fault.Conflict)
	wantSame(t, "still the first", read(tenant, "key-1", at), r)
	k, v := NewKey(tenant, "made-twice")
	wantFault(t, "a key beside a second record", e.do(t, e.InsertKey(k, v), e.InsertIdempotency(&again)), fault.Conflict)
	_, err := e.KeyByID(t.Context(), tenant, k.ID)
	wantFault(t, "the key", err, fault.KeyNotFound)
	elsewhere := again
	elsewhere.Tenant = uuid.New()
	e.must(t, e.InsertIdempotency(&elsewhere))

	// A record that is too old to be read is not in the way either.
	again.CreatedAt = at.Add(idempotency.TTL + time.Microsecond)
	e.must(t, e.InsertIdempotency(&again))
	wantSame(t, "the new one", read(tenant, "key-1", again.CreatedAt), &again)

	e.must(t, e.PruneIdempotency(again.CreatedAt))
	wantSame(t, "not pruned", read(tenant, "key-1", again.CreatedAt), &again)
	wantSame(t, "pruned", read(elsewhere.Tenant, "key-1", elsewhere.CreatedAt), none)
	e.must(t, e.PruneIdempotency(again.CreatedAt.Add(time.Microsecond)))
	wantSame(t, "pruned too", read(tenant, "key-1", again.CreatedAt), none)
}

// calls is every method that takes a context.
func calls(e *env) map[string]func(ctx context.Context) error {
	id := uuid.New()
	all := map[string]func(ctx context.Context) error{
		"Ping":           e.Ping,
		"Commit":         func(ctx context.Context) error { return e.Commit(ctx, []*audit.Item{Item()}, Extend) },
		"AuditHead":      func(ctx context.Context) error { _, err := e.AuditHead(ctx); return err },
		"AuditEntries":   func(ctx context.Context) error { _, err := e.AuditEntries(ctx, 0, 1); return err },
		"AuditSearch":    func(ctx context.Context) error { _, _, err := e.AuditSearch(ctx, audit.Filter{}, 5, 5); return err },
		"AuditHashes":    func(ctx context.Context) error { _, err := e.AuditHashes(ctx, 0, 1); return err },
		"AuditNodes":     func(ctx context.Context) error { _, err := e.AuditNodes(ctx, []audit.Node{{Level: 8}}); return err },
		"AuditKept":      func(ctx context.Context) error { _, _, err := e.AuditKept(ctx); return err },
		"PruneAudit":     func(ctx context.Context) error { return e.PruneAudit(ctx, 0, make([][32]byte, 1)) },
		"SaveCheckpoint": func(ctx context.Context) error { return e.SaveCheckpoint(ctx, 1, []byte("x")) },
		"Checkpoint":     func(ctx context.Context) error { _, err := e.Checkpoint(ctx); return err },
		"APIKeyByPrefix": func(ctx context.Context) error { _, err := e.APIKeyByPrefix(ctx, "kw", "x"); return err },
		"APIKey":         func(ctx context.Context) error { _, err := e.APIKey(ctx, id, id); return err },
		"APIKeys":        func(ctx context.Context) error { _, err := e.APIKeys(ctx, id, id, 1); return err },
		"Slots":          func(ctx context.Context) error { _, err := e.Slots(ctx); return err },
		"KeyByID":        func(ctx context.Context) error { _, err := e.KeyByID(ctx, id, id); return err },
		"KeyByName":      func(ctx context.Context) error { _, err := e.KeyByName(ctx, id, "x"); return err },
		"Keys":           func(ctx context.Context) error { _, err := e.Keys(ctx, id, keys.Filter{}, "", 1); return err },
		"Version":        func(ctx context.Context) error { _, err := e.Version(ctx, id, 1); return err },
		"Versions":       func(ctx context.Context) error { _, err := e.Versions(ctx, id, 1, 1); return err },
		"DefaultKey":     func(ctx context.Context) error { _, err := e.DefaultKey(ctx, id, "sign"); return err },
		"KeysDue":        func(ctx context.Context) error { _, _, err := e.KeysDue(ctx, now(), keys.DueCursor{}, 1); return err },
		"News":           func(ctx context.Context) error { _, _, _, err := e.News(ctx, 0, 1); return err },
		"PruneNews":      func(ctx context.Context) error { return e.PruneNews(ctx, now()) },
		"Listen":         func(ctx context.Context) error { return e.Listen(ctx, func() {}) },
		"Acquire":        func(ctx context.Context) error { _, _, err := e.Acquire(ctx, "x", id, time.Second); return err },
		"Release":        func(ctx context.Context) error { return e.Release(ctx, "x", id) },
		"Leases":         func(ctx context.Context) error { _, err := e.Leases(ctx); return err },
		"SaveNode":       func(ctx context.Context) error { return e.SaveNode(ctx, &cluster.Node{ID: id}, time.Hour) },
		"RemoveNode":     func(ctx context.Context) error { return e.RemoveNode(ctx, id) },
		"Nodes":          func(ctx context.Context) error { _, err := e.Nodes(ctx, time.Hour); return err },
		"Tenant":         func(ctx context.Context) error { _, err := e.Tenant(ctx, id); return err },
		"Tenants":        func(ctx context.Context) error { _, err := e.Tenants(ctx, id, 1); return err },
		"Idempotency":    func(ctx context.Context) error { _, err := e.Idempotency(ctx, id, "x", now()); return err },
	}
	maps.Copy(all, webhookCalls(e))
	maps.Copy(all, accessCalls(e))
	return all
}

func testCancelled(t *testing.T, e *env) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls(e) {
		wantFault(t, name, call(ctx), fault.Timeout)
	}
	wantSame(t, "entries", e.size(t), uint64(0))
}

func testClosed(t *testing.T, e *env) {
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for name, call := range calls(e) {
		wantFault(t, name, call(t.Context()), fault.StoreUnavailable)
	}
	if err := e.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}
