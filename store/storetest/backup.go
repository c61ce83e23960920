package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/root"
)

// Backed is a store that can be backed up.
type Backed interface {
	Store
	backup.Source
}

// Loading is a store that is being filled, and how it ends.
type Loading struct {
	backup.Target
	Open   func(ctx context.Context) (Backed, error)
	Commit func(ctx context.Context) error
	Close  func() error
}

// Place is where a store can be made: begun from a schema's number, and opened once it is there.
type Place struct {
	Begin func(ctx context.Context, schema int64) (*Loading, error)
	Open  func(t *testing.T) Backed
}

// Fill gives a store rows of every table, with the ends of what each can hold.
func Fill(t testing.TB, s Store, entries int) {
	t.Helper()
	tenant := uuid.New()
	must := func(changes ...audit.Change) {
		t.Helper()
		item := Item(changes...)
		if err := s.Commit(t.Context(), []*audit.Item{item}, Extend); err != nil || item.Err != nil {
			t.Fatal(err, item.Err)
		}
	}
	for i := range 40 { // more than one statement inserts
		k, v := NewKey(tenant, fmt.Sprintf("ключ %d/☃", i))
		k.Labels = map[string]string{"env": "prod", "n": fmt.Sprint(i), "empty": ""}
		if i == 1 {
			k.Uses, k.CreatedAt = math.MaxInt64, time.UnixMicro(math.MinInt32).UTC()
			k.Policy.RotationPeriod = time.Hour
			k.RotatedAt = now()
			v.Public, v.Blob = []byte{0}, make([]byte, 300_000)
		}
		if i == 2 {
			v.Blob = []byte{}
		}
		must(s.InsertKey(k, v))
		if i == 3 {
			v.Version, v.Blob = 2, nil
			must(s.InsertVersion(v), s.SetDefaultKey(tenant, backend.PurposeEncryption, k.ID))
		}
	}
	must(s.InsertAPIKey(&auth.APIKey{ID: uuid.New(), Tenant: tenant, Name: "a 'quoted' \"name\"\\", Brand: "kw", Prefix: uuid.NewString(),
		MAC: [32]byte{0, 255}, Scopes: auth.Scopes(), CreatedAt: now(), CreatedBy: "system", ExpiresAt: now()}))
	must(s.InsertSlot(&root.Slot{ID: uuid.New(), Kind: root.KindKeyFile, Label: "", Params: []byte(`{"v":1}`), Sealed: []byte{1, 0, 2}, CreatedAt: now()}))
	must(s.InsertIdempotency(&idempotency.Record{Tenant: tenant, Key: "token", Resource: uuid.New(), Version: 7, CreatedAt: now()}))
	must(s.InsertIdempotency(&idempotency.Record{Tenant: tenant, Key: "Token", Resource: uuid.New(), Sealed: []byte{}, CreatedAt: now()}))
	must(s.SetTenantSettings(tenant, keys.Settings{NewKeys: keys.NewKeysHybrid}))
	var batch []*audit.Item
	for i := range entries {
		e := audit.Entry{Principal: "system", Action: "test", Outcome: "ok"}
		if i%2 == 0 {
			e.Tenant, e.Key = tenant, uuid.New()
		}
		batch = append(batch, ItemOf(e))
	}
	if err := s.Commit(t.Context(), batch, Extend); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveCheckpoint(t.Context(), 1, []byte("a note\n")); err != nil {
		t.Fatal(err)
	}
	if entries >= 300 {
		first, _, err := s.AuditKept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		prune(t, s, first+270, 100)
	}
}

