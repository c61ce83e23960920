package root

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Actions of this package in the audit log.
const (
	ActionInit       = "root.init"
	ActionSlotAdd    = "root.slot.add"
	ActionSlotRemove = "root.slot.remove"
	ActionUnlock     = "root.unlock"
	ActionRotate     = "root.rotate"
	ActionFollow     = "root.follow"
	ActionRetire     = "root.retire"
	ActionEndFollow  = "root.end-follow"
)

// Bounds of this package.
const (
	Size          = 32   // bytes of the root and of every derived key
	MaxSlots      = 32   // each passphrase slot costs one Argon2id per unlock
	MaxLabel      = 128  // bytes of a slot's label, printable
	MinPassphrase = 8    // bytes
	MaxPassphrase = 1024 // bytes
	maxDeriveName = 255  // bytes of a derivation label
	maxQueue      = 16   // unlock attempts that wait for their turn; more are refused
)

// failDelay is the least time that a failed attempt to unlock takes. Attempts run one at a time, so this bounds guesses,
// and with them the entries that guesses leave in the audit log, to ten a second.
const failDelay = 100 * time.Millisecond

// Options of a Keeper. The zero value is usable.
type Options struct {
	Logger      *slog.Logger     // where damaged slots are reported; slog.Default() when nil
	Now         func() time.Time // for the creation time of slots; time.Now when nil
	Argon2      Cost             // of new passphrase slots; DefaultCost when zero
	ShareWindow time.Duration    // how long collected shares wait for the rest; 15 minutes when zero
	// Carry are the labels whose keys outlive their root: what was made with them cannot be made anew. docs/formats/root-slots.md says which.
	Carry []string
}

// Caller is who asks, as it stands in the audit log.
type Caller struct {
	Principal string // auth.Principal.ID, "system" or "anonymous"
	RequestID string
	Judge     Judge // of slots; nil: the program itself
}

// Judge says whether who asks may do what the audit log calls so, and gives the refusal; nil for a permission. It asks auth.Decide.
type Judge interface{ May(action string) error }

// may asks the judge. Without one the program itself asks.
func (c Caller) may(action string) error {
	if c.Judge == nil {
		return nil
	}
	return c.Judge.May(action)
}

// Keeper holds the root in memory once a slot has opened it, and gives out keys derived from it. It is safe for
// concurrent use. It starts locked.
//
// Whether a caller may change slots is for its Judge to say; the Keeper records who it was.
type Keeper struct {
	store    Store
	recorder audit.Recorder
	log      *slog.Logger
	now      func() time.Time
	cost     Cost
	window   time.Duration
	carry    []string

	turn  chan struct{}   // one place: who holds it may run Argon2id and change the state
	queue chan struct{}   // places to wait for turn
	wake  chan struct{}   // one place: a device has become available
	life  context.Context //nolint:containedctx // of what runs beside the callers; ends with Close
	end   context.CancelFunc
	tries sync.WaitGroup // calls of devices, and AutoUnlock

	mu        sync.RWMutex  // guards all below
	opened    chan struct{} // closed when the root opens
	ring                    // root is nil while locked
	closed    bool
	shares    collection
	devices   map[string]attached  // by configured name
	told      map[onWay]fault.Code // why a slot on a device did not open, as it was logged last
	lastRound fault.Code           // how trying all devices ended, as it was recorded last
}

// New makes a locked Keeper. Its Close wipes what it holds.
func New(store Store, recorder audit.Recorder, o Options) *Keeper {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Argon2 == (Cost{}) {
		o.Argon2 = DefaultCost()
	}
	if o.ShareWindow <= 0 {
		o.ShareWindow = 15 * time.Minute
	}
	life, end := context.WithCancel(context.Background())
	return &Keeper{store: store, recorder: recorder, log: o.Logger, now: o.Now, cost: o.Argon2, window: o.ShareWindow, carry: slices.Clone(o.Carry),
		turn: make(chan struct{}, 1), queue: make(chan struct{}, maxQueue), opened: make(chan struct{}),
		wake: make(chan struct{}, 1), life: life, end: end}
}

var errLocked = fault.New(fault.Locked, "the service is locked: unlock it first")

