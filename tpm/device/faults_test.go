package device_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/softhsm-test/rig/tpmsim"
	"github.com/keywright/keywright/tpm/device"
)

// setOwner gives the owner hierarchy a password.
func setOwner(t *testing.T, m *rig.TPM, password string) {
	t.Helper()
	s := connect(t, m)
	defer s.c.Close()
	_, err := tpm2.HierarchyChangeAuth{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NewAuth: tpm2.TPM2BAuth{Buffer: []byte(password)}}.Execute(s)
	if err != nil {
		t.Fatal(err)
	}
}

func TestOwnerAuth(t *testing.T) {
	const password = "owner\x00with a zero"
	for _, handle := range []uint32{0, 0x81000001} {
		m := rig.SWTPM(t)
		setOwner(t, m, password)
		p := m.Proxy(t)
		p.Record()
		if d, err := device.Open(t.Context(), device.Options{URI: uri(t, p.URI), ParentHandle: handle, OwnerAuth: []byte("wrong")}); err == nil {
			d.Close()
			t.Error("a wrong password opened the TPM")
		} else {
			checkFault(t, err, fault.BackendUnavailable, false, device.ErrOwnerAuth)
		}
		d := open(t, device.Options{URI: uri(t, p.URI), ParentHandle: handle, OwnerAuth: []byte(password)})
		if i := d.Info(); !i.OwnerAuthSet || i.Lockout.Counter != 0 {
			t.Errorf("the TPM says %+v", i)
		}
		if err := d.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		for _, e := range p.Wire() {
			if bytes.Contains(e.Command, []byte(password)) {
				t.Errorf("the password is on the wire in command %#x", e.Code())
			}
		}
		// A persistent parent needs no password any more.
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if handle != 0 {
			name := d.ParentName()
			d := open(t, device.Options{URI: uri(t, p.URI), ParentHandle: handle, ParentName: name})
			if got := d.Info().ParentHandle; got != handle {
				t.Errorf("the parent is at %#x", got)
			}
		}
	}
}

func TestForeignAndCleared(t *testing.T) {
	t.Run("pinned", func(t *testing.T) { foreignAndCleared(t, true) })
	t.Run("first opening", func(t *testing.T) { foreignAndCleared(t, false) })
}

// foreignAndCleared has the TPM pinned by who opens it, or by the opening itself.
func foreignAndCleared(t *testing.T, byName bool) {
	m, other := rig.SWTPM(t), rig.SWTPM(t)
	p := m.Proxy(t)
	d, err := device.Open(t.Context(), device.Options{URI: uri(t, p.URI)})
	if err != nil {
		t.Fatal(err)
	}
	name := d.ParentName()
	ek, err := d.EKName(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	pinned := device.Options{URI: uri(t, p.URI), ParentName: name, EKName: ek, ParentHandle: 0x81000001}
	if !byName {
		pinned.ParentName, pinned.EKName = nil, nil
	}
	d = open(t, pinned)
	if got, err := d.EKName(t.Context()); err != nil || !bytes.Equal(got, ek) {
		t.Errorf("the endorsement key: %x, %v", got, err)
	}
	k := signingKey(t, d)

	// Another TPM is put behind the socket while the device is open.
	p.Behind(other)
	wrong := func(cause error) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			_, _, err := k.sign(t.Context(), d, make([]byte, 32))
			if errors.Is(err, cause) {
				checkFault(t, err, fault.BackendUnavailable, false, cause)
				return
			}
			if time.Now().After(end) {
				t.Fatalf("got %v, want %v", err, cause)
			}
		}
	}
	wrong(device.ErrForeign)
	if d2, err := device.Open(t.Context(), device.Options{URI: uri(t, other.URI), ParentName: name}); err == nil {
		d2.Close()
		t.Error("a foreign TPM was opened")
	} else {
		checkFault(t, err, fault.BackendUnavailable, false, device.ErrForeign)
	}
	s := connect(t, other)
	for _, first := range []uint32{0x80000000, 0x02000000, 0x81000000} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 9}.Execute(s)
		if err != nil {
			t.Fatal(err)
		}
		if list, err := rsp.CapabilityData.Data.Handles(); err != nil || len(list.Handle) != 0 {
			t.Errorf("in the foreign TPM there is %v (%v)", list, err)
		}
	}
	s.c.Close()

	// The right one again: nothing is lost.
	p.Behind(m)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, _, err := k.sign(t.Context(), d, make([]byte, 32)); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the right TPM again: %v", err)
		}
	}

	// Somebody clears it.
	err = d.Do(t.Context(), "clear", func(tx *device.Tx) error {
		_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(tx)
		return err
	})
	if err != nil {
		t.Logf("clearing: %v", err)
	}
	wrong(device.ErrCleared)
}

