package auth

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

func TestAuthenticate(t *testing.T) {
	r := newRig(t)
	k, presented := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeEncryptionWrite, ScopeKeysRead}})
	p, err := r.identify(t.Context(), presented)
	if err != nil {
		t.Fatal(err)
	}
	wantP := &Principal{ID: "api-key:" + k.ID.String(), Kind: KindAPIKey, Tenant: tenant, TenantName: DefaultTenantName, Name: "app",
		Scopes: []Scope{ScopeKeysRead, ScopeEncryptionWrite}, Maker: r.owner.ID}
	if diff := cmp.Diff(wantP, p, cmpopts.IgnoreUnexported(Principal{})); diff != "" {
		t.Errorf("principal (-want +got):\n%s", diff)
	}
	want(t, allowed(p, ScopeKeysRead), "")
	want(t, allowed(p, ScopeKeysWrite), fault.InsufficientScope)
	want(t, allowed(nil, ScopeKeysRead), fault.Unauthenticated)
}

// Everything that is wrong with a key is answered alike, and nothing about it is remembered.
func TestRefusalsAreAlike(t *testing.T) {
	r := newRig(t)
	k, presented := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}})
	revoked, revokedKey := r.create(t, CreateRequest{Name: "gone", Scopes: []Scope{ScopeKeysRead}})
	if err := r.RevokeAPIKey(t.Context(), r.owner, revoked.ID, "r"); err != nil {
		t.Fatal(err)
	}
	_, expired := r.create(t, CreateRequest{Name: "short", Scopes: []Scope{ScopeKeysRead}, ExpiresAt: r.clock.Now().Add(time.Minute)})
	r.clock.move(time.Minute)
	other := "0"
	if strings.HasSuffix(presented, other) {
		other = "1"
	}
	_, unknown := newToken(DefaultBrand)
	before := entries(r.Service)
	for name, bad := range map[string]string{
		"empty": "", "malformed": "kw_x_y", "unknown": unknown, "another secret": presented[:len(presented)-1] + other,
		"another brand": "qh" + strings.TrimPrefix(presented, DefaultBrand), "revoked": revokedKey, "expired": expired,
		"long": strings.Repeat("kw_", 1<<20), "secret of another": "kw_" + k.Prefix + unknown[len("kw_")+prefixSize:],
	} {
		for range 2 {
			if _, err := r.identify(t.Context(), bad); err != error(errUnauthenticated) { //nolint:errorlint // identity is the promise
				t.Errorf("%s: %v, want the one error", name, err)
			}
		}
	}
	if after := entries(r.Service); after != before {
		t.Errorf("%d cached entries, %d before", after, before)
	}
	for i := range r.cache.shards {
		if n := len(r.cache.shards[i].flights); n != 0 {
			t.Errorf("%d flights never ended", n)
		}
	}
}

func entries(s *Service) (n int) {
	for i := range s.cache.shards {
		s.cache.shards[i].mu.Lock()
		n += len(s.cache.shards[i].entries)
		s.cache.shards[i].mu.Unlock()
	}
	return n
}

