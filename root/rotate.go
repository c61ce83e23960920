package root

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// MaxEarlier is how many earlier roots are kept at most: each waits for the re-sealing of what hangs on it.
const MaxEarlier = 8

// settleTime is how long the store is asked whether a rotation took place whose record did not say.
const settleTime = 5 * time.Second

// Rotation says how the new root is to be opened.
type Rotation struct {
	// Slots are made anew for people: a passphrase, a key file, shares. Each takes the place of the slot in Replaces, and its label when it has none
	// of its own; uuid.Nil: of none.
	Slots []Replacement
	// Drop names the slots that are given up. Every slot is replaced, sealed anew by its device, or named here.
	Drop []uuid.UUID
	// Follow leaves the new root sealed under the old one until EndFollow, so that nodes that run can take it over. Who knows the old root and reads the
	// store meanwhile has the new one too: not for a root that is known to others.
	Follow bool
}

// Replacement is a slot that takes the place of another.
type Replacement struct {
	NewSlot
	Replaces uuid.UUID
}

// Rotated is what a rotation made.
type Rotated struct {
	Generation uint32
	Slots      []*Added // oldest first, shares with those that have some
	Dropped    []*Slot
}

// Rotate makes a new root and takes the place of all slots with it, in one transaction: those on devices that are here are sealed anew by
// them, the others as r says. A slot for which there is nothing is fault.Conflict, and the message names all of them, unless it is given up. The root
// before stays in the keyring until Retire. fault.Locked while locked; others are those of AddSlot.
func (k *Keeper) Rotate(ctx context.Context, who Caller, r Rotation) (*Rotated, error) {
	start := time.Now()
	for i := range r.Slots {
		k.settle(&r.Slots[i].NewSlot)
	}
	var done *Rotated
	err := k.alone(ctx, func() (err error) {
		done, err = k.rotate(ctx, start, who, r)
		return err
	})
	if err != nil {
		return nil, k.denied(ctx, start, who, ActionRotate, uuid.Nil, "", err)
	}
	return done, nil
}

func (k *Keeper) rotate(ctx context.Context, start time.Time, who Caller, r Rotation) (*Rotated, error) {
	held, from, err := k.copyRoot()
	if err != nil {
		return nil, err
	}
	defer held.Wipe()
	newest, kept, err := k.store.Keyring(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the keyring: %w", err)
	}
	if newest != from {
		return nil, errRotated
	}
	slots, err := k.store.Slots(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the root slots: %w", err)
	}
	fresh := make(secret.Bytes, Size)
	rand.Read(fresh) // never fails (crypto/rand, since Go 1.24)
	made, err := k.remake(ctx, slots, r, from+1, fresh)
	if err != nil {
		fresh.Wipe()
		return nil, err
	}
	next, entries, err := k.successor(from, fresh, kept, r.Follow)
	if err != nil {
		next.wipe()
		return nil, err
	}
	all := make([]*Slot, 0, len(made.Slots))
	for _, a := range made.Slots {
		all = append(all, a.Slot)
	}
	detail := fmt.Sprintf("generation %d, slots %d, dropped %d", made.Generation, len(made.Slots), len(made.Dropped))
	err = k.record(ctx, start, who, ActionRotate, uuid.Nil, detail, nil, k.store.ReplaceRoot(from, all, entries))
	if unrecorded := new(errUnrecorded); errors.As(err, unrecorded) && k.tookPlace(ctx, all) {
		err = nil
	}
	if err != nil {
		next.wipe()
		return nil, err
	}
	return made, k.open(next)
}

// tookPlace asks the store whether the slots are there after a record of which nobody knows. Were it left open, shares that nobody was
// shown could be all that opens the root.
func (k *Keeper) tookPlace(ctx context.Context, slots []*Slot) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	for ctx.Err() == nil {
		now, err := k.store.Slots(ctx)
		if err == nil && slices.ContainsFunc(now, func(s *Slot) bool { return s.ID == slots[0].ID }) {
			return true
		}
		select {
		case <-ctx.Done():
		case <-time.After(failDelay):
		}
	}
	return false
}

