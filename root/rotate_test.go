package root

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

const (
	pepper   = "keywright/v1/api-key-pepper"
	newWords = "another correct horse battery"
)

// carrying is a keeper that carries the pepper.
func carrying(t testing.TB, m *memory) *Keeper {
	t.Helper()
	k := New(m, m, Options{Argon2: cheap, Logger: slog.New(slog.DiscardHandler), Carry: []string{pepper}})
	t.Cleanup(k.Close)
	return k
}

func started(t testing.TB) (*memory, *Keeper) {
	t.Helper()
	m := new(memory)
	k := carrying(t, m)
	if _, err := k.Init(t.Context(), who, passphraseSlot()); err != nil {
		t.Fatal(err)
	}
	return m, k
}

func newPassphrase(m *memory, words string) Rotation {
	return Rotation{Slots: []Replacement{{Replaces: m.slots[0].ID, NewSlot: NewSlot{Kind: KindPassphrase, Passphrase: secret.Bytes(words)}}}}
}

func deriveAt(t *testing.T, k *Keeper, label string, generation uint32) string {
	t.Helper()
	key, err := k.DeriveAt(label, generation)
	if err != nil {
		t.Fatal(err)
	}
	return string(key)
}

// The new root opens by the new secret alone, gives other keys but for the carried ones, and the old ones until it is retired.
func TestRotate(t *testing.T) {
	ctx := t.Context()
	m, k := started(t)
	before := *m.slots[0]
	old := map[string]string{}
	for _, label := range []string{pepper, "keywright/v1/software-sealing"} {
		old[label] = derive(t, k, label)
	}
	same := func(what string, k *Keeper, generation uint32) {
		t.Helper()
		if derive(t, k, pepper) != old[pepper] {
			t.Errorf("%s: the pepper is another", what)
		}
		if derive(t, k, "keywright/v1/software-sealing") == old["keywright/v1/software-sealing"] {
			t.Errorf("%s: the sealing key is the same", what)
		}
		if g, err := k.Generation(); err != nil || g != generation {
			t.Errorf("%s: generation %d, %v", what, g, err)
		}
	}
	done, err := k.Rotate(ctx, who, newPassphrase(m, newWords))
	if err != nil {
		t.Fatal(err)
	}
	if done.Generation != 2 || len(done.Slots) != 1 || done.Slots[0].Slot.Label != "operator" || len(done.Dropped) != 0 {
		t.Errorf("rotated: %+v", done)
	}
	same("rotated", k, 2)
	if deriveAt(t, k, "keywright/v1/software-sealing", 1) != old["keywright/v1/software-sealing"] {
		t.Error("what is sealed under the old root would not open")
	}
	if !slices.Equal(k.Earlier(), []uint32{1}) {
		t.Errorf("earlier: %v", k.Earlier())
	}
	for _, e := range m.kept {
		if e.Kind == KeptNext {
			t.Error("the old root opens the new one, though nobody asked for that")
		}
	}

	again := carrying(t, m)
	want(t, again.UnlockPassphrase(ctx, who, secret.Bytes(phrase)), fault.WrongSecret)
	if err := again.UnlockPassphrase(ctx, who, secret.Bytes(newWords)); err != nil {
		t.Fatal(err)
	}
	same("opened again", again, 2)
	if deriveAt(t, again, "keywright/v1/software-sealing", 1) != old["keywright/v1/software-sealing"] {
		t.Error("after a start, what is sealed under the old root would not open")
	}
	// The slot of a copy of the store from before does not get back in.
	m.slots = append(m.slots, &before)
	want(t, carrying(t, m).UnlockPassphrase(ctx, who, secret.Bytes(phrase)), fault.Conflict)
	m.slots = m.slots[:1]

	want(t, k.Retire(ctx, who, 1), fault.Conflict)
	if err := k.Retire(ctx, who, 2); err != nil {
		t.Fatal(err)
	}
	_, err = k.DeriveAt("keywright/v1/software-sealing", 1)
	want(t, err, fault.KeyMaterial)
	if err := again.Follow(ctx, who); err != nil {
		t.Fatal(err)
	}
	_, err = again.DeriveAt("keywright/v1/software-sealing", 1)
	want(t, err, fault.KeyMaterial)
	last := carrying(t, m)
	if err := last.UnlockPassphrase(ctx, who, secret.Bytes(newWords)); err != nil {
		t.Fatal(err)
	}
	same("after retiring", last, 2)
	if len(last.Earlier()) != 0 {
		t.Errorf("kept: %v", last.Earlier())
	}
	lines := m.log()
	for _, line := range []string{"root.rotate ok generation 2, slots 1, dropped 0", "root.retire ok generation 2", "root.retire ERR_CONFLICT generation 1"} {
		if !slices.Contains(lines, line) {
			t.Errorf("the log lacks %q: %q", line, lines)
		}
	}
}

