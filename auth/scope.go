package auth

import "math/bits"

// Scope is a right of a credential: a resource and a verb. Write does not imply read.
type Scope string

// Scopes within the tenant of the credential.
const (
	ScopeKeysRead        Scope = "keys:read"
	ScopeKeysWrite       Scope = "keys:write"
	ScopeEncryptionWrite Scope = "encryption:write"
	ScopePoliciesRead    Scope = "policies:read"  // grants, and what a dry run says of others
	ScopePoliciesWrite   Scope = "policies:write" // grants, grants_only and quorum of keys
	ScopeAuditRead       Scope = "audit:read"
	ScopeSettingsRead    Scope = "settings:read"
	ScopeSettingsWrite   Scope = "settings:write" // settings, and API keys
	ScopeOwnersWrite     Scope = "owners:write"   // API keys of role owner
	ScopeBackendsRead    Scope = "backends:read"
)

// Scopes over the whole deployment: none of them reaches into the keys of a tenant.
const (
	ScopeBackendsWrite Scope = "backends:write"
	ScopeNodesRead     Scope = "nodes:read"
	ScopeRootRead      Scope = "root:read"
	ScopeRootWrite     Scope = "root:write"
	ScopeTenantsRead   Scope = "tenants:read"
	ScopeTenantsWrite  Scope = "tenants:write"
	ScopeAuditExport   Scope = "audit:export" // the whole log, of all tenants
	ScopeBackupRead    Scope = "backup:read"
	ScopeBackupWrite   Scope = "backup:write"
)

// Coarse scopes: each stands for several, and neither for the other.
const (
	ScopeRead  Scope = "read"
	ScopeWrite Scope = "write"
)

// Scopes lists all scopes in the order of the documentation, the coarse ones last.
func Scopes() []Scope {
	return []Scope{ScopeKeysRead, ScopeKeysWrite, ScopeEncryptionWrite, ScopePoliciesRead, ScopePoliciesWrite, ScopeAuditRead, ScopeSettingsRead,
		ScopeSettingsWrite, ScopeOwnersWrite, ScopeBackendsRead, ScopeBackendsWrite, ScopeNodesRead, ScopeRootRead, ScopeRootWrite, ScopeTenantsRead,
		ScopeTenantsWrite, ScopeAuditExport, ScopeBackupRead, ScopeBackupWrite, ScopeRead, ScopeWrite}
}

// Covers gives what a coarse scope stands for: nothing of administration, and nothing of the deployment. nil for any other.
func (s Scope) Covers() []Scope {
	switch s {
	case ScopeRead:
		return []Scope{ScopeKeysRead, ScopePoliciesRead, ScopeAuditRead, ScopeSettingsRead, ScopeBackendsRead}
	case ScopeWrite:
		return []Scope{ScopeKeysWrite, ScopeEncryptionWrite}
	}
	return nil
}

// Deployment reports whether the scope is one over the whole deployment.
func (s Scope) Deployment() bool {
	switch s {
	case ScopeBackendsWrite, ScopeNodesRead, ScopeRootRead, ScopeRootWrite, ScopeTenantsRead, ScopeTenantsWrite, ScopeAuditExport,
		ScopeBackupRead, ScopeBackupWrite:
		return true
	}
	return false
}

// ScopeSet is a set of scopes. The zero value is empty.
type ScopeSet uint32

// bit gives the place of a scope in sets; ok is false for what is no scope. It allocates nothing.
func (s Scope) bit() (n uint, ok bool) {
	switch s {
	case ScopeKeysRead:
		return 0, true
	case ScopeKeysWrite:
		return 1, true
	case ScopeEncryptionWrite:
		return 2, true
	case ScopePoliciesRead:
		return 3, true
	case ScopePoliciesWrite:
		return 4, true
	case ScopeAuditRead:
		return 5, true
	case ScopeSettingsRead:
		return 6, true
	case ScopeSettingsWrite:
		return 7, true
	case ScopeOwnersWrite:
		return 8, true
	case ScopeBackendsRead:
		return 9, true
	case ScopeBackendsWrite:
		return 10, true
	case ScopeNodesRead:
		return 11, true
	case ScopeRootRead:
		return 12, true
	case ScopeRootWrite:
		return 13, true
	case ScopeTenantsRead:
		return 14, true
	case ScopeTenantsWrite:
		return 15, true
	case ScopeAuditExport:
		return 16, true
	case ScopeBackupRead:
		return 17, true
	case ScopeBackupWrite:
		return 18, true
	case ScopeRead:
		return 19, true
	case ScopeWrite:
		return 20, true
	}
	return 0, false
}

// SetOf makes a set. What is no scope is left out: nobody can have it.
func SetOf(scopes ...Scope) (s ScopeSet) {
	for _, q := range scopes {
		if n, ok := q.bit(); ok {
			s |= 1 << n
		}
	}
	return s
}

// rights makes the set of all that the scopes stand for, coarse ones with what they cover.
func rights(scopes []Scope) ScopeSet {
	s := SetOf(scopes...)
	for _, coarse := range [...]Scope{ScopeRead, ScopeWrite} {
		if s.Has(coarse) {
			s |= SetOf(coarse.Covers()...)
		}
	}
	return s
}

// Has reports whether the scope is in the set.
func (s ScopeSet) Has(q Scope) bool {
	n, ok := q.bit()
	return ok && s>>n&1 == 1
}

// Within reports whether all of s is in t.
func (s ScopeSet) Within(t ScopeSet) bool { return s&^t == 0 }

// List gives the scopes in the order of Scopes.
func (s ScopeSet) List() []Scope {
	out := make([]Scope, 0, bits.OnesCount32(uint32(s)))
	for _, q := range Scopes() {
		if s.Has(q) {
			out = append(out, q)
		}
	}
	return out
}
