package keys_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// crashed is what stands for the end of the process: nothing after it runs but what the runtime itself undoes.
type crashed struct{}

func crashing(f func()) (did bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crashed); !ok {
				panic(r)
			}
			did = true
		}
	}()
	f()
	return false
}

// TestCreationCrashes ends the process at each step of a creation and of a rotation where the device keeps objects: after the restart nothing
// half-made is usable, nothing that was answered is gone, and no object is there that no record knows of.
func TestCreationCrashes(t *testing.T) {
	points := []string{"before begin", "after begin", "before", "after", "before commit", "after commit"}
	for _, act := range []string{"key.create", "key.rotate"} {
		for _, at := range points {
			t.Run(act+" "+at, func(t *testing.T) {
				e := newEnv(t, onDevice)
				ctx := context.Background()
				var old keys.BytesResult
				if act == "key.rotate" {
					e.create("k", backend.AES256GCM)
					var err error
					if old, err = e.encrypt(keys.Target{Key: "k"}, "before"); err != nil {
						t.Fatal(err)
					}
				}
				objects := e.device.count()
				e.device.crash = func(where string) {
					if where == at {
						panic(crashed{})
					}
				}
				e.recorder.set(func(entry *audit.Entry) error {
					step := map[string]string{act + ".begin": "begin", act: "commit"}[entry.Action]
					if "before "+step == at {
						panic(crashed{})
					}
					return nil
				})
				done := &after{Recorder: e.recorder.Recorder, at: at, act: act}
				e.recorder.Recorder = done
				run := func() (*keys.Key, error) {
					if act == "key.create" {
						return e.Create(ctx, e.c, keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM})
					}
					return e.Rotate(ctx, e.c, "k")
				}
				if !crashing(func() {
					k, err := run()
					t.Errorf("the call came back: %v %v", k, err)
				}) {
					t.Fatal("there was no crash")
				}
				e.device.crash = nil
				e.reopen()

				committed, begun := at == "after commit", at != "before begin"
				k, err := e.Get(ctx, e.c, "k")
				switch {
				case act == "key.create" && !begun:
					wantCode(t, err, fault.KeyNotFound, "a key of which nothing was written")
				case err != nil:
					t.Fatal(err)
				case committed:
					if k.State != keys.StateActive {
						t.Errorf("the key is %s", k.State)
					}
				case act == "key.create":
					if k.State != keys.StatePreActive {
						t.Errorf("a half-made key is shown as %s", k.State)
					}
					_, err := e.encrypt(keys.Target{Key: "k"}, "x")
					wantCode(t, err, fault.BadState, "encrypting with a half-made key")
					_, err = e.encrypt(keys.Target{Key: "k", Version: 1}, "x")
					wantCode(t, err, fault.BadState, "encrypting with a half-made version")
				default:
					if k.PrimaryVersion != 1 {
						t.Errorf("a half-made version is primary: %d", k.PrimaryVersion)
					}
					if begun {
						_, err := e.encrypt(keys.Target{Key: "k", Version: 2}, "x")
						wantCode(t, err, fault.BadState, "encrypting with a half-made version")
					}
				}
				if act == "key.rotate" {
					if r, err := e.decrypt(keys.Target{}, old.Bytes); err != nil || string(r.Bytes) != "before" {
						t.Errorf("what was encrypted before does not open: %v", err)
					}
				}
				// An hour later the half-made version is marked; what the device holds stays there, and the name can be used again.
				made := e.device.count()
				if wantMade := at == "after" || strings.HasSuffix(at, "commit"); (made > objects) != wantMade {
					t.Errorf("the device has %d objects, had %d", made, objects)
				}
				e.clock.advance(59 * time.Minute)
				if err := e.Maintain(ctx); err != nil {
					t.Fatal(err)
				}
				if n := e.abandonedEntries(); n != 0 {
					t.Errorf("marked before its hour")
				}
				e.clock.advance(2 * time.Minute)
				for range 2 {
					if err := e.Maintain(ctx); err != nil {
						t.Fatal(err)
					}
				}
				if n := e.abandonedEntries(); (n == 1) != (begun && !committed) || n > 1 {
					t.Errorf("%d entries of an abandoned version", n)
				}
				if e.device.count() != made {
					t.Error("an object was deleted by itself")
				}
				if act == "key.create" && committed {
					return
				}
				if k, err = run(); err != nil {
					t.Fatalf("once more: %v", err)
				}
				r, err := e.encrypt(keys.Target{Key: "k"}, "again")
				if err != nil || r.Used.Version != k.PrimaryVersion {
					t.Errorf("the key made afterwards does not work: %v %+v", err, r.Used)
				}
			})
		}
	}
}