// Several rotations before anything was sealed anew: every earlier root stays.
func TestRotateTwice(t *testing.T) {
	ctx := t.Context()
	m, k := started(t)
	keys := []string{"", derive(t, k, "label")}
	kept := derive(t, k, pepper)
	for n := uint32(2); n <= MaxEarlier+1; n++ {
		if _, err := k.Rotate(ctx, who, newPassphrase(m, newWords)); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, derive(t, k, "label"))
	}
	_, err := k.Rotate(ctx, who, newPassphrase(m, newWords))
	want(t, err, fault.Conflict)
	again := carrying(t, m)
	if err := again.UnlockPassphrase(ctx, who, secret.Bytes(newWords)); err != nil {
		t.Fatal(err)
	}
	for n := uint32(1); int(n) < len(keys); n++ {
		if deriveAt(t, again, "label", n) != keys[n] {
			t.Errorf("generation %d is another", n)
		}
	}
	if derive(t, again, pepper) != kept {
		t.Error("the pepper was lost on the way")
	}
}

// Nothing is lost by silence.
func TestRotateNamesWhatIsLost(t *testing.T) {
	ctx := t.Context()
	m, k := started(t)
	shares, err := k.AddSlot(ctx, who, NewSlot{Kind: KindShamir, Shares: 3, Threshold: 2, Label: "board"})
	if err != nil {
		t.Fatal(err)
	}
	first := m.slots[0].ID
	_, err = k.Rotate(ctx, who, newPassphrase(m, newWords))
	want(t, err, fault.Conflict)
	if !strings.Contains(err.Error(), shares.Slot.ID.String()) || strings.Contains(err.Error(), first.String()) {
		t.Errorf("the error does not say what is lost: %v", err)
	}
	_, err = k.Rotate(ctx, who, Rotation{Drop: []uuid.UUID{first, shares.Slot.ID}})
	want(t, err, fault.LastSlot)
	_, err = k.Rotate(ctx, who, Rotation{Drop: []uuid.UUID{first, first}})
	want(t, err, fault.SlotNotFound)
	_, err = k.Rotate(ctx, who, Rotation{Drop: []uuid.UUID{uuid.New()}})
	want(t, err, fault.SlotNotFound)
	twice := newPassphrase(m, newWords)
	twice.Drop = []uuid.UUID{first}
	_, err = k.Rotate(ctx, who, twice)
	want(t, err, fault.SlotNotFound)
	short := newPassphrase(m, "short")
	short.Drop = []uuid.UUID{shares.Slot.ID}
	_, err = k.Rotate(ctx, who, short)
	want(t, err, fault.BadSize)
	if g, _ := k.Generation(); g != 1 || len(m.slots) != 2 || m.newest != 0 {
		t.Fatalf("a rotation that failed changed something: generation %d", g)
	}
	locked := carrying(t, m)
	_, err = locked.Rotate(ctx, who, newPassphrase(m, newWords))
	want(t, err, fault.Locked)

	done, err := k.Rotate(ctx, who, Rotation{
		Slots: []Replacement{{Replaces: shares.Slot.ID, NewSlot: NewSlot{Kind: KindShamir, Shares: 5, Threshold: 3}}}, Drop: []uuid.UUID{first}})
	if err != nil {
		t.Fatal(err)
	}
	if len(done.Dropped) != 1 || len(done.Slots[0].Shares) != 5 || done.Slots[0].Slot.Label != "board" {
		t.Errorf("rotated: %+v", done)
	}
	_, err = locked.UnlockShares(ctx, who, shares.Shares)
	want(t, err, fault.WrongSecret)
	if missing, err := locked.UnlockShares(ctx, who, done.Slots[0].Shares[2:]); err != nil || missing != 0 {
		t.Error(missing, err)
	}
}

// Nodes that run go forward by themselves; where the way is closed they lock themselves, and open by the new secret.
func TestFollow(t *testing.T) {
	ctx := t.Context()
	m, k := started(t)
	open := func(words string) *Keeper {
		n := carrying(t, m)
		if err := n.UnlockPassphrase(ctx, who, secret.Bytes(words)); err != nil {
			t.Fatal(err)
		}
		return n
	}
	runs, sleeps := open(phrase), open(phrase)
	r := newPassphrase(m, newWords)
	r.Follow = true
	if _, err := k.Rotate(ctx, who, r); err != nil {
		t.Fatal(err)
	}
	if err := runs.Follow(ctx, who); err != nil {
		t.Fatal(err)
	}
	if derive(t, runs, "label") != derive(t, k, "label") || derive(t, runs, pepper) != derive(t, k, pepper) || !slices.Equal(runs.Earlier(), []uint32{1}) {
		t.Error("the node that followed holds something else")
	}
	// A slot that a node still makes of the old root does not get in.
	_, err := sleeps.AddSlot(ctx, who, passphraseSlot())
	want(t, err, fault.Conflict)

	// One that sleeps through two goes both ways.
	r = newPassphrase(m, newWords)
	r.Follow = true
	if _, err := runs.Rotate(ctx, who, r); err != nil {
		t.Fatal(err)
	}
	if err := sleeps.Follow(ctx, who); err != nil {
		t.Fatal(err)
	}
	if g, err := sleeps.Generation(); g != 3 || err != nil || !slices.Equal(sleeps.Earlier(), []uint32{1, 2}) {
		t.Errorf("generation %d, %v", g, err)
	}

	// k is at 2. The way is closed before it looks.
	want(t, k.EndFollow(ctx, who, 2), fault.Conflict)
	for range 2 {
		if err := sleeps.EndFollow(ctx, who, 3); err != nil {
			t.Fatal(err)
		}
	}
	opened := k.Opened()
	if err := k.Follow(ctx, who); err != nil {
		t.Fatal(err)
	}
	if !k.Locked() {
		t.Fatal("a node goes on under a root that is about to be retired")
	}
	if _, err := k.Derive("label"); !fault.Has(err, fault.Locked) {
		t.Errorf("derived: %v", err)
	}
	select {
	case <-k.Opened():
		t.Error("it says that it is open")
	case <-opened:
	}
	if err := k.UnlockPassphrase(ctx, who, secret.Bytes(newWords)); err != nil {
		t.Fatal(err)
	}
	<-k.Opened()
	if derive(t, k, "label") != derive(t, runs, "label") {
		if err := runs.Follow(ctx, who); err != nil || derive(t, k, "label") != derive(t, runs, "label") {
			t.Error("two nodes hold two roots", err)
		}
	}
}

