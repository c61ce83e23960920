package device_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm/device"
)

// TestNothingLeft: after ten thousand operations through a line that refuses, delays and breaks, by functions that fail and panic, the
// TPM has nothing loaded but what the device keeps, and nothing at all after Close, as the TPM itself and another program see it.
func TestNothingLeft(t *testing.T) {
	const operations, workers = 10_000, 4
	m := rig.SWTPM(t)
	p := m.Proxy(t)
	d, err := device.Open(t.Context(), device.Options{URI: uri(t, p.URI), RetryFor: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var closing sync.Once
	closeIt := func() {
		closing.Do(func() {
			if err := d.Close(); err != nil {
				t.Errorf("closing: %v", err)
			}
		})
	}
	defer closeIt()
	keys := []key{signingKey(t, d), signingKey(t, d), signingKey(t, d), signingKey(t, d)}
	var injected atomic.Int64
	random := rand.New(rand.NewPCG(1, 2)) // guarded by the proxy
	refusals := []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory,
		tpm2.TPMRCMemory, tpm2.TPMRCSessionHandles, tpm2.TPMRCReferenceH0, tpm2.TPMRCReferenceS0, tpm2.TPMRCCanceled, tpm2.TPMRCNVRate,
		tpm2.TPMRCValue, tpm2.TPMRCAuthFail}
	p.Intercept(func([]byte) (f rig.TPMFault) {
		switch n := random.IntN(1000); {
		case n < 10:
			f.Answer = rig.TPMRefusal(uint32(refusals[random.IntN(len(refusals))]))
		case n < 14:
			f.Delay = 15 * time.Millisecond
		case n < 15:
			f.CutBefore = true
		case n < 16:
			f.CutAfter = true
		default:
			return f
		}
		injected.Add(1)
		return f
	})
	failure := errors.New("the function's own failure")
	var left atomic.Int64
	var succeeded, failed, starved atomic.Int64
	left.Store(operations)
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 3))
			for left.Add(-1) >= 0 {
				k := keys[random.IntN(len(keys))]
				way := random.IntN(12)
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
				if way < 11 {
					ctx, cancel = context.WithTimeout(context.Background(), 10*time.Second)
				}
				err := attempt(ctx, d, k, way, failure)
				cancel()
				if err != nil {
					failed.Add(1)
					if fault.Has(err, fault.Overloaded) && (errors.Is(err, tpm2.TPMRCObjectMemory) || errors.Is(err, tpm2.TPMRCSessionMemory)) {
						starved.Add(1)
					}
					time.Sleep(time.Millisecond)
				} else {
					succeeded.Add(1)
				}
			}
		})
	}
	running.Wait()
	p.Intercept(nil)
	t.Logf("%d succeeded, %d failed, %d without room, %d faults injected, %d commands, %+v", succeeded.Load(), failed.Load(), starved.Load(), injected.Load(), p.Commands(), d.Stats())
	if succeeded.Load() < operations/2 || injected.Load() < operations/100 {
		t.Error("too few operations succeeded, or too few faults were injected, for the test to say anything")
	}
	if n := starved.Load(); n > injected.Load()/8 { // those that were made up
		t.Errorf("%d operations found no room", n)
	}
	for end := time.Now().Add(5 * time.Second); d.Ping(t.Context()) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the device does not come back")
		}
	}
	leftNothing(t, d)
	closeIt()

	s := connect(t, m)
	for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 100}.Execute(s)
		if err != nil {
			t.Fatal(err)
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Handle) > 0 {
			t.Errorf("left over: %x", list.Handle)
		}
	}
	s.c.Close()
	for _, kind := range []string{"handles-transient", "handles-loaded-session", "handles-saved-session"} {
		out, err := exec.CommandContext(t.Context(), "tpm2_getcap", "-T", "swtpm:path="+strings.TrimPrefix(m.URI, "tpm:unix:"), kind).CombinedOutput()
		if err != nil {
			t.Fatalf("tpm2_getcap: %v: %s", err, out)
		}
		if len(strings.TrimSpace(string(out))) > 0 {
			t.Errorf("tpm2_getcap %s: %s", kind, out)
		}
	}
}

