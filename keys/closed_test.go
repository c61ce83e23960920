package keys_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

func (e *env) mustID(name string) uuid.UUID {
	e.t.Helper()
	k, err := e.Get(context.Background(), e.c, name)
	if err != nil {
		e.t.Fatal(err)
	}
	return k.ID
}

// TestNothingWithoutARecord: when the log cannot be written nothing is released and nothing is changed.
func TestNothingWithoutARecord(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	names := map[backend.Algorithm]string{}
	for _, a := range matrixAlgorithms() {
		names[a] = e.create(string(a), a, func(r *keys.CreateRequest) {
			if a == backend.RSA2048 {
				r.Purpose = backend.PurposeEncryption
			}
			r.Policy.Exportable = a != backend.RSA2048
		}).ID.String()
	}
	ops := e.operations(names)
	params, err := e.ImportParameters(ctx, e.c, "")
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]*keys.Key{}
	for _, id := range names {
		if before[id], err = e.store.KeyByID(ctx, e.tenant, uuid.MustParse(id)); err != nil {
			t.Fatal(err)
		}
	}
	logged := len(e.entries())

	e.recorder.set(func(*audit.Entry) error { return fault.New(fault.AuditUnavailable, "disk full") })
	for _, o := range ops {
		used, err := o.run(e, keys.Target{Key: names[o.alg]})
		wantCode(t, err, fault.AuditUnavailable, string(o.op))
		if used != (keys.Used{}) {
			t.Errorf("%s released %+v", o.op, used)
		}
	}
	aes := names[backend.AES256GCM]
	name := "other"
	results, err := e.Encrypt(ctx, e.c, keys.Target{Key: aes}, keys.EncryptOpts{}, make([]keys.EncryptItem, 3), false)
	if results != nil {
		t.Error("a batch was released")
	}
	wantCode(t, err, fault.AuditUnavailable, "batch")
	changes := map[string]func() error{
		"create": func() error {
			_, err := e.Create(ctx, e.c, keys.CreateRequest{Name: "new", Algorithm: backend.AES256GCM})
			return err
		},
		"rotate":  func() error { _, err := e.Rotate(ctx, e.c, aes); return err },
		"update":  func() error { _, err := e.Update(ctx, e.c, aes, keys.UpdateRequest{Name: &name}); return err },
		"state":   func() error { _, err := e.SetVersionState(ctx, e.c, aes, 1, keys.StateSuspended); return err },
		"delete":  func() error { _, err := e.Delete(ctx, e.c, aes, 0); return err },
		"random":  func() error { b, err := e.Random(ctx, e.c, "", 32); released(t, b); return err },
		"refusal": func() error { _, err := e.Get(ctx, e.c, "absent"); return err },
		"export": func() error {
			b, _, err := e.Export(ctx, e.c, keys.ExportRequest{Key: aes, To: names[backend.RSA2048]})
			released(t, b)
			return err
		},
		"import parameters": func() error { _, err := e.ImportParameters(ctx, e.c, ""); return err },
		"import": func() error {
			_, err := e.Import(ctx, e.c, keys.ImportRequest{Create: keys.CreateRequest{Name: "in", Algorithm: backend.AES256GCM},
				Token: params.Token, Wrapped: wrapFor(t, params, make([]byte, 32))})
			return err
		},
	}
	for what, change := range changes {
		wantCode(t, change(), fault.AuditUnavailable, what)
	}
	e.recorder.set(nil)
	for id, k := range before {
		after, err := e.store.KeyByID(ctx, e.tenant, uuid.MustParse(id))
		if err != nil || after.Revision != k.Revision || after.State != k.State || after.Name != k.Name {
			t.Errorf("%s was changed: %+v %v", k.Name, after, err)
		}
	}
	for _, absent := range []string{"new", "in", "other"} {
		_, err := e.Get(ctx, e.c, absent)
		wantCode(t, err, fault.KeyNotFound, absent)
	}
	if n := len(e.entries()); n != logged+3 {
		t.Errorf("%d entries, want %d", n, logged+3)
	}
	for _, o := range ops {
		if _, err := o.run(e, keys.Target{Key: names[o.alg]}); err != nil {
			t.Errorf("%s afterwards: %v", o.op, err)
		}
	}
}

// TestLogInTrouble: what the log says of itself reaches the caller, and nothing else does.
func TestLogInTrouble(t *testing.T) {
	e := newEnv(t, nil)
	e.create("k", backend.AES256GCM)
	for code, refusal := range map[fault.Code]fault.Code{fault.Overloaded: fault.Overloaded, fault.Unavailable: fault.AuditUnavailable,
		fault.StoreUnavailable: fault.AuditUnavailable, fault.AuditUnavailable: fault.AuditUnavailable, fault.Timeout: fault.AuditUnavailable} {
		calls := 0
		e.recorder.set(func(*audit.Entry) error { calls++; return fault.New(code, "trouble") })
		r, err := e.encrypt(keys.Target{Key: "k"}, "x")
		wantCode(t, err, code, "a result")
		released(t, r.Bytes)
		if calls != 1 {
			t.Errorf("%s: the log in trouble was asked %d times", code, calls)
		}
		_, err = e.decrypt(keys.Target{Key: "k"}, []byte("x"))
		wantCode(t, err, refusal, "a refusal")
	}
}

