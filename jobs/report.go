package jobs

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
)

const (
	// failuresEvery is how often failures alone are reported of one tenant and kind by a node: a device that is away for a day fails every few minutes.
	failuresEvery = time.Hour
	maxReported   = 10_000
)

// Summary is what a schedule did for one tenant.
type Summary struct {
	Tenant    uuid.UUID
	Kind      Kind
	Counts    Counts
	Notices   []Notice // more than MaxNotices are cut
	StartedAt time.Time
	Node      uuid.UUID
}

// reported is of what, and since when.
type reported struct {
	tenant uuid.UUID
	kind   Kind
}

// Report writes a job that is over: it was never queued, and no Runner saw it. When nothing was done it writes nothing, and gives nil; when
// everything has failed it does so once an hour for the tenant and kind, until something is done again.
func (s *Service) Report(ctx context.Context, sum Summary) (*Job, error) {
	if sum.Counts.Done == 0 && (sum.Counts.Failed == 0 || s.told(sum)) {
		return nil, nil
	}
	j, _, err := s.Prepare(Request{Tenant: sum.Tenant, Kind: sum.Kind})
	if err != nil {
		return nil, err
	}
	j.State, j.Counts, j.Node, j.EndedAt = Done, sum.Counts, sum.Node, j.CreatedAt
	j.Notices = slices.Clone(sum.Notices[:min(len(sum.Notices), MaxNotices)])
	j.StartedAt = sum.StartedAt.UTC().Truncate(time.Microsecond)
	if j.Counts.Done == 0 {
		j.State = Failed
		if len(j.Notices) > 0 {
			j.Error, j.Message = j.Notices[0].Code, j.Notices[0].Message
		}
	}
	_, err = s.recorder.Record(ctx, &audit.Entry{Tenant: j.Tenant, Principal: System, Action: ActionReport, Resource: j.Resource(),
		Outcome: outcome(j), Items: int(j.Counts.Done + j.Counts.Failed), Detail: string(j.Kind)}, s.store.InsertJob(j))
	if err != nil {
		return nil, err
	}
	s.telling(sum)
	return j, nil
}

// told reports whether failures of this kind were written a short while ago.
func (s *Service) told(sum Summary) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.failures[reported{sum.Tenant, sum.Kind}]
	return ok && s.now().Sub(at) < failuresEvery
}

func (s *Service) telling(sum Summary) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sum.Counts.Done > 0 {
		delete(s.failures, reported{sum.Tenant, sum.Kind})
		return
	}
	if len(s.failures) >= maxReported {
		clear(s.failures) // all may be told once more
	}
	s.failures[reported{sum.Tenant, sum.Kind}] = s.now()
}
