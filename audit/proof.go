package audit

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/fault"
)

// Proof shows that an entry is in the tree of a checkpoint (RFC 6962 §2.1.1).
type Proof struct {
	Index      uint64
	Leaf       []byte // nil when the entry was pruned
	LeafHash   [32]byte
	Hashes     [][32]byte // the audit path, from the leaf upward
	Size       uint64     // of the checkpoint's tree
	Checkpoint []byte     // signed; nil when the caller has it
}

// Prove gives the entry at index with its proof in a signed checkpoint: the newest one when that covers the entry, else
// one made now. The error is fault.EntryNotFound when there is no such entry.
func (l *Log) Prove(ctx context.Context, index uint64) (*Proof, error) {
	found, err := l.stored(ctx, index)
	if err != nil {
		return nil, err
	}
	s, err := l.signedNow(ctx, func(last *signedHead) bool { return last.Size > index })
	if err != nil {
		return nil, err
	}
	return l.prove(ctx, found, s.Size, s.Root, s.note)
}

// ProveIn gives the entry at index with its proof in the tree of the first size entries, for a caller who has a checkpoint of that size: none comes with
// the proof. The error is fault.EntryNotFound when that tree has no such entry and fault.BadQuery when the log is not that long.
func (l *Log) ProveIn(ctx context.Context, index, size uint64) (*Proof, error) {
	if index >= size {
		return nil, errNoEntry
	}
	root, err := l.Root(ctx, size)
	if err != nil {
		return nil, err
	}
	found, err := l.stored(ctx, index)
	if err != nil {
		return nil, err
	}
	return l.prove(ctx, found, size, root, nil)
}

func (l *Log) prove(ctx context.Context, found Stored, size uint64, root [32]byte, checkpoint []byte) (*Proof, error) {
	p := &Proof{Index: found.Index, Leaf: found.Leaf, LeafHash: found.LeafHash(), Size: size, Checkpoint: checkpoint}
	var err error
	if p.Hashes, err = l.InclusionProof(ctx, p.Index, size); err != nil {
		return nil, err
	}
	// An entry that was changed in the store must come out as that, not as a proof that fails at the caller's.
	path := make(tlog.RecordProof, len(p.Hashes))
	for i, h := range p.Hashes {
		path[i] = h
	}
	if tlog.CheckRecord(path, int64(size), root, int64(p.Index), p.LeafHash) != nil {
		return nil, corrupted(fmt.Sprintf("entry %d of the audit log is not the one that was recorded", p.Index))
	}
	return p, nil
}

// InclusionProof gives the RFC 6962 §2.1.1 audit path of the entry at index in the tree of the first size entries, from
// the leaf upward. The errors are fault.EntryNotFound when that tree has no such entry and fault.BadQuery when the log is
// not that long.
func (l *Log) InclusionProof(ctx context.Context, index, size uint64) ([][32]byte, error) {
	if index >= size {
		return nil, errNoEntry
	}
	if err := l.reaches(ctx, size); err != nil {
		return nil, err
	}
	p, err := tlog.ProveRecord(int64(size), int64(index), hashReader{ctx, l.store})
	return proofHashes(p, err)
}

// ConsistencyProof gives the RFC 6962 §2.1.2 proof that the tree of the first from entries is the beginning of that of the
// first to; it is empty when from is 0 or to. The error is fault.BadQuery when from > to or the log is not that long.
func (l *Log) ConsistencyProof(ctx context.Context, from, to uint64) ([][32]byte, error) {
	if from > to {
		return nil, fault.New(fault.BadQuery, "the first tree is larger than the second")
	}
	if err := l.reaches(ctx, to); err != nil {
		return nil, err
	}
	if from == 0 {
		return nil, nil // every tree begins with the empty one (RFC 6962 §2.1.2 leaves it out)
	}
	p, err := tlog.ProveTree(int64(to), int64(from), hashReader{ctx, l.store})
	return proofHashes(p, err)
}

// Root gives the RFC 6962 §2.1 hash of the tree of the first size entries.
func (l *Log) Root(ctx context.Context, size uint64) ([32]byte, error) {
	if err := l.reaches(ctx, size); err != nil {
		return [32]byte{}, err
	}
	h, err := headAt(ctx, l.store, size)
	if err != nil {
		return [32]byte{}, err
	}
	return h.Root(), nil
}

// reaches asks the store when this node does not know of so many entries: another node may have recorded them.
func (l *Log) reaches(ctx context.Context, size uint64) error {
	if size <= l.Size() {
		return nil
	}
	head, err := l.store.AuditHead(ctx)
	if err != nil {
		return fmt.Errorf("reading the head of the audit log: %w", err)
	}
	if err := head.check(); err != nil {
		return fault.Wrap(fault.StoreCorrupted, "the stored head of the audit log is malformed", err)
	}
	if size > head.Size {
		return fault.New(fault.BadQuery, "the audit log has fewer entries")
	}
	return nil
}

func proofHashes[P ~[]tlog.Hash](p P, err error) ([][32]byte, error) {
	if err != nil {
		var f *fault.Error
		if errors.As(err, &f) {
			return nil, err
		}
		return nil, fmt.Errorf("proving in the audit tree: %w", err)
	}
	out := make([][32]byte, len(p))
	for i, h := range p {
		out[i] = h
	}
	return out, nil
}
