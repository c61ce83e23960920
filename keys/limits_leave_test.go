package keys_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/keys"
)

// narrow is a caller with every scope of the tenant's keys and a limit.
func (e *env) narrow(r auth.Restrictions) keys.Caller {
	return keys.Caller{Principal: &auth.Principal{ID: "api-key:narrow", Tenant: e.tenant, Scopes: []auth.Scope{auth.ScopeRead, auth.ScopeWrite}, Restrictions: &r}}
}

// TestLimitsOfChanges: what a limited credential could not make, it does not make by changing what it has made.
func TestLimitsOfChanges(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	dev, prod, name := "dev", "prod", "payments"
	labelled := e.narrow(auth.Restrictions{Labels: map[string]string{"env": dev}})
	named := e.narrow(auth.Restrictions{Keys: []string{"scratch"}})
	if _, err := e.Create(ctx, labelled, keys.CreateRequest{Name: "mine", Algorithm: backend.AES256GCM, Labels: map[string]string{"env": dev}}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Create(ctx, named, keys.CreateRequest{Name: "scratch", Algorithm: backend.AES256GCM}); err != nil {
		t.Fatal(err)
	}
	_, err := e.Update(ctx, labelled, "mine", keys.UpdateRequest{Labels: map[string]*string{"env": &prod}})
	wantCode(t, err, fault.Forbidden, "another label")
	dropped, err := e.Create(ctx, labelled, keys.CreateRequest{Name: "dropped", Algorithm: backend.AES256GCM, Labels: map[string]string{"env": dev}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Update(ctx, labelled, dropped.ID.String(), keys.UpdateRequest{Labels: map[string]*string{"env": nil}})
	wantCode(t, err, fault.Forbidden, "no label")
	_, err = e.Update(ctx, named, "scratch", keys.UpdateRequest{Name: &name})
	wantCode(t, err, fault.Forbidden, "another name")
	for key, c := range map[string]keys.Caller{"mine": labelled, "scratch": named} {
		if _, err := e.Get(ctx, c, key); err != nil {
			t.Errorf("%s is not as it was: %v", key, err)
		}
	}
	if _, err := e.Update(ctx, labelled, "mine", keys.UpdateRequest{Name: &name, Labels: map[string]*string{"team": &dev}}); err != nil {
		t.Errorf("what stays within the limit: %v", err)
	}
	all := e.entries()
	seen := map[string]bool{}
	for _, entry := range all {
		seen[entry.Detail] = true
	}
	if !seen["labels rule label-limit"] || !seen["name rule key-limit"] {
		t.Errorf("the log does not name the rules: %v", seen)
	}
}

// TestLimitsAndDefaults: the default key is that of all of the tenant, and none that a limited credential gives them.
func TestLimitsAndDefaults(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	theirs := e.create("theirs", backend.AES256GCM, func(r *keys.CreateRequest) { r.Default = true })
	yes, no := true, false
	c := e.narrow(auth.Restrictions{Labels: map[string]string{"env": "dev"}})
	dev := map[string]string{"env": "dev"}
	if _, err := e.Create(ctx, c, keys.CreateRequest{Name: "mine", Algorithm: backend.AES256GCM, Labels: dev}); err != nil {
		t.Fatal(err)
	}
	_, err := e.Create(ctx, c, keys.CreateRequest{Name: "other", Algorithm: backend.AES256GCM, Labels: dev, Default: true})
	wantCode(t, err, fault.Forbidden, "a new default")
	_, err = e.Update(ctx, c, "mine", keys.UpdateRequest{Default: &yes})
	wantCode(t, err, fault.Forbidden, "an old key as the default")
	out, err := e.Encrypt(ctx, e.c, keys.Target{}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte("x")}}, true)
	if err != nil || out[0].Used.KeyID != theirs.ID {
		t.Errorf("what names no key is encrypted under %v, %v", out, err)
	}
	if _, err := e.Update(ctx, c, "mine", keys.UpdateRequest{Default: &no}); err != nil {
		t.Error(err)
	}
	only := e.narrow(auth.Restrictions{Operations: []string{"key.update"}})
	if _, err := e.Update(ctx, only, "mine", keys.UpdateRequest{Default: &yes}); err != nil {
		t.Errorf("by one that reaches all keys: %v", err)
	}
}

// TestMoveReplay: what a call answered is not shown to who could not have made it.
func TestMoveReplay(t *testing.T) {
	m := newMoveEnv(t)
	ctx := t.Context()
	m.create("carried", backend.AES256GCM, func(r *keys.CreateRequest) { r.Backend = "soft" })
	token := idempotency.Token{Key: "once", Request: [32]byte{1}}
	first := m.c
	first.Idempotency = token
	r := keys.MoveRequest{Key: "carried", Backend: "hsm"}
	j, err := m.Move(ctx, first, r)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.Move(ctx, first, r); err != nil || again.ID != j.ID {
		t.Errorf("%+v, %v", again, err)
	}
	limited := m.narrow(auth.Restrictions{Keys: []string{"other"}})
	limited.Idempotency = token
	_, err = m.Move(ctx, limited, r)
	wantCode(t, err, fault.Forbidden, "a key that the credential does not reach")

	many := keys.MoveRequest{Filter: keys.Filter{NamePrefix: "c"}, Backend: "hsm"}
	first.Idempotency = idempotency.Token{Key: "many", Request: [32]byte{2}}
	if _, err := m.Move(ctx, first, many); err != nil {
		t.Fatal(err)
	}
	limited.Idempotency = first.Idempotency
	_, err = m.Move(ctx, limited, many)
	wantCode(t, err, fault.Forbidden, "many keys by a limited credential")
}

// TestUntold: who has no right on keys is not told by a dry run, or by a request for approvals, which there are.
func TestUntold(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("plain", backend.Ed25519)
	e.create("granted", backend.Ed25519)
	e.create("guarded", backend.Ed25519, func(r *keys.CreateRequest) {
		r.Policy.Quorum = &auth.Quorum{Operations: []string{"sign"}, Approvals: 1, Role: auth.RoleAdmin}
	})
	holder := e.apiKey("holder", "")
	if _, err := e.PutGrant(ctx, e.c, "granted", keys.GrantRequest{ID: uuid.New(), Principal: holder.Principal.ID, Operations: []string{"sign"}}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]keys.Caller{"an auditor": e.apiKey("a", auth.RoleAuditor), "an operator": e.apiKey("o", auth.RoleOperator), "a holder of a grant": e.again(holder)} {
		var dry auth.Decision
		var asked string
		for i, key := range []string{"nothing", uuid.NewString(), "plain", "guarded"} {
			d, err := e.Authorize(ctx, c, keys.AuthorizeRequest{Operation: "sign", Key: key})
			if err != nil || d.Allowed || i > 0 && d != dry {
				t.Errorf("%s is told of %s: %+v, %v", name, key, d, err)
			}
			_, err = e.RequestApproval(ctx, c, keys.ApprovalRequest{Key: key, Operation: "sign"})
			if err == nil || i > 0 && err.Error() != asked {
				t.Errorf("%s asks for approvals on %s: %v, and of another: %s", name, key, err, asked)
				continue
			}
			wantCode(t, err, fault.InsufficientScope, name)
			dry, asked = d, err.Error()
		}
	}
	setter := e.apiKey("setter", "", auth.ScopeSettingsWrite)
	for _, operation := range []string{"approval.request", "approval.list", "approval.approve", "approval.reject", "authorize", "settings.keys.set"} {
		for _, key := range []string{"nothing", "plain"} {
			_, err := e.Authorize(ctx, setter, keys.AuthorizeRequest{Operation: operation, Key: key})
			wantCode(t, err, fault.BadField, operation+" on "+key)
		}
	}
	if d, err := e.Authorize(ctx, e.again(holder), keys.AuthorizeRequest{Operation: "sign", Key: "granted"}); err != nil || d.Rule != auth.RuleGrant {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestExportToUntold: who has nothing but grants is not told by an export to which other key it could be.
func TestExportToUntold(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("data", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.Exportable = true })
	e.create("symmetric", backend.AES256GCM)
	for _, name := range []string{"to", "granted"} {
		e.create(name, backend.RSA2048, func(r *keys.CreateRequest) { r.Purpose = backend.PurposeEncryption })
	}
	holder := e.apiKey("holder", "")
	for key, operation := range map[string]string{"data": "export", "granted": "key.get"} {
		if _, err := e.PutGrant(ctx, e.c, key, keys.GrantRequest{ID: uuid.New(), Principal: holder.Principal.ID, Operations: []string{operation}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, to := range []string{"nothing", uuid.NewString(), "symmetric", "to"} {
		_, _, err := e.Export(ctx, e.again(holder), keys.ExportRequest{Key: "data", To: to})
		wantCode(t, err, fault.KeyNotFound, to)
	}
	for to, c := range map[string]keys.Caller{"granted": e.again(holder), "to": e.apiKey("writer", "", auth.ScopeKeysWrite)} {
		if _, _, err := e.Export(ctx, c, keys.ExportRequest{Key: "data", To: to}); err != nil {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// TestApprovedReplay: a call that an approval was used up for is answered again as it was, and uses up no other.
func TestApprovedReplay(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	ann := e.apiKey("ann", auth.RoleAdmin)
	e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) {
		r.Policy.Quorum = &auth.Quorum{Operations: []string{"key.rotate"}, Approvals: 1, Approvers: []string{ann.Principal.ID}}
	})
	dev := e.apiKey("dev", auth.RoleDeveloper)
	ask := keys.ApprovalRequest{Key: "k", Operation: "key.rotate"}
	dev.Idempotency = idempotency.Token{Key: "once", Request: [32]byte{1}}
	dev.Approval = &keys.Presented{ID: e.approved(dev, ask, ann), Method: "POST"}
	first, err := e.Rotate(ctx, dev, "k")
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.Rotate(ctx, dev, "k")
	if err != nil || again.PrimaryVersion != first.PrimaryVersion {
		t.Errorf("the same call again: %+v, %v", again, err)
	}
	fresh := e.approved(dev, ask, ann)
	dev.Approval = &keys.Presented{ID: fresh, Method: "POST"}
	if _, err := e.Rotate(ctx, dev, "k"); err != nil {
		t.Error(err)
	}
	if a, err := e.Approval(ctx, dev, fresh); err != nil || a.State != "approved" {
		t.Errorf("an answer that was shown again has used up an approval: %+v, %v", a, err)
	}
}
