package main

import (
	"context"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
)

type grantsCmd struct {
	Give grantsGiveCmd `cmd:"" help:"Give an API key, or another principal, named operations on a key."`
	List grantsListCmd `cmd:"" help:"List the grants on a key."`
	Show grantsShowCmd `cmd:"" help:"Show a grant on a key."`
	Take grantsTakeCmd `cmd:"" help:"Take a grant back at once."`
}

type grantsGiveCmd struct {
	Key       string            `arg:"" help:"Id or name of the key."`
	To        string            `required:"" placeholder:"WHO" help:"Id of an API key, or cert:spiffe://…, cert:subject:…, cert:dns:…, cert:email:…, cert:uri:…, oidc:ISSUER#SUBJECT, peer:UID."`
	Operation []string          `required:"" placeholder:"NAME" help:"An operation, as the audit log names it: encrypt, sign, key.get, …. Repeatable."`
	Context   map[string]string `placeholder:"NAME=VALUE" help:"A pair that the context of the request must hold. Repeatable." mapsep:"none"`
	ExpiresIn time.Duration     `placeholder:"DURATION" help:"When it ends, from now, as in 720h."`
	ID        string            `placeholder:"UUID" help:"Id of the grant, to replace it; a new one when not given."`
}

func (k grantsGiveCmd) Run(ctx context.Context, a *app) error {
	if k.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		k.ID = id.String()
	}
	r := wire.PutGrant{Principal: principalName(k.To), Operations: k.Operation, Context: k.Context}
	if k.ExpiresIn < 0 {
		return usage("--expires-in must be positive")
	}
	if k.ExpiresIn > 0 {
		t := time.Now().Add(k.ExpiresIn).UTC().Truncate(time.Second)
		r.ExpiresAt = &t
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showGrant(c.PutGrant(ctx, k.Key, k.ID, r))
}

// principalName takes an id alone for that of an API key.
func principalName(s string) string {
	if strings.Contains(s, ":") {
		return s
	}
	return "api-key:" + s
}

func (a *app) showGrant(g *wire.Grant, err error) error {
	if err != nil {
		return err
	}
	return a.show(g, func() error {
		return a.fields("id", g.ID, "key", g.KeyID, "principal", g.Principal, "that is", printable(g.Named), "operations", strings.Join(g.Operations, ", "), "context", printable(labels(g.Context)),
			"expires", whenSet(g.ExpiresAt), "created", when(g.CreatedAt), "created by", g.CreatedBy)
	})
}

type grantsListCmd struct {
	Key string `arg:"" help:"Id or name of the key."`
}

func (k grantsListCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, c.Grants(ctx, k.Key), []string{"ID", "PRINCIPAL", "OPERATIONS", "CONTEXT", "EXPIRES"}, func(g wire.Grant) []string {
		who := g.Principal
		if g.Named != "" {
			who = printable(g.Named)
		}
		return []string{g.ID, who, strings.Join(g.Operations, ","), printable(labels(g.Context)), whenSet(g.ExpiresAt)}
	})
}

type grantsShowCmd struct {
	Key string `arg:"" help:"Id or name of the key."`
	ID  string `arg:"" help:"Id of the grant."`
}

func (k grantsShowCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showGrant(c.Grant(ctx, k.Key, k.ID))
}

type grantsTakeCmd struct {
	Key string `arg:"" help:"Id or name of the key."`
	ID  string `arg:"" help:"Id of the grant."`
}

func (k grantsTakeCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showGrant(c.DeleteGrant(ctx, k.Key, k.ID))
}

type approvalsCmd struct {
	Request approvalsRequestCmd `cmd:"" help:"Ask for the approval of one request by others."`
	List    approvalsListCmd    `cmd:"" help:"List approvals, newest first."`
	Show    approvalsShowCmd    `cmd:"" help:"Show an approval."`
	Approve approvalsApproveCmd `cmd:"" help:"Approve a request of another."`
	Reject  approvalsRejectCmd  `cmd:"" help:"Reject a request of another, or take an own one back."`
}

type approvalsRequestCmd struct {
	Key       string        `arg:"" help:"Id or name of the key."`
	Operation string        `required:"" placeholder:"NAME" help:"The operation, as the audit log names it."`
	Target    string        `placeholder:"TEXT" help:"What the path names beside the key: the number of a version, or the id of a grant."`
	Reason    string        `placeholder:"TEXT" help:"For the approvers."`
	ExpiresIn time.Duration `placeholder:"DURATION" help:"For how long it may be approved and used; 24h when not given."`
	Body      string        `placeholder:"FILE" help:"File with the JSON body of the request; - is standard input."`
}

