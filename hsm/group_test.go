package hsm_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/softhsm-test/rig"
)

func spec(a backend.Algorithm, p backend.Purpose) backend.Spec {
	return backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: a, Purpose: p}
}

// outage is a member that can be made to fail, over a real token.
type outage struct {
	token.Token
	mu   sync.Mutex
	gone bool // guarded by mu
	uses int  // guarded by mu
}

var errGone = fault.New(fault.BackendUnavailable, "the cable is out")

func (o *outage) set(gone bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone, o.uses = gone, 0
}

func (o *outage) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.uses
}

func (o *outage) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		return errGone
	}
	o.uses++
	return nil
}

func (o *outage) Use(ctx context.Context, c token.Call) ([]byte, error) {
	if err := o.err(); err != nil {
		return nil, err
	}
	return o.Token.Use(ctx, c)
}

func (o *outage) Ping(ctx context.Context) error {
	o.mu.Lock()
	gone := o.gone
	o.mu.Unlock()
	if gone {
		return errGone
	}
	return o.Token.Ping(ctx)
}

func (o *outage) Generate(ctx context.Context, id token.ID, a backend.Algorithm, p backend.Purpose, wrapped bool) (token.Object, error) {
	if err := o.err(); err != nil {
		return token.Object{}, err
	}
	return o.Token.Generate(ctx, id, a, p, wrapped)
}

func (o *outage) Find(ctx context.Context, id token.ID) (token.Object, error) {
	if err := o.err(); err != nil {
		return token.Object{}, err
	}
	return o.Token.Find(ctx, id)
}

func (o *outage) Destroy(ctx context.Context, id token.ID) error {
	if err := o.err(); err != nil {
		return err
	}
	return o.Token.Destroy(ctx, id)
}

func group(t *testing.T, o hsm.Options, parts ...*rig.Part) (*hsm.Backend, []*outage) {
	t.Helper()
	o.Name, o.Logger = "group", logger()
	var members []*outage
	for _, p := range parts {
		m := &outage{Token: how{processes: 1}.token(t, p)}
		members = append(members, m)
		o.Members = append(o.Members, hsm.Member{Token: m})
	}
	b, err := hsm.Open(t.Context(), o)
	if err != nil {
		for _, m := range members {
			_ = m.Close() // the first error counts
		}
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b, members
}

func sign(ctx context.Context, b *hsm.Backend, r backend.Ref) error {
	key, err := b.Load(ctx, r)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(nil)
	_, err = key.(backend.Signer).Sign(ctx, digest[:], backend.SignOpts{Hash: crypto.SHA256})
	return errors.Join(err, key.Close())
}

// TestReplicas has two members with one set of objects, as HSMs of one domain have: either serves, the other takes over, and the
// first comes back.
func TestReplicas(t *testing.T) {
	p := rig.SoftHSM(t)
	for _, placement := range []hsm.Placement{hsm.PlacementResident, hsm.PlacementWrapped} {
		t.Run(string(placement), func(t *testing.T) {
			reg := prometheus.NewRegistry()
			b, m := group(t, hsm.Options{Placement: placement, Registerer: reg}, p, p)
			r, err := b.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning))
			if err != nil {
				t.Fatal(err)
			}
			many := func() {
				t.Helper()
				for range 40 {
					if err := sign(t.Context(), b, r); err != nil {
						t.Fatalf("Sign: %v", err)
					}
				}
			}
			many()
			if m[0].count() == 0 || m[1].count() == 0 {
				t.Error("one of two members with the same weight gets nothing")
			}
			for i := range m {
				m[i].set(true)
				many()
				if s := b.MemberStates()[i]; s.Healthy || !errors.Is(s.LastError, errGone) {
					t.Errorf("the state of a member that is gone: %+v", s)
				}
				if err := b.Ping(t.Context()); err != nil {
					t.Errorf("Ping with one member: %v", err)
				}
				if err := b.Destroy(t.Context(), r); placement == hsm.PlacementResident && !fault.Has(err, fault.BackendUnavailable) {
					t.Errorf("Destroy that a replica did not confirm: %v", err)
				}
				m[i].set(false)
				for deadline := time.Now().Add(30 * time.Second); !b.MemberStates()[i].Healthy; time.Sleep(20 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal("the member did not come back")
					}
				}
				if r, err = b.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning)); err != nil {
					t.Fatal(err)
				}
				m[i].set(false)
				many()
				if m[i].count() == 0 {
					t.Error("a member that came back gets nothing")
				}
			}
			metrics, err := reg.Gather()
			if err != nil {
				t.Error(err)
			}
			seen := map[string]int{}
			for _, f := range metrics {
				seen[f.GetName()] = len(f.GetMetric())
				for _, one := range f.GetMetric() {
					for _, l := range one.GetLabel() {
						if l.GetName() == "operation" && one.GetHistogram().GetSampleCount() > 0 {
							seen[f.GetName()+" "+l.GetValue()]++
						}
					}
				}
			}
			for _, name := range []string{"queue_seconds", "device_seconds"} {
				if seen["keywright_hsm_"+name+" sign"] != 2 || seen["keywright_hsm_"+name+" make"] == 0 {
					t.Errorf("%s is not told by operation: %v", name, seen)
				}
			}
			for _, name := range []string{"queue_seconds_total", "device_seconds_total", "sessions_in_use", "reinitialisations_total", "breaker_open", "child_restarts_total", "failovers_total"} {
				if seen["keywright_hsm_"+name] != 2 {
					t.Errorf("%s: %d members", name, seen["keywright_hsm_"+name])
				}
			}
			m[0].set(true)
			m[1].set(true)
			if err := sign(t.Context(), b, r); !fault.Has(err, fault.BackendUnavailable) {
				t.Errorf("with both members gone: %v", err)
			}
		})
	}
}

