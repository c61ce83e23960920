package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// accessRows are the routes of grants, approvals and dry runs.
func (s *Server) accessRows() []route {
	const (
		pr  = auth.ScopePoliciesRead
		pw  = auth.ScopePoliciesWrite
		tag = "policies"
	)
	take := write(http.MethodDelete, "/keys/{key}/grants/{id}", pw, tag, "Take a grant back at once", handle(s.deleteGrant))
	take.BodyLimit = 0
	request := write(http.MethodPost, "/approvals", "", tag, "Ask for the approval of one request by others", handle(s.requestApproval))
	request.Status = http.StatusCreated
	request.BodyLimit = 2*bodyOperation + bodySmall // any request as a string, in which at most every character is escaped by one more
	return []route{
		read("/keys/{key}/grants", pr, tag, "List the grants on a key", handle(s.listGrants), page()...),
		read("/keys/{key}/grants/{id}", pr, tag, "Show a grant", handle(s.showGrant)),
		write(http.MethodPut, "/keys/{key}/grants/{id}", pw, tag, "Give one principal named operations on a key, under an id of the caller's choice", handle(s.putGrant)),
		take,
		request,
		read("/approvals", "", tag, "List the approvals that the caller may look at, newest first", handle(s.listApprovals), page()...),
		read("/approvals/{id}", "", tag, "Show an approval", handle(s.showApproval)),
		act("/approvals/{id}/approve", "", tag, "Approve a request of another", handle(s.approve)),
		act("/approvals/{id}/reject", "", tag, "Reject a request of another, or take an own one back", handle(s.reject)),
		write(http.MethodPost, "/authorize", "", tag, "What would be decided, and by which rule", handle(s.authorize)),
	}
}

func wireGrant(g *auth.Grant) wire.Grant {
	return wire.Grant{ID: g.ID.String(), KeyID: g.Key.String(), Principal: g.Principal, Named: g.Named, Operations: g.Operations, Context: g.Context,
		ExpiresAt: optional(g.ExpiresAt), CreatedAt: g.CreatedAt.UTC(), CreatedBy: g.CreatedBy}
}

func shownGrant(g *auth.Grant, err error) (wire.Grant, error) {
	if err != nil {
		return wire.Grant{}, err
	}
	return wireGrant(g), nil
}

// grantPath reads key and id of the path.
func (c *call) grantPath() (key string, id uuid.UUID, err error) {
	if key, err = c.param("key"); err != nil {
		return "", id, err
	}
	id, err = c.pathID("id", fault.New(fault.GrantNotFound, "the key has no such grant"))
	return key, id, err
}

func (s *Server) listGrants(ctx context.Context, c *call, _ *wire.Empty) (wire.List[wire.Grant], error) {
	var out wire.List[wire.Grant]
	key, err := c.param("key")
	if err != nil {
		return out, err
	}
	limit, cursor, err := c.page()
	if err != nil {
		return out, err
	}
	list, next, err := s.keys.Grants(ctx, c.caller(), key, cursor, limit)
	if err != nil {
		return out, err
	}
	out.Items, out.NextCursor = make([]wire.Grant, len(list)), next
	for i, g := range list {
		out.Items[i] = wireGrant(g)
	}
	return out, nil
}

func (s *Server) showGrant(ctx context.Context, c *call, _ *wire.Empty) (wire.Grant, error) {
	key, id, err := c.grantPath()
	if err != nil {
		return wire.Grant{}, err
	}
	return shownGrant(s.keys.Grant(ctx, c.caller(), key, id))
}

func (s *Server) putGrant(ctx context.Context, c *call, r *wire.PutGrant) (wire.Grant, error) {
	key, id, err := c.grantPath()
	if err != nil {
		return wire.Grant{}, err
	}
	if err := required("principal", r.Principal); err != nil {
		return wire.Grant{}, err
	}
	in := keys.GrantRequest{ID: id, Principal: r.Principal, Operations: r.Operations, Context: r.Context}
	if r.ExpiresAt != nil {
		in.ExpiresAt = *r.ExpiresAt
	}
	return shownGrant(s.keys.PutGrant(ctx, c.caller(), key, in))
}

