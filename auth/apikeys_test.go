package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

var noToken idempotency.Token

func TestCreate(t *testing.T) {
	r := newRig(t)
	expires := r.clock.Now().Add(time.Hour)
	for _, brand := range append(Brands(), "") {
		k, presented := r.create(t, CreateRequest{Name: "app", Brand: brand, Scopes: []Scope{ScopeAuditRead, ScopeKeysRead}, ExpiresAt: expires})
		if brand == "" {
			brand = DefaultBrand
		}
		if !strings.HasPrefix(presented, brand+"_"+k.Prefix+"_") || k.Brand != brand || k.Tenant != tenant || k.CreatedBy != r.owner.ID ||
			!k.ExpiresAt.Equal(expires) || !k.RevokedAt.IsZero() || !slices.Equal(k.Scopes, []Scope{ScopeKeysRead, ScopeAuditRead}) {
			t.Errorf("record %+v", k)
		}
		stored, err := r.APIKey(t.Context(), r.owner, k.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(k, stored); diff != "" {
			t.Errorf("as stored (-made +stored):\n%s", diff)
		}
		if _, err := r.identify(t.Context(), presented); err != nil {
			t.Error(err)
		}
	}
	e := r.memory.entries[0]
	if e.Tenant != tenant || e.Principal != r.owner.ID || e.Action != ActionCreate || !strings.HasPrefix(e.Resource, "api-key:") || e.Outcome != "ok" || e.RequestID != "r" {
		t.Errorf("entry %+v", e)
	}
}

// What is refused is refused with its code, recorded, and makes nothing.
func TestCreateRules(t *testing.T) {
	r := newRig(t)
	ok := func(change func(*CreateRequest)) CreateRequest {
		q := CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}}
		change(&q)
		return q
	}
	weak := &Principal{ID: "api-key:x", Tenant: tenant, Scopes: []Scope{ScopeKeysRead}}
	manager := &Principal{ID: "api-key:y", Tenant: tenant, Scopes: []Scope{ScopeSettingsWrite, ScopeKeysRead}}
	for name, c := range map[string]struct {
		who  *Principal
		req  CreateRequest
		code fault.Code
	}{
		"no name":           {r.owner, ok(func(q *CreateRequest) { q.Name = "" }), fault.BadName},
		"long name":         {r.owner, ok(func(q *CreateRequest) { q.Name = strings.Repeat("x", MaxName+1) }), fault.BadName},
		"name of control":   {r.owner, ok(func(q *CreateRequest) { q.Name = "a\x00b" }), fault.BadName},
		"name not UTF-8":    {r.owner, ok(func(q *CreateRequest) { q.Name = "\xff" }), fault.BadName},
		"name of space":     {r.owner, ok(func(q *CreateRequest) { q.Name = " app" }), fault.BadName},
		"unknown brand":     {r.owner, ok(func(q *CreateRequest) { q.Brand = "zz" }), fault.BadField},
		"no scope":          {r.owner, ok(func(q *CreateRequest) { q.Scopes = nil }), fault.MissingField},
		"unknown scope":     {r.owner, ok(func(q *CreateRequest) { q.Scopes = []Scope{"root"} }), fault.BadField},
		"scope twice":       {r.owner, ok(func(q *CreateRequest) { q.Scopes = []Scope{ScopeKeysRead, ScopeKeysRead} }), fault.BadField},
		"expired":           {r.owner, ok(func(q *CreateRequest) { q.ExpiresAt = r.clock.Now() }), fault.BadField},
		"without the right": {weak, ok(func(*CreateRequest) {}), fault.InsufficientScope},
		"more than its own": {manager, ok(func(q *CreateRequest) { q.Scopes = []Scope{ScopeKeysRead, ScopeKeysWrite} }), fault.Forbidden},
	} {
		r.memory.log()
		k, presented, err := r.CreateAPIKey(t.Context(), c.who, c.req, "r", noToken)
		if fault.CodeOf(err) != c.code || k != nil || presented != "" {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
		line := "api-key.create " + string(c.code)
		if c.code == fault.InsufficientScope {
			line += " rule no-scope"
		}
		if diff := cmp.Diff([]string{line}, r.memory.log()); diff != "" {
			t.Errorf("%s: log (-want +got):\n%s", name, diff)
		}
	}
	if _, _, err := r.CreateAPIKey(t.Context(), manager, ok(func(*CreateRequest) {}), "r", noToken); err != nil {
		t.Errorf("its own scope: %v", err)
	}
	_, _, err := r.CreateAPIKey(t.Context(), nil, ok(func(*CreateRequest) {}), "r", noToken)
	want(t, err, fault.Unauthenticated)
	if n := len(r.memory.keys); n != 2 {
		t.Errorf("%d keys", n)
	}
}

