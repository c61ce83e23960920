package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cursor"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

// Actions in the audit log. The resource of their entries is "job:<id>".
const (
	ActionCreate = "job.create"
	ActionCancel = "job.cancel"
	actionGet    = "job.get" // what only shows is in the log when it is refused
	actionList   = "job.list"
	ActionEnd    = "job.end"    // by the node that ran it; the outcome is the job's
	ActionReport = "job.report" // of what a schedule did
)

// System is the principal of what nobody asked for.
const System = "system"

// refusalDeadline is for the record of a refusal whose caller has gone.
const refusalDeadline = 5 * time.Second

// Options of a Service. The zero value is usable.
type Options struct {
	// Idempotency keeps what creating calls answered. Without it their tokens are refused.
	Idempotency idempotency.Store
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Logger hears of what nobody else is told. Default: silent.
	Logger *slog.Logger
}

// Service makes jobs, shows and cancels them. A Runner runs them. It is safe for concurrent use.
type Service struct {
	store    Store
	recorder audit.Recorder
	idem     idempotency.Store
	now      func() time.Time
	log      *slog.Logger
	made     chan struct{} // holds one: there may be a job to begin with

	mu       sync.Mutex // guards failures
	failures map[reported]time.Time
}

// New makes the service over a store. It starts nothing.
func New(store Store, recorder audit.Recorder, o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{store: store, recorder: recorder, idem: o.Idempotency, now: o.Now, log: o.Logger, made: make(chan struct{}, 1), failures: map[reported]time.Time{}}
}

// stamp is the time as every store keeps it.
func (s *Service) stamp() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

// Wake says that a job may have been made or cancelled: who follows the news calls it for cluster.KindJob. It never blocks.
func (s *Service) Wake() {
	select {
	case s.made <- struct{}{}:
	default: // one is waiting already
	}
}

// Caller is who asks, and under which request.
type Caller struct {
	Principal *auth.Principal
	RequestID string
}

// Request asks for a job. Whoever makes it has decided that the caller may, and that Params are what the kind takes.
type Request struct {
	Tenant      uuid.UUID // zero: the deployment's
	Kind        Kind
	Params      any    // encoded as JSON; nil: none
	Total       int64  // when known
	CreatedBy   string // principal; "": System
	RequestID   string
	Idempotency idempotency.Token
}

// Prepare makes the record of a job and the change that adds it, for those who write it together with something else. They call
// Wake once it is durable.
func (s *Service) Prepare(r Request) (*Job, audit.Change, error) {
	j := &Job{Tenant: r.Tenant, Kind: r.Kind, State: Queued, Counts: Counts{Total: r.Total}, CreatedBy: r.CreatedBy, CreatedAt: s.stamp(), Revision: 1}
	j.UpdatedAt, j.RetryAt = j.CreatedAt, j.CreatedAt
	if j.CreatedBy == "" {
		j.CreatedBy = System
	}
	var err error
	if j.ID, err = uuid.NewV7(); err != nil {
		return nil, nil, fault.Wrap(fault.Internal, "no randomness", err)
	}
	if r.Params != nil {
		if j.Params, err = json.Marshal(r.Params); err != nil {
			return nil, nil, fault.Wrap(fault.Internal, "the parameters of a job cannot be encoded", err)
		}
	}
	if len(j.Params) > MaxParams {
		return nil, nil, fault.New(fault.BadSize, "the parameters of the job are too long")
	}
	return j, s.store.InsertJob(j), nil
}

// Create makes a job. fault.Overloaded when the tenant has too many that have not ended.
func (s *Service) Create(ctx context.Context, r Request) (*Job, error) {
	start := s.now()
	for try := 0; ; try++ {
		old, err := s.replay(ctx, r)
		if old != nil || err != nil {
			return old, err
		}
		j, change, err := s.Prepare(r)
		if err != nil {
			return nil, err
		}
		changes := []audit.Change{change}
		if r.Idempotency.Key != "" {
			changes = append(changes, s.idem.InsertIdempotency(&idempotency.Record{Tenant: r.Tenant, Key: r.Idempotency.Key,
				Request: r.Idempotency.Request, Resource: j.ID, CreatedAt: j.CreatedAt}))
		}
		_, err = s.recorder.Record(ctx, &audit.Entry{Tenant: j.Tenant, Principal: j.CreatedBy, Action: ActionCreate, Resource: j.Resource(),
			Outcome: "ok", RequestID: r.RequestID, Detail: string(j.Kind), Latency: s.now().Sub(start)}, changes...)
		if fault.Has(err, fault.Conflict) && try == 0 {
			continue // somebody with the same token was faster
		}
		if err != nil {
			return nil, err
		}
		s.Wake()
		return j, nil
	}
}

// replay gives the job of an earlier call with the same token, nil when there was none.
func (s *Service) replay(ctx context.Context, r Request) (*Job, error) {
	if r.Idempotency.Key == "" {
		return nil, nil
	}
	if s.idem == nil {
		return nil, fault.New(fault.Internal, "jobs are made without idempotency here")
	}
	old, err := s.idem.Idempotency(ctx, r.Tenant, r.Idempotency.Key, s.now())
	if err != nil || old == nil {
		return nil, err
	}
	if old.Request != r.Idempotency.Request {
		return nil, fault.New(fault.IdempotencyConflict, "the Idempotency-Key was used before with another request")
	}
	return s.store.Job(ctx, old.Resource)
}

// Resource names the job in the audit log.
func (j *Job) Resource() string { return "job:" + j.ID.String() }

