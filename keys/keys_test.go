package keys_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/software"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/store/sqlite"
)

// clock is a clock that moves when it is told.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// env is a Service over a real store, a real audit log and a real software backend.
type env struct {
	*keys.Service
	t        testing.TB
	dir      string
	secret   []byte
	newest   uint32 // generation of the root, from 1
	oldest   uint32 // that is kept
	clock    *clock
	store    *sqlite.Store
	log      *audit.Log
	soft     backend.Backend
	recorder *recorder
	device   *device
	registry *prometheus.Registry
	options  func(*keys.Options)
	tenant   uuid.UUID
	c        keys.Caller
}

func newEnv(t testing.TB, options func(*keys.Options)) *env {
	t.Helper()
	e := &env{t: t, dir: t.TempDir(), secret: make([]byte, 32), clock: &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, options: options, tenant: uuid.New()}
	rand.Read(e.secret)
	e.newest, e.oldest = 1, 1
	e.c = caller(e.tenant)
	e.open()
	t.Cleanup(e.close)
	return e
}

func caller(tenant uuid.UUID) keys.Caller {
	return keys.Caller{Principal: &auth.Principal{ID: "api-key:test", Tenant: tenant, Scopes: auth.Scopes()}, RequestID: "r-1"}
}

func (e *env) open() {
	e.t.Helper()
	ctx := context.Background()
	var err error
	if e.store, err = sqlite.Open(ctx, filepath.Join(e.dir, "keys.db"), sqlite.Options{}); err != nil {
		e.t.Fatal(err)
	}
	if e.log, err = audit.Open(ctx, e.store, audit.Options{Origin: "test.example/audit", CheckpointEvery: -1, Now: e.clock.now}); err != nil {
		e.t.Fatal(err)
	}
	e.soft, err = software.Open(ctx, software.Options{Name: "soft", Now: e.clock.now,
		Generation: func() (uint32, error) { return e.newest, nil },
		DeriveAt: func(label string, generation uint32) (secret.Bytes, error) {
			if generation < e.oldest || generation > e.newest {
				return nil, fault.New(fault.KeyMaterial, "retired")
			}
			d := sha256.Sum256(append([]byte(label), append(e.secret, byte(generation))...))
			return d[:], nil
		}})
	if err != nil {
		e.t.Fatal(err)
	}
	if e.device == nil {
		e.device = &device{objects: map[string]bool{}}
	}
	e.device.Backend = e.soft
	e.recorder = &recorder{Recorder: e.log}
	e.registry = prometheus.NewRegistry()
	o := keys.Options{Store: e.store, Idempotency: e.store, Recorder: e.recorder, Backends: []backend.Backend{e.soft}, Now: e.clock.now, Registerer: e.registry}
	if e.options != nil {
		e.options(&o)
	}
	for i, b := range o.Backends {
		if b == nil {
			o.Backends[i] = e.device
		}
	}
	if e.Service, err = keys.New(o); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) close() {
	for _, closer := range []func() error{e.Service.Close, func() error { return e.log.Close(context.Background()) }, e.soft.Close, e.store.Close} {
		if err := closer(); err != nil {
			e.t.Error(err)
		}
	}
}

// reopen is a restart of the process on the same data.
func (e *env) reopen() {
	e.close()
	e.open()
}

// onDevice puts a backend first that says that it keeps objects.
func onDevice(o *keys.Options) { o.Backends = []backend.Backend{nil} }

// create makes a key, or fails the test.
func (e *env) create(name string, alg backend.Algorithm, change ...func(*keys.CreateRequest)) *keys.Key {
	e.t.Helper()
	r := keys.CreateRequest{Name: name, Algorithm: alg}
	for _, f := range change {
		f(&r)
	}
	k, err := e.Create(context.Background(), e.c, r)
	if err != nil {
		e.t.Fatalf("creating %s: %v", name, err)
	}
	return k
}

func (e *env) encrypt(t keys.Target, plaintext string) (keys.BytesResult, error) {
	r, err := e.Encrypt(context.Background(), e.c, t, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte(plaintext)}}, true)
	if err != nil {
		return keys.BytesResult{}, err
	}
	return r[0], nil
}

