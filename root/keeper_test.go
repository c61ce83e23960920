package root

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

func TestInit(t *testing.T) {
	m := new(memory)
	k := keeper(t, m)
	if !k.Locked() {
		t.Error("a new keeper is open")
	}
	_, err := k.Derive("x")
	want(t, err, fault.Locked)
	_, err = k.AddSlot(t.Context(), who, passphraseSlot())
	want(t, err, fault.Locked)
	want(t, k.RemoveSlot(t.Context(), who, uuid.New()), fault.Locked)
	want(t, k.UnlockPassphrase(t.Context(), who, secret.Bytes(phrase)), fault.WrongSecret)

	added, err := k.Init(t.Context(), who, passphraseSlot())
	if err != nil {
		t.Fatal(err)
	}
	if k.Locked() || added.Slot.Kind != KindPassphrase || added.Slot.Label != "operator" || added.Slot.CreatedAt.IsZero() || added.Shares != nil {
		t.Errorf("locked %v, added %+v", k.Locked(), added)
	}
	select {
	case <-k.Opened():
	default:
		t.Error("Opened is not closed")
	}
	_, err = k.Init(t.Context(), who, passphraseSlot())
	want(t, err, fault.Conflict)
	_, err = keeper(t, m).Init(t.Context(), who, passphraseSlot())
	want(t, err, fault.Conflict)
	if n := len(m.slots); n != 1 {
		t.Errorf("%d slots", n)
	}
	wantLog := []string{"root.slot.add ERR_LOCKED passphrase", "root.slot.remove ERR_LOCKED", "root.unlock ERR_WRONG_ROOT_SECRET passphrase",
		"root.init ok passphrase", "root.init ERR_CONFLICT passphrase", "root.init ERR_CONFLICT passphrase"}
	if diff := cmp.Diff(wantLog, m.log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestDerive(t *testing.T) {
	m, k := initialised(t)
	a, b := derive(t, k, "a"), derive(t, k, "b")
	if a == b || a != derive(t, k, "a") {
		t.Error("labels do not decide about keys")
	}
	_, other := initialised(t)
	if a == derive(t, other, "a") {
		t.Error("two roots give one key")
	}
	for _, label := range []string{"", strings.Repeat("x", maxDeriveName+1)} {
		_, err := k.Derive(label)
		want(t, err, fault.Internal)
	}
	// A derived key is the caller's: wiping it harms nobody else.
	key, err := k.Derive("a")
	if err != nil {
		t.Fatal(err)
	}
	key.Wipe()
	if a != derive(t, k, "a") {
		t.Error("a wiped key changed the next one")
	}
	// The root survives in its slot.
	again := keeper(t, m)
	if err := again.UnlockPassphrase(t.Context(), who, secret.Bytes(phrase)); err != nil {
		t.Fatal(err)
	}
	if a != derive(t, again, "a") {
		t.Error("the root changed over a restart")
	}
}

// Any one slot opens the root, nothing else does, and all that does not open is answered alike.
func TestAnySlotOpens(t *testing.T) {
	ctx := t.Context()
	m, k := initialised(t)
	key, wrongKey := secret.Bytes(strings.Repeat("k", KeyFileSize)), secret.Bytes(strings.Repeat("x", KeyFileSize))
	if _, err := k.AddSlot(ctx, who, NewSlot{Kind: KindPassphrase, Passphrase: secret.Bytes("another passphrase")}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.AddSlot(ctx, who, NewSlot{Kind: KindKeyFile, KeyFile: key}); err != nil {
		t.Fatal(err)
	}
	shamir, err := k.AddSlot(ctx, who, NewSlot{Kind: KindShamir, Shares: 3, Threshold: 2})
	if err != nil {
		t.Fatal(err)
	}
	derived := derive(t, k, "x")

	for name, open := range map[string]func(*Keeper) error{
		"first passphrase":  func(k *Keeper) error { return k.UnlockPassphrase(ctx, who, secret.Bytes(phrase)) },
		"second passphrase": func(k *Keeper) error { return k.UnlockPassphrase(ctx, who, secret.Bytes("another passphrase")) },
		"key file":          func(k *Keeper) error { return k.UnlockKeyFile(ctx, who, key) },
		"shares":            func(k *Keeper) error { _, err := k.UnlockShares(ctx, who, shamir.Shares[1:]); return err },
	} {
		t.Run(name, func(t *testing.T) {
			k := keeper(t, m)
			if err := open(k); err != nil {
				t.Fatal(err)
			}
			if derive(t, k, "x") != derived {
				t.Error("another root")
			}
			want(t, open(k), fault.NotLocked)
		})
	}

	locked := keeper(t, m)
	m.log()
	for name, open := range map[string]func() error{
		"wrong passphrase": func() error { return locked.UnlockPassphrase(ctx, who, secret.Bytes("Correct horse battery staple")) },
		"empty":            func() error { return locked.UnlockPassphrase(ctx, who, nil) },
		"long":             func() error { return locked.UnlockPassphrase(ctx, who, make(secret.Bytes, MaxPassphrase+1)) },
		"wrong key":        func() error { return locked.UnlockKeyFile(ctx, who, wrongKey) },
		"short key":        func() error { return locked.UnlockKeyFile(ctx, who, key[:31]) },
		"key as phrase":    func() error { return locked.UnlockPassphrase(ctx, who, key) },
	} {
		start := time.Now()
		if err := open(); err != error(errWrong) { //nolint:errorlint // identity is the promise
			t.Errorf("%s: %v, want the one error", name, err)
		}
		if took := time.Since(start); took < failDelay {
			t.Errorf("%s was refused after %v, sooner than %v", name, took, failDelay)
		}
	}
	if lines := m.log(); len(lines) != 6 || slices.ContainsFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "root.unlock ERR_WRONG_ROOT_SECRET") }) {
		t.Errorf("log %q", lines)
	}
	if !locked.Locked() {
		t.Error("it opened")
	}
}

