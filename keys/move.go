package keys

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/jobs"
)

// KindMove is the job of Move.
const KindMove jobs.Kind = "move"

// MoveMode is how a key gets into another backend.
type MoveMode string

const (
	// MoveMaterial carries the material of every version over: it is opened in this process, imported there, compared, and the record follows.
	// Versions in device custody have no material to carry.
	MoveMaterial MoveMode = "material"
	// MoveNewVersion makes a new version there, which becomes the primary one; the versions before stay where they are and go on processing.
	MoveNewVersion MoveMode = "new-version"
)

// MoveRequest asks for keys to be moved: the one that Key names by id or name or, without it, all that the filter selects.
type MoveRequest struct {
	Key     string
	Filter  Filter
	Backend string          // configured name
	Custody backend.Custody // "": what the backend gives the algorithm
	Mode    MoveMode        // "": MoveMaterial
	// AllowWeaker allows a custody that is weaker than that of the versions: device, sealed, software in this order.
	AllowWeaker bool
}

// moveParams are those of the job. They are shown.
type moveParams struct {
	Key         *uuid.UUID      `json:"key,omitempty"`
	NamePrefix  string          `json:"name_prefix,omitempty"`
	Algorithm   string          `json:"algorithm,omitempty"`
	State       string          `json:"state,omitempty"`
	Label       string          `json:"label,omitempty"`
	Backend     string          `json:"backend"`
	BackendID   string          `json:"backend_id"`
	Custody     backend.Custody `json:"custody,omitempty"`
	Mode        MoveMode        `json:"mode"`
	AllowWeaker bool            `json:"allow_weaker,omitempty"`
}

func (p *moveParams) filter() Filter {
	return Filter{NamePrefix: p.NamePrefix, Algorithm: backend.Algorithm(p.Algorithm), State: State(p.State), Label: p.Label}
}

// Move makes a job that moves keys to another backend. What a key's owner would want to know at once is an error at once when one key is named:
// a version that cannot leave its device (fault.NotExportable), a weaker custody that is not allowed, or a policy that demands attestation
// (fault.PolicyDenied), a backend that cannot take it (fault.Unsupported). Of many keys, the job says which could not be moved. It needs keys:write.
func (s *Service) Move(ctx context.Context, c Caller, r MoveRequest) (*jobs.Job, error) {
	if s.jobs == nil {
		return nil, fault.New(fault.Unsupported, "this service runs no jobs")
	}
	j, err := pipeline(ctx, s, c, verbMove, func(ctx context.Context, q *request) (*jobs.Job, error) {
		if err := checkMoveFilter(&r, c); err != nil {
			return nil, err
		}
		before, err := q.replayJob(ctx)
		if err != nil {
			return nil, err
		}
		if q.again = before != nil; r.Key != "" {
			rec, err := q.find(ctx, r.Key)
			if err != nil {
				return nil, err
			}
			q.entry.Key = rec.key.ID
		}
		if before != nil { // which is for those alone who may move it
			return before, nil
		}
		if r.Mode == "" {
			r.Mode = MoveMaterial
		}
		if r.Mode != MoveMaterial && r.Mode != MoveNewVersion {
			return nil, fault.New(fault.BadField, "the mode is material or new-version")
		}
		if r.Backend == "" {
			return nil, fault.New(fault.MissingField, "the backend is missing")
		}
		b, err := s.backendNamed(r.Backend)
		if err != nil {
			return nil, err
		}
		p := moveParams{NamePrefix: r.Filter.NamePrefix, Algorithm: string(r.Filter.Algorithm), State: string(r.Filter.State), Label: r.Filter.Label,
			Backend: r.Backend, BackendID: b.Info().ID, Custody: r.Custody, Mode: r.Mode, AllowWeaker: r.AllowWeaker}
		var total int64
		if r.Key != "" {
			id := q.entry.Key
			p.Key = &id
			if total, err = s.checkMoveOf(ctx, q.tenant(), id, b, &p); err != nil {
				return nil, err
			}
		} else if !knownCustody(r.Custody) {
			return nil, errCustodyName()
		}
		j, change, err := s.jobs.Prepare(jobs.Request{Tenant: q.tenant(), Kind: KindMove, Params: p, Total: total, CreatedBy: c.Principal.ID, RequestID: c.RequestID})
		if err != nil {
			return nil, err
		}
		q.entry.Resource, q.entry.Detail = j.Resource(), string(r.Mode)
		q.changes = append(q.changes, change)
		if t := c.Idempotency; t.Key != "" {
			q.changes = append(q.changes, s.idempotency.InsertIdempotency(&idempotency.Record{Tenant: q.tenant(), Key: t.Key, Request: t.Request,
				Resource: j.ID, CreatedAt: s.stamp()}))
		}
		return j, nil
	}, nil)
	if err != nil {
		return nil, err
	}
	s.jobs.Wake()
	return j, nil
}

