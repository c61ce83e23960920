package token

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/fault"
)

// generation is what lives from one login to the next: sessions, object handles, the test key. A number that the module gave in
// one generation means nothing in another.
type generation struct {
	// objects is held while an object of the token is made, destroyed or searched for: under several sessions at once SoftHSM and
	// opencryptoki answer errors, show objects of other identities or the same one twice, or crash.
	objects     chan struct{} // has one element while it is held; see session.enter
	description Description
	pinned      pkcs11.SessionHandle // logged in, holds the test key, closed last: closing the last session logs out
	loginless   bool                 // the token wants no login
	alone       bool                 // the token gives one session: the pinned one does everything
	sessions    atomic.Int64         // open now
	working     atomic.Int32         // those of them that are workers'
	handles     handleCache
	test        pkcs11.ObjectHandle
	holder      holder
	kek         kekCache
}

func (g *generation) open(d *device) (pkcs11.SessionHandle, error) {
	h, err := d.lib.OpenSession(g.description.Slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err == nil {
		g.sessions.Add(1)
	}
	return h, err
}

func (g *generation) close(d *device, h pkcs11.SessionHandle) {
	_ = d.lib.CloseSession(h) // it may be dead already, and there is nothing to do about one that does not close
	g.sessions.Add(-1)
}

// abandon ends a generation: every session of this process with the token is closed, and so it is logged out.
func (d *device) abandon(g *generation) {
	_ = d.lib.CloseAllSessions(g.description.Slot) // the token may be gone, and its sessions with it
	g.sessions.Store(0)
	d.wrapped.clear()
}

// generation finds the token, opens the pinned session and logs in.
func (d *device) generation(number uint64) (*generation, error) {
	slot, info, err := d.findSlot()
	if err != nil {
		return nil, err
	}
	g := &generation{objects: make(chan struct{}, 1)}
	g.description = d.describe(slot, info)
	g.description.Generation = number
	g.alone = g.description.MaxSessions == 1
	if g.pinned, err = g.open(d); err != nil {
		return nil, fmt.Errorf("opening the login session: %w", err)
	}
	if err := d.login(g, info); err != nil {
		g.close(d, g.pinned)
		return nil, err
	}
	g.holder.init(g)
	return g, nil
}

// findSlot gives the slot of the one token with the configured serial and label.
func (d *device) findSlot() (uint, pkcs11.TokenInfo, error) {
	slots, err := d.lib.slots()
	if err != nil {
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("listing the slots: %w", err)
	}
	d.mu.Lock()
	serial := d.serial
	d.mu.Unlock()
	var found []uint
	var info pkcs11.TokenInfo
	for _, slot := range slots {
		ti, err := d.lib.GetTokenInfo(slot)
		if err != nil {
			continue // an empty or foreign slot must not keep us from ours
		}
		if (d.cfg.Serial == "" || trim(ti.SerialNumber) == trim(d.cfg.Serial)) && (d.cfg.Label == "" || trim(ti.Label) == trim(d.cfg.Label)) {
			found = append(found, slot)
			info = ti
		}
	}
	switch {
	case len(found) == 0:
		return 0, info, fault.New(fault.BackendUnavailable, "the module shows no token with the configured serial and label").RetryAfter(time.Second)
	case len(found) > 1:
		return 0, info, fault.New(fault.BackendUnavailable, "several tokens have the configured serial or label: configure both, or make the labels differ")
	case serial != "" && trim(info.SerialNumber) != serial:
		return 0, info, fault.New(fault.BackendUnavailable, "another token has taken the place of the one that was opened").RetryAfter(time.Second)
	}
	if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
		return 0, info, fault.New(fault.BackendUnavailable, "the token is not initialised")
	}
	d.mu.Lock()
	d.serial = trim(info.SerialNumber)
	d.mu.Unlock()
	return found[0], info, nil
}

// trim takes the padding off a fixed-size text. Some modules pad with zeros instead of blanks.
func trim(s string) string { return strings.TrimSpace(strings.TrimRight(s, "\x00 ")) }