func (s *Server) deleteGrant(ctx context.Context, c *call, _ *wire.Empty) (wire.Grant, error) {
	key, id, err := c.grantPath()
	if err != nil {
		return wire.Grant{}, err
	}
	return shownGrant(s.keys.DeleteGrant(ctx, c.caller(), key, id))
}

func wireApproval(a *keys.ApprovalInfo) wire.Approval {
	w := wire.Approval{ID: a.ID.String(), State: a.State, KeyID: a.Key.String(), Operation: a.Operation, Target: a.Target, Digest: a.Digest[:], Reason: a.Reason,
		RequestedBy: a.RequestedBy, Needed: a.Needed, Votes: make([]wire.Vote, len(a.Votes)), CreatedAt: a.CreatedAt.UTC(), ExpiresAt: a.ExpiresAt.UTC(),
		UsedAt: optional(a.UsedAt)}
	for i, v := range a.Votes {
		w.Votes[i] = wire.Vote{Principal: v.Principal, Approves: v.Approves, Counts: i < len(a.Counted) && a.Counted[i], At: v.At.UTC()}
	}
	return w
}

func shownApproval(a *keys.ApprovalInfo, err error) (wire.Approval, error) {
	if err != nil {
		return wire.Approval{}, err
	}
	return wireApproval(a), nil
}

func (s *Server) requestApproval(ctx context.Context, c *call, r *wire.RequestApproval) (wire.Approval, error) {
	for _, f := range [...][2]string{{"key", r.Key}, {"operation", r.Operation}} {
		if err := required(f[0], f[1]); err != nil {
			return wire.Approval{}, err
		}
	}
	in := keys.ApprovalRequest{Key: r.Key, Operation: r.Operation, Target: r.Target, Reason: r.Reason}
	var err error
	if r.ExpiresIn != "" {
		if in.ExpiresIn, err = time.ParseDuration(r.ExpiresIn); err != nil {
			return wire.Approval{}, badField("the field expires_in must be a duration, as in 24h")
		}
	}
	if in.Body, err = canonical([]byte(r.Body)); err != nil {
		return wire.Approval{}, badField("the field body must be the JSON of a request, as a string")
	}
	return shownApproval(s.keys.RequestApproval(ctx, c.caller(), in))
}

// canonical gives JSON in the form of RFC 8785, but for integers, which stand as they were sent: it makes one of 2^53 and 2^53+1. The body
// that was sent is left as it is.
func canonical(body []byte) ([]byte, error) {
	v := jsontext.Value(append([]byte(nil), body...))
	if len(strings.TrimSpace(string(v))) == 0 {
		return nil, nil
	}
	if err := v.Canonicalize(jsontext.CanonicalizeRawInts(false)); err != nil {
		return nil, err
	}
	return v, nil
}

// presentedApproval reads X-Approval, with what an approval is bound to of this request. What is no approval's id is as if it were not sent.
func (c *call) presentedApproval() *keys.Presented {
	r := c.gin.Request
	v := r.Header["X-Approval"]
	if len(v) != 1 || r.URL.RawQuery != "" { // a query stands in no approval
		return nil
	}
	id, err := uuid.Parse(v[0])
	if err != nil || len(v[0]) != 36 {
		return nil
	}
	body, err := canonical(c.body)
	if err != nil {
		return nil
	}
	target := c.gin.Param("n")
	if target == "" {
		target = c.gin.Param("id")
	}
	return &keys.Presented{ID: id, Method: c.route.Method, Target: target, Body: body}
}

// approvalPath reads the id of the path.
func (c *call) approvalPath() (uuid.UUID, error) {
	return c.pathID("id", fault.New(fault.ApprovalNotFound, "no such approval in this tenant"))
}

