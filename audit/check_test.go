package audit

import (
	"context"
	"errors"
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
	// What the store itself says comes back.
	gone := fault.New(fault.StoreUnavailable, "gone")
	_, err := Open(context.Background(), unreadable{newMemStore(), gone}, Options{Origin: testOrigin})
	if !errors.Is(err, gone) {
		t.Error(err)
	}
}

type unreadable struct {
	*memStore
	err error
}

func (u unreadable) AuditHead(context.Context) (Head, error) { return Head{}, u.err }