// Digests gives the number of rows and a SHA-256 over all of them, for each table of a backup.
func Digests(t testing.TB, s backup.Source) map[string]string {
	t.Helper()
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	defer func() {
		if err := snap.Close(); err != nil {
			t.Errorf("closing a snapshot: %v", err)
		}
	}()
	out := map[string]string{}
	for _, table := range snap.Tables() {
		rows, err := snap.Rows(t.Context(), table)
		if err != nil {
			t.Fatal(err)
		}
		h, n := sha256.New(), int64(0)
		for {
			row, err := rows.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("table %s: %v", table.Name, err)
			}
			for i, v := range row {
				fmt.Fprintf(h, "%s %v %v %d ", table.Columns[i].Name, table.Columns[i].Kind, v.Null, v.Int)
				h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(v.Bytes))))
				h.Write(v.Bytes)
			}
			n++
		}
		if counted, err := snap.Count(t.Context(), table); err != nil || counted != n {
			t.Errorf("table %s has %d rows, counted as %d: %v", table.Name, n, counted, err)
		}
		out[table.Name] = fmt.Sprintf("%d %x", n, h.Sum(nil))
	}
	return out
}

// copyInto copies what s holds now, up to the opening of the new store.
func copyInto(t *testing.T, s backup.Source, to Place) (*Loading, Backed, backup.Summary) {
	t.Helper()
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	defer func() {
		if err := snap.Close(); err != nil {
			t.Error(err)
		}
	}()
	l, err := to.Begin(t.Context(), snap.Schema())
	if err != nil {
		t.Fatalf("beginning: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("ending: %v", err)
		}
	})
	sum, err := backup.Copy(t.Context(), snap, l, nil)
	if err != nil {
		t.Fatalf("Copy: %v", err)
	}
	opened, err := l.Open(t.Context())
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return l, opened, sum
}

