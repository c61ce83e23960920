package sealed

import (
	"context"
	"crypto"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// counted is material that knows whether it was wiped, and is as large as the test says.
type counted struct {
	wipes atomic.Int32
	bytes atomic.Int64
}

func (m *counted) public() crypto.PublicKey           { return nil }
func (m *counted) handle(*Engine, *entry) backend.Key { return nil }
func (m *counted) wipe()                              { m.wipes.Add(1) }
func (m *counted) footprint() int                     { return int(m.bytes.Load()) }

// opener opens everything and remembers what it gave.
type opener struct{ opened []*counted }

func (o *opener) open(_ context.Context, r *backend.Ref) (*entry, error) {
	m := &counted{}
	o.opened = append(o.opened, m)
	return newEntry(r, m), nil
}

func refOf(id byte, version uint32, blob string) *backend.Ref {
	return &backend.Ref{Spec: backend.Spec{KeyID: uuid.UUID{15: id}, Version: version}, Blob: []byte(blob)}
}

// TestCacheProperties walks the cache at random with a clock of its own and holds it to its promises: an entry is never
// wiped while somebody holds it and exactly once in the end, a Ref never gets another Ref's material, nothing is handed out
// after its time, and there are never more entries than the capacity.
func TestCacheProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1e9, 0)
		capacity := rapid.IntRange(1, 4).Draw(t, "capacity")
		const ttl = time.Hour // the sweeper's own ticks are far away
		const limit = 3 * (entryOverhead + 1000)
		c := newCache(capacity, limit, ttl, func() time.Time { return now })
		var total atomic.Int64
		c.held = &total
		o := &opener{}
		type held struct {
			ent *entry
			ref *backend.Ref
		}
		var handles []held
		t.Repeat(map[string]func(*rapid.T){
			"load": func(t *rapid.T) {
				ref := refOf(rapid.Byte().Draw(t, "key")%5, rapid.Uint32Range(1, 2).Draw(t, "version"), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "blob"))
				ent := c.hit(ref)
				if ent == nil {
					var err error
					if ent, err = c.load(context.Background(), ref, o.open); err != nil {
						t.Fatal(err)
					}
				} else if !now.Before(ent.expires) {
					t.Fatal("an entry is handed out after its time")
				}
				if !ent.is(ref) {
					t.Fatal("a Ref got another Ref's material")
				}
				handles = append(handles, held{ent, ref})
			},
			"release": func(t *rapid.T) {
				if len(handles) == 0 {
					t.Skip("nothing is held")
				}
				i := rapid.IntRange(0, len(handles)-1).Draw(t, "handle")
				handles[i].ent.release()
				handles = append(handles[:i], handles[i+1:]...)
			},
			"drop": func(t *rapid.T) {
				ref := refOf(rapid.Byte().Draw(t, "key")%5, rapid.Uint32Range(1, 2).Draw(t, "version"), "a")
				c.drop(&ref.Spec)
				if e := c.hit(ref); e != nil {
					t.Fatal("a dropped entry is there")
				}
			},
			"grow": func(t *rapid.T) {
				if len(handles) == 0 {
					t.Skip("nothing is held")
				}
				h := handles[rapid.IntRange(0, len(handles)-1).Draw(t, "handle")]
				h.ent.mat.(*counted).bytes.Store(rapid.Int64Range(0, limit).Draw(t, "bytes"))
				if e := c.hit(h.ref); e != nil { // the cache learns of it by the next hit
					e.release()
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(rapid.SampledFrom([]time.Duration{time.Minute, 20 * time.Minute, ttl}).Draw(t, "time"))
			},
			"": func(t *rapid.T) {
				for _, h := range handles {
					if h.ent.mat.(*counted).wipes.Load() != 0 {
						t.Fatal("material in use was wiped")
					}
				}
				if n := c.stats().entries; n > capacity {
					t.Fatalf("%d entries, capacity %d", n, capacity)
				}
				counted := int64(0)
				for _, e := range c.shards[0].entries {
					counted += e.size
				}
				if n := c.bytes.Load(); n > limit || n != counted || n != total.Load() {
					t.Fatalf("%d bytes are counted and %d in all, %d are there, the limit is %d", n, total.Load(), counted, limit)
				}
			},
		})
		c.close()
		if n := total.Load(); n != 0 {
			t.Fatalf("%d bytes are left", n)
		}
		for _, h := range handles {
			if h.ent.mat.(*counted).wipes.Load() != 0 {
				t.Fatal("material in use was wiped by close")
			}
			h.ent.release()
		}
		for _, m := range o.opened {
			if n := m.wipes.Load(); n != 1 {
				t.Fatalf("material was wiped %d times", n)
			}
		}
	})
}

