package keys

import (
	"context"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// RotateRequest asks for the next version of a key, on a condition.
type RotateRequest struct {
	Key       string
	Algorithm backend.Algorithm // as in Target
	// Active is what the primary version has to be: in use, and the new version takes its place; or not, and the key gets one in use again.
	Active bool
}

// RotateRetiring is Rotate for front ends where a key has at most one version in use: the condition is looked at in the transaction that makes
// the new version active and the old one deactivated, so that of two callers at once one fails, here and on every node. old is the version
// that was primary before. Errors beside those of Rotate: fault.VersionNotFound when there is to be an active version and is none,
// fault.Conflict when there is one and is to be none.
func (s *Service) RotateRetiring(ctx context.Context, c Caller, r RotateRequest) (*Key, uint32, error) {
	var n nextVersion
	var old uint32
	k, err := pipeline(ctx, s, c, verbRotate, func(ctx context.Context, q *request) (*Key, error) {
		k, err := q.own(ctx, r.Key)
		if err != nil {
			return nil, err
		}
		if k.Internal || r.Algorithm != "" && k.Algorithm != r.Algorithm {
			return nil, keyNotFound()
		}
		if !k.Origin.ours() {
			return nil, fault.New(fault.OperationNotAllowed, "the new version of an imported key is imported")
		}
		if active := k.Policy.byDate(k.State, s.now()) == StateActive; active != r.Active {
			if n.begun != nil { // somebody was faster while the device was at work
				q.abandon(ctx, k, n.begun)
			}
			if active {
				return nil, fault.New(fault.Conflict, "the key has an active version: rotate it")
			}
			return nil, fault.New(fault.VersionNotFound, "the key has no active version")
		}
		old = k.PrimaryVersion
		return n.add(ctx, q, k, generate)
	}, nil)
	if err == nil && k.PrimaryVersion == old && n.begun != nil {
		old = n.begun.Version // overtaken by another node: this version is the retired one before the primary
	}
	return k, old, err
}

// Retire takes the version that t names (0: the primary one) from active to deactivated: it processes what is protected and protects nothing
// new. A version that is deactivated already stays so, and that is no error; one in any other state is fault.BadTransition.
func (s *Service) Retire(ctx context.Context, c Caller, t Target) (*Version, error) {
	return pipeline(ctx, s, c, verbSetState, func(ctx context.Context, q *request) (*Version, error) {
		k, err := q.own(ctx, t.Key)
		if err != nil {
			return nil, err
		}
		if k.Internal || t.Algorithm != "" && k.Algorithm != t.Algorithm {
			return nil, keyNotFound()
		}
		n := t.Version
		if n == 0 {
			n = k.PrimaryVersion
		}
		q.entry.KeyVersion, q.entry.Detail = n, string(StateDeactivated)
		v, err := s.store.Version(ctx, k.ID, n)
		if err != nil {
			return nil, err
		}
		switch k.stateAt(v.State, s.now()) {
		case StateDeactivated:
			return v.shown(k, s.now()), nil
		case StateActive:
		default:
			return nil, fault.New(fault.BadTransition, "the state of a key version cannot change in this way")
		}
		return q.setState(k, v, StateDeactivated), nil
	}, nil)
}
