package keys

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// facts are what a decision needs to know of a key.
func factsOf(k *Key) *auth.Key {
	return &auth.Key{ID: k.ID, Tenant: k.Tenant, Name: k.Name, Labels: k.Labels, RequiredContext: k.Policy.RequiredContext,
		GrantsOnly: k.Policy.GrantsOnly, Quorum: k.Policy.Quorum}
}

// uses reports whether the verb uses key material.
func (a *action) uses() bool { return a.op != "" && a.op != backend.OpAttest }

// reads reports whether the verb only shows.
func (a *action) reads() bool { return a.looks || a.op == backend.OpAttest }

// grantable reports whether a grant can give the verb.
func (v verb) grantable() bool {
	switch v {
	case verbGet, verbVersions, verbAttest, verbRotate:
		return true
	}
	return actions[v].uses()
}

// ask makes the question whether the caller may do what it asks for.
func (q *request) ask() auth.Request { return q.askFor(q.verb) }

func (q *request) askFor(v verb) auth.Request {
	r := askFor(v)
	r.Principal, r.Now = q.caller.Principal, q.start
	return r
}

// internal reports whether the verb is the service's own, which no caller can ask for.
func (v verb) internal() bool {
	switch v {
	case verbMoveVersion, verbDestroy, verbAbandon, verbPrune, verbActivate, verbExpire:
		return true
	}
	return false
}

// askFor makes the question, of nobody yet.
func askFor(v verb) auth.Request {
	a := &actions[v]
	return auth.Request{Any: auth.SetOf(a.scope), Operation: a.name, Uses: a.uses(), Reads: a.reads(),
		Grantable: v.grantable(),
		Guards:    v == verbExport} // what can be exported can be used without any quorum
}

// enter decides as far as can be said before the key is known.
func (q *request) enter() error { return q.enterFor(q.verb) }

// permit decides about the key. What the contexts of items settle is left to permitItem where there are items; then ByItem says so.
func (q *request) permit(ctx context.Context, k *auth.Key, items bool) error {
	r := q.ask()
	r.Key, r.Pending = k, items
	return q.decide(ctx, &r)
}

// permitGuards decides about a change of what guards the key: who may use it without a grant, and its quorum.
func (q *request) permitGuards(ctx context.Context, k *auth.Key) error {
	r := q.ask()
	r.Key, r.Guards, r.All = k, true, auth.SetOf(auth.ScopePoliciesWrite)
	return q.decide(ctx, &r)
}

// decide decides, and looks for an approval where one is needed.
func (q *request) decide(ctx context.Context, r *auth.Request) error {
	r.Approved = q.again
	q.decision = auth.Decide(r)
	if q.decision.Rule == auth.RuleQuorum && q.approved == uuid.Nil {
		found, err := q.approve(ctx, r.Key)
		if err != nil {
			return err
		}
		if !found {
			return q.ruled()
		}
	}
	if q.approved != uuid.Nil {
		r.Approved = true
		q.decision = auth.Decide(r)
	}
	return q.ruled()
}

// ruled turns the decision into an error.
func (q *request) ruled() error {
	d := &q.decision
	if !d.Allowed {
		return &refusal{error: d.Err(), rule: d.Rule}
	}
	return nil
}

// permitItem decides about one item of an operation by its context.
func (q *request) permitItem(k *auth.Key, context map[string]string) error {
	if len(context) > 0 {
		if err := checkContext(context); err != nil {
			return err
		}
	}
	if !q.decision.ByItem {
		return nil
	}
	r := q.ask()
	r.Key, r.Context, r.Approved = k, context, q.approved != uuid.Nil
	d := auth.Decide(&r)
	if d.Grant != uuid.Nil && !slices.Contains(q.grants, d.Grant) && len(q.grants) < maxNoted {
		q.grants = append(q.grants, d.Grant)
	}
	if !d.Allowed && q.entry.Detail == "" { // of several items the first
		if q.entry.Items > 0 {
			q.entry.Detail = string(d.Code) + " "
		}
		q.entry.Detail += "rule " + string(d.Rule)
	}
	return d.Err()
}