// TestNoReplicas refuses a group of tokens with nothing in common.
func TestNoReplicas(t *testing.T) {
	p := rig.SoftHSM(t)
	h := how{processes: 1}
	one, two := h.open(t, "one", p), h.open(t, "two", p.Another(t, "another"))
	if one.Info().ID == two.Info().ID {
		t.Error("two tokens with one identity")
	}
	if err := errors.Join(one.Close(), two.Close()); err != nil {
		t.Error(err)
	}
	a, b := h.token(t, p), h.token(t, p.Another(t, "third"))
	defer a.Close() // the test is about Open
	defer b.Close()
	if _, err := hsm.Open(t.Context(), hsm.Options{Name: "x", Members: []hsm.Member{{Token: a}, {Token: b}}}); err == nil {
		t.Error("tokens without the same keys make a group of replicas")
	}
}

// TestPinned has each key on one member: with that one gone its keys are, and the other's are not.
func TestPinned(t *testing.T) {
	p := rig.SoftHSM(t)
	b, m := group(t, hsm.Options{ID: "pinned-group", Sharing: hsm.SharingPinned}, p, p.Another(t, "second"))
	refs := map[int][]backend.Ref{}
	for i := range m {
		m[1-i].set(true)
		for try := 0; len(refs[i]) == 0 && try < 50; try++ { // the first that meets the member which is gone marks it
			if r, err := b.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning)); err == nil {
				refs[i] = append(refs[i], r)
			}
		}
		m[1-i].set(false)
		for deadline := time.Now().Add(30 * time.Second); !b.MemberStates()[1-i].Healthy && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
	}
	for i, rs := range refs {
		m[1-i].set(true)
		for _, r := range rs {
			if err := sign(t.Context(), b, r); err != nil {
				t.Errorf("a key of member %d with the other one gone: %v", i, err)
			}
		}
		for _, r := range refs[1-i] {
			if err := sign(t.Context(), b, r); !fault.Has(err, fault.BackendUnavailable) {
				t.Errorf("a key of the member that is gone: %v", err)
			}
		}
		m[1-i].set(false)
	}
	if len(refs[0]) == 0 || len(refs[1]) == 0 {
		t.Error("a member made no key")
	}
	for _, rs := range refs {
		for _, r := range rs {
			if err := b.Destroy(t.Context(), r); err != nil {
				t.Errorf("Destroy: %v", err)
			}
		}
	}
}
