package keys_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
)

// people are API keys of the tenant that are in the store, as grants need them.
func (e *env) apiKey(name string, role auth.Role, scopes ...auth.Scope) keys.Caller {
	e.t.Helper()
	k := &auth.APIKey{ID: uuid.New(), Tenant: e.tenant, Name: name, Brand: "kw", Prefix: strings.ReplaceAll(uuid.NewString(), "-", "")[:12],
		CreatedAt: e.clock.now().Add(-time.Hour), CreatedBy: "system", Role: role, Scopes: scopes}
	if _, err := e.log.Record(context.Background(), &audit.Entry{Principal: "system", Action: "test", Outcome: "ok"}, e.store.InsertAPIKey(k)); err != nil {
		e.t.Fatal(err)
	}
	return keys.Caller{Principal: &auth.Principal{ID: k.PrincipalID(), Kind: auth.KindAPIKey, Tenant: e.tenant, Name: name, Role: role, Scopes: k.Effective()}, RequestID: "r-" + name}
}

// again reads what is granted to a caller, as authentication does.
func (e *env) again(c keys.Caller) keys.Caller {
	e.t.Helper()
	found, err := e.store.GrantsOf(context.Background(), e.tenant, c.Principal.ID)
	if err != nil {
		e.t.Fatal(err)
	}
	p := *c.Principal
	p.Grants = map[uuid.UUID][]auth.Grant{}
	for _, g := range found {
		p.Grants[g.Key] = append(p.Grants[g.Key], *g)
	}
	c.Principal = &p
	return c
}

func (e *env) encryptAs(c keys.Caller, key string, context ...map[string]string) error {
	items := []keys.EncryptItem{{Plaintext: []byte("x")}}
	for i, m := range context {
		if i > 0 {
			items = append(items, keys.EncryptItem{Plaintext: []byte("x")})
		}
		items[i].Context = m
	}
	out, err := e.Encrypt(e.t.Context(), c, keys.Target{Key: key}, keys.EncryptOpts{}, items, len(context) < 2)
	if err != nil {
		return err
	}
	for i := range out {
		if out[i].Err != nil {
			return out[i].Err
		}
	}
	return nil
}

