package api

import (
	"context"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/rekey"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
)

// Rekey replaces the keys over keys. *rekey.Service is the implementation.
type Rekey interface {
	Root(ctx context.Context, c rekey.Caller) (rekey.State, error)
	RotateRoot(ctx context.Context, c rekey.Caller, r root.Rotation, noFollow bool) (*root.Rotated, *jobs.Job, error)
	RetireRoot(ctx context.Context, c rekey.Caller, lose int64) error
	Reseal(ctx context.Context, c rekey.Caller, backend string) (*jobs.Job, error)
	KEKs(ctx context.Context, c rekey.Caller, backend string) ([]rekey.KEK, error)
	RotateKEK(ctx context.Context, c rekey.Caller, backend string) (uint32, *jobs.Job, error)
	RetireKEK(ctx context.Context, c rekey.Caller, backend string, generation uint32) error
}

func (c *call) rekeyCaller() rekey.Caller {
	return rekey.Caller{Principal: c.principal, RequestID: c.id}
}

func optionalJob(j *jobs.Job) *wire.Job {
	if j == nil {
		return nil
	}
	w := wireJob(j)
	return &w
}

func (s *Server) showRoot(ctx context.Context, c *call, _ *wire.Empty) (wire.Root, error) {
	st, err := s.rekey.Root(ctx, c.rekeyCaller())
	if err != nil {
		return wire.Root{}, err
	}
	if st.Earlier == nil {
		st.Earlier = []uint32{}
	}
	return wire.Root{Generation: st.Generation, Earlier: st.Earlier, Stale: st.Stale}, nil
}

func (s *Server) rotateRoot(ctx context.Context, c *call, r *wire.RotateRoot) (wire.RotatedRoot, error) {
	var in root.Rotation
	if len(r.Slots) > root.MaxSlots || len(r.Drop) > root.MaxSlots {
		return wire.RotatedRoot{}, fault.New(fault.BadSize, "a root has at most 32 slots")
	}
	for i := range r.Slots {
		n, err := newSlot(&r.Slots[i].AddSlot)
		if err != nil {
			return wire.RotatedRoot{}, err
		}
		defer n.Passphrase.Wipe()
		one := root.Replacement{NewSlot: n}
		if id := r.Slots[i].Replaces; id != "" {
			if one.Replaces, err = slotID(id); err != nil {
				return wire.RotatedRoot{}, err
			}
		}
		in.Slots = append(in.Slots, one)
	}
	for _, text := range r.Drop {
		id, err := slotID(text)
		if err != nil {
			return wire.RotatedRoot{}, err
		}
		in.Drop = append(in.Drop, id)
	}
	done, job, err := s.rekey.RotateRoot(ctx, c.rekeyCaller(), in, r.NoFollow)
	if err != nil {
		return wire.RotatedRoot{}, err
	}
	out := wire.RotatedRoot{Generation: done.Generation, Job: optionalJob(job)}
	for _, a := range done.Slots {
		out.Slots = append(out.Slots, wire.AddedSlot{Slot: wireSlot(a.Slot), Shares: a.Shares})
	}
	for _, slot := range done.Dropped {
		out.Dropped = append(out.Dropped, wireSlot(slot))
	}
	return out, nil
}

func slotID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return uuid.Nil, fault.New(fault.SlotNotFound, "no such root slot")
	}
	return id, nil
}

func (s *Server) retireRoot(ctx context.Context, c *call, r *wire.RetireRoot) (wire.Empty, error) {
	return wire.Empty{}, s.rekey.RetireRoot(ctx, c.rekeyCaller(), r.Lose)
}

func (s *Server) resealKeys(ctx context.Context, c *call, r *wire.Reseal) (wire.Job, error) {
	who, err := c.creator()
	if err != nil {
		return wire.Job{}, err
	}
	j, err := s.rekey.Reseal(ctx, rekey.Caller{Principal: who.Principal, RequestID: c.id, Idempotency: who.Idempotency}, r.Backend)
	if err != nil {
		return wire.Job{}, err
	}
	return wireJob(j), nil
}

func (s *Server) listKEKs(ctx context.Context, c *call, _ *wire.Empty) (wire.List[wire.KEK], error) {
	name, err := c.param("name")
	if err != nil {
		return wire.List[wire.KEK]{}, err
	}
	list, err := s.rekey.KEKs(ctx, c.rekeyCaller(), name)
	if err != nil {
		return wire.List[wire.KEK]{}, err
	}
	out := wire.List[wire.KEK]{Items: make([]wire.KEK, len(list))}
	for i, k := range list {
		out.Items[i] = wire.KEK{Name: k.Name, Generation: k.Generation, Newest: k.Newest, Versions: k.Versions}
	}
	return out, nil
}

func (s *Server) rotateKEK(ctx context.Context, c *call, _ *wire.Empty) (wire.RotatedKEK, error) {
	name, err := c.param("name")
	if err != nil {
		return wire.RotatedKEK{}, err
	}
	generation, job, err := s.rekey.RotateKEK(ctx, c.rekeyCaller(), name)
	if err != nil {
		return wire.RotatedKEK{}, err
	}
	return wire.RotatedKEK{Generation: generation, Job: optionalJob(job)}, nil
}

func (s *Server) retireKEK(ctx context.Context, c *call, r *wire.RetireKEK) (wire.Empty, error) {
	name, err := c.param("name")
	if err != nil {
		return wire.Empty{}, err
	}
	return wire.Empty{}, s.rekey.RetireKEK(ctx, c.rekeyCaller(), name, r.Generation)
}

// newSlot reads what a slot is to be made of.
func newSlot(r *wire.AddSlot) (root.NewSlot, error) {
	if r.Device == "" {
		if err := required("kind", r.Kind); err != nil {
			return root.NewSlot{}, err
		}
	}
	n := root.NewSlot{Kind: root.Kind(r.Kind), Label: r.Label, KeyFile: secret.Bytes(r.KeyFile), Device: r.Device}
	// What the kind does not need must not be there: a passphrase sent with the wrong kind would be lost without a word.
	shares := r.Shares != 0 || r.Threshold != 0
	var extra bool
	switch {
	case n.Kind == "" || n.Kind.OnDevice(): // the keeper knows of which kind the device is
		if err := required("device", r.Device); err != nil {
			return root.NewSlot{}, err
		}
		extra = r.Passphrase != "" || r.KeyFile != nil || shares
	case n.Kind == root.KindPassphrase:
		extra = r.KeyFile != nil || shares || r.Device != ""
		n.Passphrase = secret.Bytes(r.Passphrase)
	case n.Kind == root.KindKeyFile:
		extra = r.Passphrase != "" || shares || r.Device != ""
	case n.Kind == root.KindShamir:
		extra = r.Passphrase != "" || r.KeyFile != nil || r.Device != ""
		n.Shares, n.Threshold = r.Shares, r.Threshold
	default:
		return root.NewSlot{}, badField("the field kind must be passphrase, key-file, shamir, hsm or tpm")
	}
	if extra {
		return root.NewSlot{}, fault.New(fault.MissingField, "a slot of this kind takes one secret of its own kind")
	}
	return n, nil
}
