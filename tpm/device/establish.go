package device

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keywright/keywright/fault"
)

// parent is the storage parent.
type parent struct {
	handle  tpm2.NamedHandle
	public  tpm2.TPMTPublic
	salting tpm2.LabeledEncapsulationKey
}

// reach dials the TPM and establishes it. The caller has the turn.
func (d *Device) reach(ctx context.Context) error {
	d.leave(false)
	l, err := dial(ctx, d.o.URI)
	if err != nil {
		return unavailable("the TPM cannot be reached", errors.Join(ErrGone, err))
	}
	d.line = l
	d.cut.Store(l)
	if d.life.Err() != nil {
		return errClosed // Close may have missed this line
	}
	return d.establish(ctx)
}

// leave closes the line, after flushing what is loaded if that is wanted and the TPM answers in time. The caller has the turn.
func (d *Device) leave(flush bool) {
	if d.line == nil {
		return
	}
	if flush {
		ctx, cancel := context.WithTimeout(context.Background(), closeFor)
		tx := d.begin(ctx)
		d.dropKept(tx)
		if h := uint32(d.parent.handle.Handle); isTransient(h) {
			tx.mustFlush(h)
		}
		d.parent = parent{}
		if tx.astray && tx.broken == nil {
			if err := d.sweep(tx); err != nil {
				d.log.Warn("the TPM may keep objects", "cause", err)
			}
		}
		tx.cancel()
		cancel()
	}
	d.cut.Store(nil)
	// The line is given up: what it says of that changes nothing.
	_ = d.line.close()
	d.line, d.parent, d.kept, d.cores = nil, parent{}, nil, nil
}

// establish makes a TPM of unknown state usable: started up, free of what others left, its storage parent loaded and the pinned one.
// Errors are faults. The caller has the turn.
func (d *Device) establish(ctx context.Context) (err error) {
	d.parent, d.kept, d.cores = parent{}, nil, nil
	tx := d.begin(ctx)
	defer func() {
		tx.close()
		if tx.broken == nil && !tx.reset {
			d.finish(tx) // a TPM that is refused keeps nothing of ours either
		}
		if tx.broken != nil {
			err = tx.broken
		}
		if err == nil {
			return
		}
		switch err = d.explain(err); {
		case fault.Has(err, fault.Timeout):
			err = unavailable("the TPM does not answer in time", errors.Join(ErrGone, err))
		case !fault.Has(err, fault.BackendUnavailable):
			err = unavailable("the TPM cannot be used", err)
		}
	}()
	if err := d.startup(tx); err != nil {
		return err
	}
	info, err := d.survey(tx)
	if err != nil {
		return err
	}
	if err := d.sweep(tx); err != nil {
		return err
	}
	if err := d.adopt(tx); err != nil {
		return err
	}
	info.ParentName = bytes.Clone(d.parent.handle.Name.Buffer)
	info.ParentHandle = uint32(d.parent.handle.Handle)
	d.stats.lockoutCounter.Store(info.Lockout.Counter)
	d.stats.lockoutMax.Store(info.Lockout.Max)
	d.stats.inLockout.Store(info.Lockout.Locked)
	d.mu.Lock()
	d.info = info
	d.mu.Unlock()
	return nil
}

// startup gives TPM2_Startup if the TPM wants it. Firmware and the kernel have done so for a real one.
func (d *Device) startup(tx *Tx) error {
	rsp, err := tpm2.ReadClock{}.Execute(tx)
	if tx.reset {
		tx.reset, tx.broken = false, nil
		// TPM_RC_INITIALIZE: somebody else was faster.
		if _, err = (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(tx); err != nil && !errors.Is(err, tpm2.TPMRCInitialize) {
			return fmt.Errorf("starting the TPM up: %w", err)
		}
		tx.reset, tx.broken = false, nil
		rsp, err = tpm2.ReadClock{}.Execute(tx)
	}
	if err != nil {
		return fmt.Errorf("reading the TPM's clock: %w", err)
	}
	d.resets = resets(rsp)
	return nil
}

// resets gives the counts that change whenever a TPM loses what is loaded (part 1, 36.4 and 36.5).
func resets(rsp *tpm2.ReadClockResponse) uint64 {
	return uint64(rsp.CurrentTime.ClockInfo.ResetCount)<<32 | uint64(rsp.CurrentTime.ClockInfo.RestartCount)
}

// sweep flushes everything that is not ours to keep: what an earlier owner left, this program before a crash first of all, and what a
// flush did not find. Behind the kernel's resource manager every opening has its own handles, and finds none but its own.
func (d *Device) sweep(tx *Tx) error {
	for range 3 {
		var listed []uint32
		for _, first := range []uint32{0x80000000, 0x02000000} { // transient objects, loaded sessions
			some, err := handles(txSender{tx}, first)
			if err != nil {
				return err
			}
			listed = append(listed, some...)
		}
		strange := slices.DeleteFunc(slices.Clone(listed), d.owns)
		if len(strange) == 0 {
			d.kept = slices.DeleteFunc(d.kept, func(k *kept) bool { return !slices.Contains(listed, uint32(k.object.Handle)) })
			d.cores = slices.DeleteFunc(d.cores, func(c *core) bool { return !slices.Contains(listed, uint32(c.handle)) })
			return nil
		}
		for _, h := range strange {
			if err := tx.flush(h); err != nil {
				return err
			}
		}
	}
	return unavailable("the TPM keeps objects that were flushed", nil)
}

// owns reports whether a handle is one that stays loaded between transactions.
func (d *Device) owns(h uint32) bool {
	return h == uint32(d.parent.handle.Handle) || slices.ContainsFunc(d.kept, func(k *kept) bool { return uint32(k.object.Handle) == h }) ||
		slices.ContainsFunc(d.cores, func(c *core) bool { return uint32(c.handle) == h })
}

// handles lists the handles of the type of first.
func handles(tx transport.TPM, first uint32) ([]uint32, error) {
	var all []uint32
	for {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 254}.Execute(tx)
		if err != nil {
			return nil, fmt.Errorf("listing handles: %w", err)
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return nil, err
		}
		for _, h := range list.Handle {
			all = append(all, uint32(h))
		}
		if !rsp.MoreData || len(list.Handle) == 0 {
			return all, nil
		}
		first = uint32(list.Handle[len(list.Handle)-1]) + 1
	}
}

