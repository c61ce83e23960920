package keys

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

const (
	defaultPage = 100
	maxPage     = 1000
)

// Get gives a key by its id or name.
func (s *Service) Get(ctx context.Context, c Caller, key string) (*Key, error) {
	return pipeline(ctx, s, c, verbGet, func(ctx context.Context, q *request) (*Key, error) {
		r, err := q.find(ctx, key)
		if err != nil {
			return nil, err
		}
		return r.key.shown(s.now()), nil
	}, nil)
}

// List gives a page of the tenant's keys by name, and the cursor of the next one: "" after the last.
func (s *Service) List(ctx context.Context, c Caller, r ListRequest) ([]*Key, string, error) {
	type page struct {
		keys []*Key
		next string
	}
	p, err := pipeline(ctx, s, c, verbList, func(ctx context.Context, q *request) (page, error) {
		limit := r.Limit
		if limit == 0 {
			limit = defaultPage
		}
		if limit < 1 || limit > maxPage {
			return page{}, fault.New(fault.BadField, "the limit is 1 to 1000")
		}
		after, err := parseCursor(r.Cursor)
		if err != nil {
			return page{}, err
		}
		f := r.Filter
		if f.Algorithm != "" {
			if _, ok := backend.Lookup(f.Algorithm); !ok {
				return page{}, fault.New(fault.BadAlgorithm, "the algorithm is unknown")
			}
		}
		if f.State == StateCreating {
			f.State = StatePreActive // as which it is shown
		}
		if f.State != "" && ruleOf(f.State).unknown() {
			return page{}, fault.New(fault.BadField, "the state is unknown")
		}
		found, err := q.list(ctx, f, after, limit+1)
		if err != nil {
			return page{}, err
		}
		next := ""
		if len(found) > limit {
			found = found[:limit]
			next = makeCursor(found[limit-1].after())
		}
		now := s.now()
		for i, k := range found {
			found[i] = k.shown(now)
		}
		return page{found, next}, nil
	}, nil)
	return p.keys, p.next, err
}

// after is where a list goes on behind the key.
func (k *Key) after() string { return k.Name + "\x00" + string(k.ID[:]) }

// list gives the first keys that the filter selects and the caller is told of: a page that ended at another would tell of that one.
func (q *request) list(ctx context.Context, f Filter, after string, limit int) (shown []*Key, err error) {
	names, prefixes, size := []string(nil), []string{f.NamePrefix}, limit
	if limits := q.caller.Principal.Restrictions; limits != nil && len(limits.Keys) > 0 {
		if names, err = q.reachable(ctx, limits.Keys); err != nil {
			return nil, err
		}
		prefixes, size = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, f.NamePrefix) }), 2
	} else if limits != nil && len(limits.Labels) > 0 {
		size = maxPage
		for name, value := range limits.Labels {
			if f.Label == "" {
				f.Label = name + "=" + value // the store leaves out most of the others
			}
		}
	}
	for _, f.NamePrefix = range prefixes {
		for more := true; more; {
			found, err := q.s.keysAfter(ctx, q.tenant(), f, after, size)
			if err != nil {
				return nil, err
			}
			more = len(found) == size
			for _, k := range found {
				if names != nil && k.Name != f.NamePrefix { // a name comes before those that it begins
					more = false
					break
				}
				if after = k.after(); !q.visible(k) {
					continue
				}
				if shown = append(shown, k); len(shown) == limit {
					return shown, nil
				}
			}
		}
	}
	return shown, nil
}

