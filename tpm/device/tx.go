package device

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/fault"
)

// Tx is the TPM for the length of one function given to Do. It is a transport.TPM, so the commands of go-tpm/tpm2 execute on it. It
// is for that function's goroutine alone, and answers errors after its end.
//
// Every object and session that a command of the transaction loads is flushed when it ends, unless a command did so before.
type Tx struct {
	d   *Device
	ctx context.Context

	loaded  []uint32 // objects and sessions to flush at the end
	effect  bool     // a command that changes something was carried out, or may have been
	suspect bool     // the TPM does not know a handle that we think is loaded
	reset   bool     // the TPM wants TPM2_Startup
	failed  bool     // the TPM is in failure mode
	astray  bool     // a flush did not find what it should have
	tested  bool     // the TPM was made to test itself
	broken  error    // the line failed, or nothing more may be sent
	pending []byte   // the command whose response is outstanding
	began   time.Time
	spent   time.Duration // that the TPM had commands
	over    atomic.Bool
	cancel  func() // undoes the watch on ctx
}

// begin makes a transaction for whoever has the turn.
func (d *Device) begin(ctx context.Context) *Tx {
	tx := &Tx{d: d, ctx: ctx}
	if ctx.Done() == nil {
		tx.cancel = func() {}
		return tx
	}
	l, fired := d.line, make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		l.interrupt()
	})
	tx.cancel = func() {
		if !stop() {
			<-fired // it shall not interrupt another's command
		}
	}
	return tx
}

// close ends the transaction for f. What follows is the device's own, whatever ctx says.
func (tx *Tx) close() {
	tx.over.Store(true)
	tx.cancel()
	tx.ctx, tx.cancel = tx.d.life, func() {}
}

// arrived takes the response to a command that was given up.
func (tx *Tx) arrived(command, rsp []byte) {
	switch rc := tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])); {
	case rc == tpm2.TPMRCSuccess:
		tx.note(command, rsp)
	case rc == tpm2.TPMRCInitialize:
		tx.reset = true
	case rc == tpm2.TPMRCFailure:
		tx.failed = true
	case isReference(rc):
		tx.suspect = true
	}
}

// Spent is how long the TPM has had commands of this transaction, from the octets given to the octets taken.
func (tx *Tx) Spent() time.Duration { return tx.spent }

// Parent is the storage parent, loaded, its Name verified.
func (tx *Tx) Parent() tpm2.NamedHandle { return tx.d.parent.handle }

// ParentPublic is its public area: the encryption key of salts and of what is imported.
func (tx *Tx) ParentPublic() tpm2.TPMTPublic { return tx.d.parent.public }

// Load gives a loaded child of the storage parent. The objects used last stay loaded between transactions, as far as there is room
// (Options.KeepLoaded); the others are flushed at the end. Two of them beside the parent are what every TPM has room for.
func (tx *Tx) Load(private tpm2.TPM2BPrivate, public tpm2.TPM2BPublic) (tpm2.NamedHandle, error) {
	d := tx.d
	d.tick++
	for _, k := range d.kept {
		// The private area is bound to the public area's Name (part 1, 27.3), so it alone says which object this is.
		if bytes.Equal(k.private, private.Buffer) {
			k.used, k.tx = d.tick, tx
			d.stats.hits.Add(1)
			return k.object, nil
		}
	}
	if err := tx.room(1); err != nil {
		return tpm2.NamedHandle{}, err
	}
	rsp, err := tpm2.Load{ParentHandle: tx.Auth(d.parent.handle, nil, Plain), InPrivate: private, InPublic: public}.Execute(tx)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	d.stats.loads.Add(1)
	object := tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}
	if d.o.KeepLoaded > 0 && len(private.Buffer) > 0 {
		tx.keep(uint32(rsp.ObjectHandle))
		d.kept = append(d.kept, &kept{object: object, private: bytes.Clone(private.Buffer), used: d.tick, tx: tx})
	}
	return object, nil
}

// Forget flushes an object that Load kept loaded, as for a key that is destroyed. Without one it does nothing.
func (tx *Tx) Forget(private tpm2.TPM2BPrivate) error {
	for i, k := range tx.d.kept {
		if bytes.Equal(k.private, private.Buffer) {
			tx.d.kept = slices.Delete(tx.d.kept, i, i+1)
			return tx.flush(uint32(k.object.Handle))
		}
	}
	return nil
}

