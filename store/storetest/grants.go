package storetest

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

func testGrants(t *testing.T, e *env) {
	tenant, key, other := uuid.New(), uuid.New(), uuid.New()
	holder := newAPIKey(tenant, "holder")
	e.must(t, e.InsertAPIKey(holder))
	var made []*auth.Grant
	for i := range 5 {
		g := &auth.Grant{ID: uuid.New(), Tenant: tenant, Key: key, Principal: holder.PrincipalID(), Operations: []string{"sign", "verify"}, CreatedAt: now(), CreatedBy: "system"}
		if i%2 == 0 {
			g.Context, g.ExpiresAt = map[string]string{"app": "x y", "": "\""}, now().Add(time.Hour)
		}
		if i == 4 {
			g.Principal, g.Named = "cert:0a", "cert:dns:example.org"
		}
		made = append(made, g)
		e.must(t, e.PutGrant(g))
	}
	elsewhere := *made[0]
	elsewhere.ID, elsewhere.Key = uuid.New(), other
	e.must(t, e.PutGrant(&elsewhere))
	slices.SortFunc(made, func(a, b *auth.Grant) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	e.reopen(t)
	var listed []*auth.Grant
	for after := uuid.Nil; ; {
		page, err := e.Grants(t.Context(), tenant, key, after, 2)
		if err != nil || len(page) > 2 {
			t.Fatal(len(page), err)
		}
		if len(page) == 0 {
			break
		}
		listed = append(listed, page...)
		after = page[len(page)-1].ID
	}
	wantSame(t, "listed", listed, made)
	for _, want := range made {
		got, err := e.Grant(t.Context(), tenant, key, want.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "by id", got, want)
	}
	of, err := e.GrantsOf(t.Context(), tenant, holder.PrincipalID())
	if err != nil || len(of) != 5 { // four here, one on the other key
		t.Errorf("%d grants of the holder, %v", len(of), err)
	}
	for what, at := range map[string][3]uuid.UUID{"another tenant's": {uuid.New(), key, made[0].ID}, "another key's": {tenant, other, made[0].ID}, "unknown": {tenant, key, uuid.New()}} {
		_, err := e.Grant(t.Context(), at[0], at[1], at[2])
		wantFault(t, what, err, fault.GrantNotFound)
		wantFault(t, "removing "+what, e.do(t, e.DeleteGrant(&auth.Grant{Tenant: at[0], Key: at[1], ID: at[2]})), fault.GrantNotFound)
	}
	changed := *made[1]
	changed.Operations, changed.Context, changed.ExpiresAt = []string{"mac"}, nil, time.Time{}
	e.must(t, e.PutGrant(&changed))
	got, err := e.Grant(t.Context(), tenant, key, changed.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "replaced", got, &changed)
	moved := changed
	moved.Key = other
	wantFault(t, "to another key", e.do(t, e.PutGrant(&moved)), fault.Conflict)
	moved = changed
	moved.Principal = "spiffe://example.org/y"
	wantFault(t, "to another principal", e.do(t, e.PutGrant(&moved)), fault.Conflict)
	stranger := changed
	stranger.ID, stranger.Principal = uuid.New(), "api-key:"+uuid.NewString()
	wantFault(t, "to nobody", e.do(t, e.PutGrant(&stranger)), fault.APIKeyNotFound)
	foreign := changed
	foreign.ID, foreign.Tenant, foreign.Principal = uuid.New(), uuid.New(), holder.PrincipalID()
	wantFault(t, "to another tenant's", e.do(t, e.PutGrant(&foreign)), fault.APIKeyNotFound)
	// Another tenant's choice of the same id is another grant.
	namesake := newAPIKey(uuid.New(), "namesake")
	theirs := &auth.Grant{ID: changed.ID, Tenant: namesake.Tenant, Key: other, Principal: namesake.PrincipalID(), Operations: []string{"sign"}, CreatedAt: now(), CreatedBy: "system"}
	e.must(t, e.InsertAPIKey(namesake), e.PutGrant(theirs))
	e.must(t, e.DeleteGrant(&changed))
	_, err = e.Grant(t.Context(), tenant, key, changed.ID)
	wantFault(t, "removed", err, fault.GrantNotFound)
	if got, err = e.Grant(t.Context(), theirs.Tenant, other, theirs.ID); err != nil {
		t.Fatal(err)
	}
	wantSame(t, "of the same id in another tenant", got, theirs)
}

func testGrantsFull(t *testing.T, e *env) {
	tenant, key := uuid.New(), uuid.New()
	put := func(id uuid.UUID) audit.Change {
		return e.PutGrant(&auth.Grant{ID: id, Tenant: tenant, Key: key, Principal: "p", Operations: []string{"sign"}, CreatedAt: now(), CreatedBy: "system"})
	}
	var all []audit.Change
	first := uuid.New()
	all = append(all, put(first))
	for range auth.MaxGrants - 1 {
		all = append(all, put(uuid.New()))
	}
	e.must(t, all...)
	wantFault(t, "one more", e.do(t, put(uuid.New())), fault.QuotaExceeded)
	e.must(t, put(first)) // replaced
}

func testApprovals(t *testing.T, e *env) {
	tenant := uuid.New()
	var made []*auth.Approval
	for range 4 {
		a := &auth.Approval{ID: uuid.Must(uuid.NewV7()), Tenant: tenant, Key: uuid.New(), Operation: "sign", Target: "3", Digest: [32]byte{1, 2}, Reason: "release",
			RequestedBy: "api-key:x", CreatedAt: now(), ExpiresAt: now().Add(time.Hour)}
		made = append(made, a)
		e.must(t, e.InsertApproval(a))
	}
	wantFault(t, "same id", e.do(t, e.InsertApproval(made[0])), fault.Conflict)
	vote := func(principal string, approves bool) auth.Vote {
		return auth.Vote{Principal: principal, Role: auth.RoleAdmin, Maker: "api-key:m", Approves: approves, At: now(), Kin: []string{"api-key:m", "system"}, Since: now().Add(-time.Hour)}
	}
	a, b, c := made[0], made[1], made[2]
	a.Votes = []auth.Vote{vote("a", true), vote("b", true)}
	e.must(t, e.VoteApproval(a.ID, a.Votes[1]))
	e.must(t, e.VoteApproval(a.ID, a.Votes[0]))
	wantFault(t, "twice", e.do(t, e.VoteApproval(a.ID, vote("a", true))), fault.Conflict)
	wantFault(t, "against it after all", e.do(t, e.VoteApproval(a.ID, vote("a", false))), fault.Conflict)
	b.Votes = []auth.Vote{vote("a", false)}
	b.RejectedAt = b.Votes[0].At
	e.must(t, e.VoteApproval(b.ID, b.Votes[0]))
	wantFault(t, "after a rejection", e.do(t, e.VoteApproval(b.ID, vote("b", true))), fault.Conflict)
	wantFault(t, "using a rejected one", e.do(t, e.UseApproval(b.ID, now())), fault.ApprovalRequired)
	wantFault(t, "using an expired one", e.do(t, e.UseApproval(c.ID, c.ExpiresAt)), fault.ApprovalRequired)
	wantFault(t, "using an unknown one", e.do(t, e.UseApproval(uuid.New(), now())), fault.ApprovalRequired)

	// Of two who use it at once one does.
	a.UsedAt = now()
	batch := []*audit.Item{Item(e.UseApproval(a.ID, a.UsedAt)), Item(e.UseApproval(a.ID, a.UsedAt.Add(time.Second)))}
	if err := e.Commit(t.Context(), batch, Extend); err != nil {
		t.Fatal(err)
	}
	wantFault(t, "the first", batch[0].Err, "")
	wantFault(t, "the second", batch[1].Err, fault.ApprovalRequired)
	wantFault(t, "a vote on a used one", e.do(t, e.VoteApproval(a.ID, vote("c", true))), fault.Conflict)

	e.reopen(t)
	slices.Reverse(made)
	var listed []*auth.Approval
	for before := uuid.Nil; ; {
		page, err := e.Approvals(t.Context(), tenant, before, 3)
		if err != nil || len(page) > 3 {
			t.Fatal(len(page), err)
		}
		if len(page) == 0 {
			break
		}
		listed = append(listed, page...)
		before = page[len(page)-1].ID
	}
	wantSame(t, "listed", listed, made)
	got, err := e.Approval(t.Context(), tenant, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "by id", got, a)
	_, err = e.Approval(t.Context(), uuid.New(), a.ID)
	wantFault(t, "another tenant's", err, fault.ApprovalNotFound)
}

// testApprovalBounds: what one has asked for and nobody has settled is bounded, and what is long over is forgotten.
func testApprovalBounds(t *testing.T, e *env) {
	tenant, start := uuid.New(), now()
	open := func(by string, at time.Time) *auth.Approval {
		return &auth.Approval{ID: uuid.Must(uuid.NewV7()), Tenant: tenant, Key: uuid.New(), Operation: "sign", RequestedBy: by, CreatedAt: at, ExpiresAt: at.Add(time.Hour)}
	}
	var made []*auth.Approval
	var all []audit.Change
	for range auth.MaxOpenApprovals {
		a := open("a", start)
		made, all = append(made, a), append(all, e.InsertApproval(a))
	}
	e.must(t, all...)
	wantFault(t, "one more", e.do(t, e.InsertApproval(open("a", start))), fault.QuotaExceeded)
	wantFault(t, "another's", e.do(t, e.InsertApproval(open("b", start))), "")
	e.must(t, e.VoteApproval(made[0].ID, auth.Vote{Principal: "c", Role: auth.RoleAdmin, Maker: "m", At: start}))
	wantFault(t, "in place of one that was rejected", e.do(t, e.InsertApproval(open("a", start))), "")
	wantFault(t, "one more", e.do(t, e.InsertApproval(open("a", start))), fault.QuotaExceeded)
	e.must(t, e.UseApproval(made[1].ID, start))
	wantFault(t, "in place of one that was used", e.do(t, e.InsertApproval(open("a", start))), "")
	wantFault(t, "when they have expired", e.do(t, e.InsertApproval(open("a", start.Add(time.Hour)))), "")

	count := func() int {
		t.Helper()
		list, err := e.Approvals(t.Context(), tenant, uuid.Nil, 1000)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := count()
	e.must(t, e.InsertApproval(open("c", start.Add(auth.ApprovalsKept))))
	if n := count(); n != before+1 {
		t.Errorf("%d approvals after one more, want %d: the others are to be kept for longer", n, before+1)
	}
	e.must(t, e.InsertApproval(open("c", start.Add(auth.ApprovalsKept+2*time.Hour))))
	if n := count(); n != before {
		t.Errorf("%d approvals after one more, want %d: two of the others are long over", n, before)
	}
	for i, code := range []fault.Code{fault.ApprovalNotFound, fault.ApprovalNotFound, ""} {
		_, err := e.Approval(t.Context(), tenant, made[i].ID)
		wantFault(t, "the oldest", err, code)
	}
}

func accessCalls(e *env) map[string]func(ctx context.Context) error {
	id := uuid.New()
	return map[string]func(ctx context.Context) error{
		"Grants":    func(ctx context.Context) error { _, err := e.Grants(ctx, id, id, id, 1); return err },
		"Grant":     func(ctx context.Context) error { _, err := e.Grant(ctx, id, id, id); return err },
		"GrantsOf":  func(ctx context.Context) error { _, err := e.GrantsOf(ctx, id, "x"); return err },
		"Approval":  func(ctx context.Context) error { _, err := e.Approval(ctx, id, id); return err },
		"Approvals": func(ctx context.Context) error { _, err := e.Approvals(ctx, id, id, 1); return err },
	}
}
