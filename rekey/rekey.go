// Package rekey replaces the keys over keys: the root of the deployment and the keys of devices that protect other keys, and has everything sealed
// anew that is under them. Replacing is quick; the sealing is a job that any node may run and go on with.
//
// It trusts the keeper of the root, the key service and the backends to do what they say, and believes none of them before an old key is given up: that
// nothing is under it any more is counted in the store first.
package rekey

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/root"
)

// Actions in the audit log, beside those of package root.
const (
	ActionRotateKEK = "backend.kek.rotate"
	ActionRetireKEK = "backend.kek.retire"
)

// DefaultSettle is longer than any change that another node began under the old root can take to be stored: a node hears of the new root
// within a second or uses nothing, and a request has a minute.
const DefaultSettle = 2 * time.Minute

// Options are the parts of a Service. Root, Keys, Jobs and Recorder are required.
type Options struct {
	Root     *root.Keeper
	Keys     *keys.Service
	Jobs     *jobs.Service
	Recorder audit.Recorder
	// Backends are those that the key service has open.
	Backends []backend.Backend
	// Shared says that other nodes may be on the store: a new root is left where they can follow.
	Shared bool
	// Share and Batch are those of keys.ResealOptions.
	Share float64
	Batch int
	// Settle is how long after a root was replaced the old one is kept at least, and running nodes can follow. 0: DefaultSettle.
	Settle time.Duration
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: nothing is logged
}

// Service replaces keys over keys. It is safe for concurrent use and starts nothing by itself.
type Service struct {
	o    Options
	soft []string // identities of the backends that the root protects
}

// New makes a Service.
func New(o Options) (*Service, error) {
	if o.Root == nil || o.Keys == nil || o.Jobs == nil || o.Recorder == nil {
		return nil, errors.New("rekey: root, keys, jobs and a recorder are required")
	}
	if o.Settle <= 0 {
		o.Settle = DefaultSettle
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o}
	for _, b := range o.Backends {
		if i := b.Info(); i.Kind == "software" {
			s.soft = append(s.soft, i.ID)
		}
	}
	return s, nil
}

// Caller is who asks, and under which request. What is done to the root needs the scope root:write, what is done to backends, and Reseal,
// backends:write; to look takes root:read or backends:read.
type Caller struct {
	Principal   *auth.Principal
	RequestID   string
	Idempotency idempotency.Token
}

func (c Caller) root() root.Caller {
	return root.Caller{Principal: c.Principal.ID, RequestID: c.RequestID}
}

// may gives the refusal of an act, nil for a permission.
func (c Caller) may(action string) error {
	d := auth.DecideAct(c.Principal, time.Now(), action, nil)
	return d.Err()
}

// RotateRoot replaces the root (root.Keeper.Rotate) and begins to seal everything anew. noFollow keeps the new root from nodes that run under the
// old one: they lock themselves unless a device of theirs opens it. The answer is good though the job could not be made, whose error is then in the log: Reseal makes
// another.
func (s *Service) RotateRoot(ctx context.Context, c Caller, r root.Rotation, noFollow bool) (*root.Rotated, *jobs.Job, error) {
	if err := c.may(root.ActionRotate); err != nil {
		return nil, nil, err
	}
	r.Follow = s.o.Shared && !noFollow
	done, err := s.o.Root.Rotate(ctx, c.root(), r)
	if err != nil {
		return nil, nil, err
	}
	j, err := s.begin(context.WithoutCancel(ctx), c, params{Root: done.Generation})
	if err != nil {
		s.o.Logger.Error("the root was replaced, but the job that seals everything anew could not be made", "error", err)
	}
	return done, j, nil
}

// State is how the root is.
type State struct {
	Generation uint32
	Earlier    []uint32 // kept until nothing is under them any more
	Stale      int64    // key versions that are still under one of them
}

// Root gives the state of the root.
func (s *Service) Root(ctx context.Context, c Caller) (State, error) {
	if err := c.may("root.get"); err != nil {
		return State{}, err
	}
	generation, err := s.o.Root.Generation()
	if err != nil {
		return State{}, err
	}
	st := State{Generation: generation, Earlier: s.o.Root.Earlier()}
	if len(st.Earlier) > 0 {
		st.Stale, err = s.stale(ctx)
	}
	return st, err
}

