package auth

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Rule names what settled a decision.
type Rule string

const (
	// The rules that refuse, in the order in which they are asked.
	RuleCredential Rule = "credential"       // there is none
	RuleExpired    Rule = "expired"          // its time is over
	RuleSuspended  Rule = "tenant-suspended" // its tenant is suspended
	RuleAddress    Rule = "address"          // the caller is not where the credential may be used
	RuleOffice     Rule = "tenant-address"   // the caller is not where credentials of the tenant may be used
	RuleForged     Rule = "csrf"             // a change in a session without what shows that its own page has made it
	RuleTenant     Rule = "tenant"           // the key is another tenant's
	RuleSession    Rule = "session"          // only an owner or admin in person may do this
	RuleKeys       Rule = "key-limit"        // the credential is limited to other keys
	RuleLabels     Rule = "label-limit"      // to keys with other labels
	RuleOperations Rule = "operation-limit"  // to other operations
	RuleNoScope    Rule = "no-scope"         // neither scope nor grant
	RuleGrantsOnly Rule = "grants-only"      // the key asks for a grant, and there is none
	RuleContext    Rule = "context"          // the context lacks what the key or the grant requires
	RuleQuorum     Rule = "quorum"           // the approvals are missing
	RuleOwners     Rule = "owners"           // a credential is for those who have all its rights to renew, and an owner's for owners to end
	RuleUnfiltered Rule = "unfiltered"       // the credential is limited, and this cannot be told in part
	RuleUnknown    Rule = "unknown-act"      // there is no such act
	RuleUnsigned   Rule = "no-session"       // this is for sessions, and the caller has none
	RulePerson     Rule = "no-session-by"    // a credential of this kind makes no session

	// The rules that allow.
	RuleAny      Rule = "any-credential"
	RuleScope    Rule = "scope"
	RuleGrant    Rule = "grant"
	RuleApproved Rule = "approved" // by scope or grant, and by the quorum
)

// Key is what a decision needs to know of a key. Values are shared and immutable.
type Key struct {
	ID              uuid.UUID // zero: one that is about to be made
	Tenant          uuid.UUID
	Name            string
	Labels          map[string]string
	GrantsOnly      bool     // scopes alone do not suffice to use it
	RequiredContext []string // names that the caller's context must hold
	Quorum          *Quorum
}

// Quorum marks operations on a key that take the approval of several.
type Quorum struct {
	Operations []string `json:"operations"`          // as the audit log names them
	Approvals  int      `json:"approvals"`           // how many it takes
	Approvers  []string `json:"approvers,omitempty"` // principals who may approve; empty: all of the role
	Role       Role     `json:"role,omitempty"`
}

// Covers reports whether the operation takes approvals.
func (q *Quorum) Covers(operation string) bool {
	if q == nil {
		return false
	}
	for _, o := range q.Operations {
		if o == operation {
			return true
		}
	}
	return false
}

// Request is what is asked of Decide. Only what is set is looked at, but for the principal, its expiry and its tenant's status,
// which always are.
type Request struct {
	Principal *Principal
	Now       time.Time

	Door    bool       // the caller has just been authenticated: Address is looked at
	Address netip.Addr // where the caller is; not valid: nobody knows
	Forged  bool       // with Door: a change that a page of others may have made a browser send

	Any     ScopeSet // one of these is needed; empty: none
	All     ScopeSet // and all of these
	Session bool     // only for an owner or admin in person
	Signed  bool     // only in a session, whosesoever
	Opens   bool     // a session is asked for: only with what makes one

	Operation string // as the audit log names it: for limits, grants and quorum
	Uses      bool   // the operation uses key material: grants_only and the key's required context count
	Reads     bool   // the operation only shows: limits to operations don't count
	Grantable bool   // a grant of the operation stands for the scope
	Key       *Key   // nil: none, or not known yet
	Pending   bool   // with Key nil: the key is not known yet; with Key: the contexts are not. What they settle is decided later

	Context map[string]string

	// Of acts that are about no key; see Act.
	Over     ScopeSet
	Free     bool
	Makers   bool
	Whole    bool
	Hidden   fault.Code
	Resource *Resource // nil: there is none, or with Pending it is not known yet

	Guards   bool // the change touches what guards the key: its quorum, if it has one, is asked whatever it names
	Approved bool // an approval of exactly this request is at hand
}