func TestGrants(t *testing.T) {
	var regranted []string
	e := newEnv(t, func(o *keys.Options) { o.Regranted = func(p string) { regranted = append(regranted, p) } })
	ctx := t.Context()
	k := e.create("k", backend.AES256GCM)
	e.create("other", backend.AES256GCM)
	app := e.apiKey("app", "", auth.ScopeAuditRead)
	grant := keys.GrantRequest{ID: uuid.New(), Principal: app.Principal.ID, Operations: []string{"encrypt", "key.get"}, ExpiresAt: e.clock.now().Add(time.Hour)}

	wantCode(t, e.encryptAs(app, "k"), fault.InsufficientScope, "before the grant")
	g, err := e.PutGrant(ctx, e.c, "k", grant)
	if err != nil || g.Key != k.ID || len(regranted) != 1 || regranted[0] != app.Principal.ID {
		t.Fatal(g, err, regranted)
	}
	app = e.again(app)
	if err := e.encryptAs(app, "k"); err != nil {
		t.Fatal(err)
	}
	all := e.entries()
	if last := all[len(all)-1]; last.Detail != "grant:"+g.ID.String() || last.Action != "encrypt" {
		t.Errorf("the use stands in the log as %+v", last)
	}
	if _, err := e.Get(ctx, app, "k"); err != nil {
		t.Error(err)
	}
	_, err = e.Decrypt(ctx, app, keys.Target{Key: "k"}, keys.EncryptOpts{}, []keys.CiphertextItem{{Ciphertext: []byte("x")}}, true)
	wantCode(t, err, fault.InsufficientScope, "another operation")
	wantCode(t, e.encryptAs(app, "other"), fault.InsufficientScope, "another key")
	wantCode(t, e.encryptAs(app, "none"), fault.InsufficientScope, "a key that is not there: nothing is said of that")
	wantCode(t, e.encryptAs(app, ""), fault.InsufficientScope, "the default key")
	_, err = e.Rotate(ctx, app, "k")
	wantCode(t, err, fault.InsufficientScope, "a change")
	e.clock.advance(time.Hour)
	wantCode(t, e.encryptAs(app, "k"), fault.InsufficientScope, "after its expiry")

	// A grant for some contexts: each item is asked by its own.
	grant.ExpiresAt, grant.Context = time.Time{}, map[string]string{"app": "one"}
	if _, err := e.PutGrant(ctx, e.c, "k", grant); err != nil {
		t.Fatal(err)
	}
	app = e.again(app)
	one, two := map[string]string{"app": "one", "more": "x"}, map[string]string{"app": "two"}
	logged := func(want string) {
		t.Helper()
		if last := e.lastEntry(); last.Detail != want || last.Action != "encrypt" {
			t.Errorf("the log says %+v, want %q", last, want)
		}
	}
	if err := e.encryptAs(app, "k", one); err != nil {
		t.Error(err)
	}
	logged("grant:" + g.ID.String())
	for _, context := range []map[string]string{two, nil, {"APP": "one"}} {
		wantCode(t, e.encryptAs(app, "k", context), fault.PolicyDenied, "another context")
		logged("rule context")
	}
	out, err := e.Encrypt(ctx, app, keys.Target{Key: "k"}, keys.EncryptOpts{}, []keys.EncryptItem{{Context: one}, {Context: two}, {Context: one}}, false)
	if err != nil || out[0].Err != nil || !fault.Has(out[1].Err, fault.PolicyDenied) || out[2].Err != nil {
		t.Error(out, err)
	}
	logged("ERR_POLICY_DENIED rule context grant:" + g.ID.String())

	// grants_only: scopes no longer suffice to use the key; managing it is settled by them as before.
	if _, err := e.Update(ctx, e.c, "k", keys.UpdateRequest{Policy: &keys.Policy{GrantsOnly: true}}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, e.encryptAs(e.c, "k"), fault.Forbidden, "scopes alone")
	if err := e.encryptAs(app, "k", one); err != nil {
		t.Error(err)
	}
	if _, err := e.Rotate(ctx, e.c, "k"); err != nil {
		t.Error(err)
	}
	writer := e.apiKey("writer", "", auth.ScopeKeysWrite)
	_, err = e.Update(ctx, writer, "k", keys.UpdateRequest{Policy: &keys.Policy{}})
	wantCode(t, err, fault.InsufficientScope, "taking grants_only away without policies:write")
	if _, err := e.Update(ctx, writer, "k", keys.UpdateRequest{Policy: &keys.Policy{GrantsOnly: true, DeletionProtection: true}}); err != nil {
		t.Error("changing the rest:", err)
	}
	_, err = e.PutGrant(ctx, writer, "k", grant)
	wantCode(t, err, fault.InsufficientScope, "granting without policies:write")

	list, next, err := e.Grants(ctx, e.c, "k", "", 0)
	if err != nil || len(list) != 1 || next != "" {
		t.Error(list, next, err)
	}
	if _, err := e.DeleteGrant(ctx, e.c, "k", grant.ID); err != nil {
		t.Fatal(err)
	}
	wantCode(t, e.encryptAs(e.again(app), "k", one), fault.InsufficientScope, "after it was taken back")
	_, err = e.DeleteGrant(ctx, e.c, "k", grant.ID)
	wantCode(t, err, fault.GrantNotFound, "again")

	good := grant
	for name, change := range map[string]func(*keys.GrantRequest){
		"no id": func(r *keys.GrantRequest) { r.ID = uuid.Nil }, "nobody": func(r *keys.GrantRequest) { r.Principal = "" },
		"not an API key": func(r *keys.GrantRequest) { r.Principal = "system" }, "a change": func(r *keys.GrantRequest) { r.Operations = []string{"key.delete"} },
		"policy": func(r *keys.GrantRequest) { r.Operations = []string{"key.grant"} }, "unknown": func(r *keys.GrantRequest) { r.Operations = []string{"everything"} },
		"twice": func(r *keys.GrantRequest) { r.Operations = []string{"sign", "sign"} }, "none": func(r *keys.GrantRequest) { r.Operations = nil },
		"past": func(r *keys.GrantRequest) { r.ExpiresAt = e.clock.now() }, "context": func(r *keys.GrantRequest) { r.Context = map[string]string{"a b": "c"} },
		"another tenant's": func(r *keys.GrantRequest) { r.Principal = "api-key:" + uuid.NewString() },
	} {
		r := good
		change(&r)
		if _, err := e.PutGrant(ctx, e.c, "k", r); err == nil {
			t.Errorf("%s was granted", name)
		}
	}
}

