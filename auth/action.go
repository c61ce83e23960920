package auth

// ActionScope gives the scope of an act that is not about a key, as the audit log names it; ok is false for what is none.
func ActionScope(action string) (scope Scope, ok bool) {
	switch action {
	case ActionCreate, ActionRotate, ActionRevoke:
		return ScopeSettingsWrite, true
	case ActionTenantCreate, ActionTenantUpdate, ActionTenantSuspend, ActionTenantResume:
		return ScopeTenantsWrite, true
	case "root.slot.add", "root.slot.remove":
		return ScopeRootWrite, true
	}
	return "", false
}
