package remote

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestSlowIsNotHung has a device whose every signature takes longer than its callers wait: all of them give up, and no process is killed. When it
// hangs after that, one is.
func TestSlowIsNotHung(t *testing.T) {
	t.Parallel()
	f := rig.Fault(t, rig.SoftHSM(t))
	o := quickly(1)
	s := openApart(t, f.Part, o)
	k := newSigner(t, s)
	f.Delay(t, "C_Sign", 700*time.Millisecond)
	var late atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * 87 * time.Millisecond) // so that some come to an end all the while
			for range 4 {
				if err := k.sign(500 * time.Millisecond); fault.Has(err, fault.Timeout) {
					late.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if late.Load() < 16 {
		t.Errorf("only %d of 32 callers gave up: the device is not slow", late.Load())
	}
	if c := s.Counters(); c.Kills+c.Crashes+c.Restarts != 0 {
		t.Errorf("a device that is slow was taken for one that hangs: %+v", c)
	}
	f.Clear(t)
	eventually(t, "the device is quick again", func() bool { return k.sign(time.Second) == nil })
	f.Hang(t, "C_Sign")
	if err := k.sign(time.Second); !fault.Has(err, fault.Timeout) {
		t.Errorf("a call that hangs: %v", err)
	}
	eventually(t, "the process that hangs is killed", func() bool { return s.Counters().Kills == 1 })
	f.Clear(t)
	eventually(t, "operations succeed", func() bool { return k.sign(time.Second) == nil })
}

// TestCallLimit has patient callers of a module that hangs: they are answered after Options.CallTimeout, and the token works again soon after.
func TestCallLimit(t *testing.T) {
	t.Parallel()
	f := rig.Fault(t, rig.SoftHSM(t))
	o := quickly(1)
	o.CallTimeout = 700 * time.Millisecond
	s := openApart(t, f.Part, o)
	k := newSigner(t, s)
	f.Hang(t, "C_Sign", "times=3")
	start := time.Now()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			err := k.sign(time.Minute)
			if !fault.Has(err, fault.Timeout) && !fault.Has(err, fault.BackendUnavailable) {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
			if after(err) <= 0 {
				t.Errorf("no time to try again in: %v", err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took < o.CallTimeout || took > 20*time.Second {
		t.Errorf("the callers were answered after %v", took)
	}
	took := eventually(t, "operations succeed", func() bool { return k.sign(time.Second) == nil })
	t.Logf("operations succeeded %v after the callers were answered", took)
}

// TestHangsWhileOpening has a module that hangs once while a process opens the token anew: the next attempt does not wait for Options.OpenTimeout.
func TestHangsWhileOpening(t *testing.T) {
	t.Parallel()
	f := rig.Fault(t, rig.SoftHSM(t))
	s := openApart(t, f.Part, quickly(1))
	k := newSigner(t, s)
	f.Hang(t, "C_Initialize", "times=1")
	f.Crash(t, "C_Sign", "kill", "times=1")
	if err := k.sign(time.Second); err == nil {
		t.Error("the module has signed and ended")
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second) // under the 30 s
	defer cancel()
	for k.sign(time.Second) != nil {
		if ctx.Err() != nil {
			t.Fatal("the hanging process was waited for")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if c := s.Counters(); c.FailedStarts == 0 {
		t.Errorf("nothing hung: %+v", c)
	}
	t.Logf("operations succeeded after %v", time.Since(start))
}

// TestTempo checks what is allowed to children by how their predecessors did.
func TestTempo(t *testing.T) {
	t.Parallel()
	const most = 30 * time.Second
	var c tempo
	if got := c.openingLimit(most); got != most {
		t.Errorf("the first opening may take %v", got)
	}
	next := func(took time.Duration) *link {
		l := &link{grace: 500 * time.Millisecond}
		c.opened(l, took, most)
		return l
	}
	l := next(time.Second)
	if got := c.openingLimit(most); got != 3*time.Second || l.patient() != time.Second {
		t.Errorf("after an opening in a second the next may take %v, and the grace is %v", got, l.patient())
	}
	c.notOpened(errSlowOpening)
	c.notOpened(errSlowOpening)
	c.notOpened(errLost)
	if got := c.openingLimit(most); got != 12*time.Second {
		t.Errorf("after two that took longer the next may take %v", got)
	}
	for range 10 {
		c.notOpened(errSlowOpening)
	}
	if got := c.openingLimit(most); got != most {
		t.Errorf("the limit grows to %v", got)
	}
	if l = next(time.Second); l.patient() != time.Second || c.openingLimit(most) != 3*time.Second {
		t.Errorf("after one that succeeded: %v, %v", l.patient(), c.openingLimit(most))
	}
	for i, want := range []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, mostPatience, mostPatience} {
		l.cause = errHung
		c.ended(l)
		if l = next(time.Second); l.patient() != want {
			t.Errorf("after %d that hung without a success the grace is %v, not %v", i+1, l.patient(), want)
		}
	}
	l.good.Add(1)
	l.cause = errHung
	c.ended(l)
	if l = next(time.Minute); l.patient() != mostSlowness {
		t.Errorf("after one that did something the grace is %v", l.patient())
	}
}