// RunCopy runs the suite of what a backup needs of two stores, from one kind into the same or another. fresh gives an empty store, place
// somewhere for a new one.
func RunCopy(t *testing.T, fresh func(t *testing.T) Backed, place func(t *testing.T) Place) {
	t.Run("Equal", func(t *testing.T) {
		s, to := fresh(t), place(t)
		Fill(t, s, 700) // some nodes of the tree
		want := Digests(t, s)
		l, opened, sum := copyInto(t, s, to)
		wantSame(t, "what was loaded", Digests(t, opened), want)
		head, err := s.AuditHead(t.Context())
		if err != nil || head.Size != sum.Entries || head.Root() != sum.Root || sum.Tables != len(want) {
			t.Errorf("the summary is %+v, the head %+v: %v", sum, head, err)
		}
		if err := l.Commit(t.Context()); err != nil {
			t.Fatalf("Commit: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		again := to.Open(t)
		wantSame(t, "what was kept", Digests(t, again), want)
		if err := again.Commit(t.Context(), []*audit.Item{Item()}, Extend); err != nil {
			t.Errorf("the new store does not go on: %v", err)
		}
		_, err = to.Begin(t.Context(), 1)
		if fault.CodeOf(err) != fault.Conflict && fault.CodeOf(err) != fault.StoreUnavailable {
			t.Errorf("over a store: %v", err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = to.Begin(t.Context(), 1)
		wantFault(t, "over a store that rests", err, fault.Conflict)
	})
	t.Run("UnderLoad", func(t *testing.T) { testUnderLoad(t, fresh(t), place(t)) })
	t.Run("OldSchema", func(t *testing.T) { testOldSchema(t, fresh(t), place(t)) })
}

// RunBackup is RunCopy within one kind of store, and what does not depend on another.
func RunBackup(t *testing.T, fresh func(t *testing.T) Backed, place func(t *testing.T) Place) {
	RunCopy(t, fresh, place)
	t.Run("Moment", func(t *testing.T) { testMoment(t, fresh(t)) })
	t.Run("Abandoned", func(t *testing.T) {
		s, to := fresh(t), place(t)
		Fill(t, s, 10)
		want := Digests(t, s)
		l, _, _ := copyInto(t, s, to)
		if err := l.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		// In the middle of a table.
		snap, err := s.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if l, err = to.Begin(t.Context(), snap.Schema()); err != nil {
			t.Fatalf("after one that was dropped: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cut := errors.New("cut")
		err = l.Load(ctx, snap.Tables()[0], failing{cut})
		if !errors.Is(err, cut) {
			t.Errorf("the error of the rows became %v", err)
		}
		if err := errors.Join(l.Close(), snap.Close()); err != nil {
			t.Fatal(err)
		}
		l, opened, _ := copyInto(t, s, to)
		wantSame(t, "what was loaded", Digests(t, opened), want)
		if err := errors.Join(l.Commit(t.Context()), l.Close()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("Schema", func(t *testing.T) {
		to := place(t)
		for _, schema := range []int64{0, -1, 1 << 40} {
			_, err := to.Begin(t.Context(), schema)
			wantFault(t, fmt.Sprintf("schema %d", schema), err, fault.StoreUnavailable)
		}
	})
}

// testOldSchema: a file of an older release has fewer tables; the migrations make the rest.
func testOldSchema(t *testing.T, s Backed, to Place) {
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close() //nolint:errcheck // of a test
	l, err := to.Begin(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Copy(t.Context(), older{snap, l.Tables()}, l, nil); err != nil {
		t.Fatal(err)
	}
	opened, err := l.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "an empty store", Digests(t, opened), Digests(t, s))
	if err := errors.Join(l.Commit(t.Context()), l.Close()); err != nil {
		t.Fatal(err)
	}
}

// older shows a snapshot as one of an older schema.
type older struct {
	backup.Snapshot
	tables []backup.Table
}

func (o older) Tables() []backup.Table { return o.tables }

type failing struct{ err error }

func (f failing) Next() ([]backup.Value, error) { return nil, f.err }

// testMoment: what is committed after a snapshot was taken is not in it, and one that is left in the middle holds nobody up.
func testMoment(t *testing.T, s Backed) {
	defer func() {
		if err := s.Close(); err != nil { // waits for snapshots
			t.Error(err)
		}
	}()
	Fill(t, s, 600)
	want := Digests(t, s)
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	Fill(t, s, 300)
	for _, table := range snap.Tables() {
		n, err := snap.Count(t.Context(), table)
		if err != nil || fmt.Sprint(n) != want[table.Name][:len(fmt.Sprint(n))] {
			t.Errorf("table %s has %d rows, want %s: %v", table.Name, n, want[table.Name], err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	for _, table := range snap.Tables() {
		if table.Name != "audit_entries" {
			continue
		}
		rows, err := snap.Rows(ctx, table)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := rows.Next(); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	if err := snap.Close(); err != nil {
		t.Errorf("closing in the middle: %v", err)
	}
	Fill(t, s, 1)
}

// testUnderLoad: what is copied while others commit fits together, at whatever moment that was.
func testUnderLoad(t *testing.T, s Backed, to Place) {
	Fill(t, s, 300)
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			tenant := uuid.New()
			for i := 0; ctx.Err() == nil; i++ {
				k, v := NewKey(tenant, fmt.Sprintf("key %d.%d", w, i))
				item := Item(s.InsertKey(k, v))
				if err := s.Commit(t.Context(), []*audit.Item{item}, Extend); err != nil || item.Err != nil {
					t.Errorf("committing: %v %v", err, item.Err)
					return
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	l, opened, sum := copyInto(t, s, to)
	cancel()
	writers.Wait()
	counts := Digests(t, opened)
	var keysThere, versionsThere int
	if _, err := fmt.Sscan(counts["keys"], &keysThere); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(counts["key_versions"], &versionsThere); err != nil {
		t.Fatal(err)
	}
	// Fill makes 40 keys, one of which has two versions, in 46 commits with one entry each, and 300 entries more.
	if keysThere <= 40 || versionsThere != keysThere+1 || sum.Entries != uint64(keysThere-40+46+300) {
		t.Errorf("%d keys with %d versions and %d entries do not fit", keysThere, versionsThere, sum.Entries)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
