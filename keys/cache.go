package keys

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// recordCache keeps what the hot path needs of a key ready for use. Hits take a read lock of one shard and allocate nothing; each
// shard is bounded and evicts by SIEVE (Zhang et al., NSDI 2024): a hit sets one bit and moves nothing.
//
// A change made through the Service drops the record before the change is answered. A load that began before the drop does not
// put its stale record back: see ticket.
type recordCache struct {
	shards [cacheShards]cacheShard
	names  [cacheShards]nameShard
	maxAge time.Duration
	now    func() time.Time
}

const (
	cacheShards = 16
	// doubtPeriod is how long a key stays out of the cache when a change of it may still become durable after its caller has
	// gone: longer than any record waits in the audit queue.
	doubtPeriod = 5 * time.Minute
)

type cacheShard struct {
	mu      sync.RWMutex // guards all below
	byID    map[uuid.UUID]*record
	limit   int
	epoch   uint64                  // counts the drops of this shard
	doubted map[uuid.UUID]time.Time // keys that are not cached until then
	// the SIEVE queue, newest at head
	head, tail, hand *record
}

type nameKey struct {
	tenant uuid.UUID
	name   string
}

type nameShard struct {
	mu     sync.RWMutex // guards byName
	byName map[nameKey]*record
}

func newRecordCache(size int, maxAge time.Duration, now func() time.Time) *recordCache {
	c := &recordCache{maxAge: maxAge, now: now}
	for i := range c.shards {
		c.shards[i] = cacheShard{byID: map[uuid.UUID]*record{}, limit: max(1, (size+cacheShards-1)/cacheShards), doubted: map[uuid.UUID]time.Time{}}
		c.names[i].byName = map[nameKey]*record{}
	}
	return c
}

// shard picks by the last byte: random in version 4 and in version 7 ids.
func (c *recordCache) shard(id uuid.UUID) *cacheShard { return &c.shards[id[15]%cacheShards] }

func (c *recordCache) nameShard(k nameKey) *nameShard {
	h := uint32(2166136261) // FNV-1a: only spreads, no caller gains by collisions within 16 shards
	for i := 0; i < len(k.name); i++ {
		h = (h ^ uint32(k.name[i])) * 16777619
	}
	return &c.names[(h^uint32(k.tenant[15]))%cacheShards]
}

func (c *recordCache) usable(r *record) bool {
	if r == nil || r.dropped.Load() || c.maxAge > 0 && c.now().Sub(r.loaded) > c.maxAge {
		return false
	}
	if !r.visited.Load() {
		r.visited.Store(true)
	}
	return true
}

func (c *recordCache) byID(id uuid.UUID) (*record, bool) {
	s := c.shard(id)
	s.mu.RLock()
	r := s.byID[id]
	s.mu.RUnlock()
	return r, c.usable(r)
}

func (c *recordCache) byName(tenant uuid.UUID, name string) (*record, bool) {
	k := nameKey{tenant, name}
	s := c.nameShard(k)
	s.mu.RLock()
	r := s.byName[k]
	s.mu.RUnlock()
	return r, c.usable(r)
}

// ticket is the moment at which a load from the store began. By name the id is not known yet, so it is taken of all shards.
type ticket [cacheShards]uint64

func (c *recordCache) begin() ticket {
	var t ticket
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		t[i] = s.epoch
		s.mu.RUnlock()
	}
	return t
}

// before reports whether a drop lies between t and u.
func (t ticket) before(u ticket) bool {
	for i := range t {
		if t[i] < u[i] {
			return true
		}
	}
	return false
}

// add keeps r unless something of its shard was dropped since the load began: then r may be older than the drop.
func (c *recordCache) add(t ticket, r *record) {
	id := r.key.ID
	s := c.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != t[id[15]%cacheShards] {
		return
	}
	if until, ok := s.doubted[id]; ok {
		if c.now().Before(until) {
			return
		}
		delete(s.doubted, id)
	}
	if old := s.byID[id]; old != nil {
		c.remove(s, old)
	}
	for len(s.byID) >= s.limit {
		c.evict(s)
	}
	s.byID[id] = r
	r.next = s.head
	if s.head != nil {
		s.head.prev = r
	}
	s.head = r
	if s.tail == nil {
		s.tail = r
	}
	if r.key.State == StateDestroyed {
		return // its name is free, and may be another key's
	}
	k := nameKey{r.key.Tenant, r.key.Name}
	n := c.nameShard(k)
	n.mu.Lock()
	n.byName[k] = r
	n.mu.Unlock()
}

// evict removes one record that was not hit since the hand passed it last. s.mu is held.
func (c *recordCache) evict(s *cacheShard) {
	r := s.hand
	for {
		if r == nil {
			r = s.tail
		}
		if r.visited.Swap(false) {
			r = r.prev
			continue
		}
		s.hand = r.prev
		c.remove(s, r)
		return
	}
}

// remove unlinks r from the shard and from the names. s.mu is held; the order of locks is always shard, then names.
func (c *recordCache) remove(s *cacheShard, r *record) {
	r.dropped.Store(true)
	delete(s.byID, r.key.ID)
	if s.hand == r {
		s.hand = r.prev
	}
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		s.head = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		s.tail = r.prev
	}
	r.prev, r.next = nil, nil
	k := nameKey{r.key.Tenant, r.key.Name}
	n := c.nameShard(k)
	n.mu.Lock()
	if n.byName[k] == r {
		delete(n.byName, k)
	}
	n.mu.Unlock()
}

// drop forgets the key. With doubt it also keeps it out of the cache for doubtPeriod.
func (c *recordCache) drop(id uuid.UUID, doubt bool) {
	s := c.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	if r := s.byID[id]; r != nil {
		c.remove(s, r)
	}
	if doubt {
		now := c.now()
		for k, until := range s.doubted {
			if now.After(until) {
				delete(s.doubted, k)
			}
		}
		s.doubted[id] = now.Add(doubtPeriod)
	}
}

// dropAll forgets every key. Which are kept out for being in doubt stays.
func (c *recordCache) dropAll() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.epoch++
		for _, r := range s.byID {
			c.remove(s, r)
		}
		s.mu.Unlock()
	}
}

func (c *recordCache) len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		n += len(s.byID)
		s.mu.RUnlock()
	}
	return n
}

// The links of the SIEVE queue live in the record: see record.
type cacheLinks struct {
	prev, next *record // guarded by the shard's mutex
	visited    atomic.Bool
	dropped    atomic.Bool
	loaded     time.Time
}
