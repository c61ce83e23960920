package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math/bits"
	"math/rand/v2"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/fault"
)

// mth is the definition of RFC 6962 §2.1, word for word.
func mth(leaves [][32]byte) [32]byte {
	switch n := len(leaves); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return leaves[0]
	default:
		k := 1 << (bits.Len(uint(n-1)) - 1) // the largest power of two smaller than n
		l, r := mth(leaves[:k]), mth(leaves[k:])
		return sha256.Sum256(append(append([]byte{1}, l[:]...), r[:]...))
	}
}

// The eight-leaf test tree that Certificate Transparency implementations share, and its roots by size.
func TestRootVectors(t *testing.T) {
	leaves := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var h Head
	for n, want := range roots {
		root := h.Root()
		if got := hex.EncodeToString(root[:]); got != want {
			t.Errorf("root of %d leaves: got %s, want %s", n, got, want)
		}
		if n < len(leaves) {
			leaf, err := hex.DecodeString(leaves[n])
			if err != nil {
				t.Fatal(err)
			}
			h.add(LeafHash(leaf), nil)
		}
	}
}

func TestNodesOfAdd(t *testing.T) {
	const n = 5000
	leaves := make([][32]byte, n)
	var h Head
	got := map[Node][32]byte{}
	for i := range leaves {
		leaves[i] = sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		for _, x := range h.add(leaves[i], nil) {
			key := Node{Level: x.Level, Index: x.Index}
			if _, ok := got[key]; ok {
				t.Fatalf("node %+v made twice", key)
			}
			got[key] = x.Hash
		}
	}
	want := 0
	for level := NodeLevel; 1<<level <= n; level++ {
		for i := 0; (i+1)<<level <= n; i++ {
			want++
			if got[Node{Level: uint8(level), Index: uint64(i)}] != mth(leaves[i<<level:(i+1)<<level]) {
				t.Errorf("node %d of level %d is wrong or missing", i, level)
			}
		}
	}
	if len(got) != want {
		t.Errorf("%d nodes, want %d", len(got), want)
	}
}

// proofsAt lets tlog's own verifier judge the proofs of one size.
func proofsAt(t *testing.T, l *Log, s *memStore, n uint64, indexes, olds []uint64) {
	t.Helper()
	ctx := context.Background()
	root, err := l.Root(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	if want := mth(s.hashes[:n]); root != want {
		t.Fatalf("root of %d: got %x, want %x", n, root, want)
	}
	for _, i := range indexes {
		reads := s.reads
		p, err := l.InclusionProof(ctx, i, n)
		if err != nil {
			t.Fatalf("proving %d in %d: %v", i, n, err)
		}
		if s.reads-reads > 3 {
			t.Errorf("proving %d in %d took %d reads", i, n, s.reads-reads)
		}
		path := hashes[tlog.RecordProof](p)
		if err := tlog.CheckRecord(path, int64(n), root, int64(i), s.hashes[i]); err != nil {
			t.Errorf("%d in %d: %v", i, n, err)
		}
		if n > 1 && tlog.CheckRecord(path, int64(n), root, int64(i), s.hashes[(i+1)%n]) == nil {
			t.Errorf("%d in %d: proves another entry", i, n)
		}
	}
	for _, m := range olds {
		old, err := l.Root(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		p, err := l.ConsistencyProof(ctx, m, n)
		if err != nil {
			t.Fatalf("proving %d to %d: %v", m, n, err)
		}
		if m == 0 {
			if len(p) != 0 {
				t.Errorf("0 to %d: %d hashes", n, len(p))
			}
			continue
		}
		if err := tlog.CheckTree(hashes[tlog.TreeProof](p), int64(n), root, int64(m), old); err != nil {
			t.Errorf("%d to %d: %v", m, n, err)
		}
	}
}

func hashes[P ~[]tlog.Hash](p [][32]byte) P {
	out := make(P, len(p))
	for i, h := range p {
		out[i] = h
	}
	return out
}

func TestProofs(t *testing.T) {
	s := newMemStore()
	s.fill(t, 20_000)
	l := openLog(t, s, Options{})
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := uint64(1); n <= 600; n++ {
		var all []uint64
		if n <= 40 {
			for i := range n {
				all = append(all, i)
			}
		} else {
			all = []uint64{0, n - 1, rnd.Uint64N(n)}
		}
		proofsAt(t, l, s, n, all, append(all, n))
	}
	for range 20 {
		n := 601 + rnd.Uint64N(20_000-600)
		some := []uint64{0, 255, 256, n - 1, rnd.Uint64N(n), rnd.Uint64N(n)}
		proofsAt(t, l, s, n, some, append(some, n, n&^255))
	}
}

func TestProofErrors(t *testing.T) {
	s := newMemStore()
	s.fill(t, 300)
	l := openLog(t, s, Options{})
	ctx := context.Background()
	_, err := l.InclusionProof(ctx, 300, 300)
	wantFault(t, err, fault.EntryNotFound)
	_, err = l.InclusionProof(ctx, 1, 301)
	wantFault(t, err, fault.BadQuery)
	_, err = l.ConsistencyProof(ctx, 3, 2)
	wantFault(t, err, fault.BadQuery)
	_, err = l.ConsistencyProof(ctx, 3, 301)
	wantFault(t, err, fault.BadQuery)
	_, err = l.Root(ctx, 301)
	wantFault(t, err, fault.BadQuery)
	// Another node goes on: what this one does not know of is there all the same.
	s.fill(t, 10)
	if _, err = l.InclusionProof(ctx, 305, 310); err != nil {
		t.Error(err)
	}
	s.hashes = s.hashes[:290]
	_, err = l.InclusionProof(ctx, 301, 302)
	wantFault(t, err, fault.StoreCorrupted)
}

func TestHeadCheck(t *testing.T) {
	for _, h := range []Head{{Size: 1}, {Size: 0, Range: make([][32]byte, 1)}, {Size: 3, Range: make([][32]byte, 1)}, {Size: 1 << 63, Range: make([][32]byte, 1)}} {
		if h.check() == nil {
			t.Errorf("accepted %d leaves with %d subtrees", h.Size, len(h.Range))
		}
	}
}
