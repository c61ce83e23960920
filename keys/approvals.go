package keys

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cursor"
	"github.com/keywright/keywright/fault"
)

// Presented is an approval that a caller sends along, with what it is bound to of the request.
type Presented struct {
	ID     uuid.UUID
	Method string // of HTTP
	Target string // what the path names beside the key
	Body   []byte // canonical
}

// ApprovalRequest asks for the consent of others to one request.
type ApprovalRequest struct {
	Key       string
	Operation string // as the audit log names it
	Target    string
	Body      []byte // canonical; empty: none
	Reason    string
	ExpiresIn time.Duration // 0: auth.DefaultApproval
}

// ApprovalInfo is an approval with what became of it.
type ApprovalInfo struct {
	*auth.Approval
	State   string // pending, approved, rejected, expired or used
	Needed  int    // approvals that the key asks for today
	Counted []bool // of each vote: whether it counts towards them
}

// guarded reports whether a quorum can be asked for the verb: what uses a key or changes it, of what callers ask for.
func guarded(v verb) bool {
	switch v {
	case verbUpdate, verbDelete, verbCancelDeletion, verbRotate, verbSetState, verbMove, verbImport, verbPutGrant, verbDeleteGrant:
		return true
	}
	return actions[v].uses()
}

// methodOf is the method of HTTP by which the verb is asked for.
func methodOf(v verb) string {
	switch v {
	case verbUpdate:
		return "PATCH"
	case verbPutGrant:
		return "PUT"
	case verbDelete, verbDeleteGrant:
		return "DELETE"
	}
	return "POST"
}

// checkQuorum validates the quorum of a policy.
func checkQuorum(r *auth.Quorum) error {
	if r == nil {
		return nil
	}
	if err := checkOperations(r.Operations, guarded); err != nil {
		return err
	}
	if r.Approvals < 1 || r.Approvals > auth.MaxApprovals {
		return fault.New(fault.BadField, fmt.Sprintf("a quorum asks for 1 to %d approvals", auth.MaxApprovals))
	}
	if (len(r.Approvers) == 0) == (r.Role == auth.RoleNone) || r.Role != auth.RoleNone && r.Role.Scopes() == nil {
		return fault.New(fault.BadField, "a quorum names its approvers, or a role")
	}
	if len(r.Approvers) > maxGrantOperations || len(r.Approvers) > 0 && len(r.Approvers) < r.Approvals {
		return fault.New(fault.BadField, "a quorum has as many approvers as it asks for, and at most 32")
	}
	for i, p := range r.Approvers {
		// Of a name that nobody can have nobody approves, and the quorum could not be taken away any more.
		id, err := auth.PrincipalID(p)
		if err != nil {
			return err
		}
		if slices.Contains(r.Approvers[:i], id) {
			return fault.New(fault.BadField, "an approver is named twice")
		}
		r.Approvers[i] = id // by this name it will come
	}
	return nil
}

// sameQuorum reports whether two ask for the same.
func sameQuorum(a, b *auth.Quorum) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.Operations, b.Operations) && a.Approvals == b.Approvals && slices.Equal(a.Approvers, b.Approvers) && a.Role == b.Role
}

