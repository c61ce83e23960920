package api

import (
	"context"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
)

func (c *call) rootCaller() root.Caller {
	who := root.Caller{Principal: "anonymous", RequestID: c.id}
	if c.principal != nil {
		who.Principal, who.Judge = c.principal.ID, c.judge()
	}
	return who
}

func wireSlot(s *root.Slot) wire.Slot {
	return wire.Slot{ID: s.ID.String(), Kind: string(s.Kind), Label: s.Label, Device: s.Device(), CreatedAt: s.CreatedAt.UTC()}
}

func (s *Server) listSlots(ctx context.Context, _ *call, _ *wire.Empty) (wire.List[wire.Slot], error) {
	list, err := s.root.Slots(ctx)
	if err != nil {
		return wire.List[wire.Slot]{}, err
	}
	out := wire.List[wire.Slot]{Items: make([]wire.Slot, len(list))}
	for i, slot := range list {
		out.Items[i] = wireSlot(slot)
	}
	return out, nil
}

func (s *Server) addSlot(ctx context.Context, c *call, r *wire.AddSlot) (wire.AddedSlot, error) {
	n, err := newSlot(r)
	if err != nil {
		return wire.AddedSlot{}, err
	}
	defer n.Passphrase.Wipe()
	added, err := s.root.AddSlot(ctx, c.rootCaller(), n)
	if err != nil {
		return wire.AddedSlot{}, err
	}
	return wire.AddedSlot{Slot: wireSlot(added.Slot), Shares: added.Shares}, nil
}

func (s *Server) removeSlot(ctx context.Context, c *call, _ *wire.Empty) (wire.Empty, error) {
	id, err := c.pathID("id", fault.New(fault.SlotNotFound, "no such root slot"))
	if err != nil {
		return wire.Empty{}, err
	}
	return wire.Empty{}, s.root.RemoveSlot(ctx, c.rootCaller(), id)
}

// unlock opens the root. It needs no credential: what it carries is one. The keeper bounds the attempts.
func (s *Server) unlock(ctx context.Context, c *call, r *wire.Unlock) (wire.Unlocked, error) {
	n := 0
	for _, given := range []bool{r.Passphrase != "", r.KeyFile != nil, len(r.Shares) > 0} {
		if given {
			n++
		}
	}
	if n != 1 {
		return wire.Unlocked{}, fault.New(fault.MissingField, "send exactly one of the fields passphrase, key_file and shares")
	}
	var missing int
	var err error
	switch who := c.rootCaller(); {
	case r.Passphrase != "":
		p := secret.Bytes(r.Passphrase)
		err = s.root.UnlockPassphrase(ctx, who, p)
		p.Wipe()
	case r.KeyFile != nil:
		err = s.root.UnlockKeyFile(ctx, who, secret.Bytes(r.KeyFile))
	default:
		missing, err = s.root.UnlockShares(ctx, who, r.Shares)
	}
	if err != nil {
		return wire.Unlocked{}, err
	}
	return wire.Unlocked{Locked: missing > 0, SharesMissing: missing}, nil
}
