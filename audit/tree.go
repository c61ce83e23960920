package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/fault"
)

// tile is the number of leaves below one node of NodeLevel.
const tile = 1 << NodeLevel

var errHead = errors.New("malformed tree head")

// check reports whether the head can be one: as many subtrees as the size has bits (RFC 6962 §2.1 splits a tree of n
// leaves at the largest power of two below n, so the maximal complete subtrees are the bits of n).
func (h Head) check() error {
	if h.Size > math.MaxInt64/4 {
		return fmt.Errorf("%w: size out of range", errHead)
	}
	if bits.OnesCount64(h.Size) != len(h.Range) {
		return fmt.Errorf("%w: %d subtrees for %d leaves", errHead, len(h.Range), h.Size)
	}
	return nil
}

// Root is the RFC 6962 §2.1 tree hash of the head; SHA-256 of nothing when the tree is empty.
func (h Head) Root() [32]byte {
	n := len(h.Range)
	if n == 0 {
		return sha256.Sum256(nil)
	}
	root := h.Range[n-1]
	for i := n - 2; i >= 0; i-- {
		root = nodeHash(h.Range[i], root)
	}
	return root
}

func (h Head) equal(o Head) bool {
	if h.Size != o.Size || len(h.Range) != len(o.Range) {
		return false
	}
	for i := range h.Range {
		if h.Range[i] != o.Range[i] {
			return false
		}
	}
	return true
}

// clone gives a copy whose Range can grow without touching h's.
func (h Head) clone() Head {
	// add needs one place more than the subtrees of the size that comes of it.
	return Head{Size: h.Size, Range: append(make([][32]byte, 0, bits.Len64(h.Size)+2), h.Range...)}
}

// add puts a leaf at the end of the tree. It appends to nodes those of NodeLevel and above that the leaf completes, lowest
// first: one for each trailing one bit of the old size, as in a binary counter.
func (h *Head) add(leaf [32]byte, nodes []Node) []Node {
	h.Range = append(h.Range, leaf)
	for level := 1; level <= bits.TrailingZeros64(h.Size+1); level++ {
		n := len(h.Range)
		h.Range[n-2] = nodeHash(h.Range[n-2], h.Range[n-1])
		h.Range = h.Range[:n-1]
		if level >= NodeLevel {
			nodes = append(nodes, Node{Level: uint8(level), Index: h.Size >> level, Hash: h.Range[n-2]})
		}
	}
	h.Size++
	return nodes
}

func nodeHash(left, right [32]byte) [32]byte { return tlog.NodeHash(left, right) }

// hashReader gives golang.org/x/mod/sumdb/tlog the hashes of the tree out of the store: a node of NodeLevel and above is
// read, one below is computed from the leaf hashes of its tile. One call costs one read of nodes and one of each tile that
// it touches; a proof touches two at most.
type hashReader struct {
	ctx   context.Context // lives for one call; tlog's interface has no place for it
	store Store
}

func (r hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	type span struct{ tile, from, to uint64 } // leaves from ≤ i < to of a tile
	out := make([]tlog.Hash, len(indexes))
	var nodes []Node
	var spans []span
	for _, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		if level >= NodeLevel {
			nodes = append(nodes, Node{Level: uint8(level), Index: uint64(n)})
			continue
		}
		s := span{uint64(n) >> (NodeLevel - level), uint64(n) << level, uint64(n+1) << level}
		known := false
		for i := range spans {
			if spans[i].tile == s.tile {
				spans[i].from, spans[i].to, known = min(spans[i].from, s.from), max(spans[i].to, s.to), true
				break
			}
		}
		if !known {
			spans = append(spans, s)
		}
	}
	var stored [][32]byte
	if len(nodes) > 0 {
		var err error
		if stored, err = r.store.AuditNodes(r.ctx, nodes); err != nil {
			return nil, fmt.Errorf("reading nodes of the audit tree: %w", err)
		}
		if len(stored) != len(nodes) {
			return nil, corrupted("the audit tree lacks nodes")
		}
	}
	leaves := make([][][32]byte, len(spans))
	for i, s := range spans {
		var err error
		if leaves[i], err = readHashes(r.ctx, r.store, s.from, int(s.to-s.from)); err != nil {
			return nil, err
		}
	}
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		if level >= NodeLevel {
			out[i], stored = stored[0], stored[1:]
			continue
		}
		for j, s := range spans {
			if from := uint64(n) << level; s.tile == from/tile {
				out[i] = subtree(leaves[j][from-s.from:][:1<<level])
				break
			}
		}
	}
	return out, nil
}

// subtree is the hash over a whole power of two of leaves.
func subtree(leaves [][32]byte) [32]byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	mid := len(leaves) / 2
	return nodeHash(subtree(leaves[:mid]), subtree(leaves[mid:]))
}

func readHashes(ctx context.Context, store Store, from uint64, n int) ([][32]byte, error) {
	hashes, err := store.AuditHashes(ctx, from, n)
	if err != nil {
		return nil, fmt.Errorf("reading leaf hashes of the audit log: %w", err)
	}
	if len(hashes) != n {
		return nil, corrupted("the audit log lacks entries that its head counts")
	}
	return hashes, nil
}

// headAt computes the head of the first size leaves from what is stored.
func headAt(ctx context.Context, store Store, size uint64) (Head, error) {
	h := Head{Size: size, Range: make([][32]byte, 0, bits.OnesCount64(size))}
	var indexes []int64
	for rest := size; rest != 0; {
		level := bits.Len64(rest) - 1
		indexes = append(indexes, tlog.StoredHashIndex(level, int64((size-rest)>>level)))
		rest &^= 1 << level
	}
	hashes, err := hashReader{ctx, store}.ReadHashes(indexes)
	if err != nil {
		return Head{}, err
	}
	for _, x := range hashes {
		h.Range = append(h.Range, x)
	}
	return h, nil
}

func corrupted(message string) *fault.Error { return fault.New(fault.StoreCorrupted, message) }
