package auth

// Role is a named set of scopes. What a role can do is settled by this table, not by the time at which a credential was given it.
type Role string

const (
	RoleNone      Role = ""
	RoleOwner     Role = "owner"
	RoleAdmin     Role = "admin"
	RoleDeveloper Role = "developer"
	RoleViewer    Role = "viewer"
	RoleOperator  Role = "operator"
	RoleAuditor   Role = "auditor"
	RoleBackup    Role = "backup"
)

// RoleInfo is a role as the documentation shows it.
type RoleInfo struct {
	Role    Role
	Scopes  []Scope
	Meaning string
}

// Roles is the one table of roles.
func Roles() []RoleInfo {
	admin := []Scope{ScopeKeysRead, ScopeKeysWrite, ScopeEncryptionWrite, ScopePoliciesRead, ScopePoliciesWrite, ScopeAuditRead, ScopeSettingsRead,
		ScopeSettingsWrite, ScopeBackendsRead}
	return []RoleInfo{
		{RoleOwner, append(admin[:len(admin):len(admin)], ScopeOwnersWrite), "Everything in a tenant, other owners included."},
		{RoleAdmin, admin, "Everything in a tenant but its owners."},
		{RoleDeveloper, []Scope{ScopeKeysRead, ScopeKeysWrite, ScopeEncryptionWrite, ScopePoliciesRead, ScopeSettingsRead, ScopeBackendsRead},
			"Makes and uses keys; no administration, no audit log."},
		{RoleViewer, []Scope{ScopeKeysRead, ScopePoliciesRead, ScopeSettingsRead, ScopeBackendsRead}, "Looks at everything but the audit log, changes and uses nothing."},
		{RoleOperator, []Scope{ScopeBackendsRead, ScopeBackendsWrite, ScopeNodesRead, ScopeRootRead, ScopeRootWrite, ScopeTenantsRead, ScopeTenantsWrite},
			"Of the deployment: backends, nodes, the root and the tenants; no keys."},
		{RoleAuditor, []Scope{ScopeAuditRead}, "Reads the tenant's audit log and nothing else."},
		{RoleBackup, []Scope{ScopeBackupRead, ScopeBackupWrite}, "Of the deployment: makes backups and nothing else."},
	}
}

// Scopes gives what the role can do; nil for none and for what is no role.
func (r Role) Scopes() []Scope {
	for _, i := range Roles() {
		if i.Role == r {
			return i.Scopes
		}
	}
	return nil
}

// valid reports whether r is a role, or none.
func (r Role) valid() bool { return r == RoleNone || r.Scopes() != nil }

// bootstrapScopes is what the first key of a deployment has beside its role of owner: one person can run it alone, and can
// hand the rest on to keys of narrower roles.
func bootstrapScopes() []Scope {
	return append(RoleOperator.Scopes(), ScopeAuditExport, ScopeBackupRead, ScopeBackupWrite)
}