func TestNVFull(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, m.URI)})
	var err error
	for i := range 400 {
		err = d.Do(t.Context(), "define", func(tx *device.Tx) error {
			_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
				PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: tpm2.TPMHandle(0x01800000 + i), NameAlg: tpm2.TPMAlgSHA256, DataSize: 2000,
					Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, NoDA: true}})}.Execute(tx)
			return err
		})
		if err != nil {
			break
		}
	}
	checkFault(t, err, fault.Overloaded, false, device.ErrNVFull)
	name := d.ParentName()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	// Without room for the parent it is kept loaded, and is the same one.
	d = open(t, device.Options{URI: uri(t, m.URI), ParentHandle: 0x81000001, ParentName: name})
	k := signingKey(t, d)
	m.Cycle(t)
	if _, _, err := k.sign(t.Context(), d, make([]byte, 32)); err != nil {
		t.Error(err)
	}
}

func TestLockout(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, m.URI), WatchEvery: 20 * time.Millisecond})
	guess := func() error {
		return d.Do(t.Context(), "guess", func(tx *device.Tx) error {
			// An index under protection, with a password.
			index := tpm2.TPMSNVPublic{NVIndex: 0x01800001, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8, Attributes: tpm2.TPMANV{AuthRead: true, AuthWrite: true}}
			name, err := tpm2.NVName(&index)
			if err != nil {
				return err
			}
			handle := tpm2.NamedHandle{Handle: index.NVIndex, Name: *name}
			_, err = tpm2.NVWrite{AuthHandle: tx.Auth(handle, []byte("wrong"), device.In), NVIndex: handle, Data: tpm2.TPM2BMaxNVBuffer{Buffer: make([]byte, 8)}}.Execute(tx)
			return err
		})
	}
	err := d.Do(t.Context(), "define", func(tx *device.Tx) error {
		_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tx.Salted(nil, device.In)}, Auth: tpm2.TPM2BAuth{Buffer: []byte("right")},
			PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: 0x01800001, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8, Attributes: tpm2.TPMANV{AuthRead: true, AuthWrite: true}})}.Execute(tx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := guess(); !errors.Is(err, tpm2.TPMRCAuthFail) {
		t.Fatalf("a wrong password: %v", err)
	}
	for range 10 {
		if err = guess(); errors.Is(err, device.ErrLockout) {
			break
		}
	}
	checkFault(t, err, fault.BackendUnavailable, true, device.ErrLockout)
	for end := time.Now().Add(5 * time.Second); !d.Stats().Lockout.Locked; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the lockout is not seen: %+v", d.Stats())
		}
	}
	// What is not under protection works.
	if _, _, err := signingKey(t, d).sign(t.Context(), d, make([]byte, 32)); err != nil {
		t.Errorf("a key without protection: %v", err)
	}
}

