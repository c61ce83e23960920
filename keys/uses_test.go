package keys_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

const gcmLimit = 1 << 32

// protected counts that a version has protected so much already.
func (e *env) protected(key uuid.UUID, version uint32, messages, bytes int64) {
	e.t.Helper()
	entry := audit.Entry{Principal: "test", Action: "test", Outcome: "ok"}
	r := keys.Reservation{Key: key, Version: version, Messages: messages, Bytes: bytes, At: e.clock.now()}
	if _, err := e.log.Record(context.Background(), &entry, e.store.ReserveUses(r)); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) counted(key uuid.UUID, version uint32) int64 {
	e.t.Helper()
	v, err := e.store.Version(context.Background(), key, version)
	if err != nil {
		e.t.Fatal(err)
	}
	return v.Messages
}

func (e *env) maintain() {
	e.t.Helper()
	if err := e.Maintain(context.Background()); err != nil {
		e.t.Fatal(err)
	}
}

// another gives a second Service on the same store and log, as on another node.
func (e *env) another(options ...func(*keys.Options)) *keys.Service {
	e.t.Helper()
	o := keys.Options{Store: e.store, Idempotency: e.store, Recorder: e.recorder, Backends: []backend.Backend{e.soft}, Now: e.clock.now}
	for _, change := range options {
		change(&o)
	}
	s, err := keys.New(o)
	if err != nil {
		e.t.Fatal(err)
	}
	return s
}