// outcome is how an entry of the audit log says how a job ended.
func outcome(j *Job) string {
	if j.State == Failed && j.Error != "" {
		return string(j.Error)
	}
	return "ok"
}

// Subject is the job as what auth.Decide decides about.
func (j *Job) Subject() *auth.Resource {
	return &auth.Resource{Tenant: j.Tenant, Deployment: j.Tenant == uuid.Nil, Principal: j.CreatedBy}
}

// may decides about an act, and about a job once that is known.
func (s *Service) may(c Caller, action string, j *Job) error {
	var on *auth.Resource
	if j != nil {
		on = j.Subject()
	}
	d := auth.DecideAct(c.Principal, s.now(), action, on)
	return d.Err()
}

// Get gives a job that the caller sees: one of the tenant with scope keys:read, one of the deployment with nodes:read. A credential that is
// limited to keys or labels sees, of the tenant's, those that it has made. fault.JobNotFound, fault.InsufficientScope.
func (s *Service) Get(ctx context.Context, c Caller, id uuid.UUID) (*Job, error) {
	if err := s.may(c, actionGet, nil); err != nil {
		return nil, err
	}
	j, err := s.store.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	if s.may(c, actionGet, j) != nil {
		return nil, fault.New(fault.JobNotFound, "no such job") // as if it were not there
	}
	return j, nil
}

// ByID gives a job to those who know already that it is the caller's. fault.JobNotFound.
func (s *Service) ByID(ctx context.Context, id uuid.UUID) (*Job, error) { return s.store.Job(ctx, id) }

// ListRequest is a page of jobs.
type ListRequest struct {
	Filter Filter
	Cursor string
	Limit  int // 1 to 1000; 0: 100
}

// List gives the jobs that the caller sees, newest first, without their cursors. next is "" on the last page. fault.BadCursor,
// fault.BadQuery, fault.InsufficientScope.
func (s *Service) List(ctx context.Context, c Caller, r ListRequest) (page []*Job, next string, err error) {
	if err := s.may(c, actionList, nil); err != nil {
		return nil, "", err
	}
	if r.Limit == 0 {
		r.Limit = 100
	}
	if r.Limit < 1 || r.Limit > 1000 {
		return nil, "", fault.New(fault.BadQuery, "the limit is 1 to 1000")
	}
	if r.Filter.State != "" && !slices.Contains(States(), r.Filter.State) {
		return nil, "", fault.New(fault.BadQuery, "there is no such state of a job")
	}
	before, err := cursor.Parse(r.Cursor)
	if err != nil {
		return nil, "", err
	}
	for _, tenant := range []uuid.UUID{c.Principal.Tenant, uuid.Nil} {
		own := Job{Tenant: tenant, CreatedBy: c.Principal.ID} // if not even that, then none of them
		if s.may(c, actionList, &own) != nil {
			continue
		}
		seen, size := 0, r.Limit+1
		if c.Principal.Limited() {
			size = 1000
		}
		for at, more := before, true; more && seen <= r.Limit; { // past jobs that the caller is not told of: a page that ended at one would tell of it
			found, err := s.store.Jobs(ctx, tenant, r.Filter, at, size)
			if err != nil {
				return nil, "", err
			}
			more = len(found) == size
			for _, j := range found {
				if at = j.ID; s.may(c, actionList, j) == nil {
					page, seen = append(page, j), seen+1
				}
			}
		}
	}
	slices.SortFunc(page, func(a, b *Job) int { return slices.Compare(b.ID[:], a.ID[:]) })
	if len(page) > r.Limit {
		page = page[:r.Limit]
		next = cursor.Behind(page[r.Limit-1].ID)
	}
	return page, next, nil
}

// Cancel ends a job that has not ended: no more of it is begun from about a second on, on any node. What it did stays done. It needs
// keys:write for a job of the tenant, backends:write or root:write for one of the deployment. fault.JobNotFound, fault.JobEnded, fault.InsufficientScope.
func (s *Service) Cancel(ctx context.Context, c Caller, id uuid.UUID) (*Job, error) {
	start := s.now()
	if c.Principal == nil {
		return nil, fault.New(fault.Unauthenticated, "no credential")
	}
	e := audit.Entry{Tenant: c.Principal.Tenant, Principal: c.Principal.ID, Action: ActionCancel, Resource: "job:" + id.String(),
		RequestID: c.RequestID, Outcome: "ok"}
	j, err := s.store.Job(ctx, id)
	if err == nil {
		err = s.may(c, ActionCancel, j)
	}
	if err == nil {
		e.Tenant, e.Detail, e.Latency = j.Tenant, string(j.Kind), s.now().Sub(start)
		ok := e
		_, err = s.recorder.Record(ctx, &ok, s.store.CancelJob(id, s.stamp()))
		s.Wake()
		if err == nil {
			return s.store.Job(ctx, id)
		}
	}
	return nil, s.refused(ctx, start, &e, err)
}

// refused records the refusal of a call and gives the error that the caller gets.
func (s *Service) refused(ctx context.Context, start time.Time, e *audit.Entry, err error) error {
	switch fault.CodeOf(err) {
	case fault.AuditUnavailable, fault.StoreUnavailable, fault.StoreCorrupted, fault.Overloaded, fault.Unavailable, fault.Timeout:
		return err // it is the log that failed
	}
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), refusalDeadline)
		defer cancel()
	}
	e.Outcome, e.Latency = string(fault.CodeOf(err)), s.now().Sub(start)
	if _, failed := s.recorder.Record(ctx, e); failed != nil {
		return fault.Wrap(fault.AuditUnavailable, "the audit record could not be made durable", errors.Join(failed, err))
	}
	return err
}
