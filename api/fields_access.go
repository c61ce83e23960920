package api

// meaningInAccess says what a field of a type of api/wire/access.go is, given as Type.field.
func meaningInAccess(field string) string {
	switch field {
	case "Usage.keys":
		return "keys that are not destroyed"
	case "Usage.api_keys":
		return "API keys that are neither revoked nor expired"
	case "Usage.operations_today":
		return "operations with keys that nodes have set aside for the tenant today; counted under a plan that limits them alone"
	case "Usage.day_ends_at":
		return "when the day's operations begin anew: midnight, UTC"
	case "Amount.used":
		return "how much there is"
	case "Amount.limit":
		return "how much there can be; absent: any number"
	case "Tenant.plan", "CreateTenant.plan", "UpdateTenant.plan", "CreatedTenant.plan", "Usage.plan":
		return "the plan of rates, as the configuration names it; the default one when absent or empty"
	case "Quotas.keys", "UpdateQuotas.keys":
		return "keys that are not destroyed; 0: as many as it likes"
	case "Quotas.api_keys", "UpdateQuotas.api_keys":
		return "API keys that are neither revoked nor expired; 0: as many as it likes"
	case "Quorum.operations", "Grant.operations", "PutGrant.operations":
		return "as the audit log names them"
	case "Quorum.role":
		return "of those who may approve, when none are named"
	case "Grant.id":
		return "as its maker chose it"
	case "Grant.context", "PutGrant.context":
		return "pairs that the context of the request must hold"
	case "Authorize.context":
		return "the context of the request"
	case "Grant.principal":
		return "whose it is, as the audit log names it"
	case "Grant.named":
		return "how the principal was written, when that is not its name"
	case "PutGrant.principal":
		return "whose it is: api-key: and its id; cert: and a SPIFFE ID, or cert:subject:, cert:dns:, cert:email:, cert:uri: and the name; oidc:ISSUER#SUBJECT; peer: and a user's number"
	case "Authorize.principal":
		return "another of the tenant, the caller when absent: api-key: and its id; cert: and a SPIFFE ID, or cert:subject:, cert:dns:, cert:email:, cert:uri: and the name; oidc:ISSUER#SUBJECT; peer: and a user's number"
	case "Authorize.resource":
		return "what an act that is about no key is about: job:, api-key: or tenant: and an id"
	case "Authorized.note":
		return "what the answer leaves open"
	case "RequestApproval.key", "Authorize.key":
		return "id or name of a key"
	case "RequestApproval.body":
		return "the JSON of the request that is to be approved, as a string; absent when it has none"
	case "Approval.state":
		return "pending, approved, rejected, expired or used"
	case "Approval.id":
		return "what X-Approval names"
	case "Vote.counts":
		return "whether it counts towards the quorum: it approves, and its credential comes neither from the requester nor from another that approves"
	case "Vote.at":
		return "when"
	case "Authorized.error_code":
		return "of the refusal"
	case "Me.tenant":
		return "id of the tenant"
	case "APIKey.created_by", "Grant.created_by":
		return "who made it"
	case "CreateAPIKey.role":
		return "a named set of scopes, all of them the caller's own"
	case "CreateAPIKey.labels", "APIKey.labels", "Me.labels":
		return "only keys with all of these labels"
	}
	return ""
}

// meaningOfAccess is meaningOf for the fields of api/wire/access.go.
func meaningOfAccess(name string) string {
	switch name {
	case "grants_only":
		return "scopes alone do not suffice to use the key: it takes a grant"
	case "quorum":
		return "operations that take the approval of several"
	case "approvals":
		return "how many it takes"
	case "approvers":
		return "principals who may approve"
	case "target":
		return "what the path names beside the key: the number of a version, or the id of a grant"
	case "reason":
		return "for the approvers"
	case "expires_in":
		return "for how long it may be approved and used, as in 8h; 24h when absent"
	case "digest":
		return "SHA-256 of the request that it is bound to"
	case "requested_by":
		return "who asked for it, and may use it"
	case "needed":
		return "approvals that the key asks for"
	case "votes":
		return "who said what"
	case "approves":
		return "true: approved; false: rejected"
	case "used_at":
		return "when it was used"
	case "operation":
		return "as the audit log names it"
	case "allowed":
		return "whether it would be"
	case "rule":
		return "which rule decides"
	case "explanation":
		return "what the rule says"
	case "grant_id":
		return "of the grant that allows it"
	case "role":
		return "a named set of scopes"
	case "keys":
		return "only these keys, by id or name"
	case "operations":
		return "the operations, as the audit log names them"
	case "allowed_cidrs":
		return "only from these addresses"
	case "rate_limit":
		return "requests a minute; absent: no limit of its own"
	case "overlap":
		return "for how long the old secret stays good, as in 24h; absent: it ends at once"
	case "previous_until":
		return "until when the secret before the rotation is good"
	case "tenant_name":
		return "name of the tenant"
	case "quotas":
		return "how much the tenant can have"
	case "owner_key":
		return "the tenant's first API key; its key is shown this once"
	}
	return ""
}
