package keys_test

import (
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// awaited is a real backend that has not been reached until here is set.
type awaited struct {
	backend.Backend
	here *atomic.Bool
}

func (a awaited) Info() backend.Info {
	i := a.Backend.Info()
	if !a.here.Load() {
		return backend.Info{Kind: i.Kind, Name: i.Name}
	}
	return i
}

// TestAwaited: a backend that is not there at the start has its name and 503, never somebody else's keys; once it is there it is as any other, for
// records that were read before too.
func TestAwaited(t *testing.T) {
	ctx := t.Context()
	var here atomic.Bool
	here.Store(true)
	e := newEnv(t, func(o *keys.Options) { o.Backends[0] = awaited{o.Backends[0], &here} })
	e.create("k", backend.AES256GCM)
	sealed, err := e.encrypt(keys.Target{Key: "k"}, "text")
	if err != nil {
		t.Fatal(err)
	}
	here.Store(false)
	e.reopen()
	before := len(e.entries())

	_, err = e.decrypt(keys.Target{Key: "k"}, sealed.Bytes)
	wantCode(t, err, fault.BackendUnavailable, "an operation")
	_, err = e.Create(ctx, e.c, keys.CreateRequest{Name: "new", Algorithm: backend.AES256GCM})
	wantCode(t, err, fault.BackendUnavailable, "creating")
	_, err = e.ImportParameters(ctx, e.c, "")
	wantCode(t, err, fault.BackendUnavailable, "importing")
	_, err = e.Random(ctx, e.c, "", 16)
	wantCode(t, err, fault.BackendUnavailable, "random bytes")
	_, err = e.Rotate(ctx, e.c, "k")
	wantCode(t, err, fault.BackendUnavailable, "rotating")
	recorded := len(e.entries())
	if recorded != before+5 {
		t.Errorf("%d entries for 5 refusals", recorded-before)
	}
	_, err = e.InternalSigner(ctx, "audit")
	wantCode(t, err, fault.BackendUnavailable, "the first signing key of the service")
	if n := len(e.entries()); n != recorded {
		t.Errorf("waiting for a backend left %d entries", n-recorded)
	}
	all := e.Backends(ctx)
	if diff := cmp.Diff(backend.Info{Kind: "software", Name: "soft"}, all[0].Info); len(all) != 1 || !all[0].Default || diff != "" {
		t.Errorf("%d backends (-want +got):\n%s", len(all), diff)
	}
	if st, err := e.Backend(ctx, "soft"); err != nil || st.Info.ID != "" {
		t.Errorf("%+v, %v", st, err)
	}

	here.Store(true)
	got, err := e.decrypt(keys.Target{Key: "k"}, sealed.Bytes)
	if err != nil || string(got.Bytes) != "text" {
		t.Errorf("after it was reached: %v", err)
	}
	e.create("new", backend.AES256GCM)
	if _, err := e.Rotate(ctx, e.c, "k"); err != nil {
		t.Error(err)
	}
	if _, err := e.InternalSigner(ctx, "audit"); err != nil {
		t.Error(err)
	}
	if id := e.Backends(ctx)[0].Info.ID; e.BackendName(id) != "soft" {
		t.Errorf("the name of %s is %s", id, e.BackendName(id))
	}
	if _, err := keys.New(keys.Options{Store: e.store, Idempotency: e.store, Recorder: e.recorder, Backends: []backend.Backend{e.soft, awaited{e.soft, new(atomic.Bool)}}}); err == nil {
		t.Error("two backends of one name")
	}
}
