package rekey_test

import (
	"context"
	"crypto/rand"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/software"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/rekey"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/store/sqlite"
)

const (
	oldWords = "correct horse battery staple"
	newWords = "another correct horse battery"
)

// env is one store with its log, as several nodes share them.
type env struct {
	t      *testing.T
	store  *sqlite.Store
	log    *audit.Log
	tenant uuid.UUID
	nodes  []*node
}

// node is what one service has of its own.
type node struct {
	*rekey.Service
	e      *env
	root   *root.Keeper
	soft   *software.Backend
	keys   *keys.Service
	jobs   *jobs.Service
	runner *jobs.Runner
	c      keys.Caller
	op     rekey.Caller
}

func newEnv(t *testing.T) *env {
	t.Helper()
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(t.Context(), store, audit.Options{Origin: "test.example/audit", CheckpointEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, store: store, log: log, tenant: uuid.New()}
	t.Cleanup(func() {
		for _, n := range e.nodes {
			n.close()
		}
		if err := log.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// open adds a node. The first one makes the root.
func (e *env) open(words string, change func(*rekey.Options)) *node {
	e.t.Helper()
	ctx := e.t.Context()
	who := root.Caller{Principal: "system"}
	n := &node{e: e, root: root.New(e.store, e.log, root.Options{Argon2: root.Cost{MemoryKiB: 8 << 10, Time: 1, Parallelism: 2}, Logger: slog.New(slog.DiscardHandler)})}
	var err error
	must := func() {
		e.t.Helper()
		if err != nil {
			e.t.Fatal(err)
		}
	}
	if len(e.nodes) == 0 {
		_, err = n.root.Init(ctx, who, root.NewSlot{Kind: root.KindPassphrase, Passphrase: secret.Bytes(words)})
	} else {
		err = n.root.UnlockPassphrase(ctx, who, secret.Bytes(words))
	}
	must()
	n.soft, err = software.Open(ctx, software.Options{Name: "software", DeriveAt: n.root.DeriveAt, Generation: n.root.Generation})
	must()
	n.keys, err = keys.New(keys.Options{Store: e.store, Idempotency: e.store, Recorder: e.log, Backends: []backend.Backend{n.soft}})
	must()
	n.jobs = jobs.New(e.store, e.log, jobs.Options{})
	o := rekey.Options{Root: n.root, Keys: n.keys, Jobs: n.jobs, Recorder: e.log, Backends: []backend.Backend{n.soft}, Shared: true, Share: 1, Settle: time.Millisecond}
	if change != nil {
		change(&o)
	}
	n.Service, err = rekey.New(o)
	must()
	p := &auth.Principal{ID: "api-key:test", Tenant: e.tenant, Scopes: auth.Scopes()}
	n.c, n.op = keys.Caller{Principal: p}, rekey.Caller{Principal: p}
	e.nodes = append(e.nodes, n)
	return n
}

// run lets the node run jobs.
func (n *node) run() {
	n.e.t.Helper()
	var err error
	if n.runner, err = jobs.NewRunner(n.jobs, jobs.RunnerOptions{Leases: n.e.store, Kinds: []jobs.Definition{n.Definition()}, Poll: 10 * time.Millisecond}); err != nil {
		n.e.t.Fatal(err)
	}
}

func (n *node) close() {
	if n.runner != nil {
		if err := n.runner.Close(context.Background()); err != nil {
			n.e.t.Error(err)
		}
	}
	if err := n.keys.Close(); err != nil {
		n.e.t.Error(err)
	}
	if err := n.soft.Close(); err != nil {
		n.e.t.Error(err)
	}
	n.root.Close()
}

func (n *node) create(name string) []byte {
	n.e.t.Helper()
	if _, err := n.keys.Create(n.e.t.Context(), n.c, keys.CreateRequest{Name: name, Algorithm: backend.AES256GCM}); err != nil {
		n.e.t.Fatal(err)
	}
	out, err := n.keys.Encrypt(n.e.t.Context(), n.c, keys.Target{Key: name}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte(name)}}, true)
	if err != nil {
		n.e.t.Fatal(err)
	}
	return out[0].Bytes
}

func (n *node) decrypt(ciphertext []byte) error {
	_, err := n.keys.Decrypt(n.e.t.Context(), n.c, keys.Target{}, keys.EncryptOpts{}, []keys.CiphertextItem{{Ciphertext: ciphertext}}, true)
	return err
}

// rotate replaces the root, of which the one slot is replaced.
func (n *node) rotate(noFollow bool) *jobs.Job {
	n.e.t.Helper()
	slots, err := n.root.Slots(n.e.t.Context())
	if err != nil {
		n.e.t.Fatal(err)
	}
	_, j, err := n.RotateRoot(n.e.t.Context(), n.op, root.Rotation{Slots: []root.Replacement{{Replaces: slots[0].ID,
		NewSlot: root.NewSlot{Kind: root.KindPassphrase, Passphrase: secret.Bytes(newWords)}}}}, noFollow)
	if err != nil || j == nil {
		n.e.t.Fatalf("%v, %v", j, err)
	}
	return j
}

func (e *env) ended(id uuid.UUID) *jobs.Job {
	e.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		j, err := e.store.Job(e.t.Context(), id)
		if err != nil {
			e.t.Fatal(err)
		}
		if j.State.Ended() {
			return j
		}
	}
	e.t.Fatal("the job does not end")
	return nil
}

func (n *node) state() rekey.State {
	n.e.t.Helper()
	st, err := n.Root(n.e.t.Context(), n.op)
	if err != nil {
		n.e.t.Fatal(err)
	}
	return st
}

func want(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("error %v, want %q", err, code)
	}
}

