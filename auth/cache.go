package auth

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const shards = 16

// cache remembers, by MAC, who presents a key. Only keys that the store confirmed get in, so strangers cannot fill it.
type cache struct {
	// generation counts revocations on this node. What was read from the store before a revocation must not be kept after it.
	generation atomic.Uint64
	shards     [shards]shard
}

type shard struct {
	mu      sync.RWMutex // guards entries and flights
	entries map[mac]*entry
	flights map[mac]*flight
	limit   int
}

// entry is a confirmed key. It is not changed once it is in the cache; a newer confirmation replaces it.
type entry struct {
	principal *Principal
	id        uuid.UUID
	expires   time.Time   // zero: never
	confirmed time.Time   // from before the store was asked
	looking   atomic.Bool // somebody is on the way to the store already
	session   *live       // nil: it is no session's
}

// flight is one look into the store that others may wait for.
type flight struct {
	generation uint64
	done       chan struct{} // closed when entry and err are set
	entry      *entry
	err        error
}

func newCache(size int) *cache {
	c := new(cache)
	for i := range c.shards {
		c.shards[i].entries = make(map[mac]*entry)
		c.shards[i].flights = make(map[mac]*flight)
		c.shards[i].limit = max(1, size/shards)
	}
	return c
}

// of gives the shard of a MAC. MACs are evenly spread: that is what a MAC is.
func (c *cache) of(m *mac) *shard { return &c.shards[m[0]%shards] }

func (c *cache) get(m *mac) *entry {
	s := c.of(m)
	s.mu.RLock()
	e := s.entries[*m]
	s.mu.RUnlock()
	return e
}

// join gives the flight for a MAC, and whether the caller must fly it. A flight that took off before a revocation is not
// joined.
func (c *cache) join(m *mac) (*flight, bool) {
	s := c.of(m)
	s.mu.Lock()
	defer s.mu.Unlock()
	generation := c.generation.Load()
	if f := s.flights[*m]; f != nil && f.generation == generation {
		return f, false
	}
	f := &flight{generation: generation, done: make(chan struct{})}
	s.flights[*m] = f
	return f, true
}

// land ends a flight: what it brought replaces what was known, unless there was a revocation since it took off.
func (c *cache) land(m *mac, f *flight, e *entry, err error) {
	f.entry, f.err = e, err
	s := c.of(m)
	s.mu.Lock()
	if s.flights[*m] == f {
		delete(s.flights, *m)
	}
	// Under the lock: a revocation either has counted already, or will find the entry when it comes to this shard.
	if c.generation.Load() == f.generation {
		switch {
		case e != nil:
			s.put(m, e)
		case errors.Is(err, errUnauthenticated):
			delete(s.entries, *m)
		}
	}
	s.mu.Unlock()
	close(f.done)
}

// put stores an entry. A full shard gives up any one other: it costs its owner one look into the store.
func (s *shard) put(m *mac, e *entry) {
	if _, there := s.entries[*m]; !there && len(s.entries) >= s.limit {
		for other := range s.entries {
			delete(s.entries, other)
			break
		}
	}
	s.entries[*m] = e
}

// revoke forgets a key, also for those who are on the way to the store at this moment.
func (c *cache) revoke(id uuid.UUID) { c.forget(func(e *entry) bool { return e.id == id }) }

// forget forgets all keys that match, also for those who are on the way to the store at this moment.
func (c *cache) forget(match func(*entry) bool) {
	c.generation.Add(1)
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for m, e := range s.entries {
			if match(e) {
				delete(s.entries, m)
			}
		}
		s.mu.Unlock()
	}
}
