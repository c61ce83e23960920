package oidc

import (
	"strings"
	"testing"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// TestMixUp: of several issuers, one that sends a browser on to another does not get the other's code (RFC 9700 section 4.4): the answer says whose it is, by iss
// or by the address that it comes to.
func TestMixUp(t *testing.T) {
	l := &auth.Login{Issuer: "greedy", State: "s", Nonce: "n", Verifier: strings.Repeat("v", 43)}
	honest, greedy := newPlace(t), newPlace(t)
	h, g := honest.config(), greedy.config()
	g.Login.Name = "greedy"
	v, err := New([]Issuer{h, g}, Options{Now: honest.now})
	if err != nil {
		t.Fatal(err)
	}
	// The browser began at the greedy one, which sent it on, and comes back from the honest one, which sends no iss.
	if _, err := v.Redeem(t.Context(), l, "the-honest-code", "", ""); !fault.Has(err, fault.Unauthenticated) || greedy.style != "" {
		t.Errorf("the other's code: %v, sent by %q", err, greedy.style)
	}
	// With an address of its own the honest one needs no iss, whatever the other has.
	h.Login.RedirectURL += "?issuer=main"
	for _, own := range []string{"", "?issuer=greedy"} {
		g.Login.RedirectURL = backTo + own
		if v, err = New([]Issuer{h, g}, Options{Now: honest.now}); err != nil {
			t.Fatal(err)
		}
		honest.mu.Lock()
		honest.back = h.Login.RedirectURL
		honest.mu.Unlock()
		for _, to := range []string{"main", ""} {
			if _, err := v.Redeem(t.Context(), l, "the-honest-code", "", to); !fault.Has(err, fault.Unauthenticated) || greedy.style != "" {
				t.Errorf("%q: the other's code at %q: %v, sent by %q", own, to, err, greedy.style)
			}
		}
		mine := &auth.Login{Issuer: "main", State: "s", Nonce: "n", Verifier: l.Verifier}
		for to, good := range map[string]bool{"main": true, "greedy": false, "": false} {
			address, err := v.Address(t.Context(), mine)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Redeem(t.Context(), mine, honest.authorize(t, address), "", to); good != (err == nil) {
				t.Errorf("%q: its own code at %q: %v", own, to, err)
			}
		}
	}
}
