package keys

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// Defaults of ResealOptions.
const (
	DefaultResealBatch = 16   // versions
	DefaultResealShare = 0.15 // of one processor
)

const (
	resealPage    = 512             // versions that are read at once
	resealPause   = 5 * time.Second // the longest pause after a batch
	maxResealPage = 4096
)

// ResealOptions are the choices of a walk. The zero value walks over everything.
type ResealOptions struct {
	// Caller is who asked for it, for the log.
	Caller Caller
	// Backend is the identity of the one whose material is sealed anew; "": of all that are open here and can.
	Backend string
	// From is where an earlier walk stopped, as its progress told, and Before what it had told by then.
	From   Position
	Before ResealProgress
	// Batch is how many versions change in one transaction; 0: DefaultResealBatch. More are quicker, and hold up others for longer.
	Batch int
	// Share is how much of the time the walk works; for the rest it pauses. 0: DefaultResealShare, 1: no pauses. A batch that takes longer because the service is
	// busy is followed by a longer pause.
	Share float64
	// Progress is told after each batch, and every few hundred versions of which there is nothing to do; its error ends the walk. nil: nobody.
	Progress func(ctx context.Context, p ResealProgress) error
	// Failed is told of each version that could not be sealed anew. nil: nobody.
	Failed func(key uuid.UUID, version uint32, err error)
}

// ResealProgress is how far a walk has come.
type ResealProgress struct {
	At        Position // of the last version that was looked at
	Total     int64    // versions that have material, when the walk began
	Seen      int64    // of them
	Resealed  int64
	Failed    int64
	Elsewhere int64 // whose backend is not open here
}

// Reseal walks over the material of all tenants and seals anew what is under a key that was replaced (backend.Resealer), a batch and an audit
// entry at a time. What is current is left alone, so that a walk may be broken off anywhere and be begun anywhere. A version that changes meanwhile is read again;
// one that does not open is told and passed over: it is as it was. An error means that the walk stopped, because the store, the log or a backend cannot be
// asked now: it can go on from where the progress is.
func (s *Service) Reseal(ctx context.Context, o ResealOptions) (ResealProgress, error) {
	p := o.Before
	p.At = o.From
	if err := s.enter(); err != nil {
		return p, err
	}
	defer s.leave()
	if o.Batch <= 0 {
		o.Batch = DefaultResealBatch
	}
	if o.Share <= 0 || o.Share > 1 {
		o.Share = DefaultResealShare
	}
	w := &resealing{s: s, o: o, p: p}
	var err error
	if w.p.Total == 0 {
		if w.p.Total, err = s.store.CountMaterial(ctx); err != nil {
			return w.p, err
		}
	}
	for more := true; more; {
		if s.closed.Load() {
			return w.p, fault.New(fault.Unavailable, "the service is stopping")
		}
		if more, err = w.page(ctx); err != nil {
			return w.p, asFault(err)
		}
	}
	return w.p, nil
}

// StaleMaterial counts the versions of a backend, by its identity, that Reseal would seal anew. fault.BackendUnavailable when it is not open here.
func (s *Service) StaleMaterial(ctx context.Context, id string) (n int64, err error) {
	b := s.byID[id]
	if b == nil {
		return 0, s.notHere(id)
	}
	r, ok := b.(backend.Resealer)
	if !ok {
		return 0, nil
	}
	err = s.eachMaterial(ctx, func(v *Stored) {
		if v.BackendID == id && r.Stale(v.ref()) {
			n++
		}
	})
	return n, err
}

// UnderKEK counts the versions of a backend, by its identity, that are under its KEK of the generation.
func (s *Service) UnderKEK(ctx context.Context, id string, generation uint32) (n int64, err error) {
	r, ok := s.byID[id].(backend.KEKRotator)
	if !ok {
		return 0, s.notHere(id)
	}
	err = s.eachMaterial(ctx, func(v *Stored) {
		if v.BackendID == id && r.Generation(v.ref()) == generation {
			n++
		}
	})
	return n, err
}

// eachMaterial calls f for every version that has material.
func (s *Service) eachMaterial(ctx context.Context, f func(*Stored)) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	for at := (Position{}); ; {
		page, err := s.store.Material(ctx, at, maxResealPage)
		if err != nil {
			return err
		}
		for _, v := range page {
			f(v)
			at = Position{Key: v.KeyID, Version: v.Version.Version}
		}
		if len(page) < maxResealPage {
			return nil
		}
	}
}

func (v *Stored) ref() backend.Ref {
	return backend.Ref{Spec: backend.Spec{Tenant: v.Tenant, KeyID: v.KeyID, Version: v.Version.Version, Algorithm: v.Algorithm, Purpose: v.Purpose,
		Custody: v.Custody, Exportable: v.Exportable}, Public: v.Public, Blob: v.Blob}
}

// resealing is one walk.
type resealing struct {
	s     *Service
	o     ResealOptions
	p     ResealProgress
	batch []*Stored
	mark  ResealProgress // before the first of the batch: what is true when the batch fails
}

