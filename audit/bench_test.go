package audit

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// idleStore extends the tree and keeps nothing: what remains is the cost of the log itself.
type idleStore struct {
	*memStore
	head Head
	wait time.Duration
}

func (s *idleStore) Commit(_ context.Context, batch []*Item, extend func(Head, []*Item) (Head, []Node, error)) error {
	if s.wait > 0 {
		time.Sleep(s.wait)
	}
	head, _, err := extend(s.head, batch)
	s.head = head
	return err
}

func BenchmarkRecord(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		for _, wait := range []time.Duration{0, time.Millisecond} {
			b.Run(fmt.Sprintf("%d/%v", callers, wait), func(b *testing.B) {
				s := &idleStore{memStore: newMemStore(), wait: wait}
				l := openLog(b, s, Options{})
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				var left atomic.Int64
				left.Store(int64(b.N))
				var wg sync.WaitGroup
				b.ReportAllocs()
				b.ResetTimer()
				for range callers {
					wg.Go(func() {
						e := testEntry(3)
						for left.Add(-1) >= 0 {
							if _, err := l.Record(ctx, e); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

func BenchmarkExtend(b *testing.B) {
	var h Head
	var nodes []Node
	leaf := LeafHash([]byte("leaf"))
	b.ReportAllocs()
	for b.Loop() {
		nodes = h.add(leaf, nodes[:0])
	}
}

func BenchmarkInclusionProof(b *testing.B) {
	s := newMemStore()
	s.fill(b, 100_000)
	l := openLog(b, s, Options{})
	i := uint64(0)
	for b.Loop() {
		i = (i + 7919) % 99_999
		if _, err := l.InclusionProof(context.Background(), i, 99_999); err != nil {
			b.Fatal(err)
		}
	}
}

// What a record allocates is paid by every operation on a key.
func TestRecordAllocs(t *testing.T) {
	l := openLog(t, &idleStore{memStore: newMemStore()}, Options{})
	e := testEntry(1)
	e.Tenant = uuid.UUID(testKey(4))
	ctx := context.Background()
	n := testing.AllocsPerRun(500, func() {
		if _, err := l.Record(ctx, e); err != nil {
			t.Fatal(err)
		}
	})
	if n > 6 { // of the committer's too: the head and its range, once a batch
		t.Errorf("%v allocations", n)
	}
}