func released(t *testing.T, b []byte) {
	t.Helper()
	if b != nil {
		t.Error("a result was released")
	}
}

// TestUnknownRecord: a record of which nobody knows whether it became durable releases nothing, and is not trusted to the cache.
func TestUnknownRecord(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("k", backend.AES256GCM)
	// The log answers with a timeout, and the change is carried out all the same, later.
	late := make(chan func() error, 1)
	slow := &slowLog{Recorder: e.recorder.Recorder, late: late}
	e.recorder.Recorder = slow
	slow.on = true
	_, err := e.SetVersionState(ctx, e.c, "k", 1, keys.StateSuspended)
	wantCode(t, err, fault.Timeout, "a change whose record timed out")
	slow.on = false
	if _, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil {
		t.Errorf("before the change is durable: %v", err)
	}
	if err := (<-late)(); err != nil {
		t.Fatal(err)
	}
	_, err = e.encrypt(keys.Target{Key: "k"}, "x")
	wantCode(t, err, fault.BadState, "after the change has become durable")
}

type slowLog struct {
	audit.Recorder
	on   bool
	late chan func() error
}

func (s *slowLog) Record(ctx context.Context, e *audit.Entry, changes ...audit.Change) (uint64, error) {
	if s.on {
		entry := *e
		s.late <- func() error { _, err := s.Recorder.Record(context.Background(), &entry, changes...); return err }
		return 0, fault.New(fault.Timeout, "too slow")
	}
	return s.Recorder.Record(ctx, e, changes...)
}

