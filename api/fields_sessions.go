package api

// meaningInSessions says what a field of a type of api/wire/sessions.go is, given as Type.field.
func meaningInSessions(field string) string {
	switch field {
	case "Session.id":
		return "of the session; it is no secret, and nothing can be presented by it"
	case "Session.principal":
		return "whose it is, as it stands in the audit log"
	case "Session.kind":
		return "of the credential that it was made of: token, certificate or peer"
	case "Session.scopes":
		return "what it can do: what that credential could at the time"
	case "Session.tenant":
		return "id of the tenant"
	case "Session.seen_at":
		return "when it was last used, to within a minute"
	case "Session.idle_expires_at":
		return "when it ends unless it is used"
	case "Session.expires_at":
		return "when it ends in any case"
	case "Session.ended_at":
		return "when it was ended"
	case "Session.csrf_token":
		return "of the own session: what changes carry in X-CSRF-Token beside the cookie"
	case "SecuritySettings.api_key_max_lifetime", "UpdateSecurity.api_key_max_lifetime":
		return "within which a new API key is to expire, as in 720h"
	case "SecuritySettings.allowed_cidrs", "UpdateSecurity.allowed_cidrs":
		return "where credentials of the tenant may be used, whatever they allow themselves"
	case "SecuritySettings.session_idle", "UpdateSecurity.session_idle":
		return "after how long without a request a session ends; only shorter than the configured time"
	case "SecuritySettings.session_lifetime", "UpdateSecurity.session_lifetime":
		return "after how long a session ends in any case; only shorter than the configured time"
	}
	return ""
}