func TestCacheEvictsTheLeastRecentlyUsed(t *testing.T) {
	c := newCache(2, 0, time.Hour, time.Now)
	defer c.close()
	o := &opener{}
	use := func(id byte) bool { // reports a hit
		ref := refOf(id, 1, "")
		ent := c.hit(ref)
		hit := ent != nil
		if !hit {
			var err error
			if ent, err = c.load(t.Context(), ref, o.open); err != nil {
				t.Fatal(err)
			}
		}
		ent.release()
		return hit
	}
	for i, step := range []struct {
		id  byte
		hit bool
	}{{1, false}, {2, false}, {1, true}, {3, false}, {1, true}, {2, false}, {3, false}, {2, true}} {
		if got := use(step.id); got != step.hit {
			t.Errorf("step %d, key %d: hit %v", i, step.id, got)
		}
	}
	if s := c.stats(); s.hits != 3 || s.misses != 5 || s.evicted != 3 || s.entries != 2 {
		t.Errorf("%+v", s)
	}
}

// TestBytes: a cache of many shards keeps within its bytes, keeps what was used last, and hands out what is larger than all of it without
// keeping it.
func TestBytes(t *testing.T) {
	const each = 10_000
	c := newCache(DefaultCapacity, 100*(each+entryOverhead), time.Hour, time.Now)
	defer c.close()
	bytes := int64(each)
	use := func(i int) (hit bool) {
		ref := &backend.Ref{Spec: backend.Spec{KeyID: uuid.UUID{14: byte(i >> 8), 15: byte(i)}, Version: 1}}
		ent := c.hit(ref)
		hit = ent != nil
		if !hit {
			var err error
			ent, err = c.load(t.Context(), ref, func(_ context.Context, r *backend.Ref) (*entry, error) {
				m := &counted{}
				m.bytes.Store(bytes)
				return newEntry(r, m), nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		ent.release()
		return hit
	}
	for i := range 1000 {
		use(i)
		if c.bytes.Load() > c.limit {
			t.Fatalf("%d bytes after %d keys, the limit is %d", c.bytes.Load(), i+1, c.limit)
		}
	}
	if n := c.stats().entries; n != 100 {
		t.Errorf("%d entries have room where 100 have", n)
	}
	for i := range 90 { // a set that fits: after one round all are there
		use(i)
	}
	hits := 0
	for i := range 90 {
		if use(i) {
			hits++
		}
	}
	if hits < 80 {
		t.Errorf("%d of 90 hits", hits)
	}
	bytes = c.limit + 1
	use(2000)
	if use(2000) || c.bytes.Load() > c.limit {
		t.Error("what is larger than the cache is kept")
	}
	if n := c.stats().entries; n < 90 {
		t.Errorf("%d entries are left beside what is larger than the cache", n)
	}
}

func TestShards(t *testing.T) {
	for _, capacity := range []int{1, 2, 63, 128, 200, 1000, DefaultCapacity, 1 << 20} {
		n := shardsFor(capacity)
		if n&(n-1) != 0 || n > 32 || n > 1 && capacity/n < 64 || capacity/n < 1 {
			t.Errorf("capacity %d: %d shards", capacity, n)
		}
	}
}

// TestSweeper: material goes when its time is over though nobody asks for it, and the goroutine ends with the cache: synctest
// fails when one is left.
func TestSweeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 10 * time.Second
		c := newCache(8, 0, ttl, time.Now)
		o := &opener{}
		ent, err := c.load(t.Context(), refOf(1, 1, ""), o.open)
		if err != nil {
			t.Fatal(err)
		}
		ent.release()
		time.Sleep(ttl - time.Millisecond)
		synctest.Wait()
		if ent := c.hit(refOf(1, 1, "")); ent == nil {
			t.Fatal("gone before its time")
		} else {
			ent.release()
		}
		time.Sleep(2 * time.Millisecond)
		if c.hit(refOf(1, 1, "")) != nil {
			t.Fatal("handed out after its time")
		}
		time.Sleep(ttl / 4)
		synctest.Wait()
		if c.stats().entries != 0 || o.opened[0].wipes.Load() != 1 {
			t.Error("not swept")
		}
		c.close()
	})
}

// slow opens when told to, and counts.
type slow struct {
	calls atomic.Int32
	gate  chan error // each receive ends one opening
}

func (s *slow) open(ctx context.Context, r *backend.Ref) (*entry, error) {
	s.calls.Add(1)
	select {
	case err := <-s.gate:
		if err != nil {
			return nil, err
		}
		return newEntry(r, &counted{}), nil
	case <-ctx.Done():
		return nil, ended(ctx)
	}
}

type loaded struct {
	ent *entry
	err error
}

func startLoad(ctx context.Context, c *cache, r *backend.Ref, open func(context.Context, *backend.Ref) (*entry, error)) chan loaded {
	out := make(chan loaded, 1)
	go func() {
		ent, err := c.load(ctx, r, open)
		out <- loaded{ent, err}
	}()
	return out
}

