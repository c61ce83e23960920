package hsm_test

import (
	"context"
	"slices"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// pair gives two tokens that have the same service and wrapping keys and nothing else in common.
func pair(t testing.TB) (left, right *rig.FaultModule) {
	t.Helper()
	p := rig.SoftHSM(t)
	b := how{change: func(o *hsm.Options) { o.Sharing = hsm.SharingCopies }}.open(t, "first", p)
	r, err := b.Generate(t.Context(), spec(backend.AES256GCM, backend.PurposeEncryption)) // with it comes the wrapping key
	if err == nil {
		err = b.Destroy(t.Context(), r)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return rig.Fault(t, p), rig.Fault(t, twin(t, p))
}

// at opens a token by itself, beside the group.
func at(t testing.TB, p *rig.Part) token.Token {
	t.Helper()
	p.Setenv(t)
	tok, err := remote.Open(t.Context(), config(t, p), remote.Options{Logger: logger()})
	if err != nil {
		t.Fatalf("opening the token: %v", err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	return tok
}

func ids(t testing.TB, tok token.Token) (out []token.ID) {
	t.Helper()
	var list []token.Object
	until(t, "a list", func() (ok bool) { // a token that was gone is being healed
		var err error
		list, err = tok.List(t.Context())
		return err == nil
	})
	own := hsm.ServiceKeys()
	for _, o := range list {
		if !slices.ContainsFunc(own, func(k hsm.ServiceKey) bool { return k.ID == o.ID }) {
			out = append(out, o.ID)
			if !o.Sensitive || o.Extractable {
				t.Errorf("a copy of %s can be extracted", o.Algorithm)
			}
		}
	}
	return out
}

func copyGroup(t testing.TB, min int, left, right *rig.Part) *hsm.Backend {
	t.Helper()
	return open(t, hsm.Options{Sharing: hsm.SharingCopies, MinCopies: min,
		Members: []hsm.Member{{Name: "left", Open: opener(t, left, "", nil)}, {Name: "right", Open: opener(t, right, "", nil)}}})
}

// TestCopies makes keys on tokens that replicate nothing: each is on both, whichever of them goes.
func TestCopies(t *testing.T) {
	left, right := pair(t)
	b := copyGroup(t, 0, left.Part, right.Part)
	if !b.Info().KeepsObjects {
		t.Error("copies are said to be no objects")
	}
	var refs []backend.Ref
	for _, a := range []backend.Algorithm{backend.ECDSAP256, backend.RSA2048, backend.ECDSAP521} {
		r, err := b.Generate(t.Context(), spec(a, backend.PurposeSigning))
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		refs = append(refs, r)
	}
	for _, s := range []backend.Spec{spec(backend.AES256GCM, backend.PurposeEncryption), spec(backend.HMACSHA256, backend.PurposeMAC), spec(backend.ECDHP256, backend.PurposeAgreement)} {
		if _, err := b.Generate(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s.Algorithm, err)
		}
	}
	l, r := at(t, left.Part), at(t, right.Part)
	if n, m := len(ids(t, l)), len(ids(t, r)); n != 6 || m != 6 {
		t.Fatalf("of six keys %d are on one token and %d on the other", n, m)
	}
	if _, err := b.Generate(t.Context(), refs[0].Spec); !fault.Has(err, fault.Conflict) {
		t.Errorf("a key that exists already: %v", err)
	}
	use := func(what string, r backend.Ref) {
		t.Helper()
		key, err := b.Load(t.Context(), r)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		o := backend.SignOpts{Hash: 5} // SHA-256
		if r.Spec.Algorithm == backend.RSA2048 {
			o.Padding = backend.PaddingPSS
		}
		if _, err := key.(backend.Signer).Sign(t.Context(), make([]byte, 32), o); err != nil {
			t.Errorf("%s: %s: %v", what, r.Spec.Algorithm, err)
		}
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	}
	left.TokenGone(t)
	for _, ref := range refs {
		use("with one token gone", ref)
	}
	if _, err := b.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning)); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("a new key with half of the tokens gone: %v", err)
	}
	if n := len(ids(t, r)); n != 6 {
		t.Errorf("a key that was not made left something: %d objects", n)
	}
	if err := b.Destroy(t.Context(), refs[0]); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("destroying with one token gone: %v", err)
	}
	left.TokenBack(t)
	until(t, "coming back", func() bool { return b.Destroy(t.Context(), refs[0]) == nil })
	if key, err := b.Load(t.Context(), refs[0]); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("a destroyed key: %v, %v", key, err)
	}
	if n, m := len(ids(t, l)), len(ids(t, r)); n != 5 || m != 5 {
		t.Errorf("of five keys %d are on one token and %d on the other", n, m)
	}
	// The object goes by somebody's hand, the cache is cold: using the key brings the copy.
	var id token.ID
	copy(id[:], refs[1].Spec.KeyID[:])
	id[token.IDSize-1] = 1
	if err := r.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b = copyGroup(t, 0, left.Part, right.Part)
	until(t, "bringing the copy that was gone", func() bool {
		use("with a copy gone", refs[1])
		return slices.Contains(ids(t, r), id)
	})
}