// Room makes room for n more objects beside the parent and what the transaction has loaded, by flushing objects kept from others.
// Commands that find no room do it by themselves; this saves their first attempt.
func (tx *Tx) Room(n int) error { return tx.room(n) }

// kept is an object that stays loaded.
type kept struct {
	object  tpm2.NamedHandle
	private []byte
	used    uint64
	tx      *Tx // that used it last
}

func (tx *Tx) room(n int) error {
	have := 1 + len(tx.d.kept) // a persistent parent takes a slot as well while it is used (part 1, 37.3)
	for _, h := range tx.loaded {
		if isTransient(h) {
			have++
		}
	}
	for ; have+n > tx.d.slots; have-- {
		if flushed, err := tx.evict(); err != nil || !flushed {
			return err
		}
	}
	return nil
}

// evict flushes the kept object that was not used for the longest time, if there is one that this transaction does not use.
func (tx *Tx) evict() (bool, error) {
	return tx.evictBut(tx)
}

// evictAny flushes one whoever uses it.
func (tx *Tx) evictAny() (bool, error) { return tx.evictBut(nil) }

func (tx *Tx) evictBut(user *Tx) (bool, error) {
	oldest := -1
	for i, k := range tx.d.kept {
		if (user == nil || k.tx != user) && (oldest < 0 || k.used < tx.d.kept[oldest].used) {
			oldest = i
		}
	}
	if oldest < 0 {
		return false, nil
	}
	handle := uint32(tx.d.kept[oldest].object.Handle)
	tx.d.kept = slices.Delete(tx.d.kept, oldest, oldest+1)
	return true, tx.flush(handle)
}

// keep takes a handle out of what the transaction flushes.
func (tx *Tx) keep(handle uint32) {
	if i := slices.Index(tx.loaded, handle); i >= 0 {
		tx.loaded = slices.Delete(tx.loaded, i, i+1)
	}
}

// Send gives the TPM a command and returns its response, which may be a refusal. It waits out TPM_RC_RETRY, TPM_RC_YIELDED,
// TPM_RC_TESTING and TPM_RC_NV_RATE for as long as Options.RetryFor and the context allow, and makes room when the TPM asks for it.
func (tx *Tx) Send(command []byte) ([]byte, error) {
	if tx.over.Load() {
		return nil, errOver
	}
	if tx.broken != nil {
		return nil, tx.broken
	}
	if tx.ctx.Err() != nil {
		return nil, timedOut(tx.ctx)
	}
	if len(command) < headerSize {
		return nil, fault.New(fault.Internal, "the command for the TPM is too short")
	}
	return tx.send(command)
}

func (tx *Tx) send(command []byte) ([]byte, error) {
	d := tx.d
	cores := d.coresOf(command)
	for _, c := range cores {
		c.unsure = true
	}
	defer func() {
		for _, c := range cores {
			c.busy = false
		}
	}()
	var waited time.Duration
	for try := 0; ; try++ {
		rsp, err := tx.exchange(command)
		if err != nil {
			return nil, err
		}
		rc := tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:]))
		if rc == tpm2.TPMRCSuccess {
			tx.note(command, rsp)
			return rsp, nil
		}
		// A refused command leaves the nonces of its sessions as they were.
		switch rc {
		case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
			pause := min(time.Millisecond<<min(try, 6), 50*time.Millisecond)
			if waited += pause; waited <= d.o.RetryFor && tx.sleep(pause) {
				d.stats.retries.Add(1)
				continue
			}
		case tpm2.TPMRCObjectMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionMemory, tpm2.TPMRCSessionHandles, tpm2.TPMRCMemory:
			if made, err := tx.relieve(rc); err != nil {
				return nil, err
			} else if made {
				d.stats.retries.Add(1)
				continue
			}
		case tpm2.TPMRCNeedsTest:
			// Part 3, 10.2: the algorithm is to be tested first, and this TPM does not do so by itself.
			if !tx.tested {
				tx.tested = true
				if err := tx.selfTest(); err != nil {
					return nil, err
				}
				d.stats.retries.Add(1)
				continue
			}
		case tpm2.TPMRCInitialize:
			tx.reset = true
			tx.broken = errResetSeen
		case tpm2.TPMRCFailure:
			tx.failed = true
		case tpm2.TPMRCLockout:
			d.lockoutStale.Store(true)
		}
		if rc.Is(tpm2.TPMRCAuthFail) {
			d.lockoutStale.Store(true)
		}
		tx.suspect = tx.suspect || isReference(rc)
		for _, c := range cores {
			c.unsure = false
		}
		return rsp, nil
	}
}