// TestDeadlines: a context that has ended gives a timeout, at whatever step it ends, and is recorded.
func TestDeadlines(t *testing.T) {
	e := newEnv(t, nil)
	k := e.create("k", backend.AES256GCM)
	if _, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil { // so that the key is ready
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := e.Encrypt(ctx, e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, make([]keys.EncryptItem, 1), true)
	wantCode(t, err, fault.Timeout, "an ended context")
	if last := e.lastEntry(); last.Outcome != string(fault.Timeout) || last.Key != k.ID {
		t.Errorf("the log says %+v", last)
	}
	e.reopen() // nothing is cached
	_, err = e.Encrypt(ctx, e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, make([]keys.EncryptItem, 1), true)
	wantCode(t, err, fault.Timeout, "an ended context before the key is read")
	ctx, cancel = context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	_, err = e.Rotate(ctx, e.c, "k")
	wantCode(t, err, fault.Timeout, "rotating too late")
	if got, err := e.Get(t.Context(), e.c, "k"); err != nil || got.LatestVersion != 1 {
		t.Errorf("the key has %d versions: %v", got.LatestVersion, err)
	}
}

// TestGoneBeforeTheRecord: what was done with a key is told also when the caller goes between its end and its record.
func TestGoneBeforeTheRecord(t *testing.T) {
	e := newEnv(t, nil)
	plain := e.create("plain", backend.AES256GCM)
	counted := e.create("counted", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.UsageLimit = 10 })
	for _, k := range []*keys.Key{plain, counted} {
		if _, err := e.encrypt(keys.Target{Key: k.Name}, "x"); err != nil { // so that the key is ready
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		e.recorder.set(func(*audit.Entry) error { cancel(); return nil })
		before := len(e.entries())
		out, err := e.Encrypt(ctx, e.c, keys.Target{Key: k.Name}, keys.EncryptOpts{}, make([]keys.EncryptItem, 1), true)
		e.recorder.set(nil)
		wantCode(t, err, fault.Timeout, k.Name)
		if out != nil {
			t.Error("a result was released")
		}
		if last := e.lastEntry(); len(e.entries()) != before+1 || last.Action != "encrypt" || last.Key != k.ID || last.Outcome != string(fault.Timeout) {
			t.Errorf("%s: %d entries more, the last %+v", k.Name, len(e.entries())-before, last)
		}
	}
}

// TestScopes: every call needs its scope and no other, and is recorded when it lacks it.
func TestScopes(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	aes := e.create("k", backend.AES256GCM).ID.String()
	s := e.Service
	calls := map[auth.Scope][]func(keys.Caller) error{
		auth.ScopeKeysRead: {
			func(c keys.Caller) error { _, err := s.Get(ctx, c, aes); return err },
			func(c keys.Caller) error { _, _, err := s.List(ctx, c, keys.ListRequest{}); return err },
			func(c keys.Caller) error { _, err := s.Versions(ctx, c, aes, 0, 0); return err },
			func(c keys.Caller) error { _, err := s.Version(ctx, c, aes, 0); return err },
			func(c keys.Caller) error {
				_, err := s.Attest(ctx, c, keys.AttestRequest{Key: aes, Nonce: make([]byte, 16)})
				return err
			},
			func(c keys.Caller) error { _, err := s.AttestationKey(ctx, c); return err },
		},
		auth.ScopeKeysWrite: {
			func(c keys.Caller) error { _, err := s.Create(ctx, c, keys.CreateRequest{}); return err },
			func(c keys.Caller) error { _, err := s.Update(ctx, c, aes, keys.UpdateRequest{}); return err },
			func(c keys.Caller) error { _, err := s.Delete(ctx, c, aes, 1); return err },
			func(c keys.Caller) error { _, err := s.CancelDeletion(ctx, c, aes); return err },
			func(c keys.Caller) error { _, err := s.Rotate(ctx, c, aes); return err },
			func(c keys.Caller) error { _, err := s.SetVersionState(ctx, c, aes, 1, ""); return err },
			func(c keys.Caller) error { _, err := s.ImportParameters(ctx, c, ""); return err },
			func(c keys.Caller) error { _, err := s.Import(ctx, c, keys.ImportRequest{}); return err },
			func(c keys.Caller) error { _, _, err := s.Export(ctx, c, keys.ExportRequest{}); return err },
		},
		auth.ScopeEncryptionWrite: {
			func(c keys.Caller) error {
				_, err := s.Encrypt(ctx, c, keys.Target{}, keys.EncryptOpts{}, nil, false)
				return err
			},
			func(c keys.Caller) error {
				_, err := s.Decrypt(ctx, c, keys.Target{}, keys.EncryptOpts{}, nil, false)
				return err
			},
			func(c keys.Caller) error { _, err := s.Rewrap(ctx, c, keys.Target{}, nil, false); return err },
			func(c keys.Caller) error { _, err := s.DataKeys(ctx, c, keys.Target{}, nil, false); return err },
			func(c keys.Caller) error { _, err := s.Wrap(ctx, c, keys.Target{}, nil, false); return err },
			func(c keys.Caller) error { _, err := s.Unwrap(ctx, c, keys.Target{}, nil, false); return err },
			func(c keys.Caller) error {
				_, err := s.Sign(ctx, c, keys.Target{}, keys.SignOpts{}, nil, false)
				return err
			},
			func(c keys.Caller) error {
				_, err := s.Verify(ctx, c, keys.Target{}, keys.SignOpts{}, nil, false)
				return err
			},
			func(c keys.Caller) error { _, err := s.MAC(ctx, c, keys.Target{}, nil, false); return err },
			func(c keys.Caller) error { _, err := s.VerifyMAC(ctx, c, keys.Target{}, nil, false); return err },
			func(c keys.Caller) error { _, err := s.Derive(ctx, c, keys.Target{}, nil, false); return err },
			func(c keys.Caller) error { _, err := s.Random(ctx, c, "", 0); return err },
		},
	}
	for right, of := range calls {
		for i, call := range of {
			for _, scope := range auth.Scopes() {
				c := keys.Caller{Principal: &auth.Principal{ID: "api-key:narrow", Tenant: e.tenant, Scopes: []auth.Scope{scope}}}
				before, has := len(e.entries()), c.Principal.Has(right)
				err := call(c)
				if denied := fault.Has(err, fault.InsufficientScope); denied == has {
					t.Errorf("%s call %d with %s: %v", right, i, scope, err)
				}
				if all := e.entries(); !has && (len(all) != before+1 || all[before].Outcome != string(fault.InsufficientScope) || all[before].Principal != "api-key:narrow") {
					t.Errorf("%s call %d with %s: not recorded", right, i, scope)
				}
			}
			if err := call(keys.Caller{}); !fault.Has(err, fault.Unauthenticated) {
				t.Errorf("%s call %d of nobody: %v", right, i, err)
			}
		}
	}
}

func TestClose(t *testing.T) {
	e := newEnv(t, nil)
	e.create("k", backend.AES256GCM)
	held, enter := make(chan struct{}), make(chan struct{})
	e.recorder.set(func(*audit.Entry) error { close(enter); <-held; return nil })
	done := make(chan error, 1)
	go func() { _, err := e.encrypt(keys.Target{Key: "k"}, "x"); done <- err }()
	<-enter
	closed := make(chan error, 1)
	go func() { closed <- e.Service.Close() }()
	for {
		if _, err := e.Get(t.Context(), e.c, "k"); fault.Has(err, fault.Unavailable) {
			break
		}
	}
	select {
	case <-closed:
		t.Error("Close did not wait for the call under way")
	default:
	}
	e.recorder.set(nil)
	close(held)
	if err := errors.Join(<-done, <-closed, e.Service.Close()); err != nil {
		t.Error(err)
	}
}
