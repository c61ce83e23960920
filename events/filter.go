package events

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Filter selects events; the zero value selects all of a tenant. What it names must all fit.
type Filter struct {
	Types []string    `json:"types,omitempty"` // a type, or what it begins with and a star: "key.*"
	Keys  []uuid.UUID `json:"keys,omitempty"`  // events of one of these keys only
	Label string      `json:"label,omitempty"` // "name" or "name=value": events of keys that have it at the time of reading
}

// Bounds of a filter.
const (
	maxTypes = 64
	maxKeys  = 64
	maxLabel = 384 // bytes: longer than any label of a key
)

// check gives fault.BadField for a filter that can never fit, or is too large.
func (f *Filter) check() error {
	if len(f.Types) > maxTypes || len(f.Keys) > maxKeys || len(f.Label) > maxLabel {
		return fault.New(fault.BadField, fmt.Sprintf("a filter has at most %d types and %d keys", maxTypes, maxKeys))
	}
	for _, t := range f.Types {
		if !slices.ContainsFunc(Types(), func(known string) bool { return fits(t, known) }) {
			return fault.New(fault.BadField, "a type of event is not one of the documentation")
		}
	}
	if strings.HasPrefix(f.Label, "=") {
		return fault.New(fault.BadField, "a label is name, or name=value")
	}
	return nil
}

// fits reports whether a type is the wanted one, or begins as it says.
func fits(want, t string) bool {
	if start, ok := strings.CutSuffix(want, "*"); ok {
		return strings.HasPrefix(t, start)
	}
	return want == t
}

// Match reports whether an event is selected.
func (f *Filter) Match(e *Event) bool {
	if len(f.Types) > 0 && !slices.ContainsFunc(f.Types, func(want string) bool { return fits(want, e.Type) }) {
		return false
	}
	if len(f.Keys) > 0 && (e.Key == uuid.Nil || !slices.Contains(f.Keys, e.Key)) {
		return false
	}
	if f.Label == "" {
		return true
	}
	name, value, exact := strings.Cut(f.Label, "=")
	has, ok := e.Labels[name]
	return ok && (!exact || has == value)
}
