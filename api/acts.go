package api

import (
	"fmt"
	"time"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/keys"
)

// acts says what each route asks for, as the audit log and POST /authorize name it. A route that is not here, and is not open, keeps the server from
// starting.
func acts() map[string]string {
	return map[string]string{ //nolint:gosec // routes and acts
		"POST /keys":                          "key.create",
		"GET /keys":                           "key.list",
		"GET /keys/inventory":                 "key.list",
		"GET /keys/import-parameters":         "key.import-parameters",
		"POST /keys/import":                   "key.import",
		"GET /keys/{key}":                     "key.get",
		"PATCH /keys/{key}":                   "key.update",
		"DELETE /keys/{key}":                  "key.delete",
		"POST /keys/{key}/cancel-deletion":    "key.cancel-deletion",
		"POST /keys/move":                     "key.move",
		"POST /keys/{key}/move":               "key.move",
		"POST /keys/{key}/rotate":             "key.rotate",
		"GET /keys/{key}/versions":            "key.versions",
		"POST /keys/{key}/versions/{n}/state": "key.state",
		"GET /keys/{key}/public":              "key.get",
		"POST /keys/{key}/export":             "export",
		"POST /keys/{key}/attestation":        "attest",
		"GET /attestation-key":                "attestation-key",

		"POST /keys/{key}/encrypt":     "encrypt",
		"POST /keys/{key}/decrypt":     "decrypt",
		"POST /keys/{key}/rewrap":      "rewrap",
		"POST /keys/{key}/data-key":    "data-key",
		"POST /keys/{key}/wrap":        "wrap",
		"POST /keys/{key}/unwrap":      "unwrap",
		"POST /keys/{key}/sign":        "sign",
		"POST /keys/{key}/verify":      "verify",
		"POST /keys/{key}/mac":         "mac",
		"POST /keys/{key}/verify-mac":  "verify-mac",
		"POST /keys/{key}/derive":      "derive",
		"POST /keys/{key}/encapsulate": "encapsulate",
		"POST /keys/{key}/decapsulate": "decapsulate",
		"POST /encrypt":                "encrypt",
		"POST /decrypt":                "decrypt",
		"POST /data-key":               "data-key",
		"POST /sign":                   "sign",
		"POST /verify":                 "verify",
		"POST /random":                 "random",

		"GET /keys/{key}/grants":         "key.grants",
		"GET /keys/{key}/grants/{id}":    "key.grants",
		"PUT /keys/{key}/grants/{id}":    "key.grant",
		"DELETE /keys/{key}/grants/{id}": "key.revoke-grant",
		"POST /approvals":                "approval.request",
		"GET /approvals":                 "approval.list",
		"GET /approvals/{id}":            "approval.list",
		"POST /approvals/{id}/approve":   "approval.approve",
		"POST /approvals/{id}/reject":    "approval.reject",
		"POST /authorize":                "authorize",

		"GET /settings/keys":       "settings.keys.get",
		"PUT /settings/keys":       "settings.keys.set",
		"GET /settings/security":   "settings.security.get",
		"PATCH /settings/security": "settings.security.set",

		"POST /session":         "session.create",
		"GET /session":          "session.get",
		"DELETE /session":       "session.leave",
		"GET /sessions":         "session.list",
		"DELETE /sessions/{id}": "session.end",

		"GET /backends":                    "backend.list",
		"GET /backends/{name}":             "backend.get",
		"GET /backends/{name}/keks":        "backend.kek.list",
		"POST /backends/{name}/rotate-kek": "backend.kek.rotate",
		"POST /backends/{name}/retire-kek": "backend.kek.retire",
		"GET /nodes":                       "node.list",
		"GET /jobs":                        "job.list",
		"GET /jobs/{id}":                   "job.get",
		"POST /jobs/{id}/cancel":           "job.cancel",

		"POST /api-keys":             "api-key.create",
		"GET /api-keys":              "api-key.list",
		"GET /api-keys/{id}":         "api-key.get",
		"POST /api-keys/{id}/rotate": "api-key.rotate",
		"DELETE /api-keys/{id}":      "api-key.revoke",
		"GET /me":                    "whoami",

		"POST /tenants":              "tenant.create",
		"GET /tenants":               "tenant.list",
		"GET /tenants/{id}":          "tenant.get",
		"GET /tenants/{id}/usage":    "tenant.usage",
		"PATCH /tenants/{id}":        "tenant.update",
		"POST /tenants/{id}/suspend": "tenant.suspend",
		"POST /tenants/{id}/resume":  "tenant.resume",
		"POST /tenants/{id}/recover": "tenant.recover",

		"GET /audit":                   "audit.search",
		"GET /audit/checkpoint":        "audit.checkpoint",
		"GET /audit/consistency":       "audit.consistency",
		"GET /audit/entries/{n}":       "audit.search",
		"GET /audit/entries/{n}/proof": "audit.proof",
		"GET /audit/export":            "audit.export",

		"GET /events":                       "event.stream",
		"POST /webhooks":                    "webhook.create",
		"GET /webhooks":                     "webhook.list",
		"GET /webhooks/{id}":                "webhook.get",
		"DELETE /webhooks/{id}":             "webhook.remove",
		"POST /webhooks/{id}/test":          "webhook.test",
		"POST /webhooks/{id}/enable":        "webhook.enable",
		"POST /webhooks/{id}/disable":       "webhook.disable",
		"POST /webhooks/{id}/rotate-secret": "webhook.rotate-secret",

		"GET /root":               "root.get",
		"POST /root/rotate":       "root.rotate",
		"POST /root/retire":       "root.retire",
		"POST /keys/reseal":       "keys.reseal",
		"GET /root/slots":         "root.slot.list",
		"POST /root/slots":        "root.slot.add",
		"DELETE /root/slots/{id}": "root.slot.remove",
		"POST /backup":            "backup.begin",

		"POST /kem/encrypt":           "encrypt",
		"POST /kem/decrypt":           "decrypt",
		"POST /kem/encapsulate":       "encapsulate",
		"POST /kem/decapsulate":       "decapsulate",
		"POST /kem/key/wrap":          "wrap",
		"POST /kem/key/unwrap":        "unwrap",
		"POST /kem/wrap":              "wrap",
		"POST /kem/unwrap":            "unwrap",
		"POST /signature/sign":        "sign",
		"POST /signature/verify":      "verify",
		"POST /signature/sign-hash":   "sign",
		"POST /signature/verify-hash": "verify",
		"POST /kms/keys/generate":     "key.rotate",
		"POST /kms/keys/rotate":       "key.rotate",
		"POST /kms/keys/retire":       "key.state",
		"GET /kms/keys/active":        "key.get",
		"GET /kms/keys/{n}":           "key.get",
		"GET /kms/keys":               "key.list",
	}
}