// Two nodes: what the one that has not heard yet seals under the old root is found before that is given up.
func TestTwoNodes(t *testing.T) {
	e := newEnv(t)
	a := e.open(oldWords, func(o *rekey.Options) { o.Settle = 300 * time.Millisecond })
	b := e.open(oldWords, nil)
	sealed := [][]byte{a.create("one"), b.create("two")}
	j := a.rotate(false)
	a.run()
	time.Sleep(100 * time.Millisecond) // the job has walked by now, and waits
	sealed = append(sealed, b.create("late"))
	if err := b.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	sealed = append(sealed, b.create("after"))
	if j := e.ended(j.ID); j.State != jobs.Done || j.Counts.Failed != 0 {
		t.Fatalf("%+v", j)
	}
	if err := b.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.keys.InvalidateAll()
	for _, n := range e.nodes {
		if st := n.state(); st.Generation != 2 || len(st.Earlier) != 0 || st.Stale != 0 {
			t.Errorf("%+v", st)
		}
		for _, c := range sealed {
			if err := n.decrypt(c); err != nil {
				t.Error(err)
			}
		}
	}
	if _, kept, err := e.store.Keyring(t.Context()); err != nil || slices.ContainsFunc(kept, func(k *root.Kept) bool { return k.Kind != root.KeptCarried }) {
		t.Errorf("the keyring keeps %v, %v", kept, err)
	}
}

