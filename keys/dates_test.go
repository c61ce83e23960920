package keys_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// dated is an operation that protects, and the one that processes what it protected.
type dated struct {
	alg       backend.Algorithm
	protect   func(e *env) ([]byte, error)
	processed func(e *env, b []byte) error
}

func datedOperations() []dated {
	at := keys.Target{Key: "k"}
	one := func(r []keys.BytesResult, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return r[0].Bytes, nil
	}
	return []dated{
		{backend.AES256GCM, func(e *env) ([]byte, error) {
			r, err := e.encrypt(at, "x")
			return r.Bytes, err
		}, func(e *env, b []byte) error { return second(e.decrypt(keys.Target{}, b)) }},
		{backend.AES256KWP, func(e *env) ([]byte, error) {
			return one(e.Wrap(e.t.Context(), e.c, at, []keys.EncryptItem{{Plaintext: make([]byte, 16)}}, true))
		}, func(e *env, b []byte) error {
			return second(e.Unwrap(e.t.Context(), e.c, at, []keys.CiphertextItem{{Ciphertext: b}}, true))
		}},
		{backend.ECDSAP256, func(e *env) ([]byte, error) {
			return one(e.Sign(e.t.Context(), e.c, at, keys.SignOpts{}, []keys.SignItem{{Message: []byte("m")}}, true))
		}, func(e *env, b []byte) error {
			return second(e.Verify(e.t.Context(), e.c, at, keys.SignOpts{}, []keys.VerifyItem{{Message: []byte("m"), Signature: b}}, true))
		}},
		{backend.HMACSHA256, func(e *env) ([]byte, error) {
			return one(e.MAC(e.t.Context(), e.c, at, []keys.MACItem{{Message: []byte("m")}}, true))
		}, func(e *env, b []byte) error {
			return second(e.VerifyMAC(e.t.Context(), e.c, at, []keys.MACItem{{Message: []byte("m"), MAC: b}}, true))
		}},
	}
}

