package keys_test

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// actives counts the active versions of a key.
func (e *env) actives(name string) (n int) {
	e.t.Helper()
	versions, err := e.Versions(context.Background(), e.c, name, 1, 0)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, v := range versions {
		if v.State == keys.StateActive {
			n++
		}
	}
	return n
}

func TestRotateRetiring(t *testing.T) {
	for name, options := range map[string]func(*keys.Options){"software": nil, "device": onDevice} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, options)
			ctx := t.Context()
			active := keys.RotateRequest{Key: "k", Algorithm: backend.AES256GCM, Active: true}
			idle := keys.RotateRequest{Key: "k", Algorithm: backend.AES256GCM}
			_, _, err := e.RotateRetiring(ctx, e.c, idle)
			wantCode(t, err, fault.KeyNotFound, "no key")
			e.create("k", backend.AES256GCM)
			_, _, err = e.RotateRetiring(ctx, e.c, idle)
			wantCode(t, err, fault.Conflict, "an active version")
			_, _, err = e.RotateRetiring(ctx, e.c, keys.RotateRequest{Key: "k", Algorithm: backend.AES128GCM, Active: true})
			wantCode(t, err, fault.KeyNotFound, "another algorithm")
			k, old, err := e.RotateRetiring(ctx, e.c, active)
			if err != nil || old != 1 || k.PrimaryVersion != 2 || k.State != keys.StateActive || e.actives("k") != 1 {
				t.Fatalf("%+v after %d: %v", k, old, err)
			}
			if last := e.lastEntry(); last.Action != "key.rotate" || last.KeyVersion != 2 {
				t.Errorf("recorded as %+v", last)
			}
			if _, err := e.Retire(ctx, e.c, keys.Target{Key: "k", Version: 2}); err != nil {
				t.Fatal(err)
			}
			_, _, err = e.RotateRetiring(ctx, e.c, active)
			wantCode(t, err, fault.VersionNotFound, "no active version")
			k, old, err = e.RotateRetiring(ctx, e.c, idle)
			if err != nil || old != 2 || k.PrimaryVersion != 3 || e.actives("k") != 1 {
				t.Errorf("%+v after %d: %v", k, old, err)
			}
			e.create("theirs", backend.AES256GCM, func(r *keys.CreateRequest) { r.Origin = keys.OriginImported })
			_, _, err = e.RotateRetiring(ctx, e.c, keys.RotateRequest{Key: "theirs"})
			wantCode(t, err, fault.OperationNotAllowed, "an imported key")
			if _, err := e.Delete(ctx, e.c, "k", 0); err != nil {
				t.Fatal(err)
			}
			_, _, err = e.RotateRetiring(ctx, e.c, idle)
			wantCode(t, err, fault.BadState, "a key on its way out")
			_, _, err = e.RotateRetiring(ctx, e.c, active)
			wantCode(t, err, fault.VersionNotFound, "a key on its way out has no active version")
		})
	}
}

// TestRotateRetiringCrashes ends the process at each step where the device keeps objects: there is exactly one active version afterwards.
func TestRotateRetiringCrashes(t *testing.T) {
	for _, at := range []string{"before begin", "after begin", "before", "after", "before commit", "after commit"} {
		t.Run(at, func(t *testing.T) {
			e := newEnv(t, onDevice)
			e.create("k", backend.AES256GCM)
			e.device.crash = func(where string) {
				if where == at {
					panic(crashed{})
				}
			}
			e.recorder.set(func(entry *audit.Entry) error {
				if step := map[string]string{"key.rotate.begin": "begin", "key.rotate": "commit"}[entry.Action]; "before "+step == at {
					panic(crashed{})
				}
				return nil
			})
			e.recorder.Recorder = &after{Recorder: e.recorder.Recorder, at: at, act: "key.rotate"}
			if !crashing(func() {
				_, _, err := e.RotateRetiring(context.Background(), e.c, keys.RotateRequest{Key: "k", Active: true})
				t.Errorf("the call came back: %v", err)
			}) {
				t.Fatal("there was no crash")
			}
			e.device.crash = nil
			e.reopen()
			if n := e.actives("k"); n != 1 {
				t.Errorf("%d active versions", n)
			}
			k, err := e.Get(t.Context(), e.c, "k")
			if want := map[bool]uint32{true: 2, false: 1}[at == "after commit"]; err != nil || k.PrimaryVersion != want {
				t.Errorf("version %d is primary: %v", k.PrimaryVersion, err)
			}
			if k, _, err = e.RotateRetiring(t.Context(), e.c, keys.RotateRequest{Key: "k", Active: true}); err != nil || e.actives("k") != 1 {
				t.Errorf("rotating afterwards: %+v %v", k, err)
			}
		})
	}
}

