package keys

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

func newTestCache(size int, maxAge time.Duration) (*recordCache, *time.Time) {
	now := time.Unix(1_000_000, 0)
	return newRecordCache(size, maxAge, func() time.Time { return now }), &now
}

// inShard gives an id of shard 3, so that a test fills one shard.
func inShard() uuid.UUID {
	id := uuid.New()
	id[15] = 3
	return id
}

func named(name string) *record {
	return &record{key: &Key{ID: inShard(), Name: name, State: StateActive}}
}

// TestCacheKeepsWhatIsUsed: it never grows beyond its bound, and a scan over many keys does not drive out those in use.
func TestCacheKeepsWhatIsUsed(t *testing.T) {
	c, _ := newTestCache(16*10, 0)
	var used []*record
	for i := range 5 {
		r := named(fmt.Sprint("used", i))
		c.add(c.begin(), r)
		used = append(used, r)
	}
	for i := range 200 {
		r := named(fmt.Sprint("once", i))
		c.add(c.begin(), r)
		if n := c.len(); n > 10 {
			t.Fatalf("%d records in a shard of 10", n)
		}
		for _, u := range used {
			if got, ok := c.byID(u.key.ID); !ok || got != u {
				t.Fatalf("%s was driven out by %d others", u.key.Name, i)
			}
			if got, ok := c.byName(uuid.Nil, u.key.Name); !ok || got != u {
				t.Fatalf("the name %s was driven out", u.key.Name)
			}
		}
	}
	names := 0
	for i := range c.names {
		names += len(c.names[i].byName)
	}
	if names != c.len() {
		t.Errorf("%d names for %d records", names, c.len())
	}
}

// TestCacheTakesNothingStale: a load that began before a drop is not kept.
func TestCacheTakesNothingStale(t *testing.T) {
	c, now := newTestCache(100, 0)
	r := named("k")
	began := c.begin()
	c.drop(r.key.ID, false)
	c.add(began, r)
	if _, ok := c.byID(r.key.ID); ok {
		t.Error("a record older than the change was kept")
	}
	if !began.before(c.begin()) || c.begin().before(began) {
		t.Error("the drop lies between the tickets")
	}
	c.add(c.begin(), r)
	if _, ok := c.byID(r.key.ID); !ok {
		t.Error("a record newer than the change was not kept")
	}
	c.drop(r.key.ID, true)
	r = &record{key: r.key}
	c.add(c.begin(), r)
	if _, ok := c.byID(r.key.ID); ok {
		t.Error("a record was kept while a change of it may still come")
	}
	*now = now.Add(doubtPeriod)
	c.add(c.begin(), r)
	if _, ok := c.byID(r.key.ID); !ok {
		t.Error("the doubt does not end")
	}
	if _, ok := c.byName(uuid.Nil, "k"); !ok {
		t.Error("the name is not there")
	}
	c.drop(r.key.ID, false)
	if _, ok := c.byName(uuid.Nil, "k"); ok {
		t.Error("the name outlives the record")
	}
}

func TestCacheAge(t *testing.T) {
	c, now := newTestCache(100, time.Second)
	r := named("k")
	r.loaded = *now
	c.add(c.begin(), r)
	if _, ok := c.byID(r.key.ID); !ok {
		t.Error("a fresh record is not there")
	}
	*now = now.Add(time.Second + 1)
	if _, ok := c.byID(r.key.ID); ok {
		t.Error("an old record is there")
	}
}

func TestCacheConcurrently(t *testing.T) {
	c, _ := newTestCache(64, 0)
	ids := make([]uuid.UUID, 200)
	for i := range ids {
		ids[i] = uuid.New()
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 3000 {
				id := ids[(i*7+w*31)%len(ids)]
				if r, ok := c.byID(id); ok && r.key.ID != id {
					t.Error("the wrong record")
				}
				switch i % 3 {
				case 0:
					c.add(c.begin(), &record{key: &Key{ID: id, Name: id.String(), State: StateActive}})
				case 1:
					c.drop(id, false)
				default:
					c.byName(uuid.Nil, id.String())
				}
			}
		})
	}
	wg.Wait()
	if n := c.len(); n > 64 {
		t.Errorf("%d records in a cache of 64", n)
	}
}

func TestKeyLocks(t *testing.T) {
	var l keyLocks
	id := uuid.New()
	unlock, err := l.lock(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := l.lock(ctx, id); !errors.Is(err, fault.New(fault.Timeout, "")) {
		t.Errorf("a lock that is held: %v", err)
	}
	if other, err := l.lock(t.Context(), uuid.New()); err != nil {
		t.Errorf("another key: %v", err)
	} else {
		other()
	}
	ctx, cancel = context.WithCancel(t.Context())
	var wg sync.WaitGroup
	full := make(chan error, 2*maxWaiters)
	for range maxWaiters + 10 {
		wg.Go(func() {
			if free, err := l.lock(ctx, id); err != nil {
				full <- err
			} else {
				free()
			}
		})
	}
	if err := <-full; !fault.Has(err, fault.Overloaded) {
		t.Errorf("the queue has no bound: %v", err)
	}
	cancel()
	wg.Wait()
	unlock()
	if len(l.held) != 0 {
		t.Errorf("%d locks are left", len(l.held))
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("")
	f.Add("k1")
	f.Add(makeCursor("name\x000123456789abcdef"))
	f.Add("k1!!!!")
	f.Fuzz(func(t *testing.T, c string) {
		after, err := parseCursor(c)
		if err == nil && c != "" && makeCursor(after) != c {
			t.Errorf("a cursor is taken that is not made: %q", c)
		}
		if err != nil && !fault.Has(err, fault.BadCursor) {
			t.Error(err)
		}
	})
}

func FuzzImportToken(f *testing.F) {
	f.Add("")
	f.Add(importToken{uuid.New(), 1, time.Unix(1_800_000_000, 0)}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if token, ok := parseImportToken(s); ok && token.String() != s {
			t.Errorf("a token is taken that is not made: %q", s)
		}
	})
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"a": true, "A9._/@+-": true, "": false, "-a": false, "~a": false, "a b": false, "ä": false,
		"00000000-0000-0000-0000-00000000000g": true, "00000000-0000-0000-0000-000000000000": false, "0000000000000000000000000000000a": true} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}