// RequestApproval asks for the consent of others to a request that the caller may make but for the quorum of the key. Errors: fault.BadField,
// BadSize, KeyNotFound, and those of the request itself.
func (s *Service) RequestApproval(ctx context.Context, c Caller, r ApprovalRequest) (*ApprovalInfo, error) {
	return pipeline(ctx, s, c, verbRequestApproval, func(ctx context.Context, q *request) (*ApprovalInfo, error) {
		v, known := verbNamed(r.Operation)
		if !known || !guarded(v) {
			return nil, fault.New(fault.BadField, "the operation is unknown, or none that takes approvals")
		}
		if r.ExpiresIn == 0 {
			r.ExpiresIn = auth.DefaultApproval
		}
		if r.ExpiresIn < time.Minute || r.ExpiresIn > auth.MaxApproval {
			return nil, fault.New(fault.BadField, "an approval expires after a minute to 30 days")
		}
		if !printableText(r.Reason, auth.MaxReason) || !printableText(r.Target, uuidForm) {
			return nil, fault.New(fault.BadField, "the reason is at most 256 bytes of printable text, the target at most 36")
		}
		// What the caller may not do with approvals either, nobody needs to look at; and it is told of a key what the act itself would tell.
		if err := q.enterFor(v); err != nil {
			return nil, err
		}
		rec, err := s.find(ctx, q.tenant(), r.Key)
		if err != nil {
			q.named(r.Key)
			if d, hidden := q.hidden(v, err); hidden {
				err = &refusal{error: d.Err(), rule: d.Rule}
			}
			return nil, err
		}
		q.entry.Key, q.entry.Detail = rec.key.ID, r.Operation
		ask := q.askFor(v)
		ask.Key, ask.Pending, ask.Approved = rec.facts, true, true
		if d := auth.Decide(&ask); !d.Allowed {
			return nil, &refusal{error: d.Err(), rule: d.Rule}
		}
		if rec.facts.Quorum == nil {
			return nil, fault.New(fault.BadField, "the key asks for no approvals")
		}
		id, err := s.newID()
		if err != nil {
			return nil, err
		}
		now := s.stamp()
		a := &auth.Approval{ID: id, Tenant: q.tenant(), Key: rec.key.ID, Operation: r.Operation, Target: r.Target, Reason: r.Reason, RequestedBy: c.Principal.ID,
			Digest: auth.ApprovalDigest(methodOf(v), rec.key.ID, r.Operation, r.Target, r.Body), CreatedAt: now, ExpiresAt: now.Add(r.ExpiresIn)}
		q.entry.Resource = "approval:" + id.String()
		q.changes = append(q.changes, s.store.InsertApproval(a))
		return s.inform(ctx, a), nil
	}, nil)
}

// inform adds what became of an approval by the key's quorum of today. Of a key that is gone it says what its record says.
func (s *Service) inform(ctx context.Context, a *auth.Approval) *ApprovalInfo {
	out := &ApprovalInfo{Approval: a}
	var quorum *auth.Quorum
	if r, err := s.recordByID(ctx, a.Tenant, a.Key); err == nil {
		quorum = r.facts.Quorum
	}
	if quorum != nil {
		out.Needed, out.Counted = quorum.Approvals, quorum.Counted(a)
	}
	out.State = a.State(quorum, s.now())
	return out
}

// seesApproval reports whether the caller may look at an approval: its own, one that it can approve, or any with policies:read.
func (q *request) seesApproval(ctx context.Context, a *auth.Approval) bool {
	p := q.caller.Principal
	r, err := q.s.recordByID(ctx, a.Tenant, a.Key)
	if err != nil {
		return false
	}
	ask := auth.Request{Principal: p, Now: q.start, Any: auth.SetOf(auth.ScopePoliciesRead), Key: r.facts}
	if d := auth.Decide(&ask); d.Allowed {
		return true
	}
	ask.Any = 0
	d := auth.Decide(&ask)
	return d.Allowed && (a.RequestedBy == p.ID || r.facts.Quorum != nil && r.facts.Quorum.Names(p.ID, p.Role))
}

func approvalNotFound() error {
	return fault.New(fault.ApprovalNotFound, "no such approval in this tenant")
}

// Approval shows an approval to who requested it, who can approve it, and who has policies:read. fault.ApprovalNotFound.
func (s *Service) Approval(ctx context.Context, c Caller, id uuid.UUID) (*ApprovalInfo, error) {
	return pipeline(ctx, s, c, verbApprovals, func(ctx context.Context, q *request) (*ApprovalInfo, error) {
		a, err := q.approval(ctx, id)
		if err != nil {
			return nil, err
		}
		return s.inform(ctx, a), nil
	}, nil)
}

func (q *request) approval(ctx context.Context, id uuid.UUID) (*auth.Approval, error) {
	a, err := q.s.store.Approval(ctx, q.tenant(), id)
	if fault.Has(err, fault.ApprovalNotFound) {
		return nil, approvalNotFound()
	}
	if err != nil {
		return nil, err
	}
	if !q.seesApproval(ctx, a) {
		return nil, approvalNotFound()
	}
	return a, nil
}

// Approvals lists the approvals that the caller may look at, newest first, 1 to 1000 a page (0: 100), and the cursor of the next page: "" after
// the last. A page may hold fewer than there is room for.
func (s *Service) Approvals(ctx context.Context, c Caller, from string, limit int) ([]*ApprovalInfo, string, error) {
	type page struct {
		list []*ApprovalInfo
		next string
	}
	p, err := pipeline(ctx, s, c, verbApprovals, func(ctx context.Context, q *request) (page, error) {
		before, limit, err := idPage(from, limit)
		if err != nil {
			return page{}, err
		}
		found, err := s.store.Approvals(ctx, q.tenant(), before, limit+1)
		if err != nil {
			return page{}, err
		}
		var out page
		if len(found) > limit {
			found = found[:limit]
			out.next = cursor.Behind(found[limit-1].ID)
		}
		for _, a := range found {
			if q.seesApproval(ctx, a) {
				out.list = append(out.list, s.inform(ctx, a))
			}
		}
		return out, nil
	}, nil)
	return p.list, p.next, err
}