// Decision is what Decide says.
type Decision struct {
	Allowed bool
	Rule    Rule
	Code    fault.Code // of the refusal
	Missing Scope      // with RuleNoScope: the first scope that would have done
	Grant   uuid.UUID  // with RuleGrant: which
	ByItem  bool       // allowed as far as can be said without the contexts: decide again for each
}

// Decide is the one place where it is settled who may do what. It is a pure function: the same request gives the same answer, and nothing
// is looked up. It allocates nothing. Taking a right away never turns a refusal into a permission.
func Decide(r *Request) Decision {
	p := r.Principal
	if p == nil {
		return refused(RuleCredential, fault.Unauthenticated)
	}
	if !p.ExpiresAt.IsZero() && !r.Now.Before(p.ExpiresAt) {
		return refused(RuleExpired, fault.Unauthenticated)
	}
	if p.Suspended {
		return refused(RuleSuspended, fault.TenantSuspended)
	}
	if r.Door && !p.Restrictions.reachesAddress(r.Address) {
		return refused(RuleAddress, fault.Forbidden)
	}
	if r.Door && !p.Security.reachesAddress(r.Address) {
		return refused(RuleOffice, fault.Forbidden)
	}
	if r.Door && r.Forged {
		return refused(RuleForged, fault.Forbidden)
	}
	if r.Session && (p.Kind != KindSession || p.Role != RoleOwner && p.Role != RoleAdmin) {
		return refused(RuleSession, fault.Forbidden)
	}
	if r.Signed && p.Kind != KindSession {
		return refused(RuleUnsigned, fault.Forbidden)
	}
	if r.Opens && p.Kind != KindToken && p.Kind != KindCertificate && p.Kind != KindPeer {
		return refused(RulePerson, fault.Forbidden)
	}
	if r.Whole && p.Restrictions.narrows() {
		return refused(RuleUnfiltered, fault.Forbidden)
	}
	if k := r.Key; k != nil {
		switch {
		case k.Tenant != p.Tenant:
			return refused(RuleTenant, fault.KeyNotFound)
		case !p.Restrictions.reachesKey(&k.ID, k.Name):
			return refused(RuleKeys, fault.Forbidden)
		case !p.Restrictions.reachesLabels(k.Labels):
			return refused(RuleLabels, fault.Forbidden)
		}
	}
	if r.Operation != "" && !r.Reads && !p.Restrictions.reachesOperation(r.Operation) {
		return refused(RuleOperations, fault.Forbidden)
	}
	d := r.right()
	if !d.Allowed {
		return d
	}
	if o := r.Resource; o != nil && o.Principal != p.ID && (o.Beyond || !o.Needs.Within(p.rightSet())) {
		return refused(RuleOwners, fault.Forbidden)
	}
	if k := r.Key; k != nil {
		if r.Uses && len(k.RequiredContext) > 0 {
			if r.Pending {
				d.ByItem = true
			} else if !names(r.Context, k.RequiredContext) {
				return refused(RuleContext, fault.PolicyDenied)
			}
		}
		if k.Quorum.Covers(r.Operation) || r.Guards && k.Quorum != nil {
			if !r.Approved {
				return refused(RuleQuorum, fault.ApprovalRequired)
			}
			d.Rule = RuleApproved
		}
	}
	return d
}

func refused(rule Rule, code fault.Code) Decision { return Decision{Rule: rule, Code: code} }