// replayJob gives the job of an earlier call with the same idempotency token, nil when there was none.
func (q *request) replayJob(ctx context.Context) (*jobs.Job, error) {
	t := q.caller.Idempotency
	if t.Key == "" {
		return nil, nil
	}
	r, err := q.s.idempotency.Idempotency(ctx, q.tenant(), t.Key, q.s.now())
	if err != nil || r == nil {
		return nil, err
	}
	if r.Request != t.Request {
		return nil, fault.New(fault.IdempotencyConflict, "the Idempotency-Key was used before with another request")
	}
	q.entry.Resource, q.entry.Detail = "job:"+r.Resource.String(), "replayed"
	return q.s.jobs.ByID(ctx, r.Resource)
}

// checkMoveFilter holds many keys to what a list of them takes.
func checkMoveFilter(r *MoveRequest, c Caller) error {
	if r.Key != "" {
		if r.Filter != (Filter{}) {
			return fault.New(fault.MissingField, "either a key or a filter is needed")
		}
		return nil
	}
	if limits := c.Principal.Restrictions; limits != nil && (len(limits.Keys) > 0 || len(limits.Labels) > 0) {
		return fault.New(fault.Forbidden, "a credential that is limited to keys moves them one by one")
	}
	if r.Filter == (Filter{}) {
		return fault.New(fault.MissingField, "a key or a filter is needed")
	}
	if a := r.Filter.Algorithm; a != "" {
		if _, ok := backend.Lookup(a); !ok {
			return fault.New(fault.BadAlgorithm, "the algorithm is unknown")
		}
	}
	if s := r.Filter.State; s != "" && ruleOf(s).unknown() {
		return fault.New(fault.BadField, "the state is unknown")
	}
	return nil
}

// placement is where versions are made.
type placement struct {
	backend string // identity
	custody backend.Custody
}

// holds reports whether the version is there.
func (p placement) holds(v *Version) bool { return v.BackendID == p.backend && v.Custody == p.custody }

// strength orders custody.
func strength(c backend.Custody) int {
	return slices.Index([]backend.Custody{backend.CustodySoftware, backend.CustodySealed, backend.CustodyDevice}, c)
}

func knownCustody(c backend.Custody) bool { return c == "" || strength(c) >= 0 }

func errCustodyName() error {
	return fault.New(fault.BadField, "the custody is device, sealed or software")
}

// destination says where the versions of a key go, or why they cannot.
func (s *Service) destination(k *Key, b backend.Backend, p *moveParams) (placement, error) {
	var none placement
	if k.Internal {
		return none, keyNotFound()
	}
	if k.Origin == OriginPublicOnly {
		return none, fault.New(fault.OperationNotAllowed, "a public-only key is in no backend")
	}
	if !canGrow(k.State) || k.State == StatePendingImport {
		return none, fault.New(fault.BadState, "the state of the key forbids that it is moved")
	}
	can, ok := b.Info().Can(k.Algorithm)
	if !ok && len(b.Info().Capabilities) == 0 {
		return none, fault.New(fault.BackendUnavailable, "the backend has not been there since the start, and what it can do is not known").RetryAfter(time.Second)
	}
	if !ok {
		return none, unsupported()
	}
	to := placement{b.Info().ID, p.Custody}
	switch {
	case p.Custody == "":
		to.custody = can.Custody
	case !knownCustody(p.Custody):
		return none, errCustodyName()
	case p.Custody != can.Custody && !slices.Contains(b.Info().Custody, p.Custody):
		return none, fault.New(fault.Unsupported, "the backend does not give this algorithm this custody")
	}
	if p.Mode == MoveNewVersion {
		return to, s.grows(k, can, to, p)
	}
	if !can.Import {
		return none, fault.New(fault.Unsupported, "the backend takes no material of this algorithm: move the key by a new version")
	}
	if k.Policy.RequireAttestation {
		return none, fault.New(fault.PolicyDenied, "the policy demands evidence that the device made the key: move it by a new version")
	}
	return to, nil
}

