package api

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
)

// who is what the job service is told about who asks.
func (c *call) who() jobs.Caller { return jobs.Caller{Principal: c.principal, RequestID: c.id} }

func wireJob(j *jobs.Job) wire.Job {
	w := wire.Job{ID: j.ID.String(), Kind: string(j.Kind), State: string(j.State), Deployment: j.Tenant == uuid.Nil, Params: jsontext.Value(j.Params),
		Done: j.Counts.Done, Failed: j.Counts.Failed, Total: j.Counts.Total, Attempts: j.Attempts, CreatedBy: j.CreatedBy,
		CreatedAt: j.CreatedAt.UTC(), StartedAt: optional(j.StartedAt), UpdatedAt: j.UpdatedAt.UTC(), EndedAt: optional(j.EndedAt)}
	for _, n := range j.Notices {
		w.Failures = append(w.Failures, wire.JobFailure{Resource: n.Resource, Error: wire.Error{Code: string(n.Code), Message: n.Message}})
	}
	if j.Error != "" {
		w.Error = &wire.Error{Code: string(j.Error), Message: j.Message}
	}
	if j.State == jobs.Queued && j.Attempts > 0 {
		w.RetryAt = optional(j.RetryAt)
	}
	if j.Node != uuid.Nil {
		w.Node = j.Node.String()
	}
	return w
}

func (s *Server) listJobs(ctx context.Context, c *call, _ *wire.Empty) (wire.List[wire.Job], error) {
	limit, cursor, err := c.page()
	if err != nil {
		return wire.List[wire.Job]{}, err
	}
	page, next, err := s.jobs.List(ctx, c.who(), jobs.ListRequest{Cursor: cursor, Limit: limit,
		Filter: jobs.Filter{Kind: jobs.Kind(c.query.Get("kind")), State: jobs.State(c.query.Get("state"))}})
	if err != nil {
		return wire.List[wire.Job]{}, err
	}
	out := wire.List[wire.Job]{Items: make([]wire.Job, len(page)), NextCursor: next}
	for i, j := range page {
		out.Items[i] = wireJob(j)
	}
	return out, nil
}

func noJob() *fault.Error { return fault.New(fault.JobNotFound, "no such job") }

func (s *Server) showJob(ctx context.Context, c *call, _ *wire.Empty) (wire.Job, error) {
	id, err := c.pathID("id", noJob())
	if err != nil {
		return wire.Job{}, err
	}
	j, err := s.jobs.Get(ctx, c.who(), id)
	if err != nil {
		return wire.Job{}, err
	}
	return wireJob(j), nil
}

func (s *Server) cancelJob(ctx context.Context, c *call, _ *wire.Empty) (wire.Job, error) {
	id, err := c.pathID("id", noJob())
	if err != nil {
		return wire.Job{}, err
	}
	j, err := s.jobs.Cancel(ctx, c.who(), id)
	if err != nil {
		return wire.Job{}, err
	}
	return wireJob(j), nil
}