// Without a way to follow the other node locks itself, and does not run the job; the old root cannot read what is sealed since.
func TestNoFollow(t *testing.T) {
	e := newEnv(t)
	a, b := e.open(oldWords, nil), e.open(oldWords, nil)
	a.create("one")
	old, err := b.root.DeriveAt(software.Label, 1)
	if err != nil {
		t.Fatal(err)
	}
	j := a.rotate(true)
	here := b.Definition().Here
	if here(j) {
		t.Error("a node under the old root would run the job")
	}
	if err := b.Follow(t.Context()); err != nil || !b.root.Locked() {
		t.Fatalf("locked: %v, %v", b.root.Locked(), err)
	}
	if _, err := b.keys.Create(t.Context(), b.c, keys.CreateRequest{Name: "no", Algorithm: backend.AES256GCM}); !fault.Has(err, fault.Locked) {
		t.Errorf("a locked node makes keys: %v", err)
	}
	a.create("two")
	thief, err := software.Open(t.Context(), software.Options{Name: "thief", Derive: func(string) (secret.Bytes, error) { return slices.Clone(old), nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close() // nothing to lose
	page, err := e.store.Material(t.Context(), keys.Position{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range page {
		k, err := e.store.KeyByID(t.Context(), v.Tenant, v.KeyID)
		if err != nil {
			t.Fatal(err)
		}
		_, err = thief.Load(t.Context(), backend.Ref{Public: v.Public, Blob: v.Blob, Spec: backend.Spec{Tenant: v.Tenant, KeyID: v.KeyID, Version: v.Version.Version,
			Algorithm: v.Algorithm, Purpose: v.Purpose, Custody: v.Custody, Exportable: v.Exportable}})
		if opens := err == nil; opens != (k.Name == "one") {
			t.Errorf("the old root opens %s: %v", k.Name, err)
		}
	}
	if err := b.root.UnlockPassphrase(t.Context(), root.Caller{Principal: "system"}, secret.Bytes(newWords)); err != nil {
		t.Fatal(err)
	}
	if !here(j) {
		t.Error("a node under the new root would not run the job")
	}
	b.run()
	if j := e.ended(j.ID); j.State != jobs.Done || len(b.state().Earlier) != 0 {
		t.Errorf("%+v, %+v", j, b.state())
	}
}

// What cannot be sealed anew keeps the old root, until somebody says how much is to be lost.
func TestRetireLoses(t *testing.T) {
	e := newEnv(t)
	a := e.open(oldWords, nil)
	good, bad := a.create("good"), a.create("bad")
	k, err := a.keys.Get(t.Context(), a.c, "bad")
	if err != nil {
		t.Fatal(err)
	}
	v, err := e.store.Version(t.Context(), k.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	rand.Read(v.Blob[len(v.Blob)-8:])
	if _, err := e.log.Record(t.Context(), &audit.Entry{Principal: "test", Action: "damage", Outcome: "ok"}, e.store.UpdateVersion(v)); err != nil {
		t.Fatal(err)
	}
	j := a.rotate(false)
	a.run()
	done := e.ended(j.ID)
	if done.State != jobs.Done || done.Counts.Failed != 1 || len(done.Notices) != 1 || done.Notices[0].Resource != "key:"+k.ID.String()+"/1" || done.Notices[0].Code != fault.KeyMaterial {
		t.Errorf("%+v", done)
	}
	if st := a.state(); st.Stale != 1 || !slices.Equal(st.Earlier, []uint32{1}) {
		t.Errorf("%+v", st)
	}
	want(t, a.RetireRoot(t.Context(), a.op, 0), fault.Conflict)
	want(t, a.RetireRoot(t.Context(), a.op, 2), fault.Conflict)
	again, err := a.Reseal(t.Context(), a.op, "software")
	if err != nil {
		t.Fatal(err)
	}
	if j := e.ended(again.ID); j.State != jobs.Done || j.Counts.Failed != 1 {
		t.Errorf("%+v", j)
	}
	if err := a.RetireRoot(t.Context(), a.op, 1); err != nil {
		t.Fatal(err)
	}
	if st := a.state(); len(st.Earlier) != 0 {
		t.Errorf("%+v", st)
	}
	if err := a.decrypt(good); err != nil {
		t.Error(err)
	}
	a.keys.InvalidateAll() // the record with what it was before the damage
	want(t, a.decrypt(bad), fault.KeyMaterial)
}

// Who may not, does not; what there is not, is told.
func TestRefusals(t *testing.T) {
	e := newEnv(t)
	a := e.open(oldWords, nil)
	weak := rekey.Caller{Principal: &auth.Principal{ID: "api-key:weak", Tenant: e.tenant, Scopes: []auth.Scope{auth.ScopeKeysRead, auth.ScopeSettingsWrite}}}
	for _, c := range []struct {
		who  rekey.Caller
		code fault.Code
	}{{weak, fault.InsufficientScope}, {rekey.Caller{}, fault.Unauthenticated}} {
		_, _, err := a.RotateRoot(t.Context(), c.who, root.Rotation{}, false)
		want(t, err, c.code)
		_, err = a.Root(t.Context(), c.who)
		want(t, err, c.code)
		want(t, a.RetireRoot(t.Context(), c.who, 0), c.code)
		_, err = a.Reseal(t.Context(), c.who, "")
		want(t, err, c.code)
		_, _, err = a.RotateKEK(t.Context(), c.who, "software")
		want(t, err, c.code)
		_, err = a.KEKs(t.Context(), c.who, "software")
		want(t, err, c.code)
		want(t, a.RetireKEK(t.Context(), c.who, "software", 1), c.code)
	}
	_, _, err := a.RotateKEK(t.Context(), a.op, "software")
	want(t, err, fault.Unsupported)
	_, _, err = a.RotateKEK(t.Context(), a.op, "none")
	want(t, err, fault.BackendNotFound)
	_, err = a.Reseal(t.Context(), a.op, "none")
	want(t, err, fault.BackendNotFound)
	if _, err := rekey.New(rekey.Options{}); err == nil {
		t.Error("a service of nothing")
	}
}
