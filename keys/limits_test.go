package keys_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// TestLimits: what a credential is limited to, it does not leave by any call.
func TestLimits(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	mine, other := e.create("mine", backend.AES256GCM), e.create("other", backend.AES256GCM)
	label := "prod"
	if _, err := e.Update(ctx, e.c, "mine", keys.UpdateRequest{Labels: map[string]*string{"env": &label}}); err != nil {
		t.Fatal(err)
	}
	who := func(r auth.Restrictions) keys.Caller {
		return keys.Caller{Principal: &auth.Principal{ID: "api-key:narrow", Tenant: e.tenant, Scopes: []auth.Scope{auth.ScopeRead, auth.ScopeWrite}, Restrictions: &r}}
	}
	calls := func(c keys.Caller, key string) map[string]error {
		m := map[string]error{}
		_, m["get"] = e.Get(ctx, c, key)
		_, m["versions"] = e.Versions(ctx, c, key, 0, 0)
		_, m["version"] = e.Version(ctx, c, key, 0)
		_, m["attest"] = e.Attest(ctx, c, keys.AttestRequest{Key: key, Nonce: make([]byte, 16)})
		_, m["encrypt"] = e.Encrypt(ctx, c, keys.Target{Key: key}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte("x")}}, true)
		_, m["data-key"] = e.DataKeys(ctx, c, keys.Target{Key: key}, []keys.DataKeyRequest{{}}, true)
		_, m["key.update"] = e.Update(ctx, c, key, keys.UpdateRequest{})
		_, m["key.rotate"] = e.Rotate(ctx, c, key)
		_, m["key.state"] = e.SetVersionState(ctx, c, key, 1, keys.StateDeactivated)
		_, m["key.delete"] = e.Delete(ctx, c, key, keys.MinWaiting)
		_, m["key.cancel-deletion"] = e.CancelDeletion(ctx, c, key)
		return m
	}
	reads := map[string]bool{"get": true, "versions": true, "version": true, "attest": true}
	for name, r := range map[string]auth.Restrictions{
		"by name": {Keys: []string{"mine"}}, "by id": {Keys: []string{uuid.NewString(), mine.ID.String()}}, "by label": {Labels: map[string]string{"env": "prod"}},
	} {
		c := who(r)
		for call, err := range calls(c, "other") {
			wantCode(t, err, fault.Forbidden, name+": "+call)
		}
		for call, err := range calls(c, other.ID.String()) {
			wantCode(t, err, fault.Forbidden, name+": "+call+" by id")
		}
		if _, err := e.Get(ctx, c, "mine"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		list, _, err := e.List(ctx, c, keys.ListRequest{})
		if err != nil || len(list) != 1 || list[0].ID != mine.ID {
			t.Errorf("%s: a list of %d, %v", name, len(list), err)
		}
		_, err = e.Create(ctx, c, keys.CreateRequest{Name: "third", Algorithm: backend.AES256GCM})
		wantCode(t, err, fault.Forbidden, name+": making another")
	}
	if _, err := e.Create(ctx, who(auth.Restrictions{Labels: map[string]string{"env": "prod"}}), keys.CreateRequest{Name: "fourth", Algorithm: backend.AES256GCM,
		Labels: map[string]string{"env": "prod"}}); err != nil {
		t.Errorf("making one with the label: %v", err)
	}
	if _, err := e.Create(ctx, who(auth.Restrictions{Keys: []string{"fifth"}}), keys.CreateRequest{Name: "fifth", Algorithm: backend.AES256GCM}); err != nil {
		t.Errorf("making one under the name: %v", err)
	}

	only := who(auth.Restrictions{Operations: []string{"encrypt"}})
	for call, err := range calls(only, "mine") {
		if reads[call] || call == "encrypt" {
			if err != nil {
				t.Errorf("only encrypt: %s: %v", call, err)
			}
			continue
		}
		wantCode(t, err, fault.Forbidden, "only encrypt: "+call)
	}
	_, err := e.Random(ctx, only, "", 1)
	wantCode(t, err, fault.Forbidden, "only encrypt: random")
	all := e.entries()
	if last := all[len(all)-1]; last.Detail != "rule operation-limit" || last.Outcome != string(fault.Forbidden) {
		t.Errorf("the refusal stands in the log as %+v", last)
	}

	// What another caller made under the same token is not shown to one who may not see it.
	suspended := who(auth.Restrictions{})
	suspended.Principal.Suspended = true
	for call, err := range calls(suspended, "mine") {
		wantCode(t, err, fault.TenantSuspended, call)
	}
	stranger := keys.Caller{Principal: &auth.Principal{ID: "api-key:stranger", Tenant: uuid.New(), Scopes: auth.Scopes()}}
	for call, err := range calls(stranger, mine.ID.String()) {
		wantCode(t, err, fault.KeyNotFound, call+" of another tenant")
	}
}