func (k approvalsRequestCmd) Run(ctx context.Context, a *app) error {
	r := wire.RequestApproval{Key: k.Key, Operation: k.Operation, Target: k.Target, Reason: k.Reason}
	if k.ExpiresIn != 0 {
		r.ExpiresIn = k.ExpiresIn.String()
	}
	if k.Body != "" {
		b, err := source{In: k.Body}.read(a)
		if err != nil {
			return err
		}
		defer clear(b)
		r.Body = string(b)
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showApproval(c.RequestApproval(ctx, r))
}

func (a *app) showApproval(v *wire.Approval, err error) error {
	if err != nil {
		return err
	}
	return a.show(v, func() error {
		if err := a.fields("id", v.ID, "state", v.State, "key", v.KeyID, "operation", v.Operation, "target", printable(v.Target), "digest", hex.EncodeToString(v.Digest),
			"reason", printable(v.Reason), "requested by", v.RequestedBy, "needed", strconv.Itoa(v.Needed), "created", when(v.CreatedAt), "expires", when(v.ExpiresAt),
			"used", whenSet(v.UsedAt)); err != nil {
			return err
		}
		for _, o := range v.Votes {
			said := "approved"
			if !o.Approves {
				said = "rejected"
			}
			if err := a.printf("%s: %s, %s\n", said, o.Principal, when(o.At)); err != nil {
				return err
			}
		}
		return nil
	})
}

type approvalsListCmd struct{}

func (approvalsListCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, c.Approvals(ctx), []string{"ID", "STATE", "OPERATION", "KEY", "REQUESTED BY", "EXPIRES", "REASON"}, func(v wire.Approval) []string {
		return []string{v.ID, v.State, v.Operation, v.KeyID, v.RequestedBy, when(v.ExpiresAt), printable(v.Reason)}
	})
}

// approvalArg names an approval.
type approvalArg struct {
	ID string `arg:"" help:"Id of the approval."`
}

type approvalsShowCmd struct{ approvalArg }

func (k approvalsShowCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showApproval(c.Approval(ctx, k.ID))
}

type approvalsApproveCmd struct{ approvalArg }

func (k approvalsApproveCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showApproval(c.Approve(ctx, k.ID))
}

type approvalsRejectCmd struct{ approvalArg }

func (k approvalsRejectCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showApproval(c.Reject(ctx, k.ID))
}

type authorizeCmd struct {
	Operation string            `arg:"" help:"The operation, as the audit log names it: encrypt, sign, key.rotate, tenant.create, …."`
	Key       string            `placeholder:"KEY" help:"Id or name of the key."`
	On        string            `placeholder:"KIND:ID" help:"What an act that is about no key is about: job:, api-key: or tenant: and an id."`
	Context   map[string]string `placeholder:"NAME=VALUE" help:"The context of the request. Repeatable." mapsep:"none"`
	As        string            `placeholder:"WHO" help:"Ask about another: the id of an API key, or as in grants give --to."`
}

// Run says what would be decided. Its end says it too: 3 when it would be refused.
func (k authorizeCmd) Run(ctx context.Context, a *app) error {
	r := wire.Authorize{Operation: k.Operation, Key: k.Key, Context: k.Context, Resource: k.On}
	if k.As != "" {
		r.Principal = principalName(k.As)
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	v, err := c.Authorize(ctx, r)
	if err != nil {
		return err
	}
	said := "denied"
	if v.Allowed {
		said = "allowed"
	}
	if err := a.show(v, func() error {
		return a.fields("decision", said, "rule", v.Rule, "because", v.Explanation, "grant", v.GrantID, "error", v.ErrorCode, "note", v.Note)
	}); err != nil {
		return err
	}
	if !v.Allowed {
		return &exitError{code: exitDenied}
	}
	return nil
}

// accessFlags are what a policy says of who may use a key.
type accessFlags struct {
	GrantsOnly      *bool    `negatable:"" help:"Who uses the key needs a grant on it: scopes alone do not suffice."`
	QuorumFor       []string `placeholder:"NAME" help:"An operation that takes approvals, as the audit log names it. Repeatable."`
	QuorumApprovals int      `placeholder:"N" help:"How many approvals it takes."`
	Approver        []string `placeholder:"ID" help:"An API key that may approve, by its id. Repeatable."`
	ApproverRole    string   `placeholder:"ROLE" help:"All of this role may approve, when none are named."`
	NoQuorum        bool     `help:"Nothing takes approvals any more."`
}

// apply changes a policy, and says whether it did.
func (k accessFlags) apply(p *wire.Policy) (changed bool) {
	if k.GrantsOnly != nil {
		p.GrantsOnly, changed = *k.GrantsOnly, true
	}
	if k.NoQuorum {
		p.Quorum, changed = nil, true
	}
	if k.QuorumFor == nil && k.QuorumApprovals == 0 && k.Approver == nil && k.ApproverRole == "" {
		return changed
	}
	q := wire.Quorum{}
	if p.Quorum != nil {
		q = *p.Quorum
	}
	if k.QuorumFor != nil {
		q.Operations = k.QuorumFor
	}
	if k.QuorumApprovals != 0 {
		q.Approvals = k.QuorumApprovals
	}
	if k.Approver != nil {
		q.Approvers, q.Role = nil, ""
		for _, id := range k.Approver {
			q.Approvers = append(q.Approvers, principalName(id))
		}
	}
	if k.ApproverRole != "" {
		q.Approvers, q.Role = nil, k.ApproverRole
	}
	p.Quorum = &q
	return true
}
