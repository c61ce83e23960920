package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cursor"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

// Actions of this package in the audit log.
const (
	ActionCreate = "api-key.create"
	ActionRotate = "api-key.rotate"
	ActionRevoke = "api-key.revoke"
)

// MaxName bounds the name of an API key, in bytes of printable UTF-8.
const MaxName = 128

// CreateRequest asks for an API key.
type CreateRequest struct {
	Name         string
	Role         Role         // none, or one whose scopes are all the creator's
	Scopes       []Scope      // beside those of the role, all of them the creator's own; at least one without a role
	Restrictions Restrictions // the creator's are laid over them
	ExpiresAt    time.Time    // zero: never, or when the creator's does
	Brand        string       // "": DefaultBrand
}

// CreateAPIKey makes a key in the creator's tenant and gives its record and, this once, the key itself. It needs scope
// settings:write. Errors: fault.BadName, BadField, Forbidden (more than the creator has), QuotaExceeded, IdempotencyConflict.
// The same token with the same request gives the same key again for idempotency.TTL. Allowed or denied, it is recorded.
func (s *Service) CreateAPIKey(ctx context.Context, creator *Principal, r CreateRequest, requestID string, t idempotency.Token) (*APIKey, string, error) {
	if creator == nil {
		return nil, "", errUnauthenticated
	}
	start := time.Now()
	k, presented, err := s.create(ctx, creator, r, requestID, t, start)
	if err != nil {
		return nil, "", s.denied(ctx, start, &audit.Entry{Tenant: creator.Tenant, Principal: creator.ID, Action: ActionCreate, RequestID: requestID}, err)
	}
	return k, presented, nil
}

func (s *Service) create(ctx context.Context, creator *Principal, r CreateRequest, requestID string, t idempotency.Token, start time.Time) (*APIKey, string, error) {
	if err := s.decide(creator, ActionCreate, &Resource{Tenant: creator.Tenant}); err != nil {
		return nil, "", err
	}
	k, err := s.check(creator, r)
	if err != nil {
		return nil, "", err
	}
	for try := 0; ; try++ {
		made, presented, err := s.replay(ctx, creator, t, ActionCreate, requestID, start)
		if made != nil || err != nil {
			return made, presented, err
		}
		presented, changes, err := s.prepare(k, t)
		if err != nil {
			return nil, "", err
		}
		err = s.record(ctx, start, &audit.Entry{Tenant: k.Tenant, Principal: creator.ID, Action: ActionCreate,
			Resource: k.PrincipalID(), RequestID: requestID}, nil, changes...)
		if fault.Has(err, fault.Conflict) && try == 0 {
			continue // somebody with the same token was faster, or the prefix is taken: both end with a second look
		}
		if err != nil {
			return nil, "", err
		}
		return k, presented, nil
	}
}

