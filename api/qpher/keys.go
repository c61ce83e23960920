package qpher

import (
	"context"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/pqc"
)

// Statuses of a key version.
const (
	statusActive   = "active"   // everything
	statusRetired  = "retired"  // decrypt, decapsulate, unwrap, verify
	statusArchived = "archived" // nothing
)

func statuses() []string { return []string{statusActive, statusRetired, statusArchived} }

// statusOf says by what a version in the state may do what Qpher calls it.
func statusOf(s keys.State) string {
	switch s {
	case keys.StateActive:
		return statusActive
	case keys.StateDeactivated, keys.StateCompromised:
		return statusRetired
	}
	return statusArchived
}

// timeForm is RFC 3339 with milliseconds; times are in UTC.
const timeForm = "2006-01-02T15:04:05.000Z07:00"

// page is how many versions are read at once.
const page = 1000

// Params gives path and query parameters by name, "" for those that are absent.
type Params func(name string) string

// Generate is POST /kms/keys/generate: the first version of the algorithm's key, or the next one while none is active.
func (q *API) Generate(ctx context.Context, c keys.Caller, r *Generate) (Key, error) {
	a, err := required(r.Algorithm)
	if err != nil {
		return Key{}, err
	}
	var k *keys.Key
	if err = q.looks(ctx, c, a); err == nil {
		k, _, err = q.keys.RotateRetiring(ctx, c, keys.RotateRequest{Key: a.key, Algorithm: a.native})
	}
	if fault.Has(err, fault.KeyNotFound) {
		// Of two who come here at once one finds the name taken. So does whoever has a key of another algorithm by that name.
		k, err = q.keys.Create(ctx, c, keys.CreateRequest{Name: a.key, Algorithm: a.native})
	}
	if err != nil {
		return Key{}, err
	}
	return q.version(ctx, c, a, k.PrimaryVersion)
}

// looks asks before a version is made whether the caller may be shown it, as the answer does: what is refused must not have been done.
func (q *API) looks(ctx context.Context, c keys.Caller, a algorithm) error {
	_, err := q.keys.Version(ctx, c, a.key, 0)
	if fault.Has(err, fault.BadState) { // there is none yet
		return nil
	}
	return err
}

// Rotate is POST /kms/keys/rotate.
func (q *API) Rotate(ctx context.Context, c keys.Caller, r *Generate) (Rotated, error) {
	a, err := required(r.Algorithm)
	if err != nil {
		return Rotated{}, err
	}
	if err := q.looks(ctx, c, a); err != nil {
		return Rotated{}, err
	}
	k, old, err := q.keys.RotateRetiring(ctx, c, keys.RotateRequest{Key: a.key, Algorithm: a.native, Active: true})
	if err != nil {
		return Rotated{}, err
	}
	v, err := q.version(ctx, c, a, k.PrimaryVersion)
	return Rotated{KeyVersion: v.KeyVersion, Algorithm: v.Algorithm, PublicKey: v.PublicKey, OldKeyVersion: int64(old)}, err
}

// Retire is POST /kms/keys/retire. A version that is retired already is answered for as it is.
func (q *API) Retire(ctx context.Context, c keys.Caller, r *Retire) (Key, error) {
	a, err := required(r.Algorithm)
	if err != nil {
		return Key{}, err
	}
	t, err := a.target(r.KeyVersion)
	if err != nil {
		return Key{}, err
	}
	v, err := q.keys.Retire(ctx, c, t)
	if err != nil {
		return Key{}, err
	}
	return a.shown(v)
}

// Active is GET /kms/keys/active.
func (q *API) Active(ctx context.Context, c keys.Caller, p Params) (Key, error) {
	a, err := ofQuery(p)
	if err != nil {
		return Key{}, err
	}
	v, err := q.version(ctx, c, a, 0)
	if err == nil && v.Status != statusActive {
		return Key{}, fault.New(fault.VersionNotFound, "the key has no active version")
	}
	return v, err
}