// TestDates: dates count from their moment on, whoever has written them down; the writing has an entry of its own.
func TestDates(t *testing.T) {
	for _, written := range []string{"by the clock alone", "by Maintain"} {
		for _, d := range datedOperations() {
			t.Run(written+"/"+string(d.alg), func(t *testing.T) {
				e := newEnv(t, nil)
				ctx := t.Context()
				pass := func() {
					t.Helper()
					if written == "by Maintain" {
						e.maintain()
					}
				}
				start := e.clock.now()
				policy := keys.Policy{ActivatesAt: start.Add(time.Hour), ExpiresAt: start.Add(3 * time.Hour)}
				k := e.create("k", d.alg, func(r *keys.CreateRequest) { r.Policy = policy })
				state := func(want keys.State) {
					t.Helper()
					got, err := e.Get(ctx, e.c, "k")
					if err != nil || got.State != want {
						t.Errorf("the key is %v, %v; want %s", got.State, err, want)
					}
					v, err := e.Version(ctx, e.c, "k", 0)
					if err != nil || v.State != want {
						t.Errorf("the version is %v, %v; want %s", v.State, err, want)
					}
				}
				e.clock.advance(time.Hour - time.Microsecond)
				pass()
				state(keys.StatePreActive)
				list, _, err := e.List(ctx, e.c, keys.ListRequest{Filter: keys.Filter{State: keys.StatePreActive}})
				if err != nil || len(list) != 1 || list[0].ID != k.ID {
					t.Errorf("the pre-active keys are %v, %v", list, err)
				}
				_, err = d.protect(e)
				wantCode(t, err, fault.BadState, "before the activation")

				e.clock.advance(time.Microsecond)
				pass()
				state(keys.StateActive)
				made, err := d.protect(e)
				if err != nil {
					t.Fatalf("at the activation: %v", err)
				}
				e.clock.advance(2*time.Hour - time.Microsecond)
				pass()
				if _, err := d.protect(e); err != nil {
					t.Fatalf("just before the expiry: %v", err)
				}
				e.clock.advance(time.Microsecond)
				pass()
				state(keys.StateDeactivated)
				_, err = d.protect(e)
				wantCode(t, err, fault.BadState, "at the expiry")
				if err := d.processed(e, made); err != nil {
					t.Errorf("what was protected: %v", err)
				}
				_, err = e.Rotate(ctx, e.c, "k")
				wantCode(t, err, fault.BadState, "rotating an expired key")

				e.maintain() // whoever has not written it does so now, both dates
				var acts []string
				for _, entry := range e.entries() {
					if entry.Principal == "system" && entry.Key == k.ID {
						acts = append(acts, entry.Action)
						if entry.Outcome != "ok" || entry.KeyVersion != 1 || entry.Tenant != e.tenant {
							t.Errorf("the log says %+v", entry)
						}
					}
				}
				if diff := cmp.Diff([]string{"key.activate", "key.expire"}, acts); diff != "" {
					t.Error(diff)
				}
				n := len(e.entries())
				e.maintain()
				if len(e.entries()) != n {
					t.Error("done twice")
				}
				state(keys.StateDeactivated)

				// A later date does not bring the version back; a new version is active under it.
				policy.ExpiresAt = e.clock.now().Add(time.Hour)
				if _, err := e.Update(ctx, e.c, "k", keys.UpdateRequest{Policy: &policy}); err != nil {
					t.Fatal(err)
				}
				state(keys.StateDeactivated)
				_, err = d.protect(e)
				wantCode(t, err, fault.BadState, "with a later date")
				if _, err := e.Rotate(ctx, e.c, "k"); err != nil {
					t.Fatal(err)
				}
				state(keys.StateActive)
				if _, err := d.protect(e); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestExpiryIsWrittenBeforeItMoves: whoever moves the date of a key that has expired does not bring its version back, Maintain or not.
func TestExpiryIsWrittenBeforeItMoves(t *testing.T) {
	e := newEnv(t, nil)
	now := e.clock.now()
	e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) {
		r.Policy.ActivatesAt, r.Policy.ExpiresAt = now.Add(time.Hour), now.Add(2*time.Hour)
	})
	e.clock.advance(3 * time.Hour)
	k, err := e.Update(t.Context(), e.c, "k", keys.UpdateRequest{Policy: &keys.Policy{ExpiresAt: now.Add(5 * time.Hour)}})
	if err != nil || k.State != keys.StateDeactivated {
		t.Fatalf("%+v %v", k, err)
	}
	if !k.Policy.ActivatesAt.Equal(now.Add(time.Hour)) {
		t.Error("when the key was activated is forgotten")
	}
	all := e.entries()
	var last []string
	for _, entry := range all[len(all)-3:] {
		last = append(last, entry.Principal+" "+entry.Action)
	}
	if diff := cmp.Diff([]string{"system key.activate", "system key.expire", "api-key:test key.update"}, last); diff != "" {
		t.Error(diff)
	}
}

// TestActivationByHand: a pre-active key can be activated before its date, and one whose date was taken away waits for that.
func TestActivationByHand(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	later := e.clock.now().Add(time.Hour)
	for _, name := range []string{"early", "undated"} {
		e.create(name, backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.ActivatesAt = later })
	}
	if k, err := e.Update(ctx, e.c, "undated", keys.UpdateRequest{Policy: &keys.Policy{}}); err != nil || k.State != keys.StatePreActive {
		t.Fatalf("%+v %v", k, err)
	}
	e.clock.advance(time.Minute)
	if _, err := e.SetVersionState(ctx, e.c, "early", 1, keys.StateActive); err != nil {
		t.Fatal(err)
	}
	if k, err := e.Get(ctx, e.c, "early"); err != nil || k.State != keys.StateActive || !k.Policy.ActivatesAt.Equal(e.clock.now()) {
		t.Errorf("%+v %v", k, err)
	}
	if _, err := e.encrypt(keys.Target{Key: "early"}, "x"); err != nil {
		t.Error(err)
	}
	e.clock.advance(2 * time.Hour)
	e.maintain()
	_, err := e.encrypt(keys.Target{Key: "undated"}, "x")
	wantCode(t, err, fault.BadState, "without a date")
	if _, err := e.SetVersionState(ctx, e.c, "undated", 1, keys.StateActive); err != nil {
		t.Fatal(err)
	}
	if _, err := e.encrypt(keys.Target{Key: "undated"}, "x"); err != nil {
		t.Error(err)
	}
}

// TestSuspendedAndExpired: a suspended key does not come back after its expiry, and one that was pre-active not before it was activated.
func TestSuspendedAndExpired(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.ExpiresAt = e.clock.now().Add(time.Hour) })
	if _, err := e.SetVersionState(ctx, e.c, "k", 1, keys.StateSuspended); err != nil {
		t.Fatal(err)
	}
	e.clock.advance(2 * time.Hour)
	e.maintain()
	_, err := e.SetVersionState(ctx, e.c, "k", 1, keys.StateActive)
	wantCode(t, err, fault.BadState, "active again")
	if v, err := e.SetVersionState(ctx, e.c, "k", 1, keys.StateDeactivated); err != nil || v.State != keys.StateDeactivated {
		t.Errorf("%+v %v", v, err)
	}
}