func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(8, 0, time.Hour, time.Now)
		s := &slow{gate: make(chan error)}
		var waiting []chan loaded
		for range 10 {
			waiting = append(waiting, startLoad(t.Context(), c, refOf(1, 1, ""), s.open))
		}
		synctest.Wait() // one of the ten opens; the next one only waits
		gone, cancel := context.WithCancel(t.Context())
		impatient := startLoad(gone, c, refOf(1, 1, ""), s.open)
		synctest.Wait()
		cancel()
		if r := <-impatient; !fault.Has(r.err, fault.Timeout) {
			t.Errorf("a caller who gave up: %v", r.err)
		}
		s.gate <- nil
		var ent *entry
		for _, w := range waiting {
			r := <-w
			if r.err != nil || ent != nil && r.ent != ent {
				t.Fatalf("%v", r.err)
			}
			ent = r.ent
		}
		if n := s.calls.Load(); n != 1 {
			t.Errorf("opened %d times", n)
		}
		if n := ent.refs.Load(); n != 11 {
			t.Errorf("%d shares, want ten callers' and the cache's", n)
		}
		for range waiting {
			ent.release()
		}
		c.close()
		if ent.mat.(*counted).wipes.Load() != 1 {
			t.Error("not wiped")
		}
	})
}

// TestSingleFlightFailures: a failure is everybody's and is not kept; an opener who gave up is replaced.
func TestSingleFlightFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(8, 0, time.Hour, time.Now)
		defer c.close()
		s := &slow{gate: make(chan error)}
		one := startLoad(t.Context(), c, refOf(1, 1, ""), s.open)
		two := startLoad(t.Context(), c, refOf(1, 1, ""), s.open)
		synctest.Wait()
		s.gate <- errUnreadable
		for _, w := range []chan loaded{one, two} {
			if r := <-w; !errors.Is(r.err, errUnreadable) {
				t.Errorf("%v", r.err)
			}
		}
		gone, cancel := context.WithCancel(t.Context())
		one = startLoad(gone, c, refOf(1, 1, ""), s.open)
		synctest.Wait()
		two = startLoad(t.Context(), c, refOf(1, 1, ""), s.open)
		synctest.Wait()
		cancel()
		if r := <-one; !fault.Has(r.err, fault.Timeout) {
			t.Errorf("the opener who gave up: %v", r.err)
		}
		s.gate <- nil
		r := <-two
		if r.err != nil || s.calls.Load() != 3 {
			t.Fatalf("the one who waited: %v after %d openings", r.err, s.calls.Load())
		}
		r.ent.release()
	})
}

// TestDropWhileOpening: what is destroyed while it is being opened serves who asked for it and is not kept.
func TestDropWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(8, 0, time.Hour, time.Now)
		defer c.close()
		s := &slow{gate: make(chan error)}
		ref := refOf(1, 1, "")
		one := startLoad(t.Context(), c, ref, s.open)
		synctest.Wait()
		c.drop(&ref.Spec)
		s.gate <- nil
		r := <-one
		if r.err != nil || c.stats().entries != 0 {
			t.Fatalf("%v, %d entries", r.err, c.stats().entries)
		}
		r.ent.release()
		if r.ent.mat.(*counted).wipes.Load() != 1 {
			t.Error("not wiped when it was released")
		}
	})
}

// TestForeignRefWhileOpening: a damaged copy of a Ref neither waits for the good one nor shares its fate.
func TestForeignRefWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(8, 0, time.Hour, time.Now)
		defer c.close()
		s, bad := &slow{gate: make(chan error)}, &slow{gate: make(chan error)}
		one := startLoad(t.Context(), c, refOf(1, 1, "good"), s.open)
		synctest.Wait()
		two := startLoad(t.Context(), c, refOf(1, 1, "bad"), bad.open)
		bad.gate <- errUnreadable
		if r := <-two; !errors.Is(r.err, errUnreadable) {
			t.Errorf("the damaged copy: %v", r.err)
		}
		s.gate <- nil
		r := <-one
		if r.err != nil {
			t.Fatal(r.err)
		}
		r.ent.release()
		if ent := c.hit(refOf(1, 1, "bad")); ent != nil {
			t.Error("the damaged copy hits")
		}
		if ent := c.hit(refOf(1, 1, "good")); ent == nil {
			t.Error("the good one was not kept")
		} else {
			ent.release()
		}
	})
}

// TestOpenPanics: whoever waits for an opener that panics gets an answer.
func TestOpenPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(8, 0, time.Hour, time.Now)
		defer c.close()
		begin, recovered := make(chan struct{}), make(chan any, 1)
		go func() {
			defer func() { recovered <- recover() }()
			ent, err := c.load(t.Context(), refOf(1, 1, ""), func(context.Context, *backend.Ref) (*entry, error) {
				<-begin
				panic("broken")
			})
			t.Errorf("%v %v", ent, err)
		}()
		synctest.Wait()
		two := startLoad(t.Context(), c, refOf(1, 1, ""), (&opener{}).open)
		synctest.Wait()
		close(begin)
		if r := <-two; r.err == nil {
			t.Error("no error for the one who waited")
		}
		if <-recovered == nil {
			t.Error("the panic was swallowed")
		}
	})
}
