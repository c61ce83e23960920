// Package root keeps the one secret of a deployment: 256 random bits from which the sealing key of the software backend,
// the pepper of API keys and the backup key are derived by HKDF-SHA-256 (RFC 5869), a label each. The root itself encrypts
// nothing. It lies in the store only inside slots, as in LUKS: any one slot opens it. A slot on a device (Device) opens without anybody's doing, as
// soon as the device is there.
//
// The root can be replaced by a new one (Keeper.Rotate), which is the next generation. The one before stays at hand, sealed under the new one in the keyring,
// until nothing needs it any more (Keeper.Retire).
//
// It trusts the memory of its own process, the recorder to be durable, and of a device that it tells the root to nobody else. It does not trust the store with more than
// keeping: who can write there can lose slots, but not open one, weaken one, or put in another root unnoticed by the keys
// that hang on it.
package root

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
)

// Kind is the kind of a slot.
type Kind string

const (
	KindPassphrase Kind = "passphrase" // Argon2id (RFC 9106)
	KindKeyFile    Kind = "key-file"
	KindShamir     Kind = "shamir" // M of N shares
	KindHSM        Kind = "hsm"    // sealed by a PKCS#11 token: opens by itself where the token is
	KindTPM        Kind = "tpm"    // sealed by the TPM of one machine: opens by itself there, and under a policy only as the machine was approved to boot
)

// Slot is one way to open the root.
type Slot struct {
	ID        uuid.UUID
	Kind      Kind
	Label     string
	Params    []byte // JSON: what the kind needs to know in clear (salt, costs, M and N, the device)
	Sealed    []byte // the root, sealed under the slot's key or by its device
	CreatedAt time.Time
	// Generation of the root in it, from 1; 0 is taken for 1. It is bound to what is sealed.
	Generation uint32
}

// KeptKind says what an entry of the keyring is for.
type KeptKind string

const (
	KeptPrevious KeptKind = "previous" // an earlier root under the newest, for what is still sealed under it
	KeptCarried  KeptKind = "carried"  // a key of a label that cannot be made anew, under the newest root
	KeptNext     KeptKind = "next"     // a later root under the one before it, for running nodes to follow
)

// Kept is an entry of the keyring: bytes sealed under a root.
type Kept struct {
	Kind       KeptKind
	Under      uint32 // generation of the root that it is sealed under
	Generation uint32 // of the root in it; 0 when it is carried
	Label      string // of what is carried
	Sealed     []byte
	CreatedAt  time.Time
}

// Store keeps the slots. The methods that change something prepare a Change for the audit log to carry out.
type Store interface {
	// Slots gives all slots of the newest generation, oldest first.
	Slots(ctx context.Context) ([]*Slot, error)
	// InsertSlot adds a slot. fault.Conflict when its generation is not the newest.
	InsertSlot(s *Slot) audit.Change
	// InsertFirstSlot adds a slot to a store that has none, else fault.Conflict: decided inside the transaction, so that
	// two nodes that start on an empty store at once cannot make two roots.
	InsertFirstSlot(s *Slot) audit.Change
	// Keyring gives the newest generation, 1 as long as the root was never replaced, and all that is kept, by kind, generation and label.
	Keyring(ctx context.Context) (generation uint32, kept []*Kept, err error)
	// ReplaceRoot takes the place of all slots and of all that is kept, and makes the generation after from the newest.
	// fault.Conflict when from is not the newest; nothing is changed then. It has a slot at least.
	ReplaceRoot(from uint32, slots []*Slot, kept []*Kept) audit.Change
	// ForgetKept erases what is kept of the kinds. fault.Conflict when generation is not the newest.
	ForgetKept(generation uint32, kinds ...KeptKind) audit.Change
	// DeleteSlot fails with fault.SlotNotFound, or with fault.LastSlot when it is the only one: both decided inside the
	// transaction.
	DeleteSlot(id uuid.UUID) audit.Change
}
