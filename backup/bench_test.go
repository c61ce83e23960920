package backup_test

import (
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/store/storetest"
)

// big is a store of many keys, each with its version, two labels and an entry.
func big(b *testing.B, keys int) *sqlite.Store {
	b.Helper()
	s, err := sqlite.Open(b.Context(), filepath.Join(memory(b), "store.db"), sqlite.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	tenant := uuid.New()
	for made := 0; made < keys; {
		var batch []*audit.Item
		for range min(500, keys-made) {
			k, v := storetest.NewKey(tenant, fmt.Sprintf("key %d", made))
			k.Labels = map[string]string{"env": "prod", "team": "payments"}
			batch = append(batch, storetest.ItemOf(audit.Entry{Tenant: tenant, Key: k.ID, Principal: "system", Action: "key.create", Outcome: "ok"}, s.InsertKey(k, v)))
			made++
		}
		if err := s.Commit(b.Context(), batch, storetest.Extend); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// BenchmarkCopy: from SQLite into SQLite, with all checks.
func BenchmarkCopy(b *testing.B) {
	s := big(b, 20_000)
	rows := int64(0)
	for b.Loop() {
		l, err := sqlite.NewLoader(b.Context(), filepath.Join(memory(b), "new.db"), newest(b, s))
		if err != nil {
			b.Fatal(err)
		}
		rows += copied(b, s, l)
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
}

func newest(b *testing.B, s backup.Source) int64 {
	b.Helper()
	snap, err := s.Snapshot(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer snap.Close() //nolint:errcheck // of a benchmark
	return snap.Schema()
}

func copied(b *testing.B, s backup.Source, to backup.Target) int64 {
	b.Helper()
	snap, err := s.Snapshot(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	sum, err := backup.Copy(b.Context(), snap, to, nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := snap.Close(); err != nil {
		b.Fatal(err)
	}
	return sum.Rows
}

// BenchmarkWrite: a whole backup, encrypted, to nowhere.
func BenchmarkWrite(b *testing.B) {
	f := newFixture(b, 2_000)
	rows, bytes := int64(0), int64(0)
	for b.Loop() {
		sum, err := f.service.Write(b.Context(), who, io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		rows, bytes = rows+sum.Rows, bytes+sum.Bytes
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(bytes)/b.Elapsed().Seconds()/1e6, "MB/s")
}
