package hsm_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// opener opens a part's token in a process of its own, as the service does, and counts how often it was asked to.
func opener(t testing.TB, p *rig.Part, pin string, tries *atomic.Int32) func(context.Context) (token.Token, error) {
	p.Setenv(t)
	c := config(t, p)
	if pin != "" {
		c.PIN = secret.Bytes(pin)
	}
	return func(ctx context.Context) (token.Token, error) {
		if tries != nil {
			tries.Add(1)
		}
		s, err := remote.Open(ctx, c, remote.Options{Logger: logger()})
		if err != nil {
			return nil, err
		}
		return s, nil
	}
}

func open(t testing.TB, o hsm.Options) *hsm.Backend {
	t.Helper()
	o.Name, o.Logger = "joins", logger()
	b, err := hsm.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in 20 s", what)
		}
	}
}

func state(b *hsm.Backend, i int) hsm.State { return b.MemberStates()[i].State }

// stateMetric gives the states of a member that the metrics show.
func stateMetric(t *testing.T, reg *prometheus.Registry, member string) (out []string) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "keywright_hsm_member_state" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["member"] == member && m.GetGauge().GetValue() == 1 {
				out = append(out, labels["state"])
			}
		}
	}
	return out
}

// TestMemberJoins has a member whose token is gone at the start. It joins when the token comes, and is not given what it cannot do.
func TestMemberJoins(t *testing.T) {
	p := rig.SoftHSM(t)
	f := rig.Fault(t, p)
	f.TokenGone(t, "as=empty")
	f.HideMechanism(t, pkcs11.CKM_AES_GCM)
	reg := prometheus.NewRegistry()
	b := open(t, hsm.Options{Registerer: reg, Members: []hsm.Member{{Name: "here", Open: opener(t, p, "", nil)}, {Name: "gone", Open: opener(t, f.Part, "", nil)}}})
	if s := b.MemberStates()[1]; s.State != hsm.StateMissing || s.Healthy || !fault.Has(s.LastError, fault.BackendUnavailable) {
		t.Errorf("the missing member's state: %+v", s)
	}
	if got := stateMetric(t, reg, "1"); len(got) != 1 || got[0] != "missing" {
		t.Errorf("the metrics show the missing member as %v", got)
	}
	if m := b.Members(); m[0].State != "healthy" || m[0].Reason != "" || m[1].Name != "gone" || m[1].Reason == "" {
		t.Errorf("Members: %+v", m)
	}
	r, err := b.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning))
	if err != nil {
		t.Fatal(err)
	}
	aes, err := b.Generate(t.Context(), spec(backend.AES256GCM, backend.PurposeEncryption))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Destroy(t.Context(), r); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("Destroy that a missing replica did not confirm: %v", err)
	}
	if r, err = b.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning)); err != nil {
		t.Fatal(err)
	}
	info := b.Info()
	if info.CustodyCaveat != "" {
		t.Errorf("a token that leaks nothing has a caveat: %s", info.CustodyCaveat)
	}
	f.TokenBack(t)
	until(t, "joining", func() bool { return state(b, 1) == hsm.StateHealthy })
	if got := stateMetric(t, reg, "1"); len(got) != 1 || got[0] != "healthy" {
		t.Errorf("the metrics show the member that joined as %v", got)
	}
	if len(b.Info().Capabilities) != len(info.Capabilities) || b.Info().ID != info.ID {
		t.Error("Info changed when a member joined")
	}
	signs := f.Count(t, "C_Sign")
	key, err := b.Load(t.Context(), aes)
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if err := sign(t.Context(), b, r); err != nil {
			t.Fatalf("Sign: %v", err)
		}
		if _, err := key.(backend.AEAD).Seal(t.Context(), nil, []byte("text"), nil); err != nil {
			t.Fatalf("a member that lacks AES-GCM was given it: %v", err)
		}
		if _, err := b.Seal(t.Context(), []byte("text"), nil); err != nil {
			t.Fatalf("a member that lacks AES-GCM was given sealing: %v", err)
		}
	}
	if err := key.Close(); err != nil {
		t.Error(err)
	}
	if f.Count(t, "C_Sign") == signs {
		t.Error("the member that joined gets nothing to sign")
	}
}

// TestTokenMissing starts a backend whose only token is gone: known from before it waits, heals, and takes no other token in the place of
// its own.
func TestTokenMissing(t *testing.T) {
	p := rig.SoftHSM(t)
	f := rig.Fault(t, p)
	one := []hsm.Member{{Name: "only", Open: opener(t, f.Part, "", nil)}}
	var known *hsm.Known
	b := open(t, hsm.Options{Members: one, Remember: func(k hsm.Known) { known = &k }})
	r, err := b.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if known == nil || known.Identity == "" || known.Info.ID != known.Identity {
		t.Fatalf("what is remembered: %+v", known)
	}
	f.TokenGone(t, "as=empty")
	for name, o := range map[string]hsm.Options{"not known": {}, "required": {Known: known, Required: true}} {
		o.Name, o.Members = "refused", one
		if _, err := hsm.Open(t.Context(), o); !fault.Has(err, fault.BackendUnavailable) {
			t.Errorf("%s: Open gives %v", name, err)
		}
	}
	b = open(t, hsm.Options{Members: one, Known: known})
	if b.Info().ID != known.Identity || len(b.Info().Capabilities) == 0 || b.Info().Name != "joins" {
		t.Errorf("Info of a backend that waits: %+v", b.Info())
	}
	after := new(fault.Error)
	if err := sign(t.Context(), b, r); !errors.As(err, &after) || after.Code != fault.BackendUnavailable || after.After <= 0 {
		t.Errorf("a key of a backend that waits: %v", err)
	}
	if err := b.Ping(t.Context()); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("Ping of a backend that waits: %v", err)
	}
	f.TokenBack(t)
	until(t, "healing", func() bool { return sign(t.Context(), b, r) == nil })

	other := p.Another(t, "other")
	o := hsm.Options{Known: known, Members: []hsm.Member{{Open: late(opener(t, other, "", nil))}}}
	b = open(t, o)
	until(t, "refusing another token", func() bool { return state(b, 0) == hsm.StateRefused })
	if err := sign(t.Context(), b, r); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("a key on another token: %v", err)
	}
	tok := how{}.token(t, other)
	defer tok.Close() // read only
	if list, err := tok.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("on a token that was refused: %d objects, %v", len(list), err)
	}
}

// late fails the first time.
func late(open func(context.Context) (token.Token, error)) func(context.Context) (token.Token, error) {
	var tried atomic.Bool
	return func(ctx context.Context) (token.Token, error) {
		if !tried.Swap(true) {
			return nil, errGone
		}
		return open(ctx)
	}
}

// TestJoiningPIN: a wrong PIN is sent once, however long the member is missing.
func TestJoiningPIN(t *testing.T) {
	p := rig.SoftHSM(t)
	f := rig.Fault(t, p)
	var tries atomic.Int32
	b := open(t, hsm.Options{Members: []hsm.Member{{Open: opener(t, p, "", nil)}, {Open: late(opener(t, f.Part, "wrong-pin", &tries))}}})
	until(t, "refusing the PIN", func() bool { return state(b, 1) == hsm.StateRefused })
	time.Sleep(2500 * time.Millisecond) // the next attempt would have come
	if n, wrong := tries.Load(), f.WrongPINs(t); n != 1 || wrong != 1 {
		t.Errorf("%d attempts to open, %d wrong PINs", n, wrong)
	}
	if _, err := b.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning)); err != nil {
		t.Errorf("the other member: %v", err)
	}
}
