package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/fault"
)

// The lines of an export around its entries; docs/formats/audit.md has the layout.
const (
	exportHeader   = "keywright-audit-export/v2"
	exportHeaderV1 = "keywright-audit-export/v1" // read, no more written
	blockMark      = '#'                         // begins the line of each block; an entry begins with '{'
	prunedLine     = "-"                         // in the place of an entry of which only the hash is kept
)

// Export writes the log up to a fresh checkpoint to w: the checkpoint, then for each 256 entries their hashes, with a proof that
// these are in the checkpoint's tree, and the entries, each as the exact line that is hashed. Of those that were pruned there is the
// hash alone. VerifyExport checks it, offline. What is
// written is checked on the way: the error is fault.StoreCorrupted, with the entries that do not fit, when the store no
// longer holds what was recorded. An error leaves w with an export that does not verify. progress, when not nil, is called
// with the number of entries written so far. The memory is constant; records go on meanwhile.
//
// When entries are pruned while it is being made the error is fault.Conflict: the checkpoint does not cover what tells of it. The next one's does.
//
// While the device of the checkpoint key is not there the export ends with the newest checkpoint that it has signed, which the log says
// and the checkpoint that is given.
func (l *Log) Export(ctx context.Context, w io.Writer, progress func(n uint64)) (Checkpoint, error) {
	// What is pruned by now is told of under a checkpoint by now: see Retention.
	kept, _, err := l.store.AuditKept(ctx)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("reading where the audit log begins: %w", err)
	}
	s, err := l.signedNow(ctx, func(*signedHead) bool { return false })
	if err != nil {
		last := l.signedBefore(ctx, err)
		if last == nil {
			return Checkpoint{}, err
		}
		l.log.Warn("an audit export ends with the newest checkpoint there is: its key cannot sign another", "size", last.Size, "entries", l.Size(), "error", err)
		s = last
	}
	return s.Checkpoint, l.exportTo(ctx, w, s, kept, progress)
}

// signedBefore gives the newest checkpoint when no newer one can be had because the device of the key is away, nil when there is none or
// something else is the matter.
func (l *Log) signedBefore(ctx context.Context, why error) *signedHead {
	away := fault.Has(why, fault.BackendUnavailable) || fault.Has(why, fault.Overloaded) || fault.Has(why, fault.Timeout)
	if !away || ctx.Err() != nil {
		return nil
	}
	_, key, err := l.signer(ctx)
	if err != nil {
		return nil
	}
	last := l.checkpoint.Load()
	if kept, err := l.store.Checkpoint(ctx); err == nil && !bytes.Equal(kept, last.note) {
		if c, err := OpenCheckpoint(kept, key); err == nil && c.Origin == l.opts.Origin && c.Size >= last.Size {
			return &signedHead{Checkpoint: c, note: kept, key: key} // another node's
		}
	}
	c, err := OpenCheckpoint(last.note, key)
	if err != nil {
		return nil // none, or of another key
	}
	return &signedHead{Checkpoint: c, note: last.note, key: key}
}

