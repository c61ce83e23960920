package auth

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// objections is a second account of what Decide decides, made of independent sentences in no order: each says by itself why a request must be refused.
// It looks at lists of scopes and nothing of the sets.
func objections(r *Request) (all []Rule) {
	p := r.Principal
	object := func(rule Rule, when bool) {
		if when {
			all = append(all, rule)
		}
	}
	if p == nil {
		return []Rule{RuleCredential}
	}
	has := func(set ScopeSet, every bool) bool {
		n, found := 0, 0
		for _, q := range Scopes() {
			if !set.Has(q) {
				continue
			}
			n++
			own := slices.Contains(p.Scopes, q)
			for _, coarse := range []Scope{ScopeRead, ScopeWrite} {
				own = own || slices.Contains(p.Scopes, coarse) && slices.Contains(coarse.Covers(), q)
			}
			if own {
				found++
			}
		}
		return n == 0 || every && found == n || !every && found > 0
	}
	limits := Restrictions{}
	if p.Restrictions != nil {
		limits = *p.Restrictions
	}
	object(RuleExpired, !p.ExpiresAt.IsZero() && !p.ExpiresAt.After(r.Now))
	object(RuleSuspended, p.Suspended)
	if r.Door && len(limits.CIDRs) > 0 {
		inside := false
		for _, c := range limits.CIDRs {
			inside = inside || r.Address.IsValid() && c.Contains(r.Address.Unmap())
		}
		object(RuleAddress, !inside)
	}
	if c := p.Security; r.Door && c != nil && len(c.CIDRs) > 0 {
		object(RuleOffice, !slices.ContainsFunc(c.CIDRs, func(n netip.Prefix) bool { return r.Address.IsValid() && n.Contains(r.Address.Unmap()) }))
	}
	object(RuleForged, r.Door && r.Forged)
	object(RuleUnsigned, r.Signed && p.Kind != KindSession)
	object(RulePerson, r.Opens && !slices.Contains([]Kind{KindToken, KindCertificate, KindPeer}, p.Kind))
	object(RuleSession, r.Session && (p.Kind != KindSession || p.Role != RoleOwner && p.Role != RoleAdmin))
	object(RuleUnfiltered, r.Whole && len(limits.Keys)+len(limits.Labels)+len(limits.Operations) > 0)
	object(RuleOperations, r.Operation != "" && !r.Reads && len(limits.Operations) > 0 && !slices.Contains(limits.Operations, r.Operation))
	k := r.Key
	if k != nil {
		object(RuleTenant, k.Tenant != p.Tenant)
		object(RuleKeys, len(limits.Keys) > 0 && !slices.Contains(limits.Keys, k.Name) && !slices.Contains(limits.Keys, k.ID.String()))
		for name, value := range limits.Labels {
			own, there := k.Labels[name]
			object(RuleLabels, !there || own != value)
		}
	}
	// The right: a scope or a grant.
	any, all2 := r.Any, r.All
	if o := r.Resource; o != nil {
		mine := o.Tenant == p.Tenant
		self := o.Principal == "" || o.Principal == p.ID
		out := false
		switch {
		case r.Free && mine && self:
			any = 0
		case o.Deployment:
			any = r.Over
			out = any == 0
		case !mine:
			out = true
		default:
			out = r.Makers && len(limits.Keys)+len(limits.Labels) > 0 && o.Principal != p.ID
			object(RuleKeys, out)
		}
		object(RuleTenant, out)
		object(RuleTenant, o.Deployment && (!r.Free || !mine || !self) && !has(any, false))
		object(RuleOwners, o.Principal != p.ID && (o.Beyond || !has(o.Needs, true)))
	} else if r.Pending {
		any |= r.Over
		if r.Free {
			any = 0
		}
	}
	scoped := has(any, false) && has(all2, true)
	granted, byContext := false, false
	if r.Grantable && k != nil {
		for _, g := range p.Grants[k.ID] {
			if !slices.Contains(g.Operations, r.Operation) || !g.ExpiresAt.IsZero() && !g.ExpiresAt.After(r.Now) {
				continue
			}
			fits := true
			for name, value := range g.Context {
				own, there := r.Context[name]
				fits = fits && there && own == value
			}
			granted = granted || fits || r.Pending
			byContext = byContext || !fits
		}
	}
	if r.Grantable && k == nil && r.Pending {
		granted = len(p.Grants) > 0
	}
	onlyGrants := k != nil && k.GrantsOnly && r.Uses
	object(RuleNoScope, !scoped && !granted)
	object(RuleGrantsOnly, scoped && onlyGrants && !granted)
	object(RuleContext, !granted && byContext && (!scoped || onlyGrants))
	if k != nil && r.Uses && !r.Pending {
		for _, name := range k.RequiredContext {
			_, there := r.Context[name]
			object(RuleContext, !there)
		}
	}
	if k != nil && k.Quorum != nil && !r.Approved {
		object(RuleQuorum, r.Guards || slices.Contains(k.Quorum.Operations, r.Operation))
	}
	return all
}