// TestCopiesLater has a member away when a key is made: it is brought its copy when it comes.
func TestCopiesLater(t *testing.T) {
	left, right := pair(t)
	right.TokenGone(t, "as=empty")
	b := copyGroup(t, 1, left.Part, right.Part)
	ref, err := b.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning))
	if err != nil {
		t.Fatal(err)
	}
	right.TokenBack(t)
	r := at(t, right.Part)
	until(t, "the copy", func() bool { return len(ids(t, r)) == 1 })
	until(t, "joining", func() bool { return state(b, 1) == hsm.StateHealthy })
	left.TokenGone(t)
	if err := sign(t.Context(), b, ref); err != nil {
		t.Errorf("on the member that came later: %v", err)
	}
}

// TestCopiesStranger has the same service keys on both tokens and different wrapping keys.
func TestCopiesStranger(t *testing.T) {
	p := rig.SoftHSM(t)
	if err := (how{}).open(t, "first", p).Close(); err != nil {
		t.Fatal(err)
	}
	left, right := rig.Fault(t, p), rig.Fault(t, twin(t, p))
	for _, part := range []*rig.FaultModule{left, right} {
		if _, err := at(t, part.Part).Generate(t.Context(), token.ID{1}, backend.AES256GCM, backend.PurposeEncryption, true); err != nil {
			t.Fatal(err)
		}
	}
	b := open(t, hsm.Options{Sharing: hsm.SharingCopies, MinCopies: 1,
		Members: []hsm.Member{{Open: opener(t, left.Part, "", nil)}, {Open: late(opener(t, right.Part, "", nil))}}})
	until(t, "refusing", func() bool { return state(b, 1) == hsm.StateRefused })
	if _, err := b.Generate(t.Context(), spec(backend.AES256GCM, backend.PurposeEncryption)); err != nil {
		t.Errorf("on the member that is one of the group: %v", err)
	}
}

// TestCopiesConform runs the suite on a group of copies.
func TestCopiesConform(t *testing.T) {
	left, right := pair(t)
	foreign := rig.SoftHSM(t)
	backendtest.Run(t, backendtest.Harness{
		Open: func(t testing.TB, name string) backend.Backend {
			var members []hsm.Member
			for _, p := range []*rig.FaultModule{left, right} {
				members = append(members, hsm.Member{Open: opener(t, p.Part, "", nil)})
			}
			b, err := hsm.Open(context.WithoutCancel(t.Context()), hsm.Options{Name: name, Sharing: hsm.SharingCopies, Members: members, Logger: logger()})
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			return b
		},
		Foreign:  func(t testing.TB, name string) backend.Backend { return how{processes: 1}.open(t, name, foreign) },
		Requires: backendtest.Requirements{Algorithms: slices.Concat(aeads, common, curves), Import: true, Sealer: true, Randomer: true, Pinger: true},
		Only:     []string{"aead", "mac", "destroy", "attest"},
	})
}
