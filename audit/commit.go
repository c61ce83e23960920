package audit

import (
	"errors"
	"runtime"
	"time"

	"github.com/keywright/keywright/fault"
)

// commitLoop is the one goroutine that writes: it ends when the log is closed and nothing waits.
func (l *Log) commitLoop() {
	defer close(l.finished)
	c := committer{Log: l, batch: make([]*pending, 0, l.opts.MaxBatch), items: make([]*Item, 0, l.opts.MaxBatch), timer: time.NewTimer(0)}
	defer c.timer.Stop()
	for c.next() {
		c.commit()
	}
}

// committer is the state of commitLoop.
type committer struct {
	*Log
	batch  []*pending
	items  []*Item
	nodes  []Node
	grown  Head        // what extend made; durable when Commit has returned nil
	called bool        // extend was called
	failed int         // batches refused in a row
	timer  *time.Timer // of linger
}

// next takes what waits, up to MaxBatch. It reports false when the log is closed and nothing is left.
func (c *committer) next() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waiting) == 0 {
		if c.closed {
			return false
		}
		c.sleep(nil)
	}
	// Whoever is ready to run goes first, as long as that brings more: what they are about to record then shares this
	// transaction instead of needing another. Nobody is waited for who has no patience.
	for had := 0; had < len(c.waiting); {
		had = len(c.waiting)
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	c.linger()
	n := min(len(c.waiting), c.opts.MaxBatch)
	c.batch = append(c.batch[:0], c.waiting[:n]...)
	rest := copy(c.waiting, c.waiting[n:])
	clear(c.waiting[rest:])
	c.waiting = c.waiting[:rest]
	c.due = time.Time{} // for the rest, which has waited already
	return true
}

// sleep waits with c.mu given up until there is something new to look at, or the timer fires.
func (c *committer) sleep(timer <-chan time.Time) {
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-c.kick:
	case <-timer:
	}
}

// linger waits until what waits is due: not at all, unless all of it has patience.
func (c *committer) linger() {
	for !c.closed && len(c.waiting) < c.opts.MaxBatch {
		left := time.Until(c.due)
		if left <= 0 {
			return
		}
		c.timer.Reset(left)
		c.sleep(c.timer.C)
		c.timer.Stop()
	}
}

var errNotExtended = errors.New("the store committed entries without extending the tree")

// commit makes the batch durable and wakes those who wait for it.
func (c *committer) commit() {
	c.items = c.items[:0]
	for _, p := range c.batch {
		c.items = append(c.items, &p.Item)
	}
	c.called = false
	start := time.Now()
	err := c.store.Commit(c.ctx, c.items, c.extend)
	c.metrics.observe(len(c.items), time.Since(start))
	if err == nil && !c.called {
		for _, it := range c.items {
			if it.Err == nil {
				err = errNotExtended
			}
		}
	}
	switch {
	case err != nil:
		c.refuse(err)
	case c.called:
		head := c.grown
		c.head.Store(&head)
		fallthrough
	default:
		if c.failed > 0 {
			c.log.Info("the audit log can be written again", "failed_batches", c.failed)
			c.failed = 0
		}
	}
	for i, p := range c.batch {
		c.batch[i] = nil
		p.done <- struct{}{} // never blocks; p is the caller's from here on
	}
}

// refuse fails the whole batch closed. By its contract the store has kept nothing of it, but a store that lost its
// connection at the last moment may not know; so the head is read again rather than remembered.
func (c *committer) refuse(err error) {
	// One line when it begins, not one for each batch of callers who try again.
	if c.failed++; c.failed == 1 {
		c.log.Error("the audit log cannot be written", "error", err, "records", len(c.batch))
	}
	f := fault.Wrap(fault.AuditUnavailable, "the audit record could not be made durable, so the result is not released", err)
	for _, it := range c.items {
		it.Err = f
	}
	head, err := c.store.AuditHead(c.ctx)
	if err == nil {
		err = c.follows(head)
	}
	if err != nil {
		// The head known so far stays: it is a lower bound of what any later head must be.
		c.log.Debug("reading the head of the audit log again", "error", err)
		return
	}
	c.head.Store(&head)
}

// follows reports whether a stored head can be what became of the newest one known. Another node may have gone on, so a
// longer log is accepted here; that it contains the older one is checked before a checkpoint is signed.
func (l *Log) follows(stored Head) error {
	if err := stored.check(); err != nil {
		return fault.Wrap(fault.StoreCorrupted, "the stored head of the audit log is malformed", err)
	}
	known := l.head.Load()
	if stored.Size < known.Size {
		return corrupted("the stored audit log is shorter than it has been: the store was rolled back")
	}
	if stored.Size == known.Size && !stored.equal(*known) {
		return corrupted("the stored audit log has the size that it had, but another head: the store was changed")
	}
	return nil
}

// extend is what Store.Commit calls, once or more, with the head inside its transaction.
func (c *committer) extend(stored Head, items []*Item) (Head, []Node, error) {
	if err := c.follows(stored); err != nil {
		return Head{}, nil, err
	}
	head, nodes := stored.clone(), c.nodes[:0]
	for _, it := range items {
		it.Index = head.Size
		nodes = head.add(it.Hash, nodes)
	}
	c.nodes, c.grown, c.called = nodes, head, true
	return head, nodes, nil
}
