package keys

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Maintained is what one Maintain did for a tenant: numbers of keys, and of versions in Abandoned.
type Maintained struct {
	Tenant    uuid.UUID
	Activated int
	Expired   int
	Rotated   int
	Destroyed int
	Abandoned int
	Failed    int
	// Failures are what Failed counts, the first hundred of them.
	Failures []MaintainFailure
	// Since is when the first act was over.
	Since time.Time
}

// MaintainFailure is one act on a key that has failed.
type MaintainFailure struct {
	Act string // one of the Act constants
	Key uuid.UUID
	Err error
}

const maxMaintainFailures = 100

// The acts, as the metrics name them.
const (
	ActAbandon  = "abandon"
	ActActivate = "activate"
	ActExpire   = "expire"
	ActRotate   = "rotate"
	ActDestroy  = "destroy"
)

func dateAct(to State) string {
	if to == StateActive {
		return ActActivate
	}
	return ActExpire
}

// counted counts an act by its outcome. Having been overtaken is no failure, and no act.
func (s *Service) counted(act string, k *Key, err error) error {
	if errors.Is(err, errOvertaken) || act == ActRotate && fault.Has(err, fault.Conflict) {
		return nil // it is due again, or done
	}
	m := s.pass[k.Tenant]
	if m == nil {
		m = &Maintained{Tenant: k.Tenant, Since: s.now()}
		s.pass[k.Tenant] = m
	}
	outcome := okOutcome
	if err != nil {
		outcome, m.Failed = string(fault.CodeOf(err)), m.Failed+1
		if len(m.Failures) < maxMaintainFailures {
			m.Failures = append(m.Failures, MaintainFailure{act, k.ID, err})
		}
	} else {
		*map[string]*int{ActAbandon: &m.Abandoned, ActActivate: &m.Activated, ActExpire: &m.Expired, ActRotate: &m.Rotated, ActDestroy: &m.Destroyed}[act]++
	}
	s.metrics.maintain.WithLabelValues(act, outcome).Inc()
	return err
}

// report ends a pass.
func (s *Service) report(ctx context.Context) {
	s.metrics.waiting.Set(float64(s.waiting.tidy(s.now())))
	if s.maintained == nil || len(s.pass) == 0 {
		return
	}
	all := make([]Maintained, 0, len(s.pass))
	for _, m := range s.pass {
		all = append(all, *m)
	}
	slices.SortFunc(all, func(a, b Maintained) int { return cmp.Compare(a.Tenant.String(), b.Tenant.String()) })
	s.maintained(ctx, all)
}

const (
	firstWait = 10 * time.Second
	lastWait  = 10 * time.Minute
	forgotten = time.Hour // after which a key that is not due any more is not remembered
)

// waiting are the keys whose scheduled act has failed, and when it is tried again. A node that takes the maintenance over begins anew.
type waiting map[uuid.UUID]wait

type wait struct {
	until time.Time
	last  time.Duration
}

// over reports whether the key does not wait.
func (w waiting) over(key uuid.UUID, now time.Time) bool { return !now.Before(w[key].until) }

func (w waiting) settle(key uuid.UUID, now time.Time, err error) {
	if err == nil {
		delete(w, key)
		return
	}
	d := min(max(2*w[key].last, firstWait), lastWait)
	w[key] = wait{now.Add(d), d}
}

// tidy forgets what is not due any more and counts the rest.
func (w waiting) tidy(now time.Time) int {
	maps.DeleteFunc(w, func(_ uuid.UUID, x wait) bool { return now.Sub(x.until) > forgotten })
	return len(w)
}
