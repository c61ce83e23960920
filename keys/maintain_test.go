package keys_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

func TestDeletion(t *testing.T) {
	for name, options := range map[string]func(*keys.Options){"software": nil, "device": onDevice} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, options)
			ctx := t.Context()
			e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.DeletionProtection, r.Default = true, true })
			_, err := e.Delete(ctx, e.c, "k", 0)
			wantCode(t, err, fault.DeletionProtected, "a protected key")
			if _, err := e.Update(ctx, e.c, "k", keys.UpdateRequest{Policy: &keys.Policy{}}); err != nil {
				t.Fatal(err)
			}
			for _, w := range []time.Duration{time.Hour, keys.MinWaiting - 1, keys.MaxWaiting + 1, -1} {
				_, err := e.Delete(ctx, e.c, "k", w)
				wantCode(t, err, fault.BadField, w.String())
			}
			box, err := e.encrypt(keys.Target{Key: "k"}, "x")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Rotate(ctx, e.c, "k"); err != nil {
				t.Fatal(err)
			}
			if _, err := e.SetVersionState(ctx, e.c, "k", 2, keys.StateSuspended); err != nil {
				t.Fatal(err)
			}
			k, err := e.Delete(ctx, e.c, "k", keys.MinWaiting)
			if err != nil || k.State != keys.StatePendingDeletion || !k.DeletionAt.Equal(e.clock.now().Add(keys.MinWaiting)) {
				t.Fatalf("%+v %v", k, err)
			}
			for what, err := range map[string]error{"again": second(e.Delete(ctx, e.c, "k", 0)), "state": second(e.SetVersionState(ctx, e.c, "k", 1, keys.StateSuspended))} {
				wantCode(t, err, fault.BadTransition, what)
			}
			_, err = e.Rotate(ctx, e.c, "k")
			wantCode(t, err, fault.BadState, "rotating")
			if k, err = e.CancelDeletion(ctx, e.c, "k"); err != nil || k.State != keys.StateSuspended || !k.DeletionAt.IsZero() {
				t.Fatalf("back: %+v %v", k, err)
			}
			if _, err := e.SetVersionState(ctx, e.c, "k", 2, keys.StateActive); err != nil {
				t.Fatal(err)
			}
			if _, err := e.decrypt(keys.Target{}, box.Bytes); err != nil {
				t.Errorf("after the cancellation: %v", err)
			}
			if _, err := e.Delete(ctx, e.c, "k", keys.MinWaiting); err != nil {
				t.Fatal(err)
			}
			e.clock.advance(keys.MinWaiting - time.Second)
			if err := e.Maintain(ctx); err != nil {
				t.Fatal(err)
			}
			if k, err = e.Get(ctx, e.c, "k"); err != nil || k.State != keys.StatePendingDeletion {
				t.Fatalf("before its time: %+v %v", k, err)
			}
			e.clock.advance(time.Second)
			_, err = e.CancelDeletion(ctx, e.c, "k")
			wantCode(t, err, fault.BadTransition, "cancelling too late")
			id := k.ID
			if err := e.Maintain(ctx); err != nil {
				t.Fatal(err)
			}
			_, err = e.Get(ctx, e.c, "k")
			wantCode(t, err, fault.KeyNotFound, "by the name of a destroyed key")
			if k, err = e.Get(ctx, e.c, id.String()); err != nil || k.State != keys.StateDestroyed {
				t.Fatalf("the record: %+v %v", k, err)
			}
			versions, err := e.store.Versions(ctx, id, 1, 10)
			if err != nil || len(versions) != 2 {
				t.Fatal(err)
			}
			for _, v := range versions {
				if v.State != keys.StateDestroyed || v.Blob != nil {
					t.Errorf("version %d is %s with %d bytes of material", v.Version, v.State, len(v.Blob))
				}
			}
			if options != nil && e.device.count() != 0 {
				t.Errorf("the device still has %d objects", e.device.count())
			}
			_, err = e.decrypt(keys.Target{}, box.Bytes)
			wantCode(t, err, fault.BadState, "decrypting with a destroyed key")
			_, err = e.encrypt(keys.Target{}, "x")
			wantCode(t, err, fault.NoDefaultKey, "the default went with it")
			var ended *audit.Entry
			for _, entry := range e.entries() {
				if entry.Action == "key.destroy" {
					ended = &entry
				}
			}
			if ended == nil || ended.Principal != "system" || ended.Tenant != e.tenant || ended.Key != id {
				t.Errorf("the log says %+v", ended)
			}
			next := e.create("k", backend.AES256GCM) // the name is free
			for range 2 {
				if old, err := e.Get(ctx, e.c, id.String()); err != nil || old.ID != id {
					t.Errorf("the record of the destroyed key: %v", err)
				}
				if k, err := e.Get(ctx, e.c, "k"); err != nil || k.ID != next.ID {
					t.Errorf("the name is that of the destroyed key: %v", err)
				}
			}
		})
	}
}

// TestScheduledRotation: a key is rotated when its period is over, once, by the system, and not while it is suspended.
func TestScheduledRotation(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.RotationPeriod = 24 * time.Hour })
	for i, step := range []struct {
		after time.Duration
		want  uint32
	}{{23 * time.Hour, 1}, {time.Hour, 2}, {0, 2}, {23 * time.Hour, 2}, {time.Hour, 3}} {
		e.clock.advance(step.after)
		if err := e.Maintain(ctx); err != nil {
			t.Fatal(err)
		}
		if k, err := e.Get(ctx, e.c, "k"); err != nil || k.PrimaryVersion != step.want {
			t.Fatalf("step %d: version %d, %v", i, k.PrimaryVersion, err)
		}
	}
	if _, err := e.SetVersionState(ctx, e.c, "k", 0, keys.StateSuspended); err != nil {
		t.Fatal(err)
	}
	e.clock.advance(48 * time.Hour)
	if err := e.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	if k, err := e.Get(ctx, e.c, "k"); err != nil || k.PrimaryVersion != 3 || k.State != keys.StateSuspended {
		t.Errorf("a suspended key: %+v %v", k, err)
	}
}

// TestMaintainGoesOn: one key whose backend is away does not hold up the others.
func TestMaintainGoesOn(t *testing.T) {
	e := newEnv(t, onDevice)
	ctx := t.Context()
	for i := range 3 {
		e.create(fmt.Sprint("k", i), backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.RotationPeriod = time.Hour })
	}
	e.clock.advance(time.Hour)
	n := 0
	e.device.crash = func(at string) {
		if at == "before" {
			n++
			e.device.mu.Lock()
			e.device.fail = nil
			if n == 1 {
				e.device.fail = fault.New(fault.BackendUnavailable, "away")
			}
			e.device.mu.Unlock()
		}
	}
	// the first is refused only after crash has been asked, so the failure is one call late
	err := e.Maintain(ctx)
	wantCode(t, err, fault.BackendUnavailable, "one of three")
	rotated := 0
	for i := range 3 {
		if k, err := e.Get(ctx, e.c, fmt.Sprint("k", i)); err == nil && k.PrimaryVersion > 1 {
			rotated++
		}
	}
	if rotated != 2 {
		t.Errorf("%d of 3 were rotated", rotated)
	}
	e.device.crash, e.device.fail = nil, nil
	if err := e.Maintain(ctx); err != nil {
		t.Error(err)
	}
}
