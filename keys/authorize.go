package keys

import (
	"context"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// AuthorizeRequest asks what would be decided.
type AuthorizeRequest struct {
	As        *auth.Principal // nil: the caller
	Operation string          // as the audit log names it
	Key       string          // id or name; "" for what is about no key
	Context   map[string]string
	Resource  *auth.Resource // what an act that is about no key is about; nil: that is left open
}

// Authorize says what would be decided, and by which rule, without doing it. About another principal it takes scope policies:read. A quorum
// is taken as not met: whether an approval serves is seen when it is used. Errors: fault.BadField, KeyNotFound.
func (s *Service) Authorize(ctx context.Context, c Caller, r AuthorizeRequest) (auth.Decision, error) {
	return pipeline(ctx, s, c, verbAuthorize, func(ctx context.Context, q *request) (auth.Decision, error) {
		if len(r.Context) > 0 {
			if err := checkContext(r.Context); err != nil {
				return auth.Decision{}, err
			}
		}
		as := c.Principal
		if r.As != nil && r.As.ID != as.ID {
			ask := auth.Request{Principal: as, Now: q.start, Any: auth.SetOf(auth.ScopePoliciesRead)}
			if d := auth.Decide(&ask); !d.Allowed {
				return auth.Decision{}, &refusal{error: d.Err(), rule: d.Rule}
			}
			as = r.As
		}
		v, known := verbNamed(r.Operation)
		if !known || v.internal() {
			act, other := auth.ActNamed(r.Operation)
			if !other || r.Key != "" {
				return auth.Decision{}, fault.New(fault.BadField, "the operation is unknown, or is about no key")
			}
			ask := act.Ask(as, q.start, r.Resource)
			return auth.Decide(&ask), nil
		}
		ask := q.askFor(v)
		ask.Principal, ask.Context = as, r.Context
		switch {
		case r.Key == "":
			return auth.Decide(&ask), nil
		case actions[v].scope == "" || actions[v].scope == auth.ScopeSettingsWrite: // no right on keys: nothing to be told of one by
			return auth.Decision{}, fault.New(fault.BadField, "the operation is unknown, or is about no key")
		}
		// Who asks about itself is told of a key what the act itself would tell.
		if as == c.Principal {
			if q.decision = q.door(v); !q.decision.Allowed {
				return q.decision, nil
			}
		}
		rec, err := s.find(ctx, q.tenant(), r.Key)
		if err != nil {
			if d, hidden := q.hidden(v, err); hidden {
				return d, nil
			}
			q.named(r.Key)
			return auth.Decision{}, err
		}
		if err := q.permit(ctx, rec.facts, false); err != nil {
			q.entry.Key = rec.key.ID
			return auth.Decision{}, err
		}
		ask.Key = rec.facts
		return auth.Decide(&ask), nil
	}, nil)
}

// ActRequest is the question about what the audit log calls so, before the key is known and by nobody yet. ok is false for what is about no key, or
// is never asked for by callers.
func ActRequest(name string) (r auth.Request, ok bool) {
	v, known := verbNamed(name)
	if !known || v.internal() {
		return auth.Request{}, false
	}
	r = askFor(v)
	r.Pending = true
	return r, true
}

// Happened is what an entry of the audit log, or an event, tells of.
type Happened struct {
	Action    string
	Principal string    // whose act it was
	Key       uuid.UUID // zero: about none
}

// Told reports whether a caller is told of what happened in its tenant. Who may read the log is told everything, unless the credential is limited to some
// keys or operations: then it is told what is about keys that it reaches, by operations that are left to it or by itself, and of what is about no key what it
// did itself. By what a key is called and labelled today.
func (s *Service) Told(ctx context.Context, c Caller, h Happened) (bool, error) {
	p := c.Principal
	own := h.Principal == p.ID
	if !p.Limited() || own && h.Key == uuid.Nil {
		return true, nil
	}
	if h.Key == uuid.Nil {
		return false, nil
	}
	facts := &auth.Key{ID: h.Key, Tenant: p.Tenant} // of one that is gone there is the id
	r, err := s.recordByID(ctx, p.Tenant, h.Key)
	if err != nil && !fault.Has(err, fault.KeyNotFound) {
		return false, err
	}
	if err == nil {
		facts = r.facts
	}
	d := auth.Decide(&auth.Request{Principal: p, Now: s.now(), Key: facts, Operation: h.Action, Reads: own})
	return d.Allowed, nil
}