func (d *device) describe(slot uint, info pkcs11.TokenInfo) Description {
	out := Description{
		Serial: trim(info.SerialNumber), Label: trim(info.Label), Manufacturer: trim(info.ManufacturerID), Model: trim(info.Model),
		Firmware: fmt.Sprintf("%d.%d", info.FirmwareVersion.Major, info.FirmwareVersion.Minor),
		Slot:     slot, MaxSessions: maxSessions(info.MaxSessionCount, info.MaxRwSessionCount),
	}
	if lib, err := d.lib.GetInfo(); err == nil {
		out.Library = fmt.Sprintf("%s %d.%d", trim(lib.LibraryDescription), lib.LibraryVersion.Major, lib.LibraryVersion.Minor)
	}
	return out
}

// maxSessions reads what tokens say of their limits: 0 is CK_EFFECTIVELY_INFINITE, the largest number is
// CK_UNAVAILABLE_INFORMATION, and some give the latter in 32 bits.
func maxSessions(all, rw uint) int {
	n := 0
	for _, v := range []uint{all, rw} {
		if v == 0 || v >= 1<<31-1 {
			continue
		}
		if n == 0 || int(v) < n {
			n = int(v)
		}
	}
	return n
}

// setLimit bounds the workers: the configured number, within what the token allows less the reserve.
func (d *device) setLimit(g *generation) {
	n := d.cfg.Sessions
	if limit := g.description.MaxSessions; limit > 0 {
		n = min(n, max(limit-reserve, 1))
	}
	if g.alone || !d.lib.locking {
		n = 1
	}
	d.limit.Store(int32(n))
}

// login logs the pinned session in, and with it every session of this process. A PIN that this token has refused is never sent
// again, and one that has not been taken before is not risked as the last attempt.
func (d *device) login(g *generation, info pkcs11.TokenInfo) error {
	token := trim(info.SerialNumber) + "\x00" + trim(info.Label)
	if info.Flags&pkcs11.CKF_LOGIN_REQUIRED == 0 && len(d.cfg.PIN) == 0 {
		g.loginless = true
		return nil
	}
	if in, err := d.lib.loggedIn(g.pinned); err == nil && in {
		return nil
	}
	if d.state.Load() == shut {
		return errShut
	}
	d.mu.Lock()
	bad, good := d.pinBad, d.pinGood
	d.mu.Unlock()
	if bad || !d.pins.mayTry(d.cfg.Module, token, d.cfg.PIN) {
		return errPIN()
	}
	switch {
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fault.Wrap(fault.BackendUnavailable, "the token's PIN is locked", ErrPINRefused)
	case info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0 && !good:
		return fault.Wrap(fault.BackendUnavailable, "one more wrong PIN would lock the token: log in to it by hand once, then open it again", ErrPINRefused)
	}
	err := d.gated(func() error { return d.lib.login(g.pinned, d.cfg.PIN) })
	if err == nil || is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		d.stats.logins.Add(1)
		d.mu.Lock()
		d.pinGood = true
		d.mu.Unlock()
		return nil
	}
	if c, ok := classOf(err); ok && c == classPIN {
		d.stats.loginsRefused.Add(1)
		d.pins.refuse(d.cfg.Module, token, d.cfg.PIN)
		d.mu.Lock()
		d.pinBad = true
		d.mu.Unlock()
		d.log.Error("the token refused the PIN; it is not sent again", "error", err)
		return errPIN()
	}
	if errors.Is(err, ErrPINRefused) { // by another process
		d.mu.Lock()
		d.pinBad = true
		d.mu.Unlock()
		return errPIN()
	}
	return fmt.Errorf("logging in: %w", err)
}

// gated logs in through the configured gate, if there is one. The token is not held up by it for longer than loginFor.
func (d *device) gated(login func() error) error {
	if d.cfg.LoginGate == nil {
		return login()
	}
	ctx, cancel := context.WithTimeout(context.Background(), loginFor)
	defer cancel()
	return d.cfg.LoginGate(ctx, func() error {
		err := login()
		if c, ok := classOf(err); ok && c == classPIN {
			return fmt.Errorf("%w: %w", ErrPINRefused, err) // the gate must know before it lets another process try
		}
		return err
	})
}

