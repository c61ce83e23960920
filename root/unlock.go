package root

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// errWrong is the one answer to every secret that opens nothing.
var errWrong = fault.New(fault.WrongSecret, "no root slot opens with what was given")

// UnlockPassphrase opens the root by a passphrase slot. It tries each of them, one Argon2id run each. fault.WrongSecret
// when none opens, fault.NotLocked when the root is open, fault.Overloaded when too many attempts wait.
func (k *Keeper) UnlockPassphrase(ctx context.Context, who Caller, passphrase secret.Bytes) error {
	return k.unlock(ctx, who, KindPassphrase, func(slots []*Slot) (*Slot, secret.Bytes, error) {
		if len(passphrase) < MinPassphrase || len(passphrase) > MaxPassphrase {
			return nil, nil, errWrong
		}
		for _, s := range slots {
			if s.Kind != KindPassphrase {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, nil, fault.Wrap(fault.Timeout, "the deadline passed before every slot was tried", err)
			}
			p, err := readPassphraseParams(s.Params)
			if err != nil {
				k.damaged(ctx, s, err)
				continue
			}
			ikm := stretch(p, passphrase)
			root, err := s.open(ikm)
			ikm.Wipe()
			if err == nil {
				return s, root, nil
			}
		}
		return nil, nil, errWrong
	})
}

// UnlockKeyFile opens the root by the secret of a key file (see LoadKeyFile). Errors are those of UnlockPassphrase.
func (k *Keeper) UnlockKeyFile(ctx context.Context, who Caller, key secret.Bytes) error {
	return k.unlock(ctx, who, KindKeyFile, func(slots []*Slot) (*Slot, secret.Bytes, error) {
		if len(key) != KeyFileSize {
			return nil, nil, errWrong
		}
		for _, s := range slots {
			if s.Kind != KindKeyFile {
				continue
			}
			if err := readKeyFileParams(s.Params); err != nil {
				k.damaged(ctx, s, err)
				continue
			}
			if root, err := s.open(key); err == nil {
				return s, root, nil
			}
		}
		return nil, nil, errWrong
	})
}

// UnlockShares takes shares of Shamir slots, in one call or in many, and opens the root when a slot has its threshold.
// missing says how many more shares of this slot are needed: 0 when the root is open. Shares of earlier calls are kept for
// Options.ShareWindow from the first of them. A call with a malformed share is fault.BadEncoding, one with a share of no slot
// fault.WrongSecret; nothing of such a call is kept. Other errors are those of UnlockPassphrase.
func (k *Keeper) UnlockShares(ctx context.Context, who Caller, texts []string) (missing int, err error) {
	start := time.Now()
	err = k.unlock(ctx, who, KindShamir, func(slots []*Slot) (*Slot, secret.Bytes, error) {
		if len(texts) == 0 || len(texts) > MaxShares {
			return nil, nil, fault.New(fault.BadSize, fmt.Sprintf("one call takes 1 to %d shares", MaxShares))
		}
		got := make([]*share, 0, len(texts))
		for _, t := range texts {
			s, err := parseShare(t)
			if err != nil {
				wipeAll(got)
				return nil, nil, err
			}
			got = append(got, s)
		}
		slot, root, left, err := k.joinShares(ctx, start, who, slots, got)
		missing = left
		return slot, root, err
	})
	return missing, err
}

// unlock runs one attempt: alone, never faster than failDelay when it fails, recorded either way. try gives the root and
// the slot that opened, or neither and no error when more shares are needed.
func (k *Keeper) unlock(ctx context.Context, who Caller, kind Kind, try func([]*Slot) (*Slot, secret.Bytes, error)) error {
	if !k.Locked() {
		return errNotLocked
	}
	start := time.Now()
	err := k.alone(ctx, func() (err error) {
		if !k.Locked() {
			return errUnseen{errNotLocked}
		}
		began := time.Now()
		defer func() {
			if err != nil {
				// Whatever went wrong, and not cut short by the caller's going away: else guesses, or the entries that they leave,
				// would be cheap again.
				time.Sleep(failDelay - time.Since(began))
			}
		}()
		slots, err := k.store.Slots(ctx)
		if err != nil {
			return fmt.Errorf("reading the root slots: %w", err)
		}
		slot, root, err := try(slots)
		if err != nil || root == nil {
			return err
		}
		fresh, err := k.complete(ctx, slot.Generation, root)
		if err != nil {
			return err
		}
		if err := k.record(ctx, start, who, ActionUnlock, slot.ID, string(kind), nil); err != nil {
			fresh.wipe()
			return err
		}
		return k.open(fresh)
	})
	if err != nil {
		return k.denied(ctx, start, who, ActionUnlock, uuid.Nil, string(kind), err)
	}
	return nil
}

var errNotLocked = fault.New(fault.NotLocked, "the service is not locked")

// damaged reports a slot that cannot be tried. The caller is told no more than errWrong.
func (k *Keeper) damaged(ctx context.Context, s *Slot, err error) {
	k.log.LogAttrs(ctx, slog.LevelWarn, "root slot is damaged and was passed over",
		slog.String("slot", s.ID.String()), slog.String("kind", kindWord(s.Kind)), slog.Any("error", err))
}