// reachable gives the names of the keys that a credential is limited to, by name or id, in the order of lists, those of keys that are not there among them.
func (q *request) reachable(ctx context.Context, limits []string) ([]string, error) {
	names := make([]string, 0, len(limits))
	for _, name := range limits {
		if id, ok := idForm(name); ok {
			r, err := q.s.recordByID(ctx, q.tenant(), id)
			if fault.Has(err, fault.KeyNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			name = r.key.Name
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// keysAfter lists keys of the store; those in creation among those that are pre-active.
func (s *Service) keysAfter(ctx context.Context, tenant uuid.UUID, f Filter, after string, limit int) ([]*Key, error) {
	found, err := s.store.Keys(ctx, tenant, f, after, limit)
	if err != nil || f.State != StatePreActive {
		return found, err
	}
	f.State = StateCreating
	creating, err := s.store.Keys(ctx, tenant, f, after, limit)
	if err != nil {
		return nil, err
	}
	found = append(found, creating...)
	slices.SortFunc(found, func(a, b *Key) int { return strings.Compare(a.Name, b.Name) }) // bytewise, as the store; no two have one name
	return found[:min(len(found), limit)], nil
}

// cursorForm begins every cursor, so that its form can change.
const cursorForm = "k1"

func makeCursor(after string) string {
	return cursorForm + base64.RawURLEncoding.EncodeToString([]byte(after))
}

// parseCursor takes what makeCursor made: a name, a NUL and the 16 bytes of an id (names of destroyed keys repeat).
func parseCursor(c string) (after string, err error) {
	if c == "" {
		return "", nil
	}
	bad := fault.New(fault.BadCursor, "the cursor was not made by this list")
	if len(c) > len(cursorForm)+4*(MaxName+17) || len(c) <= len(cursorForm) || c[:len(cursorForm)] != cursorForm {
		return "", bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(c[len(cursorForm):])
	if err != nil || len(b) < 18 || b[len(b)-17] != 0 {
		return "", bad
	}
	if name := string(b[:len(b)-17]); !utf8.ValidString(name) || CheckName(name) != nil || makeCursor(string(b)) != c { // the decoder passes over line ends
		return "", bad
	}
	return string(b), nil
}

// Versions gives up to limit versions (1 to 1000; 0: 100) by number, from number from on.
func (s *Service) Versions(ctx context.Context, c Caller, key string, from uint32, limit int) ([]*Version, error) {
	return pipeline(ctx, s, c, verbVersions, func(ctx context.Context, q *request) ([]*Version, error) {
		if limit == 0 {
			limit = defaultPage
		}
		if limit < 1 || limit > maxPage {
			return nil, fault.New(fault.BadField, "the limit is 1 to 1000")
		}
		r, err := q.find(ctx, key)
		if err != nil {
			return nil, err
		}
		found, err := s.store.Versions(ctx, r.key.ID, from, limit)
		if err != nil {
			return nil, err
		}
		now := s.now()
		for i, v := range found {
			found[i] = v.shown(r.key, now)
		}
		return found, nil
	}, nil)
}

// Version gives one version; 0 is the primary one.
func (s *Service) Version(ctx context.Context, c Caller, key string, version uint32) (*Version, error) {
	return pipeline(ctx, s, c, verbVersions, func(ctx context.Context, q *request) (*Version, error) {
		r, err := q.find(ctx, key)
		if err != nil {
			return nil, err
		}
		q.entry.Key = r.key.ID
		v, err := s.version(ctx, r, version)
		if err != nil {
			return nil, err
		}
		return v.Version.shown(r.key, s.now()), nil
	}, nil)
}

// shown is the version as callers see it: in the state that counts, and without its sealed material.
func (v *Version) shown(k *Key, now time.Time) *Version {
	out := *v
	out.Blob = nil
	if info, ok := backend.Lookup(k.Algorithm); ok {
		out.MaxMessages, out.MaxBytes = info.MaxMessages, info.MaxBytes
	}
	if out.State = k.stateAt(v.State, now); out.State == StateCreating {
		out.State = StatePreActive
	}
	return &out
}

// unknown reports whether the rule is of no state of the table.
func (r rule) unknown() bool {
	for _, known := range lifecycle() {
		if known.state == r.state {
			return false
		}
	}
	return true
}