func (e *env) gauge(name string) float64 {
	e.t.Helper()
	all, err := e.registry.Gather()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name && len(f.GetMetric()) == 1 {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	e.t.Fatalf("no gauge %s", name)
	return 0
}

// TestAlgorithmLimitIsExact: two nodes and many callers get as many messages out of a version as the algorithm bears, and not one more.
func TestAlgorithmLimitIsExact(t *testing.T) {
	e := newEnv(t, nil)
	const left = 100
	k := e.create("k", backend.AES256GCM)
	e.protected(k.ID, 1, gcmLimit-left, 0)
	other := e.another()
	var released atomic.Int64
	var group sync.WaitGroup
	for i := range 8 {
		s := []*keys.Service{e.Service, other}[i%2]
		group.Go(func() {
			for range 30 {
				items := make([]keys.EncryptItem, 1)
				_, err := s.Encrypt(context.Background(), e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, items, true)
				if err != nil {
					wantCode(t, err, fault.UsageLimit, "at the limit")
					continue
				}
				released.Add(1)
			}
		})
	}
	group.Wait()
	// What one of them has in hand is not the other's, and blocks are small here: at most an eighth of what was left.
	if n := released.Load(); n > left || n < left-left/8 {
		t.Errorf("%d of %d released", n, left)
	}
	if n := e.counted(k.ID, 1); n != gcmLimit {
		t.Errorf("%d counted", n-gcmLimit)
	}
	_, err := e.encrypt(keys.Target{Key: "k"}, "x")
	if wantCode(t, err, fault.UsageLimit, "afterwards"); !strings.Contains(err.Error(), "rotate the key") {
		t.Errorf("no remedy is named: %v", err)
	}
	if last := e.lastEntry(); last.Action != "encrypt" || last.Outcome != string(fault.UsageLimit) {
		t.Errorf("the log says %+v", last)
	}
	if n := e.gauge("keywright_key_versions_near_limit"); n != 1 {
		t.Errorf("%v near their limit", n)
	}
	// Rotation is the remedy: it was due long ago.
	e.maintain()
	if r, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil || r.Used.Version != 2 {
		t.Errorf("after the rotation: %+v %v", r.Used, err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

// TestEveryUseCounts: each item that a key protects is counted, in whatever operation; what it only processes is not.
func TestEveryUseCounts(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	k := e.create("k", backend.ChaCha20Poly1305)
	e.protected(k.ID, 1, gcmLimit-8, 0) // so near that nothing is set aside
	target := keys.Target{Key: "k"}
	box, err := e.encrypt(target, "x")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		n    int64
		run  func() error
	}{
		{"encrypt", 0, func() error { return nil }},
		{"batch", 2, func() error {
			return second(e.Encrypt(ctx, e.c, target, keys.EncryptOpts{}, make([]keys.EncryptItem, 2), false))
		}},
		{"decrypt", 0, func() error { return second(e.decrypt(target, box.Bytes)) }},
		{"data-key", 2, func() error { return second(e.DataKeys(ctx, e.c, target, make([]keys.DataKeyRequest, 2), false)) }},
		{"wrap", 1, func() error {
			return second(e.Wrap(ctx, e.c, target, []keys.EncryptItem{{Plaintext: make([]byte, 32)}}, true))
		}},
		{"rewrap", 1, func() error {
			return second(e.Rewrap(ctx, e.c, target, []keys.CiphertextItem{{Ciphertext: box.Bytes}}, true))
		}},
		{"a batch beyond", 0, func() error {
			err := second(e.Encrypt(ctx, e.c, target, keys.EncryptOpts{}, make([]keys.EncryptItem, 3), false))
			wantCode(t, err, fault.UsageLimit, "a batch beyond the limit")
			return nil
		}},
		{"the last", 1, func() error {
			return second(e.Encrypt(ctx, e.c, target, keys.EncryptOpts{}, make([]keys.EncryptItem, 1), false))
		}},
		{"rewrap beyond", 0, func() error {
			err := second(e.Rewrap(ctx, e.c, target, []keys.CiphertextItem{{Ciphertext: box.Bytes}}, true))
			wantCode(t, err, fault.UsageLimit, "rewrapping beyond the limit")
			return nil
		}},
		{"decrypt beyond", 0, func() error { return second(e.decrypt(target, box.Bytes)) }},
	} {
		before := e.counted(k.ID, 1)
		if err := step.run(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if n := e.counted(k.ID, 1) - before; n != step.n {
			t.Errorf("%s counts %d, want %d", step.name, n, step.n)
		}
	}
	mac := e.create("mac", backend.HMACSHA256)
	if err := second(e.MAC(ctx, e.c, keys.Target{Key: "mac"}, make([]keys.MACItem, 1), true)); err != nil || e.counted(mac.ID, 1) != 0 {
		t.Errorf("what nothing bounds is counted: %v", err)
	}
}

// TestRotationByUse: a key is rotated once when its primary version has protected what the policy says, and what it protected still opens.
func TestRotationByUse(t *testing.T) {
	for name, c := range map[string]struct {
		policy keys.Policy
		uses   int
	}{
		"messages": {keys.Policy{RotateAfterMessages: 50}, 50},
		"bytes":    {keys.Policy{RotateAfterBytes: 800}, 50},
		"one":      {keys.Policy{RotateAfterMessages: 1}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var told []keys.Maintained
			e := newEnv(t, func(o *keys.Options) {
				o.Maintained = func(_ context.Context, m []keys.Maintained) { told = append(told, m...) }
			})
			k := e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy = c.policy })
			var first keys.BytesResult
			for version := uint32(1); version <= 3; version++ {
				for i := range c.uses {
					e.maintain()
					r, err := e.encrypt(keys.Target{Key: "k"}, "sixteen bytes...")
					if err != nil || r.Used.Version != version {
						t.Fatalf("use %d: version %d, %v", i, r.Used.Version, err)
					}
					if version == 1 {
						first = r
					}
				}
				e.maintain()
				if entry := e.lastEntry(); entry.Action != "key.rotate" || entry.Principal != "system" || entry.Detail != "by use" || entry.KeyVersion != version+1 {
					t.Fatalf("the log says %+v", entry)
				}
			}
			if got, err := e.Get(t.Context(), e.c, "k"); err != nil || got.PrimaryVersion != 4 {
				t.Errorf("%+v %v", got, err)
			}
			if _, err := e.decrypt(keys.Target{}, first.Bytes); err != nil {
				t.Error(err)
			}
			if len(told) != 3 || told[0].Tenant != e.tenant || told[0].Rotated != 1 || told[0].Failed != 0 || told[0].Failures != nil || told[0].Since.IsZero() {
				t.Errorf("told %+v", told)
			}
			if v, err := e.Versions(t.Context(), e.c, k.ID.String(), 1, 10); err != nil || v[0].Messages < int64(c.uses) || v[0].Bytes < int64(16*c.uses) ||
				v[0].Messages != c.policy.RotateAfterMessages && v[0].Bytes != c.policy.RotateAfterBytes {
				t.Errorf("the first version shows %d messages and %d bytes, %v", v[0].Messages, v[0].Bytes, err)
			}
		})
	}
}

// TestPolicyOfUseChanges: a lower threshold counts what was protected before it, a higher one ends what was due.
func TestPolicyOfUseChanges(t *testing.T) {
	e := newEnv(t, nil)
	e.create("k", backend.Ed25519)
	set := func(n int64) {
		t.Helper()
		if _, err := e.Update(t.Context(), e.c, "k", keys.UpdateRequest{Policy: &keys.Policy{RotateAfterMessages: n}}); err != nil {
			t.Fatal(err)
		}
	}
	sign := func() {
		t.Helper()
		if err := second(e.Sign(t.Context(), e.c, keys.Target{Key: "k"}, keys.SignOpts{}, []keys.SignItem{{Message: []byte("m")}}, true)); err != nil {
			t.Fatal(err)
		}
	}
	sign() // not counted: nothing bounds it yet
	set(10)
	for range 8 {
		sign()
	}
	set(8)
	set(9)
	e.maintain()
	version := func() uint32 {
		t.Helper()
		k, err := e.Get(t.Context(), e.c, "k")
		if err != nil {
			t.Fatal(err)
		}
		return k.PrimaryVersion
	}
	if version() != 1 {
		t.Error("rotated before its time")
	}
	set(8)
	e.maintain()
	if version() != 2 {
		t.Error("what was signed before the threshold does not count")
	}
}

// TestSafeLimitRotates: a generated key is due at three quarters of what its algorithm bears; an imported one is refused at the end.
func TestSafeLimitRotates(t *testing.T) {
	e := newEnv(t, nil)
	k := e.create("k", backend.AES128GCM)
	e.protected(k.ID, 1, gcmLimit/4*3-1, 0)
	e.maintain()
	if got, err := e.Get(t.Context(), e.c, "k"); err != nil || got.PrimaryVersion != 1 {
		t.Fatal("rotated before three quarters")
	}
	if _, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil {
		t.Fatal(err)
	}
	e.maintain()
	if got, err := e.Get(t.Context(), e.c, "k"); err != nil || got.PrimaryVersion != 2 {
		t.Error("not rotated at three quarters")
	}
	p, err := e.ImportParameters(t.Context(), e.c, "")
	if err != nil {
		t.Fatal(err)
	}
	imported, err := e.Import(t.Context(), e.c, keys.ImportRequest{Create: keys.CreateRequest{Name: "i", Algorithm: backend.AES256GCM}, Token: p.Token,
		Wrapped: wrapFor(t, p, make([]byte, 32))})
	if err != nil {
		t.Fatal(err)
	}
	e.protected(imported.ID, 1, gcmLimit-1, 0)
	if _, err := e.encrypt(keys.Target{Key: "i"}, "x"); err != nil {
		t.Fatal(err)
	}
	e.maintain()
	_, err = e.encrypt(keys.Target{Key: "i"}, "x")
	wantCode(t, err, fault.UsageLimit, "an imported key at its limit")
}

// TestReservationOutlivesNobody: what a node had in hand when it ended was counted and is never used, and the limit holds.
func TestReservationOutlivesNobody(t *testing.T) {
	e := newEnv(t, nil)
	const left = 400
	k := e.create("k", backend.AES256GCM)
	e.protected(k.ID, 1, gcmLimit-left, 0)
	released, restarts := 0, 0
	for {
		if _, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil {
			wantCode(t, err, fault.UsageLimit, "at the end")
			break
		}
		if released++; released%40 == 0 {
			restarts++
			e.reopen()
		}
	}
	if n := e.counted(k.ID, 1); n != gcmLimit {
		t.Errorf("%d are left", gcmLimit-n)
	}
	if restarts < 3 || released >= left || released < left/2 {
		t.Errorf("%d of %d released over %d restarts", released, left, restarts)
	}
}

// TestUsesWhileTheLogFails: what is not recorded releases nothing, and later operations set uses aside again.
func TestUsesWhileTheLogFails(t *testing.T) {
	e := newEnv(t, nil)
	k := e.create("k", backend.AES256GCM)
	for range 3 {
		e.recorder.set(func(*audit.Entry) error { return fault.New(fault.AuditUnavailable, "disk full") })
		for range 100 {
			r, err := e.encrypt(keys.Target{Key: "k"}, "x")
			wantCode(t, err, fault.AuditUnavailable, "while the log fails")
			released(t, r.Bytes)
		}
		e.recorder.set(nil)
		writes := e.counted(k.ID, 1)
		for range 100 {
			if _, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil {
				t.Fatal(err)
			}
		}
		if n := e.counted(k.ID, 1); n == writes {
			t.Error("nothing was set aside")
		}
	}
}

// TestUsesInHandWriteNothing: with a block in hand an operation changes nothing in the store.
func TestUsesInHandWriteNothing(t *testing.T) {
	e := newEnv(t, nil)
	e.create("k", backend.AES256GCM)
	changes := &countChanges{Recorder: e.recorder.Recorder}
	e.recorder.Recorder = changes
	for range 500 {
		if _, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if n := changes.n.Load(); n == 0 || n > 8 {
		t.Errorf("%d of 500 operations changed something", n)
	}
}

type countChanges struct {
	audit.Recorder
	n atomic.Int64
}

func (c *countChanges) Record(ctx context.Context, e *audit.Entry, changes ...audit.Change) (uint64, error) {
	if len(changes) > 0 {
		c.n.Add(1)
	}
	return c.Recorder.Record(ctx, e, changes...)
}

// TestDeletionUnderFault: a device that is away when a deletion is due holds up nothing else, is seen, and gets its turn later; a process that ends between
// the device and the record leaves work that the next one finishes.
func TestDeletionUnderFault(t *testing.T) {
	var told []keys.Maintained
	e := newEnv(t, func(o *keys.Options) {
		onDevice(o)
		o.Maintained = func(_ context.Context, m []keys.Maintained) { told = m }
	})
	ctx := t.Context()
	k := e.create("k", backend.AES256GCM)
	e.create("other", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.RotationPeriod = 24 * time.Hour })
	if _, err := e.Delete(ctx, e.c, "k", keys.MinWaiting); err != nil {
		t.Fatal(err)
	}
	e.clock.advance(keys.MinWaiting)
	e.device.away = true
	wantCode(t, e.Maintain(ctx), fault.BackendUnavailable, "the device is away")
	if len(told) != 1 || told[0].Tenant != e.tenant || told[0].Rotated != 1 || told[0].Failed != 1 || len(told[0].Failures) != 1 ||
		told[0].Failures[0].Act != keys.ActDestroy || told[0].Failures[0].Key != k.ID || !fault.Has(told[0].Failures[0].Err, fault.BackendUnavailable) {
		t.Errorf("told %+v", told)
	}
	if n := e.gauge("keywright_key_maintenance_waiting"); n != 1 {
		t.Errorf("%v keys wait", n)
	}
	if got, err := e.Get(ctx, e.c, "k"); err != nil || got.State != keys.StatePendingDeletion {
		t.Errorf("%+v %v", got, err)
	}
	n := len(e.entries())
	e.maintain() // too early to try again
	if len(e.entries()) != n {
		t.Error("it was tried again at once")
	}
	e.clock.advance(11 * time.Second)
	wantCode(t, e.Maintain(ctx), fault.BackendUnavailable, "tried again")
	e.clock.advance(11 * time.Second)
	e.maintain() // the second wait is longer
	e.device.away = false
	e.clock.advance(10 * time.Second)

	e.recorder.set(func(entry *audit.Entry) error {
		if entry.Action == "key.destroy" && entry.Outcome == "ok" {
			panic(crashed{})
		}
		return nil
	})
	if !crashing(func() { _ = e.Maintain(ctx) }) { // it does not come back
		t.Fatal("there was no crash")
	}
	e.recorder.set(nil)
	if n := e.device.count(); n != 2 {
		t.Errorf("the device has %d objects: two of the other key are left", n)
	}
	e.reopen()
	if got, err := e.Get(ctx, e.c, "k"); err != nil || got.State != keys.StatePendingDeletion {
		t.Errorf("after the crash: %+v %v", got, err)
	}
	e.maintain()
	if got, err := e.Get(ctx, e.c, k.ID.String()); err != nil || got.State != keys.StateDestroyed {
		t.Errorf("in the end: %+v %v", got, err)
	}
	if n := e.gauge("keywright_key_maintenance_waiting"); n != 0 {
		t.Errorf("%v keys still wait", n)
	}
}

// TestRotationByUseUnderFault: a device that is away when a key is used up is asked again, and the key goes on meanwhile.
func TestRotationByUseUnderFault(t *testing.T) {
	e := newEnv(t, onDevice)
	e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.RotateAfterMessages = 3 })
	e.device.fail = fault.New(fault.BackendUnavailable, "away")
	for i := range 10 {
		if r, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil || r.Used.Version != 1 {
			t.Fatalf("%+v %v", r.Used, err)
		}
		err := e.Maintain(t.Context())
		if i == 2 {
			wantCode(t, err, fault.BackendUnavailable, "used up")
		} else if err != nil {
			t.Errorf("after %d: %v", i+1, err)
		}
	}
	e.device.fail = nil
	e.clock.advance(time.Minute)
	e.maintain()
	// The number of the version that was not made is gone.
	if r, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil || r.Used.Version != 3 {
		t.Errorf("%+v %v", r.Used, err)
	}
}

