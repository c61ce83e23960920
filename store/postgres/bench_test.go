package postgres_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/storetest"
)

// BenchmarkCommit is what a batch of entries without changes costs. One operation is one batch.
func BenchmarkCommit(b *testing.B) {
	server := rig.Postgres(b)
	for _, size := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := open(b, server.URI, options(server))
			tenant := uuid.New()
			batch := make([]*audit.Item, size)
			for i := range batch {
				batch[i] = storetest.ItemOf(audit.Entry{
					Tenant: tenant, Key: uuid.New(), KeyVersion: 1, Principal: "api-key:" + uuid.NewString(), Action: "encrypt", Outcome: "ok",
				})
				batch[i].Leaf = append(batch[i].Leaf, make([]byte, 300-len(batch[i].Leaf))...)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Commit(context.Background(), batch, storetest.Extend); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
