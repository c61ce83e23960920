package device_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/softhsm-test/rig/tpmsim"
	"github.com/keywright/keywright/tpm/device"
)

// load signs from several goroutines until stop is called, which gives the number of signatures, and when errors came. Every error
// must be one that tells the caller to try again, and every signature must verify.
func load(t *testing.T, d *device.Device, keys []key) (signed *atomic.Int64, stop func() (first, last time.Time, failed int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	signed = new(atomic.Int64)
	var mu sync.Mutex
	var first, last time.Time
	failed := 0
	var running sync.WaitGroup
	for i := range 8 {
		k := keys[i%len(keys)]
		digest := sha256.Sum256([]byte{byte(i)})
		running.Go(func() {
			for ctx.Err() == nil {
				c, done := context.WithTimeout(context.Background(), 20*time.Second)
				r, s, err := k.sign(c, d, digest[:])
				done()
				if err == nil {
					if !k.verifies(t, digest[:], r, s) {
						t.Error("a signature does not verify")
					}
					signed.Add(1)
					continue
				}
				var f *fault.Error
				if !errors.As(err, &f) || f.After <= 0 || f.Code != fault.BackendUnavailable && f.Code != fault.Overloaded {
					t.Errorf("an error that does not say when to try again: %v", err)
				}
				mu.Lock()
				if last = time.Now(); first.IsZero() {
					first = last
				}
				failed++
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return signed, func() (time.Time, time.Time, int) {
		cancel()
		running.Wait()
		return first, last, failed
	}
}

// progress waits until n more signatures have been made.
func progress(t *testing.T, signed *atomic.Int64, n int64) {
	t.Helper()
	for want, end := signed.Load()+n, time.Now().Add(30*time.Second); signed.Load() < want; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no more signatures are made")
		}
	}
}

// TestPowerCycleUnderLoad: a power cycle costs errors that say when to try again, for two seconds at most, and nothing else.
func TestPowerCycleUnderLoad(t *testing.T) {
	const allowed = 2 * time.Second
	run := func(t *testing.T, uriText string, handle uint32, cycle func(t *testing.T)) {
		d := open(t, device.Options{URI: uri(t, uriText), ParentHandle: handle})
		keys := []key{signingKey(t, d), signingKey(t, d), signingKey(t, d)}
		signed, stop := load(t, d, keys)
		for range 3 {
			progress(t, signed, 20)
			cycle(t)
		}
		progress(t, signed, 20)
		cycled := d.Stats()
		_, _, failed := stop()
		if cycled.Resets+cycled.Trips < 3 {
			t.Errorf("three power cycles, but %d resets and %d trips were seen", cycled.Resets, cycled.Trips)
		}
		t.Logf("%d signatures, %d errors, %+v", signed.Load(), failed, cycled)

		// One more, alone, for the time.
		signed, stop = load(t, d, keys)
		progress(t, signed, 10)
		cycle(t)
		progress(t, signed, 50)
		first, last, _ := stop()
		if took := last.Sub(first); took > allowed {
			t.Errorf("errors for %v", took)
		}
		leftNothing(t, d)
	}
	t.Run("swtpm", func(t *testing.T) {
		t.Parallel()
		m := rig.SWTPM(t)
		run(t, m.URI, 0, func(t *testing.T) { m.Cycle(t) })
	})
	t.Run("swtpm, persistent parent", func(t *testing.T) {
		t.Parallel()
		m := rig.SWTPM(t)
		run(t, m.URI, 0x81000001, func(t *testing.T) { m.Cycle(t) })
	})
	t.Run("swtpm over TCP, process killed", func(t *testing.T) {
		t.Parallel()
		m := rig.TCPSWTPM(t)
		run(t, m.URI, 0, func(t *testing.T) { m.Kill(t); m.Start(t) })
	})
	t.Run("simulator", func(t *testing.T) {
		t.Parallel()
		m := tpmsim.Start(t)
		run(t, m.URI, 0, func(t *testing.T) { m.Cycle(t) })
	})
}

// leftNothing compares what is loaded with what may be: the parent and one session, when nothing is kept for speed.
func leftNothing(t testing.TB, d *device.Device) {
	t.Helper()
	var objects, sessions []uint32
	err := d.Do(t.Context(), "list", func(tx *device.Tx) (err error) {
		if err = tx.Room(2); err != nil { // flushes what is kept: there are three slots
			return err
		}
		if objects, err = tx.Handles(0x80000000); err != nil {
			return err
		}
		sessions, err = tx.Handles(0x02000000)
		return err
	})
	if err != nil {
		t.Fatalf("listing what is loaded: %v", err)
	}
	parent := d.Info().ParentHandle
	objects = slices.DeleteFunc(objects, func(h uint32) bool { return h == parent })
	if len(objects) > 0 || len(sessions) > 1 {
		t.Errorf("left over are %x and %x", objects, sessions)
	}
}

// TestResetUnnoticed: a TPM that was reset while nobody looked loses nothing, with an effect or without.
func TestResetUnnoticed(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, m.URI)})
	k := signingKey(t, d)
	digest := sha256.Sum256(nil)
	for range 5 {
		if _, _, err := k.sign(t.Context(), d, digest[:]); err != nil {
			t.Fatal(err)
		}
		m.Cycle(t)
		if _, _, err := k.sign(t.Context(), d, digest[:]); err != nil {
			t.Errorf("the first signature after a reset: %v", err)
		}
	}
	if got := d.Stats().Resets; got != 5 {
		t.Errorf("%d resets were counted, want 5", got)
	}
}

// TestResetAfterEffect: what may have been done is not done again.
func TestResetAfterEffect(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, m.URI)})
	runs := 0
	err := d.Do(t.Context(), "effect", func(tx *device.Tx) error {
		runs++
		_, err := tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(16), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}}}.Execute(tx)
		if err != nil {
			return err
		}
		m.Cycle(t)
		_, err = tpm2.ReadClock{}.Execute(tx)
		return err
	})
	var f *fault.Error
	if !errors.Is(err, device.ErrReset) || !errors.As(err, &f) || f.After <= 0 || f.Code != fault.BackendUnavailable {
		t.Errorf("got %v, want a fault with ErrReset and a time to try again", err)
	}
	if runs != 1 {
		t.Errorf("it was run %d times", runs)
	}
	if err := d.Ping(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestOwnMistake: a handle that a function made up is its own error, and no reset.
func TestOwnMistake(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, m.URI)})
	runs := 0
	err := d.Do(t.Context(), "mistake", func(tx *device.Tx) error {
		runs++
		_, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x80000002)}.Execute(tx)
		return err
	})
	if !errors.Is(err, tpm2.TPMRCReferenceH0) || runs != 2 {
		t.Errorf("%d runs, %v", runs, err)
	}
	if s := d.Stats(); s.Resets != 0 || s.Trips != 0 {
		t.Errorf("it was taken for more: %+v", s)
	}
}
