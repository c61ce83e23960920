package hsm

import (
	"cmp"
	"slices"

	"github.com/google/uuid"

	"github.com/keywright/keywright/hsm/token"
)

// Record is what the store holds of one key version.
type Record struct {
	Key      uuid.UUID
	Version  uint32
	State    string
	Material []byte // Ref.Blob; of other backends it may be anything
}

// Finding is an object without a record, or a record without an object.
type Finding struct {
	Key     uuid.UUID `json:"key_id"`
	Version uint32    `json:"version"`
	State   string    `json:"state,omitempty"` // of the record, if there is one
	What    string    `json:"what"`            // an algorithm, or the token that a record names
}

// Reconciliation is the comparison of tokens and records. It is a report: nothing acts on it but people, as a token that was plugged
// in by mistake, or a store that was restored from last week, makes everything look orphaned.
type Reconciliation struct {
	Objects  int       `json:"objects"`                // keys of ours on the token, without the service's own
	Records  int       `json:"records"`                // key versions that say they are resident on this token
	Orphans  []Finding `json:"objects_without_record"` // also those whose record says that the version is destroyed
	Missing  []Finding `json:"records_without_object"`
	Creating []Finding `json:"objects_being_created"` // with a record that is not finished: a crash in the middle, or a key just being made
}

// Clean reports whether everything has its other half.
func (r *Reconciliation) Clean() bool { return len(r.Orphans)+len(r.Missing) == 0 }

// Confirm leaves in r only the findings that an earlier comparison had too, and gives r.
func (r *Reconciliation) Confirm(earlier *Reconciliation) *Reconciliation {
	for _, p := range []struct{ now, then *[]Finding }{{&r.Orphans, &earlier.Orphans}, {&r.Missing, &earlier.Missing}, {&r.Creating, &earlier.Creating}} {
		had := make(map[Finding]bool, len(*p.then))
		for _, f := range *p.then {
			had[f] = true
		}
		*p.now = slices.DeleteFunc(*p.now, func(f Finding) bool { return !had[f] })
	}
	return r
}

// Reconcile compares the objects of tokens with records. names are the tokens' serial numbers and labels: only records that are
// resident on one of them are expected there. It believes the records, whose tags only the tokens could check.
func Reconcile(objects []token.Object, names []string, records func(yield func(Record) error) error) (*Reconciliation, error) {
	type half struct {
		object *token.Object
		known  bool
	}
	on := make(map[token.ID]*half, len(objects))
	r := &Reconciliation{Orphans: []Finding{}, Missing: []Finding{}, Creating: []Finding{}}
	for i := range objects {
		if o := &objects[i]; !isService(o.ID) {
			on[o.ID] = &half{object: o}
			r.Objects++
		}
	}
	err := records(func(v Record) error {
		var id token.ID
		copy(id[:], v.Key[:])
		id[16], id[17], id[18], id[19] = byte(v.Version>>24), byte(v.Version>>16), byte(v.Version>>8), byte(v.Version)
		f := Finding{Key: v.Key, Version: v.Version, State: v.State}
		h := on[id]
		if h != nil {
			f.What = string(h.object.Algorithm)
			h.known = true
			switch v.State {
			case stateDestroyed:
				r.Orphans = append(r.Orphans, f)
			case stateCreating:
				r.Creating = append(r.Creating, f)
			}
		}
		b, ok := parseBlob(v.Material)
		// A token that lacks its copy of a key gets it when the key is used.
		if !ok || b.place != placeResident || !slices.Contains(names, b.name) || v.State == stateDestroyed {
			return nil
		}
		r.Records++
		if h == nil {
			f.What = b.name
			r.Missing = append(r.Missing, f)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for id, h := range on {
		if !h.known {
			f := Finding{What: string(h.object.Algorithm), Version: uint32(id[16])<<24 | uint32(id[17])<<16 | uint32(id[18])<<8 | uint32(id[19])}
			copy(f.Key[:], id[:16])
			r.Orphans = append(r.Orphans, f)
		}
	}
	for _, list := range [][]Finding{r.Orphans, r.Missing, r.Creating} {
		slices.SortFunc(list, func(a, b Finding) int {
			return cmp.Or(slices.Compare(a.Key[:], b.Key[:]), cmp.Compare(a.Version, b.Version))
		})
	}
	return r, nil
}

// States of records that matter here, as package keys writes them.
const (
	stateDestroyed = "destroyed"
	stateCreating  = "creating"
)