// Get is GET /kms/keys/{key_version}.
func (q *API) Get(ctx context.Context, c keys.Caller, p Params) (Key, error) {
	n, err := strconv.ParseInt(p("n"), 10, 64)
	if err != nil || n < 1 {
		return Key{}, fault.New(fault.BadQuery, "a key version is a whole number from 1")
	}
	a, err := ofQuery(p)
	if err != nil {
		return Key{}, err
	}
	if n > math.MaxUint32 {
		return Key{}, noSuchVersion()
	}
	return q.version(ctx, c, a, uint32(n))
}

// List is GET /kms/keys: by algorithm, then by number.
func (q *API) List(ctx context.Context, c keys.Caller, p Params) (KeyList, error) {
	out := KeyList{Keys: []Key{}}
	var only algorithm
	if p("algorithm") != "" {
		var err error
		if only, err = ofQuery(p); err != nil {
			return out, err
		}
	}
	status := p("status")
	if status != "" && !slices.Contains(statuses(), status) {
		return out, fault.New(fault.BadField, "the status is active, retired or archived")
	}
	for _, a := range append(kems(), signatures()...) {
		if only.name != "" && only != a {
			continue
		}
		// By the list and not by name: to ask for a key that is not there would stand in the audit log. A name comes before those that it begins.
		found, _, err := q.keys.List(ctx, c, keys.ListRequest{Filter: keys.Filter{NamePrefix: a.key}, Limit: 1})
		if err != nil {
			return KeyList{}, err
		}
		if len(found) == 0 || found[0].Name != a.key || found[0].Algorithm != a.native {
			continue
		}
		if out.Keys, err = q.versions(ctx, c, a, found[0].ID.String(), status, out.Keys); err != nil {
			return KeyList{}, err
		}
	}
	out.Total = len(out.Keys)
	return out, nil
}

// versions appends those of a key that have the status, or any.
func (q *API) versions(ctx context.Context, c keys.Caller, a algorithm, id, status string, list []Key) ([]Key, error) {
	for from := uint32(1); ; {
		vs, err := q.keys.Versions(ctx, c, id, from, page)
		if err != nil {
			return nil, err
		}
		for _, v := range vs {
			if len(v.Public) == 0 || status != "" && statusOf(v.State) != status {
				continue // the former never came to be
			}
			k, err := a.shown(v)
			if err != nil {
				return nil, err
			}
			list = append(list, k)
		}
		if len(vs) < page {
			return list, nil
		}
		from = vs[len(vs)-1].Version + 1
	}
}

// ofQuery reads the algorithm that a query must name.
func ofQuery(p Params) (algorithm, error) {
	name := p("algorithm")
	if name == "" {
		return algorithm{}, fault.New(fault.BadQuery, "the query parameter algorithm is required")
	}
	return required(name)
}

// version shows a version of the algorithm's key; 0 is the primary one.
func (q *API) version(ctx context.Context, c keys.Caller, a algorithm, n uint32) (Key, error) {
	v, err := q.keys.Version(ctx, c, a.key, n)
	if err != nil {
		return Key{}, err
	}
	return a.shown(v)
}

// shown is a version as Qpher shows it, with the bare public key of its standard. One of another algorithm, whose key has taken the reserved
// name, and one that never came to be, are not there.
func (a algorithm) shown(v *keys.Version) (Key, error) {
	if len(v.Public) == 0 {
		return Key{}, noSuchVersion()
	}
	pub, err := keyenc.ParseSPKI(v.Public)
	if err != nil {
		return Key{}, fault.Wrap(fault.StoreCorrupted, "the stored public key is malformed", err)
	}
	k, ok := pub.(*pqc.PublicKey)
	if !ok || k.Algorithm().Name() != string(a.native) {
		return Key{}, noSuchVersion()
	}
	return Key{KeyVersion: int64(v.Version), Algorithm: a.name, Status: statusOf(v.State), PublicKey: k.Bytes(),
		CreatedAt: v.CreatedAt.UTC().Truncate(time.Millisecond).Format(timeForm)}, nil
}

func noSuchVersion() error { return fault.New(fault.VersionNotFound, "the key has no such version") }