// TestRotateRetiringAtOnce: of those who give a key its one active version at once, on two nodes, one succeeds.
func TestRotateRetiringAtOnce(t *testing.T) {
	for name, options := range map[string]func(*keys.Options){"software": nil, "device": onDevice} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, options)
			e.create("k", backend.AES256GCM)
			if _, err := e.Retire(t.Context(), e.c, keys.Target{Key: "k"}); err != nil {
				t.Fatal(err)
			}
			b := e.soft
			if options != nil {
				b = e.device
			}
			other, err := keys.New(keys.Options{Store: e.store, Idempotency: e.store, Recorder: e.recorder, Backends: []backend.Backend{b}, Now: e.clock.now})
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
			won := 0
			for _, s := range []*keys.Service{e.Service, other} {
				for range 6 {
					wg.Go(func() {
						_, _, err := s.RotateRetiring(t.Context(), e.c, keys.RotateRequest{Key: "k"})
						if err != nil {
							wantCode(t, err, fault.Conflict, "who was slower")
							return
						}
						mu.Lock()
						won++
						mu.Unlock()
					})
				}
			}
			wg.Wait()
			e.reopen()
			if n := e.actives("k"); won != 1 || n != 1 {
				t.Errorf("%d succeeded, %d active versions", won, n)
			}
		})
	}
}

func TestRetire(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	_, err := e.Retire(ctx, e.c, keys.Target{Key: "k"})
	wantCode(t, err, fault.KeyNotFound, "no key")
	e.create("k", backend.AES256GCM)
	_, err = e.Retire(ctx, e.c, keys.Target{Key: "k", Version: 2})
	wantCode(t, err, fault.VersionNotFound, "no version")
	_, err = e.Retire(ctx, e.c, keys.Target{Key: "k", Algorithm: backend.AES128GCM})
	wantCode(t, err, fault.KeyNotFound, "another algorithm")
	box, err := e.encrypt(keys.Target{Key: "k"}, "x")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		v, err := e.Retire(ctx, e.c, keys.Target{Key: "k", Algorithm: backend.AES256GCM})
		if err != nil || v.State != keys.StateDeactivated || v.Version != 1 || v.Blob != nil {
			t.Fatalf("%+v %v", v, err)
		}
		if last := e.lastEntry(); last.Action != "key.state" || last.Detail != "deactivated" || last.KeyVersion != 1 {
			t.Errorf("recorded as %+v", last)
		}
	}
	_, err = e.encrypt(keys.Target{Key: "k"}, "x")
	wantCode(t, err, fault.BadState, "encrypting with a retired version")
	if _, err := e.decrypt(keys.Target{}, box.Bytes); err != nil {
		t.Errorf("decrypting with a retired version: %v", err)
	}
	for _, s := range []keys.State{keys.StateSuspended, keys.StateCompromised} {
		if _, err := e.SetVersionState(ctx, e.c, "k", 1, s); err != nil {
			t.Fatal(err)
		}
		_, err = e.Retire(ctx, e.c, keys.Target{Key: "k", Version: 1})
		wantCode(t, err, fault.BadTransition, string(s))
	}
	if _, err := e.Delete(ctx, e.c, "k", 0); err != nil {
		t.Fatal(err)
	}
	_, err = e.Retire(ctx, e.c, keys.Target{Key: "k", Version: 1})
	wantCode(t, err, fault.BadTransition, "a key on its way out")
}

