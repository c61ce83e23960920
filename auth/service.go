package auth

import (
	"sync"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/secret"
)

// Labels of the keys that this package derives from the root.
const (
	LabelPepper      = "keywright/v1/api-key-pepper"
	LabelIdempotency = "keywright/v1/idempotency"
	LabelSessions    = "keywright/v1/session-pepper"
	LabelLogin       = "keywright/v1/session-login"
)

// Recheck is the longest time for which a cached key is accepted without looking into the store: so long can a key that
// another node revoked still work here. A key revoked on this node stops at once.
const Recheck = time.Second

// softRecheck is when one of the callers of a busy key goes and looks, while the others are still answered from the cache.
const softRecheck = Recheck / 2

// DefaultCacheSize is the number of API keys whose owners are remembered.
const DefaultCacheSize = 16384

// Options of a Service. Derive is required, and Idempotency for creating calls that carry a token.
type Options struct {
	Derive func(label string) (secret.Bytes, error) // root.Keeper.Derive
	// DeriveAt and Generation are those of a root that can be replaced (root.Keeper); without them answers to an Idempotency-Key are under Derive's key for ever.
	DeriveAt    func(label string, generation uint32) (secret.Bytes, error)
	Generation  func() (uint32, error)
	Idempotency idempotency.Store
	Now         func() time.Time // time.Now when nil
	CacheSize   int              // API keys; DefaultCacheSize when 0
	// Fresh reports whether every revocation on other nodes that is older than a second has been told to Heard: then a cached key is
	// accepted without a look into the store, and else never. Nil: cached keys are looked up again after Recheck.
	Fresh func() bool
	// Plan reports whether there is a plan of rates of the name. Nil: there are none.
	Plan func(name string) bool
	// Certificates and Peers say who may call without an API key; the first rule that matches is taken. Each has passed its Check.
	Certificates []CertificateRule
	Peers        []PeerRule
	// Tokens checks those of other issuers. Nil: there are none.
	Tokens TokenVerifier
	// Sessions bounds sessions.
	Sessions SessionRules
	// SignIn sends people with a browser to other issuers. Nil: there are none.
	SignIn SignIn
}

// Service authenticates callers and keeps their API keys. It is safe for concurrent use, starts no goroutines and needs no
// closing.
type Service struct {
	store    Store
	recorder audit.Recorder
	idem     idempotency.Store
	derive   func(label string) (secret.Bytes, error)
	deriveAt func(label string, generation uint32) (secret.Bytes, error)
	newest   func() (uint32, error)
	now      func() time.Time
	fresh    func() bool
	plans    func(string) bool

	certificates []CertificateRule
	peers        []PeerRule
	tokens       TokenVerifier
	tenantIDs    sync.Map // of the tenants that rules name: uuid.UUID by name, as it was last seen

	pepper        pepper // of API keys
	sessionPepper pepper
	sessions      SessionRules
	signIn        SignIn

	cache *cache
}

// New makes a Service.
func New(store Store, recorder audit.Recorder, o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CacheSize <= 0 {
		o.CacheSize = DefaultCacheSize
	}
	if o.DeriveAt == nil {
		o.DeriveAt = func(label string, _ uint32) (secret.Bytes, error) { return o.Derive(label) }
	}
	if o.Generation == nil {
		o.Generation = func() (uint32, error) { return 1, nil }
	}
	return &Service{store: store, recorder: recorder, idem: o.Idempotency, derive: o.Derive, deriveAt: o.DeriveAt, newest: o.Generation, now: o.Now, fresh: o.Fresh, plans: o.Plan, certificates: o.Certificates, peers: o.Peers, tokens: o.Tokens, cache: newCache(o.CacheSize),
		pepper: pepper{label: LabelPepper}, sessionPepper: pepper{label: LabelSessions}, sessions: o.Sessions.withDefaults(), signIn: o.SignIn}
}

var (
	errUnauthenticated = fault.New(fault.Unauthenticated, "the credential is missing, malformed, unknown, expired or revoked")
	errScope           = fault.New(fault.InsufficientScope, "the credential lacks the scope that this needs")
)

// decide asks the decision function about an act of this package, by what it is about; nil: that is not known yet.
func (s *Service) decide(p *Principal, action string, on *Resource) error {
	d := DecideAct(p, s.now(), action, on)
	if d.Allowed {
		return nil
	}
	return &refusal{error: d.Err(), rule: d.Rule}
}

// refusal is a refusal of Decide on its way to the audit log, which names the rule.
type refusal struct {
	error
	rule Rule
}

func (r *refusal) Unwrap() error { return r.error }