// Handles lists what of a type is loaded or defined, by the first handle of the type: 0x80000000 transient objects, 0x02000000 loaded
// sessions, 0x81000000 persistent objects, 0x01000000 NV indexes.
func (tx *Tx) Handles(first uint32) ([]uint32, error) { return handles(tx, first) }

// adopt finds or makes the storage parent and checks its Name.
func (d *Device) adopt(tx *Tx) error {
	persistent := tpm2.TPMHandle(d.o.ParentHandle)
	if persistent != 0 {
		rsp, err := tpm2.ReadPublic{ObjectHandle: persistent}.Execute(tx)
		if err == nil {
			return d.accept(tx, persistent, rsp.OutPublic)
		}
		if !errors.Is(err, tpm2.TPMRCHandle) {
			return fmt.Errorf("reading the storage parent: %w", err)
		}
	}
	owner := &view{tx: tx, auth: bytes.TrimRight(d.o.OwnerAuth, "\x00"), own: true}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: owner}, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(tx)
	if err != nil {
		if errors.Is(err, tpm2.TPMRCAuthFail) || errors.Is(err, tpm2.TPMRCBadAuth) {
			return fault.Wrap(fault.BackendUnavailable, "the TPM's owner hierarchy refuses the configured password", errors.Join(ErrOwnerAuth, err))
		}
		return fmt.Errorf("making the storage parent: %w", err)
	}
	if err := d.accept(tx, rsp.ObjectHandle, rsp.OutPublic); err != nil {
		return err
	}
	if persistent == 0 {
		tx.keep(uint32(rsp.ObjectHandle))
		return nil
	}
	_, err = tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tx.Salted(d.o.OwnerAuth, Plain)},
		ObjectHandle:     &tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name},
		PersistentHandle: persistent,
	}.Execute(tx)
	switch {
	case err == nil:
		d.parent.handle.Handle = persistent // the transient one is flushed with the rest
	case errors.Is(err, tpm2.TPMRCNVSpace):
		d.log.Warn("the TPM has no room to keep the storage parent: it is made again whenever the TPM starts", "cause", errors.Join(ErrNVFull, err))
		tx.keep(uint32(rsp.ObjectHandle))
	default:
		return fmt.Errorf("making the storage parent persistent: %w", err)
	}
	return nil
}