func TestQuorum(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("release", backend.Ed25519)
	dev := e.apiKey("dev", auth.RoleDeveloper)
	ann, bob, eve := e.apiKey("ann", auth.RoleAdmin), e.apiKey("bob", auth.RoleAdmin), e.apiKey("eve", auth.RoleAdmin)
	policy := keys.Policy{Quorum: &auth.Quorum{Operations: []string{"sign"}, Approvals: 2, Approvers: []string{ann.Principal.ID, bob.Principal.ID}}}
	if _, err := e.Update(ctx, e.c, "release", keys.UpdateRequest{Policy: &policy}); err != nil {
		t.Fatal(err)
	}
	sign := func(c keys.Caller, message string) error {
		_, err := e.Sign(ctx, c, keys.Target{Key: "release"}, keys.SignOpts{}, []keys.SignItem{{Message: []byte(message)}}, true)
		return err
	}
	with := func(c keys.Caller, id uuid.UUID, body string) keys.Caller {
		c.Approval = &keys.Presented{ID: id, Method: "POST", Body: []byte(body)}
		return c
	}
	wantCode(t, sign(dev, "m"), fault.ApprovalRequired, "without")
	ask := keys.ApprovalRequest{Key: "release", Operation: "sign", Body: []byte("m"), Reason: "1.0"}
	a, err := e.RequestApproval(ctx, dev, ask)
	if err != nil || a.State != "pending" || a.Needed != 2 {
		t.Fatal(a, err)
	}
	for name, c := range map[string]keys.Caller{"the requester": dev, "one who is not named": eve} {
		if _, err := e.Approve(ctx, c, a.ID); !fault.Has(err, fault.Forbidden) {
			t.Errorf("%s approved: %v", name, err)
		}
	}
	if _, err := e.Approve(ctx, ann, a.ID); err != nil {
		t.Fatal(err)
	}
	_, err = e.Approve(ctx, ann, a.ID)
	wantCode(t, err, fault.Conflict, "a second time")
	wantCode(t, sign(with(dev, a.ID, "m"), "m"), fault.ApprovalRequired, "with one of two")
	// Who made the secret of an approver's credential speaks by it.
	puppet := bob
	made := *bob.Principal
	made.Maker = dev.Principal.ID
	puppet.Principal = &made
	_, err = e.Approve(ctx, puppet, a.ID)
	wantCode(t, err, fault.Forbidden, "by a credential that the requester made")
	if done, err := e.Approve(ctx, bob, a.ID); err != nil || done.State != "approved" {
		t.Fatal(done, err)
	}
	wantCode(t, sign(with(dev, a.ID, "n"), "n"), fault.ApprovalRequired, "for another body")
	other := with(dev, a.ID, "m")
	other.Approval.Target = "1"
	wantCode(t, sign(other, "m"), fault.ApprovalRequired, "for another target")
	other.Approval.Target, other.Approval.Method = "", "PUT"
	wantCode(t, sign(other, "m"), fault.ApprovalRequired, "for another method")
	wantCode(t, sign(with(eve, a.ID, "m"), "m"), fault.ApprovalRequired, "by another")
	if err := sign(with(dev, a.ID, "m"), "m"); err != nil {
		t.Fatal(err)
	}
	all := e.entries()
	if last := all[len(all)-1]; !strings.Contains(last.Detail, "approval:"+a.ID.String()) || last.Action != "sign" || last.Outcome != "ok" {
		t.Errorf("the use stands in the log as %+v", last)
	}
	wantCode(t, sign(with(dev, a.ID, "m"), "m"), fault.ApprovalRequired, "once more")
	if used, err := e.Approval(ctx, dev, a.ID); err != nil || used.State != "used" {
		t.Error(used, err)
	}

	// Of many who send it at once, one is served.
	b := e.approved(dev, ask, ann, bob)
	errs := make(chan error, 8)
	for range 8 {
		go func() { errs <- sign(with(dev, b, "m"), "m") }()
	}
	served := 0
	for range 8 {
		if err := <-errs; err == nil {
			served++
		} else if !fault.Has(err, fault.ApprovalRequired) {
			t.Error(err)
		}
	}
	if served != 1 {
		t.Errorf("%d of 8 were served by one approval", served)
	}

	// An expired or rejected one serves nobody.
	late := e.approved(dev, ask, ann, bob)
	e.clock.advance(auth.DefaultApproval)
	wantCode(t, sign(with(dev, late, "m"), "m"), fault.ApprovalRequired, "an expired one")
	_, err = e.Approve(ctx, bob, late)
	wantCode(t, err, fault.Conflict, "approving an expired one")
	c, err := e.RequestApproval(ctx, dev, ask)
	if err != nil {
		t.Fatal(err)
	}
	if no, err := e.Reject(ctx, bob, c.ID); err != nil || no.State != "rejected" {
		t.Fatal(no, err)
	}
	_, err = e.Approve(ctx, ann, c.ID)
	wantCode(t, err, fault.Conflict, "approving a rejected one")
	own, err := e.RequestApproval(ctx, dev, ask)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := e.Reject(ctx, dev, own.ID); err != nil || back.State != "rejected" {
		t.Error("taking an own one back:", err)
	}

	// The quorum guards itself, and the grants_only beside it.
	for name, p := range map[string]keys.Policy{"taking it away": {}, "fewer": {Quorum: &auth.Quorum{Operations: []string{"sign"}, Approvals: 1, Approvers: policy.Quorum.Approvers}},
		"grants_only": {Quorum: policy.Quorum, GrantsOnly: true}} {
		_, err = e.Update(ctx, e.c, "release", keys.UpdateRequest{Policy: &p})
		wantCode(t, err, fault.ApprovalRequired, name)
	}
	if _, err := e.Update(ctx, e.c, "release", keys.UpdateRequest{Policy: &keys.Policy{Quorum: policy.Quorum, DeletionProtection: true}}); err != nil {
		t.Error("leaving it as it is:", err)
	}
	away := e.approved(e.c, keys.ApprovalRequest{Key: "release", Operation: "key.update", Body: []byte("{}")}, ann, bob)
	owner := with(e.c, away, "{}")
	owner.Approval.Method = "PATCH"
	if _, err := e.Update(ctx, owner, "release", keys.UpdateRequest{Policy: &keys.Policy{}}); err != nil {
		t.Fatal("with approvals:", err)
	}
	if err := sign(dev, "m"); err != nil {
		t.Error("without a quorum:", err)
	}

	// Nobody asks for what it may not do with approvals either, and others do not see it.
	if _, err := e.Update(ctx, e.c, "release", keys.UpdateRequest{Policy: &policy}); err != nil {
		t.Fatal(err)
	}
	viewer := e.apiKey("viewer", "", auth.ScopeKeysRead)
	_, err = e.RequestApproval(ctx, viewer, ask)
	wantCode(t, err, fault.InsufficientScope, "asking without the right")
	_, err = e.Approval(ctx, viewer, a.ID)
	wantCode(t, err, fault.ApprovalNotFound, "looking at another's")
	stranger := keys.Caller{Principal: &auth.Principal{ID: "api-key:stranger", Tenant: uuid.New(), Scopes: auth.Scopes()}}
	_, err = e.Approval(ctx, stranger, a.ID)
	wantCode(t, err, fault.ApprovalNotFound, "from another tenant")
	if list, _, err := e.Approvals(ctx, stranger, "", 0); err != nil || len(list) != 0 {
		t.Error(list, err)
	}
	if list, _, err := e.Approvals(ctx, viewer, "", 0); err != nil || len(list) != 0 {
		t.Error(list, err)
	}
	first, next, err := e.Approvals(ctx, ann, "", 2)
	if err != nil || len(first) != 2 || next == "" {
		t.Fatal(first, next, err)
	}
	rest, _, err := e.Approvals(ctx, ann, next, 100)
	if err != nil || len(rest) == 0 || rest[0].ID == first[1].ID || rest[len(rest)-1].ID != a.ID {
		t.Error(rest, err)
	}

	// By role.
	byRole := keys.Policy{Quorum: &auth.Quorum{Operations: []string{"sign"}, Approvals: 1, Role: auth.RoleAdmin}}
	e.create("by-role", backend.Ed25519)
	if _, err := e.Update(ctx, e.c, "by-role", keys.UpdateRequest{Policy: &byRole}); err != nil {
		t.Fatal(err)
	}
	r, err := e.RequestApproval(ctx, dev, keys.ApprovalRequest{Key: "by-role", Operation: "sign"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Approve(ctx, e.apiKey("dev2", auth.RoleDeveloper), r.ID)
	if !fault.Has(err, fault.Forbidden) && !fault.Has(err, fault.ApprovalNotFound) {
		t.Error("a developer approved:", err)
	}
	if done, err := e.Approve(ctx, eve, r.ID); err != nil || done.State != "approved" {
		t.Error(done, err)
	}
	for name, bad := range map[string]*auth.Quorum{
		"none": {Operations: []string{"sign"}, Role: auth.RoleAdmin}, "nobody": {Operations: []string{"sign"}, Approvals: 1},
		"too few": {Operations: []string{"sign"}, Approvals: 2, Approvers: []string{"peer:1"}}, "both": {Operations: []string{"sign"}, Approvals: 1, Approvers: []string{"peer:1"}, Role: auth.RoleAdmin},
		"a name alone": {Operations: []string{"sign"}, Approvals: 1, Approvers: []string{"ann"}},
		"an id alone":  {Operations: []string{"sign"}, Approvals: 1, Approvers: []string{uuid.NewString()}},
		"one twice":    {Operations: []string{"sign"}, Approvals: 2, Approvers: []string{"peer:1", "peer:1"}},
		"reading":      {Operations: []string{"key.get"}, Approvals: 1, Role: auth.RoleAdmin}, "role": {Operations: []string{"sign"}, Approvals: 1, Role: "king"},
	} {
		_, err := e.Update(ctx, e.c, "by-role", keys.UpdateRequest{Policy: &keys.Policy{Quorum: bad}})
		if !fault.Has(err, fault.BadField) && !fault.Has(err, fault.ApprovalRequired) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := e.Create(ctx, e.c, keys.CreateRequest{Name: "bad-" + strings.ReplaceAll(name, " ", "-"), Algorithm: backend.Ed25519, Policy: keys.Policy{Quorum: bad}}); !fault.Has(err, fault.BadField) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestExportTakesTheQuorum: what leaves the service can be used without anybody's consent.
func TestExportTakesTheQuorum(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	ann := e.apiKey("ann", auth.RoleAdmin)
	quorum := &auth.Quorum{Operations: []string{"decrypt"}, Approvals: 1, Approvers: []string{ann.Principal.ID}}
	e.create("data", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy = keys.Policy{Exportable: true, Quorum: quorum} })
	e.create("to", backend.RSA3072, func(r *keys.CreateRequest) { r.Purpose = backend.PurposeEncryption; r.Policy.GrantsOnly = true })
	_, _, err := e.Export(ctx, e.c, keys.ExportRequest{Key: "data", To: "to"})
	wantCode(t, err, fault.ApprovalRequired, "export")
	d, err := e.Authorize(ctx, e.c, keys.AuthorizeRequest{Operation: "export", Key: "data"})
	if err != nil || d.Rule != auth.RuleQuorum {
		t.Error(d, err)
	}
	c := e.c
	c.Approval = &keys.Presented{ID: e.approved(e.c, keys.ApprovalRequest{Key: "data", Operation: "export"}, ann), Method: "POST"}
	if _, _, err := e.Export(ctx, c, keys.ExportRequest{Key: "data", To: "to"}); err != nil {
		t.Error("with an approval:", err)
	}
	if err := e.encryptAs(e.c, "data"); err != nil {
		t.Error("what the quorum does not name:", err)
	}
}

// TestMoveTakesTheQuorum: where a key lives is changed by approval alone where its quorum says so, alone or with others.
func TestMoveTakesTheQuorum(t *testing.T) {
	m := newMoveEnv(t)
	ctx := t.Context()
	ann := m.apiKey("ann", auth.RoleAdmin)
	guard := func(r *keys.CreateRequest) {
		r.Backend = "soft"
		r.Policy.Quorum = &auth.Quorum{Operations: []string{"key.move"}, Approvals: 1, Approvers: []string{ann.Principal.ID}}
	}
	m.create("guarded", backend.AES256GCM, guard)
	dev := m.apiKey("dev", auth.RoleDeveloper)
	r := keys.MoveRequest{Key: "guarded", Backend: "hsm"}
	_, err := m.Move(ctx, dev, r)
	wantCode(t, err, fault.ApprovalRequired, "without")
	dev.Approval = &keys.Presented{ID: m.approved(dev, keys.ApprovalRequest{Key: "guarded", Operation: "key.move", Body: []byte("b")}, ann), Method: "POST", Body: []byte("b")}
	dev.Idempotency = idempotency.Token{Key: "once", Request: [32]byte{1}}
	j, err := m.Move(ctx, dev, r)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.Move(ctx, dev, r); err != nil || again.ID != j.ID {
		t.Errorf("the same call again: %+v, %v", again, err)
	}
	dev.Idempotency = idempotency.Token{}
	_, err = m.Move(ctx, dev, r)
	wantCode(t, err, fault.ApprovalRequired, "a second time")
	dev.Approval = nil
	many, err := m.Move(ctx, dev, keys.MoveRequest{Filter: keys.Filter{NamePrefix: "guarded"}, Backend: "hsm"})
	if err != nil {
		t.Fatal(err)
	}
	if many = m.run(t, many); many.State != jobs.Failed || many.Error != fault.ApprovalRequired {
		t.Errorf("as one of many: %+v", many)
	}
	if j = m.run(t, j); j.State != jobs.Done || j.Counts.Done != 1 {
		t.Errorf("%+v", j)
	}
}

// approved requests an approval and gets it.
func (e *env) approved(c keys.Caller, r keys.ApprovalRequest, by ...keys.Caller) uuid.UUID {
	e.t.Helper()
	a, err := e.RequestApproval(context.Background(), c, r)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, who := range by {
		if _, err := e.Approve(context.Background(), who, a.ID); err != nil {
			e.t.Fatal(err)
		}
	}
	return a.ID
}

// TestAuthorize: what a dry run says is what happens.
func TestAuthorize(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("plain", backend.AES256GCM)
	e.create("strict", backend.AES256GCM)
	e.create("grants", backend.AES256GCM)
	e.create("guarded", backend.AES256GCM)
	for name, p := range map[string]keys.Policy{"strict": {RequiredContext: []string{"app"}}, "grants": {GrantsOnly: true},
		"guarded": {Quorum: &auth.Quorum{Operations: []string{"encrypt"}, Approvals: 1, Role: auth.RoleAdmin}}} {
		if _, err := e.Update(ctx, e.c, name, keys.UpdateRequest{Policy: &p}); err != nil {
			t.Fatal(err)
		}
	}
	dev := e.apiKey("dev", auth.RoleDeveloper)
	if _, err := e.PutGrant(ctx, e.c, "grants", keys.GrantRequest{ID: uuid.New(), Principal: dev.Principal.ID, Operations: []string{"encrypt"}}); err != nil {
		t.Fatal(err)
	}
	granted := e.again(dev)
	for _, c := range []struct {
		who     keys.Caller
		key     string
		context map[string]string
		rule    auth.Rule
	}{
		{dev, "plain", nil, auth.RuleScope}, {e.apiKey("v", auth.RoleViewer), "plain", nil, auth.RuleNoScope}, {dev, "strict", nil, auth.RuleContext},
		{dev, "strict", map[string]string{"app": "x"}, auth.RuleScope}, {dev, "grants", nil, auth.RuleGrantsOnly}, {granted, "grants", nil, auth.RuleGrant},
		{dev, "guarded", nil, auth.RuleQuorum},
	} {
		d, err := e.Authorize(ctx, c.who, keys.AuthorizeRequest{Operation: "encrypt", Key: c.key, Context: c.context})
		if err != nil || d.Rule != c.rule {
			t.Errorf("%s: %+v, %v, want %s", c.key, d, err, c.rule)
		}
		if happens := e.encryptAs(c.who, c.key, c.context); d.Allowed != (happens == nil) || fault.CodeOf(happens) != d.Code {
			t.Errorf("%s: said %+v, happens %v", c.key, d, happens)
		}
		// Another with policies:read is told the same.
		if other, err := e.Authorize(ctx, e.c, keys.AuthorizeRequest{As: c.who.Principal, Operation: "encrypt", Key: c.key, Context: c.context}); err != nil || other != d {
			t.Errorf("%s: another is told %+v, %v", c.key, other, err)
		}
	}
	_, err := e.Authorize(ctx, e.apiKey("w", "", auth.ScopeWrite), keys.AuthorizeRequest{As: dev.Principal, Operation: "encrypt"})
	wantCode(t, err, fault.InsufficientScope, "about another without policies:read")
	_, err = e.Authorize(ctx, dev, keys.AuthorizeRequest{Operation: "encrypt", Key: "none"})
	wantCode(t, err, fault.KeyNotFound, "of no key")
	_, err = e.Authorize(ctx, dev, keys.AuthorizeRequest{Operation: "fly"})
	wantCode(t, err, fault.BadField, "of no operation")
	if d, err := e.Authorize(ctx, dev, keys.AuthorizeRequest{Operation: "tenant.create"}); err != nil || d.Allowed {
		t.Error(d, err)
	}
}
