package root

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/secret"
)

// collection keeps the shares that came in until a slot has enough of them. Only shares that a stored slot knows get in, so it
// never holds more than there are. Its zero value is empty. Guarded by Keeper.mu.
type collection struct {
	of    map[uuid.UUID]map[uint8]*share
	timer *time.Timer // set with the first share; wipes all of them when the window ends
	round uint64      // counts resets, so that a timer that fires late leaves the next collection alone
}

// reset wipes and forgets every share.
func (c *collection) reset() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	for _, m := range c.of {
		for _, s := range m {
			s.value.Wipe()
		}
	}
	c.of = nil
	c.round++
}

func wipeAll(shares []*share) {
	for _, s := range shares {
		s.value.Wipe()
	}
}

// joinShares checks the shares against the slots, keeps them, and opens the first slot that has enough. Without one, root
// is nil and missing says how many shares the slot of the first share still needs. The caller holds the turn.
func (k *Keeper) joinShares(ctx context.Context, start time.Time, who Caller, slots []*Slot, got []*share) (slot *Slot, root secret.Bytes, missing int, err error) {
	byID := make(map[uuid.UUID]*Slot, len(slots))
	known := make(map[uuid.UUID]*shamirParams, len(slots))
	for _, s := range slots {
		if s.Kind != KindShamir {
			continue
		}
		p, err := readShamirParams(s.Params)
		if err != nil {
			k.damaged(ctx, s, err)
			continue
		}
		byID[s.ID], known[s.ID] = s, p
	}
	for _, s := range got {
		if p := known[s.slot]; p == nil || !p.takes(s) {
			wipeAll(got)
			return nil, nil, 0, errWrong
		}
	}

	have := k.collect(got)
	defer func() {
		for _, shares := range have {
			wipeAll(shares)
		}
	}()
	for id := range have {
		if len(have[id]) < known[id].Threshold {
			continue
		}
		ikm, err := recoverSecret(known[id].Threshold, have[id])
		if err != nil {
			return nil, nil, 0, err
		}
		root, err := byID[id].open(ikm)
		ikm.Wipe()
		if err != nil {
			// Every share was genuine, so it is the slot that was changed.
			k.damaged(ctx, byID[id], err)
			return nil, nil, 0, errWrong
		}
		return byID[id], root, 0, nil
	}

	first := got[0].slot
	need := known[first].Threshold
	detail := fmt.Sprintf("shares %d of %d", len(have[first]), need)
	if err := k.record(ctx, start, who, ActionUnlock, first, detail, nil); err != nil {
		return nil, nil, 0, err
	}
	return nil, nil, need - len(have[first]), nil
}

// collect adds the shares and gives copies of what there now is of the slots that they belong to: the originals may be
// wiped at any time.
func (k *Keeper) collect(got []*share) map[uuid.UUID][]*share {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := &k.shares
	if c.of == nil {
		c.of = make(map[uuid.UUID]map[uint8]*share)
		if !k.closed { // else k.open will refuse, and nothing is left to end a timer
			round := c.round
			c.timer = time.AfterFunc(k.window, func() { k.forgetShares(round) })
		}
	}
	have := make(map[uuid.UUID][]*share)
	for _, s := range got {
		m := c.of[s.slot]
		if m == nil {
			m = make(map[uint8]*share)
			c.of[s.slot] = m
		}
		m[s.index] = s
		have[s.slot] = nil
	}
	for id := range have {
		for _, s := range c.of[id] {
			c := *s
			c.value = slices.Clone(s.value)
			have[id] = append(have[id], &c)
		}
	}
	return have
}

// forgetShares ends the window of a round.
func (k *Keeper) forgetShares(round uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.shares.round == round {
		k.shares.reset()
	}
}
