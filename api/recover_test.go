package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
)

// TestRecoverTenant: an operator gives a tenant another owner's key, and both logs tell of it.
func TestRecoverTenant(t *testing.T) {
	e := newEverything(t)
	tenant := made[wire.CreatedTenant](e, e.owner, "POST", "/tenants", `{"name":"shop","quotas":{"api_keys":3}}`)
	operator := e.newAPIKey(e.owner, `{"name":"operator","role":"operator"}`)
	path := "/tenants/" + tenant.ID + "/recover"
	k := made[wire.APIKey](e, operator.Key, "POST", path, "", "Idempotency-Key", "once")
	again := made[wire.APIKey](e, operator.Key, "POST", path, "", "Idempotency-Key", "once")
	if again.Key != k.Key || again.ID != k.ID {
		t.Error("the same call gives another key")
	}
	refused(t, e.ask("POST", path, "", e.owner, "Idempotency-Key", "once"), 409, fault.IdempotencyConflict)
	me := made[wire.Me](e, k.Key, "GET", "/me", "")
	if me.Tenant != tenant.ID || me.Role != "owner" || len(me.Scopes) != len(made[wire.Me](e, tenant.OwnerKey.Key, "GET", "/me", "").Scopes) {
		t.Errorf("%+v", me)
	}
	in := func(credential string) []wire.AuditEntry {
		return made[wire.List[wire.AuditEntry]](e, credential, "GET", "/audit?action=tenant.recover&outcome=ok", "").Items
	}
	theirs, ours := in(tenant.OwnerKey.Key), in(e.owner)
	if len(theirs) != 2 || len(ours) != 2 {
		t.Fatalf("%+v\n%+v", theirs, ours)
	}
	if first := theirs[1]; first.Resource != "api-key:"+k.ID || first.Principal != "api-key:"+operator.ID {
		t.Errorf("the tenant is told %+v", first)
	}
	if first := ours[1]; first.Resource != "tenant:"+tenant.ID || first.Detail != "owner api-key:"+k.ID {
		t.Errorf("the operator's log says %+v", first)
	}
	shown := made[wire.APIKey](e, tenant.OwnerKey.Key, "GET", "/api-keys/"+k.ID, "")
	if shown.CreatedBy != "api-key:"+operator.ID || shown.Key != "" {
		t.Errorf("%+v", shown)
	}
	if body := e.eventsOf(tenant.OwnerKey.Key); !containsAll(body, "api_key.created", k.ID) {
		t.Errorf("the events are %s", body)
	}

	// By nobody else, not for what is not there, not beyond the quota; and refusals are recorded.
	refused(t, e.ask("POST", path, "", tenant.OwnerKey.Key), 403, fault.InsufficientScope)
	refused(t, e.ask("POST", "/tenants/"+id()+"/recover", "", operator.Key), 404, fault.TenantNotFound)
	refused(t, e.ask("POST", path, `{"name":"\n"}`, operator.Key), 400, fault.BadName)
	named := made[wire.APIKey](e, operator.Key, "POST", path, `{"name":"of the board"}`)
	if named.Name != "of the board" {
		t.Errorf("%+v", named)
	}
	refused(t, e.ask("POST", path, "", operator.Key), 403, fault.QuotaExceeded)
	last := made[wire.List[wire.AuditEntry]](e, e.owner, "GET", fmt.Sprintf("/audit?action=tenant.recover&outcome=%s", fault.QuotaExceeded), "").Items
	if len(last) != 1 {
		t.Errorf("%+v", last)
	}
	// An operator's own tenant has one log.
	own := made[wire.Me](e, operator.Key, "GET", "/me", "").Tenant
	made[wire.APIKey](e, operator.Key, "POST", "/tenants/"+own+"/recover", "")
}

func containsAll(text string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}