// check makes the record of a request, all but the secret.
func (s *Service) check(creator *Principal, r CreateRequest) (*APIKey, error) {
	if err := checkName(r.Name); err != nil {
		return nil, err
	}
	if r.Brand == "" {
		r.Brand = DefaultBrand
	}
	if !knownBrand(r.Brand) {
		return nil, fault.New(fault.BadField, "the brand is one of "+strings.Join(Brands(), ", "))
	}
	if !r.Role.valid() {
		return nil, fault.New(fault.BadField, "the role is unknown")
	}
	if len(r.Scopes) == 0 && r.Role == RoleNone {
		return nil, fault.New(fault.MissingField, "an API key needs a role or at least one scope")
	}
	for i, q := range r.Scopes {
		if _, known := q.bit(); !known || slices.Contains(r.Scopes[:i], q) {
			return nil, fault.New(fault.BadField, "a scope is unknown or named twice")
		}
	}
	k := &APIKey{Tenant: creator.Tenant, Name: r.Name, Brand: r.Brand, Role: r.Role, CreatedBy: creator.ID, Makers: []string{creator.ID}}
	k.Scopes = SetOf(r.Scopes...).List()
	if !k.within(creator) {
		return nil, fault.New(fault.Forbidden, "an API key cannot have a scope that its creator lacks")
	}
	if err := r.Restrictions.check(); err != nil {
		return nil, err
	}
	limits, err := r.Restrictions.inherit(creator.Restrictions)
	if err != nil {
		return nil, err
	}
	k.Restrictions = *limits
	now := s.now().UTC().Truncate(time.Microsecond) // what every store keeps
	if !r.ExpiresAt.IsZero() && (!r.ExpiresAt.After(now) || r.ExpiresAt.After(LatestDate())) {
		return nil, fault.New(fault.BadField, "the expiry of an API key lies in the future, before the year 10000")
	}
	k.CreatedAt = now
	if !r.ExpiresAt.IsZero() {
		k.ExpiresAt = r.ExpiresAt.UTC().Truncate(time.Microsecond)
	}
	if e := creator.ExpiresAt; !e.IsZero() && (k.ExpiresAt.IsZero() || k.ExpiresAt.After(e)) {
		k.ExpiresAt = e
	}
	if err := creator.Security.expiry(now, k.ExpiresAt); err != nil {
		return nil, err
	}
	return k, nil
}

// within reports whether the principal has all rights that the key has.
func (k *APIKey) within(p *Principal) bool {
	return k.reaches().Within(p.rightSet())
}

// reaches is all that the key may do, coarse scopes taken apart.
func (k *APIKey) reaches() ScopeSet { return rights(k.Effective()) &^ SetOf(ScopeRead, ScopeWrite) }

func checkName(name string) error {
	bad := fault.New(fault.BadName, fmt.Sprintf("the name of an API key has 1 to %d bytes of printable text", MaxName))
	if name == "" || len(name) > MaxName || !utf8.ValidString(name) || strings.TrimSpace(name) != name {
		return bad
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return bad
		}
	}
	return nil
}

// prepare gives k an identity and a secret, and the changes that store it.
func (s *Service) prepare(k *APIKey, t idempotency.Token) (presented string, changes []audit.Change, err error) {
	if k.ID, err = uuid.NewV7(); err != nil {
		return "", nil, fmt.Errorf("making an id: %w", err)
	}
	k.Prefix, presented = newToken(k.Brand)
	if k.MAC, err = s.pepper.mac(s.derive, presented); err != nil {
		return "", nil, err
	}
	changes = append(changes, s.store.InsertAPIKey(k))
	return s.memorable(k, presented, changes, t)
}

// memorable adds the record by which the same call is answered again, if the call can be repeated.
func (s *Service) memorable(k *APIKey, presented string, changes []audit.Change, t idempotency.Token) (string, []audit.Change, error) {
	if t.Key != "" {
		r, err := s.remember(k, presented, t)
		if err != nil {
			return "", nil, err
		}
		changes = append(changes, s.idem.InsertIdempotency(r))
	}
	return presented, changes, nil
}

// RevokeAPIKey ends a key of the caller's tenant: at once on this node, within Recheck on others. It needs scope
// settings:write. A second revocation changes nothing and is no error. fault.APIKeyNotFound. Allowed or denied, it is
// recorded.
func (s *Service) RevokeAPIKey(ctx context.Context, caller *Principal, id uuid.UUID, requestID string) error {
	if caller == nil {
		return errUnauthenticated
	}
	start := time.Now()
	e := audit.Entry{Tenant: caller.Tenant, Principal: caller.ID, Action: ActionRevoke, Resource: "api-key:" + id.String(), RequestID: requestID}
	err := s.decide(caller, ActionRevoke, nil)
	if err == nil {
		err = s.mayEnd(ctx, caller, id)
	}
	if err == nil {
		ok := e
		err = s.record(ctx, start, &ok, nil, s.store.RevokeAPIKey(caller.Tenant, id, s.now().UTC().Truncate(time.Microsecond)))
		// Also after an error: the record may have become durable although nobody can say so.
		s.cache.revoke(id)
	}
	if err != nil {
		return s.denied(ctx, start, &e, err)
	}
	return nil
}

