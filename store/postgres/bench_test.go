package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/sqlite"
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

// BenchmarkLoad fills a store from an embedded one, with all checks: keys of five rows each.
func BenchmarkLoad(b *testing.B) {
	const keys = 20_000
	server := rig.Postgres(b)
	from, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "store.db"), sqlite.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer from.Close() //nolint:errcheck // of a benchmark
	tenant := uuid.New()
	for made := 0; made < keys; {
		var batch []*audit.Item
		for range 500 {
			k, v := storetest.NewKey(tenant, fmt.Sprintf("key %d", made))
			k.Labels = map[string]string{"env": "prod", "team": "payments"}
			batch = append(batch, storetest.ItemOf(audit.Entry{Tenant: tenant, Key: k.ID, Principal: "system", Action: "key.create", Outcome: "ok"}, from.InsertKey(k, v)))
			made++
		}
		if err := from.Commit(b.Context(), batch, storetest.Extend); err != nil {
			b.Fatal(err)
		}
	}
	rows := int64(0)
	for b.Loop() {
		snap, err := from.Snapshot(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		l, err := postgres.NewLoader(b.Context(), server.URI, options(server), snap.Schema())
		if err != nil {
			b.Fatal(err)
		}
		sum, err := backup.Copy(b.Context(), snap, l, nil)
		if err := errors.Join(err, snap.Close(), l.Close()); err != nil {
			b.Fatal(err)
		}
		rows += sum.Rows
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
}