// page looks at one page of versions, and reports whether there are more.
func (w *resealing) page(ctx context.Context) (more bool, err error) {
	began := w.s.now()
	list, err := w.s.store.Material(ctx, w.p.At, resealPage)
	if err != nil {
		return false, err
	}
	for _, v := range list {
		mark := w.p
		w.p.At = Position{Key: v.KeyID, Version: v.Version.Version}
		w.p.Seen++
		if r := w.resealer(v); r != nil && r.Stale(v.ref()) {
			if len(w.batch) == 0 {
				w.mark = mark
			}
			w.batch = append(w.batch, v)
		}
		if len(w.batch) >= w.o.Batch {
			if err := w.flush(ctx, began); err != nil {
				return false, err
			}
			began = w.s.now()
		}
	}
	w.p.Total = max(w.p.Total, w.p.Seen)
	return len(list) == resealPage, w.flush(ctx, began)
}

// resealer gives the backend of a version if it is one to look at.
func (w *resealing) resealer(v *Stored) backend.Resealer {
	if w.o.Backend != "" && w.o.Backend != v.BackendID {
		return nil
	}
	b := w.s.byID[v.BackendID]
	if b == nil {
		w.p.Elsewhere++
		return nil
	}
	r, _ := b.(backend.Resealer)
	return r
}

// flush seals the batch anew, tells the progress, and pauses.
func (w *resealing) flush(ctx context.Context, began time.Time) error {
	if len(w.batch) > 0 {
		batch := w.batch
		w.batch = w.batch[:0]
		if err := w.seal(ctx, batch); err != nil {
			w.p = w.mark // what was not done is looked at again
			return err
		}
	}
	if w.o.Progress != nil {
		if err := w.o.Progress(ctx, w.p); err != nil {
			return err
		}
	}
	if w.o.Share >= 1 {
		return nil
	}
	worked := w.s.now().Sub(began)
	timer := time.NewTimer(min(time.Duration(float64(worked)*(1/w.o.Share-1)), resealPause))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return expired(ctx)
	}
}

// seal seals versions anew in one transaction; when one of them was changed by somebody else, each in its own.
func (w *resealing) seal(ctx context.Context, batch []*Stored) error {
	changes := make([]audit.Change, 0, len(batch))
	done := make([]*Stored, 0, len(batch))
	failed := map[*Stored]error{}
	for _, v := range batch {
		c, err := w.renew(ctx, v)
		switch {
		case err == nil:
			changes, done = append(changes, c), append(done, v)
		case stops(err):
			return err
		default:
			failed[v] = err
		}
	}
	err := w.record(ctx, done, len(failed), changes)
	if !fault.Has(err, fault.Conflict) {
		if err != nil {
			return err
		}
		w.p.Resealed += int64(len(done))
		for _, v := range batch {
			if err := failed[v]; err != nil {
				w.fail(v, err)
			}
		}
		return nil
	}
	for _, v := range batch {
		if err := w.one(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// one seals a version anew that others are at work on.
func (w *resealing) one(ctx context.Context, v *Stored) error {
	for try := 1; ; try++ {
		fresh, err := w.s.store.Version(ctx, v.KeyID, v.Version.Version)
		if err != nil {
			return err
		}
		v.Version = *fresh
		r := w.s.byID[v.BackendID]
		if again, ok := r.(backend.Resealer); !ok || len(v.Blob) == 0 || !again.Stale(v.ref()) {
			return nil // destroyed, moved, or done by another
		}
		c, err := w.renew(ctx, v)
		if err == nil {
			err = w.record(ctx, []*Stored{v}, 0, []audit.Change{c})
		}
		switch {
		case err == nil:
			w.p.Resealed++
			return nil
		case fault.Has(err, fault.Conflict) && try < maxTries:
			continue
		case stops(err):
			return err
		}
		w.fail(v, err)
		return nil
	}
}

// stops reports whether an error says nothing of the version: the next would fail as well.
func stops(err error) bool {
	return !fault.Has(err, fault.KeyMaterial) && !fault.Has(err, fault.Conflict) && !fault.Has(err, fault.Unsupported)
}

// renew prepares the change of one version.
func (w *resealing) renew(ctx context.Context, v *Stored) (audit.Change, error) {
	r, ok := w.s.byID[v.BackendID].(backend.Resealer)
	if !ok {
		return nil, w.s.notHere(v.BackendID)
	}
	ref, err := r.Reseal(ctx, v.ref())
	if err != nil {
		return nil, err
	}
	fresh := v.Version
	fresh.Blob = ref.Blob
	return w.s.store.UpdateVersion(&fresh), nil
}

func (w *resealing) fail(v *Stored, err error) {
	w.p.Failed++
	w.s.log.Warn("the material of a key version could not be sealed anew", "key", v.KeyID, "version", v.Version.Version, "error", err)
	if w.o.Failed != nil {
		w.o.Failed(v.KeyID, v.Version.Version, err)
	}
}

// record makes a batch durable with its entry.
func (w *resealing) record(ctx context.Context, done []*Stored, failed int, changes []audit.Change) error {
	e := audit.Entry{Principal: "system", Action: ActionReseal, Outcome: okOutcome, RequestID: w.o.Caller.RequestID,
		Detail: fmt.Sprintf("versions %d, failed %d", len(done), failed)}
	if p := w.o.Caller.Principal; p != nil {
		e.Principal = p.ID
	}
	_, err := w.s.recorder.Record(ctx, &e, changes...)
	for _, v := range done {
		w.s.cache.drop(v.KeyID, uncertain(err))
	}
	return asFault(err)
}

// ActionReseal is one batch of Reseal in the audit log.
const ActionReseal = "keys.reseal"