// remake makes the slots of the new root.
func (k *Keeper) remake(ctx context.Context, slots []*Slot, r Rotation, generation uint32, fresh secret.Bytes) (*Rotated, error) {
	out := &Rotated{Generation: generation}
	byID := make(map[uuid.UUID]*Slot, len(slots))
	for _, s := range slots {
		byID[s.ID] = s
	}
	used := map[uuid.UUID]bool{}
	for _, id := range r.Drop {
		s := byID[id]
		if s == nil || used[id] {
			return nil, fault.New(fault.SlotNotFound, "no such root slot, or it is named twice")
		}
		used[id] = true
		out.Dropped = append(out.Dropped, s)
	}
	for i := range r.Slots {
		if id := r.Slots[i].Replaces; id != uuid.Nil {
			s := byID[id]
			if s == nil || used[id] {
				return nil, fault.New(fault.SlotNotFound, "no such root slot, or it is named twice")
			}
			used[id] = true
			if r.Slots[i].Label == "" {
				r.Slots[i].Label = s.Label
			}
		}
	}
	// The devices first: who is not there is told before anything slow is done.
	var left []string
	var again []Replacement
	for _, s := range slots {
		if used[s.ID] {
			continue
		}
		name, reason := k.reachable(s)
		if name == "" {
			left = append(left, s.ID.String()+" ("+kindWord(s.Kind)+reason+")")
			continue
		}
		again = append(again, Replacement{NewSlot: NewSlot{Kind: s.Kind, Label: s.Label, Device: name}})
	}
	if len(left) > 0 {
		return nil, fault.New(fault.Conflict, "these root slots would be lost: replace them, or name them to be dropped: "+strings.Join(left, ", "))
	}
	again = append(again, r.Slots...)
	switch {
	case len(again) == 0:
		return nil, fault.New(fault.LastSlot, "the new root needs a slot that opens it")
	case len(again) > MaxSlots:
		return nil, fault.New(fault.Conflict, fmt.Sprintf("a root has at most %d slots", MaxSlots))
	}
	for _, n := range again {
		a, err := k.make(ctx, n.NewSlot, generation, fresh)
		if err != nil {
			return nil, err
		}
		out.Slots = append(out.Slots, a)
	}
	return out, nil
}

// reachable gives the name of the attached device that a slot is on; "" and why when there is none.
func (k *Keeper) reachable(s *Slot) (name, reason string) {
	if !s.Kind.OnDevice() {
		return "", ""
	}
	id := s.Device()
	k.mu.RLock()
	defer k.mu.RUnlock()
	for n, a := range k.devices {
		if id != "" && a.kind == s.Kind && a.device.ID() == id && (name == "" || n < name) {
			name = n
		}
	}
	return name, ", its device is not here"
}

// successor makes what the Keeper holds after a rotation, and the keyring that goes with it.
func (k *Keeper) successor(from uint32, fresh secret.Bytes, stored []*Kept, follow bool) (ring, []*Kept, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	next := ring{root: fresh, generation: from + 1, earlier: map[uint32]secret.Bytes{from: slices.Clone(k.root)}, carried: map[string]secret.Bytes{}}
	for generation, old := range k.earlier {
		if old == nil {
			return next, nil, fault.New(fault.KeyMaterial, "an earlier root does not open: re-seal what can be, and retire it, before the next rotation")
		}
		next.earlier[generation] = slices.Clone(old)
	}
	if len(next.earlier) > MaxEarlier {
		return next, nil, fault.New(fault.Conflict, fmt.Sprintf("%d earlier roots are kept already: let the re-sealing finish first", MaxEarlier))
	}
	labels := slices.Clone(k.carry)
	for label := range k.carried {
		if !slices.Contains(labels, label) {
			labels = append(labels, label)
		}
	}
	at := k.now().UTC().Truncate(time.Microsecond)
	var out []*Kept
	add := func(under, value secret.Bytes, e Kept) error {
		e.CreatedAt = at
		sealed, err := keep(under, value, e)
		out = append(out, sealed)
		return err
	}
	for _, label := range labels {
		key, err := k.derive(label)
		if err != nil {
			return next, nil, err
		}
		next.carried[label] = key
		if err := add(fresh, key, Kept{Kind: KeptCarried, Under: from + 1, Label: label}); err != nil {
			return next, nil, err
		}
	}
	for generation, old := range next.earlier {
		if err := add(fresh, old, Kept{Kind: KeptPrevious, Under: from + 1, Generation: generation}); err != nil {
			return next, nil, err
		}
	}
	if follow {
		for _, e := range stored { // of a rotation just before: who sleeps through both follows twice
			if e.Kind == KeptNext {
				out = append(out, e)
			}
		}
		if err := add(k.root, fresh, Kept{Kind: KeptNext, Under: from, Generation: from + 1}); err != nil {
			return next, nil, err
		}
	}
	return next, out, nil
}

