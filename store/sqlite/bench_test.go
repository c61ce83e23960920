package sqlite_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/store/storetest"
)

// entry is an item of the size that a real one has.
func entry(tenant uuid.UUID) *audit.Item {
	it := storetest.ItemOf(audit.Entry{
		Tenant: tenant, Key: uuid.New(), KeyVersion: 1, Principal: "api-key:" + uuid.NewString(), Action: "encrypt", Outcome: "ok",
	})
	it.Leaf = append(it.Leaf, make([]byte, 300-len(it.Leaf))...)
	return it
}

// BenchmarkCommit is what a batch of entries without changes costs. One operation is one batch.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "store.db"), sqlite.Options{})
			tenant := uuid.New()
			batch := make([]*audit.Item, size)
			for i := range batch {
				batch[i] = entry(tenant)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Commit(context.Background(), batch, storetest.Extend); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*size), "µs/item")
		})
	}
}

// BenchmarkInsertKey is the creation of keys in batches of 16 whose names come in no order. One operation is one key.
func BenchmarkInsertKey(b *testing.B) {
	for _, n := range []int{0, 1_000_000} {
		b.Run(fmt.Sprintf("beside %d", n), func(b *testing.B) {
			s, tenant, _ := seeded(b, n)
			b.ResetTimer()
			for i := 0; i < b.N; i += 16 {
				var batch []*audit.Item
				for j := range min(16, b.N-i) {
					k, v := storetest.NewKey(tenant, fmt.Sprintf("%x-%d", rand.Uint64(), i+j))
					batch = append(batch, storetest.Item(s.InsertKey(k, v)))
				}
				if err := s.Commit(context.Background(), batch, storetest.Extend); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "keys/s")
		})
	}
}

// seeded opens a store with n keys of one tenant.
func seeded(b *testing.B, n int) (*sqlite.Store, uuid.UUID, []uuid.UUID) {
	b.Helper()
	s := open(b, filepath.Join(b.TempDir(), "store.db"), sqlite.Options{})
	tenant, ids := uuid.New(), make([]uuid.UUID, 0, n)
	for len(ids) < n {
		var changes []audit.Change
		for range min(5000, n-len(ids)) {
			k, v := storetest.NewKey(tenant, fmt.Sprintf("key-%07d", len(ids)))
			switch {
			case len(ids)%1000 == 0:
				k.Algorithm = "RSA-3072"
			case len(ids)%1000 == 1:
				k.State = keys.StateSuspended
			}
			k.Labels = map[string]string{"env": "prod", "shard": fmt.Sprint(len(ids) % 5000)}
			changes, ids = append(changes, s.InsertKey(k, v)), append(ids, k.ID)
		}
		item := storetest.Item(changes...)
		if err := s.Commit(context.Background(), []*audit.Item{item}, storetest.Extend); err != nil || item.Err != nil {
			b.Fatal(err, item.Err)
		}
	}
	return s, tenant, ids
}

// BenchmarkKeys reads beside a million keys.
func BenchmarkKeys(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		s, tenant, ids := seeded(b, n)
		run := func(name string, f func(i int) error) {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					if err := f(i); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("KeyByID", func(i int) error {
			_, err := s.KeyByID(context.Background(), tenant, ids[i*7919%len(ids)])
			return err
		})
		list := func(f keys.Filter, after string) func(int) error {
			return func(int) error {
				got, err := s.Keys(context.Background(), tenant, f, after, 100)
				if err == nil && len(got) == 0 {
					err = fmt.Errorf("nothing found")
				}
				return err
			}
		}
		middle := fmt.Sprintf("key-%07d", n/2)
		run("List", list(keys.Filter{}, middle))
		run("ListPrefix", list(keys.Filter{NamePrefix: middle[:8]}, ""))
		run("ListAlgorithm", list(keys.Filter{Algorithm: "RSA-3072"}, ""))
		run("ListState", list(keys.Filter{State: keys.StateSuspended}, ""))
		run("ListLabel", list(keys.Filter{Label: "env"}, middle))
		run("ListLabelValue", list(keys.Filter{Label: "shard=1"}, ""))
		run("ListAlgorithmAndState", list(keys.Filter{Algorithm: "RSA-3072", State: keys.StateActive}, ""))
		run("ListAlgorithmAndLabel", list(keys.Filter{Algorithm: "RSA-3072", Label: "env=prod"}, ""))
	}
}

// BenchmarkAuditSearch looks through 50,000 entries of which none matches.
func BenchmarkAuditSearch(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "store.db"), sqlite.Options{})
	tenant := uuid.New()
	for range 50 {
		batch := make([]*audit.Item, 1000)
		for i := range batch {
			batch[i] = entry(tenant)
		}
		if err := s.Commit(context.Background(), batch, storetest.Extend); err != nil {
			b.Fatal(err)
		}
	}
	key := uuid.New()
	for b.Loop() {
		if _, _, err := s.AuditSearch(context.Background(), audit.Filter{Tenant: &tenant, Key: &key}, math.MaxInt64, 100); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*50_000/b.Elapsed().Seconds(), "entries/s")
}