// TestLostBlock: a commit of which nobody hears any more may have counted its block; nothing of it is used.
func TestLostBlock(t *testing.T) {
	e := newEnv(t, nil)
	const left = 200
	k := e.create("k", backend.AES256GCM)
	e.protected(k.ID, 1, gcmLimit-left, 0)
	var lost bool
	e.recorder.Recorder = &losing{Recorder: e.recorder.Recorder, lose: func(changes int) bool {
		lost = !lost && changes > 0
		return lost
	}}
	released := 0
	for {
		_, err := e.encrypt(keys.Target{Key: "k"}, "x")
		if fault.Has(err, fault.UsageLimit) {
			break
		}
		if err == nil {
			released++
		} else {
			wantCode(t, err, fault.Timeout, "a record that is lost")
		}
	}
	if n := e.counted(k.ID, 1); n != gcmLimit || released > left-20 || released == 0 {
		t.Errorf("%d released, %d left", released, gcmLimit-n)
	}
}

// losing carries out what it then says nothing of.
type losing struct {
	audit.Recorder
	lose func(changes int) bool
}

func (l *losing) Record(ctx context.Context, e *audit.Entry, changes ...audit.Change) (uint64, error) {
	n, err := l.Recorder.Record(ctx, e, changes...)
	if err == nil && l.lose(len(changes)) {
		return 0, fault.Wrap(fault.Timeout, "the deadline passed", errors.New("lost"))
	}
	return n, err
}