// Earlier lists the generations that are kept beside the newest one, upward.
func (k *Keeper) Earlier() []uint32 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	out := make([]uint32, 0, len(k.earlier))
	for generation := range k.earlier {
		out = append(out, generation)
	}
	slices.Sort(out)
	return out
}

// Retire erases the earlier roots, for good: what is still sealed under them cannot be opened by anybody any more. It is for the caller to know that
// nothing is. generation is the newest, as the caller knows it; else fault.Conflict. No error when there are none.
func (k *Keeper) Retire(ctx context.Context, who Caller, generation uint32) error {
	err := k.forget(ctx, who, ActionRetire, generation, KeptPrevious, KeptNext)
	if err == nil {
		k.dropEarlier(nil)
	}
	return err
}

// EndFollow takes away what nodes follow a rotation by: from now on the old root gives nothing of the new one. Errors are those of Retire.
func (k *Keeper) EndFollow(ctx context.Context, who Caller, generation uint32) error {
	_, kept, err := k.store.Keyring(ctx)
	if err != nil {
		return fmt.Errorf("reading the keyring: %w", err)
	}
	if !slices.ContainsFunc(kept, func(e *Kept) bool { return e.Kind == KeptNext }) {
		return nil
	}
	return k.forget(ctx, who, ActionEndFollow, generation, KeptNext)
}

func (k *Keeper) forget(ctx context.Context, who Caller, action string, generation uint32, kinds ...KeptKind) error {
	start := time.Now()
	detail := fmt.Sprintf("generation %d", generation)
	err := k.alone(ctx, func() error {
		if now, err := k.Generation(); err != nil {
			return err
		} else if now != generation {
			return errRotated
		}
		return k.record(ctx, start, who, action, uuid.Nil, detail, nil, k.store.ForgetKept(generation, kinds...))
	})
	if err != nil {
		return k.denied(ctx, start, who, action, uuid.Nil, detail, err)
	}
	return nil
}

// dropEarlier wipes the earlier roots but those in keep.
func (k *Keeper) dropEarlier(keep []uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for generation, old := range k.earlier {
		if !slices.Contains(keep, generation) {
			old.Wipe()
			delete(k.earlier, generation)
		}
	}
}

// Follow brings an open Keeper to where the store is, after another node replaced or retired a root. The way to a newer root is what Rotation.Follow left, or a
// slot on a device that is here. Where neither opens it the root is locked again, as after a start: nothing must be sealed any more under a root that is about to
// be retired. The devices are tried on, as AutoUnlock does. No error while locked.
func (k *Keeper) Follow(ctx context.Context, who Caller) error {
	for {
		held, generation, err := k.copyRoot()
		if err != nil {
			return nil //nolint:nilerr // locked: the next unlocking opens the newest
		}
		newest, kept, err := k.store.Keyring(ctx)
		if err != nil {
			held.Wipe()
			return fmt.Errorf("reading the keyring: %w", err)
		}
		if newest <= generation {
			held.Wipe()
			if newest == generation {
				k.dropEarlier(previous(kept))
			}
			return nil
		}
		done, err := k.advance(ctx, who, held, generation, newest, kept)
		if err != nil || done {
			return err
		}
	}
}

func previous(kept []*Kept) (out []uint32) {
	for _, e := range kept {
		if e.Kind == KeptPrevious {
			out = append(out, e.Generation)
		}
	}
	return out
}