// A slot is bound to its id, kind and parameters; its neighbour still opens.
func TestTamperedSlots(t *testing.T) {
	ctx := t.Context()
	key := secret.Bytes(strings.Repeat("k", KeyFileSize))
	for name, change := range map[string]func(s *Slot){
		"id":             func(s *Slot) { s.ID = uuid.New() },
		"sealed":         func(s *Slot) { s.Sealed[len(s.Sealed)-1] ^= 1 },
		"sealed cut":     func(s *Slot) { s.Sealed = s.Sealed[:20] },
		"sealed empty":   func(s *Slot) { s.Sealed = nil },
		"costs":          func(s *Slot) { s.Params = []byte(strings.Replace(string(s.Params), `"time":1`, `"time":2`, 1)) },
		"salt":           func(s *Slot) { s.Params = []byte(strings.Replace(string(s.Params), `"salt":"`, `"salt":"AAAA`, 1)) },
		"same meaning":   func(s *Slot) { s.Params = append(s.Params, ' ') },
		"terabyte":       func(s *Slot) { s.Params = []byte(strings.Replace(string(s.Params), "8192", "1073741824", 1)) },
		"weak":           func(s *Slot) { s.Params = []byte(strings.Replace(string(s.Params), "8192", "8", 1)) },
		"unknown member": func(s *Slot) { s.Params = []byte(strings.Replace(string(s.Params), "{", `{"x":1,`, 1)) },
		"no parameters":  func(s *Slot) { s.Params = nil },
		"huge":           func(s *Slot) { s.Params = make([]byte, 1<<20) },
		"kind":           func(s *Slot) { s.Kind = KindShamir },
		"unknown kind":   func(s *Slot) { s.Kind = Kind(strings.Repeat("x", 300)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, k := initialised(t)
			if _, err := k.AddSlot(ctx, who, NewSlot{Kind: KindKeyFile, KeyFile: key}); err != nil {
				t.Fatal(err)
			}
			was := *m.slots[0]
			was.Params, was.Sealed = slices.Clone(was.Params), slices.Clone(was.Sealed)
			change(m.slots[0])
			if cmp.Equal(was, *m.slots[0]) {
				t.Fatal("nothing was changed")
			}
			locked := keeper(t, m)
			want(t, locked.UnlockPassphrase(ctx, who, secret.Bytes(phrase)), fault.WrongSecret)
			if err := locked.UnlockKeyFile(ctx, who, key); err != nil {
				t.Errorf("the other slot: %v", err)
			}
		})
	}
}

