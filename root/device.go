package root

import (
	"context"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Device seals bytes under a key that never leaves it. Its methods may be called concurrently.
type Device interface {
	// ID is the device's own identity, the same under any configured name and on its replicas, at most maxDeviceID bytes of
	// printable ASCII. It is "" as long as the device has not been reached, and fixed from then on.
	ID() string
	// Seal protects plaintext, at most a kibibyte. binding is authenticated, not stored.
	Seal(ctx context.Context, plaintext, binding []byte) ([]byte, error)
	// Open opens what Seal made with the same binding on the same device. All else is fault.KeyMaterial; fault.BackendUnavailable, Overloaded and
	// Timeout say that the device could not be asked.
	Open(ctx context.Context, sealed, binding []byte) (secret.Bytes, error)
}

// Bounds of device slots.
const (
	maxDeviceID     = 128
	maxDeviceSealed = 16 << 10         // bytes of what a device makes of a root
	deviceTime      = 10 * time.Second // of one call of a device
)

// The times between two rounds of AutoUnlock.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 4 * time.Second
)

// attached is a device that slots can be made on, under its configured name.
type attached struct {
	kind   Kind
	device Device
}

// OnDevice reports whether slots of the kind are on a device, and open without anybody's doing.
func (k Kind) OnDevice() bool { return k == KindHSM || k == KindTPM }

// deviceParams: Device is the identity of the device whose key seals the root.
type deviceParams struct {
	Version int    `json:"v"`
	Device  string `json:"device"`
}

func readDeviceParams(b []byte) (*deviceParams, error) {
	p := new(deviceParams)
	if err := decodeParams(b, p); err != nil {
		return nil, err
	}
	if p.Version != slotVersion || !deviceID(p.Device) {
		return nil, fault.New(fault.KeyMaterial, "the parameters of a device slot are not of a known form")
	}
	return p, nil
}

func deviceID(id string) bool {
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return id != "" && len(id) <= maxDeviceID
}

// Device gives the identity of the device that the slot is on, "" when it is on none or its parameters do not say.
func (s *Slot) Device() string {
	if !s.Kind.OnDevice() {
		return ""
	}
	p, err := readDeviceParams(s.Params)
	if err != nil {
		return ""
	}
	return p.Device
}

// deviceBinding is what the device binds the sealed root to: a label of this use, length-prefixed, and the slot's binding. What the same device
// seals for anything else, or for another slot, does not open as this one.
func (s *Slot) deviceBinding() []byte {
	label := "keywright/v1/root-slot/" + string(s.Kind)
	b := append([]byte{byte(len(label))}, label...)
	return append(b, s.binding()...)
}

// Attach makes a device known under its configured name, for slots of the kind. The Keeper does not close it. A second device of a name takes the place of
// the first. When the root is locked, AutoUnlock tries at once.
func (k *Keeper) Attach(name string, kind Kind, d Device) error {
	if name == "" || !kind.OnDevice() || d == nil {
		return fault.New(fault.Internal, "a device for root slots needs a name and a kind of devices")
	}
	k.mu.Lock()
	if k.devices == nil {
		k.devices = make(map[string]attached)
	}
	k.devices[name] = attached{kind, d}
	k.mu.Unlock()
	k.Wake()
	return nil
}

// DeviceID gives the identity of the device that is attached under a name, "" when there is none or it has not been reached.
func (k *Keeper) DeviceID(name string) string {
	k.mu.RLock()
	a, ok := k.devices[name]
	k.mu.RUnlock()
	if !ok {
		return ""
	}
	return a.device.ID()
}

// Wake makes AutoUnlock try now: a device has become available.
func (k *Keeper) Wake() {
	select {
	case k.wake <- struct{}{}:
	default: // it will be awake in any case
	}
}

