package audit

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
)

// TestCheckpointOfAnotherNode: two logs on one store give out the newest checkpoint that either has signed, and sign no tree twice. What
// somebody rolls the store back to is not taken for news.
func TestCheckpointOfAnotherNode(t *testing.T) {
	s, signer := newMemStore(), newSigner(t)
	ctx := context.Background()
	a := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
	b := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
	checkpoint := func(l *Log) []byte {
		t.Helper()
		signed, err := l.Checkpoint(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	grow := func(l *Log) {
		t.Helper()
		if _, err := l.Record(ctx, &Entry{}); err != nil {
			t.Fatal(err)
		}
	}
	grow(a)
	old := checkpoint(a)
	if !bytes.Equal(checkpoint(b), old) || signer.signs != 1 {
		t.Errorf("the other node signed the same tree again: %d signatures", signer.signs)
	}
	grow(b)
	newer := checkpoint(b)
	if !bytes.Equal(checkpoint(a), newer) || signer.signs != 2 {
		t.Errorf("the first node does not see the newer checkpoint: %d signatures", signer.signs)
	}
	s.mu.Lock()
	s.note = old
	s.mu.Unlock()
	if !bytes.Equal(checkpoint(a), newer) {
		t.Error("a rolled back checkpoint took the place of the newer one")
	}
}

// TestForkedUnderneath: what one node has signed is what another has to go on from. A database that fell back, and on which a node that was started anew has
// gone on and signed, is not taken for the same log by one that has seen more.
func TestForkedUnderneath(t *testing.T) {
	s, signer := newMemStore(), newSigner(t)
	ctx := context.Background()
	s.fill(t, 5)
	a := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
	if _, err := a.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	other := newMemStore()
	other.fill(t, 4)
	b := openLog(t, other, Options{Signer: signer.open, CheckpointEvery: -1})
	for range 3 {
		if _, err := b.Record(ctx, &Entry{Action: "another"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.leaves, s.hashes, s.head, s.note = other.leaves, other.hashes, other.head, other.note
	s.mu.Unlock()
	for range 2 {
		_, err := a.Checkpoint(ctx)
		wantFault(t, err, fault.StoreCorrupted)
	}
}

// TestAlone: checkpoints are signed now and then only while it is this node's turn, also of what other nodes have recorded.
func TestAlone(t *testing.T) {
	s, signer := newMemStore(), newSigner(t)
	var turn atomic.Bool
	var ended atomic.Int32
	alone := func(ctx context.Context, work func(context.Context)) {
		for ctx.Err() == nil {
			if turn.Load() {
				mine, done := context.WithCancel(ctx)
				go func() {
					for turn.Load() && mine.Err() == nil {
						time.Sleep(time.Millisecond)
					}
					done()
				}()
				work(mine)
				ended.Add(1)
				done()
			}
			time.Sleep(time.Millisecond)
		}
	}
	openLog(t, s, Options{Signer: signer.open, CheckpointEvery: time.Millisecond, Alone: alone})
	other := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
	kept := func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.note != nil }
	if _, err := other.Record(context.Background(), &Entry{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	if kept() {
		t.Fatal("signed out of turn")
	}
	turn.Store(true)
	waitFor(t, kept)
	turn.Store(false)
	waitFor(t, func() bool { return ended.Load() == 1 })
}
