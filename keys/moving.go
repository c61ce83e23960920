package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
)

const (
	moveTime = 45 * time.Second // for one version, once it is begun
	movePage = 100              // keys
	// creatingFor is how long a version that is being made is waited for. One that takes longer was left behind.
	creatingFor = time.Minute
)

// moveCursor is where a move goes on. What lies before it is moved, or noted as failed.
type moveCursor struct {
	After   string    `json:"after,omitempty"` // name of the last key that is done
	Key     uuid.UUID `json:"key"`             // the key that is being moved
	Version uint32    `json:"version"`         // its next version
}

// mover is one attempt at a job.
type mover struct {
	s      *Service
	run    *jobs.Run
	p      moveParams
	to     backend.Backend
	by     Caller
	cursor moveCursor
	first  error // the first failure for good
}

// move is the worker of KindMove.
func (s *Service) move(ctx context.Context, run *jobs.Run) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	job := run.Job()
	m := &mover{s: s, run: run}
	if err := json.Unmarshal(run.Params(), &m.p); err != nil {
		return fault.Wrap(fault.BadField, "the parameters of the job are malformed", err)
	}
	if c := run.Cursor(); len(c) > 0 {
		if err := json.Unmarshal(c, &m.cursor); err != nil {
			return fault.Wrap(fault.StoreCorrupted, "the cursor of the job is malformed", err)
		}
	}
	// What the caller may was asked when the job was made.
	m.by = Caller{Principal: &auth.Principal{ID: job.CreatedBy, Tenant: job.Tenant, Name: job.CreatedBy, Scopes: []auth.Scope{auth.ScopeKeysWrite}}}
	if m.to = s.byID[m.p.BackendID]; m.to == nil {
		return s.notHere(m.p.BackendID)
	}
	var err error
	if m.p.Key != nil {
		err = m.key(ctx, *m.p.Key)
	} else {
		err = m.keys(ctx)
	}
	if err != nil {
		return err
	}
	if c := run.Counts(); c.Done == 0 && c.Failed > 0 && m.first != nil {
		return m.first // nothing was moved
	}
	return nil
}

// keys moves what the filter selects, by name.
func (m *mover) keys(ctx context.Context) error {
	for {
		page, err := m.s.store.Keys(ctx, m.by.Principal.Tenant, m.p.filter(), m.cursor.After, movePage)
		if err != nil {
			return err
		}
		for _, k := range page {
			if err := m.key(ctx, k.ID); err != nil {
				return err
			}
			m.cursor = moveCursor{After: k.Name}
			if err := m.mark(); err != nil {
				return err
			}
		}
		if len(page) < movePage {
			return nil
		}
	}
}

func (m *mover) mark() error {
	text, err := json.Marshal(m.cursor)
	if err != nil {
		return fault.Wrap(fault.Internal, "encoding a cursor", err)
	}
	m.run.Mark(text)
	return nil
}

// settled counts what became of a version or key. An error that passes ends the attempt; one that does not is noted, and the others go on.
func (m *mover) settled(ctx context.Context, resource string, err error) error {
	switch {
	case err == nil:
		m.run.Add(1)
		if c := m.run.Counts(); c.Total > 0 && c.Done+c.Failed > c.Total {
			m.run.Progress(c.Done, c.Done+c.Failed) // versions were made meanwhile
		}
		return nil
	case ctx.Err() != nil:
		return expired(ctx)
	case jobs.Passing(err):
		return err
	}
	m.s.log.Warn("a key version could not be moved", "resource", resource, "backend", m.p.Backend, "error", err)
	m.run.Fail(resource, err)
	if m.first == nil {
		m.first = err
	}
	return nil
}

// key moves one key, from the version on where an earlier attempt stopped.
func (m *mover) key(ctx context.Context, id uuid.UUID) error {
	from := uint32(1)
	if m.cursor.Key == id {
		from = max(m.cursor.Version, 1)
	}
	resource := "key:" + id.String()
	k, err := m.s.store.KeyByID(ctx, m.by.Principal.Tenant, id)
	if err != nil {
		return m.settled(ctx, resource, err)
	}
	if err := m.may(k); err != nil {
		return m.settled(ctx, resource, err)
	}
	to, err := m.s.destination(k, m.to, &m.p)
	if err != nil {
		return m.settled(ctx, resource, err)
	}
	if m.p.Mode == MoveNewVersion {
		if k.BackendID != to.backend || k.Custody != to.custody {
			err = m.anew(ctx, id)
		}
		return m.settled(ctx, resource, err)
	}
	// Versions that are made meanwhile are made where the key was, until its primary version has moved.
	for {
		err := m.s.eachVersion(ctx, id, from, func(v *Version) error {
			from = v.Version + 1
			return m.one(ctx, to, v, resource)
		})
		if err != nil {
			return err
		}
		if k, err = m.s.store.KeyByID(ctx, m.by.Principal.Tenant, id); err != nil || k.LatestVersion < from {
			return err
		}
	}
}

// one moves a version, if it has anything to move, and notes that it is settled.
func (m *mover) one(ctx context.Context, to placement, v *Version, resource string) error {
	switch {
	case ctx.Err() != nil:
		return expired(ctx)
	case v.State == StateCreating && m.s.now().Sub(v.StateAt) < creatingFor:
		return fault.New(fault.Conflict, "a version of the key is being made").RetryAfter(waitForChange)
	case !carried(v):
		return nil
	}
	var err error
	if !to.holds(v) {
		err = m.version(ctx, v.KeyID, v.Version)
	}
	if err := m.settled(ctx, fmt.Sprintf("%s/%d", resource, v.Version), err); err != nil {
		return err
	}
	m.cursor.Key, m.cursor.Version = v.KeyID, v.Version+1
	return m.mark()
}