// TestKEMDEM: the bare format through the service, what it refuses, and how the log has it.
func TestKEMDEM(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	o := keys.EncryptOpts{Format: keys.FormatKEMDEM}
	for _, alg := range []backend.Algorithm{backend.MLKEM768, backend.XWing, backend.DHKEMX25519} {
		t.Run(string(alg), func(t *testing.T) {
			name := string(alg)
			e.create(name, alg)
			target := keys.Target{Key: name, Algorithm: alg}
			seal := func(item keys.EncryptItem) ([]byte, error) {
				r, err := e.Encrypt(ctx, e.c, target, o, []keys.EncryptItem{item}, true)
				if err != nil {
					return nil, err
				}
				return r[0].Bytes, nil
			}
			open := func(n uint32, ct []byte) ([]byte, error) {
				r, err := e.Decrypt(ctx, e.c, keys.Target{Key: name, Version: n}, o, []keys.CiphertextItem{{Ciphertext: ct}}, true)
				if err != nil {
					return nil, err
				}
				return r[0].Bytes, nil
			}
			salt := make([]byte, 32)
			plain, err := seal(keys.EncryptItem{Plaintext: []byte("x")})
			if err != nil {
				t.Fatal(err)
			}
			one, err := seal(keys.EncryptItem{Plaintext: []byte("x"), Salt: salt})
			if err != nil {
				t.Fatal(err)
			}
			if two, err := seal(keys.EncryptItem{Plaintext: []byte("x"), Salt: salt}); err != nil || !bytes.Equal(one, two) {
				t.Errorf("deterministic, and two ciphertexts: %v", err)
			}
			w, err := e.WrapKEMDEM(ctx, e.c, target, []keys.EncryptItem{{Plaintext: salt}}, true)
			if err != nil {
				t.Fatal(err)
			}
			if last := e.lastEntry(); last.Action != "wrap" || last.KeyVersion != 1 {
				t.Errorf("recorded as %+v", last)
			}
			if _, err := e.Rotate(ctx, e.c, name); err != nil {
				t.Fatal(err)
			}
			if again, err := seal(keys.EncryptItem{Plaintext: []byte("x"), Salt: salt}); err != nil || bytes.Equal(again, one) {
				t.Errorf("two versions give one ciphertext: %v", err)
			}
			for _, ct := range [][]byte{plain, one} {
				if pt, err := open(1, ct); err != nil || string(pt) != "x" {
					t.Errorf("%q %v", pt, err)
				}
				_, err := open(2, ct)
				wantCode(t, err, fault.DecryptionFailed, "by another version")
				_, err = open(1, ct[:10])
				wantCode(t, err, fault.DecryptionFailed, "the beginning")
			}
			u, err := e.UnwrapKEMDEM(ctx, e.c, keys.Target{Key: name, Version: 1}, []keys.CiphertextItem{{Ciphertext: w[0].Bytes}}, true)
			if err != nil || !bytes.Equal(u[0].Bytes, salt) {
				t.Errorf("unwrapping: %v", err)
			}
			if last := e.lastEntry(); last.Action != "unwrap" || last.KeyVersion != 1 {
				t.Errorf("recorded as %+v", last)
			}
			_, err = seal(keys.EncryptItem{Plaintext: []byte("x"), Salt: salt[:31]})
			wantCode(t, err, fault.BadSize, "a short salt")
			_, err = seal(keys.EncryptItem{Plaintext: []byte("x"), Salt: make([]byte, keys.MaxAAD+1)})
			wantCode(t, err, fault.BadSize, "a long salt")
			for what, item := range map[string]keys.EncryptItem{"aad": {AAD: salt}, "label": {Label: salt}, "context": {Context: map[string]string{"a": "b"}}} {
				_, err = seal(item)
				wantCode(t, err, fault.BadField, what)
				item.Plaintext = salt
				_, err = e.WrapKEMDEM(ctx, e.c, target, []keys.EncryptItem{item}, true)
				wantCode(t, err, fault.BadField, "wrapping with "+what)
				_, err = e.UnwrapKEMDEM(ctx, e.c, target, []keys.CiphertextItem{{Ciphertext: w[0].Bytes, AAD: item.AAD, Label: item.Label, Context: item.Context}}, true)
				wantCode(t, err, fault.BadField, "unwrapping with "+what)
			}
			_, err = e.WrapKEMDEM(ctx, e.c, target, []keys.EncryptItem{{Plaintext: salt, Salt: salt}}, true)
			wantCode(t, err, fault.BadField, "wrapping with a salt")
			_, err = e.WrapKEMDEM(ctx, e.c, target, []keys.EncryptItem{{Plaintext: salt[:7]}}, true)
			wantCode(t, err, fault.BadSize, "wrapping too little")
			_, err = e.Encrypt(ctx, e.c, target, keys.EncryptOpts{}, []keys.EncryptItem{{Salt: salt}}, true)
			wantCode(t, err, fault.BadField, "a salt with an envelope")
			_, err = e.Encrypt(ctx, e.c, keys.Target{Key: name, Algorithm: backend.MLKEM1024}, o, []keys.EncryptItem{{}}, true)
			wantCode(t, err, fault.KeyNotFound, "another algorithm")
		})
	}
	e.create("aes", backend.AES256GCM)
	_, err := e.Encrypt(ctx, e.c, keys.Target{Key: "aes"}, o, []keys.EncryptItem{{}}, true)
	wantCode(t, err, fault.BadField, "an AES key has no such format")
	_, err = e.WrapKEMDEM(ctx, e.c, keys.Target{Key: "aes"}, []keys.EncryptItem{{Plaintext: make([]byte, 16)}}, true)
	wantCode(t, err, fault.BadField, "an AES key has no such format")
	e.create("only", backend.XWing, func(r *keys.CreateRequest) { r.Policy.Operations = []backend.Operation{backend.OpEncrypt} })
	_, err = e.WrapKEMDEM(ctx, e.c, keys.Target{Key: "only"}, []keys.EncryptItem{{Plaintext: make([]byte, 16)}}, true)
	wantCode(t, err, fault.PolicyDenied, "wrapping that the policy forbids")
}