// TestGone: a TPM that goes away is an error at once, and is found again when it is back.
func TestGone(t *testing.T) {
	m := rig.SWTPM(t)
	p := m.Proxy(t)
	d := open(t, device.Options{URI: uri(t, p.URI)})
	k := signingKey(t, d)
	p.Away()
	for i := range 20 {
		start := time.Now()
		_, _, err := k.sign(t.Context(), d, make([]byte, 32))
		checkFault(t, err, fault.BackendUnavailable, true, device.ErrGone)
		if took := time.Since(start); i > 0 && took > time.Second {
			t.Errorf("it took %v to say so", took)
		}
	}
	if !d.Stats().Down {
		t.Error("it is not down")
	}
	p.Back()
	back := time.Now()
	for {
		if _, _, err := k.sign(t.Context(), d, make([]byte, 32)); err == nil {
			break
		}
		if time.Since(back) > 2*time.Second {
			t.Fatal("it is not found again within two seconds")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := device.Open(t.Context(), device.Options{URI: uri(t, "tpm:unix:/nowhere/socket")}); err == nil {
		t.Error("a TPM that is not there was opened")
	} else {
		checkFault(t, err, fault.BackendUnavailable, true, device.ErrGone)
	}
	if _, err := device.Open(t.Context(), device.Options{URI: uri(t, "tpm:/dev/null")}); err == nil {
		t.Error("/dev/null was opened")
	}
}

// TestFrozen: a TPM that does not answer costs its callers their deadline and no more. It is taken for gone after CommandTimeout.
func TestFrozen(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, m.URI), CommandTimeout: 700 * time.Millisecond})
	k := signingKey(t, d)
	m.Freeze(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, _, err := k.sign(ctx, d, make([]byte, 32))
	checkFault(t, err, fault.Timeout, false)
	if took := time.Since(start); took > 400*time.Millisecond {
		t.Errorf("a deadline of 100 ms took %v", took)
	}
	// The next ones wait for a TPM that still has a command.
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	checkFault(t, d.Ping(ctx), fault.Overloaded, true)
	for end := time.Now().Add(5 * time.Second); !d.Stats().Down; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is not taken for gone")
		}
	}
	m.Thaw(t)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, _, err := k.sign(t.Context(), d, make([]byte, 32)); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("it does not come back: %v", err)
		}
	}
	leftNothing(t, d)

	// A command that is late but answers is followed by the next one, on the same line.
	trips := d.Stats().Trips
	m.Freeze(t)
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = k.sign(ctx, d, make([]byte, 32))
	checkFault(t, err, fault.Timeout, false)
	m.Thaw(t)
	if _, _, err := k.sign(t.Context(), d, make([]byte, 32)); err != nil {
		t.Error(err)
	}
	if d.Stats().Trips != trips {
		t.Error("a late answer broke the line")
	}
}

// TestClose: after Close nothing runs and nothing works, even when the TPM hangs.
func TestClose(t *testing.T) {
	m := rig.SWTPM(t)
	for _, how := range []string{"idle", "frozen", "frozen in a command"} {
		frozen := how != "idle"
		before := runtime.NumGoroutine()
		d, err := device.Open(t.Context(), device.Options{URI: uri(t, m.URI)})
		if err != nil {
			t.Fatal(err)
		}
		k := signingKey(t, d)
		if frozen {
			m.Freeze(t)
		}
		if how == "frozen in a command" {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, _, err := k.sign(ctx, d, make([]byte, 32))
			checkFault(t, err, fault.Timeout, false)
		}
		waiting := make(chan error, 1)
		go func() { waiting <- d.Do(context.Background(), "wait", func(*device.Tx) error { return nil }) }()
		start := time.Now()
		// A line that was cut is closed already; what that says is not the test's matter.
		_ = d.Close()
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("%s: closing took %v", how, took)
		}
		if err := <-waiting; err != nil {
			checkFault(t, err, fault.BackendUnavailable, false)
		}
		checkFault(t, d.Ping(t.Context()), fault.BackendUnavailable, false)
		if frozen {
			m.Thaw(t)
		}
		for end := time.Now().Add(3 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<16)
				t.Fatalf("%s: goroutines are left:\n%s", how, stacks[:runtime.Stack(stacks, true)])
			}
		}
	}
}

