package api

// meaningInAccess says what a field of a type of api/wire/access.go is, given as Type.field.
func meaningInAccess(field string) string {
	switch field {
	case "Quotas.keys", "UpdateQuotas.keys":
		return "keys that are not destroyed; 0: as many as it likes"
	case "Quotas.api_keys", "UpdateQuotas.api_keys":
		return "API keys that are neither revoked nor expired; 0: as many as it likes"
	case "Me.tenant":
		return "id of the tenant"
	case "APIKey.created_by":
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