// TestSlots: a transaction gets every slot but the parent's, whatever others left loaded, and is told when there is none.
func TestSlots(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, m.URI)})
	keys := []key{signingKey(t, d), signingKey(t, d), signingKey(t, d), signingKey(t, d), signingKey(t, d)}
	loadAll := func(keys ...key) error {
		return d.Do(t.Context(), "load", func(tx *device.Tx) error {
			seen := map[tpm2.TPMHandle]bool{tx.Parent().Handle: true}
			for _, k := range keys {
				h, err := tx.Load(k.private, k.public)
				if err != nil {
					return err
				}
				if seen[h.Handle] {
					t.Errorf("%#x was given twice", h.Handle)
				}
				seen[h.Handle] = true
			}
			return nil
		})
	}
	for range 3 {
		if err := loadAll(keys[0], keys[1]); err != nil {
			t.Errorf("two keys: %v", err)
		}
		if err := loadAll(keys[2], keys[3]); err != nil {
			t.Errorf("two others: %v", err)
		}
		checkFault(t, loadAll(keys[4], keys[0], keys[1]), "ERR_OVERLOADED", true)
		leftNothing(t, d)
	}
	before := d.Stats()
	for range 10 {
		if err := loadAll(keys[0], keys[1]); err != nil {
			t.Error(err)
		}
	}
	if after := d.Stats(); after.Loads-before.Loads > 2 || after.Hits-before.Hits < 18 {
		t.Errorf("two keys in turn: %d loads, %d hits", after.Loads-before.Loads, after.Hits-before.Hits)
	}
	// One that is forgotten is not loaded any more.
	err := d.Do(t.Context(), "forget", func(tx *device.Tx) error {
		if err := tx.Forget(keys[0].private); err != nil {
			return err
		}
		objects, err := tx.Handles(0x80000000)
		if len(objects) != 2 {
			t.Errorf("loaded are %x", objects)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// attempt is one operation, one of twelve kinds.
func attempt(ctx context.Context, d *device.Device, k key, way int, failure error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if e, is := p.(error); !is || !errors.Is(e, failure) {
				panic(p)
			}
			err = failure
		}
	}()
	return d.Do(ctx, "attempt", func(tx *device.Tx) error {
		if way == 0 { // a sequence object that is left
			if _, err := (tpm2.HashSequenceStart{HashAlg: tpm2.TPMAlgSHA256}).Execute(tx); err != nil {
				return err
			}
			return nil
		}
		if way == 1 { // a policy session that is left, and one that is closed
			_, end, err := tpm2.PolicySession(tx, tpm2.TPMAlgSHA256, 16, tx.SaltOptions(device.In)...)
			if err != nil {
				return err
			}
			if _, _, err = tpm2.PolicySession(tx, tpm2.TPMAlgSHA256, 16); err != nil {
				return err
			}
			return end()
		}
		h, err := tx.Load(k.private, k.public)
		if err != nil {
			return err
		}
		switch way {
		case 2:
			return failure
		case 3:
			panic(failure)
		case 4: // a load past the device's knowledge
			_, err = tpm2.LoadExternal{InPublic: k.public, Hierarchy: tpm2.TPMRHOwner}.Execute(tx)
			return err
		case 5: // flushed by the function itself
			_, err = tpm2.FlushContext{FlushHandle: h.Handle}.Execute(tx)
			return err
		case 6: // a session of one command
			_, err = tpm2.GetRandom{BytesRequested: 8}.Execute(tx, tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.AESEncryption(128, tpm2.EncryptOut)))
			return err
		case 7:
			return tx.Forget(k.private)
		case 8:
			_, err = tpm2.Sign{KeyHandle: tx.Auth(h, k.auth, device.In), Digest: tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
				Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}.Execute(tx)
			return err
		}
		_, err = tpm2.GetRandom{BytesRequested: 8}.Execute(tx, tx.Salted(nil, device.Out))
		return err
	})
}

// TestRetries: what a TPM answers when it is busy with itself is waited out.
func TestRetries(t *testing.T) {
	m := rig.SWTPM(t)
	p := m.Proxy(t)
	d := open(t, device.Options{URI: uri(t, p.URI), RetryFor: 300 * time.Millisecond})
	k := signingKey(t, d)
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate} {
		n := 0
		p.Intercept(func(c []byte) (f rig.TPMFault) {
			if binary.BigEndian.Uint32(c[6:]) == uint32(tpm2.TPMCCSign) {
				if n++; n <= 3 {
					f.Answer = rig.TPMRefusal(uint32(rc))
				}
			}
			return f
		})
		before := d.Stats().Retries
		if _, _, err := k.sign(t.Context(), d, make([]byte, 32)); err != nil {
			t.Errorf("%v three times: %v", rc, err)
		}
		if got := d.Stats().Retries - before; got != 3 {
			t.Errorf("%v: %d retries, want 3", rc, got)
		}
	}
	// One that wants to test itself is told to.
	tested := false
	p.Intercept(func(c []byte) (f rig.TPMFault) {
		switch cc := binary.BigEndian.Uint32(c[6:]); {
		case cc == uint32(tpm2.TPMCCSelfTest):
			tested = true
		case cc == uint32(tpm2.TPMCCSign) && !tested:
			f.Answer = rig.TPMRefusal(uint32(tpm2.TPMRCNeedsTest))
		}
		return f
	})
	if _, _, err := k.sign(t.Context(), d, make([]byte, 32)); err != nil || !tested {
		t.Errorf("TPM_RC_NEEDS_TEST: %v", err)
	}
	// Without end it is given up in time, and the next operation is as ever.
	p.Intercept(func([]byte) rig.TPMFault { return rig.TPMFault{Answer: rig.TPMRefusal(uint32(tpm2.TPMRCRetry))} })
	start := time.Now()
	err := d.Ping(t.Context())
	checkFault(t, err, "ERR_OVERLOADED", true)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	p.Intercept(nil)
	if err := d.Ping(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