// A key is looked up in the store once in half a second, whatever its traffic.
func TestHitsDoNotRead(t *testing.T) {
	r := newRig(t)
	for range 1000 {
		if _, err := r.identify(t.Context(), r.key); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.memory.lookups.Load(); n != 0 {
		t.Errorf("%d reads for a cached key", n)
	}
	for range 10 {
		r.clock.move(softRecheck)
		for range 100 {
			if _, err := r.identify(t.Context(), r.key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := r.memory.lookups.Load(); n != 10 {
		t.Errorf("%d reads in 10 intervals", n)
	}
}

func TestExpiryOfACachedKey(t *testing.T) {
	r := newRig(t)
	_, presented := r.create(t, CreateRequest{Name: "short", Scopes: []Scope{ScopeKeysRead}, ExpiresAt: r.clock.Now().Add(100 * time.Millisecond)})
	if _, err := r.identify(t.Context(), presented); err != nil {
		t.Fatal(err)
	}
	r.clock.move(100*time.Millisecond - time.Nanosecond)
	if _, err := r.identify(t.Context(), presented); err != nil {
		t.Errorf("just before: %v", err)
	}
	r.clock.move(time.Nanosecond)
	_, err := r.identify(t.Context(), presented)
	want(t, err, fault.Unauthenticated)
}

func TestRevocation(t *testing.T) {
	r := newRig(t)
	k, presented := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}})
	other := r.another()
	for _, s := range []*Service{r.Service, other} {
		if _, err := s.identify(t.Context(), presented); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.RevokeAPIKey(t.Context(), r.owner, k.ID, "r"); err != nil {
		t.Fatal(err)
	}
	_, err := r.identify(t.Context(), presented)
	want(t, err, fault.Unauthenticated)
	// The other node does not know yet; after Recheck it must.
	r.clock.move(Recheck)
	_, err = other.identify(t.Context(), presented)
	want(t, err, fault.Unauthenticated)
	// The owner was not touched.
	if _, err := r.identify(t.Context(), r.key); err != nil {
		t.Error(err)
	}
}

// A look-up that has read the record before it was revoked must neither be remembered after, nor be joined.
func TestRevocationOvertakesALookup(t *testing.T) {
	r := newRig(t)
	k, presented := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}})
	hold, reading := make(chan struct{}), make(chan struct{})
	r.memory.set(func(m *memory) { m.hold, m.reading = hold, reading })
	var wg sync.WaitGroup
	wg.Go(func() {
		// Its answer may be either: it began before the revocation.
		if _, err := r.identify(t.Context(), presented); err != nil {
			want(t, err, fault.Unauthenticated)
		}
	})
	<-reading
	r.memory.set(func(m *memory) { m.hold = nil })
	if err := r.RevokeAPIKey(t.Context(), r.owner, k.ID, "r"); err != nil {
		t.Fatal(err)
	}
	_, err := r.identify(t.Context(), presented)
	want(t, err, fault.Unauthenticated)
	close(hold)
	wg.Wait()
	_, err = r.identify(t.Context(), presented)
	want(t, err, fault.Unauthenticated)
}

// Many callers of a key that is not in the cache cost one read.
func TestOneReadForMany(t *testing.T) {
	r := newRig(t)
	_, presented := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}})
	hold, reading := make(chan struct{}), make(chan struct{}, 64)
	r.memory.set(func(m *memory) { m.hold, m.reading = hold, reading })
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if _, err := r.identify(t.Context(), presented); err != nil {
				t.Error(err)
			}
		})
	}
	<-reading
	time.Sleep(20 * time.Millisecond) // let them come to the door
	close(hold)
	wg.Wait()
	if n := r.memory.lookups.Load(); n != 1 {
		t.Errorf("%d reads", n)
	}
}

// One who goes away while others wait for the answer does not take it with him.
func TestTheFirstCallerGoesAway(t *testing.T) {
	r := newRig(t)
	_, presented := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}})
	hold, reading := make(chan struct{}), make(chan struct{}, 8)
	r.memory.set(func(m *memory) { m.hold, m.reading = hold, reading })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := r.identify(ctx, presented)
		want(t, err, fault.Timeout)
	})
	<-reading
	wg.Go(func() {
		if _, err := r.identify(t.Context(), presented); err != nil {
			t.Errorf("the one who stayed: %v", err)
		}
	})
	waiting, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	_, err := r.identify(waiting, presented)
	want(t, err, fault.Timeout)
	cancel()
	<-reading // the one who stayed asks himself
	close(hold)
	wg.Wait()
}

