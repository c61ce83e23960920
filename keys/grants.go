package keys

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cursor"
	"github.com/keywright/keywright/fault"
)

// GrantRequest gives one principal named operations on one key. ID is the caller's choice: the same id again replaces the grant.
type GrantRequest struct {
	ID         uuid.UUID
	Principal  string // as auth.PrincipalID reads it; an API key is one of the tenant
	Operations []string
	Context    map[string]string // pairs that the caller's context must hold
	ExpiresAt  time.Time         // zero: never
}

// maxGrantOperations bounds the operations of a grant and of a quorum.
const maxGrantOperations = 32

// Grants lists the grants on a key by id, 1 to 1000 a page (0: 100), and gives the cursor of the next page: "" after the last.
func (s *Service) Grants(ctx context.Context, c Caller, key, from string, limit int) ([]*auth.Grant, string, error) {
	type page struct {
		grants []*auth.Grant
		next   string
	}
	p, err := pipeline(ctx, s, c, verbGrants, func(ctx context.Context, q *request) (page, error) {
		after, limit, err := idPage(from, limit)
		if err != nil {
			return page{}, err
		}
		r, err := q.find(ctx, key)
		if err != nil {
			return page{}, err
		}
		found, err := s.store.Grants(ctx, q.tenant(), r.key.ID, after, limit+1)
		if err != nil {
			return page{}, err
		}
		if len(found) <= limit {
			return page{found, ""}, nil
		}
		return page{found[:limit], cursor.Behind(found[limit-1].ID)}, nil
	}, nil)
	return p.grants, p.next, err
}

// Grant shows a grant. fault.GrantNotFound.
func (s *Service) Grant(ctx context.Context, c Caller, key string, id uuid.UUID) (*auth.Grant, error) {
	return pipeline(ctx, s, c, verbGrants, func(ctx context.Context, q *request) (*auth.Grant, error) {
		r, err := q.find(ctx, key)
		if err != nil {
			return nil, err
		}
		return s.store.Grant(ctx, q.tenant(), r.key.ID, id)
	}, nil)
}

// PutGrant gives or replaces a grant. Errors: fault.BadField, BadSize, APIKeyNotFound, QuotaExceeded, Conflict (the id is another key's or
// another principal's grant).
func (s *Service) PutGrant(ctx context.Context, c Caller, key string, r GrantRequest) (*auth.Grant, error) {
	return pipeline(ctx, s, c, verbPutGrant, func(ctx context.Context, q *request) (*auth.Grant, error) {
		k, err := q.own(ctx, key)
		if err != nil {
			return nil, err
		}
		now := s.stamp()
		if err := r.check(now); err != nil {
			return nil, err
		}
		principal, err := auth.PrincipalID(r.Principal)
		if err != nil {
			return nil, err
		}
		g := &auth.Grant{ID: r.ID, Tenant: k.Tenant, Key: k.ID, Principal: principal, Operations: r.Operations, Context: r.Context, CreatedAt: now,
			CreatedBy: c.Principal.ID}
		if r.Principal != principal {
			g.Named = r.Principal
		}
		if !r.ExpiresAt.IsZero() {
			g.ExpiresAt = r.ExpiresAt.UTC().Truncate(time.Microsecond)
		}
		q.entry.Resource = "grant:" + g.ID.String()
		q.entry.Detail = g.Principal + " " + strings.Join(g.Operations, " ")
		q.final = true
		q.change(k.ID, s.store.PutGrant(g))
		q.regrant = g.Principal
		return g, nil
	}, nil)
}

// DeleteGrant takes a grant back: at once on this node, within a second on others. fault.GrantNotFound.
func (s *Service) DeleteGrant(ctx context.Context, c Caller, key string, id uuid.UUID) (*auth.Grant, error) {
	return pipeline(ctx, s, c, verbDeleteGrant, func(ctx context.Context, q *request) (*auth.Grant, error) {
		k, err := q.own(ctx, key)
		if err != nil {
			return nil, err
		}
		q.entry.Resource = "grant:" + id.String()
		g, err := s.store.Grant(ctx, q.tenant(), k.ID, id)
		if err != nil {
			return nil, err
		}
		q.entry.Detail = g.Principal
		q.change(k.ID, s.store.DeleteGrant(g))
		q.regrant = g.Principal
		return g, nil
	}, nil)
}

func (r *GrantRequest) check(now time.Time) error {
	if r.ID == uuid.Nil {
		return fault.New(fault.MissingField, "a grant has an id of the caller's choice")
	}
	if err := checkOperations(r.Operations, grantable); err != nil {
		return err
	}
	if len(r.Context) > auth.MaxGrantContext {
		return fault.New(fault.BadSize, fmt.Sprintf("a grant requires at most %d pairs of context", auth.MaxGrantContext))
	}
	for name, value := range r.Context {
		if err := checkLabel(name, value); err != nil {
			return err
		}
	}
	if !r.ExpiresAt.IsZero() && (!r.ExpiresAt.After(now) || r.ExpiresAt.After(auth.LatestDate())) {
		return fault.New(fault.BadField, "the expiry of a grant lies in the future, before the year 10000")
	}
	return nil
}

// checkOperations looks whether a list names operations that may stand in it, once each.
func checkOperations(names []string, may func(verb) bool) error {
	if len(names) == 0 || len(names) > maxGrantOperations {
		return fault.New(fault.BadSize, fmt.Sprintf("1 to %d operations are named", maxGrantOperations))
	}
	for i, name := range names {
		v, known := verbNamed(name)
		if !known || !may(v) || slices.Contains(names[:i], name) {
			return fault.New(fault.BadField, "an operation is unknown, is not one that can be named here, or is named twice")
		}
	}
	return nil
}

// verbNamed finds what the audit log calls so.
func verbNamed(name string) (verb, bool) {
	for v := range verbCount {
		if actions[v].name == name {
			return v, true
		}
	}
	return 0, false
}

func grantable(v verb) bool { return v.grantable() }

// GrantableOperations lists what grants can give.
func GrantableOperations() []string { return namesOf(grantable) }

// QuorumOperations lists what a quorum can be asked for.
func QuorumOperations() []string { return namesOf(guarded) }

func namesOf(of func(verb) bool) (names []string) {
	for v := range verbCount {
		if of(v) {
			names = append(names, actions[v].name)
		}
	}
	return names
}

// idPage reads cursor and limit of a list by id.
func idPage(from string, limit int) (after uuid.UUID, n int, err error) {
	if limit == 0 {
		limit = defaultPage
	}
	if limit < 1 || limit > maxPage {
		return after, 0, fault.New(fault.BadField, "the limit is 1 to 1000")
	}
	after, err = cursor.Parse(from)
	return after, limit, err
}

// printableText reports whether a text for people has at most so many bytes of printable UTF-8.
func printableText(s string, limit int) bool {
	if len(s) > limit || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