// heal is the one goroutine that mends the token: it wakes when the breaker opens, and watches calls that were given up.
func (d *device) heal() {
	defer d.running.Done()
	every := defaultReinit
	if d.cfg.ReinitEvery > 0 {
		every = time.Duration(d.cfg.ReinitEvery) * time.Second
	}
	last := time.Now().Add(-every) // the opening does not count
	for {
		select {
		case <-d.stop:
			return
		case <-d.wake:
		case <-time.After(every): // cheap, and also finds limits that can be lifted
		}
		d.watch()
		d.lift()
		for d.state.Load() != closed {
			if !d.sleep(max(0, every-time.Since(last))) {
				return
			}
			last = time.Now()
			if err := d.mend(); err != nil {
				d.log.Warn("healing the token", "error", err)
				d.mu.Lock()
				bad := d.pinBad
				d.mu.Unlock()
				if bad {
					<-d.stop // nothing that we may do can help
					return
				}
			}
		}
	}
}

// sleep waits; false: the token is closed.
func (d *device) sleep(for_ time.Duration) bool {
	t := time.NewTimer(for_)
	defer t.Stop()
	select {
	case <-d.stop:
		return false
	case <-t.C:
		return d.state.Load() != shut
	}
}

// watch opens the breaker when too many calls hang, and comes back while any may. Calls that were given up while others come to an end are
// slow, which a new initialisation would only make worse.
func (d *device) watch() {
	d.mu.Lock()
	stuck, young := 0, false
	for _, since := range d.given {
		if time.Since(since) > stuckFor {
			stuck++
		} else {
			young = true
		}
	}
	d.mu.Unlock()
	many := stuck >= min(stuckMany, int(d.limit.Load()))
	if many && time.Since(d.began)-time.Duration(d.stats.last.Load()) > stuckFor {
		d.trip(errStuck, false)
	} else if many || young {
		time.AfterFunc(stuckFor/4, func() {
			select {
			case d.wake <- struct{}{}:
			default:
			}
		})
	}
}

// lift takes back a limit that the token forced on us a while ago: the sessions may have been another program's.
func (d *device) lift() {
	d.mu.Lock()
	over := !d.limitTill.IsZero() && d.now().After(d.limitTill)
	if over {
		d.limitTill = time.Time{}
	}
	d.mu.Unlock()
	if over {
		d.setLimit(d.gen.Load())
	}
}

// mend makes a new generation: by new sessions and a login, or after finalizing and initialising the module. Nobody else is in the
// module meanwhile.
func (d *device) mend() error {
	if !d.lock(drainFor) {
		d.mu.Lock()
		d.light = false
		d.mu.Unlock()
		return errors.New("calls of the module hang")
	}
	defer d.gate.Unlock()
	if !d.state.CompareAndSwap(open, halfOpen) {
		return nil // closed by now
	}
	d.mu.Lock()
	light := d.light
	d.light = false // the next attempt is thorough
	d.mu.Unlock()
	d.setMending(time.Now())
	defer d.setMending(time.Time{})
	old := d.gen.Load()
	d.abandon(old)
	g, err := d.renew(old, light)
	if err != nil {
		d.state.CompareAndSwap(halfOpen, open)
		return err
	}
	d.gen.Store(g)
	d.setLimit(g)
	d.mu.Lock()
	d.cause = nil
	d.mu.Unlock()
	if !d.state.CompareAndSwap(halfOpen, closed) {
		return nil // shut
	}
	d.log.Info("the token works again", "generation", g.description.Generation)
	return nil
}

func (d *device) setMending(since time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mending = since
}

func (d *device) renew(old *generation, light bool) (*generation, error) {
	if !light {
		if err := d.lib.finalize(); err != nil {
			d.log.Warn("finalizing the module", "error", err)
		}
		d.stats.reinitialisations.Add(1)
		if err := d.lib.initialize(); err != nil {
			return nil, fmt.Errorf("initialising the module: %w", err)
		}
	}
	g, err := d.generation(old.description.Generation + 1)
	if err != nil {
		return nil, err
	}
	g.inherit(old)
	if err := d.testKey(g); err != nil {
		d.abandon(g)
		return nil, err
	}
	return g, nil
}

// inherit takes over what was probed: the token is the same.
func (g *generation) inherit(old *generation) {
	d, o := &g.description, &old.description
	d.Mechanisms, d.Capabilities, d.Wrapping, d.Quirks, d.LeaksWrapped = o.Mechanisms, o.Capabilities, o.Wrapping, o.Quirks, o.LeaksWrapped
	d.Wrappable, d.Inside, d.InsideHashes = o.Wrappable, o.Inside, o.InsideHashes
}