// after crashes when a record has become durable.
type after struct {
	audit.Recorder
	at, act string
}

func (a *after) Record(ctx context.Context, e *audit.Entry, changes ...audit.Change) (uint64, error) {
	n, err := a.Recorder.Record(ctx, e, changes...)
	if step := map[string]string{a.act + ".begin": "begin", a.act: "commit"}[e.Action]; "after "+step == a.at && e.Outcome == "ok" {
		panic(crashed{})
	}
	return n, err
}

func (e *env) abandonedEntries() (n int) {
	for _, entry := range e.entries() {
		if entry.Action == "key.abandon" {
			n++
		}
	}
	return n
}

// TestCreationFails: a device that fails leaves a name free, and one record of what it may hold.
func TestCreationFails(t *testing.T) {
	e := newEnv(t, onDevice)
	ctx := t.Context()
	e.device.fail = fault.New(fault.BackendUnavailable, "away")
	_, err := e.Create(ctx, e.c, keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM})
	wantCode(t, err, fault.BackendUnavailable, "creating")
	if _, err := e.Get(ctx, e.c, "k"); fault.CodeOf(err) != fault.KeyNotFound {
		t.Errorf("the failed key is there: %v", err)
	}
	var actions []string
	for _, entry := range e.entries() {
		actions = append(actions, entry.Action+" "+entry.Outcome)
	}
	want := "key.create.begin ok, key.abandon ok, key.create ERR_BACKEND_UNAVAILABLE, key.get ERR_KEY_NOT_FOUND"
	if got := strings.Join(actions, ", "); got != want {
		t.Errorf("the log says %s, want %s", got, want)
	}
	e.device.fail = nil
	e.create("k", backend.AES256GCM)
	e.device.fail = fault.New(fault.BackendUnavailable, "away")
	_, err = e.Rotate(ctx, e.c, "k")
	wantCode(t, err, fault.BackendUnavailable, "rotating")
	e.device.fail = nil
	k, err := e.Rotate(ctx, e.c, "k")
	if err != nil || k.PrimaryVersion != 3 {
		t.Errorf("rotating after a failure: %v, primary %d: a number is never used twice", err, k.PrimaryVersion)
	}
}

// TestRotationRace: everybody who rotates is answered with a version that is there, and everything that was encrypted meanwhile opens.
func TestRotationRace(t *testing.T) {
	for name, options := range map[string]func(*keys.Options){"software": nil, "device": onDevice} {
		t.Run(name, func(t *testing.T) {
			const callers = 24
			e := newEnv(t, options)
			ctx := t.Context()
			e.create("k", backend.AES256GCM)
			var wg sync.WaitGroup
			var mu sync.Mutex
			answered, boxes := map[uint32]bool{}, [][]byte(nil)
			for i := range callers {
				wg.Go(func() {
					k, err := e.Rotate(ctx, e.c, "k")
					if err != nil {
						t.Errorf("rotating: %v", err)
						return
					}
					r, err := e.encrypt(keys.Target{Key: "k"}, fmt.Sprint(i))
					if err != nil {
						t.Errorf("encrypting meanwhile: %v", err)
					}
					mu.Lock()
					answered[k.PrimaryVersion] = true
					boxes = append(boxes, r.Bytes)
					mu.Unlock()
				})
			}
			wg.Wait()
			e.reopen()
			versions, err := e.Versions(ctx, e.c, "k", 1, 0)
			if err != nil || len(versions) != callers+1 || len(answered) != callers {
				t.Fatalf("%d versions, %d answers, %v", len(versions), len(answered), err)
			}
			for _, v := range versions {
				want := keys.StateDeactivated
				if v.Version == callers+1 {
					want = keys.StateActive
				}
				if v.State != want {
					t.Errorf("version %d is %s", v.Version, v.State)
				}
			}
			for _, b := range boxes {
				if _, err := e.decrypt(keys.Target{}, b); err != nil {
					t.Errorf("a ciphertext does not open: %v", err)
				}
			}
		})
	}
}