// Derive gives the 32-byte key of a label: HKDF-SHA-256 (RFC 5869) over the newest root without salt, the label as info; of labels in
// Options.Carry, the key that they had before the root was replaced first. Other labels give unrelated keys. The caller wipes it.
// fault.Locked while the root is not open.
func (k *Keeper) Derive(label string) (secret.Bytes, error) {
	if label == "" || len(label) > maxDeriveName {
		return nil, fault.New(fault.Internal, "a derivation label is empty or too long")
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.root == nil {
		return nil, errLocked
	}
	return k.derive(label)
}

// DeriveAt gives the key of a label under the root of a generation, carried or not. fault.KeyMaterial when the generation is none, or is not kept any
// more; else as Derive.
func (k *Keeper) DeriveAt(label string, generation uint32) (secret.Bytes, error) {
	if label == "" || len(label) > maxDeriveName {
		return nil, fault.New(fault.Internal, "a derivation label is empty or too long")
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.root == nil {
		return nil, errLocked
	}
	held := k.root
	if generation != k.generation {
		held = k.earlier[generation]
	}
	if held == nil {
		return nil, errGone
	}
	return expand(held, label)
}

// Generation of the root that is open: 1 at first, one more with each Rotate. fault.Locked while it is not open.
func (k *Keeper) Generation() (uint32, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.root == nil {
		return 0, errLocked
	}
	return k.generation, nil
}

func expand(root secret.Bytes, label string) (secret.Bytes, error) {
	key, err := hkdf.Key(sha256.New, root, nil, label, Size)
	if err != nil {
		return nil, fmt.Errorf("deriving a key from the root: %w", err)
	}
	return key, nil
}

// Locked reports whether the root is not open.
func (k *Keeper) Locked() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.root == nil
}

// Opened is closed when the root opens. It stays open on a Keeper that is closed while locked. A root that is locked again (see Follow) has a new one.
func (k *Keeper) Opened() <-chan struct{} {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.opened
}

// Close wipes the root and the collected shares, and ends AutoUnlock and the calls of devices. Derived keys that were given out are not affected, nor
// are the devices.
func (k *Keeper) Close() {
	k.end()
	k.mu.Lock()
	k.closed = true
	k.ring.wipe()
	k.ring = ring{}
	k.shares.reset()
	k.mu.Unlock()
	k.tries.Wait()
}

// NewSlot describes a slot to make. Kind decides which of the others are looked at.
type NewSlot struct {
	Kind       Kind
	Label      string       // for people; may be empty
	Passphrase secret.Bytes // KindPassphrase: MinPassphrase to MaxPassphrase bytes, taken as they are
	KeyFile    secret.Bytes // KindKeyFile: KeyFileSize random bytes
	Shares     int          // KindShamir: how many shares to make, Threshold to MaxShares
	Threshold  int          // KindShamir: how many of them open the slot, from MinThreshold
	Device     string       // KindHSM, KindTPM: the configured name of an attached device. Kind may then be "": it is the device's
}

// Added is a slot that was made. Shares are the only copy: they are shown once and kept nowhere.
type Added struct {
	Slot   *Slot
	Shares []string
}

// Init makes a new root with its first slot and opens it. fault.Conflict when the store has a slot already.
func (k *Keeper) Init(ctx context.Context, who Caller, n NewSlot) (*Added, error) {
	start := time.Now()
	k.settle(&n)
	var added *Added
	err := k.alone(ctx, func() error {
		if err := who.may(ActionSlotAdd); err != nil {
			return err
		}
		if !k.Locked() {
			return fault.New(fault.Conflict, "there is a root already")
		}
		slots, err := k.store.Slots(ctx)
		if err != nil {
			return fmt.Errorf("reading the root slots: %w", err)
		}
		if len(slots) > 0 {
			return fault.New(fault.Conflict, "there is a root already")
		}
		fresh := make(secret.Bytes, Size)
		rand.Read(fresh) // never fails (crypto/rand, since Go 1.24)
		if added, err = k.make(ctx, n, 1, fresh); err != nil {
			return err
		}
		if err := k.record(ctx, start, who, ActionInit, added.Slot.ID, string(n.Kind), nil, k.store.InsertFirstSlot(added.Slot)); err != nil {
			fresh.Wipe()
			return err
		}
		return k.open(ring{root: fresh, generation: 1})
	})
	if err != nil {
		return nil, k.denied(ctx, start, who, ActionInit, uuid.Nil, kindWord(n.Kind), err)
	}
	return added, nil
}

// Slots lists the slots, oldest first. It works while locked: nothing in a slot is secret.
func (k *Keeper) Slots(ctx context.Context) ([]*Slot, error) { return k.store.Slots(ctx) }

// AddSlot makes one more way to open the root. fault.Locked while locked. On a device: fault.BackendNotFound when none of the name is
// attached, and its own errors (fault.BackendUnavailable, fault.Unsupported for one that cannot seal, …).
func (k *Keeper) AddSlot(ctx context.Context, who Caller, n NewSlot) (*Added, error) {
	start := time.Now()
	k.settle(&n)
	var added *Added
	err := k.alone(ctx, func() error {
		if err := who.may(ActionSlotAdd); err != nil {
			return err
		}
		held, generation, err := k.copyRoot()
		if err != nil {
			return err
		}
		defer held.Wipe()
		slots, err := k.store.Slots(ctx)
		if err != nil {
			return fmt.Errorf("reading the root slots: %w", err)
		}
		if len(slots) >= MaxSlots {
			return fault.New(fault.Conflict, fmt.Sprintf("there are %d root slots already: remove one first", MaxSlots))
		}
		if added, err = k.make(ctx, n, generation, held); err != nil {
			return err
		}
		return k.record(ctx, start, who, ActionSlotAdd, added.Slot.ID, string(n.Kind), nil, k.store.InsertSlot(added.Slot))
	})
	if err != nil {
		return nil, k.denied(ctx, start, who, ActionSlotAdd, uuid.Nil, kindWord(n.Kind), err)
	}
	return added, nil
}

// RemoveSlot takes a slot away: fault.LastSlot when it is the only one, fault.SlotNotFound, fault.Locked while locked.
// What the slot's secret opens is gone with it; whoever copied the store before still has both.
func (k *Keeper) RemoveSlot(ctx context.Context, who Caller, id uuid.UUID) error {
	start := time.Now()
	err := k.alone(ctx, func() error {
		if err := who.may(ActionSlotRemove); err != nil {
			return err
		}
		if k.Locked() {
			return errLocked
		}
		return k.record(ctx, start, who, ActionSlotRemove, id, "", nil, k.store.DeleteSlot(id))
	})
	if err != nil {
		return k.denied(ctx, start, who, ActionSlotRemove, id, "", err)
	}
	return nil
}
