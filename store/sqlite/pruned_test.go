package sqlite_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/store/storetest"
)

// childPrunes prunes a few entries at a time and says up to where, until it is killed or has come to the end; in between it commits.
func childPrunes(path string) error {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		return err
	}
	for {
		first, _, err := s.AuditKept(ctx)
		if err != nil {
			return err
		}
		head, err := s.AuditHead(ctx)
		if err != nil || first+50 >= head.Size {
			return err
		}
		hashes, err := s.AuditHashes(ctx, first, 50)
		if err != nil {
			return err
		}
		if err := s.PruneAudit(ctx, first, hashes); err != nil {
			return err
		}
		fmt.Println(first + 50)
		if err := s.Commit(ctx, []*audit.Item{storetest.Item()}, storetest.Extend); err != nil {
			return err
		}
	}
}

// TestKillPruning: after kill -9 at any moment each entry is there with its body or is its hash, what was said to be pruned is, and nothing else.
func TestKillPruning(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{})
	const n = 6000
	var batch []*audit.Item
	leaves := make([][]byte, n)
	for i := range leaves {
		item := storetest.Item()
		batch, leaves[i] = append(batch, item), bytes.Clone(item.Leaf)
	}
	if err := s.Commit(t.Context(), batch, storetest.Extend); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	said := uint64(0)
	for round := 0; round < 8 && said < n; round++ {
		cmd := child(t, "prune", path)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() }) // gone already: fine
		lines := bufio.NewScanner(out)
		for first := true; lines.Scan(); first = false {
			if first {
				kill.Reset(time.Duration(rand.IntN(20_000)) * time.Microsecond)
			}
			n, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				break // the last line, cut by the kill
			}
			said = max(said, n)
		}
		_ = cmd.Wait() // killed, as intended
		if stderr.Len() > 0 {
			t.Fatalf("the child failed: %s", stderr.String())
		}
		s := open(t, path, sqlite.Options{}) // checks head, nodes and last entries
		kept, _, err := s.AuditKept(t.Context())
		if err != nil || kept < said || kept > said+50 {
			t.Fatalf("round %d: kept from %d, %d were said to be pruned: %v", round, kept, said, err)
		}
		entries, err := s.AuditEntries(t.Context(), 0, n)
		if err != nil || len(entries) != n {
			t.Fatalf("round %d: %d entries, %v", round, len(entries), err)
		}
		for i := range entries {
			e := &entries[i]
			if e.Pruned() != (e.Index < kept) || e.LeafHash() != audit.LeafHash(leaves[i]) || !e.Pruned() && !bytes.Equal(e.Leaf, leaves[i]) {
				t.Fatalf("round %d: entry %d is not what it was", round, i)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if said == 0 {
		t.Error("nothing was pruned")
	}
}

// TestPrunedSpace: the file does not grow as long as as much is pruned as is recorded, and holds nothing of what was pruned.
func TestPrunedSpace(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{})
	size := func() int64 {
		t.Helper()
		if err := s.Close(); err != nil { // moves what the write-ahead log holds into the file
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		s = open(t, path, sqlite.Options{})
		return info.Size()
	}
	var first []byte
	fill := func() {
		t.Helper()
		var batch []*audit.Item
		for range 5000 {
			item := storetest.ItemOf(audit.Entry{Principal: "system", Action: "test", Outcome: "ok", Detail: "x"})
			if first == nil {
				first = bytes.Clone(item.Leaf)
			}
			batch = append(batch, item)
		}
		if err := s.Commit(t.Context(), batch, storetest.Extend); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	fill()
	before := size()
	for range 3 {
		kept, _, err := s.AuditKept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		hashes, err := s.AuditHashes(t.Context(), kept, 5000)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.PruneAudit(t.Context(), kept, hashes); err != nil {
			t.Fatal(err)
		}
		fill()
	}
	const hashes = 15_000 * 32
	if after := size(); after > before+before/10+hashes*5/4 {
		t.Errorf("the file has grown from %d to %d bytes", before, after)
	}
	b, err := os.ReadFile(path)
	if err != nil || bytes.Contains(b, first) {
		t.Errorf("the file holds an entry that was pruned: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