// mayEnd looks whether the caller may end a key: one that can make owners, or its own, is not for everybody to end.
func (s *Service) mayEnd(ctx context.Context, caller *Principal, id uuid.UUID) error {
	k, err := s.store.APIKey(ctx, caller.Tenant, id)
	if err != nil {
		return err
	}
	return s.decide(caller, ActionRevoke, k.toEnd())
}

// AboutAPIKey gives a key as what the principal does the act to, for dry runs.
func (s *Service) AboutAPIKey(ctx context.Context, k *APIKey, action string, p *Principal) (*Resource, error) {
	switch action {
	case ActionRotate:
		return s.toRenew(ctx, k, p)
	case ActionRevoke:
		return k.toEnd(), nil
	}
	return &Resource{Tenant: k.Tenant}, nil
}

// toEnd is the key as what is ended.
func (k *APIKey) toEnd() *Resource {
	return &Resource{Tenant: k.Tenant, Principal: k.PrincipalID(), Needs: SetOf(k.Effective()...) & SetOf(ScopeOwnersWrite)}
}

// toRenew is the key as what is given a new secret by the principal: who sees that can use it, and what is granted to it.
func (s *Service) toRenew(ctx context.Context, k *APIKey, p *Principal) (*Resource, error) {
	on := &Resource{Tenant: k.Tenant, Principal: k.PrincipalID(), Needs: k.reaches(), Beyond: !k.reachedBy(p) || k.outlives(p)}
	if on.Principal == p.ID {
		return on, nil
	}
	granted, err := s.store.GrantsOf(ctx, k.Tenant, on.Principal)
	if err != nil {
		return nil, fmt.Errorf("reading grants: %w", err)
	}
	for _, g := range granted {
		if g.ExpiresAt.IsZero() || s.now().Before(g.ExpiresAt) {
			on.Needs |= SetOf(ScopePoliciesWrite) // by which the principal could grant it to itself
		}
	}
	return on, nil
}

// APIKey gives a record of the caller's tenant. It needs scope settings:read or settings:write. fault.APIKeyNotFound.
func (s *Service) APIKey(ctx context.Context, caller *Principal, id uuid.UUID) (*APIKey, error) {
	if err := s.reads(caller, "api-key.get"); err != nil {
		return nil, err
	}
	return s.store.APIKey(ctx, caller.Tenant, id)
}

// APIKeys lists the records of the caller's tenant by id, which is the order of their creation, 1 to 1000 a page (0: 100).
// next is "" on the last page. It needs scope settings:read or settings:write. fault.BadCursor, fault.BadQuery.
func (s *Service) APIKeys(ctx context.Context, caller *Principal, from string, limit int) (page []*APIKey, next string, err error) {
	if err := s.reads(caller, "api-key.list"); err != nil {
		return nil, "", err
	}
	after, limit, err := pageOf(from, limit)
	if err != nil {
		return nil, "", err
	}
	page, err = s.store.APIKeys(ctx, caller.Tenant, after, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("listing API keys: %w", err)
	}
	if len(page) > limit {
		page = page[:limit]
		next = cursor.Behind(page[limit-1].ID)
	}
	return page, next, nil
}

// reads is the right to look at API keys.
func (s *Service) reads(caller *Principal, action string) error {
	return unwrapped(s.decide(caller, action, nil)) // what is read is the caller's tenant's
}

// pageOf reads the cursor and the limit of a list by id.
func pageOf(from string, limit int) (after uuid.UUID, n int, err error) {
	if limit == 0 {
		limit = 100
	}
	if limit < 1 || limit > 1000 {
		return after, 0, fault.New(fault.BadQuery, "the limit is 1 to 1000")
	}
	after, err = cursor.Parse(from)
	return after, limit, err
}
