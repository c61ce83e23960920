package hsm

import (
	"bytes"
	"container/list"
	"crypto"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/token"
)

// entry is a Ref that was checked. It holds nothing secret and is never changed.
type entry struct {
	spec    backend.Spec
	info    backend.AlgorithmInfo
	public  []byte
	blob    []byte
	pub     crypto.PublicKey
	id      token.ID
	name    string // of the token
	wrapped []byte // of the blob
	copied  bool   // wrapped is for members that lack the key
	epoch   uint64
	expires time.Time
}

// is reports whether the entry was made of this Ref. Refs hold no secrets, so the comparison need not hide anything.
func (e *entry) is(r *backend.Ref) bool {
	return e.spec == r.Spec && bytes.Equal(e.blob, r.Blob) && bytes.Equal(e.public, r.Public)
}

// slot is where a key version is looked for.
type slot struct {
	id      uuid.UUID
	version uint32
}

const refShards = 16

// refs keeps checked Refs, the least recently used goes first. Its lock is split by key id.
type refs struct {
	each   int // entries per shard; 0: nothing is kept
	ttl    time.Duration
	now    func() time.Time
	shards [refShards]refShard
}

type refShard struct {
	mu      sync.Mutex // guards the rest
	entries map[slot]*list.Element
	order   list.List // of *entry, the latest in front
	drops   uint64
	_       [64]byte // shards do not share a cache line
}

func newRefs(capacity int, ttl time.Duration, now func() time.Time) *refs {
	c := &refs{ttl: ttl, now: now}
	if capacity > 0 {
		c.each = max(capacity/refShards, 1)
	}
	for i := range c.shards {
		c.shards[i].entries = map[slot]*list.Element{}
	}
	return c
}

func (c *refs) shard(s *backend.Spec) *refShard {
	// The last bytes of a UUID are random in versions 4 and 7.
	return &c.shards[int(s.KeyID[15]^byte(s.Version))%refShards]
}

// get gives the entry of a Ref that was checked in this epoch, or nil; drops is for put.
func (c *refs) get(r *backend.Ref, epoch uint64) (e *entry, drops uint64) {
	s := c.shard(&r.Spec)
	s.mu.Lock()
	defer s.mu.Unlock()
	el, ok := s.entries[slot{r.Spec.KeyID, r.Spec.Version}]
	if !ok {
		return nil, s.drops
	}
	e = el.Value.(*entry)
	if e.epoch != epoch || !e.is(r) || !c.now().Before(e.expires) {
		return nil, s.drops
	}
	s.order.MoveToFront(el)
	return e, s.drops
}

// put keeps an entry, unless a key of its shard was destroyed since get: it may have been this one.
func (c *refs) put(e *entry, drops uint64) {
	if c.each == 0 {
		return
	}
	e.expires = c.now().Add(c.ttl)
	s := c.shard(&e.spec)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drops != drops {
		return
	}
	s.remove(slot{e.spec.KeyID, e.spec.Version})
	for len(s.entries) >= c.each {
		old := s.order.Back().Value.(*entry)
		s.remove(slot{old.spec.KeyID, old.spec.Version})
	}
	s.entries[slot{e.spec.KeyID, e.spec.Version}] = s.order.PushFront(e)
}

// remove takes an entry out. The mutex is held.
func (s *refShard) remove(at slot) {
	if el, ok := s.entries[at]; ok {
		s.order.Remove(el)
		delete(s.entries, at)
	}
}

// copied lists the keys of which members are to have copies.
func (c *refs) copied() (out []*entry) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for _, el := range s.entries {
			if e := el.Value.(*entry); e.copied {
				out = append(out, e)
			}
		}
		s.mu.Unlock()
	}
	return out
}

// drop forgets a key version, and what is being checked of it at this moment.
func (c *refs) drop(spec *backend.Spec) {
	s := c.shard(spec)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drops++
	s.remove(slot{spec.KeyID, spec.Version})
}