func (s *Server) listApprovals(ctx context.Context, c *call, _ *wire.Empty) (wire.List[wire.Approval], error) {
	var out wire.List[wire.Approval]
	limit, cursor, err := c.page()
	if err != nil {
		return out, err
	}
	list, next, err := s.keys.Approvals(ctx, c.caller(), cursor, limit)
	if err != nil {
		return out, err
	}
	out.Items, out.NextCursor = make([]wire.Approval, len(list)), next
	for i, a := range list {
		out.Items[i] = wireApproval(a)
	}
	return out, nil
}

func (s *Server) showApproval(ctx context.Context, c *call, _ *wire.Empty) (wire.Approval, error) {
	id, err := c.approvalPath()
	if err != nil {
		return wire.Approval{}, err
	}
	return shownApproval(s.keys.Approval(ctx, c.caller(), id))
}

func (s *Server) approve(ctx context.Context, c *call, _ *wire.Empty) (wire.Approval, error) {
	id, err := c.approvalPath()
	if err != nil {
		return wire.Approval{}, err
	}
	return shownApproval(s.keys.Approve(ctx, c.caller(), id))
}

func (s *Server) reject(ctx context.Context, c *call, _ *wire.Empty) (wire.Approval, error) {
	id, err := c.approvalPath()
	if err != nil {
		return wire.Approval{}, err
	}
	return shownApproval(s.keys.Reject(ctx, c.caller(), id))
}

// authorize is a dry run. Who is not in the tenant is not found.
func (s *Server) authorize(ctx context.Context, c *call, r *wire.Authorize) (wire.Authorized, error) {
	if err := required("operation", r.Operation); err != nil {
		return wire.Authorized{}, err
	}
	in, known := keys.AuthorizeRequest{Operation: r.Operation, Key: r.Key, Context: r.Context}, true
	if r.Principal != "" && r.Principal != c.principal.ID {
		if d := auth.Decide(&auth.Request{Principal: c.principal, Now: c.start, Any: auth.SetOf(auth.ScopePoliciesRead)}); !d.Allowed {
			return wire.Authorized{}, c.denied(ctx, &d)
		}
		var err error
		if in.As, known, err = s.auth.PrincipalNamed(ctx, c.principal.Tenant, r.Principal); err != nil {
			return wire.Authorized{}, err
		}
	}
	if r.Resource != "" {
		as := c.principal
		if in.As != nil {
			as = in.As
		}
		var err error
		if in.Resource, err = s.subject(ctx, c, r, as); err != nil {
			return wire.Authorized{}, err
		}
	}
	d, err := s.keys.Authorize(ctx, c.caller(), in)
	if err != nil {
		return wire.Authorized{}, err
	}
	out := wire.Authorized{Allowed: d.Allowed, Rule: string(d.Rule), Explanation: d.Rule.Explain(), ErrorCode: string(d.Code)}
	if d.Grant != uuid.Nil {
		out.GrantID = d.Grant.String()
	}
	if !known {
		out.Note = "This is by grants alone: what the configuration gives this principal depends on what else it presents."
	}
	return out, nil
}

// subject finds what a dry run is about. What the caller may not see is not there.
func (s *Server) subject(ctx context.Context, c *call, r *wire.Authorize, as *auth.Principal) (*auth.Resource, error) {
	kind, text, _ := strings.Cut(r.Resource, ":")
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 || r.Key != "" {
		kind = ""
	}
	switch kind {
	case "job":
		j, err := s.jobs.Get(ctx, c.who(), id)
		if err != nil {
			return nil, err
		}
		return j.Subject(), nil
	case "api-key":
		k, err := s.auth.APIKey(ctx, c.principal, id)
		if err != nil {
			return nil, err
		}
		return s.auth.AboutAPIKey(ctx, k, r.Operation, as)
	case "tenant":
		return &auth.Resource{Tenant: id, Deployment: true}, nil
	}
	return nil, badField("the field resource must be job:, api-key: or tenant: and an id, without a key")
}
