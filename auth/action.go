package auth

import (
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Act is one thing that can be asked for which is not about a key, and what it takes. Values are shared and immutable.
type Act struct {
	Name    string     // as the audit log has it
	Any     ScopeSet   // one of these is needed, for what is the own tenant's
	Over    ScopeSet   // one of these, for what is the deployment's; empty: that is nobody's
	Free    bool       // about the own credential, or the own tenant, it takes no scope
	Makers  bool       // a credential that is limited to keys or labels reaches, of the tenant's, what it has made
	Whole   bool       // it is about all keys or about none to be told: not for a credential that is limited to some, or to some operations
	Session bool       // only for an owner or admin in a session
	Signed  bool       // only in a session, whosesoever
	Opens   bool       // a session is asked for: only with a credential that makes one
	Hidden  fault.Code // how what is not for the caller is denied; "": the missing scope is named
}

// Resource is what an act is about, as far as it decides.
type Resource struct {
	Tenant     uuid.UUID // whose it is
	Deployment bool      // it is the deployment's to deal with, as tenants themselves are
	Principal  string    // of a credential: whose it is; of a job: who made it; "": does not count
	Needs      ScopeSet  // of a credential that is not one's own: who acts has all these
	Beyond     bool      // of a credential that is not one's own: its limits leave it more than those of who acts, or it outlives the API key of who acts
}

// Acts lists what can be asked for that is not about a key, by what it is about.
func Acts() []Act {
	var (
		settings = SetOf(ScopeSettingsWrite)
		seesKeys = SetOf(ScopeSettingsRead, ScopeSettingsWrite)
		tenants  = SetOf(ScopeTenantsWrite)
		sees     = SetOf(ScopeTenantsRead, ScopeTenantsWrite)
		reads    = SetOf(ScopeAuditRead)
		devices  = SetOf(ScopeBackendsWrite)
		shows    = SetOf(ScopeBackendsRead, ScopeKeysRead)
		root     = SetOf(ScopeRootWrite)
		seesRoot = SetOf(ScopeRootRead, ScopeRootWrite)
	)
	acts := []Act{
		{Name: "whoami"},
		{Name: ActionCreate, Any: settings},
		{Name: "api-key.list", Any: seesKeys},
		{Name: "api-key.get", Any: seesKeys, Hidden: fault.APIKeyNotFound},
		{Name: ActionRotate, Any: settings, Free: true, Hidden: fault.APIKeyNotFound},
		{Name: ActionRevoke, Any: settings, Hidden: fault.APIKeyNotFound},

		{Name: "settings.security.get", Any: SetOf(ScopeSettingsRead)},
		{Name: ActionSecurity, Session: true},

		{Name: ActionSessionCreate, Opens: true},
		{Name: "session.get", Signed: true},
		{Name: ActionSessionLeave, Signed: true},
		{Name: "session.list", Any: settings},
		{Name: ActionSessionEnd, Any: settings, Hidden: fault.SessionNotFound},

		{Name: ActionTenantCreate, Any: tenants, Over: tenants},
		{Name: "tenant.list", Any: sees, Over: sees},
		{Name: "tenant.get", Any: sees, Over: sees, Free: true, Hidden: fault.TenantNotFound},
		{Name: "tenant.usage", Any: sees, Over: sees, Free: true, Whole: true, Hidden: fault.TenantNotFound},
		{Name: ActionTenantUpdate, Any: tenants, Over: tenants},
		{Name: ActionTenantSuspend, Any: tenants, Over: tenants},
		{Name: ActionTenantResume, Any: tenants, Over: tenants},
		{Name: ActionTenantRecover, Any: tenants, Over: tenants},

		{Name: "job.list", Any: SetOf(ScopeKeysRead), Over: SetOf(ScopeNodesRead), Makers: true, Hidden: fault.JobNotFound},
		{Name: "job.get", Any: SetOf(ScopeKeysRead), Over: SetOf(ScopeNodesRead), Makers: true, Hidden: fault.JobNotFound},
		{Name: "job.cancel", Any: SetOf(ScopeKeysWrite), Over: SetOf(ScopeBackendsWrite, ScopeRootWrite), Makers: true, Hidden: fault.JobNotFound},

		{Name: "audit.search", Any: reads},
		{Name: "audit.checkpoint", Any: reads},
		{Name: "audit.consistency", Any: reads},
		{Name: "audit.proof", Any: reads},
		{Name: "audit.export", Any: SetOf(ScopeAuditExport), Whole: true},
		{Name: "event.stream", Any: reads},

		{Name: "backend.list", Any: shows},
		{Name: "backend.get", Any: shows},
		{Name: "node.list", Any: shows},
		{Name: "backend.kek.list", Any: SetOf(ScopeBackendsRead, ScopeBackendsWrite)},
		{Name: "backend.kek.rotate", Any: devices},
		{Name: "backend.kek.retire", Any: devices},
		{Name: "root.get", Any: seesRoot},
		{Name: "root.rotate", Any: root},
		{Name: "root.retire", Any: root},
		{Name: "root.slot.list", Any: seesRoot},
		{Name: "root.slot.add", Any: root},
		{Name: "root.slot.remove", Any: root},
		{Name: "keys.reseal", Any: devices | root},
		{Name: "backup.begin", Any: SetOf(ScopeBackupWrite)},
	}
	for _, name := range []string{"create", "list", "get", "remove", "test", "enable", "disable", "rotate-secret"} {
		acts = append(acts, Act{Name: "webhook." + name, Any: settings, Whole: true})
	}
	return acts
}

// acts is Acts by name. Nobody changes it.
var acts = func() map[string]*Act {
	all := map[string]*Act{}
	for _, a := range Acts() {
		all[a.Name] = &a
	}
	return all
}()

// ActNamed finds an act that is not about a key.
func ActNamed(name string) (*Act, bool) {
	a, ok := acts[name]
	return a, ok
}

// Ask makes the question whether the principal may do it. on is what it is about: nil when that is not known yet, and then what it settles is
// decided later.
func (a *Act) Ask(p *Principal, now time.Time, on *Resource) Request {
	return Request{Principal: p, Now: now, Any: a.Any, Over: a.Over, Free: a.Free, Makers: a.Makers, Whole: a.Whole, Session: a.Session, Signed: a.Signed, Opens: a.Opens, Hidden: a.Hidden,
		Resource: on, Pending: on == nil}
}

// DecideAct decides about an act by its name. What is no act is nobody's.
func DecideAct(p *Principal, now time.Time, name string, on *Resource) Decision {
	a, ok := acts[name]
	if !ok {
		return refused(RuleUnknown, fault.Internal)
	}
	r := a.Ask(p, now, on)
	return Decide(&r)
}
