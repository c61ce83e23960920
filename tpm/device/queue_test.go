package device_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm/device"
)

// TestOverload: on a slow TPM every call is done or refused before its deadline, refusals say when to try again and come early, and the
// TPM is never idle.
func TestOverload(t *testing.T) {
	const slow, callers, runFor, patience = 50 * time.Millisecond, 32, 4 * time.Second, 500 * time.Millisecond
	m := rig.SWTPM(t)
	p := m.Proxy(t)
	d := open(t, device.Options{URI: uri(t, p.URI)})
	k := signingKey(t, d)
	p.Slow(uint32(tpm2.TPMCCSign), slow)
	for range 10 { // the queue learns what a signature takes
		if _, _, err := k.sign(t.Context(), d, make([]byte, 32)); err != nil {
			t.Fatal(err)
		}
	}
	var signed, refused, late, early atomic.Int64
	start := time.Now()
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for time.Since(start) < runFor {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				begin := time.Now()
				_, _, err := k.sign(ctx, d, make([]byte, 32))
				took := time.Since(begin)
				cancel()
				if took > patience+100*time.Millisecond {
					t.Errorf("a call with %v took %v", patience, took)
				}
				var f *fault.Error
				switch {
				case err == nil:
					signed.Add(1)
				case errors.As(err, &f) && f.Code == fault.Overloaded && f.After > 0:
					if refused.Add(1); took < 100*time.Millisecond {
						early.Add(1)
					}
					time.Sleep(20 * time.Millisecond)
				case errors.As(err, &f) && f.Code == fault.Timeout:
					late.Add(1)
				default:
					t.Errorf("got %v", err)
				}
			}
		})
	}
	running.Wait()
	took := time.Since(start)
	rate := float64(signed.Load()) * slow.Seconds() / took.Seconds()
	t.Logf("%d signed, %.2f of the device's rate, %d refused, %d of them at once, %d late", signed.Load(), rate, refused.Load(), early.Load(), late.Load())
	if rate < 0.6 { // the machine is not the test's alone; the benchmark has the figure
		t.Errorf("the TPM was used for %.2f of the time", rate)
	}
	if early.Load()*10 < refused.Load()*9 {
		t.Errorf("only %d of %d refusals came at once", early.Load(), refused.Load())
	}
	if refused.Load() == 0 {
		t.Error("nothing was refused")
	}
}

// TestQueueBound: no more than Queue calls wait, and none longer than MaxWait.
func TestQueueBound(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, m.URI), Queue: 3, MaxWait: 200 * time.Millisecond})
	release, entered := make(chan struct{}), make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.Do(context.Background(), "hold", func(*device.Tx) error {
			close(entered)
			<-release
			return nil
		}); err != nil {
			t.Errorf("the holder: %v", err)
		}
	})
	<-entered
	for range 3 {
		running.Go(func() {
			start := time.Now()
			err := d.Ping(context.Background())
			checkFault(t, err, fault.Overloaded, true)
			if took := time.Since(start); took < 150*time.Millisecond || took > 2*time.Second {
				t.Errorf("a call waited %v, want 200 ms", took)
			}
		})
	}
	for d.Stats().Queued < 4 {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	checkFault(t, d.Ping(context.Background()), fault.Overloaded, true)
	if took := time.Since(start); took > 100*time.Millisecond {
		t.Errorf("a full queue took %v to refuse", took)
	}
	// Who leaves is not told of overload, and leaves at once.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	checkFault(t, d.Ping(ctx), fault.Timeout, false)
	time.Sleep(250 * time.Millisecond)
	close(release)
	running.Wait()
	if err := d.Ping(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if n := d.Stats().Queued; n != 0 {
		t.Errorf("%d are queued", n)
	}
}

// TestForecastMends: a forecast that is far too long does not lock anybody out of a TPM that is free.
func TestForecastMends(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, m.URI)})
	if err := d.Do(t.Context(), "work", func(*device.Tx) error { time.Sleep(300 * time.Millisecond); return nil }); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := d.Do(ctx, "work", func(*device.Tx) error { return nil })
		cancel()
		if err != nil {
			t.Fatalf("the TPM is free: %v", err)
		}
	}
}

func TestTransactionIsOver(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, m.URI)})
	var kept *device.Tx
	if err := d.Do(t.Context(), "keep", func(tx *device.Tx) error { kept = tx; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.ReadClock{}).Execute(kept); err == nil {
		t.Error("a transaction works after its end")
	}
	if err := d.Do(t.Context(), "short", func(tx *device.Tx) error { _, err := tx.Send([]byte{1, 2}); return err }); err == nil {
		t.Error("two octets were taken for a command")
	}
}

func TestMetrics(t *testing.T) {
	m := rig.SWTPM(t)
	r := prometheus.NewPedanticRegistry()
	d := open(t, device.Options{Name: "tpm0", URI: uri(t, m.URI), Registerer: r})
	k := signingKey(t, d)
	for range 3 {
		if _, _, err := k.sign(t.Context(), d, make([]byte, 32)); err != nil {
			t.Fatal(err)
		}
	}
	m.Cycle(t)
	if _, _, err := k.sign(t.Context(), d, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	want := `
# HELP keywright_tpm_breaker_open 1: the TPM is away and is sought.
# TYPE keywright_tpm_breaker_open gauge
keywright_tpm_breaker_open{backend="tpm0"} 0
# HELP keywright_tpm_load_hits_total Objects found loaded.
# TYPE keywright_tpm_load_hits_total counter
keywright_tpm_load_hits_total{backend="tpm0"} 3
# HELP keywright_tpm_loads_total Objects loaded.
# TYPE keywright_tpm_loads_total counter
keywright_tpm_loads_total{backend="tpm0"} 2
# HELP keywright_tpm_lockout 1: the TPM is in dictionary-attack lockout.
# TYPE keywright_tpm_lockout gauge
keywright_tpm_lockout{backend="tpm0"} 0
# HELP keywright_tpm_lockout_counter Wrong passwords that the TPM counts (TPM_PT_LOCKOUT_COUNTER).
# TYPE keywright_tpm_lockout_counter gauge
keywright_tpm_lockout_counter{backend="tpm0"} 0
# HELP keywright_tpm_lockout_max Wrong passwords after which it locks (TPM_PT_MAX_AUTH_FAIL).
# TYPE keywright_tpm_lockout_max gauge
keywright_tpm_lockout_max{backend="tpm0"} 3
# HELP keywright_tpm_resets_total Resets of the TPM.
# TYPE keywright_tpm_resets_total counter
keywright_tpm_resets_total{backend="tpm0"} 1
`
	err := testutil.GatherAndCompare(r, strings.NewReader(want), "keywright_tpm_breaker_open", "keywright_tpm_load_hits_total", "keywright_tpm_loads_total",
		"keywright_tpm_lockout", "keywright_tpm_lockout_counter", "keywright_tpm_lockout_max", "keywright_tpm_resets_total")
	if err != nil {
		t.Error(err)
	}
	for _, name := range []string{"keywright_tpm_queue_seconds", "keywright_tpm_device_seconds"} {
		if n, err := testutil.GatherAndCount(r, name); err != nil || n < 2 {
			t.Errorf("%s: %d series, %v", name, n, err)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if families, err := r.Gather(); err != nil || len(families) != 0 {
		t.Errorf("after Close: %d families, %v", len(families), err)
	}
}
