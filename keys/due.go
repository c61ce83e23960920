package keys

import (
	"time"

	"github.com/keywright/keywright/backend"
)

// DueAt is when Store.KeysDue begins to name the key by the clock alone: its deletion or, when none is scheduled, its activation while it is
// pre-active, and its next rotation or its expiry while it is active. Zero: never. (A key in another state waits for nothing. Were it named, those
// who wait would in time fill every page.)
func (k *Key) DueAt() time.Time {
	switch {
	case k.State == StateDestroyed:
		return time.Time{}
	case !k.DeletionAt.IsZero():
		return k.DeletionAt
	case k.State == StatePreActive:
		return k.Policy.ActivatesAt
	case k.State == StateActive:
		return earlier(k.periodEnds(), k.Policy.ExpiresAt)
	}
	return time.Time{}
}

// NextRotationAt is when an active key gets its next version by the clock; zero when its policy asks for none, or it expires before.
func (k *Key) NextRotationAt() time.Time {
	at := k.periodEnds()
	if k.State != StateActive || at.IsZero() || !k.Policy.ExpiresAt.IsZero() && !at.Before(k.Policy.ExpiresAt) {
		return time.Time{}
	}
	return at
}

// periodEnds is when the rotation period of the primary version is over. It begins with the version, and not before the key is activated.
func (k *Key) periodEnds() time.Time {
	if k.Policy.RotationPeriod <= 0 {
		return time.Time{}
	}
	begun := k.RotatedAt
	if begun.IsZero() {
		begun = k.CreatedAt
	}
	if k.Policy.ActivatesAt.After(begun) {
		begun = k.Policy.ActivatesAt
	}
	return begun.Add(k.Policy.RotationPeriod)
}

// earlier gives the earlier of two times; zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// RotateAfter gives how many messages and bytes of its primary version make the key due for rotation; 0: no number of them. A generated key is
// rotated at three quarters of what its algorithm bears, so that there is time to do it before it refuses.
func (k *Key) RotateAfter() (messages, bytes int64) {
	if !k.Origin.ours() {
		return 0, 0
	}
	if info, ok := backend.Lookup(k.Algorithm); ok {
		messages, bytes = info.MaxMessages/4*3, info.MaxBytes/4*3
	}
	return lesser(k.Policy.RotateAfterMessages, messages), lesser(k.Policy.RotateAfterBytes, bytes)
}

// lesser gives the lesser of two bounds; 0 is none.
func lesser(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// usedUp reports whether the version has protected so much that its key is due for rotation.
func (k *Key) usedUp(v *Version) bool {
	messages, bytes := k.RotateAfter()
	return messages > 0 && v.Messages >= messages || bytes > 0 && v.Bytes >= bytes
}