// TestDatesOfImports: an imported version obeys the dates of its key as a generated one does, on a device as well.
func TestDatesOfImports(t *testing.T) {
	for name, options := range map[string]func(*keys.Options){"software": nil, "device": onDevice} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, options)
			p, err := e.ImportParameters(t.Context(), e.c, "")
			if err != nil {
				t.Fatal(err)
			}
			k, err := e.Import(t.Context(), e.c, keys.ImportRequest{Create: keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM,
				Policy: keys.Policy{ActivatesAt: e.clock.now().Add(time.Hour)}}, Token: p.Token, Wrapped: wrapFor(t, p, make([]byte, 32))})
			if err != nil || k.State != keys.StatePreActive {
				t.Fatalf("%+v %v", k, err)
			}
			_, err = e.encrypt(keys.Target{Key: "k"}, "x")
			wantCode(t, err, fault.BadState, "before the activation")
			k, err = e.Import(t.Context(), e.c, keys.ImportRequest{Key: "k", Token: p.Token, Wrapped: wrapFor(t, p, make([]byte, 32))})
			if err != nil || k.State != keys.StatePreActive || k.PrimaryVersion != 2 {
				t.Fatalf("%+v %v", k, err)
			}
			e.clock.advance(time.Hour)
			e.maintain()
			if r, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil || r.Used.Version != 2 {
				t.Errorf("%+v %v", r, err)
			}
			if v, err := e.Version(t.Context(), e.c, "k", 1); err != nil || v.State != keys.StateDeactivated {
				t.Errorf("the first version: %+v %v", v, err)
			}
		})
	}
}

// TestRotationPeriodBeginsWithActivation: the time before it does not count.
func TestRotationPeriodBeginsWithActivation(t *testing.T) {
	e := newEnv(t, nil)
	start := e.clock.now()
	k := e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) {
		r.Policy = keys.Policy{ActivatesAt: start.Add(10 * time.Hour), ExpiresAt: start.Add(40 * time.Hour), RotationPeriod: 20 * time.Hour}
	})
	if !k.NextRotationAt().IsZero() {
		t.Error("a pre-active key is to be rotated")
	}
	for _, step := range []struct {
		at      int // hours
		version uint32
		next    int
	}{{9, 1, 0}, {10, 1, 30}, {29, 1, 30}, {30, 2, 0}, {39, 2, 0}, {50, 2, 0}} {
		e.clock.advance(start.Add(time.Duration(step.at) * time.Hour).Sub(e.clock.now()))
		e.maintain()
		k, err := e.Get(t.Context(), e.c, "k")
		next := 0
		if at := k.NextRotationAt(); !at.IsZero() {
			next = int(at.Sub(start).Hours())
		}
		if err != nil || k.PrimaryVersion != step.version || next != step.next {
			t.Errorf("after %d h: version %d, next rotation after %d h, %v", step.at, k.PrimaryVersion, next, err)
		}
	}
}

