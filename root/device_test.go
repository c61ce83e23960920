package root

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// held is a real token as a device.
type held struct {
	*hsm.Backend
	token token.Token
}

func (h held) ID() string { return h.Info().ID }

func openToken(t *testing.T, p *rig.Part) held {
	t.Helper()
	p.Setenv(t)
	tok, err := token.Open(t.Context(), token.Config{Module: p.Module, Serial: p.Serial, PIN: secret.Bytes(p.PIN(t))}, token.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := hsm.Open(t.Context(), hsm.Options{Name: p.Label, Members: []hsm.Member{{Token: tok}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return held{b, tok}
}

// tokens gives two tokens of one module.
func tokens(t *testing.T) (held, held) {
	t.Helper()
	p := rig.SoftHSM(t)
	q := p.Another(t, "another") // before the module looks for tokens
	return openToken(t, p), openToken(t, q)
}

// switched is a device with a switch in front.
type switched struct {
	Device
	away  atomic.Bool // it cannot be reached
	hangs atomic.Bool // Open does not come back before its deadline
	lies  atomic.Bool // Open gives something else
	asked atomic.Int64
	known string // what it says it is, "" for the truth
}

func (s *switched) ID() string {
	if s.known != "" {
		return s.known
	}
	return s.Device.ID()
}

func (s *switched) Seal(ctx context.Context, plaintext, binding []byte) ([]byte, error) {
	if s.away.Load() {
		return nil, fault.New(fault.BackendUnavailable, "away")
	}
	return s.Device.Seal(ctx, plaintext, binding)
}

func (s *switched) Open(ctx context.Context, sealed, binding []byte) (secret.Bytes, error) {
	s.asked.Add(1)
	switch {
	case s.away.Load():
		return nil, fault.New(fault.BackendUnavailable, "away")
	case s.hangs.Load():
		<-ctx.Done()
		return nil, fault.Wrap(fault.Timeout, "late", ctx.Err())
	}
	out, err := s.Device.Open(ctx, sealed, binding)
	if err == nil && s.lies.Load() {
		out[0] ^= 1
	}
	return out, err
}

func attach(t *testing.T, k *Keeper, name string, d Device) {
	t.Helper()
	if err := k.Attach(name, KindHSM, d); err != nil {
		t.Fatal(err)
	}
}

// onDevice gives a store whose root has its one slot on the device.
func onDevice(t *testing.T, d Device) (*memory, *Keeper) {
	t.Helper()
	m := new(memory)
	k := keeper(t, m)
	attach(t, k, "left", d)
	if _, err := k.Init(t.Context(), who, NewSlot{Device: "left", Label: "first"}); err != nil {
		t.Fatal(err)
	}
	return m, k
}

// Either of two tokens opens the root without anybody's doing; what a token has is of no use without its slot.
func TestDevices(t *testing.T) {
	ctx := t.Context()
	left, right := tokens(t)
	m, k := onDevice(t, left)
	attach(t, k, "right", right)
	added, err := k.AddSlot(ctx, who, NewSlot{Kind: KindHSM, Device: "right", Label: "second"})
	if err != nil {
		t.Fatal(err)
	}
	if s := added.Slot; s.Kind != KindHSM || s.Device() != right.ID() || s.Label != "second" || added.Shares != nil {
		t.Errorf("%+v", s)
	}
	if first := m.slots[0]; first.Kind != KindHSM || first.Device() != left.ID() || left.ID() == right.ID() {
		t.Errorf("%+v on %s", first, left.ID())
	}
	want(t, k.UnlockDevices(ctx, who), fault.NotLocked)
	derived := derive(t, k, "x")
	m.log()
	for name, only := range map[string]Device{"left": left, "right": right, "any name": left} {
		k := keeper(t, m)
		attach(t, k, name, only)
		away := &switched{Device: only} // another way to the same device
		away.away.Store(true)
		attach(t, k, "not reached", away)
		if k.DeviceID(name) != only.ID() || k.DeviceID("another") != "" {
			t.Errorf("the device is known as %q", k.DeviceID(name))
		}
		if err := k.UnlockDevices(ctx, who); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if derive(t, k, "x") != derived {
			t.Errorf("%s: another root", name)
		}
	}
	if diff := cmp.Diff([]string{"root.unlock ok hsm", "root.unlock ok hsm", "root.unlock ok hsm"}, m.log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}

	// Other ways stay.
	if _, err := k.AddSlot(ctx, who, passphraseSlot()); err != nil {
		t.Fatal(err)
	}
	alone := keeper(t, m)
	want(t, alone.UnlockDevices(ctx, who), fault.BackendUnavailable)
	if err := alone.UnlockPassphrase(ctx, who, secret.Bytes(phrase)); err != nil {
		t.Error(err)
	}
	// One slot after the other goes, until one is left.
	for _, s := range m.slots[:2] {
		if err := k.RemoveSlot(ctx, who, s.ID); err != nil {
			t.Fatal(err)
		}
	}
	want(t, k.RemoveSlot(ctx, who, m.slots[0].ID), fault.LastSlot)
	gone := keeper(t, m)
	attach(t, gone, "left", left)
	want(t, gone.UnlockDevices(ctx, who), fault.SlotNotFound)
}

// A device that lost its keys, another one in its place, and a slot that was changed open nothing, and cost nothing.
func TestDevicesThatDoNotOpen(t *testing.T) {
	ctx := t.Context()
	left, right := tokens(t)
	m, k := onDevice(t, left)
	attach(t, k, "right", right)
	if _, err := k.AddSlot(ctx, who, NewSlot{Device: "left"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.AddSlot(ctx, who, passphraseSlot()); err != nil {
		t.Fatal(err)
	}
	derived := derive(t, k, "x")

	try := func(t *testing.T, slots []*Slot, d Device, code fault.Code) {
		t.Helper()
		kept := &memory{slots: slots}
		var log bytes.Buffer
		k := New(kept, kept, Options{Argon2: cheap, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		defer k.Close()
		attach(t, k, "d", d)
		for range 3 {
			want(t, k.UnlockDevices(ctx, who), code)
		}
		if diff := cmp.Diff([]string{"root.unlock " + string(code) + " hsm"}, kept.log()); diff != "" {
			t.Errorf("three rounds left (-want +got):\n%s", diff)
		}
		onDevices := slices.DeleteFunc(slices.Clone(slots), func(s *Slot) bool { return !s.Kind.OnDevice() })
		if n := strings.Count(log.String(), "level=WARN"); n != len(onDevices) || !strings.Contains(log.String(), "does not open by its device") {
			t.Errorf("%d warnings:\n%s", n, log.String())
		}
		if err := k.UnlockPassphrase(ctx, who, secret.Bytes(phrase)); err != nil || derive(t, k, "x") != derived {
			t.Errorf("another way: %v", err)
		}
		if len(kept.slots) != len(slots) {
			t.Errorf("%d slots are left of %d", len(kept.slots), len(slots))
		}
	}
	first, second, people := m.slots[0], m.slots[1], m.slots[2]
	t.Run("another device", func(t *testing.T) { try(t, []*Slot{first, people}, right, fault.BackendUnavailable) })
	t.Run("another device under its name", func(t *testing.T) {
		try(t, []*Slot{first, people}, &switched{Device: right, known: left.ID()}, fault.KeyMaterial)
	})
	t.Run("unknown device", func(t *testing.T) {
		try(t, []*Slot{first, people}, &switched{Device: left, known: "hsm-unknown"}, fault.BackendUnavailable)
	})
	for name, change := range map[string]func(s *Slot){
		"id":              func(s *Slot) { s.ID = uuid.New() },
		"sealed":          func(s *Slot) { s.Sealed[len(s.Sealed)-1] ^= 1 },
		"sealed cut":      func(s *Slot) { s.Sealed = s.Sealed[:len(s.Sealed)-1] },
		"sealed empty":    func(s *Slot) { s.Sealed = nil },
		"sealed huge":     func(s *Slot) { s.Sealed = make([]byte, maxDeviceSealed+1) },
		"swapped":         func(s *Slot) { s.Sealed = slices.Clone(second.Sealed) },
		"same meaning":    func(s *Slot) { s.Params = append(s.Params, ' ') },
		"no parameters":   func(s *Slot) { s.Params = nil },
		"huge":            func(s *Slot) { s.Params = make([]byte, 1<<20) },
		"unknown member":  func(s *Slot) { s.Params = []byte(strings.Replace(string(s.Params), "{", `{"x":1,`, 1)) },
		"version":         func(s *Slot) { s.Params = []byte(strings.Replace(string(s.Params), `"v":1`, `"v":2`, 1)) },
		"no device":       func(s *Slot) { s.Params = []byte(`{"v":1,"device":""}`) },
		"unwritable name": func(s *Slot) { s.Params = []byte(`{"v":1,"device":"a b"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			s := *first
			s.Params, s.Sealed = slices.Clone(s.Params), slices.Clone(s.Sealed)
			change(&s)
			if cmp.Equal(s, *first) {
				t.Fatal("nothing was changed")
			}
			try(t, []*Slot{&s, people}, left, fault.KeyMaterial)
		})
	}
	t.Run("label", func(t *testing.T) { // it is not bound: for people
		s := *first
		s.Label = "another"
		kept := &memory{slots: []*Slot{&s}}
		k := keeper(t, kept)
		attach(t, k, "d", left)
		if err := k.UnlockDevices(ctx, who); err != nil {
			t.Error(err)
		}
	})
	// What the token sealed for something else is no slot.
	t.Run("sealed for something else", func(t *testing.T) {
		s := *first
		var err error
		if s.Sealed, err = left.Seal(ctx, make([]byte, Size), s.binding()); err != nil {
			t.Fatal(err)
		}
		try(t, []*Slot{&s, people}, left, fault.KeyMaterial)
	})
	t.Run("something else in it", func(t *testing.T) {
		s := *first
		var err error
		if s.Sealed, err = left.Seal(ctx, make([]byte, Size-1), s.deviceBinding()); err != nil {
			t.Fatal(err)
		}
		try(t, []*Slot{&s, people}, left, fault.KeyMaterial)
	})
	t.Run("cleared", func(t *testing.T) {
		for _, s := range hsm.ServiceKeys() {
			if s.Name == "sealing-gcm" {
				if err := left.token.Destroy(ctx, s.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		try(t, []*Slot{first, people}, left, fault.BackendUnavailable)
	})
}

// What would be a lock without a key is not made.
func TestDeviceSlotIsProven(t *testing.T) {
	ctx := t.Context()
	real, other := tokens(t)
	m, k := initialised(t)
	d := &switched{Device: real}
	attach(t, k, "d", d)
	attach(t, k, "nameless", &switched{Device: real, known: "a name with blanks"})
	attach(t, k, "new", unborn{other})
	m.log()
	for _, n := range []struct {
		slot NewSlot
		code fault.Code
	}{
		{NewSlot{Device: "none"}, fault.BackendNotFound},
		{NewSlot{Kind: KindHSM, Device: "none"}, fault.BackendNotFound},
		{NewSlot{Kind: KindHSM}, fault.MissingField},
		{NewSlot{Kind: KindPassphrase, Device: "d", Passphrase: secret.Bytes(phrase)}, fault.BadField},
		{NewSlot{Device: "nameless"}, fault.Internal},
		{NewSlot{Device: "new"}, fault.BackendUnavailable},
		{NewSlot{Device: "d", Label: "\n"}, fault.BadName},
	} {
		_, err := k.AddSlot(ctx, who, n.slot)
		want(t, err, n.code)
	}
	d.lies.Store(true)
	_, err := k.AddSlot(ctx, who, NewSlot{Device: "d"})
	want(t, err, fault.BackendUnavailable)
	d.lies.Store(false)
	d.away.Store(true)
	_, err = k.AddSlot(ctx, who, NewSlot{Device: "d"})
	want(t, err, fault.BackendUnavailable)
	fresh := new(memory)
	empty := keeper(t, fresh)
	attach(t, empty, "d", d)
	_, err = empty.Init(ctx, who, NewSlot{Device: "d"})
	want(t, err, fault.BackendUnavailable)
	if len(m.slots) != 1 || len(fresh.slots) != 0 || !empty.Locked() {
		t.Errorf("%d and %d slots", len(m.slots), len(fresh.slots))
	}
	d.away.Store(false)
	if _, err := k.AddSlot(ctx, who, NewSlot{Device: "d"}); err != nil {
		t.Error(err)
	}
	lines := m.log()
	if len(lines) != 10 || lines[0] != "root.slot.add ERR_BACKEND_NOT_FOUND unknown" || lines[8] != "root.slot.add ERR_BACKEND_UNAVAILABLE hsm" || lines[9] != "root.slot.add ok hsm" {
		t.Errorf("log %q", lines)
	}
	for _, bad := range []struct {
		name string
		kind Kind
		d    Device
	}{{"", KindHSM, real}, {"x", KindPassphrase, real}, {"x", "", real}, {"x", KindHSM, nil}} {
		if err := k.Attach(bad.name, bad.kind, bad.d); err == nil {
			t.Errorf("attached %q as %q", bad.name, bad.kind)
		}
	}
}

// unborn is a device that was not reached yet.
type unborn struct{ Device }

func (unborn) ID() string { return "" }

// The service unlocks itself when the device is back, soon, and without filling the log while it is away.
func TestAutoUnlock(t *testing.T) {
	real, _ := tokens(t)
	m, first := onDevice(t, real)
	derived := derive(t, first, "x")
	m.log()
	d := &switched{Device: real}
	d.away.Store(true)
	k := keeper(t, m)
	attach(t, k, "d", d)
	want(t, k.UnlockDevices(t.Context(), who), fault.BackendUnavailable)
	stop := k.AutoUnlock(who)
	for d.asked.Load() < 4 {
		time.Sleep(10 * time.Millisecond)
	}
	if !k.Locked() {
		t.Error("opened without its device")
	}
	if diff := cmp.Diff([]string{"root.unlock ERR_BACKEND_UNAVAILABLE hsm"}, m.log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	d.away.Store(false)
	start := time.Now()
	k.Wake()
	select {
	case <-k.Opened():
	case <-time.After(10 * time.Second):
		t.Fatal("it stays locked")
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("opened %v after it was woken", took)
	}
	if derive(t, k, "x") != derived {
		t.Error("another root")
	}
	stop()
	stop()
	if diff := cmp.Diff([]string{"root.unlock ok hsm"}, m.log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}

	// Without being woken.
	d.away.Store(true)
	again := keeper(t, m)
	attach(t, again, "d", d)
	defer again.AutoUnlock(who)()
	d.away.Store(false)
	select {
	case <-again.Opened():
	case <-time.After(lastRetry + time.Second):
		t.Error("it stays locked")
	}

	// It ends when it is told to, with the keeper, and with the root opened by somebody else.
	d.away.Store(true)
	stopped := keeper(t, m)
	attach(t, stopped, "d", d)
	stopped.AutoUnlock(who)()
	stopped.tries.Wait() // a call under way ends by itself
	asked := d.asked.Load()
	d.away.Store(false)
	time.Sleep(2 * firstRetry)
	if d.asked.Load() != asked || !stopped.Locked() {
		t.Error("it goes on after it was stopped")
	}
	closed := keeper(t, m)
	attach(t, closed, "d", d)
	closed.Close()
	closed.AutoUnlock(who)()
	if err := closed.UnlockDevices(t.Context(), who); err == nil || !closed.Locked() {
		t.Errorf("a closed keeper opens: %v", err)
	}
}

// A device that hangs holds up neither another one, nor people, nor the end.
func TestDeviceHangs(t *testing.T) {
	ctx := t.Context()
	left, right := tokens(t)
	m, k := onDevice(t, left)
	attach(t, k, "right", right)
	if _, err := k.AddSlot(ctx, who, NewSlot{Device: "right"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.AddSlot(ctx, who, passphraseSlot()); err != nil {
		t.Fatal(err)
	}
	stuck := &switched{Device: left}
	stuck.hangs.Store(true)
	both := keeper(t, m)
	attach(t, both, "left", stuck)
	attach(t, both, "right", right)
	start := time.Now()
	if err := both.UnlockDevices(ctx, who); err != nil || time.Since(start) > deviceTime/2 {
		t.Errorf("beside one that hangs: %v after %v", err, time.Since(start))
	}
	start = time.Now()
	both.Close()
	if took := time.Since(start); took > deviceTime/2 {
		t.Errorf("closing took %v", took)
	}

	one := keeper(t, m)
	attach(t, one, "left", stuck)
	stop := one.AutoUnlock(who)
	for asked := stuck.asked.Load(); stuck.asked.Load() == asked; {
		time.Sleep(time.Millisecond)
	}
	start = time.Now()
	if err := one.UnlockPassphrase(ctx, who, secret.Bytes(phrase)); err != nil || time.Since(start) > deviceTime/2 {
		t.Errorf("by hand: %v after %v", err, time.Since(start))
	}
	one.Close()
	stop()

	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	late := keeper(t, m)
	attach(t, late, "left", stuck)
	start = time.Now()
	want(t, late.UnlockDevices(short, who), fault.BackendUnavailable)
	if took := time.Since(start); took > deviceTime/2 {
		t.Errorf("the caller's deadline passed unseen: %v", took)
	}
	stuck.hangs.Store(false)
}

// A flood of guesses keeps people waiting, not the device.
func TestDeviceBesideGuesses(t *testing.T) {
	ctx := t.Context()
	real, _ := tokens(t)
	m, k := onDevice(t, real)
	if _, err := k.AddSlot(ctx, who, passphraseSlot()); err != nil {
		t.Fatal(err)
	}
	locked := keeper(t, m)
	attach(t, locked, "d", real)
	var wg sync.WaitGroup
	for range 4 * maxQueue {
		wg.Go(func() { _ = locked.UnlockPassphrase(ctx, who, secret.Bytes("a wrong passphrase")) }) // refused or overloaded
	}
	for len(locked.queue) < maxQueue {
		time.Sleep(time.Millisecond)
	}
	if err := locked.UnlockDevices(ctx, who); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// Nothing opens that the log cannot tell of.
func TestDeviceLogFails(t *testing.T) {
	ctx := t.Context()
	real, _ := tokens(t)
	m, _ := onDevice(t, real)
	locked := keeper(t, m)
	attach(t, locked, "d", real)
	m.breakLog(fault.New(fault.AuditUnavailable, "the log cannot be written"))
	want(t, locked.UnlockDevices(ctx, who), fault.AuditUnavailable)
	if !locked.Locked() {
		t.Error("it opened without a record")
	}
	stop := locked.AutoUnlock(who)
	defer stop()
	m.breakLog(nil)
	select {
	case <-locked.Opened():
	case <-time.After(lastRetry + time.Second):
		t.Error("it stays locked after the log came back")
	}
	m.down = fault.New(fault.StoreUnavailable, "down")
	blind := keeper(t, m)
	want(t, blind.UnlockDevices(ctx, who), fault.StoreUnavailable)
}