// settleActs gives each row what it asks of auth.Decide at the door: that of its act, and nothing else.
func settleActs(rows []route) error {
	named := acts()
	for i := range rows {
		r := &rows[i]
		if r.Open {
			continue
		}
		name := r.Method + " " + r.Path
		r.Act = named[name]
		ask, ok := actRequest(r.Act)
		if !ok {
			return fmt.Errorf("api: %s asks for no act that there is", name)
		}
		// The row says again which scopes it takes, for the document: that is held against the act, so that neither can be changed alone.
		if said := r.oneOf(); said != ask.Any|ask.Over && (said != 0 || !r.late()) || r.Session != ask.Session || r.Signed != ask.Signed || r.Opens != ask.Opens {
			return fmt.Errorf("api: %s does not take the scopes that %s does", name, r.Act)
		}
		ask.All |= auth.SetOf(r.And)
		r.ask = ask
	}
	return nil
}

// actRequest is the question about an act before anything of the request is known.
func actRequest(name string) (auth.Request, bool) {
	if r, ok := keys.ActRequest(name); ok {
		return r, true
	}
	a, ok := auth.ActNamed(name)
	if !ok {
		return auth.Request{}, false
	}
	return a.Ask(nil, time.Time{}, nil), true
}

// late reports whether the row names no scope because what is asked for decides which it takes.
func (r *route) late() bool {
	a, ok := auth.ActNamed(r.Act)
	return ok && (a.Free || a.Over != 0 && a.Over != a.Any)
}

// permits decides about the route, for whoever has been authenticated.
func (r *route) permits(p *auth.Principal, now time.Time) auth.Decision {
	ask := r.ask
	ask.Principal, ask.Now = p, now
	return auth.Decide(&ask)
}

// may asks auth.Decide about an act for a service that does not know principals.
type judge struct {
	principal *auth.Principal
	now       time.Time
}

// May gives the refusal of an act, nil for a permission.
func (j judge) May(action string) error {
	d := auth.DecideAct(j.principal, j.now, action, nil)
	return d.Err()
}

func (c *call) judge() judge { return judge{c.principal, c.start} }
