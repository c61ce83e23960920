package audit

import (
	"context"
	"sync/atomic"
)

// Receipt tells a front end where in the log the call that it made is recorded. It is safe for concurrent use.
type Receipt struct{ next atomic.Uint64 } // the index and one; 0: nothing was recorded

// Index gives the index of the entry that was recorded last under the receipt's context, and whether there is one.
func (r *Receipt) Index() (uint64, bool) {
	n := r.next.Load()
	return n - 1, n > 0
}

type receiptKey struct{}

// WithReceipt gives a context whose records leave their index in the receipt.
func WithReceipt(ctx context.Context) (context.Context, *Receipt) {
	c := &receiptContext{Context: ctx}
	return c, &c.receipt
}

// receiptContext is a context and its receipt in one allocation.
type receiptContext struct {
	context.Context
	receipt Receipt
}

func (c *receiptContext) Value(key any) any {
	if key == (receiptKey{}) {
		return &c.receipt
	}
	return c.Context.Value(key)
}

// leave writes down where the caller's act is recorded.
func leave(ctx context.Context, index uint64) {
	if r, ok := ctx.Value(receiptKey{}).(*Receipt); ok {
		r.next.Store(index + 1)
	}
}