func (e *env) decrypt(t keys.Target, ciphertext []byte) (keys.BytesResult, error) {
	r, err := e.Decrypt(context.Background(), e.c, t, keys.EncryptOpts{}, []keys.CiphertextItem{{Ciphertext: ciphertext}}, true)
	if err != nil {
		return keys.BytesResult{}, err
	}
	return r[0], nil
}

// entries gives the whole log, oldest first.
func (e *env) entries() []audit.Entry {
	e.t.Helper()
	stored, err := e.store.AuditEntries(context.Background(), 0, math.MaxInt32)
	if err != nil {
		e.t.Fatal(err)
	}
	var all []audit.Entry
	for _, s := range stored {
		p, err := audit.ParseLeaf(s.Leaf)
		if err != nil {
			e.t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func (e *env) lastEntry() audit.Entry {
	e.t.Helper()
	all := e.entries()
	if len(all) == 0 {
		e.t.Fatal("the log is empty")
	}
	return all[len(all)-1]
}

func wantCode(t testing.TB, err error, code fault.Code, what string) {
	t.Helper()
	if got := fault.CodeOf(err); got != code {
		t.Errorf("%s: got %q (%v), want %q", what, got, err, code)
	}
}

// recorder is the real log with a switch in front of it.
type recorder struct {
	audit.Recorder
	mu   sync.Mutex
	fail func(*audit.Entry) error // nil lets the entry through
	seen []audit.Entry
}

func (r *recorder) set(fail func(*audit.Entry) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = fail
}

func (r *recorder) Record(ctx context.Context, e *audit.Entry, changes ...audit.Change) (uint64, error) {
	r.mu.Lock()
	fail := r.fail
	r.seen = append(r.seen, *e)
	r.mu.Unlock()
	if fail != nil {
		if err := fail(e); err != nil {
			return 0, err
		}
	}
	return r.Recorder.Record(ctx, e, changes...)
}

// device is the software backend in the shape of one that keeps objects: it knows which it made, refuses to make one twice, and forgets
// none by itself.
type device struct {
	backend.Backend
	mu      sync.Mutex
	objects map[string]bool
	crash   func(at string) // called before and after an object is made
	fail    error
	away    bool // nothing is destroyed
}

func (d *device) Info() backend.Info {
	i := d.Backend.Info()
	i.KeepsObjects, i.Kind, i.Name = true, "hsm", "device"
	return i
}

func (d *device) born(s backend.Spec, make func() (backend.Ref, error)) (backend.Ref, error) {
	d.mu.Lock()
	crash, fail := d.crash, d.fail
	d.mu.Unlock()
	if crash != nil {
		crash("before")
	}
	if fail != nil {
		return backend.Ref{}, fail
	}
	id := fmt.Sprint(s.KeyID, "/", s.Version)
	d.mu.Lock()
	used := d.objects[id]
	d.objects[id] = true
	d.mu.Unlock()
	if used {
		return backend.Ref{}, fault.New(fault.Conflict, "the object exists")
	}
	ref, err := make()
	if crash != nil {
		crash("after")
	}
	return ref, err
}

func (d *device) Generate(ctx context.Context, s backend.Spec) (backend.Ref, error) {
	return d.born(s, func() (backend.Ref, error) { return d.Backend.Generate(ctx, s) })
}

func (d *device) Import(ctx context.Context, s backend.Spec, m []byte) (backend.Ref, error) {
	return d.born(s, func() (backend.Ref, error) { return d.Backend.(backend.Importer).Import(ctx, s, m) })
}

func (d *device) ImportWrapped(ctx context.Context, s backend.Spec, with backend.Ref, h crypto.Hash, wrapped []byte) (backend.Ref, error) {
	return d.born(s, func() (backend.Ref, error) {
		return d.Backend.(backend.Importer).ImportWrapped(ctx, s, with, h, wrapped)
	})
}

func (d *device) Destroy(ctx context.Context, r backend.Ref) error {
	d.mu.Lock()
	if d.away {
		d.mu.Unlock()
		return fault.New(fault.BackendUnavailable, "away")
	}
	delete(d.objects, fmt.Sprint(r.Spec.KeyID, "/", r.Spec.Version))
	d.mu.Unlock()
	return d.Backend.Destroy(ctx, r)
}

func (d *device) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.objects)
}

var _ idempotency.Store = (*sqlite.Store)(nil)