func TestRevokeRules(t *testing.T) {
	r := newRig(t)
	k, _ := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}})
	r.memory.log()
	stranger := &Principal{ID: "api-key:z", Tenant: uuid.New(), Scopes: Scopes()}
	weak := &Principal{ID: "api-key:x", Tenant: tenant, Scopes: []Scope{ScopeKeysRead, ScopeKeysWrite}}
	want(t, r.RevokeAPIKey(t.Context(), stranger, k.ID, "r"), fault.APIKeyNotFound)
	want(t, r.RevokeAPIKey(t.Context(), r.owner, uuid.New(), "r"), fault.APIKeyNotFound)
	want(t, r.RevokeAPIKey(t.Context(), weak, k.ID, "r"), fault.InsufficientScope)
	want(t, r.RevokeAPIKey(t.Context(), nil, k.ID, "r"), fault.Unauthenticated)
	if stored, err := r.APIKey(t.Context(), r.owner, k.ID); err != nil || !stored.RevokedAt.IsZero() {
		t.Errorf("revoked by somebody who may not, %v", err)
	}
	if err := r.RevokeAPIKey(t.Context(), r.owner, k.ID, "r"); err != nil {
		t.Fatal(err)
	}
	first, err := r.APIKey(t.Context(), r.owner, k.ID)
	if err != nil || first.RevokedAt.IsZero() {
		t.Fatalf("%+v, %v", first, err)
	}
	r.clock.move(time.Hour)
	if err := r.RevokeAPIKey(t.Context(), r.owner, k.ID, "r"); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if again, err := r.APIKey(t.Context(), r.owner, k.ID); err != nil || !again.RevokedAt.Equal(first.RevokedAt) {
		t.Errorf("the time of the revocation changed, %v", err)
	}
	wantLog := []string{"api-key.revoke ERR_API_KEY_NOT_FOUND", "api-key.revoke ERR_API_KEY_NOT_FOUND", "api-key.revoke ERR_INSUFFICIENT_SCOPE rule no-scope",
		"api-key.revoke ok", "api-key.revoke ok"}
	if diff := cmp.Diff(wantLog, r.memory.log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// Without a record nothing is made, shown or ended; a key whose revocation is in doubt is looked up again.
func TestLogFails(t *testing.T) {
	r := newRig(t)
	k, presented := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}})
	if _, err := r.identify(t.Context(), presented); err != nil {
		t.Fatal(err)
	}
	for _, code := range []fault.Code{fault.AuditUnavailable, fault.Timeout, fault.StoreUnavailable} {
		r.memory.set(func(m *memory) { m.broken = fault.New(code, "broken") })
		_, shown, err := r.CreateAPIKey(t.Context(), r.owner, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}}, "r", noToken)
		want(t, err, code)
		if shown != "" {
			t.Error("a key was shown that is kept nowhere")
		}
		_, _, err = r.CreateAPIKey(t.Context(), r.owner, CreateRequest{}, "r", noToken)
		want(t, err, code) // not the refusal, which nobody would know of
		want(t, r.RevokeAPIKey(t.Context(), r.owner, k.ID, "r"), code)
	}
	r.memory.set(func(m *memory) { m.broken = nil })
	before := r.memory.lookups.Load()
	if _, err := r.identify(t.Context(), presented); err != nil {
		t.Errorf("it was not revoked after all: %v", err)
	}
	if r.memory.lookups.Load() != before+1 {
		t.Error("a key whose revocation is in doubt was taken from memory")
	}
}

