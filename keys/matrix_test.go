package keys_test

import (
	"context"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// operation is one of the eleven, ready to be carried out on the version 1 of a key.
type operation struct {
	op  backend.Operation
	alg backend.Algorithm
	run func(*env, keys.Target) (keys.Used, error)
	// apply says that it protects something, and does not process what is protected.
	apply bool
}

// operations prepares an example of each: what is to be processed is made while the key is active.
func (e *env) operations(names map[backend.Algorithm]string) []operation {
	e.t.Helper()
	ctx := context.Background()
	target := func(a backend.Algorithm) keys.Target { return keys.Target{Key: names[a]} }
	must := func(r []keys.BytesResult, err error) []byte {
		e.t.Helper()
		if err != nil {
			e.t.Fatal(err)
		}
		return r[0].Bytes
	}
	one := func(r []keys.BytesResult, err error) (keys.Used, error) {
		if err != nil {
			return keys.Used{}, err
		}
		return r[0].Used, nil
	}
	valid := func(r []keys.VerifyResult, err error) (keys.Used, error) {
		if err != nil {
			return keys.Used{}, err
		}
		if !r[0].Valid {
			e.t.Error("a genuine signature or tag is not valid")
		}
		return r[0].Used, nil
	}
	msg := []byte("sixteen byte msg")
	plain := []keys.EncryptItem{{Plaintext: msg}}
	ct := must(e.Encrypt(ctx, e.c, target(backend.AES256GCM), keys.EncryptOpts{}, plain, true))
	oaep := must(e.Encrypt(ctx, e.c, target(backend.RSA2048), keys.EncryptOpts{}, plain, true))
	kwp := must(e.Wrap(ctx, e.c, target(backend.AES256KWP), plain, true))
	sig := must(e.Sign(ctx, e.c, target(backend.Ed25519), keys.SignOpts{}, []keys.SignItem{{Message: msg}}, true))
	tag := must(e.MAC(ctx, e.c, target(backend.HMACSHA256), []keys.MACItem{{Message: msg}}, true))
	peer, err := e.Version(ctx, e.c, names[backend.X25519], 0)
	if err != nil {
		e.t.Fatal(err)
	}
	box := func(b []byte) []keys.CiphertextItem { return []keys.CiphertextItem{{Ciphertext: b}} }
	return []operation{
		{backend.OpEncrypt, backend.AES256GCM, func(e *env, t keys.Target) (keys.Used, error) {
			return one(e.Encrypt(ctx, e.c, t, keys.EncryptOpts{}, plain, true))
		}, true},
		{backend.OpEncrypt, backend.RSA2048, func(e *env, t keys.Target) (keys.Used, error) {
			return one(e.Encrypt(ctx, e.c, t, keys.EncryptOpts{}, plain, true))
		}, true},
		{backend.OpDecrypt, backend.AES256GCM, func(e *env, t keys.Target) (keys.Used, error) {
			return one(e.Decrypt(ctx, e.c, t, keys.EncryptOpts{}, box(ct), true))
		}, false},
		{backend.OpDecrypt, backend.RSA2048, func(e *env, t keys.Target) (keys.Used, error) {
			return one(e.Decrypt(ctx, e.c, t, keys.EncryptOpts{}, box(oaep), true))
		}, false},
		{backend.OpRewrap, backend.AES256GCM, func(e *env, t keys.Target) (keys.Used, error) {
			return one(e.Rewrap(ctx, e.c, t, box(ct), true))
		}, true},
		{backend.OpDataKey, backend.AES256GCM, func(e *env, t keys.Target) (keys.Used, error) {
			r, err := e.DataKeys(ctx, e.c, t, []keys.DataKeyRequest{{}}, true)
			if err != nil {
				return keys.Used{}, err
			}
			return r[0].Used, nil
		}, true},
		{backend.OpWrap, backend.AES256KWP, func(e *env, t keys.Target) (keys.Used, error) { return one(e.Wrap(ctx, e.c, t, plain, true)) }, true},
		{backend.OpUnwrap, backend.AES256KWP, func(e *env, t keys.Target) (keys.Used, error) { return one(e.Unwrap(ctx, e.c, t, box(kwp), true)) }, false},
		{backend.OpWrap, backend.AES256GCM, func(e *env, t keys.Target) (keys.Used, error) { return one(e.Wrap(ctx, e.c, t, plain, true)) }, true},
		{backend.OpUnwrap, backend.AES256GCM, func(e *env, t keys.Target) (keys.Used, error) { return one(e.Unwrap(ctx, e.c, t, box(ct), true)) }, false},
		{backend.OpSign, backend.Ed25519, func(e *env, t keys.Target) (keys.Used, error) {
			return one(e.Sign(ctx, e.c, t, keys.SignOpts{}, []keys.SignItem{{Message: msg}}, true))
		}, true},
		{backend.OpVerify, backend.Ed25519, func(e *env, t keys.Target) (keys.Used, error) {
			return valid(e.Verify(ctx, e.c, t, keys.SignOpts{}, []keys.VerifyItem{{Message: msg, Signature: sig}}, true))
		}, false},
		{backend.OpMAC, backend.HMACSHA256, func(e *env, t keys.Target) (keys.Used, error) {
			return one(e.MAC(ctx, e.c, t, []keys.MACItem{{Message: msg}}, true))
		}, true},
		{backend.OpVerifyMAC, backend.HMACSHA256, func(e *env, t keys.Target) (keys.Used, error) {
			return valid(e.VerifyMAC(ctx, e.c, t, []keys.MACItem{{Message: msg, MAC: tag}}, true))
		}, false},
		{backend.OpDerive, backend.X25519, func(e *env, t keys.Target) (keys.Used, error) {
			return one(e.Derive(ctx, e.c, t, []keys.DeriveItem{{Peer: peer.Public}}, true))
		}, true},
	}
}

func matrixAlgorithms() []backend.Algorithm {
	return []backend.Algorithm{backend.AES256GCM, backend.RSA2048, backend.AES256KWP, backend.Ed25519, backend.HMACSHA256, backend.X25519}
}

// TestStatesAndOperations carries out every operation in every state that a key can be brought into, and looks at what is released and what
// the log says.
func TestStatesAndOperations(t *testing.T) {
	bring := map[keys.State][]keys.State{
		keys.StateActive:      nil,
		keys.StateDeactivated: {keys.StateDeactivated},
		keys.StateSuspended:   {keys.StateSuspended},
		keys.StateCompromised: {keys.StateCompromised},
		// back from suspension
		"active again":      {keys.StateSuspended, keys.StateActive},
		"deactivated again": {keys.StateDeactivated, keys.StateSuspended, keys.StateDeactivated},
		// of the whole key
		keys.StatePendingDeletion: nil,
		keys.StateDestroyed:       nil,
	}
	everything, process, nothing := 2, 1, 0
	may := map[keys.State]int{keys.StateActive: everything, keys.StateDeactivated: process, keys.StateCompromised: process, keys.StateSuspended: nothing,
		"active again": everything, "deactivated again": process, keys.StatePendingDeletion: nothing, keys.StateDestroyed: nothing}
	for state, path := range bring {
		t.Run(string(state), func(t *testing.T) {
			e := newEnv(t, nil)
			ctx := t.Context()
			names, ids := map[backend.Algorithm]string{}, map[string]*keys.Key{}
			for _, a := range matrixAlgorithms() {
				k := e.create(string(a), a, func(r *keys.CreateRequest) {
					if a == backend.RSA2048 {
						r.Purpose = backend.PurposeEncryption
					}
				})
				names[a], ids[k.Name] = k.ID.String(), k
			}
			ops := e.operations(names)
			for _, name := range names {
				for _, to := range path {
					if _, err := e.SetVersionState(ctx, e.c, name, 0, to); err != nil {
						t.Fatal(err)
					}
				}
				if state == keys.StatePendingDeletion || state == keys.StateDestroyed {
					if _, err := e.Delete(ctx, e.c, name, 0); err != nil {
						t.Fatal(err)
					}
				}
			}
			if state == keys.StateDestroyed {
				e.clock.advance(keys.MaxWaiting)
				if err := e.Maintain(ctx); err != nil {
					t.Fatal(err)
				}
			}
			for _, o := range ops {
				used, err := o.run(e, keys.Target{Key: names[o.alg]})
				want := fault.BadState
				if may[state] == everything || may[state] == process && !o.apply {
					want = ""
				}
				wantCode(t, err, want, string(o.op)+" with "+string(o.alg))
				if err == nil && (used.Version != 1 || used.Compromised != (state == keys.StateCompromised)) {
					t.Errorf("%s: used %+v", o.op, used)
				}
				last, outcome := e.lastEntry(), "ok"
				if want != "" {
					outcome = string(want)
				}
				if last.Action != string(o.op) || last.Outcome != outcome || last.Key.String() != names[o.alg] || last.Principal != "api-key:test" {
					t.Errorf("%s: the log says %+v", o.op, last)
				}
			}
		})
	}
}