// TestTwoNodes: two services on one store lose no version and give no error but a conflict.
func TestTwoNodes(t *testing.T) {
	e := newEnv(t, nil)
	e.create("k", backend.AES256GCM)
	other, err := keys.New(keys.Options{Store: e.store, Idempotency: e.store, Recorder: e.recorder, Backends: []backend.Backend{e.soft}, Now: e.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}()
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := map[uint32]int{}
	for _, s := range []*keys.Service{e.Service, other} {
		for range 8 {
			wg.Go(func() {
				k, err := s.Rotate(t.Context(), e.c, "k")
				if err != nil {
					if fault.CodeOf(err) != fault.Conflict {
						t.Errorf("rotating: %v", err)
					}
					return
				}
				mu.Lock()
				made[k.PrimaryVersion]++
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	versions, err := e.store.Versions(t.Context(), e.mustID("k"), 1, 100)
	if err != nil || len(versions) != len(made)+1 {
		t.Errorf("%d versions, %d answered, %v", len(versions), len(made), err)
	}
	for v, n := range made {
		if n != 1 {
			t.Errorf("version %d was answered %d times", v, n)
		}
	}
}

// hooked is the real store with something that happens just before a version is read.
type hooked struct {
	keys.Store
	before func()
}

func (h *hooked) Version(ctx context.Context, key uuid.UUID, n uint32) (*keys.Version, error) {
	if f := h.before; f != nil {
		h.before = nil
		f()
	}
	return h.Store.Version(ctx, key, n)
}

// TestRotatedMeanwhile: a request that has read the key before a rotation and reads the version after it begins again.
func TestRotatedMeanwhile(t *testing.T) {
	h := &hooked{}
	e := newEnv(t, func(o *keys.Options) { h.Store, o.Store = o.Store, h })
	e.create("k", backend.AES256GCM)
	h.before = func() {
		if _, err := e.Rotate(t.Context(), e.c, "k"); err != nil {
			t.Error(err)
		}
	}
	r, err := e.encrypt(keys.Target{Key: "k"}, "x")
	if err != nil || r.Used.Version != 2 {
		t.Errorf("%+v %v", r.Used, err)
	}
}

// TestImportCrashes ends the process while a key that waited gets its material: it goes on waiting, and gets it under another number.
func TestImportCrashes(t *testing.T) {
	e := newEnv(t, onDevice)
	ctx := context.Background()
	p, err := e.ImportParameters(ctx, e.c, "")
	if err != nil {
		t.Fatal(err)
	}
	e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Origin = keys.OriginImported })
	r := keys.ImportRequest{Key: "k", Token: p.Token, Wrapped: wrapFor(t, p, make([]byte, 32))}
	e.device.crash = func(at string) {
		if at == "after" {
			panic(crashed{})
		}
	}
	if !crashing(func() { _, err = e.Import(ctx, e.c, r) }) {
		t.Fatalf("there was no crash: %v", err)
	}
	e.device.crash = nil
	e.reopen()
	_, err = e.encrypt(keys.Target{Key: "k"}, "x")
	wantCode(t, err, fault.BadState, "a half-imported key")
	_, err = e.Import(ctx, e.c, r)
	wantCode(t, err, fault.BadState, "importing while the first attempt may go on")
	e.clock.advance(61 * time.Minute)
	if err := e.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	if k, err := e.Get(ctx, e.c, "k"); err != nil || k.State != keys.StatePendingImport {
		t.Fatalf("%+v %v", k, err)
	}
	if k, err := e.Import(ctx, e.c, r); err != nil || k.State != keys.StateActive || k.PrimaryVersion != 2 {
		t.Fatalf("%+v %v", k, err)
	}
	if _, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil {
		t.Error(err)
	}
}
