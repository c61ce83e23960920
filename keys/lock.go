package keys

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// keyLocks serialises the changes of one key within this process, so that callers who change it at once wait for each other
// instead of losing against each other. Between nodes the revision of the record decides.
type keyLocks struct {
	mu   sync.Mutex // guards held
	held map[uuid.UUID]*keyLock
}

type keyLock struct {
	turn chan struct{} // holds one value while nobody has the lock
	refs int           // holder and waiters
}

// maxWaiters bounds the queue of one key.
const maxWaiters = 256

// lock waits for its turn until ctx ends (fault.Timeout). A queue that is too long is fault.Overloaded.
func (l *keyLocks) lock(ctx context.Context, id uuid.UUID) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[uuid.UUID]*keyLock{}
	}
	k := l.held[id]
	if k == nil {
		k = &keyLock{turn: make(chan struct{}, 1)}
		k.turn <- struct{}{}
		l.held[id] = k
	}
	if k.refs > maxWaiters {
		l.mu.Unlock()
		return nil, fault.New(fault.Overloaded, "too many changes of this key at once").RetryAfter(waitForChange)
	}
	k.refs++
	l.mu.Unlock()
	done := func() {
		l.mu.Lock()
		if k.refs--; k.refs == 0 {
			delete(l.held, id)
		}
		l.mu.Unlock()
	}
	select {
	case <-k.turn:
		return func() { k.turn <- struct{}{}; done() }, nil
	case <-ctx.Done():
		done()
		return nil, expired(ctx)
	}
}