// When the store is down a cached key works until its time is over, and nobody longer.
func TestStoreDown(t *testing.T) {
	r := newRig(t)
	r.memory.set(func(m *memory) { m.down = fault.New(fault.StoreUnavailable, "down") })
	r.clock.move(Recheck - time.Millisecond)
	for range 2 {
		if _, err := r.identify(t.Context(), r.key); err != nil {
			t.Errorf("within its time: %v", err)
		}
	}
	if n := r.memory.lookups.Load(); n != 2 {
		t.Errorf("%d looks into the store, want one by each caller", n)
	}
	r.clock.move(time.Millisecond)
	_, err := r.identify(t.Context(), r.key)
	want(t, err, fault.StoreUnavailable)
	r.memory.set(func(m *memory) { m.down = nil })
	if _, err := r.identify(t.Context(), r.key); err != nil {
		t.Errorf("after it came back: %v", err)
	}
	// A clock that was set back does not make an entry live longer.
	r.memory.lookups.Store(0)
	r.clock.move(-time.Hour)
	if _, err := r.identify(t.Context(), r.key); err != nil || r.memory.lookups.Load() != 1 {
		t.Errorf("after the clock was set back: %v, %d reads", err, r.memory.lookups.Load())
	}
}

func TestLocked(t *testing.T) {
	locked := true
	m := newMemory()
	s := New(m, m, Options{Derive: func(label string) (secret.Bytes, error) {
		if locked {
			return nil, fault.New(fault.Locked, "locked")
		}
		return fixedRoot(label)
	}})
	for _, presented := range []string{"", "kw_abcdefgh_" + strings.Repeat("x", 43)} {
		_, err := s.identify(t.Context(), presented)
		want(t, err, fault.Locked)
	}
	_, _, err := s.Bootstrap(t.Context(), tenant, nil)
	want(t, err, fault.Locked)
	locked = false
	_, presented, err := s.Bootstrap(t.Context(), tenant, nil)
	if err != nil {
		t.Fatal(err)
	}
	locked = true // the pepper is kept
	if _, err := s.identify(t.Context(), presented); err != nil {
		t.Error(err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	r := newRig(t)
	s := New(r.memory, r.memory, Options{Derive: fixedRoot, CacheSize: 32})
	var all []string
	for range 200 {
		_, presented := r.create(t, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}})
		all = append(all, presented)
	}
	for range 2 {
		for _, presented := range all {
			if _, err := s.identify(t.Context(), presented); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := entries(s); n > 32 || n < shards {
		t.Errorf("%d entries, at most 32 allowed", n)
	}
}

// Callers, re-checks and revocations at once: a revoked key is refused from the moment its revocation returned.
func TestConcurrentRevocations(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				k, presented, err := r.CreateAPIKey(t.Context(), r.owner, CreateRequest{Name: "app", Scopes: []Scope{ScopeKeysRead}}, "r", noToken)
				if err != nil {
					t.Error(err)
					return
				}
				var callers sync.WaitGroup
				stop := make(chan struct{})
				for range 3 {
					callers.Go(func() {
						for {
							select {
							case <-stop:
								return
							default:
							}
							if _, err := r.identify(t.Context(), presented); err != nil && !fault.Has(err, fault.Unauthenticated) {
								t.Error(err)
							}
							r.clock.move(time.Millisecond)
						}
					})
				}
				time.Sleep(time.Millisecond)
				if err := r.RevokeAPIKey(t.Context(), r.owner, k.ID, "r"); err != nil {
					t.Error(err)
				}
				for range 20 {
					if _, err := r.identify(t.Context(), presented); !fault.Has(err, fault.Unauthenticated) {
						t.Errorf("after its revocation: %v", err)
					}
				}
				close(stop)
				callers.Wait()
			}
		})
	}
	wg.Wait()
}

// An error of the store that is no fault stays visible as one, with the action.
func TestStrangeStoreError(t *testing.T) {
	r := newRig(t)
	strange := errors.New("strange")
	r.memory.set(func(m *memory) { m.down = strange })
	_, presented := newToken(DefaultBrand)
	if _, err := r.identify(t.Context(), presented); !errors.Is(err, strange) || fault.CodeOf(err) != fault.Internal {
		t.Error(err)
	}
}

func BenchmarkAuthenticateHit(b *testing.B) {
	r := newRig(b)
	s := New(r.memory, r.memory, Options{Derive: fixedRoot}) // with the real clock
	ctx := context.Background()
	if _, err := s.identify(ctx, r.key); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.identify(ctx, r.key); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.identify(ctx, r.key); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