// stale counts the key versions that are under an earlier root.
func (s *Service) stale(ctx context.Context) (sum int64, err error) {
	for _, id := range s.soft {
		n, err := s.o.Keys.StaleMaterial(ctx, id)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// RetireRoot gives up the earlier roots now; the job does so by itself when nothing is under them. fault.Conflict while key versions are, unless lose says as many: they
// cannot be opened any more then, by anybody.
func (s *Service) RetireRoot(ctx context.Context, c Caller, lose int64) error {
	if err := c.may(root.ActionRetire); err != nil {
		return err
	}
	generation, err := s.o.Root.Generation()
	if err != nil {
		return err
	}
	n, err := s.stale(ctx)
	if err != nil {
		return err
	}
	if n != lose {
		return fault.New(fault.Conflict, fmt.Sprintf("%d key versions are under an earlier root, and would be lost with it: seal them anew, or say that as many are to be lost", n))
	}
	return s.o.Root.Retire(ctx, c.root(), generation)
}

// Reseal begins a job that seals anew what is under a key that was replaced: of a backend by its configured name, or "" of all.
func (s *Service) Reseal(ctx context.Context, c Caller, name string) (*jobs.Job, error) {
	if err := c.may(keys.ActionReseal); err != nil {
		return nil, err
	}
	var p params
	if name != "" {
		b, err := s.named(name)
		if err != nil {
			return nil, err
		}
		if _, ok := b.(backend.Resealer); !ok {
			return nil, fault.New(fault.Unsupported, "nothing in this backend is under a key that could be replaced")
		}
		p = params{Backend: b.Info().ID, Name: name}
	}
	return s.begin(ctx, c, p)
}

func (s *Service) begin(ctx context.Context, c Caller, p params) (*jobs.Job, error) {
	return s.o.Jobs.Create(ctx, jobs.Request{Kind: KindReseal, Params: p, CreatedBy: c.Principal.ID, RequestID: c.RequestID, Idempotency: c.Idempotency})
}

func (s *Service) named(name string) (backend.Backend, error) {
	i := slices.IndexFunc(s.o.Backends, func(b backend.Backend) bool { return b.Info().Name == name })
	if i < 0 {
		return nil, fault.New(fault.BackendNotFound, "no backend of this name is configured")
	}
	return s.o.Backends[i], nil
}

func (s *Service) rotator(name string) (backend.Backend, backend.KEKRotator, error) {
	b, err := s.named(name)
	if err != nil {
		return nil, nil, err
	}
	r, ok := b.(backend.KEKRotator)
	if !ok {
		return nil, nil, fault.New(fault.Unsupported, "this backend has no key over keys that could be replaced: of a TPM it is the storage parent, of the software backend the root")
	}
	return b, r, nil
}

// RotateKEK makes the next keys over keys on a device, has the root's slots on it sealed under them, and begins to seal everything of the backend anew. The
// old ones stay.
func (s *Service) RotateKEK(ctx context.Context, c Caller, name string) (uint32, *jobs.Job, error) {
	if err := c.may(ActionRotateKEK); err != nil {
		return 0, nil, err
	}
	b, r, err := s.rotator(name)
	if err != nil {
		return 0, nil, err
	}
	var generation uint32
	err = s.recorded(ctx, c, ActionRotateKEK, name, func() (string, error) {
		if generation, err = r.RotateKEK(ctx); err != nil {
			return "", err
		}
		return fmt.Sprintf("generation %d", generation), s.o.Root.RenewDevice(ctx, c.root(), b.Info().ID)
	})
	if err != nil {
		return generation, nil, err
	}
	j, err := s.begin(context.WithoutCancel(ctx), c, params{Backend: b.Info().ID, Name: name})
	return generation, j, err
}

// KEK is a key over keys, and how many key versions are under its generation.
type KEK struct {
	backend.KEK
	Versions int64
}

// KEKs lists those of a backend.
func (s *Service) KEKs(ctx context.Context, c Caller, name string) ([]KEK, error) {
	if err := c.may("backend.kek.list"); err != nil {
		return nil, err
	}
	b, r, err := s.rotator(name)
	if err != nil {
		return nil, err
	}
	list, err := r.KEKs(ctx)
	if err != nil {
		return nil, err
	}
	counted := map[uint32]int64{}
	out := make([]KEK, 0, len(list))
	for _, k := range list {
		n, ok := counted[k.Generation]
		if !ok {
			if n, err = s.o.Keys.UnderKEK(ctx, b.Info().ID, k.Generation); err != nil {
				return nil, err
			}
			counted[k.Generation] = n
		}
		out = append(out, KEK{KEK: k, Versions: n})
	}
	return out, nil
}

// RetireKEK destroys the keys over keys of a generation on the device. fault.Conflict while anything is under them.
func (s *Service) RetireKEK(ctx context.Context, c Caller, name string, generation uint32) error {
	if err := c.may(ActionRetireKEK); err != nil {
		return err
	}
	b, r, err := s.rotator(name)
	if err != nil {
		return err
	}
	return s.recorded(ctx, c, ActionRetireKEK, name, func() (string, error) {
		detail := fmt.Sprintf("generation %d", generation)
		n, err := s.o.Keys.UnderKEK(ctx, b.Info().ID, generation)
		if err != nil {
			return detail, err
		}
		if n > 0 {
			return detail, fault.New(fault.Conflict, fmt.Sprintf("%d key versions are under it still: seal them anew first", n))
		}
		slots, err := s.o.Root.Slots(ctx)
		if err != nil {
			return detail, err
		}
		for _, slot := range slots {
			if g, ok := r.(sealedGeneration); ok && slot.Device() == b.Info().ID && g.SealedGeneration(slot.Sealed) == generation {
				return detail, fault.New(fault.Conflict, "a slot of the root is under it still: add another on the same device, and remove this one")
			}
		}
		return detail, r.RetireKEK(ctx, generation)
	})
}

// sealedGeneration is a backend that tells under which generation of its KEK it has sealed something for others.
type sealedGeneration interface {
	SealedGeneration(sealed []byte) uint32
}

// recorded carries out an act on a device between two entries: that it begins, durable before anything is done, and how it ended.
func (s *Service) recorded(ctx context.Context, c Caller, action, name string, act func() (detail string, err error)) error {
	start := s.o.Now()
	entry := func(outcome, detail string) error {
		_, err := s.o.Recorder.Record(context.WithoutCancel(ctx), &audit.Entry{Tenant: c.Principal.Tenant, Principal: c.Principal.ID, Action: action, Resource: "backend:" + name,
			RequestID: c.RequestID, Outcome: outcome, Detail: detail, Latency: s.o.Now().Sub(start)})
		return err
	}
	if err := entry("ok", "begins"); err != nil {
		return err
	}
	detail, err := act()
	outcome := "ok"
	if err != nil {
		outcome = string(fault.CodeOf(err))
	}
	return errors.Join(err, entry(outcome, detail))
}

// Follow brings this node to the root of the store: who follows the news calls it for cluster.KindRoot.
func (s *Service) Follow(ctx context.Context) error {
	return s.o.Root.Follow(ctx, root.Caller{Principal: jobs.System})
}

// params of a job.
type params struct {
	Root    uint32 `json:"root,omitempty"`    // generation that was new when the job was made
	Backend string `json:"backend,omitempty"` // identity; "": all
	Name    string `json:"name,omitempty"`    // of the backend, as it was configured then
}

// position is a job's cursor.
type position struct {
	Key       uuid.UUID `json:"key"`
	Version   uint32    `json:"version"`
	Total     int64     `json:"total"`
	Seen      int64     `json:"seen"`
	Resealed  int64     `json:"resealed"`
	Failed    int64     `json:"failed"`
	Elsewhere int64     `json:"elsewhere"`
	Walked    bool      `json:"walked"` // to the end, once
}