// settle fills in the kind of a slot on a device that was named without one.
func (k *Keeper) settle(n *NewSlot) {
	if n.Device == "" || n.Kind != "" {
		return
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	n.Kind = k.devices[n.Device].kind
}

// makeDevice seals root on the device, and proves that it opens again before anybody relies on it.
func (k *Keeper) makeDevice(ctx context.Context, s *Slot, name string, root secret.Bytes) error {
	k.mu.RLock()
	a, ok := k.devices[name]
	k.mu.RUnlock()
	switch {
	case name == "":
		return fault.New(fault.MissingField, "a slot of this kind needs the name of a device")
	case !ok:
		return fault.New(fault.BackendNotFound, "no device of this name is configured that could hold a root slot")
	case a.kind != s.Kind:
		return fault.New(fault.BadField, "the device is of another kind than the slot is to be")
	}
	id := a.device.ID()
	if id == "" {
		return fault.New(fault.BackendUnavailable, "the device has not been reached yet").RetryAfter(time.Second)
	}
	if !deviceID(id) {
		return fault.New(fault.Internal, "the identity of the device cannot be written into a slot")
	}
	var err error
	if s.Params, err = encodeParams(&deviceParams{Version: slotVersion, Device: id}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deviceTime)
	defer cancel()
	if s.Sealed, err = a.device.Seal(ctx, root, s.deviceBinding()); err != nil {
		return fmt.Errorf("sealing the root on the device: %w", err)
	}
	again, err := s.openOn(ctx, a.device)
	if err != nil {
		return fmt.Errorf("opening what the device has sealed: %w", err)
	}
	defer again.Wipe()
	if subtle.ConstantTimeCompare(again, root) != 1 {
		return fault.New(fault.BackendUnavailable, "the device does not give back what it has sealed")
	}
	return nil
}

// openOn gives the root from a slot on its device.
func (s *Slot) openOn(ctx context.Context, d Device) (secret.Bytes, error) {
	if len(s.Sealed) == 0 || len(s.Sealed) > maxDeviceSealed || len(s.Params) > maxParams {
		return nil, fault.New(fault.KeyMaterial, "a root slot is malformed")
	}
	root, err := d.Open(ctx, s.Sealed, s.deviceBinding())
	if err != nil {
		return nil, err
	}
	if len(root) != Size {
		root.Wipe()
		return nil, fault.New(fault.KeyMaterial, "a root slot holds something else than a root")
	}
	return root, nil
}

var errNoDevice = fault.New(fault.BackendUnavailable, "the device of the slot is not configured here, or has not been reached yet")

// UnlockDevices opens the root by a slot whose device is attached and can be reached: all are tried at once, so that one that hangs does not hold up
// another. ctx bounds the waiting; a device has 10 seconds in any case. fault.NotLocked when the root is open, fault.SlotNotFound
// when no slot is on a device, fault.BackendUnavailable when a device could not be asked and no other opened, else fault.KeyMaterial: every
// device was asked, and none opens its slot.
//
// Why a slot did not open is logged, and the failure recorded, when it is another reason than the last time.
func (k *Keeper) UnlockDevices(ctx context.Context, who Caller) error {
	if !k.Locked() {
		return errNotLocked
	}
	start := time.Now()
	all, err := k.store.Slots(ctx)
	if err != nil {
		return fmt.Errorf("reading the root slots: %w", err)
	}
	var slots []*Slot
	for _, s := range all {
		if s.Kind.OnDevice() {
			slots = append(slots, s)
		}
	}
	if len(slots) == 0 {
		return fault.New(fault.SlotNotFound, "no root slot is on a device")
	}
	slot, root, err := k.tryDevices(ctx, slots)
	if err != nil {
		return k.failedRound(ctx, start, who, slots[0].Kind, err)
	}
	select {
	case k.turn <- struct{}{}: // not in the queue: a flood of guesses must not keep the devices out
		defer func() { <-k.turn }()
	case <-ctx.Done():
		root.Wipe()
		return fault.Wrap(fault.Timeout, "the deadline passed before the attempt had its turn", context.Cause(ctx))
	}
	if !k.Locked() {
		root.Wipe()
		return errNotLocked
	}
	fresh, err := k.complete(ctx, slot.Generation, root)
	if err != nil {
		return err
	}
	if err := k.record(ctx, start, who, ActionUnlock, slot.ID, string(slot.Kind), nil); err != nil {
		fresh.wipe()
		return fmt.Errorf("recording the unlocking: %w", err)
	}
	if err := k.open(fresh); err != nil {
		return err
	}
	k.log.LogAttrs(ctx, slog.LevelInfo, "the root was opened by a device", slog.String("slot", slot.ID.String()), slog.String("kind", string(slot.Kind)),
		slog.String("device", slot.Device()))
	return nil
}

// way is a slot with a device that may open it.
type way struct {
	slot   *Slot
	name   string // of the device, as configured; "" when none is here
	device Device
	err    error // why there is none
}

// ways gives every slot with every device that has its identity: one may be reached where another of the same keys is not.
func (k *Keeper) ways(slots []*Slot) []way {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var out []way
	for _, s := range slots {
		p, err := readDeviceParams(s.Params)
		if err != nil {
			out = append(out, way{slot: s, err: err})
			continue
		}
		none := true
		for name, a := range k.devices {
			if a.kind == s.Kind && a.device.ID() == p.Device {
				none = false
				out = append(out, way{slot: s, name: name, device: a.device})
			}
		}
		if none {
			out = append(out, way{slot: s, err: errNoDevice})
		}
	}
	return out
}

// tried is what came of a way: root, or why not. Neither: another one was quicker.
type tried struct {
	way
	root secret.Bytes
	err  error
}

// tryDevices gives the first slot that opens. Calls of the others go on, each to its own end: one that is cut short may cost a device more than one that ends.
func (k *Keeper) tryDevices(ctx context.Context, slots []*Slot) (*Slot, secret.Bytes, error) {
	ways := k.ways(slots)
	results := make(chan tried, len(ways))
	var won atomic.Bool // by whoever has a root first, or by nobody any more
	k.mu.RLock()
	closed := k.closed
	if !closed {
		k.tries.Add(len(ways)) // under mu: Close sets closed before it waits
	}
	k.mu.RUnlock()
	if closed {
		return nil, nil, fault.New(fault.Unavailable, "the service is stopping")
	}
	for _, w := range ways {
		go func() {
			defer k.tries.Done()
			root, err := k.tryDevice(w)
			if err == nil && !won.CompareAndSwap(false, true) {
				root.Wipe()
				root = nil
			}
			results <- tried{w, root, err}
		}()
	}
	code := fault.KeyMaterial
	for range ways {
		select {
		case r := <-results:
			switch {
			case r.root != nil:
				return r.slot, r.root, nil
			case r.err == nil:
				continue
			}
			k.tell(ctx, r)
			if !fault.Has(r.err, fault.KeyMaterial) {
				code = fault.BackendUnavailable
			}
		case <-ctx.Done():
			if won.CompareAndSwap(false, true) {
				return nil, nil, fault.Wrap(fault.BackendUnavailable, "the devices of the root slots did not answer in time", context.Cause(ctx))
			}
			for r := range results { // one has won just now
				if r.root != nil {
					return r.slot, r.root, nil
				}
			}
		}
	}
	if code == fault.KeyMaterial {
		return nil, nil, fault.New(code, "every device of a root slot was asked, and none opens it")
	}
	return nil, nil, fault.New(code, "no root slot opens by its device now")
}

// tryDevice asks a device for a slot's root.
func (k *Keeper) tryDevice(w way) (secret.Bytes, error) {
	if w.device == nil {
		return nil, w.err
	}
	ctx, cancel := context.WithTimeout(k.life, deviceTime)
	defer cancel()
	return w.slot.openOn(ctx, w.device)
}

// onWay is what tell remembers by.
type onWay struct {
	slot uuid.UUID
	name string
}

// tell logs why a slot did not open, once for each reason.
func (k *Keeper) tell(ctx context.Context, r tried) {
	code := fault.CodeOf(r.err)
	k.mu.Lock()
	if k.told == nil {
		k.told = make(map[onWay]fault.Code)
	}
	at := onWay{r.slot.ID, r.name}
	known := k.told[at] == code
	k.told[at] = code
	k.mu.Unlock()
	if known {
		return
	}
	message := "a root slot does not open by its device now"
	if fault.Has(r.err, fault.KeyMaterial) {
		message = "a root slot does not open by its device, which was asked: the slot was changed, the device has other keys than when it was made, or its machine is not as it was approved"
	}
	k.log.LogAttrs(ctx, slog.LevelWarn, message, slog.String("slot", r.slot.ID.String()), slog.String("label", r.slot.Label),
		slog.String("kind", string(r.slot.Kind)), slog.String("device", r.slot.Device()), slog.String("name", r.name), slog.Any("error", r.err))
}

// failedRound records that no device opened the root, once for each code: rounds come by themselves, and must not fill the log.
func (k *Keeper) failedRound(ctx context.Context, start time.Time, who Caller, kind Kind, err error) error {
	code := fault.CodeOf(err)
	k.mu.Lock()
	known := k.lastRound == code || k.closed
	k.lastRound = code
	k.mu.Unlock()
	if known {
		return err
	}
	return k.denied(ctx, start, who, ActionUnlock, uuid.Nil, string(kind), err)
}

// AutoUnlock goes on with UnlockDevices while the root is locked, in a goroutine of its own: after 250 milliseconds, later up to 4 seconds apart,
// and whenever Wake or Attach says that there is something new. stop ends it and waits, so that nothing is opened any more; a device's call that is
// under way ends by itself, which Close waits for. Call it once.
func (k *Keeper) AutoUnlock(who Caller) (stop func()) {
	ctx, cancel := context.WithCancel(k.life)
	k.mu.RLock()
	defer k.mu.RUnlock()
	done := make(chan struct{})
	if k.closed {
		close(done)
	} else {
		opened := k.opened
		k.tries.Go(func() {
			defer close(done)
			k.autoUnlock(ctx, who, opened)
		})
	}
	return func() { cancel(); <-done }
}

func (k *Keeper) autoUnlock(ctx context.Context, who Caller, opened <-chan struct{}) {
	timer := time.NewTimer(firstRetry)
	defer timer.Stop()
	for wait := firstRetry; ; {
		select {
		case <-ctx.Done():
			return
		case <-opened:
			return
		case <-k.wake:
			wait = firstRetry
		case <-timer.C:
			wait = min(2*wait, lastRetry)
		}
		switch err := k.UnlockDevices(ctx, who); {
		case err == nil, fault.Has(err, fault.NotLocked):
			return
		case ctx.Err() != nil:
			return
		default:
			// Why has been told when it was new.
			k.log.LogAttrs(ctx, slog.LevelDebug, "the root stays locked", slog.Any("error", err))
		}
		timer.Reset(wait)
	}
}