// advance goes from a root that is held to the newest, or locks. It takes held over. done is false when somebody else moved the root meanwhile.
func (k *Keeper) advance(ctx context.Context, who Caller, held secret.Bytes, generation, newest uint32, kept []*Kept) (done bool, err error) {
	start := time.Now()
	select {
	case k.turn <- struct{}{}: // not in the queue: a flood of guesses must not keep a node behind
		defer func() { <-k.turn }()
	case <-ctx.Done():
		held.Wipe()
		return false, fault.Wrap(fault.Timeout, "the deadline passed before the root had its turn", context.Cause(ctx))
	}
	if now, err := k.Generation(); err != nil || now != generation {
		held.Wipe()
		return false, nil //nolint:nilerr // locked, or moved on: Follow looks again
	}
	for generation < newest {
		i := slices.IndexFunc(kept, func(e *Kept) bool { return e.Kind == KeptNext && e.Under == generation && e.Generation > generation })
		if i < 0 {
			break
		}
		next, err := kept[i].open(held)
		if err != nil {
			k.log.LogAttrs(ctx, slog.LevelError, "an entry of the keyring is damaged", slog.String("kind", string(KeptNext)), slog.Any("error", err))
			break
		}
		held.Wipe()
		held, generation = next, kept[i].Generation
	}
	if generation < newest {
		held.Wipe()
		slots, err := k.store.Slots(ctx)
		if err != nil {
			return false, fmt.Errorf("reading the root slots: %w", err)
		}
		slots = slices.DeleteFunc(slots, func(s *Slot) bool { return !s.Kind.OnDevice() || s.Generation != newest })
		var slot *Slot
		if len(slots) > 0 {
			slot, held, err = k.tryDevices(ctx, slots)
		}
		if slot == nil {
			k.lock(who)
			k.log.LogAttrs(ctx, slog.LevelError, "the root was replaced, and nothing here opens the new one: the service is locked", slog.Uint64("generation", uint64(newest)), slog.Any("error", err))
			return true, nil
		}
	}
	fresh := k.completed(ctx, newest, held, kept)
	if err := k.record(ctx, start, who, ActionFollow, uuid.Nil, fmt.Sprintf("generation %d", newest), nil); err != nil {
		fresh.wipe()
		return false, fmt.Errorf("recording that a new root was taken over: %w", err)
	}
	k.log.LogAttrs(ctx, slog.LevelInfo, "the root was replaced, and the new one taken over", slog.Uint64("generation", uint64(newest)))
	return true, k.open(fresh)
}

// lock forgets everything, as before the first opening, and goes on as AutoUnlock.
func (k *Keeper) lock(who Caller) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.root == nil {
		return
	}
	k.ring.wipe()
	k.ring = ring{}
	k.opened = make(chan struct{})
	if !k.closed {
		opened := k.opened
		k.tries.Go(func() { k.autoUnlock(k.life, who, opened) })
	}
}

// RenewDevice seals the root anew in every slot on the device of the identity, after the device has another key for that. The slots get new ids.
func (k *Keeper) RenewDevice(ctx context.Context, who Caller, device string) error {
	slots, err := k.store.Slots(ctx)
	if err != nil {
		return fmt.Errorf("reading the root slots: %w", err)
	}
	for _, s := range slots {
		if device == "" || s.Device() != device {
			continue
		}
		name, _ := k.reachable(s)
		if name == "" {
			return errNoDevice
		}
		if err := k.renew(ctx, who, s, name); err != nil {
			return err
		}
	}
	return nil
}

func (k *Keeper) renew(ctx context.Context, who Caller, s *Slot, name string) error {
	start := time.Now()
	err := k.alone(ctx, func() error {
		held, generation, err := k.copyRoot()
		if err != nil {
			return err
		}
		defer held.Wipe()
		added, err := k.make(ctx, NewSlot{Kind: s.Kind, Label: s.Label, Device: name}, generation, held)
		if err != nil {
			return err
		}
		return k.record(ctx, start, who, ActionSlotAdd, added.Slot.ID, "in place of "+s.ID.String(), nil, k.store.InsertSlot(added.Slot), k.store.DeleteSlot(s.ID))
	})
	if err != nil {
		return k.denied(ctx, start, who, ActionSlotAdd, uuid.Nil, kindWord(s.Kind), err)
	}
	return nil
}