// A damaged entry is told, and harms what hangs on it alone.
func TestDamagedKeyring(t *testing.T) {
	ctx := t.Context()
	for _, kind := range []KeptKind{KeptCarried, KeptPrevious} {
		m, k := started(t)
		if _, err := k.Rotate(ctx, who, newPassphrase(m, newWords)); err != nil {
			t.Fatal(err)
		}
		for _, e := range m.kept {
			if e.Kind == kind {
				e.Sealed[len(e.Sealed)-1] ^= 1
			}
		}
		again := carrying(t, m)
		if err := again.UnlockPassphrase(ctx, who, secret.Bytes(newWords)); err != nil {
			t.Fatal(err)
		}
		_, carried := again.Derive(pepper)
		_, earlier := again.DeriveAt("label", 1)
		if fault.Has(carried, fault.KeyMaterial) != (kind == KeptCarried) || fault.Has(earlier, fault.KeyMaterial) != (kind == KeptPrevious) {
			t.Errorf("%s damaged: %v, %v", kind, carried, earlier)
		}
		derive(t, again, "label")
		// The next rotation would lose it for good.
		_, err := again.Rotate(ctx, who, newPassphrase(m, newWords))
		want(t, err, fault.KeyMaterial)
	}
}

// Devices seal the new root by themselves; one that is not here is named.
func TestRotateDevices(t *testing.T) {
	ctx := t.Context()
	left, right := tokens(t)
	m, k := onDevice(t, left)
	attach(t, k, "right", right)
	if _, err := k.AddSlot(ctx, who, NewSlot{Device: "right", Label: "the other"}); err != nil {
		t.Fatal(err)
	}
	node := keeper(t, m)
	attach(t, node, "left", left)
	stop := node.AutoUnlock(who)
	defer stop()
	<-node.Opened()
	_, err := node.Rotate(ctx, who, Rotation{})
	want(t, err, fault.Conflict)
	done, err := k.Rotate(ctx, who, Rotation{})
	if err != nil {
		t.Fatal(err)
	}
	if len(done.Slots) != 2 || done.Slots[0].Slot.Device() != left.ID() || done.Slots[1].Slot.Label != "the other" {
		t.Errorf("rotated: %+v", done)
	}
	// Without a way forward in the keyring the device opens the new root.
	if err := node.Follow(ctx, who); err != nil {
		t.Fatal(err)
	}
	if derive(t, node, "label") != derive(t, k, "label") {
		t.Error("two nodes hold two roots")
	}
	// A device that cannot be asked just then: the node is locked, and opens when it can.
	stuck := &switched{Device: left}
	attach(t, node, "left", stuck)
	stuck.away.Store(true)
	if _, err := k.Rotate(ctx, who, Rotation{}); err != nil {
		t.Fatal(err)
	}
	if err := node.Follow(ctx, who); err != nil || !node.Locked() {
		t.Fatalf("locked: %v, %v", node.Locked(), err)
	}
	stuck.away.Store(false)
	select {
	case <-node.Opened():
	case <-time.After(2*lastRetry + time.Second):
		t.Fatal("it stays locked after the device came back")
	}
	if derive(t, node, "label") != derive(t, k, "label") {
		t.Error("two nodes hold two roots")
	}
}

// What the log cannot tell of does not happen.
func TestRotateLogFails(t *testing.T) {
	ctx := t.Context()
	m, k := started(t)
	was := derive(t, k, "label")
	r := newPassphrase(m, newWords)
	m.breakLog(fault.New(fault.Overloaded, "the log cannot be written"))
	_, err := k.Rotate(ctx, who, r)
	want(t, err, fault.Overloaded)
	m.breakLog(nil)
	if derive(t, k, "label") != was || m.newest != 0 {
		t.Error("a root that nobody wrote down")
	}
	m.down = fault.New(fault.StoreUnavailable, "down")
	want(t, k.Follow(ctx, who), fault.StoreUnavailable)
	_, err = k.Rotate(ctx, who, r)
	want(t, err, fault.StoreUnavailable)
}
