package hsm_test

import (
	"context"
	"sync"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// replaced is a member whose token is one of two real ones, as when the processes of a module open what has the configured label then.
type replaced struct {
	token.Token // the first
	other       token.Token
	mu          sync.Mutex
	away        bool   // guarded by mu: the other is there
	opened      uint64 // guarded by mu
}

func (r *replaced) change(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
	r.opened++
}

func (r *replaced) now() token.Token {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return r.other
	}
	return r.Token
}

func (r *replaced) Describe() token.Description {
	d := r.now().Describe()
	r.mu.Lock()
	defer r.mu.Unlock()
	d.Generation += r.opened
	return d
}

func (r *replaced) Use(ctx context.Context, c token.Call) ([]byte, error) { return r.now().Use(ctx, c) }

func (r *replaced) Find(ctx context.Context, id token.ID) (token.Object, error) {
	return r.now().Find(ctx, id)
}

func (r *replaced) Ping(ctx context.Context) error { return r.now().Ping(ctx) }

func (r *replaced) Generate(ctx context.Context, id token.ID, a backend.Algorithm, p backend.Purpose, wrapped bool) (token.Object, error) {
	return r.now().Generate(ctx, id, a, p, wrapped)
}

// TestReplaced has another token where the member's was, empty or with service keys of its own: the member is not healthy on it, nothing is made
// there, and it goes on with its own when that is back.
func TestReplaced(t *testing.T) {
	p := rig.SoftHSM(t)
	for name, prepared := range map[string]bool{"empty": false, "in service elsewhere": true} {
		t.Run(name, func(t *testing.T) {
			strange := p.Another(t, "strange-"+name[:2])
			if prepared {
				if err := (how{processes: 1}).open(t, "elsewhere", strange).Close(); err != nil {
					t.Fatal(err)
				}
			}
			m := &replaced{Token: how{processes: 1}.token(t, p), other: how{processes: 1}.token(t, strange)}
			defer m.other.Close() // read only
			b := open(t, hsm.Options{Members: []hsm.Member{{Token: m}}})
			r, err := b.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning))
			if err != nil {
				t.Fatal(err)
			}
			before, err := m.other.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			m.change(true)
			until(t, "noticing", func() bool { return state(b, 0) != hsm.StateHealthy })
			if err := b.Ping(t.Context()); !fault.Has(err, fault.BackendUnavailable) {
				t.Errorf("Ping: %v", err)
			}
			if err := sign(t.Context(), b, r); err == nil {
				t.Error("the key works on another token")
			}
			refused := func() {
				t.Helper()
				if _, err := b.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning)); !fault.Has(err, fault.BackendUnavailable) {
					t.Errorf("a key on another token: %v", err)
				}
				if _, err := b.Seal(t.Context(), []byte("text"), nil); !fault.Has(err, fault.BackendUnavailable) {
					t.Errorf("sealing on another token: %v", err)
				}
			}
			refused()
			if after, err := m.other.List(t.Context()); err != nil || len(after) != len(before) {
				t.Errorf("%d objects on the other token before, %d after: %v", len(before), len(after), err)
			}
			m.change(false)
			until(t, "coming back", func() bool { return state(b, 0) == hsm.StateHealthy })
			if err := sign(t.Context(), b, r); err != nil {
				t.Errorf("Sign on the own token: %v", err)
			}
			m.change(true)
			refused() // before the watcher has looked
			if after, err := m.other.List(t.Context()); err != nil || len(after) != len(before) {
				t.Errorf("%d objects on the other token before, %d after: %v", len(before), len(after), err)
			}
		})
	}
}
