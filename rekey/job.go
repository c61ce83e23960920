package rekey

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/root"
)

// KindReseal is the kind of the jobs that seal key material anew.
const KindReseal jobs.Kind = "reseal"

// Definition is the kind as a node runs it: where the backend that it is about is open, and the root is as new as the job.
func (s *Service) Definition() jobs.Definition {
	return jobs.Definition{Kind: KindReseal, Work: s.work, Here: s.here}
}

func (s *Service) here(j *jobs.Job) bool {
	p, err := parse(j.Params)
	if err != nil {
		return true // work says what is wrong
	}
	newest, err := s.o.Root.Generation()
	if err != nil || newest < p.Root {
		return false
	}
	if p.Backend == "" {
		return true
	}
	for _, b := range s.o.Backends {
		if b.Info().ID == p.Backend {
			_, ok := b.(backend.Resealer)
			return ok
		}
	}
	return false
}

func parse(raw json.RawMessage) (p params, err error) {
	if len(raw) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, fault.Wrap(fault.StoreCorrupted, "the parameters of the job are damaged", err)
	}
	return p, nil
}

// work walks over the material, and gives up the earlier roots when nothing is under them any more.
func (s *Service) work(ctx context.Context, r *jobs.Run) error {
	p, err := parse(r.Params())
	if err != nil {
		return err
	}
	if newest, err := s.o.Root.Generation(); err != nil {
		return err
	} else if newest < p.Root {
		return fault.New(fault.Unavailable, "this node has not taken the new root over yet")
	}
	var at position
	if c := r.Cursor(); len(c) > 0 {
		if err := json.Unmarshal(c, &at); err != nil {
			at = position{} // from the beginning: what is done is left alone
		}
	}
	w := &walk{s: s, r: r, p: p, told: map[string]bool{}}
	for _, n := range r.Job().Notices {
		w.told[n.Resource] = true
	}
	if !at.Walked {
		if err := w.walk(ctx, &at); err != nil {
			return err
		}
	}
	if p.Backend == "" || s.isSoftware(p.Backend) {
		return s.finish(ctx, w)
	}
	return nil
}

func (s *Service) isSoftware(id string) bool {
	for _, soft := range s.soft {
		if soft == id {
			return true
		}
	}
	return false
}

// walk is what an attempt does, once or twice.
type walk struct {
	s    *Service
	r    *jobs.Run
	p    params
	told map[string]bool // resources that have failed: each is counted once
}

// walk seals anew from the cursor on.
func (w *walk) walk(ctx context.Context, at *position) error {
	s, r, p := w.s, w.r, w.p
	save := func(pr keys.ResealProgress) error {
		*at = position{Key: pr.At.Key, Version: pr.At.Version, Total: pr.Total, Seen: pr.Seen, Resealed: pr.Resealed, Failed: pr.Failed, Elsewhere: pr.Elsewhere, Walked: at.Walked}
		b, err := json.Marshal(at)
		if err != nil {
			return fault.Wrap(fault.Internal, "the progress of a job cannot be written", err)
		}
		r.Progress(pr.Seen-pr.Failed, pr.Total)
		r.Mark(b)
		return nil
	}
	from := keys.Position{Key: at.Key, Version: at.Version}
	pr, err := s.o.Keys.Reseal(ctx, keys.ResealOptions{
		Caller: keys.Caller{Principal: &auth.Principal{ID: r.Job().CreatedBy}}, Backend: p.Backend, From: from, Batch: s.o.Batch, Share: s.o.Share,
		Before:   keys.ResealProgress{Total: at.Total, Seen: at.Seen, Resealed: at.Resealed, Failed: at.Failed, Elsewhere: at.Elsewhere},
		Progress: func(_ context.Context, pr keys.ResealProgress) error { return save(pr) },
		Failed: func(key uuid.UUID, version uint32, err error) {
			if resource := fmt.Sprintf("key:%s/%d", key, version); !w.told[resource] {
				w.told[resource] = true
				r.Fail(resource, err)
			}
		},
	})
	if err != nil {
		return err
	}
	at.Walked = true
	if err := save(pr); err != nil {
		return err
	}
	s.o.Logger.Info("key material was sealed anew", "versions", pr.Resealed, "failed", pr.Failed, "seen", pr.Seen, "elsewhere", pr.Elsewhere)
	return nil
}

// finish gives up the earlier roots: not before every change that was begun under one of them has been stored or has failed, and not while a
// key version is under one.
func (s *Service) finish(ctx context.Context, w *walk) error {
	r, p := w.r, w.p
	generation, err := s.o.Root.Generation()
	if err != nil {
		return err
	}
	if p.Root != 0 && generation != p.Root || len(s.o.Root.Earlier()) == 0 {
		return nil // a later job's, or done
	}
	if wait := r.Job().CreatedAt.Add(s.o.Settle).Sub(s.o.Now()); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fault.Wrap(fault.Timeout, "the job was stopped before the old root could be given up", context.Cause(ctx))
		}
	}
	who := root.Caller{Principal: r.Job().CreatedBy}
	if err := s.o.Root.EndFollow(ctx, who, generation); err != nil {
		return err
	}
	// What others stored under the old root meanwhile.
	var at position
	if n, err := s.stale(ctx); err != nil {
		return err
	} else if n > 0 {
		if err := w.walk(ctx, &at); err != nil {
			return err
		}
	}
	n, err := s.stale(ctx)
	if err != nil {
		return err
	}
	if n > 0 {
		s.o.Logger.Warn("key versions that cannot be sealed anew are under an earlier root, which is kept for them: root retire gives it up", "versions", n)
		return nil
	}
	if err := s.o.Root.Retire(ctx, who, generation); err != nil {
		return err
	}
	s.o.Logger.Info("the earlier roots were given up", "generation", generation)
	return nil
}
