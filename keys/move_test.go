package keys_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// moveEnv is env with a real token beside the software backend, and the jobs.
type moveEnv struct {
	*env
	hsm  *hsm.Backend
	jobs *jobs.Service
}

func newMoveEnv(t *testing.T) *moveEnv {
	t.Helper()
	part := rig.SoftHSM(t)
	part.Setenv(t)
	m := &moveEnv{}
	tok, err := token.Open(t.Context(), token.Config{Module: part.Module, InitArgs: part.Init, Serial: part.Serial, Label: part.Label,
		PIN: secret.Bytes(part.PIN(t)), AcceptLeaks: true}, token.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if m.hsm, err = hsm.Open(t.Context(), hsm.Options{Name: "hsm", Members: []hsm.Member{{Token: tok}}, AllowSealed: true, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(errors.Join(err, tok.Close()))
	}
	t.Cleanup(func() {
		if err := m.hsm.Close(); err != nil {
			t.Error(err)
		}
	})
	m.env = newEnv(t, func(o *keys.Options) {
		m.jobs = jobs.New(o.Store.(jobs.Store), o.Recorder, jobs.Options{Idempotency: o.Idempotency})
		o.Backends, o.Jobs = append(o.Backends, m.hsm), m.jobs
	})
	return m
}

// run runs what is queued until a job has ended, and gives it.
func (m *moveEnv) run(t *testing.T, j *jobs.Job) *jobs.Job {
	t.Helper()
	r, err := jobs.NewRunner(m.jobs, jobs.RunnerOptions{Leases: m.store, Kinds: m.JobKinds(), Poll: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		now, err := m.store.Job(t.Context(), j.ID)
		if err != nil {
			t.Fatal(err)
		}
		if now.State.Ended() {
			return now
		}
		if time.Now().After(end) {
			t.Fatalf("the job does not end: %+v", now)
		}
	}
}

func (m *moveEnv) move(t *testing.T, r keys.MoveRequest) *jobs.Job {
	t.Helper()
	j, err := m.Move(t.Context(), m.c, r)
	if err != nil {
		t.Fatalf("Move: %v", err)
	}
	return m.run(t, j)
}

func (m *moveEnv) versions(t *testing.T, key string) []*keys.Version {
	t.Helper()
	k, err := m.Get(t.Context(), m.c, key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := m.store.Versions(t.Context(), k.ID, 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestMoveEveryAlgorithm carries a key of each algorithm that the token takes from the software root onto it, and one of each that it lacks into
// its sealed custody, and checks with what both did before and after.
func TestMoveEveryAlgorithm(t *testing.T) {
	m := newMoveEnv(t)
	for _, c := range []struct {
		alg     backend.Algorithm
		custody backend.Custody
	}{
		{backend.AES256GCM, backend.CustodyDevice}, {backend.HMACSHA256, backend.CustodyDevice}, {backend.AES256KWP, backend.CustodyDevice},
		{backend.ECDSAP256, backend.CustodyDevice}, {backend.Ed25519, backend.CustodyDevice}, {backend.ECDHP256, backend.CustodyDevice},
		{backend.X25519, backend.CustodySealed}, {backend.MLDSA65, backend.CustodySealed}, {backend.MLKEM768, backend.CustodySealed},
	} {
		t.Run(string(c.alg), func(t *testing.T) {
			k := m.create(string(c.alg), c.alg, func(r *keys.CreateRequest) { r.Backend = "soft" })
			before := m.versions(t, k.Name)[0]
			j := m.move(t, keys.MoveRequest{Key: k.Name, Backend: "hsm"})
			if want := (jobs.Counts{Done: 1, Total: 1}); j.State != jobs.Done || j.Counts != want {
				t.Fatalf("%+v", j)
			}
			after := m.versions(t, k.Name)[0]
			if after.Custody != c.custody || after.BackendID != m.hsm.Info().ID || after.Origin != keys.OriginImported || after.State != keys.StateActive {
				t.Errorf("the version says of itself %+v", after)
			}
			if !bytes.Equal(before.Public, after.Public) || bytes.Equal(before.Blob, after.Blob) {
				t.Error("the public key has changed, or the material has not moved")
			}
			got, err := m.Get(t.Context(), m.c, k.Name)
			if err != nil || got.Custody != c.custody || got.BackendID != after.BackendID || got.Origin != keys.OriginMoved {
				t.Errorf("the key says of itself %+v, %v", got, err)
			}
			// What comes next is generated there, and says so.
			if got, err = m.Rotate(t.Context(), m.c, k.Name); err != nil || got.Origin != keys.OriginGenerated || got.BackendID != after.BackendID {
				t.Errorf("rotated: %+v, %v", got, err)
			}
			if v := m.versions(t, k.Name)[1]; v.Origin != keys.OriginGenerated || v.Custody != c.custody {
				t.Errorf("the next version: %+v", v)
			}
		})
	}
}

// TestMoveVersions: all versions move, with their states, and what each has encrypted opens; each has its entry.
func TestMoveVersions(t *testing.T) {
	m := newMoveEnv(t)
	ctx := t.Context()
	k := m.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Backend = "soft" })
	var old [][]byte
	for i := range 4 {
		r, err := m.encrypt(keys.Target{Key: "k"}, fmt.Sprint("text ", i))
		if err != nil {
			t.Fatal(err)
		}
		old = append(old, r.Bytes)
		if _, err := m.Rotate(ctx, m.c, "k"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.SetVersionState(ctx, m.c, "k", 2, keys.StateCompromised); err != nil {
		t.Fatal(err)
	}
	var states []keys.State
	for _, v := range m.versions(t, "k") {
		states = append(states, v.State)
	}
	j := m.move(t, keys.MoveRequest{Key: "k", Backend: "hsm"})
	if j.State != jobs.Done || j.Counts.Done != 5 || j.Counts.Failed != 0 {
		t.Fatalf("%+v", j)
	}
	var after []keys.State
	for _, v := range m.versions(t, "k") {
		after = append(after, v.State)
		if v.BackendID != m.hsm.Info().ID {
			t.Errorf("version %d stayed", v.Version)
		}
	}
	if diff := cmp.Diff(states, after); diff != "" {
		t.Errorf("states: %s", diff)
	}
	for i, c := range old {
		r, err := m.decrypt(keys.Target{}, c)
		if err != nil || string(r.Bytes) != fmt.Sprint("text ", i) {
			t.Errorf("version %d: %v", i+1, err)
		}
	}
	var told []string
	m.recorder.mu.Lock()
	for _, e := range m.recorder.seen {
		if e.Key == k.ID && (e.Action == "key.move" || e.Action == "key.move.version") {
			told = append(told, fmt.Sprintf("%s %d %s %s %s", e.Action, e.KeyVersion, e.Outcome, e.Principal, e.Detail))
		}
	}
	m.recorder.mu.Unlock()
	want := []string{"key.move 0 ok api-key:test material"}
	for i := range 5 {
		want = append(want, fmt.Sprintf("key.move.version %d ok api-key:test material", i+1))
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	_, err := m.Move(ctx, m.c, keys.MoveRequest{Key: "k", Backend: "hsm"})
	wantCode(t, err, fault.BadField, "moving it where it is")
}

// TestMoveCrash: a process that dies between the import and the record leaves an object on the token. The next attempt finds it, proves that it is the
// same key, and goes on; nothing is made twice and nothing is lost. The record fails in turn at each place where it can.
func TestMoveCrash(t *testing.T) {
	m := newMoveEnv(t)
	ctx := t.Context()
	for _, c := range []struct {
		alg    backend.Algorithm
		action string
		code   fault.Code
	}{
		{backend.AES256GCM, "key.move.version.begin", fault.AuditUnavailable}, // nothing is there yet
		{backend.AES256GCM, "key.move.version", fault.AuditUnavailable},
		{backend.ECDSAP256, "key.move.version", fault.AuditUnavailable},
		{backend.HMACSHA256, "key.move.version", fault.StoreUnavailable},
		{backend.AES256GCM, "job.end", fault.AuditUnavailable},
	} {
		name := fmt.Sprint(c.alg, "-", c.action, "-", c.code)
		m.create(name, c.alg, func(r *keys.CreateRequest) { r.Backend = "soft" })
		first := m.versions(t, name)[0]
		var failed atomic.Bool
		m.recorder.set(func(e *audit.Entry) error {
			if e.Action == c.action && e.Outcome == "ok" && failed.CompareAndSwap(false, true) {
				return fault.New(c.code, "crash")
			}
			return nil
		})
		j := m.move(t, keys.MoveRequest{Key: name, Backend: "hsm"})
		m.recorder.set(nil)
		if !failed.Load() {
			t.Fatalf("%s: nothing has failed", name)
		}
		if j.State != jobs.Done || j.Counts.Done != 1 || j.Counts.Failed != 0 {
			t.Errorf("%s: %+v", name, j)
		}
		v := m.versions(t, name)[0]
		if v.BackendID != m.hsm.Info().ID || !bytes.Equal(v.Public, first.Public) {
			t.Errorf("%s: %+v", name, v)
		}
		key, err := m.hsm.Load(ctx, backend.Ref{Spec: backend.Spec{Tenant: m.tenant, KeyID: v.KeyID, Version: 1, Algorithm: c.alg, Purpose: purposeOf(c.alg), Custody: v.Custody}, Public: v.Public, Blob: v.Blob})
		if err != nil {
			t.Errorf("%s: what was recorded does not load: %v", name, err)
			continue
		}
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	}

	// Another object under the identity is not taken for the key, and not touched.
	k := m.create("occupied", backend.AES256GCM, func(r *keys.CreateRequest) { r.Backend = "soft" })
	spec := backend.Spec{Tenant: m.tenant, KeyID: k.ID, Version: 1, Algorithm: backend.AES256GCM, Purpose: backend.PurposeEncryption}
	other, err := m.hsm.Generate(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.encrypt(keys.Target{Key: "occupied"}, "text")
	if err != nil {
		t.Fatal(err)
	}
	j := m.move(t, keys.MoveRequest{Key: "occupied", Backend: "hsm"})
	if j.State != jobs.Failed || j.Error != fault.KeyMaterial || j.Counts.Failed != 1 || len(j.Notices) != 1 || j.Notices[0].Resource != fmt.Sprintf("key:%s/1", k.ID) {
		t.Errorf("%+v", j)
	}
	if r, err := m.decrypt(keys.Target{}, c.Bytes); err != nil || string(r.Bytes) != "text" {
		t.Errorf("the key that stayed: %v", err)
	}
	if _, err := m.hsm.Load(ctx, other); err != nil {
		t.Errorf("the object of somebody else: %v", err)
	}
}

func purposeOf(a backend.Algorithm) backend.Purpose {
	info, _ := backend.Lookup(a)
	return info.Purposes[0]
}

// TestMoveUnderLoad: a key is used and rotated all the time while its versions move there and, by new versions, elsewhere.
func TestMoveUnderLoad(t *testing.T) {
	m := newMoveEnv(t)
	ctx := t.Context()
	m.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Backend = "soft" })
	m.create("s", backend.ECDSAP256, func(r *keys.CreateRequest) { r.Backend = "soft" })
	for range 5 {
		if _, err := m.Rotate(ctx, m.c, "k"); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	var uses atomic.Int64
	var mu sync.Mutex // guards kept
	var kept [][]byte
	for w := range 3 {
		group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				c, err := m.encrypt(keys.Target{Key: "k"}, "text")
				if err != nil {
					t.Errorf("encrypting during the move: %v", err)
					return
				}
				if i%8 == 0 {
					mu.Lock()
					kept = append(kept, c.Bytes)
					mu.Unlock()
				}
				if _, err := m.decrypt(keys.Target{}, c.Bytes); err != nil {
					t.Errorf("decrypting during the move: %v", err)
					return
				}
				if w == 0 && i%10 == 3 {
					if _, err := m.Rotate(ctx, m.c, "k"); err != nil && !fault.Has(err, fault.Conflict) {
						t.Errorf("rotating during the move: %v", err)
						return
					}
				}
				sig, err := m.Sign(ctx, m.c, keys.Target{Key: "s"}, keys.SignOpts{}, []keys.SignItem{{Message: []byte("m")}}, true)
				if err != nil {
					t.Errorf("signing during the move: %v", err)
					return
				}
				ok, err := m.Verify(ctx, m.c, keys.Target{Key: "s"}, keys.SignOpts{}, []keys.VerifyItem{{Message: []byte("m"), Signature: sig[0].Bytes}}, true)
				if err != nil || !ok[0].Valid {
					t.Errorf("verifying during the move: %v", err)
					return
				}
				uses.Add(1)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	both, err := m.Move(ctx, m.c, keys.MoveRequest{Key: "s", Backend: "hsm"})
	if err != nil {
		t.Fatal(err)
	}
	j := m.move(t, keys.MoveRequest{Key: "k", Backend: "hsm"})
	s := m.run(t, both)
	back := m.move(t, keys.MoveRequest{Key: "k", Backend: "soft", Mode: keys.MoveNewVersion, AllowWeaker: true})
	time.Sleep(50 * time.Millisecond)
	close(stop)
	group.Wait()
	for _, j := range []*jobs.Job{j, s, back} {
		if j.State != jobs.Done || j.Counts.Failed != 0 {
			t.Errorf("%+v", j)
		}
	}
	for _, c := range kept {
		if _, err := m.decrypt(keys.Target{}, c); err != nil {
			t.Errorf("what was encrypted during the move: %v", err)
		}
	}
	if got, err := m.Get(ctx, m.c, "k"); err != nil || got.Custody != backend.CustodySoftware || got.Origin != keys.OriginGenerated {
		t.Errorf("%+v, %v", got, err)
	}
	t.Logf("%d uses, %d versions", uses.Load(), len(m.versions(t, "k")))
}

// TestMoveRefused: what may not, or cannot, be moved is refused before a job is made, and never in silence made weaker.
func TestMoveRefused(t *testing.T) {
	m := newMoveEnv(t)
	ctx := t.Context()
	soft := func(r *keys.CreateRequest) { r.Backend = "soft" }
	inside := func(r *keys.CreateRequest) { r.Backend = "hsm" }
	m.create("soft", backend.AES256GCM, soft)
	m.create("inside", backend.AES256GCM, inside)
	m.create("sealed", backend.X25519, inside)
	m.create("open", backend.AES256GCM, soft, func(r *keys.CreateRequest) { r.Policy.Exportable = true })
	m.create("leaving", backend.AES256GCM, soft)
	if _, err := m.Delete(ctx, m.c, "leaving", keys.MinWaiting); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Create(ctx, m.c, keys.CreateRequest{Name: "waiting", Algorithm: backend.AES256GCM, Backend: "soft", Origin: keys.OriginImported}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		r    keys.MoveRequest
		code fault.Code
	}{
		{"no key", keys.MoveRequest{Backend: "hsm"}, fault.MissingField},
		{"key and filter", keys.MoveRequest{Key: "soft", Filter: keys.Filter{Label: "a"}, Backend: "hsm"}, fault.MissingField},
		{"no backend", keys.MoveRequest{Key: "soft"}, fault.MissingField},
		{"unknown backend", keys.MoveRequest{Key: "soft", Backend: "nothing"}, fault.BackendNotFound},
		{"unknown key", keys.MoveRequest{Key: "nothing", Backend: "hsm"}, fault.KeyNotFound},
		{"unknown mode", keys.MoveRequest{Key: "soft", Backend: "hsm", Mode: "magic"}, fault.BadField},
		{"unknown custody", keys.MoveRequest{Key: "soft", Backend: "hsm", Custody: "vault"}, fault.BadField},
		{"custody that it lacks", keys.MoveRequest{Key: "soft", Backend: "hsm", Custody: backend.CustodySoftware}, fault.Unsupported},
		{"material in a device", keys.MoveRequest{Key: "inside", Backend: "soft", AllowWeaker: true}, fault.NotExportable},
		{"a weaker custody by a new version", keys.MoveRequest{Key: "inside", Backend: "soft", Mode: keys.MoveNewVersion}, fault.PolicyDenied},
		{"a weaker custody in the same device", keys.MoveRequest{Key: "inside", Backend: "hsm", Custody: backend.CustodySealed, Mode: keys.MoveNewVersion}, fault.PolicyDenied},
		{"sealed to software", keys.MoveRequest{Key: "sealed", Backend: "soft"}, fault.PolicyDenied},
		{"an exportable key into a device", keys.MoveRequest{Key: "open", Backend: "hsm"}, fault.Unsupported},
		{"a new version of it", keys.MoveRequest{Key: "open", Backend: "hsm", Mode: keys.MoveNewVersion}, fault.Unsupported},
		{"a key on its way out", keys.MoveRequest{Key: "leaving", Backend: "hsm"}, fault.BadState},
		{"a key without material", keys.MoveRequest{Key: "waiting", Backend: "hsm"}, fault.BadState},
		{"an unknown algorithm", keys.MoveRequest{Filter: keys.Filter{Algorithm: "ROT13"}, Backend: "hsm"}, fault.BadAlgorithm},
		{"an unknown state", keys.MoveRequest{Filter: keys.Filter{State: "asleep"}, Backend: "hsm"}, fault.BadField},
	} {
		_, err := m.Move(ctx, m.c, c.r)
		wantCode(t, err, c.code, c.what)
	}
	if open, err := m.store.OpenJobs(ctx, time.Now().Add(time.Hour), 10, 10); err != nil || len(open) != 0 {
		t.Errorf("jobs of what was refused: %v, %v", open, err)
	}
	reader := m.c
	reader.Principal = &auth.Principal{ID: "api-key:reader", Tenant: m.tenant, Scopes: []auth.Scope{auth.ScopeKeysRead}}
	_, err := m.Move(ctx, reader, keys.MoveRequest{Key: "soft", Backend: "hsm"})
	wantCode(t, err, fault.InsufficientScope, "without the scope")
	limited := m.c
	limited.Principal = &auth.Principal{ID: "api-key:limited", Tenant: m.tenant, Scopes: auth.Scopes(), Restrictions: &auth.Restrictions{Keys: []string{"soft"}}}
	_, err = m.Move(ctx, limited, keys.MoveRequest{Key: "sealed", Backend: "soft", AllowWeaker: true})
	wantCode(t, err, fault.Forbidden, "a key that the credential does not reach")
	_, err = m.Move(ctx, limited, keys.MoveRequest{Filter: keys.Filter{NamePrefix: "s"}, Backend: "hsm"})
	wantCode(t, err, fault.Forbidden, "many keys by a limited credential")
	_, err = m.Move(ctx, caller(uuid.New()), keys.MoveRequest{Key: "soft", Backend: "hsm"})
	wantCode(t, err, fault.KeyNotFound, "a key of another tenant")

	// Expressly, it is done.
	if j := m.move(t, keys.MoveRequest{Key: "sealed", Backend: "soft", AllowWeaker: true}); j.State != jobs.Done || j.Counts.Done != 1 {
		t.Errorf("%+v", j)
	}
	if j := m.move(t, keys.MoveRequest{Key: "open", Backend: "hsm", Custody: backend.CustodySealed}); j.State != jobs.Done || j.Counts.Done != 1 {
		t.Errorf("%+v", j)
	}
	if got, err := m.Get(ctx, m.c, "open"); err != nil || got.Custody != backend.CustodySealed || !got.Policy.Exportable {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestMoveMany: of what a filter selects, what can be moved is, and the job says what could not; what changes meanwhile is met at its turn. The same
// token gives the same job.
func TestMoveMany(t *testing.T) {
	m := newMoveEnv(t)
	label := func(r *keys.CreateRequest) { r.Backend, r.Labels = "soft", map[string]string{"batch": "1"} }
	for i := range 5 {
		m.create(fmt.Sprint("many-", i), backend.HMACSHA256, label)
	}
	m.create("many-open", backend.AES256GCM, label, func(r *keys.CreateRequest) { r.Policy.Exportable = true })
	m.create("apart", backend.HMACSHA256, func(r *keys.CreateRequest) { r.Backend = "soft" })
	c := m.c
	c.Idempotency = idempotency.Token{Key: "once", Request: [32]byte{1}}
	r := keys.MoveRequest{Filter: keys.Filter{Label: "batch=1"}, Backend: "hsm"}
	first, err := m.Move(t.Context(), c, r)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.Move(t.Context(), c, r); err != nil || again.ID != first.ID {
		t.Errorf("the same token: %+v, %v", again, err)
	}
	if _, err := m.Rotate(t.Context(), m.c, "many-3"); err != nil {
		t.Fatal(err)
	}
	j := m.run(t, first)
	if j.State != jobs.Done || j.Counts.Done != 6 || j.Counts.Failed != 1 || len(j.Notices) != 1 || j.Notices[0].Code != fault.Unsupported {
		t.Errorf("%+v", j)
	}
	for name, want := range map[string]backend.Custody{"many-0": backend.CustodyDevice, "many-3": backend.CustodyDevice, "many-4": backend.CustodyDevice,
		"many-open": backend.CustodySoftware, "apart": backend.CustodySoftware} {
		if got, err := m.Get(t.Context(), m.c, name); err != nil || got.Custody != want {
			t.Errorf("%s is in custody %s, %v", name, got.Custody, err)
		}
	}
	var p map[string]any
	if err := json.Unmarshal(j.Params, &p); err != nil || p["label"] != "batch=1" || p["backend"] != "hsm" || p["mode"] != "material" {
		t.Errorf("params %s, %v", j.Params, err)
	}
}