// maxNoted is how many grants by which items were allowed an entry names.
const maxNoted = 4

// refusal is a refusal of auth.Decide on its way to the log, which names the rule.
type refusal struct {
	error
	rule auth.Rule
}

func (r *refusal) Unwrap() error { return r.error }

// named notes the rule of a refusal in the entry.
func (q *request) noteRule(err error) {
	var r *refusal
	if !errors.As(err, &r) {
		return
	}
	if q.entry.Detail != "" {
		q.entry.Detail += " "
	}
	q.entry.Detail += "rule " + string(r.rule)
}

// noteException notes in the entry by which grant or approval the caller may do what scopes alone do not give.
func (q *request) noteException() {
	note := ""
	if d := &q.decision; d.Grant != uuid.Nil && !d.ByItem {
		note = " grant:" + d.Grant.String()
	}
	for _, g := range q.grants {
		note += " grant:" + g.String()
	}
	if q.approved != uuid.Nil {
		note += " approval:" + q.approved.String()
	}
	if note != "" && q.entry.Detail == "" {
		note = note[1:]
	}
	q.entry.Detail += note
}

// find is the one way from what a caller named to a key that it may act on.
func (q *request) find(ctx context.Context, name string) (*record, error) {
	r, err := q.s.find(ctx, q.tenant(), name)
	if err != nil {
		q.named(name)
		return nil, q.hide(err)
	}
	if err := q.permit(ctx, r.facts, false); err != nil {
		q.entry.Key = r.key.ID
		return nil, err
	}
	return r, nil
}

// hide keeps from a caller who has grants alone which keys there are.
func (q *request) hide(err error) error {
	if d, hidden := q.hidden(q.verb, err); hidden {
		return &refusal{error: d.Err(), rule: d.Rule}
	}
	return err
}

// hidden gives what is decided of a key that is not there, in the words of one that is and was not granted.
func (q *request) hidden(v verb, err error) (d auth.Decision, ok bool) {
	if q.decision.Rule != auth.RuleGrant || !fault.Has(err, fault.KeyNotFound) && !fault.Has(err, fault.NoDefaultKey) {
		return d, false
	}
	return auth.Decision{Rule: auth.RuleNoScope, Code: fault.InsufficientScope, Missing: actions[v].scope}, true
}

// enterFor is enter for another verb, of which the request only asks.
func (q *request) enterFor(v verb) error {
	q.decision = q.door(v)
	return q.ruled()
}

// door is what is decided about a verb before the key is known.
func (q *request) door(v verb) auth.Decision {
	r := q.askFor(v)
	r.Pending = true
	return auth.Decide(&r)
}

// within says why the credential's limits do not leave the key to the caller.
func (q *request) within(k *Key) error {
	d := auth.Decide(&auth.Request{Principal: q.caller.Principal, Now: q.start, Key: factsOf(k)})
	if !d.Allowed {
		return &refusal{error: d.Err(), rule: d.Rule}
	}
	return nil
}

// permitDefault decides about what stands for all keys of the tenant: a credential that is limited to some of them gives the others no default.
func (q *request) permitDefault() error {
	d := auth.Decide(&auth.Request{Principal: q.caller.Principal, Now: q.start, Makers: true, Hidden: fault.Forbidden, Resource: &auth.Resource{Tenant: q.tenant()}})
	if !d.Allowed {
		return &refusal{error: d.Err(), rule: d.Rule}
	}
	return nil
}

// visible reports whether a list shows the key to the caller.
func (q *request) visible(k *Key) bool {
	r := q.ask()
	r.Key = factsOf(k)
	d := auth.Decide(&r)
	return d.Allowed
}
