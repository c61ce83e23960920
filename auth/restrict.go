package auth

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Restrictions narrow what a credential's rights reach. Each empty field restricts nothing. Values are shared and immutable.
type Restrictions struct {
	Keys       []string          `json:"keys,omitempty"`          // ids or names; a name is whichever key has it at the time
	Labels     map[string]string `json:"labels,omitempty"`        // all of which a key must have
	Operations []string          `json:"operations,omitempty"`    // as the audit log names them; reading is settled by scopes alone
	CIDRs      []netip.Prefix    `json:"allowed_cidrs,omitempty"` // masked, and IPv4 as such
	RateLimit  int               `json:"rate_limit,omitempty"`    // requests a minute; 0: none of its own
}

// Bounds of restrictions.
const (
	MaxRestricted = 256 // entries of each list
	maxRestricted = 128 // bytes of a key or operation
	MaxRateLimit  = 1_000_000
)

// none reports whether nothing is restricted.
func (r *Restrictions) none() bool {
	return r == nil || len(r.Keys) == 0 && len(r.Labels) == 0 && len(r.Operations) == 0 && len(r.CIDRs) == 0 && r.RateLimit == 0
}

// narrowsKeys reports whether some keys of the tenant may be out of reach.
func (r *Restrictions) narrowsKeys() bool { return r != nil && (len(r.Keys) > 0 || len(r.Labels) > 0) }

// narrows reports whether some keys or operations of the tenant may be out of reach.
func (r *Restrictions) narrows() bool { return r.narrowsKeys() || r != nil && len(r.Operations) > 0 }

// check validates what a caller asks for and brings it into the one form that is stored.
func (r *Restrictions) check() error {
	if max(len(r.Keys), len(r.Labels), len(r.Operations), len(r.CIDRs)) > MaxRestricted {
		return fault.New(fault.BadSize, fmt.Sprintf("a restriction has at most %d entries", MaxRestricted))
	}
	for _, list := range [][]string{r.Keys, r.Operations} {
		for i, s := range list {
			if s == "" || len(s) > maxRestricted || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) || slices.Contains(list[:i], s) {
				return fault.New(fault.BadField, "a restricted key or operation is malformed or named twice")
			}
		}
	}
	for k, v := range r.Labels {
		if k == "" || len(k) > maxRestricted || len(v) > 2*maxRestricted {
			return fault.New(fault.BadField, "a restricted label is malformed")
		}
	}
	for i, p := range r.CIDRs {
		if !p.IsValid() || p.Addr().Zone() != "" {
			return fault.New(fault.BadField, "an allowed range of addresses is malformed")
		}
		if p.Addr().Is4In6() {
			if p.Bits() < 96 {
				return fault.New(fault.BadField, "an allowed range of addresses is malformed")
			}
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		r.CIDRs[i] = p.Masked()
	}
	if r.RateLimit < 0 || r.RateLimit > MaxRateLimit {
		return fault.New(fault.BadField, "the rate limit is 1 to 1000000 requests a minute")
	}
	return nil
}

// inherit gives r as far as the maker's own restrictions reach. Where nothing of it is left the answer is fault.Forbidden: an
// empty list would restrict nothing.
func (r *Restrictions) inherit(from *Restrictions) (*Restrictions, error) {
	out := &Restrictions{Keys: slices.Clone(r.Keys), Labels: maps.Clone(r.Labels), Operations: slices.Clone(r.Operations),
		CIDRs: slices.Clone(r.CIDRs), RateLimit: r.RateLimit}
	if from.none() {
		return out, nil
	}
	beyond := fault.New(fault.Forbidden, "an API key cannot reach further than its creator")
	var left bool
	if out.Keys, left = meet(out.Keys, from.Keys); !left {
		return nil, beyond
	}
	if out.Operations, left = meet(out.Operations, from.Operations); !left {
		return nil, beyond
	}
	for k, v := range from.Labels {
		if own, there := out.Labels[k]; there && own != v {
			return nil, beyond
		}
		if out.Labels == nil {
			out.Labels = map[string]string{}
		}
		out.Labels[k] = v
	}
	if out.CIDRs, left = meetCIDRs(out.CIDRs, from.CIDRs); !left {
		return nil, beyond
	}
	if from.RateLimit > 0 && (out.RateLimit == 0 || out.RateLimit > from.RateLimit) {
		out.RateLimit = from.RateLimit
	}
	return out, nil
}

// meet gives what is in both lists, where an empty one is everything. left is false when nothing is.
func meet(a, b []string) (out []string, left bool) {
	switch {
	case len(b) == 0:
		return a, true
	case len(a) == 0:
		return slices.Clone(b), true
	}
	out = slices.DeleteFunc(a, func(s string) bool { return !slices.Contains(b, s) })
	return out, len(out) > 0
}

// meetCIDRs is meet for ranges of addresses: two of them are disjoint, or one holds the other.
func meetCIDRs(a, b []netip.Prefix) (out []netip.Prefix, left bool) {
	switch {
	case len(b) == 0:
		return a, true
	case len(a) == 0:
		return slices.Clone(b), true
	}
	for _, p := range a {
		for _, q := range b {
			if !p.Overlaps(q) {
				continue
			}
			narrow := p
			if q.Bits() > p.Bits() {
				narrow = q
			}
			if !slices.Contains(out, narrow) {
				out = append(out, narrow)
			}
		}
	}
	return out, len(out) > 0
}

// reachesAddress reports whether a caller at this address may use the credential. An address that is not known is nobody's.
func (r *Restrictions) reachesAddress(a netip.Addr) bool {
	return r == nil || within(r.CIDRs, a)
}

// within reports whether an address is in one of the ranges; in none of none is every one.
func within(ranges []netip.Prefix, a netip.Addr) bool {
	if len(ranges) == 0 {
		return true
	}
	a = a.Unmap().WithZone("")
	for _, p := range ranges {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// reachesKey reports whether a key is among the named ones. It allocates nothing.
func (r *Restrictions) reachesKey(id *uuid.UUID, name string) bool {
	if r == nil || len(r.Keys) == 0 {
		return true
	}
	var text [36]byte
	if *id != uuid.Nil {
		encodeID(&text, id)
	}
	for _, k := range r.Keys {
		if k == name || *id != uuid.Nil && k == string(text[:]) {
			return true
		}
	}
	return false
}

func encodeID(dst *[36]byte, id *uuid.UUID) {
	const digits = "0123456789abcdef"
	n := 0
	for i, b := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst[n] = '-'
			n++
		}
		dst[n], dst[n+1] = digits[b>>4], digits[b&15]
		n += 2
	}
}

func (r *Restrictions) reachesLabels(labels map[string]string) bool {
	if r == nil {
		return true
	}
	for k, v := range r.Labels {
		if own, there := labels[k]; !there || own != v {
			return false
		}
	}
	return true
}

func (r *Restrictions) reachesOperation(name string) bool {
	return r == nil || len(r.Operations) == 0 || slices.Contains(r.Operations, name)
}

// equal reports whether two restrict the same in the same words.
func (r *Restrictions) equal(o *Restrictions) bool {
	return slices.Equal(r.Keys, o.Keys) && maps.Equal(r.Labels, o.Labels) && slices.Equal(r.Operations, o.Operations) &&
		slices.Equal(r.CIDRs, o.CIDRs) && r.RateLimit == o.RateLimit
}