// right asks for the scope or the grant.
func (r *Request) right() Decision {
	p := r.Principal
	have := p.rightSet()
	oneOf, away := r.oneOf()
	if away != "" && (oneOf == 0 || oneOf&have == 0 && r.Hidden != "") {
		return refused(away, cmp.Or(r.Hidden, fault.KeyNotFound))
	}
	scoped := (oneOf == 0 || oneOf&have != 0) && r.All.Within(have)
	needsGrant := r.Key != nil && r.Key.GrantsOnly && r.Uses
	if scoped && !needsGrant {
		if oneOf == 0 && r.All == 0 {
			return Decision{Allowed: true, Rule: RuleAny}
		}
		return Decision{Allowed: true, Rule: RuleScope}
	}
	if !r.Grantable {
		return r.lacking(scoped, oneOf, have)
	}
	if r.Key == nil {
		if r.Pending && len(p.Grants) > 0 {
			return Decision{Allowed: true, Rule: RuleGrant}
		}
		return r.lacking(scoped, oneOf, have)
	}
	wrongContext := false
	var byItem Decision
	granted := p.Grants[r.Key.ID]
	for i := range granted {
		g := &granted[i]
		if !g.gives(r.Operation, r.Now) {
			continue
		}
		switch {
		case len(g.Context) == 0:
			return Decision{Allowed: true, Rule: RuleGrant, Grant: g.ID}
		case r.Pending:
			byItem = Decision{Allowed: true, Rule: RuleGrant, Grant: g.ID, ByItem: true}
		case holds(r.Context, g.Context):
			return Decision{Allowed: true, Rule: RuleGrant, Grant: g.ID}
		default:
			wrongContext = true
		}
	}
	switch {
	case byItem.Allowed:
		return byItem
	case wrongContext:
		return refused(RuleContext, fault.PolicyDenied)
	}
	return r.lacking(scoped, oneOf, have)
}

// oneOf gives the scopes of which one is needed, by what the act is about. away is by what rule it is out of the caller's reach without them.
func (r *Request) oneOf() (set ScopeSet, away Rule) {
	p, o := r.Principal, r.Resource
	switch {
	case o == nil && r.Pending && r.Free:
		return 0, ""
	case o == nil && r.Pending:
		return r.Any | r.Over, ""
	case o == nil:
		return r.Any, ""
	case r.Free && o.Tenant == p.Tenant && (o.Principal == "" || o.Principal == p.ID):
		return 0, ""
	case o.Deployment:
		return r.Over, RuleTenant
	case o.Tenant != p.Tenant:
		return 0, RuleTenant
	case r.Makers && p.Restrictions.narrowsKeys() && o.Principal != p.ID:
		return 0, RuleKeys
	}
	return r.Any, ""
}

// lacking is the refusal of who has no grant: the scope is missing, or does not suffice.
func (r *Request) lacking(scoped bool, oneOf, have ScopeSet) Decision {
	if scoped {
		return refused(RuleGrantsOnly, fault.Forbidden)
	}
	return Decision{Rule: RuleNoScope, Code: fault.InsufficientScope, Missing: r.missing(oneOf, have)}
}

// missing names a scope that would have helped.
func (r *Request) missing(oneOf, have ScopeSet) Scope {
	lack := r.All &^ have
	if lack == 0 {
		lack = oneOf
	}
	for _, q := range [...]Scope{ScopeKeysRead, ScopeKeysWrite, ScopeEncryptionWrite, ScopePoliciesRead, ScopePoliciesWrite, ScopeAuditRead, ScopeSettingsRead,
		ScopeSettingsWrite, ScopeOwnersWrite, ScopeBackendsRead, ScopeBackendsWrite, ScopeNodesRead, ScopeRootRead, ScopeRootWrite, ScopeTenantsRead,
		ScopeTenantsWrite, ScopeAuditExport, ScopeBackupRead, ScopeBackupWrite} {
		if lack.Has(q) {
			return q
		}
	}
	return ""
}

// names reports whether the context has all names.
func names(context map[string]string, required []string) bool {
	for _, n := range required {
		if _, there := context[n]; !there {
			return false
		}
	}
	return true
}

// holds reports whether the context has all pairs.
func holds(context, required map[string]string) bool {
	for k, v := range required {
		if own, there := context[k]; !there || own != v {
			return false
		}
	}
	return true
}