func (l *Log) exportTo(ctx context.Context, w io.Writer, s *signedHead, kept uint64, progress func(n uint64)) error {
	out := bufio.NewWriterSize(w, 64<<10)
	if _, err := fmt.Fprintf(out, "%s\n%s\n", exportHeader, s.note); err != nil {
		return fmt.Errorf("writing the audit export: %w", err)
	}
	blocks, err := newBlockReader(ctx, l.store, s.Size)
	if err != nil {
		return err
	}
	const page = 16 * tile // entries read at once
	for from := uint64(0); from < s.Size; from += page {
		n := int(min(page, s.Size-from))
		entries, err := l.store.AuditEntries(ctx, from, n)
		if err != nil {
			return fmt.Errorf("reading audit entries: %w", err)
		}
		if len(entries) != n {
			return corrupted("the audit log lacks entries that its head counts")
		}
		for i := range entries {
			if entries[i].Index >= kept && entries[i].Pruned() {
				return fault.New(fault.Conflict, "entries were pruned while the export was being made: make it again")
			}
		}
		for len(entries) > 0 {
			block := entries[:min(tile, len(entries))]
			entries = entries[len(block):]
			if err := writeBlock(out, blocks, s, block); err != nil {
				return err
			}
			if progress != nil {
				progress(block[len(block)-1].Index + 1)
			}
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("writing the audit export: %w", err)
	}
	return nil
}

func writeBlock(out *bufio.Writer, blocks *blockReader, s *signedHead, block []Stored) error {
	first := block[0].Index
	head, hashes := Head{}, make([]tlog.Hash, len(block))
	for i := range block {
		if block[i].Index != first+uint64(i) {
			return corrupted("the store gives audit entries out of order")
		}
		hashes[i] = block[i].LeafHash()
		head.add(hashes[i], nil)
	}
	proof, err := blocks.prove(s, first/tile, head.Root())
	if err != nil {
		return err
	}
	if _, err := out.Write(blockLine(first/tile, hashes, proof)); err != nil {
		return fmt.Errorf("writing the audit export: %w", err)
	}
	line := make([]byte, 0, 1<<10)
	for i := range block {
		if line = append(line[:0], block[i].Leaf...); block[i].Pruned() {
			line = append(line, prunedLine...)
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("writing the audit export: %w", err)
		}
	}
	return nil
}

// blockCount is the number of blocks, of which the last may be short, in a tree of size leaves. A tree over the hashes of
// its blocks has the same root as the tree itself: RFC 6962 §2.1 splits at powers of two, so every split of more than 256
// leaves is one between blocks.
func blockCount(size uint64) uint64 { return (size + tile - 1) / tile }

// blockStart is how the line of a block begins.
func blockStart(number uint64) []byte { return strconv.AppendUint([]byte{blockMark}, number, 10) }

// blockLine is the line that begins a block: its number, the leaf hashes of its entries, and the audit path of its hash in the tree over
// the blocks.
func blockLine(number uint64, hashes []tlog.Hash, proof tlog.RecordProof) []byte {
	b := appendHashes(blockStart(number), hashes)
	if len(proof) > 0 {
		b = appendHashes(b, proof)
	}
	return append(b, '\n')
}

func appendHashes(b []byte, hashes []tlog.Hash) []byte {
	raw := make([]byte, 0, len(hashes)*tlog.HashSize)
	for i := range hashes {
		raw = append(raw, hashes[i][:]...)
	}
	return base64.StdEncoding.AppendEncode(append(b, ' '), raw)
}

// blockReader gives tlog the hashes of the tree over the blocks: whole ones are nodes in the store, those over the short
// last block are computed.
type blockReader struct {
	ctx   context.Context // lives for one export; tlog's interface has no place for it
	store Store
	whole uint64             // blocks of 256 entries
	edge  map[uint8][32]byte // by level, the subtree that ends with the short block
	last  map[place][32]byte // the nodes of the path before: that of the next block shares most of them
}

// place is where a node is in the tree.
type place struct {
	level uint8
	index uint64
}

func newBlockReader(ctx context.Context, store Store, size uint64) (*blockReader, error) {
	r := &blockReader{ctx: ctx, store: store, whole: size / tile, edge: map[uint8][32]byte{}}
	if rest := int(size % tile); rest > 0 {
		hashes, err := readHashes(ctx, store, size-uint64(rest), rest)
		if err != nil {
			return nil, err
		}
		var h Head
		for _, x := range hashes {
			h.add(x, nil)
		}
		r.edge[0] = h.Root()
	}
	return r, nil
}

// prove gives the path of a block in the checkpoint's tree. A hash that is not the block's there is fault.StoreCorrupted.
func (r *blockReader) prove(s *signedHead, number uint64, root [32]byte) (tlog.RecordProof, error) {
	count := blockCount(s.Size)
	proof, err := tlog.ProveRecord(int64(count), int64(number), r)
	if err != nil {
		_, err = proofHashes(proof, err)
		return nil, err
	}
	if tlog.CheckRecord(proof, int64(count), s.Root, int64(number), root) != nil {
		return nil, corrupted(fmt.Sprintf("entries %d to %d of the audit log are not those that were recorded", number*tile, min(number*tile+tile, s.Size)-1))
	}
	return proof, nil
}

func (r *blockReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	used := make(map[place][32]byte, len(indexes))
	var nodes []Node
	var missing []int
	for i, x := range indexes {
		l, n := tlog.SplitStoredHashIndex(x)
		level, index := uint8(l), uint64(n)
		if (index+1)<<level > r.whole {
			h, err := r.edgeHash(level, index)
			if err != nil {
				return nil, err
			}
			out[i] = h
			continue
		}
		at := place{level + NodeLevel, index}
		h, known := r.last[at]
		if !known {
			nodes, missing = append(nodes, Node{Level: at.level, Index: at.index}), append(missing, i)
			continue
		}
		out[i], used[at] = h, h
	}
	if len(nodes) > 0 {
		stored, err := r.nodes(nodes)
		if err != nil {
			return nil, err
		}
		for j, i := range missing {
			out[i], used[place{nodes[j].Level, nodes[j].Index}] = stored[j], stored[j]
		}
	}
	r.last = used
	return out, nil
}

func (r *blockReader) edgeHash(level uint8, n uint64) ([32]byte, error) {
	if h, ok := r.edge[level]; ok {
		return h, nil
	}
	if level == 0 {
		return [32]byte{}, fault.New(fault.Internal, "the audit tree has no such block")
	}
	left, err := r.nodes([]Node{{Level: level - 1 + NodeLevel, Index: 2 * n}})
	if err != nil {
		return [32]byte{}, err
	}
	right, err := r.edgeHash(level-1, 2*n+1)
	if err != nil {
		return [32]byte{}, err
	}
	r.edge[level] = nodeHash(left[0], right)
	return r.edge[level], nil
}

func (r *blockReader) nodes(nodes []Node) ([][32]byte, error) {
	stored, err := r.store.AuditNodes(r.ctx, nodes)
	if err != nil {
		return nil, fmt.Errorf("reading nodes of the audit tree: %w", err)
	}
	if len(stored) != len(nodes) {
		return nil, corrupted("the audit tree lacks nodes")
	}
	return stored, nil
}