func TestIdempotency(t *testing.T) {
	r := newRig(t)
	q := CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}}
	token := idempotency.Token{Key: "once", Request: [32]byte{1}}
	k, presented, err := r.CreateAPIKey(t.Context(), r.owner, q, "r1", token)
	if err != nil {
		t.Fatal(err)
	}
	again, shown, err := r.another().CreateAPIKey(t.Context(), r.owner, q, "r2", token)
	if err != nil || shown != presented || !cmp.Equal(k, again) {
		t.Errorf("another answer, %v", err)
	}
	for _, record := range r.memory.records {
		if strings.Contains(string(record.Sealed), presented) || len(record.Sealed) == 0 {
			t.Error("the key lies in clear")
		}
	}
	_, _, err = r.CreateAPIKey(t.Context(), r.owner, q, "r3", idempotency.Token{Key: "once", Request: [32]byte{2}})
	want(t, err, fault.IdempotencyConflict)
	other := &Principal{ID: "api-key:other", Tenant: tenant, Scopes: Scopes()}
	_, _, err = r.CreateAPIKey(t.Context(), other, q, "r4", token)
	want(t, err, fault.IdempotencyConflict)
	if n := len(r.memory.keys); n != 2 {
		t.Errorf("%d keys", n)
	}
	wantLog := []string{"api-key.create ok", "api-key.create ok replayed", "api-key.create ERR_IDEMPOTENCY_CONFLICT", "api-key.create ERR_IDEMPOTENCY_CONFLICT"}
	if diff := cmp.Diff(wantLog, r.memory.log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	// Another tenant's token is another token.
	stranger := &Principal{ID: "api-key:z", Tenant: uuid.New(), Scopes: Scopes()}
	if _, theirs, err := r.CreateAPIKey(t.Context(), stranger, q, "r5", token); err != nil || theirs == presented {
		t.Errorf("another tenant: %v", err)
	}
	// A record that was moved or changed does not open.
	for _, record := range r.memory.records {
		record.Sealed[len(record.Sealed)-1] ^= 1
	}
	_, _, err = r.CreateAPIKey(t.Context(), r.owner, q, "r6", token)
	want(t, err, fault.KeyMaterial)
	// After its time it is a new call... and needs its old record gone, which is for the store's pruning.
	r.memory.set(func(m *memory) { clear(m.records) })
	if _, fresh, err := r.CreateAPIKey(t.Context(), r.owner, q, "r7", token); err != nil || fresh == presented {
		t.Errorf("after the record was pruned: %v", err)
	}
	noStore := New(r.memory, r.memory, Options{Derive: fixedRoot})
	_, _, err = noStore.CreateAPIKey(t.Context(), r.owner, q, "r8", token)
	want(t, err, fault.Internal)
}