// TestFrontEndsAreHeld: what is there for other front ends goes by the same pipeline: nothing without scope, nothing without a record.
func TestFrontEndsAreHeld(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("k", backend.XWing)
	target := keys.Target{Key: "k"}
	w, err := e.WrapKEMDEM(ctx, e.c, target, []keys.EncryptItem{{Plaintext: make([]byte, 16)}}, true)
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(keys.Caller) error{
		"wrap": func(c keys.Caller) error {
			return second(e.WrapKEMDEM(ctx, c, target, []keys.EncryptItem{{Plaintext: make([]byte, 16)}}, true))
		},
		"unwrap": func(c keys.Caller) error {
			return second(e.UnwrapKEMDEM(ctx, c, target, []keys.CiphertextItem{{Ciphertext: w[0].Bytes}}, true))
		},
		"rotate": func(c keys.Caller) error {
			_, _, err := e.RotateRetiring(ctx, c, keys.RotateRequest{Key: "k", Active: true})
			return err
		},
		"retire": func(c keys.Caller) error { return second(e.Retire(ctx, c, target)) },
	}
	nobody := caller(e.tenant)
	nobody.Principal.Scopes = nil
	stranger := caller(uuid.New())
	for what, call := range calls {
		wantCode(t, call(nobody), fault.InsufficientScope, what)
		wantCode(t, call(keys.Caller{}), fault.Unauthenticated, what)
		wantCode(t, call(stranger), fault.KeyNotFound, what)
	}
	e.recorder.set(func(*audit.Entry) error { return fault.New(fault.AuditUnavailable, "disk full") })
	for what, call := range calls {
		wantCode(t, call(e.c), fault.AuditUnavailable, what)
	}
	e.recorder.set(nil)
	if k, err := e.Get(ctx, e.c, "k"); err != nil || k.PrimaryVersion != 1 || k.State != keys.StateActive {
		t.Errorf("changed without a record: %+v %v", k, err)
	}
}