func TestParamsBounds(t *testing.T) {
	good := `{"v":1,"kdf":"argon2id","memory_kib":65536,"time":3,"parallelism":4,"salt":"AAAAAAAAAAAAAAAAAAAAAA=="}`
	if p, err := readPassphraseParams([]byte(good)); err != nil || p.cost() != DefaultCost() {
		t.Errorf("the default: %+v, %v", p, err)
	}
	for _, change := range [][2]string{
		{`"v":1`, `"v":2`}, {`argon2id`, `argon2i`}, {`65536`, `8191`}, {`65536`, `262145`}, {`65536`, `1073741824`}, {`65536`, `4294967296`},
		{`65536`, `-1`}, {`65536`, `65536.5`}, {`"time":3`, `"time":0`}, {`"time":3`, `"time":17`}, {`"parallelism":4`, `"parallelism":0`},
		{`"parallelism":4`, `"parallelism":17`}, {`"parallelism":4`, `"parallelism":256`}, {`AA==`, ``}, {`AAAA`, ``}, {`}`, `}{}`},
		{`"v":1`, `"v":1,"v":1`}, {`"v":1,`, ``}, {`"kdf"`, `"KDF"`},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		_, err := readPassphraseParams([]byte(bad))
		want(t, err, fault.KeyMaterial)
	}
	check := `"` + strings.Repeat("A", 43) + `="`
	shamir := `{"v":1,"group":"P-384","threshold":2,"shares":2,"checks":[` + check + `,` + check + `]}`
	if _, err := readShamirParams([]byte(shamir)); err != nil {
		t.Errorf("a Shamir slot: %v", err)
	}
	for _, change := range [][2]string{{`"v":1`, `"v":0`}, {`P-384`, `P-256`}, {`"threshold":2`, `"threshold":1`}, {`"threshold":2`, `"threshold":3`},
		{`"shares":2`, `"shares":3`}, {`"shares":2`, `"shares":65`}, {`,` + check, ``}, {`AAAA`, ``}, {`"shares":2`, `"shares":-1`}} {
		_, err := readShamirParams([]byte(strings.Replace(shamir, change[0], change[1], 1)))
		want(t, err, fault.KeyMaterial)
	}
	want(t, readKeyFileParams([]byte(`{"v":2}`)), fault.KeyMaterial)
	want(t, readKeyFileParams([]byte(`{}`)), fault.KeyMaterial)
}