// grows reports why a key cannot have a new version there.
func (s *Service) grows(k *Key, can backend.Capability, to placement, p *moveParams) error {
	switch {
	case !k.Origin.ours():
		return fault.New(fault.OperationNotAllowed, "the new version of an imported key is imported")
	case k.Policy.Exportable && to.custody == backend.CustodyDevice:
		return errExportableInside()
	case strength(to.custody) < strength(k.Custody) && !p.AllowWeaker:
		return errWeaker()
	case to.custody != can.Custody && k.Policy.RequireAttestation:
		return fault.New(fault.PolicyDenied, "the policy demands evidence that the device made the key")
	}
	return attestable(k.Policy, can)
}

func errExportableInside() error {
	return fault.New(fault.Unsupported, "an exportable key cannot be in device custody: ask for custody sealed")
}

func errWeaker() error {
	return fault.New(fault.PolicyDenied, "the custody there is weaker than that of the key: allow it expressly, or leave the key where it is")
}

// leaves reports why the material of a version cannot be carried there.
func leaves(v *Version, to placement, p *moveParams) error {
	switch {
	case v.Custody == backend.CustodyDevice:
		return fault.New(fault.NotExportable, "the material of this version cannot leave its device: move the key by a new version")
	case v.Exportable && to.custody == backend.CustodyDevice:
		return errExportableInside()
	case strength(to.custody) < strength(v.Custody) && !p.AllowWeaker:
		return errWeaker()
	}
	return nil
}

// carried reports whether a version has material that is to be somewhere.
func carried(v *Version) bool {
	return v.State != StateDestroyed && v.State != StateCreating && len(v.Blob) > 0
}

// checkMoveOf looks before a job is made whether the key can be moved, and gives how many versions there are to move.
func (s *Service) checkMoveOf(ctx context.Context, tenant, id uuid.UUID, b backend.Backend, p *moveParams) (total int64, err error) {
	k, err := s.store.KeyByID(ctx, tenant, id)
	if err != nil {
		return 0, err
	}
	to, err := s.destination(k, b, p)
	if err != nil {
		return 0, err
	}
	there := fault.New(fault.BadField, "the key is there already")
	if p.Mode == MoveNewVersion {
		if k.BackendID == to.backend && k.Custody == to.custody {
			return 0, there
		}
		return 1, nil
	}
	away := false
	err = s.eachVersion(ctx, id, 1, func(v *Version) error {
		if !carried(v) {
			return nil
		}
		total++
		if to.holds(v) {
			return nil
		}
		away = true
		return leaves(v, to, p)
	})
	if err == nil && !away {
		err = there
	}
	return total, err
}

// eachVersion calls f with the versions of a key from number from on.
func (s *Service) eachVersion(ctx context.Context, key uuid.UUID, from uint32, f func(*Version) error) error {
	for {
		page, err := s.store.Versions(ctx, key, from, destroyPage)
		if err != nil {
			return err
		}
		for _, v := range page {
			if err := f(v); err != nil {
				return err
			}
		}
		if len(page) < destroyPage {
			return nil
		}
		from = page[len(page)-1].Version + 1
	}
}

// Jobs is what a Service needs of jobs. *jobs.Service is the implementation.
type Jobs interface {
	Prepare(r jobs.Request) (*jobs.Job, audit.Change, error)
	ByID(ctx context.Context, id uuid.UUID) (*jobs.Job, error)
	Wake()
}

// JobKinds are the jobs that a node can run with this service.
func (s *Service) JobKinds() []jobs.Definition {
	return []jobs.Definition{{Kind: KindMove, Work: s.move, Here: func(j *jobs.Job) bool {
		var p moveParams
		// What cannot be read is for any node to fail.
		return json.Unmarshal(j.Params, &p) != nil || s.Has(p.BackendID)
	}}}
}
