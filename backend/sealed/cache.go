package sealed

import (
	"bytes"
	"context"
	"crypto"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/secret"
)

// entry is opened material. Its identity is the whole Ref that it was opened from: a Ref that differs in one byte is
// another one. refs counts the cache, the handles and the operations that hold it; the last one wipes.
type entry struct {
	refs    atomic.Int64
	mat     material
	pub     crypto.PublicKey // not part of what is wiped
	export  secret.Bytes     // PKCS#8 or raw; only of exportable keys
	spec    backend.Spec
	public  []byte
	blob    []byte
	expires time.Time
	size    int64 // bytes, as the cache counts them; guarded by the shard's lock

	prev, next *entry // in its shard's list, most recently used first; guarded by the shard's lock
}

func newEntry(r *backend.Ref, mat material) *entry {
	e := &entry{mat: mat, pub: mat.public(), spec: r.Spec, public: bytes.Clone(r.Public), blob: bytes.Clone(r.Blob)}
	e.refs.Store(1)
	return e
}

// entryOverhead is about what an entry takes beside what is counted: itself, its place in the map, and materials that do not say what they
// take, of which a key schedule is the largest. In bytes.
const entryOverhead = 1536

// footprint is about what the entry takes in memory, in bytes. It grows when a key makes itself another form for some operation.
func (e *entry) footprint() int64 {
	n := entryOverhead + len(e.public) + len(e.blob) + len(e.export)
	if m, ok := e.mat.(sized); ok {
		n += m.footprint()
	}
	return int64(n)
}

// sized is material that takes kilobytes and says how many bytes.
type sized interface{ footprint() int }

