package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/fault"
)

func mustKey(t testing.TB, l *Log) string {
	t.Helper()
	key, err := l.VerifierKey(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestCheckpoint(t *testing.T) {
	s, signer := newMemStore(), newSigner(t)
	s.fill(t, 300)
	l := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
	ctx := context.Background()
	signed, err := l.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// The note package is the judge, with a verifier of its own making.
	key, err := note.NewEd25519VerifierKey(testOrigin, signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	if got := mustKey(t, l); got != key {
		t.Errorf("verifier key %s, want %s", got, key)
	}
	v, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		t.Fatal(err)
	}
	root := mth(s.hashes)
	if want := (Checkpoint{Origin: testOrigin, Size: 300, Root: root}).text(); n.Text != want || !strings.HasPrefix(want, testOrigin+"\n300\n") {
		t.Errorf("text %q, want %q", n.Text, want)
	}
	if !bytes.Equal(s.note, signed) {
		t.Error("it was not kept")
	}
	again, err := l.Checkpoint(ctx)
	if err != nil || !bytes.Equal(again, signed) || signer.signs != 1 {
		t.Errorf("signed %d times for one tree, %v", signer.signs, err)
	}
	if _, err := l.Record(ctx, &Entry{}); err != nil {
		t.Fatal(err)
	}
	grown, err := l.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := OpenCheckpoint(grown, key); err != nil || c.Size != 301 || signer.signs != 2 {
		t.Errorf("%+v, %v, %d signatures", c, err, signer.signs)
	}
	// After a restart the kept one still serves, and another key signs anew.
	l2 := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
	if again, err := l2.Checkpoint(ctx); err != nil || !bytes.Equal(again, grown) || signer.signs != 2 {
		t.Errorf("after a restart: %v, %d signatures", err, signer.signs)
	}
	other := newSigner(t)
	l3 := openLog(t, s, Options{Signer: other.open, CheckpointEvery: -1})
	signed, err = l3.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := OpenCheckpoint(signed, mustKey(t, l3)); err != nil || c.Size != 301 {
		t.Errorf("under another key: %+v, %v", c, err)
	}
}

func TestCheckpointOfNothing(t *testing.T) {
	l := openLog(t, newMemStore(), Options{Signer: newSigner(t).open, CheckpointEvery: -1})
	signed, err := l.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if c, err := OpenCheckpoint(signed, mustKey(t, l)); err != nil || c.Size != 0 || c.Root != mth(nil) {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestCheckpointSingleFlight(t *testing.T) {
	s, signer := newMemStore(), newSigner(t)
	s.fill(t, 5)
	signer.hold = make(chan struct{})
	l := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := l.Checkpoint(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, func() bool { signer.mu.Lock(); defer signer.mu.Unlock(); return signer.signs == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	_, err := l.Checkpoint(ctx)
	wantFault(t, err, fault.Timeout)
	if _, err := l.Record(context.Background(), &Entry{}); err != nil {
		t.Errorf("a slow signature holds up records: %v", err)
	}
	signer.mu.Lock()
	close(signer.hold)
	signer.mu.Unlock()
	wg.Wait()
	if signer.signs > 2 { // the entry recorded meanwhile may need a second
		t.Errorf("%d signatures", signer.signs)
	}
}

func TestCheckpointFaults(t *testing.T) {
	ctx := context.Background()
	s := newMemStore()
	s.fill(t, 5)
	_, err := openLog(t, s, Options{}).Checkpoint(ctx)
	wantFault(t, err, fault.Unavailable)

	locked := openLog(t, s, Options{Signer: func(context.Context) (CheckpointSigner, error) {
		return nil, fault.New(fault.Locked, "locked")
	}, CheckpointEvery: -1})
	_, err = locked.Checkpoint(ctx)
	wantFault(t, err, fault.Locked)
	_, err = locked.VerifierKey(ctx)
	wantFault(t, err, fault.Locked)

	signer := newSigner(t)
	l := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
	signer.err = fault.New(fault.BackendUnavailable, "gone")
	_, err = l.Checkpoint(ctx)
	wantFault(t, err, fault.BackendUnavailable)
	signer.err, signer.wrong = nil, true
	if _, err = l.Checkpoint(ctx); err == nil || s.note != nil {
		t.Error("a wrong signature was kept")
	}
	signer.wrong, s.saveErr = false, fault.New(fault.StoreUnavailable, "full")
	_, err = l.Checkpoint(ctx)
	wantFault(t, err, fault.StoreUnavailable)
	s.saveErr = nil
	if _, err = l.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	// A log that was rewritten since is not signed for.
	rewritten := newMemStore()
	rewritten.fill(t, 4)
	rewritten.leaves = append(rewritten.leaves, []byte("x"))
	rewritten.hashes = append(rewritten.hashes, LeafHash([]byte("x")))
	rewritten.head.add(rewritten.hashes[4], nil)
	rewritten.fill(t, 1)
	s.leaves, s.hashes, s.head = rewritten.leaves, rewritten.hashes, rewritten.head
	_, err = l.Checkpoint(ctx)
	wantFault(t, err, fault.StoreCorrupted)
	s.head.Range[0][0] ^= 1
	_, err = l.Checkpoint(ctx)
	wantFault(t, err, fault.StoreCorrupted)
}

func TestPeriodicCheckpoint(t *testing.T) {
	s, signer := newMemStore(), newSigner(t)
	l := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: time.Millisecond})
	if _, err := l.Record(context.Background(), &Entry{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.note != nil })
	time.Sleep(20 * time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.saves != 1 {
		t.Errorf("%d checkpoints of one tree", s.saves)
	}
}

func TestOpenCheckpointStrict(t *testing.T) {
	signer := newSigner(t)
	l := openLog(t, newMemStore(), Options{Signer: signer.open, CheckpointEvery: -1})
	key := mustKey(t, l)
	good := (Checkpoint{Origin: testOrigin, Size: 7}).text()
	v, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(text string) []byte {
		signed, err := note.Sign(&note.Note{Text: text}, noteSigner{Verifier: v, ctx: context.Background(), signer: signer})
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	if c, err := OpenCheckpoint(sign(good), key); err != nil || c.Size != 7 {
		t.Fatal(c, err)
	}
	for _, text := range []string{
		good + "extension\n", strings.Replace(good, "\n7\n", "\n07\n", 1), strings.Replace(good, "\n7\n", "\n-7\n", 1),
		strings.Replace(good, "\n7\n", "\n18446744073709551615\n", 1), strings.Replace(good, "AA=", "A=", 1), strings.Replace(good, "AA=", "AB=", 1),
		strings.Replace(good, testOrigin, "other", 1), testOrigin + "\n7\n", "\n" + good,
	} {
		if c, err := OpenCheckpoint(sign(text), key); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
	signed := sign(good)
	for i := range signed {
		if i == len(signed)-len("x=\n") {
			continue // half of this base64 digit is unused, and the note package does not look at it
		}
		bad := bytes.Clone(signed)
		bad[i] ^= 1
		if c, err := OpenCheckpoint(bad, key); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("byte %d changed: %+v, %v", i, c, err)
		}
	}
	if _, err := OpenCheckpoint(signed, "nokey"); !errors.Is(err, ErrCheckpoint) {
		t.Error(err)
	}
	otherKey, err := note.NewEd25519VerifierKey(testOrigin, make(ed25519.PublicKey, ed25519.PublicKeySize))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCheckpoint(signed, otherKey); !errors.Is(err, ErrCheckpoint) {
		t.Error(err)
	}
}

func TestProve(t *testing.T) {
	ctx := context.Background()
	s, signer := newMemStore(), newSigner(t)
	s.fill(t, 1000)
	l := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
	for _, i := range []uint64{0, 255, 256, 999} {
		p, err := l.Prove(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		c, err := OpenCheckpoint(p.Checkpoint, mustKey(t, l))
		if err != nil || c.Size != 1000 || p.Size != 1000 || p.Index != i || !bytes.Equal(p.Leaf, s.leaves[i]) || p.LeafHash != s.hashes[i] {
			t.Errorf("entry %d: %+v, %v", i, c, err)
		}
	}
	if _, err := l.Record(ctx, &Entry{}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Prove(ctx, 5); err != nil || signer.signs != 1 {
		t.Errorf("an old entry needs no new checkpoint: %v", err)
	}
	if p, err := l.Prove(ctx, 1000); err != nil || p.Size != 1001 || signer.signs != 2 {
		t.Errorf("a new one does: %v", err)
	}
	_, err := l.Prove(ctx, 1001)
	wantFault(t, err, fault.EntryNotFound)
	s.leaves[7] = AppendLeaf(nil, &Entry{Action: "forged"})
	_, err = l.Prove(ctx, 7)
	wantFault(t, err, fault.StoreCorrupted)
}

// In the tree of a checkpoint that somebody keeps, of whatever size.
func TestProveIn(t *testing.T) {
	ctx := context.Background()
	s := newMemStore()
	s.fill(t, 1000)
	l := openLog(t, s, Options{})
	for _, c := range [][2]uint64{{0, 1}, {0, 1000}, {255, 256}, {256, 257}, {511, 700}, {700, 999}, {999, 1000}} {
		p, err := l.ProveIn(ctx, c[0], c[1])
		if err != nil {
			t.Fatal(err)
		}
		path := make(tlog.RecordProof, len(p.Hashes))
		for i := range path {
			path[i] = p.Hashes[i]
		}
		err = tlog.CheckRecord(path, int64(c[1]), mth(s.hashes[:c[1]]), int64(c[0]), s.hashes[c[0]])
		if err != nil || p.Checkpoint != nil || p.Size != c[1] || p.Index != c[0] || !bytes.Equal(p.Leaf, s.leaves[c[0]]) {
			t.Errorf("%v: %+v %v", c, p, err)
		}
	}
	for _, c := range [][2]uint64{{0, 0}, {7, 7}, {1000, 1000}, {1001, 5}} {
		_, err := l.ProveIn(ctx, c[0], c[1])
		wantFault(t, err, fault.EntryNotFound)
	}
	_, err := l.ProveIn(ctx, 3, 1001)
	wantFault(t, err, fault.BadQuery)
	s.leaves[7] = AppendLeaf(nil, &Entry{Action: "forged"})
	_, err = l.ProveIn(ctx, 7, 500)
	wantFault(t, err, fault.StoreCorrupted)
}
