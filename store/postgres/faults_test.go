package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/storetest"
)

// wait waits for something that comes soon.
func wait(t *testing.T, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ready(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// testManyFail: a batch in which every other item fails, each for its own reason, and some of them at their last change.
func testManyFail(t *testing.T, server *rig.Server) {
	s := open(t, server.URI, options(server))
	tenant := uuid.New()
	taken, v := storetest.NewKey(tenant, "taken")
	if err := commit(t, s, s.InsertKey(taken, v)); err != nil {
		t.Fatal(err)
	}
	var batch []*audit.Item
	for i := range 40 {
		k, v := storetest.NewKey(tenant, fmt.Sprintf("k%d", i))
		k.Labels = map[string]string{"n": fmt.Sprint(i)}
		batch = append(batch, storetest.Item(s.InsertKey(k, v), s.AddUses(k.ID, 1, 1)))
		fresh, fv := storetest.NewKey(tenant, fmt.Sprintf("gone%d", i))
		bad := []audit.Change{s.InsertKey(fresh, fv)}
		switch i % 4 {
		case 0:
			bad = append(bad, s.InsertKey(taken, v))
		case 1:
			bad = append(bad, s.AddUses(k.ID, 1, 1))
		case 2:
			bad = append(bad, s.DeleteSlot(uuid.New()))
		case 3:
			bad = append(bad, s.UpdateKey(k), s.UpdateKey(k))
		}
		batch = append(batch, storetest.Item(bad...))
	}
	if err := s.Commit(t.Context(), batch, storetest.Extend); err != nil {
		t.Fatal(err)
	}
	codes := []fault.Code{fault.Conflict, fault.UsageLimit, fault.SlotNotFound, fault.Conflict}
	for i, it := range batch {
		if i%2 == 0 {
			wantFault(t, "a good one", it.Err, "")
		} else {
			wantFault(t, fmt.Sprint("bad ", i), it.Err, codes[i/2%4])
		}
	}
	wantSize(t, s, 41)
	for i := range 40 {
		if _, err := s.KeyByName(t.Context(), tenant, fmt.Sprintf("k%d", i)); err != nil {
			t.Error(err)
		}
		_, err := s.KeyByName(t.Context(), tenant, fmt.Sprintf("gone%d", i))
		wantFault(t, "a key of a failed item", err, fault.KeyNotFound)
	}
}

// testHeld: while somebody holds the head, a commit ends with the statement's time or with its context, and leaves nothing behind.
func testHeld(t *testing.T, server *rig.Server) {
	o := options(server)
	o.StatementTimeout = 300 * time.Millisecond
	s := open(t, server.URI, o)
	for range 3 { // until it commits without asking for the head first
		mustCommit(t, s)
	}
	db := admin(t, server, o.Schema)
	hold := func() {
		do(t, db, "BEGIN")
		do(t, db, "SELECT 1 FROM audit_head FOR UPDATE")
	}
	for range 2 { // the statement that needs no lock first, and the one that does
		hold()
		wantAgain(t, "statement's time", commit(t, s))
		wantFault(t, "ping", s.Ping(t.Context()), fault.StoreUnavailable)
		do(t, db, "ROLLBACK")
		if err := s.Ping(t.Context()); err != nil {
			t.Errorf("ping afterwards: %v", err)
		}
	}
	o.StatementTimeout = 10 * time.Second
	s = open(t, server.URI, o)
	hold()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	err := s.Commit(ctx, []*audit.Item{storetest.Item()}, storetest.Extend)
	wantFault(t, "context", err, fault.Timeout)
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("the context ended, and Commit %v later", took)
	}
	do(t, db, "ROLLBACK")
	wantSize(t, s, 3)
	mustCommit(t, s)
	wantSize(t, s, 4)
}

// testReadOnly: a database that takes no writes is reported as that; reads go on.
func testReadOnly(t *testing.T, server *rig.Server) {
	o := options(server)
	s := open(t, server.URI, o)
	mustCommit(t, s)
	db := admin(t, server, o.Schema)
	do(t, db, "REVOKE UPDATE ON audit_head FROM keywright")
	wantAgain(t, "without the right to", commit(t, s))
	wantSize(t, s, 1)
	wantFault(t, "ping", s.Ping(t.Context()), fault.StoreUnavailable)
	do(t, db, "GRANT UPDATE ON audit_head TO keywright")
	mustCommit(t, s)
	do(t, db, "DROP TABLE audit_checkpoint")
	_, err := s.Checkpoint(t.Context())
	wantFault(t, "a table that is gone", err, fault.StoreCorrupted)
	do(t, db, "INSERT INTO audit_entries (idx, at, principal, action, outcome, leaf) VALUES (2, 0, '', '', '', '')")
	wantFault(t, "an entry that the head does not count", commit(t, s), fault.StoreCorrupted)
}

// testCutConnections: connections that die at rest cost nobody an error: reads and commits are made again on others.
func testCutConnections(t *testing.T, server *rig.Server) {
	o := options(server)
	s := open(t, server.URI, o)
	db := admin(t, server, o.Schema)
	want := uint64(0)
	for round := range 6 {
		var group sync.WaitGroup
		for range 6 { // so that the pool has several
			group.Go(func() {
				if _, err := s.AuditHead(t.Context()); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		group.Wait()
		cut(t, db)
		if round%2 == 0 {
			tenant := uuid.New()
			k, v := storetest.NewKey(tenant, "k")
			if err := commit(t, s, s.InsertKey(k, v)); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		} else {
			mustCommit(t, s)
			mustCommit(t, s)
			want++
		}
		want++
		wantSize(t, s, want)
	}
}

// testKilledUnderLoad: the server dies as by a power loss, several times, while many commit. What was acknowledged is there, once;
// at most the one batch under way when the server died is there without having been acknowledged.
func testKilledUnderLoad(t *testing.T, server *rig.Server) {
	const kills = 2
	s := open(t, server.URI, options(server))
	tenant := uuid.New()
	type made struct {
		leaf []byte
		name string
	}
	var mu sync.Mutex // guards what follows
	var acknowledged []made
	refused := map[string]bool{} // leaves
	var lastSuccess time.Time
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	for w := range 6 {
		group.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				m := made{name: fmt.Sprintf("w%d-%d", w, n)}
				it := storetest.Item()
				if w%2 == 0 {
					k, v := storetest.NewKey(tenant, m.name)
					it = storetest.Item(s.InsertKey(k, v))
				} else {
					m.name = ""
				}
				m.leaf = it.Leaf
				err := s.Commit(t.Context(), []*audit.Item{it}, storetest.Extend)
				mu.Lock()
				if err == nil && it.Err == nil {
					acknowledged, lastSuccess = append(acknowledged, m), time.Now()
				} else {
					refused[string(m.leaf)] = true
				}
				mu.Unlock()
				if it.Err != nil {
					t.Errorf("a change failed: %v", it.Err)
				}
				if err != nil {
					wantAgain(t, "while the server is away", err)
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	since := func(at time.Time) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return lastSuccess.After(at)
		}
	}
	for range kills {
		wait(t, "load", since(time.Now()))
		time.Sleep(150 * time.Millisecond)
		server.Stop(t, "immediate")
		time.Sleep(100 * time.Millisecond)
		server.Start(t)
		back := time.Now()
		wait(t, "work to go on", since(back))
		mu.Lock()
		t.Logf("back at work %v after the server", lastSuccess.Sub(back).Round(time.Millisecond))
		if late := lastSuccess.Sub(back); late > 2*time.Second {
			t.Errorf("back at work only %v after the server", late)
		}
		mu.Unlock()
	}
	cancel()
	group.Wait()

	stored := map[string]int{}
	head, err := s.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	entries, err := s.AuditEntries(t.Context(), 0, int(head.Size)+1)
	if err != nil || uint64(len(entries)) != head.Size {
		t.Fatalf("%d entries for a head of %d, %v", len(entries), head.Size, err)
	}
	for _, e := range entries {
		stored[string(e.Leaf)]++
	}
	for _, m := range acknowledged {
		if stored[string(m.leaf)] != 1 {
			t.Errorf("an acknowledged entry is there %d times", stored[string(m.leaf)])
		}
		if m.name == "" {
			continue
		}
		k, err := s.KeyByName(t.Context(), tenant, m.name)
		if err != nil {
			t.Errorf("an acknowledged key: %v", err)
			continue
		}
		if _, err := s.Version(t.Context(), k.ID, 1); err != nil {
			t.Errorf("its version: %v", err)
		}
	}
	unasked := 0
	for leaf := range refused {
		unasked += stored[leaf]
	}
	t.Logf("%d acknowledged, %d refused, of which %d are stored", len(acknowledged), len(refused), unasked)
	if unasked > kills || len(stored) != len(entries) || len(entries) != len(acknowledged)+unasked {
		t.Errorf("%d entries, %d different, %d acknowledged, %d refused and stored", len(entries), len(stored), len(acknowledged), unasked)
	}
	l, err := audit.Open(t.Context(), s, audit.Options{Origin: "example.org/killed"})
	if err != nil {
		t.Fatalf("the log does not fit its head: %v", err)
	}
	if err := l.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