// Err gives the refusal as the caller sees it; nil for a permission. It says what is missing, and nothing of others' rights.
func (d *Decision) Err() error {
	if d.Allowed {
		return nil
	}
	switch d.Rule {
	case RuleCredential, RuleExpired:
		return errUnauthenticated
	case RuleSuspended:
		return fault.New(fault.TenantSuspended, "the tenant is suspended")
	case RuleTenant:
		switch d.Code {
		case fault.JobNotFound:
			return fault.New(d.Code, "no such job")
		case fault.APIKeyNotFound:
			return fault.New(d.Code, "no such API key")
		case fault.TenantNotFound:
			return fault.New(d.Code, "no such tenant")
		}
		return fault.New(fault.KeyNotFound, "no such key in this tenant")
	case RuleUnfiltered:
		return fault.New(fault.Forbidden, "the credential is limited to some keys or operations, and this cannot be shown or done in part")
	case RuleOwners:
		return fault.New(fault.Forbidden, "a credential is renewed by one that has all its rights, an API key one that ends no later than itself, and an owner's is ended by owners")
	case RuleUnknown:
		return fault.New(fault.Internal, "there is no such act")
	case RuleSession:
		return fault.New(fault.Forbidden, "an owner or admin may do this in person, in a session: no API key may")
	case RuleUnsigned:
		return fault.New(fault.Forbidden, "this is for sessions, and the request has none")
	case RulePerson:
		return fault.New(fault.Forbidden, "a session is made of a token, a client certificate or the user of a Unix socket: an API key makes none, nor does a session")
	case RuleForged:
		return fault.New(fault.Forbidden, "a change in a session needs its X-CSRF-Token")
	case RuleNoScope:
		if d.Missing == "" {
			return errScope
		}
		return fault.New(fault.InsufficientScope, "the credential lacks the scope "+string(d.Missing))
	case RuleGrantsOnly:
		return fault.New(fault.Forbidden, "the key is used by those with a grant on it")
	case RuleContext:
		return fault.New(fault.PolicyDenied, "the policy of the key requires a context that is not there")
	case RuleQuorum:
		return fault.New(fault.ApprovalRequired, "this takes the approval of others: request it, and send its id in X-Approval")
	}
	return fault.New(d.Code, "the credential may not be used for this ("+string(d.Rule)+")")
}

// Explain says in a sentence what the rule means, for people.
func (r Rule) Explain() string {
	switch r {
	case RuleCredential:
		return "There is no credential."
	case RuleExpired:
		return "The credential's time is over."
	case RuleSuspended:
		return "The tenant is suspended."
	case RuleAddress:
		return "The credential may not be used from this address."
	case RuleOffice:
		return "No credential of the tenant may be used from this address."
	case RuleForged:
		return "A change in a session needs its X-CSRF-Token."
	case RuleTenant:
		return "There is no such thing in the tenant."
	case RuleSession:
		return "Only an owner or admin in a session may do this."
	case RuleKeys:
		return "The credential is limited to other keys."
	case RuleLabels:
		return "The credential is limited to keys with other labels."
	case RuleOperations:
		return "The credential is limited to other operations."
	case RuleNoScope:
		return "The credential has neither the scope nor a grant."
	case RuleGrantsOnly:
		return "The key asks for a grant, and the credential has none for this operation."
	case RuleContext:
		return "The context lacks what the key or the grant requires."
	case RuleQuorum:
		return "The operation takes approvals that are not at hand."
	case RuleOwners:
		return "A credential is renewed by those who have all its rights (by an API key only what ends no later than itself), and an owner's is ended by owners."
	case RuleUnfiltered:
		return "The credential is limited to some keys or operations, and this cannot be shown or done in part."
	case RuleUnknown:
		return "There is no such act."
	case RuleUnsigned:
		return "This is for sessions."
	case RulePerson:
		return "A credential of this kind makes no session."
	case RuleAny:
		return "Every credential may do this."
	case RuleScope:
		return "A scope of the credential allows it."
	case RuleGrant:
		return "A grant on the key allows it."
	case RuleApproved:
		return "The quorum has approved it."
	}
	return ""
}
