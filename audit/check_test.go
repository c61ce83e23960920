package audit

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/keywright/keywright/fault"
)

// Each kind of damage to what Open looks at keeps the log from opening.
func TestOpenDamaged(t *testing.T) {
	signer := newSigner(t)
	damage := map[string]func(s *memStore){
		"head size":       func(s *memStore) { s.head.Size++ },
		"head hash":       func(s *memStore) { s.head.Range[0][3] ^= 1 },
		"head tail hash":  func(s *memStore) { s.head.Range[len(s.head.Range)-1][3] ^= 1 },
		"head short":      func(s *memStore) { s.head.Range = s.head.Range[1:] },
		"entry changed":   func(s *memStore) { s.leaves[len(s.leaves)-1] = []byte("x") },
		"earlier changed": func(s *memStore) { s.leaves[520] = []byte("x") },
		"whole tile":      func(s *memStore) { s.leaves[511] = []byte("x") },
		"entry lost":      func(s *memStore) { s.leaves = s.leaves[:len(s.leaves)-1] },
		"entry added":     func(s *memStore) { s.leaves = append(s.leaves, []byte("x")) },
		"hash changed":    func(s *memStore) { s.hashes[530][0] ^= 1 },
		"hash lost":       func(s *memStore) { s.hashes = s.hashes[:540] },
		"both changed":    func(s *memStore) { s.leaves[300] = []byte("x"); s.hashes[300] = LeafHash([]byte("x")) },
		"node":            func(s *memStore) { h := s.nodes[Node{Level: 9}]; h[0] ^= 1; s.nodes[Node{Level: 9}] = h },
		"emptied":         func(s *memStore) { s.head, s.leaves, s.hashes = Head{}, nil, nil },
		"rolled back": func(s *memStore) {
			old := newMemStore()
			old.fill(t, 540)
			s.head, s.leaves, s.hashes = old.head, old.leaves, old.hashes
		},
		"rewritten": func(s *memStore) {
			old := newMemStore()
			old.head.add([32]byte{}, nil)
			old.leaves, old.hashes = [][]byte{[]byte("other")}, [][32]byte{LeafHash([]byte("other"))}
			old.head = Head{}
			old.head.add(old.hashes[0], nil)
			old.fill(t, 549)
			s.head, s.leaves, s.hashes, s.nodes = old.head, old.leaves, old.hashes, old.nodes
		},
		"checkpoint":        func(s *memStore) { s.note = []byte("x") },
		"checkpoint text":   func(s *memStore) { s.note = []byte("x\n\n— y z\n") },
		"checkpoint origin": func(s *memStore) { s.note = []byte("x" + string(s.note)) },
	}
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			s := newMemStore()
			s.fill(t, 550)
			l := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
			if _, err := l.Checkpoint(context.Background()); err != nil {
				t.Fatal(err)
			}
			openLog(t, s, Options{})
			do(s)
			_, err := Open(context.Background(), s, Options{Origin: testOrigin})
			if name == "node" && err != nil && !fault.Has(err, fault.StoreCorrupted) {
				t.Fatal(err)
			}
			wantFault(t, err, fault.StoreCorrupted)
		})
	}
}

func TestOpenSizes(t *testing.T) {
	for _, n := range []int{0, 1, 255, 256, 257, 511, 512, 513, 1024} {
		s := newMemStore()
		s.fill(t, n)
		if l := openLog(t, s, Options{}); l.Size() != uint64(n) {
			t.Errorf("%d entries, want %d", l.Size(), n)
		}
	}
}

func TestOpenOptions(t *testing.T) {
	for _, origin := range []string{"", "a b", "a+b", "a\n", "\xff"} {
		if _, err := Open(context.Background(), newMemStore(), Options{Origin: origin}); err == nil {
			t.Errorf("origin %q accepted", origin)
		}
	}
}

// Each read of each method is made to fail in turn: what the store says comes back, with its code, and nothing else.
func TestReadFaults(t *testing.T) {
	ctx := context.Background()
	signer := newSigner(t)
	gone := fault.New(fault.StoreUnavailable, "gone")
	for name, do := range map[string]func(l *Log, s *memStore) error{
		"open": func(_ *Log, s *memStore) error {
			l, err := Open(ctx, s, Options{Origin: testOrigin})
			if err != nil {
				return err
			}
			return l.Close(ctx)
		},
		"get":         func(l *Log, _ *memStore) error { _, err := l.Get(ctx, 3); return err },
		"list":        func(l *Log, _ *memStore) error { _, _, err := l.List(ctx, Filter{Action: "none"}, "", 5); return err },
		"root":        func(l *Log, _ *memStore) error { _, err := l.Root(ctx, 700); return err },
		"inclusion":   func(l *Log, _ *memStore) error { _, err := l.InclusionProof(ctx, 300, 700); return err },
		"consistency": func(l *Log, _ *memStore) error { _, err := l.ConsistencyProof(ctx, 300, 700); return err },
		"beyond":      func(l *Log, _ *memStore) error { _, err := l.ConsistencyProof(ctx, 300, 850); return err },
		"checkpoint":  func(l *Log, _ *memStore) error { _, err := l.Checkpoint(ctx); return err },
		"prove":       func(l *Log, _ *memStore) error { _, err := l.Prove(ctx, 820); return err },
		"prove in":    func(l *Log, _ *memStore) error { _, err := l.ProveIn(ctx, 300, 700); return err },
		"export":      func(l *Log, _ *memStore) error { _, err := l.Export(ctx, io.Discard, nil); return err },
	} {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n++ {
				s := newMemStore()
				s.fill(t, 400)
				l := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
				if _, err := l.Checkpoint(ctx); err != nil {
					t.Fatal(err)
				}
				s.fill(t, 300)
				l2 := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
				s.fill(t, 200) // by another node
				s.failRead, s.readErr = n, gone
				err := do(l2, s)
				if s.failRead > 0 { // it has fewer reads than n
					if n == 1 || err != nil {
						t.Errorf("without a fault, after %d reads: %v", n-1, err)
					}
					return
				}
				if !errors.Is(err, gone) || fault.CodeOf(err) != fault.StoreUnavailable {
					t.Fatalf("read %d: %v", n, err)
				}
			}
		})
	}
}
