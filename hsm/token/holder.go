package token

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// holder is the session that owns unwrapped keys: they live as long as it is open, whatever happens to the workers' sessions.
type holder struct {
	one    chan struct{} // holds a token while somebody uses the session
	handle pkcs11.SessionHandle
	isOpen bool
	shared bool // the pinned session does it: the token has no third one
	epoch  atomic.Uint64
}

func (h *holder) init(g *generation) {
	h.one = make(chan struct{}, 1)
	h.shared = g.description.MaxSessions == 1 || g.description.MaxSessions == 2
}

// with runs f on the holder's session, one at a time. A session that fails is replaced, and all keys in it are gone.
func (h *holder) with(ctx context.Context, s *session, f func(hs *session, epoch uint64) error) error {
	select {
	case h.one <- struct{}{}:
	case <-ctx.Done():
		return timeout(ctx)
	}
	defer func() { <-h.one }()
	g := s.gen
	if !h.isOpen {
		h.handle = g.pinned
		if !h.shared {
			var err error
			if h.handle, err = g.open(s.d); err != nil {
				return err
			}
		}
		h.isOpen = true
		h.epoch.Add(1)
	}
	err := f(&session{SessionHandle: h.handle, d: s.d, gen: g, job: s.job}, h.epoch.Load())
	if c, ok := classOf(err); ok && (c == classSession || c == classDoubt) && !h.shared {
		g.close(s.d, h.handle)
		h.isOpen = false
		h.epoch.Add(1) // what it held is gone
	}
	return err
}

// wrappedCache keeps unwrapped keys as session objects, the least recently used goes first. Lookups of one key at a time load it
// once.
type wrappedCache struct {
	mu    sync.Mutex // guards the rest and the entries' refs and dead
	max   int
	byKey map[string]*list.Element // by the whole blob: it names key, algorithm and purpose
	order *list.List               // of *wrappedEntry, the latest in front
}

type wrappedEntry struct {
	key    string
	gen    *generation
	epoch  uint64
	handle pkcs11.ObjectHandle
	ready  chan struct{} // closed when handle or err is set
	err    error
	refs   int
	dead   bool // not in the cache any more: destroyed with the last reference
}

func (c *wrappedCache) init(limit int) {
	c.max, c.byKey, c.order = limit, map[string]*list.Element{}, list.New()
}

// clear forgets everything: the generation's sessions are closed, and with them the objects.
func (c *wrappedCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.byKey {
		e.Value.(*wrappedEntry).dead = true
	}
	c.byKey = map[string]*list.Element{}
	c.order.Init()
}

// acquire gives the entry of a blob, with a reference, and whether the caller has to load it. Evicted is what to destroy.
func (c *wrappedCache) acquire(blob []byte, g *generation) (e *wrappedEntry, load bool, evicted []*wrappedEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byKey[string(blob)]; ok {
		e = el.Value.(*wrappedEntry)
		// While it loads the epoch is not set yet.
		if e.gen == g && (e.epoch == 0 || e.epoch == g.holder.epoch.Load()) {
			c.order.MoveToFront(el)
			e.refs++
			return e, false, nil
		}
		c.remove(el)
	}
	for len(c.byKey) >= c.max {
		el := c.order.Back()
		old := c.remove(el)
		if old.refs == 0 {
			evicted = append(evicted, old)
		}
	}
	e = &wrappedEntry{key: string(blob), gen: g, ready: make(chan struct{}), refs: 1}
	c.byKey[e.key] = c.order.PushFront(e)
	return e, true, evicted
}

// remove takes an entry out. The mutex is held.
func (c *wrappedCache) remove(el *list.Element) *wrappedEntry {
	e := c.order.Remove(el).(*wrappedEntry)
	delete(c.byKey, e.key)
	e.dead = true
	return e
}

// forget takes an entry out that turned out to be of no use.
func (c *wrappedCache) forget(e *wrappedEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byKey[e.key]; ok && el.Value.(*wrappedEntry) == e {
		c.remove(el)
	}
}

// release gives a reference back and reports whether the object is to be destroyed.
func (c *wrappedCache) release(e *wrappedEntry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.refs--
	return e.dead && e.refs == 0
}

// setEpoch makes a loaded entry one of its holder's.
func (c *wrappedCache) loaded(e *wrappedEntry, h pkcs11.ObjectHandle, epoch uint64, err error) {
	c.mu.Lock()
	e.handle, e.epoch, e.err = h, epoch, err
	c.mu.Unlock()
	close(e.ready)
}