// accept takes an object for the storage parent, if it is one and the pinned one. Its Name is computed here from what the sessions
// will be salted to.
func (d *Device) accept(tx *Tx, handle tpm2.TPMHandle, area tpm2.TPM2BPublic) error {
	public, err := area.Contents()
	if err != nil {
		return fmt.Errorf("reading the storage parent: %w", err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return fmt.Errorf("reading the storage parent: %w", err)
	}
	if d.o.ParentName != nil && subtle.ConstantTimeCompare(name.Buffer, d.o.ParentName) != 1 {
		return d.stranger(tx)
	}
	if !isStorageParent(public) {
		return fault.New(fault.BackendUnavailable, "the object at the storage parent's handle is not a P-256 storage key")
	}
	salting, err := tpm2.ImportEncapsulationKey(public)
	if err != nil {
		return fmt.Errorf("reading the storage parent: %w", err)
	}
	d.parent = parent{handle: tpm2.NamedHandle{Handle: handle, Name: *name}, public: *public, salting: salting}
	return nil
}

// isStorageParent compares an object with the template, which fixes everything but the point.
func isStorageParent(p *tpm2.TPMTPublic) bool {
	want := tpm2.ECCSRKTemplate
	if p.Type != want.Type {
		return false
	}
	mine := *p
	mine.Unique = want.Unique
	return bytes.Equal(tpm2.Marshal(mine), tpm2.Marshal(want))
}

// stranger says which way the storage parent is not the pinned one.
func (d *Device) stranger(tx *Tx) error {
	if d.o.EKName != nil {
		if name, err := d.ekName(tx); err == nil && subtle.ConstantTimeCompare(name, d.o.EKName) == 1 {
			return fault.Wrap(fault.BackendUnavailable, "the TPM has been cleared: the keys that belonged to it are gone from it", ErrCleared)
		}
		return fault.Wrap(fault.BackendUnavailable, "this is not the TPM that the keys belong to", ErrForeign)
	}
	return fault.Wrap(fault.BackendUnavailable, "this is not the TPM that the keys belong to, or it has been cleared", ErrForeign)
}

// ekName makes the endorsement key of the default template (TCG EK Credential Profile, template L-2) and gives its Name.
func (d *Device) ekName(tx *Tx) ([]byte, error) {
	endorsement := &view{tx: tx, auth: bytes.TrimRight(d.o.EndorsementAuth, "\x00"), own: true}
	if err := tx.room(1); err != nil {
		return nil, err
	}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: endorsement}, InPublic: tpm2.New2B(tpm2.ECCEKTemplate),
	}.Execute(tx)
	if err != nil {
		return nil, fmt.Errorf("making the endorsement key: %w", err)
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, err
	}
	return name.Buffer, nil
}

// EKName is the Name of the endorsement key (ECC P-256, default template), to be pinned beside the parent's. Where none was pinned the Device tells a cleared TPM from
// another by it from now on.
func (d *Device) EKName(ctx context.Context) (name []byte, err error) {
	err = d.Do(ctx, "ek", func(tx *Tx) error {
		if name, err = d.ekName(tx); err == nil && d.o.EKName == nil {
			d.o.EKName = bytes.Clone(name) // the transaction has the turn
		}
		return err
	})
	return name, err
}

// present reports whether the TPM has not been reset and the parent is where we left it. When that could not be learnt, tx.broken or
// tx.reset says why.
func (d *Device) present(tx *Tx) bool {
	clock, err := tpm2.ReadClock{}.Execute(txSender{tx})
	if err != nil {
		if tx.broken == nil {
			tx.broken = unavailable("the TPM does not say whether it was reset", err)
		}
		return false
	}
	if resets(clock) != d.resets {
		return false
	}
	rsp, err := tpm2.ReadPublic{ObjectHandle: d.parent.handle.Handle}.Execute(txSender{tx})
	if err != nil {
		return false
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return false
	}
	name, err := tpm2.ObjectName(public)
	return err == nil && bytes.Equal(name.Buffer, d.parent.handle.Name.Buffer)
}

// txSender lets the device itself use a transaction that is over for f.
type txSender struct{ tx *Tx }

func (s txSender) Send(command []byte) ([]byte, error) { return s.tx.send(command) }

// property reads the numbers of TPM_CAP_TPM_PROPERTIES from first on.
func properties(tx *Tx, first tpm2.TPMPT) (map[tpm2.TPMPT]uint32, error) {
	all := map[tpm2.TPMPT]uint32{}
	for {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(first), PropertyCount: 127}.Execute(tx)
		if err != nil {
			return nil, fmt.Errorf("reading the TPM's properties: %w", err)
		}
		list, err := rsp.CapabilityData.Data.TPMProperties()
		if err != nil {
			return nil, err
		}
		for _, p := range list.TPMProperty {
			all[p.Property] = p.Value
		}
		if n := len(list.TPMProperty); n > 0 && rsp.MoreData {
			first = list.TPMProperty[n-1].Property + 1
			continue
		}
		return all, nil
	}
}

// commandAttributes reads the TPMA_CC of every command as they are.
func commandAttributes(tx *Tx) (map[uint32]uint32, error) {
	all := map[uint32]uint32{}
	for first := uint32(0); ; {
		command := binary.BigEndian.AppendUint16(nil, tagNone)
		for _, v := range []uint32{22, uint32(tpm2.TPMCCGetCapability), uint32(tpm2.TPMCapCommands), first, 254} {
			command = binary.BigEndian.AppendUint32(command, v)
		}
		rsp, err := tx.Send(command)
		if err != nil {
			return nil, err
		}
		if rc := tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])); rc != tpm2.TPMRCSuccess {
			return nil, fmt.Errorf("listing commands: %w", rc)
		}
		body := rsp[headerSize:]
		if len(body) < 9 || len(body) != 9+4*int(binary.BigEndian.Uint32(body[5:])) {
			return nil, errFraming
		}
		more, attributes := body[0] != 0, body[9:]
		for ; len(attributes) > 0; attributes = attributes[4:] {
			a := binary.BigEndian.Uint32(attributes)
			cc := a&0xffff | a&(1<<29) // a vendor's command has the bit in its code as well
			all[cc] = a
			first = cc + 1
		}
		if !more || len(body) == 9 {
			return all, nil
		}
	}
}