// drawAct adds what acts that are about no key are about.
func drawAct(t *rapid.T, d *drawn) {
	d.Key, d.Grantable = nil, false // it is about no key
	d.Over, d.Free, d.Makers = drawScopes(t, "over"), rapid.Bool().Draw(t, "free"), rapid.Bool().Draw(t, "makers")
	d.Whole = rapid.IntRange(0, 4).Draw(t, "whole") == 0
	if rapid.Bool().Draw(t, "resource") {
		d.Resource = &Resource{Tenant: rapid.SampledFrom([]uuid.UUID{{1}, {1}, {2}}).Draw(t, "whose"), Deployment: rapid.IntRange(0, 3).Draw(t, "deployment") == 0,
			Principal: rapid.SampledFrom([]string{"", "api-key:x", "api-key:y"}).Draw(t, "which"), Needs: drawScopes(t, "needs"),
			Beyond: rapid.IntRange(0, 3).Draw(t, "beyond") == 0}
	}
}

// TestDecideAgainstTheModel: what is allowed is what nothing speaks against, and the rule that refuses is one that does.
func TestDecideAgainstTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawRequest(t)
		if rapid.Bool().Draw(t, "act") {
			drawAct(t, d)
		}
		r := d.request()
		got, against := Decide(r), objections(r)
		if got.Allowed != (len(against) == 0) {
			t.Fatalf("%+v, against it: %v", got, against)
		}
		if !got.Allowed && !slices.Contains(against, got.Rule) {
			t.Fatalf("refused by %s, against it: %v", got.Rule, against)
		}
	})
}

// TestActs: every act has a name of its own, a right or a reason to have none, and is decided by it.
func TestActs(t *testing.T) {
	free := map[string]bool{"whoami": true, "settings.security.set": true, "session.create": true, "session.get": true, "session.leave": true}
	seen := map[string]bool{}
	for _, a := range Acts() {
		if seen[a.Name] || a.Name == "" {
			t.Errorf("%q is there twice", a.Name)
		}
		seen[a.Name] = true
		if (a.Any == 0) != free[a.Name] {
			t.Errorf("%s: scopes %v", a.Name, a.Any.List())
		}
		for _, q := range Scopes() {
			p := &Principal{ID: "api-key:x", Tenant: uuid.UUID{1}, Kind: KindAPIKey, Scopes: []Scope{q}}
			d := DecideAct(p, moment, a.Name, nil)
			want := (a.Any == 0 || a.Free || rights(p.Scopes)&(a.Any|a.Over) != 0) && !a.Session && !a.Signed && !a.Opens
			if d.Allowed != want {
				t.Errorf("%s with %s: %+v", a.Name, q, d)
			}
			p.Restrictions = &Restrictions{Operations: []string{"sign"}}
			if d := DecideAct(p, moment, a.Name, nil); a.Whole && d.Rule != RuleUnfiltered {
				t.Errorf("%s by a limited credential: %+v", a.Name, d)
			}
		}
	}
	if d := DecideAct(&Principal{}, time.Time{}, "nothing", nil); d.Allowed || d.Rule != RuleUnknown || d.Err() == nil {
		t.Errorf("an unknown act: %+v", d)
	}
	if d := DecideAct(nil, moment, "whoami", nil); d.Allowed || d.Rule != RuleCredential {
		t.Errorf("nobody: %+v", d)
	}
}