// The same call many times at once makes one key.
func TestConcurrentIdempotency(t *testing.T) {
	r := newRig(t)
	token := idempotency.Token{Key: "once", Request: [32]byte{1}}
	var wg sync.WaitGroup
	var mu sync.Mutex
	shown := make(map[string]int)
	for range 16 {
		wg.Go(func() {
			_, presented, err := r.CreateAPIKey(t.Context(), r.owner, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}}, "r", token)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			shown[presented]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(shown) != 1 || len(r.memory.keys) != 2 {
		t.Errorf("%d answers, %d keys", len(shown), len(r.memory.keys))
	}
}

func TestList(t *testing.T) {
	r := newRig(t)
	wantIDs := []uuid.UUID{r.record.ID}
	for range 9 {
		k, _ := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}})
		wantIDs = append(wantIDs, k.ID)
	}
	for _, limit := range []int{1, 3, 5, 9, 10, 0} {
		var got []uuid.UUID
		cursor := ""
		for {
			page, next, err := r.APIKeys(t.Context(), r.owner, cursor, limit)
			if err != nil {
				t.Fatal(err)
			}
			if limit > 0 && len(page) > limit || len(page) == 0 {
				t.Fatalf("limit %d: a page of %d", limit, len(page))
			}
			for _, k := range page {
				got = append(got, k.ID)
			}
			if cursor = next; cursor == "" {
				break
			}
		}
		if diff := cmp.Diff(wantIDs, got); diff != "" {
			t.Errorf("limit %d (-want +got):\n%s", limit, diff)
		}
	}
	for _, limit := range []int{-1, 1001} {
		_, _, err := r.APIKeys(t.Context(), r.owner, "", limit)
		want(t, err, fault.BadQuery)
	}
	good := base64.RawURLEncoding.EncodeToString(make([]byte, 16))
	for _, bad := range []string{"x", good + "A", good[:21] + "B", good[:10] + "\n" + good[10:], good + "=="} {
		_, _, err := r.APIKeys(t.Context(), r.owner, bad, 1)
		want(t, err, fault.BadCursor)
	}
	weak := &Principal{ID: "api-key:x", Tenant: tenant, Scopes: []Scope{ScopeKeysRead}}
	_, _, err := r.APIKeys(t.Context(), weak, "", 1)
	want(t, err, fault.InsufficientScope)
	_, err = r.APIKey(t.Context(), weak, r.record.ID)
	want(t, err, fault.InsufficientScope)
	stranger := &Principal{ID: "api-key:z", Tenant: uuid.New(), Scopes: Scopes()}
	if page, _, err := r.APIKeys(t.Context(), stranger, "", 0); err != nil || len(page) != 0 {
		t.Errorf("another tenant sees %d keys, %v", len(page), err)
	}
	_, err = r.APIKey(t.Context(), stranger, r.record.ID)
	want(t, err, fault.APIKeyNotFound)
}

func TestBootstrap(t *testing.T) {
	m := newMemory()
	s := New(m, m, Options{Derive: fixedRoot})
	cannot := errors.New("no space")
	_, _, err := s.Bootstrap(t.Context(), tenant, func(string) error { return cannot })
	if !errors.Is(err, cannot) || len(m.keys) != 0 {
		t.Errorf("a key that could not be kept: %v, %d keys", err, len(m.keys))
	}
	// A crash between the file and the record: the key in the file is not valid, and the next start makes another.
	m.broken = fault.New(fault.AuditUnavailable, "down")
	var lost string
	_, _, err = s.Bootstrap(t.Context(), tenant, func(p string) error { lost = p; return nil })
	want(t, err, fault.AuditUnavailable)
	m.broken = nil
	var kept string
	k, presented, err := s.Bootstrap(t.Context(), tenant, func(p string) error {
		if len(m.keys) != 0 {
			t.Error("recorded before it was kept")
		}
		kept = p
		return nil
	})
	if err != nil || kept != presented || k.Name != "owner" || k.CreatedBy != "system" || k.Role != RoleOwner ||
		SetOf(k.Effective()...)|SetOf(ScopeRead, ScopeWrite) != SetOf(Scopes()...) || m.tenants[tenant] == nil {
		t.Fatalf("%+v, %v", k, err)
	}
	if p, err := s.identify(t.Context(), kept); err != nil || p.Tenant != tenant {
		t.Error(err)
	}
	_, err = s.identify(t.Context(), lost)
	want(t, err, fault.Unauthenticated)
	_, _, err = s.Bootstrap(t.Context(), tenant, nil)
	want(t, err, fault.Conflict)
	if diff := cmp.Diff([]string{"api-key.create ok owner"}, m.log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// unlucky makes the first insertion fail as if the prefix were taken.
type unlucky struct {
	*memory
	failures int
}

func (u *unlucky) Record(ctx context.Context, e *audit.Entry, changes ...audit.Change) (uint64, error) {
	if len(changes) > 0 && u.failures > 0 {
		u.failures--
		return 0, fault.New(fault.Conflict, "taken")
	}
	return u.memory.Record(ctx, e, changes...)
}

func TestPrefixTaken(t *testing.T) {
	r := newRig(t)
	for failures, code := range map[int]fault.Code{1: "", 2: fault.Conflict} {
		s := New(r.memory, &unlucky{r.memory, failures}, Options{Derive: fixedRoot, Now: r.clock.Now})
		_, _, err := s.CreateAPIKey(t.Context(), r.owner, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}}, "r", noToken)
		want(t, err, code)
	}
}