// Approve adds the caller's consent. Nobody approves an own request, and nobody twice. Errors: fault.ApprovalNotFound, Forbidden (the quorum
// does not take this caller's word), Conflict (said already, or used, rejected or expired).
func (s *Service) Approve(ctx context.Context, c Caller, id uuid.UUID) (*ApprovalInfo, error) {
	return s.vote(ctx, c, verbApprove, id, true)
}

// Reject ends an approval, by who can approve it or has requested it. Errors as of Approve.
func (s *Service) Reject(ctx context.Context, c Caller, id uuid.UUID) (*ApprovalInfo, error) {
	return s.vote(ctx, c, verbReject, id, false)
}

func (s *Service) vote(ctx context.Context, c Caller, verb verb, id uuid.UUID, approves bool) (*ApprovalInfo, error) {
	return pipeline(ctx, s, c, verb, func(ctx context.Context, q *request) (*ApprovalInfo, error) {
		q.entry.Resource = "approval:" + id.String()
		a, err := q.approval(ctx, id)
		if err != nil {
			return nil, err
		}
		q.entry.Key, q.entry.Detail = a.Key, a.Operation
		rec, err := s.recordByID(ctx, q.tenant(), a.Key)
		if err != nil {
			return nil, err
		}
		p, now := c.Principal, s.stamp()
		withdraws := !approves && a.RequestedBy == p.ID
		v := auth.Vote{Principal: p.ID, Role: p.Role, Maker: p.Maker, Approves: approves, At: now}
		if !withdraws {
			if err := q.objections(ctx, a, &v, rec.facts.Quorum); err != nil {
				return nil, err
			}
		}
		if !a.UsedAt.IsZero() || !a.RejectedAt.IsZero() || !now.Before(a.ExpiresAt) {
			return nil, fault.New(fault.Conflict, "the approval is used, rejected or expired")
		}
		q.final = true
		q.changes = append(q.changes, s.store.VoteApproval(a.ID, v))
		a.Votes = append(a.Votes, v)
		if !approves {
			a.RejectedAt = now
		}
		return s.inform(ctx, a), nil
	}, nil)
}

// objections completes a vote with what is known of its credential, and refuses one that will not count. Who may approve may reject in any case: that gives nobody a right.
func (q *request) objections(ctx context.Context, a *auth.Approval, v *auth.Vote, quorum *auth.Quorum) error {
	objection := "the key asks for no approvals"
	if quorum != nil {
		var err error
		if v.Kin, v.Since, err = auth.Kin(ctx, q.s.store, a.Tenant, v.Principal); err != nil {
			return err
		}
		requester, _, err := auth.Kin(ctx, q.s.store, a.Tenant, a.RequestedBy)
		if err != nil {
			return err
		}
		objection = quorum.Objection(a, v, requester)
		if !v.Approves && quorum.Names(v.Principal, v.Role) {
			objection = ""
		}
		for i := range a.Votes {
			if other := &a.Votes[i]; objection == "" && v.Approves && other.Approves && other.Principal != v.Principal && slices.Contains(v.Kin, other.Principal) {
				objection = "nobody approves by a credential that comes from another that has approved"
			}
		}
	}
	if objection != "" {
		return &refusal{error: fault.New(fault.Forbidden, objection), rule: auth.RuleQuorum}
	}
	return nil
}

// approve looks whether the approval that the caller sent is one for exactly this request, and sees to its being used up with it.
func (q *request) approve(ctx context.Context, k *auth.Key) (bool, error) {
	sent := q.caller.Approval
	if sent == nil || sent.ID == uuid.Nil {
		return false, nil
	}
	a, err := q.s.store.Approval(ctx, q.tenant(), sent.ID)
	if fault.Has(err, fault.ApprovalNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	now := q.s.stamp()
	digest := auth.ApprovalDigest(sent.Method, k.ID, actions[q.verb].name, sent.Target, sent.Body)
	if !a.Serves(q.caller.Principal.ID, k, actions[q.verb].name, digest, now) {
		return false, nil
	}
	q.changes = append(q.changes, q.s.store.UseApproval(a.ID, now))
	q.approved = a.ID
	return true, nil
}