func TestDateRefusals(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	now := e.clock.now()
	in := func(activates, expires time.Duration) keys.Policy {
		var p keys.Policy
		if activates != 0 {
			p.ActivatesAt = now.Add(activates)
		}
		if expires != 0 {
			p.ExpiresAt = now.Add(expires)
		}
		return p
	}
	const year = 366 * 24 * time.Hour
	for what, p := range map[string]keys.Policy{
		"expired":           in(0, -time.Second),
		"expires now":       {ExpiresAt: now},
		"order":             in(2*time.Hour, time.Hour),
		"same":              in(time.Hour, time.Hour),
		"far activation":    in(101*year, 0),
		"far expiry":        in(0, 101*year),
		"long ago":          {ActivatesAt: time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC)},
		"negative messages": {RotateAfterMessages: -1},
		"negative bytes":    {RotateAfterBytes: -1},
	} {
		_, err := e.Create(ctx, e.c, keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Policy: p})
		wantCode(t, err, fault.BadField, what)
	}
	_, err := e.Create(ctx, e.c, keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Origin: keys.OriginImported, Policy: keys.Policy{RotateAfterMessages: 1}})
	wantCode(t, err, fault.BadField, "an imported key that rotates")

	past := e.create("past", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy = in(-time.Hour, time.Hour) })
	if past.State != keys.StateActive {
		t.Errorf("a key whose activation has passed is %s", past.State)
	}
	update := func(name string, p keys.Policy) error {
		return second(e.Update(ctx, e.c, name, keys.UpdateRequest{Policy: &p}))
	}
	wantCode(t, update("past", in(time.Hour, 2*time.Hour)), fault.BadField, "activating an active key later")
	wantCode(t, update("past", in(-2*time.Hour, 2*time.Hour)), fault.BadField, "rewriting when it was activated")
	wantCode(t, update("past", in(-time.Hour, -time.Minute)), fault.BadField, "an expiry that has passed")
	wantCode(t, update("past", in(-time.Hour, 9*time.Hour)), "", "a later expiry")
	wantCode(t, update("past", in(0, 0)), "", "no expiry")

	e.create("future", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy = in(time.Hour, 0) })
	wantCode(t, update("future", in(2*time.Hour, 0)), "", "a later activation")
	wantCode(t, update("future", in(-time.Second, 0)), "", "an activation at once")
	if _, err := e.encrypt(keys.Target{Key: "future"}, "x"); err != nil {
		t.Errorf("activated at once: %v", err)
	}
	var entry audit.Entry
	for _, x := range e.entries() {
		if x.Action == "key.update" && x.Outcome == "ok" {
			entry = x
		}
	}
	if entry.Detail != "policy" {
		t.Errorf("the log says %+v", entry)
	}
}

// TestListOfPreActive: keys that wait for their date and keys that are being made are one list, in pages.
func TestListOfPreActive(t *testing.T) {
	e := newEnv(t, nil)
	var want []string
	for i := range 9 {
		k := e.create(fmt.Sprint("k", i), backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.ActivatesAt = e.clock.now().Add(time.Hour) })
		want = append(want, k.Name)
		if i%3 != 0 { // one whose device has not answered
			stored, err := e.store.KeyByID(t.Context(), e.tenant, k.ID)
			if err != nil {
				t.Fatal(err)
			}
			stored.State = keys.StateCreating
			entry := audit.Entry{Principal: "test", Action: "test", Outcome: "ok"}
			if _, err := e.log.Record(t.Context(), &entry, e.store.UpdateKey(stored)); err != nil {
				t.Fatal(err)
			}
		}
	}
	e.create("active", backend.AES256GCM)
	var got []string
	for cursor, pages := "", 0; pages == 0 || cursor != ""; pages++ {
		list, next, err := e.List(t.Context(), e.c, keys.ListRequest{Filter: keys.Filter{State: keys.StatePreActive}, Cursor: cursor, Limit: 2})
		if err != nil || len(list) == 0 || pages > 5 {
			t.Fatalf("page %d: %d keys, %v", pages, len(list), err)
		}
		for _, k := range list {
			got = append(got, k.Name)
			if k.State != keys.StatePreActive {
				t.Errorf("%s is %s", k.Name, k.State)
			}
		}
		cursor = next
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