var errResetSeen = errors.New("the TPM was reset and waits for TPM2_Startup")

// relieve flushes something that is only kept for speed. It reports whether there was any.
func (tx *Tx) relieve(rc tpm2.TPMRC) (bool, error) {
	if rc != tpm2.TPMRCSessionMemory && rc != tpm2.TPMRCSessionHandles {
		if flushed, err := tx.evict(); err != nil || flushed {
			return flushed, err
		}
	}
	d := tx.d
	for i, c := range d.cores {
		if !c.busy {
			d.cores = slices.Delete(d.cores, i, i+1)
			return true, tx.flush(uint32(c.handle))
		}
	}
	return false, nil
}

// selfTest makes the TPM test what it has not tested yet.
func (tx *Tx) selfTest() error {
	command := binary.BigEndian.AppendUint16(make([]byte, 0, 11), tagNone)
	command = binary.BigEndian.AppendUint32(command, 11)
	command = binary.BigEndian.AppendUint32(command, uint32(tpm2.TPMCCSelfTest))
	_, err := tx.send(append(command, 0)) // not the full test; what it finds, the command that is given again will say
	return err
}

// sleep reports false when it had to end early.
func (tx *Tx) sleep(t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-tx.ctx.Done():
	case <-tx.d.life.Done():
	}
	return false
}

// exchange is one command and its response, without another attempt.
func (tx *Tx) exchange(command []byte) ([]byte, error) {
	if tx.pending != nil {
		return nil, errPending
	}
	l, start := tx.d.line, time.Now()
	defer func() { tx.spent += time.Since(start) }()
	err := l.until(start.Add(tx.d.o.CommandTimeout))
	if err == nil {
		if tx.ctx.Err() != nil {
			return nil, timedOut(tx.ctx) // until may have undone the interrupt
		}
		err = l.send(command)
	}
	if err != nil {
		tx.broken = unavailable("the connection to the TPM broke", errors.Join(ErrGone, err))
		return nil, tx.broken
	}
	rsp, err := l.receive()
	if err == nil {
		return rsp, nil
	}
	tx.effect = tx.effect || !harmless(tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])))
	if errors.Is(err, os.ErrDeadlineExceeded) && tx.ctx.Err() != nil {
		tx.pending, tx.began = command, start
		return nil, timedOut(tx.ctx)
	}
	tx.broken = unavailable("the TPM does not answer", errors.Join(ErrGone, err))
	return nil, tx.broken
}

// flush flushes an object or session. One that is not there any more is as good, but it makes what we know doubtful. One that could not
// be flushed, because ctx has ended above all, is left to the end of the transaction: the caller may have forgotten it already.
func (tx *Tx) flush(handle uint32) error {
	command := binary.BigEndian.AppendUint16(make([]byte, 0, 14), tagNone)
	command = binary.BigEndian.AppendUint32(command, 14)
	command = binary.BigEndian.AppendUint32(command, uint32(tpm2.TPMCCFlushContext))
	command = binary.BigEndian.AppendUint32(command, handle)
	rsp, err := tx.send(command)
	if err != nil {
		tx.loaded = append(tx.loaded, handle)
		return fmt.Errorf("flushing: %w", err)
	}
	switch rc := tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])); {
	case rc == tpm2.TPMRCSuccess:
		return nil
	case rc.Is(tpm2.TPMRCHandle), isReference(rc):
		tx.astray = true
		return nil
	default:
		tx.loaded = append(tx.loaded, handle)
		return fmt.Errorf("flushing: %w", rc)
	}
}

// mustFlush is flush at the end: what it cannot do makes the line unusable, for nobody would know what is loaded.
func (tx *Tx) mustFlush(handle uint32) {
	if tx.broken != nil {
		return
	}
	if err := tx.flush(handle); err != nil && tx.broken == nil {
		tx.broken = err
	}
}