func TestNewSlotRules(t *testing.T) {
	_, k := initialised(t)
	ok := secret.Bytes(phrase)
	for name, c := range map[string]struct {
		slot NewSlot
		code fault.Code
	}{
		"no kind":          {NewSlot{Passphrase: ok}, fault.BadField},
		"unknown kind":     {NewSlot{Kind: "tpm2", Passphrase: ok}, fault.BadField},
		"short passphrase": {NewSlot{Kind: KindPassphrase, Passphrase: secret.Bytes("1234567")}, fault.BadSize},
		"long passphrase":  {NewSlot{Kind: KindPassphrase, Passphrase: make(secret.Bytes, MaxPassphrase+1)}, fault.BadSize},
		"short key":        {NewSlot{Kind: KindKeyFile, KeyFile: make(secret.Bytes, 31)}, fault.BadSize},
		"long key":         {NewSlot{Kind: KindKeyFile, KeyFile: make(secret.Bytes, 33)}, fault.BadSize},
		"one share":        {NewSlot{Kind: KindShamir, Shares: 1, Threshold: 1}, fault.BadField},
		"threshold above":  {NewSlot{Kind: KindShamir, Shares: 2, Threshold: 3}, fault.BadField},
		"too many shares":  {NewSlot{Kind: KindShamir, Shares: 65, Threshold: 3}, fault.BadField},
		"long label":       {NewSlot{Kind: KindPassphrase, Passphrase: ok, Label: strings.Repeat("x", 129)}, fault.BadName},
		"label of control": {NewSlot{Kind: KindPassphrase, Passphrase: ok, Label: "a\nb"}, fault.BadName},
		"label not UTF-8":  {NewSlot{Kind: KindPassphrase, Passphrase: ok, Label: "\xff"}, fault.BadName},
	} {
		if _, err := k.AddSlot(t.Context(), who, c.slot); fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	costly := New(new(memory), new(memory), Options{Argon2: Cost{MemoryKiB: maxMemoryKiB + 1, Time: 1, Parallelism: 1}})
	defer costly.Close()
	if _, err := costly.Init(t.Context(), who, passphraseSlot()); err == nil {
		t.Error("a slot was made that could not be read")
	}
}

func TestRemoveSlot(t *testing.T) {
	ctx := t.Context()
	m, k := initialised(t)
	first := m.slots[0].ID
	want(t, k.RemoveSlot(ctx, who, first), fault.LastSlot)
	key := secret.Bytes(strings.Repeat("k", KeyFileSize))
	added, err := k.AddSlot(ctx, who, NewSlot{Kind: KindKeyFile, KeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	want(t, k.RemoveSlot(ctx, who, uuid.New()), fault.SlotNotFound)
	if err := k.RemoveSlot(ctx, who, first); err != nil {
		t.Fatal(err)
	}
	want(t, k.RemoveSlot(ctx, who, added.Slot.ID), fault.LastSlot)
	locked := keeper(t, m)
	want(t, locked.UnlockPassphrase(ctx, who, secret.Bytes(phrase)), fault.WrongSecret)
	if err := locked.UnlockKeyFile(ctx, who, key); err != nil {
		t.Error(err)
	}
	slots, err := k.Slots(ctx)
	if err != nil || len(slots) != 1 || slots[0].ID != added.Slot.ID {
		t.Errorf("slots %v, %v", slots, err)
	}
	wantLog := []string{"root.init ok passphrase", "root.slot.remove ERR_LAST_ROOT_SLOT", "root.slot.add ok key-file", "root.slot.remove ERR_ROOT_SLOT_NOT_FOUND",
		"root.slot.remove ok", "root.slot.remove ERR_LAST_ROOT_SLOT", "root.unlock ERR_WRONG_ROOT_SECRET passphrase", "root.unlock ok key-file"}
	if diff := cmp.Diff(wantLog, m.log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestSlotsAreBounded(t *testing.T) {
	_, k := initialised(t)
	slot := NewSlot{Kind: KindKeyFile, KeyFile: make(secret.Bytes, KeyFileSize)}
	for range MaxSlots - 1 {
		if _, err := k.AddSlot(t.Context(), who, slot); err != nil {
			t.Fatal(err)
		}
	}
	_, err := k.AddSlot(t.Context(), who, slot)
	want(t, err, fault.Conflict)
}

// Nothing happens that the log cannot tell of.
func TestLogFails(t *testing.T) {
	ctx := t.Context()
	m, k := initialised(t)
	down := fault.New(fault.AuditUnavailable, "the log cannot be written")
	locked := keeper(t, m)
	m.breakLog(down)
	want(t, locked.UnlockPassphrase(ctx, who, secret.Bytes(phrase)), fault.AuditUnavailable)
	want(t, locked.UnlockPassphrase(ctx, who, secret.Bytes("wrong passphrase")), fault.AuditUnavailable)
	if !locked.Locked() {
		t.Error("it opened without a record")
	}
	_, err := k.AddSlot(ctx, who, NewSlot{Kind: KindShamir, Shares: 2, Threshold: 2})
	want(t, err, fault.AuditUnavailable)
	want(t, k.RemoveSlot(ctx, who, uuid.New()), fault.AuditUnavailable)
	empty := &memory{broken: down}
	fresh := keeper(t, empty)
	_, err = fresh.Init(ctx, who, passphraseSlot())
	want(t, err, fault.AuditUnavailable)
	if !fresh.Locked() {
		t.Error("a root was opened that is kept nowhere")
	}
	m.breakLog(nil)
	if err := locked.UnlockPassphrase(ctx, who, secret.Bytes(phrase)); err != nil {
		t.Errorf("after the log came back: %v", err)
	}
}

func TestClose(t *testing.T) {
	m, k := initialised(t)
	inside := k.root
	k.Close()
	k.Close()
	for _, b := range inside {
		if b != 0 {
			t.Fatal("the root was not wiped")
		}
	}
	_, err := k.Derive("x")
	want(t, err, fault.Locked)
	want(t, k.UnlockPassphrase(t.Context(), who, secret.Bytes(phrase)), fault.Unavailable)
	if !k.Locked() || len(m.slots) != 1 {
		t.Error("a closed keeper opened")
	}
}

// Many at once: the root opens once, guesses run one at a time, and those who find no place are told to come back.
func TestConcurrentUnlocks(t *testing.T) {
	m, first := initialised(t)
	derived := derive(t, first, "x")
	k := keeper(t, m)
	m.log()
	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := make(map[fault.Code]int)
	for i := range 64 {
		wg.Go(func() {
			given := secret.Bytes(phrase)
			if i%4 != 0 {
				given = secret.Bytes("a wrong passphrase")
			}
			err := k.UnlockPassphrase(t.Context(), who, given)
			if err == nil {
				if key, err := k.Derive("x"); err != nil || string(key) != derived {
					t.Errorf("after the unlock: %v", err)
				}
			}
			mu.Lock()
			codes[fault.CodeOf(err)]++
			mu.Unlock()
			var f *fault.Error
			if errors.As(err, &f) && f.Code == fault.Overloaded && f.After <= 0 {
				t.Error("overloaded without a time to come back")
			}
		})
	}
	wg.Wait()
	if codes[fault.Overloaded] < 64-2*maxQueue-8 {
		t.Errorf("%d were refused a place", codes[fault.Overloaded])
	}
	for code := range codes {
		switch code {
		case "", fault.WrongSecret, fault.NotLocked, fault.Overloaded:
		default:
			t.Errorf("answer %q", code)
		}
	}
	if k.Locked() {
		if err := k.UnlockPassphrase(t.Context(), who, secret.Bytes(phrase)); err != nil {
			t.Error(err)
		}
	}
	opened := 0
	for _, l := range m.log() {
		if strings.HasPrefix(l, "root.unlock ok") {
			opened++
		}
	}
	if opened != 1 {
		t.Errorf("opened %d times", opened)
	}
}

// Two nodes start on one empty store: one of them makes the root.
func TestConcurrentInit(t *testing.T) {
	m := new(memory)
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 8 {
		k := keeper(t, m)
		wg.Go(func() {
			_, err := k.Init(t.Context(), who, NewSlot{Kind: KindKeyFile, KeyFile: make(secret.Bytes, KeyFileSize)})
			if err != nil {
				want(t, err, fault.Conflict)
				return
			}
			mu.Lock()
			made++
			mu.Unlock()
		})
	}
	wg.Wait()
	if made != 1 || len(m.slots) != 1 {
		t.Errorf("%d roots, %d slots", made, len(m.slots))
	}
}

// Attempts cannot be made cheap by going away, nor fill the log without having had a turn.
func TestDeadlines(t *testing.T) {
	m, _ := initialised(t)
	k := keeper(t, m)
	m.log()
	k.turn <- struct{}{} // somebody else's attempt
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	want(t, k.UnlockPassphrase(ctx, who, secret.Bytes(phrase)), fault.Timeout)
	if lines := m.log(); len(lines) != 0 {
		t.Errorf("recorded %q without a turn", lines)
	}
	<-k.turn
	m.down = fault.New(fault.StoreUnavailable, "down")
	start := time.Now()
	want(t, k.UnlockPassphrase(t.Context(), who, secret.Bytes(phrase)), fault.StoreUnavailable)
	if took := time.Since(start); took < failDelay {
		t.Errorf("a failure of the store came after %v", took)
	}
	m.down = nil
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	start = time.Now()
	// With both ready, a turn and the end of the context, either may be seen first.
	err := k.UnlockPassphrase(gone, who, secret.Bytes(phrase))
	want(t, err, fault.Timeout)
	if took := time.Since(start); took < failDelay && len(m.log()) > 1 {
		t.Errorf("recorded after %v", took)
	}
	if len(k.queue) != 0 || len(k.turn) != 0 {
		t.Error("a place was not given back")
	}
}