// TestPCRChanged: a policy that was overtaken by a PCR is tried again.
func TestPCRChanged(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, m.URI)})
	runs := 0
	err := d.Do(t.Context(), "pcr", func(*device.Tx) error {
		if runs++; runs < 3 {
			return tpm2.TPMRCPCRChanged
		}
		return nil
	})
	if err != nil || runs != 3 {
		t.Errorf("%d runs, %v", runs, err)
	}
	runs = 0
	err = d.Do(t.Context(), "pcr", func(*device.Tx) error { runs++; return tpm2.TPMRCPCRChanged })
	if !errors.Is(err, tpm2.TPMRCPCRChanged) || runs != 4 {
		t.Errorf("%d runs, %v", runs, err)
	}
}

// TestFailureMode: a TPM in failure mode says so.
func TestFailureMode(t *testing.T) {
	m := rig.SWTPM(t)
	p := m.Proxy(t)
	d := open(t, device.Options{URI: uri(t, p.URI)})
	p.Intercept(func([]byte) rig.TPMFault { return rig.TPMFault{Answer: rig.TPMRefusal(uint32(tpm2.TPMRCFailure))} })
	checkFault(t, d.Ping(t.Context()), fault.BackendUnavailable, false, device.ErrFailed)
	p.Intercept(nil)
	for end := time.Now().Add(5 * time.Second); d.Ping(t.Context()) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come back")
		}
	}
}

// TestInterposer: a response that was not made by the pinned TPM is not believed, and costs one session.
func TestInterposer(t *testing.T) {
	m := rig.SWTPM(t)
	p := m.Proxy(t)
	d := open(t, device.Options{URI: uri(t, p.URI)})
	random := func() ([]byte, error) {
		var out []byte
		err := d.Do(t.Context(), "random", func(tx *device.Tx) error {
			rsp, err := tpm2.GetRandom{BytesRequested: 16}.Execute(tx, tx.Salted(nil, device.Out))
			if err == nil {
				out = rsp.RandomBytes.Buffer
			}
			return err
		})
		return out, err
	}
	p.Record()
	out, err := random()
	if err != nil || len(out) != 16 {
		t.Fatal(out, err)
	}
	for _, e := range p.Wire() {
		if bytes.Contains(e.Response, out) {
			t.Error("random octets are on the wire in the clear")
		}
	}
	var forged []byte
	for _, e := range p.Wire() {
		if e.Code() == uint32(tpm2.TPMCCGetRandom) {
			forged = bytes.Clone(e.Response)
		}
	}
	p.Intercept(func(c []byte) (f rig.TPMFault) {
		if binary.BigEndian.Uint32(c[6:]) == uint32(tpm2.TPMCCGetRandom) {
			f.Answer = forged // a replay
		}
		return f
	})
	if _, err := random(); err == nil || !strings.Contains(err.Error(), "not authentic") {
		t.Errorf("a replayed response: %v", err)
	}
	p.Intercept(nil)
	if _, err := random(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	leftNothing(t, d)
}

func TestSimulator(t *testing.T) {
	m := tpmsim.Start(t)
	d := open(t, device.Options{URI: uri(t, m.URI), ParentHandle: 0x81000001})
	k := signingKey(t, d)
	for i := range 10 {
		digest := bytes.Repeat([]byte{byte(i)}, 32)
		r, s, err := k.sign(t.Context(), d, digest)
		if err != nil || !k.verifies(t, digest, r, s) {
			t.Fatalf("signing: %v", err)
		}
	}
	i := d.Info()
	if i.Manufacturer == "" || i.ParentHandle != 0x81000001 || len(i.ParentName) != 34 || !i.HasCurve(tpm2.TPMECCNistP256) || !i.Has(tpm2.TPMCCSign) || !i.HasAlgorithm(tpm2.TPMAlgECDSA) {
		t.Errorf("it says %+v", i)
	}
	leftNothing(t, d)
}