// retain takes a share unless the entry is wiped already.
func (e *entry) retain() bool {
	for {
		n := e.refs.Load()
		if n == 0 {
			return false
		}
		if e.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (e *entry) release() {
	if e.refs.Add(-1) == 0 {
		e.mat.wipe()
		e.export.Wipe()
	}
}

// is reports whether the entry was opened from this Ref. Refs hold no secrets, so the comparison need not hide anything.
func (e *entry) is(r *backend.Ref) bool {
	return e.spec == r.Spec && bytes.Equal(e.blob, r.Blob) && bytes.Equal(e.public, r.Public)
}

// slot is where a key version is looked for.
type slot struct {
	id      uuid.UUID
	version uint32
}

// opening is a Ref that is being opened, by one caller for all who want the same.
type opening struct {
	ref     *backend.Ref
	waiters int           // guarded by the shard's lock
	dropped bool          // guarded by the shard's lock: not to be cached
	done    chan struct{} // closed when ent and err are set
	ent     *entry
	err     error
	gaveUp  bool // the opener's own context ended, which says nothing about the Ref
}

type shard struct {
	mu      sync.Mutex // guards all below, and the links of the entries
	entries map[slot]*entry
	loading map[slot]*opening
	list    entry // the ends of the list
	hits    uint64
	misses  uint64
	evicted uint64
	_       [64]byte // shards do not share a cache line
}

// cache keeps opened material. Its lock is split by key id, so that calls for different keys seldom meet.
type cache struct {
	shards []shard
	each   int   // entries per shard; 0: the cache is off
	limit  int64 // bytes in all shards; 0: no limit
	bytes  atomic.Int64
	held   *atomic.Int64 // the same, of all caches together; may be nil
	victim atomic.Uint32 // the shard that gave the last entry for want of bytes
	ttl    time.Duration
	now    func() time.Time
	stop   chan struct{}
	swept  chan struct{}
}

// shardsFor keeps shards large enough that an uneven spread of keys costs little of the capacity.
func shardsFor(capacity int) int {
	n := 1
	for n < 32 && capacity/(n*2) >= 64 {
		n *= 2
	}
	return n
}

func newCache(capacity int, limit int64, ttl time.Duration, now func() time.Time) *cache {
	c := &cache{limit: max(limit, 0), ttl: ttl, now: now, stop: make(chan struct{}), swept: make(chan struct{})}
	if capacity < 0 || ttl < 0 {
		c.shards = make([]shard, 1) // counts misses
		close(c.swept)
		return c
	}
	c.shards = make([]shard, shardsFor(capacity))
	c.each = capacity / len(c.shards)
	for i := range c.shards {
		s := &c.shards[i]
		s.entries, s.loading = make(map[slot]*entry), make(map[slot]*opening)
		s.list.prev, s.list.next = &s.list, &s.list
	}
	go c.sweep()
	return c
}

func (c *cache) shard(s *backend.Spec) *shard {
	// The last bytes of a UUID are random in versions 4 and 7.
	return &c.shards[int(s.KeyID[15]^byte(s.Version))&(len(c.shards)-1)]
}

// hit gives the entry of the Ref with a share for the caller, nil when there is none.
func (c *cache) hit(r *backend.Ref) *entry {
	if c.each == 0 {
		return nil
	}
	now := c.now()
	s := c.shard(&r.Spec)
	s.mu.Lock()
	e := s.entries[slot{r.Spec.KeyID, r.Spec.Version}]
	if e == nil || !now.Before(e.expires) || !e.is(r) {
		s.mu.Unlock()
		return nil
	}
	e.refs.Add(1) // the cache's own share keeps it above zero
	if s.list.next != e {
		e.unlink()
		s.push(e)
	}
	s.hits++
	grown := c.weigh(e)
	s.mu.Unlock()
	if grown {
		c.shrink()
	}
	return e
}

// weigh counts the entry as large as it is now, and reports whether it has grown. The shard's lock is held.
func (c *cache) weigh(e *entry) bool {
	n := e.footprint()
	if n == e.size {
		return false
	}
	c.count(n - e.size)
	e.size = n
	return true
}

func (c *cache) count(n int64) {
	c.bytes.Add(n)
	if c.held != nil {
		c.held.Add(n)
	}
}

// shrink drops entries until the cache is within its bytes: of one shard after the other the least recently used one. With few entries in a
// shard that may be one that others would have outlived; looking for the oldest of all would cost every hit a clock of its own.
func (c *cache) shrink() {
	for empty := 0; c.limit > 0 && c.bytes.Load() > c.limit && empty < len(c.shards); {
		s := &c.shards[int(c.victim.Add(1))&(len(c.shards)-1)]
		s.mu.Lock()
		last := s.list.prev
		if last == &s.list {
			s.mu.Unlock()
			empty++
			continue
		}
		c.remove(s, slot{last.spec.KeyID, last.spec.Version}, last)
		s.evicted++
		s.mu.Unlock()
		last.release()
		empty = 0
	}
}

// load opens the Ref after a miss, or waits for the caller who is opening it. The entry comes with a share for the caller.
func (c *cache) load(ctx context.Context, r *backend.Ref, open func(context.Context, *backend.Ref) (*entry, error)) (*entry, error) {
	s := c.shard(&r.Spec)
	key := slot{r.Spec.KeyID, r.Spec.Version}
	s.mu.Lock()
	s.misses++
	if c.each == 0 {
		s.mu.Unlock()
		return open(ctx, r)
	}
	for {
		if e := s.entries[key]; e != nil && e.is(r) && c.now().Before(e.expires) {
			e.refs.Add(1)
			s.mu.Unlock()
			return e, nil
		}
		o := s.loading[key]
		if o == nil {
			break
		}
		if !sameRef(o.ref, r) {
			// Another Ref of the same version is on its way: a damaged copy, or the same material sealed anew. It does
			// not wait for the other, and is not cached beside it.
			s.mu.Unlock()
			return open(ctx, r)
		}
		o.waiters++
		s.mu.Unlock()
		select {
		case <-o.done:
			if o.err == nil {
				return o.ent, nil
			}
			if ctx.Err() != nil {
				return nil, ended(ctx)
			}
			if !o.gaveUp {
				return nil, o.err
			}
			s.mu.Lock() // the opener gave up for reasons of its own: look again
			continue
		case <-ctx.Done():
			s.mu.Lock()
			select {
			case <-o.done: // its share was counted already
				s.mu.Unlock()
				if o.err == nil {
					o.ent.release()
				}
			default:
				o.waiters--
				s.mu.Unlock()
			}
			return nil, ended(ctx)
		}
	}
	o := &opening{ref: r, done: make(chan struct{})}
	s.loading[key] = o
	s.mu.Unlock()
	return c.lead(ctx, s, key, o, open)
}

// lead opens the Ref for everybody who waits for it. Should open panic, the waiters are not left behind.
func (c *cache) lead(ctx context.Context, s *shard, key slot, o *opening, open func(context.Context, *backend.Ref) (*entry, error)) (*entry, error) {
	o.err = errUnreadable
	var old []*entry
	defer func() {
		s.mu.Lock()
		delete(s.loading, key)
		if o.ent != nil {
			o.ent.refs.Add(int64(o.waiters))
			if !o.dropped && (c.limit == 0 || o.ent.footprint() <= c.limit) {
				old = c.insert(s, key, o.ent)
			}
		}
		close(o.done)
		s.mu.Unlock()
		for _, e := range old {
			e.release()
		}
		c.shrink()
	}()
	o.ent, o.err = open(ctx, o.ref)
	o.gaveUp = o.err != nil && ctx.Err() != nil
	return o.ent, o.err
}

// insert puts the entry into the shard, with a share for the cache, and gives those that had to go: the caller releases
// them outside the lock.
func (c *cache) insert(s *shard, key slot, e *entry) (old []*entry) {
	if prev := s.entries[key]; prev != nil {
		c.remove(s, key, prev)
		old = append(old, prev)
	}
	for len(s.entries) >= c.each {
		last := s.list.prev
		c.remove(s, slot{last.spec.KeyID, last.spec.Version}, last)
		s.evicted++
		old = append(old, last)
	}
	e.expires = c.now().Add(c.ttl)
	e.refs.Add(1)
	s.entries[key] = e
	s.push(e)
	c.weigh(e)
	return old
}

// drop takes a key version out, and what is being opened of it at this moment will not come in.
func (c *cache) drop(spec *backend.Spec) {
	if c.each == 0 {
		return
	}
	s := c.shard(spec)
	key := slot{spec.KeyID, spec.Version}
	s.mu.Lock()
	e := s.entries[key]
	if e != nil {
		c.remove(s, key, e)
	}
	if o := s.loading[key]; o != nil {
		o.dropped = true
	}
	s.mu.Unlock()
	if e != nil {
		e.release()
	}
}

// sweep evicts what has outlived its time, so that material does not stay because nobody asks for it. Expired entries are
// never handed out; the sweep bounds how long they lie in memory beyond their time, to a quarter of it.
func (c *cache) sweep() {
	defer close(c.swept)
	t := time.NewTicker(max(min(c.ttl/4, 15*time.Second), 10*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-t.C:
			now := c.now()
			c.evict(func(e *entry) bool { return !now.Before(e.expires) })
		}
	}
}

func (c *cache) evict(which func(*entry) bool) {
	for i := range c.shards {
		s := &c.shards[i]
		var old []*entry
		s.mu.Lock()
		for key, e := range s.entries {
			if which(e) {
				c.remove(s, key, e)
				s.evicted++
				old = append(old, e)
			}
		}
		s.mu.Unlock()
		for _, e := range old {
			e.release()
		}
	}
}

// close ends the sweeper and drops everything.
func (c *cache) close() {
	close(c.stop)
	<-c.swept
	c.evict(func(*entry) bool { return true })
}

// remove takes an entry out. The shard's lock is held; the caller releases the entry without it.
func (c *cache) remove(s *shard, key slot, e *entry) {
	delete(s.entries, key)
	e.unlink()
	c.count(-e.size)
	e.size = 0
}

func (s *shard) push(e *entry) {
	e.prev, e.next = &s.list, s.list.next
	e.prev.next, e.next.prev = e, e
}

func (e *entry) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
}

func sameRef(a, b *backend.Ref) bool {
	return a.Spec == b.Spec && bytes.Equal(a.Blob, b.Blob) && bytes.Equal(a.Public, b.Public)
}
