package device

import (
	"context"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/fault"
)

const (
	seekFirst = 20 * time.Millisecond // between attempts to reach a TPM that is away, doubled each time
	seekLast  = time.Second
	seekFor   = 10 * time.Second // one attempt
)

// watch seeks the TPM while it is away, and looks at its lockout otherwise. It ends on Close.
func (d *Device) watch() {
	ticker := time.NewTicker(d.o.WatchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-d.life.Done():
			return
		case <-d.wake:
		case <-ticker.C:
		}
		if d.state.Load() == down {
			d.seek()
		}
		if err := d.look(); err != nil && d.life.Err() == nil && !fault.Has(err, fault.Overloaded) {
			d.log.Warn("the TPM could not be looked at", "cause", err)
		}
	}
}

// seek reaches for the TPM until it is there.
func (d *Device) seek() {
	pause := seekFirst
	for {
		select {
		case d.turn <- struct{}{}:
		case <-d.life.Done():
			return
		}
		ctx, cancel := context.WithTimeout(d.life, max(seekFor, d.o.RetryFor))
		err := d.reach(ctx)
		cancel()
		if err == nil && d.state.CompareAndSwap(down, up) {
			<-d.turn
			d.log.Info("the TPM is available")
			return
		}
		<-d.turn
		if err != nil {
			d.mu.Lock()
			d.cause = err
			d.mu.Unlock()
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-d.life.Done():
			timer.Stop()
			return
		}
		pause = min(2*pause, seekLast)
	}
}

// look reads the lockout, and finds a reset that nobody else has met.
func (d *Device) look() error {
	ctx, cancel := context.WithTimeout(d.life, d.o.MaxWait)
	defer cancel()
	return d.Do(ctx, "watch", func(tx *Tx) error {
		p, err := properties(tx, tpm2.TPMPTPermanent)
		if err != nil {
			return err
		}
		l := lockout(p)
		d.stats.lockoutCounter.Store(l.Counter)
		d.stats.lockoutMax.Store(l.Max)
		if d.stats.inLockout.Swap(l.Locked) != l.Locked {
			d.log.Warn("the TPM's dictionary-attack lockout changed", "locked", l.Locked, "counter", l.Counter, "max", l.Max)
		}
		d.mu.Lock()
		d.info.Lockout = l
		d.mu.Unlock()
		if !d.present(tx) {
			tx.suspect = true // a reset that nobody else has met
		}
		return nil
	})
}
