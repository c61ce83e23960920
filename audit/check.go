package audit

import (
	"context"
	"fmt"
	"strings"

	"github.com/keywright/keywright/fault"
)

// checkStore reads the head and shows that it is the head of what is stored: the entries of the last two tiles hash to
// their leaf hashes, those and the nodes give the head, nothing lies beyond it, and the tree of the newest checkpoint is
// still contained in it. Older entries are covered by the nodes; that they still hash to them is what an export shows.
func checkStore(ctx context.Context, store Store, origin string) (Head, *signedHead, error) {
	// Another node may append and sign meanwhile: what is read before the head is covered by it.
	text, err := store.Checkpoint(ctx)
	if err != nil {
		return Head{}, nil, fmt.Errorf("reading the newest checkpoint of the audit log: %w", err)
	}
	head, err := store.AuditHead(ctx)
	if err != nil {
		return Head{}, nil, fmt.Errorf("reading the head of the audit log: %w", err)
	}
	if err := head.check(); err != nil {
		return Head{}, nil, fault.Wrap(fault.StoreCorrupted, "the stored head of the audit log is malformed", err)
	}
	if err := checkTail(ctx, store, head); err != nil {
		return Head{}, nil, err
	}
	if err := checkHead(ctx, store, head); err != nil {
		return Head{}, nil, err
	}
	kept, err := checkKept(ctx, store, head, origin, text)
	if err != nil {
		return Head{}, nil, err
	}
	return head.clone(), kept, nil
}

// checkHead shows that the stored nodes and leaf hashes give this head.
func checkHead(ctx context.Context, store Store, head Head) error {
	computed, err := headAt(ctx, store, head.Size)
	if err != nil {
		return err
	}
	if !computed.equal(head) {
		return corrupted("the head of the audit log is not the head of its entries")
	}
	return nil
}

// checkTail shows that the last entries hash to their leaf hashes (those of them that were pruned are their hashes), that the last whole tile hashes to its node, and that
// there is no entry that the head does not count.
func checkTail(ctx context.Context, store Store, head Head) error {
	from := head.Size &^ (tile - 1)
	if from >= tile {
		from -= tile
	}
	n := int(head.Size - from)
	entries, err := store.AuditEntries(ctx, from, n+1)
	if err != nil {
		return fmt.Errorf("reading the last audit entries: %w", err)
	}
	if len(entries) < n {
		return corrupted("the audit log lacks entries that its head counts")
	}
	if len(entries) > n {
		// Another node's, if the head has gone on to count it.
		now, err := store.AuditHead(ctx)
		if err != nil {
			return fmt.Errorf("reading the head of the audit log: %w", err)
		}
		if now.Size <= head.Size {
			return corrupted("the audit log has entries that its head does not count")
		}
		entries = entries[:n]
	}
	if n == 0 {
		return nil
	}
	hashes, err := readHashes(ctx, store, from, n)
	if err != nil {
		return err
	}
	for i, e := range entries {
		if e.Index != from+uint64(i) || e.LeafHash() != hashes[i] {
			return corrupted(fmt.Sprintf("entry %d of the audit log is not the one that was recorded", from+uint64(i)))
		}
	}
	if n < tile {
		return nil
	}
	nodes, err := store.AuditNodes(ctx, []Node{{Level: NodeLevel, Index: from / tile}})
	if err != nil {
		return fmt.Errorf("reading nodes of the audit tree: %w", err)
	}
	if len(nodes) != 1 || nodes[0] != subtree(hashes[:tile]) {
		return corrupted(fmt.Sprintf("entries %d to %d of the audit log do not give their node", from, from+tile-1))
	}
	return nil
}

// checkKept shows that the tree still contains the newest checkpoint. Its signature is not looked at: whoever can change
// the store could take an older one, and the key may not be open yet. It is there to catch a store that was rolled back.
func checkKept(ctx context.Context, store Store, head Head, origin string, text []byte) (*signedHead, error) {
	if len(text) == 0 {
		return &signedHead{}, nil
	}
	unsigned, _, ok := strings.Cut(string(text), "\n\n")
	if !ok {
		return nil, corrupted("the newest checkpoint of the audit log is malformed")
	}
	c, err := parseCheckpoint(unsigned + "\n")
	if err != nil {
		return nil, fault.Wrap(fault.StoreCorrupted, "the newest checkpoint of the audit log is malformed", err)
	}
	if c.Origin != origin {
		return nil, corrupted("the newest checkpoint is of an audit log of another origin")
	}
	if err := checkContains(ctx, store, head, c); err != nil {
		return nil, err
	}
	return &signedHead{Checkpoint: c, note: text}, nil
}

// checkContains shows that the tree of the checkpoint is the beginning of the stored one.
func checkContains(ctx context.Context, store Store, head Head, c Checkpoint) error {
	if c.Size > head.Size {
		return corrupted(fmt.Sprintf("the audit log has %d entries, but a checkpoint was signed over %d", head.Size, c.Size))
	}
	old, err := headAt(ctx, store, c.Size)
	if err != nil {
		return err
	}
	if old.Root() != c.Root {
		return corrupted(fmt.Sprintf("the first %d entries of the audit log are not those that its checkpoint was signed over", c.Size))
	}
	return nil
}