// may decides about a key of a filter. About one that was named it was decided when the job was made.
func (m *mover) may(k *Key) error {
	if m.p.Key != nil {
		return nil
	}
	d := auth.Decide(&auth.Request{Principal: m.by.Principal, Now: m.s.now(), Any: auth.SetOf(auth.ScopeKeysWrite), Operation: actions[verbMove].name, Key: factsOf(k)})
	return d.Err()
}

// begun gives a context for one version: what was begun is brought to its end though the job is cancelled meanwhile.
func begun(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), moveTime)
}

// anew makes the next version of a key in the other backend.
func (m *mover) anew(ctx context.Context, id uuid.UUID) error {
	ctx, cancel := begun(ctx)
	defer cancel()
	var n nextVersion
	_, err := pipeline(ctx, m.s, m.by, verbMoveVersion, func(ctx context.Context, q *request) (*Key, error) {
		k, err := q.ownID(ctx, id)
		if err != nil {
			return nil, err
		}
		to, err := m.s.destination(k, m.to, &m.p)
		if err != nil {
			return nil, err
		}
		q.entry.Resource, q.entry.Detail = m.run.Job().Resource(), string(MoveNewVersion)
		n.to = &to
		return n.add(ctx, q, k, generate)
	}, nil)
	return err
}

// version carries the material of one version over. The record follows it in one transaction, by compare-and-swap; until then the version is used
// where it was, and after that where it is. What the other backend then holds without a record, because this process died, is found again by the next attempt.
func (m *mover) version(ctx context.Context, id uuid.UUID, number uint32) error {
	ctx, cancel := begun(ctx)
	defer cancel()
	var made *backend.Ref // outlives a lost race
	var old backend.Ref
	var from backend.Backend
	_, err := pipeline(ctx, m.s, m.by, verbMoveVersion, func(ctx context.Context, q *request) (struct{}, error) {
		var none struct{}
		k, err := q.ownID(ctx, id)
		if err != nil {
			return none, err
		}
		q.entry.KeyVersion, q.entry.Resource, q.entry.Detail = number, m.run.Job().Resource(), string(MoveMaterial)
		to, err := m.s.destination(k, m.to, &m.p)
		if err != nil {
			return none, err
		}
		v, err := m.s.store.Version(ctx, id, number)
		if err != nil {
			return none, err
		}
		if to.holds(v) || !carried(v) {
			q.entry.Detail = "nothing to move" // somebody else was faster
			return none, nil
		}
		if err := leaves(v, to, &m.p); err != nil {
			return none, err
		}
		if from = m.s.byID[v.BackendID]; from == nil {
			return none, m.s.notHere(v.BackendID)
		}
		old = refOf(k, v)
		if made == nil {
			ref, err := q.carry(ctx, from, m.to, k, v, to)
			if err != nil {
				return none, err
			}
			made = &ref
		}
		moved := *v
		moved.BackendID, moved.Custody, moved.Blob, moved.Origin = to.backend, to.custody, made.Blob, OriginImported
		q.change(id, m.s.store.UpdateVersion(&moved))
		if number == k.PrimaryVersion {
			k.BackendID, k.Custody, k.UpdatedAt = to.backend, to.custody, m.s.stamp()
			if k.Origin == OriginGenerated {
				k.Origin = OriginMoved
			}
			q.change(id, m.s.store.UpdateKey(k))
		}
		return none, nil
	}, nil)
	if err != nil || made == nil {
		return err
	}
	// The Ref was all there was, and it is gone with the old record: what is left is what the backend has opened of it.
	if err := from.Destroy(ctx, old); err != nil {
		m.s.log.Warn("what was opened of a moved key version could not be dropped", "key", id, "version", number, "error", err)
	}
	return nil
}

// carry brings the material of a version into the other backend, and proves that it is the same key there.
func (q *request) carry(ctx context.Context, from, b backend.Backend, k *Key, v *Version, to placement) (backend.Ref, error) {
	var none backend.Ref
	revealer, ok := from.(backend.Revealer)
	if !ok {
		return none, fault.New(fault.NotExportable, "the material of this version cannot leave its device: move the key by a new version")
	}
	importer, ok := b.(backend.Importer)
	if !ok {
		return none, unsupported()
	}
	old, spec := refOf(k, v), specOf(k, v.Version, to.custody, v.Exportable)
	if b.Info().KeepsObjects {
		// Written before the device is touched, as at a creation: an object that is found there has its reason in the log.
		if err := q.step(ctx, q.entry.Action+".begin", k.ID, v.Version); err != nil {
			return none, err
		}
	}
	material, err := revealer.Reveal(ctx, old)
	if err != nil {
		return none, err
	}
	defer material.Wipe()
	ref, err := importer.Import(ctx, spec, material)
	if fault.Has(err, fault.Conflict) {
		ref, err = recovered(ctx, b, spec)
	}
	if err != nil {
		return none, err
	}
	if !bytes.Equal(ref.Public, v.Public) {
		return none, fault.New(fault.KeyMaterial, "the backend has another key under the identity of this version")
	}
	return ref, q.s.same(ctx, from, old, b, ref)
}

// recovered gives the Ref of an object that an earlier attempt left.
func recovered(ctx context.Context, b backend.Backend, spec backend.Spec) (backend.Ref, error) {
	r, ok := b.(backend.Recoverer)
	if !ok {
		return backend.Ref{}, fault.New(fault.KeyMaterial, "the backend has an object under the identity of this version that nothing refers to")
	}
	return r.Recover(ctx, spec)
}
