package api

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

func wireEntry(f audit.Found) wire.AuditEntry {
	e := f.Entry
	w := wire.AuditEntry{Index: f.Index, Time: e.Time.UTC(), Principal: e.Principal, Action: e.Action,
		KeyVersion: e.KeyVersion, Resource: e.Resource, Outcome: e.Outcome, Items: e.Items, Failed: e.Failed,
		LatencyUS: e.Latency.Microseconds(), RequestID: e.RequestID, Detail: e.Detail}
	if e.Key != uuid.Nil {
		w.KeyID = e.Key.String()
	}
	return w
}

func (s *Server) searchAudit(ctx context.Context, c *call, _ *wire.Empty) (wire.List[wire.AuditEntry], error) {
	var none wire.List[wire.AuditEntry]
	limit, cursor, err := c.page()
	if err != nil {
		return none, err
	}
	f := audit.Filter{Tenant: &c.principal.Tenant, Principal: c.query.Get("principal"), Action: c.query.Get("action"),
		Outcome: c.query.Get("outcome")}
	if f.From, err = c.time("from"); err != nil {
		return none, err
	}
	if f.To, err = c.time("to"); err != nil {
		return none, err
	}
	if f.Key, err = s.keyID(ctx, c, c.query.Get("key")); err != nil {
		return none, err
	}
	var told func(*audit.Entry) (bool, error)
	if c.principal.Limited() {
		told = func(e *audit.Entry) (bool, error) { return c.told(ctx, e) }
	}
	found, next, err := s.audit.ListTold(ctx, f, told, cursor, limit)
	if err != nil {
		return none, err
	}
	out := wire.List[wire.AuditEntry]{Items: make([]wire.AuditEntry, len(found)), NextCursor: next}
	for i := range found {
		out.Items[i] = wireEntry(found[i])
	}
	return out, nil
}

func (s *Server) checkpoint(ctx context.Context, c *call, _ *wire.Empty) (wire.Checkpoint, error) {
	var none wire.Checkpoint
	var note []byte
	var err error
	switch c.query.Get("cosigned") {
	case "true":
		if note, err = s.audit.Cosigned(ctx); err == nil && note == nil {
			err = fault.New(fault.EntryNotFound, "no witness has cosigned a checkpoint")
		}
	case "", "false":
		note, err = s.audit.Checkpoint(ctx)
	default:
		err = badQuery("cosigned", "must be true or false")
	}
	if err != nil {
		return none, err
	}
	out := wire.Checkpoint{Checkpoint: string(note)}
	if out.VerifierKey, err = s.audit.VerifierKey(ctx); err != nil {
		return none, err
	}
	if out.PostQuantumKey, err = s.audit.PostQuantumVerifierKey(ctx); err != nil {
		return none, err
	}
	head, err := audit.OpenCheckpoint(note, out.VerifierKey)
	if err != nil {
		return none, err
	}
	out.Size = head.Size
	return out, nil
}

// ownEntry gives an entry of the caller's tenant. That one was pruned everybody may know: which ones are says their index.
func (s *Server) ownEntry(ctx context.Context, c *call) (audit.Found, uint64, error) {
	const unknown = "the audit log has no such entry"
	n, err := c.pathNumber("n", 63, fault.EntryNotFound, unknown)
	if err != nil {
		return audit.Found{}, 0, err
	}
	found, err := s.audit.Get(ctx, n)
	if err != nil {
		return audit.Found{}, n, err
	}
	told := found.Entry.Tenant == c.principal.Tenant
	if told {
		if told, err = c.told(ctx, &found.Entry); err != nil {
			return audit.Found{}, n, err
		}
	}
	if !told {
		return audit.Found{}, n, fault.New(fault.EntryNotFound, unknown)
	}
	return found, n, nil
}

func (s *Server) auditEntry(ctx context.Context, c *call, _ *wire.Empty) (wire.AuditEntry, error) {
	found, _, err := s.ownEntry(ctx, c)
	if err != nil {
		return wire.AuditEntry{}, err
	}
	return wireEntry(found), nil
}

// proof shows an entry of the caller's tenant only; the leaf itself is in the answer. Of one that was pruned nobody knows any more whose it
// was: its hash says nothing, and stands in the proofs of those beside it.
func (s *Server) proof(ctx context.Context, c *call, _ *wire.Empty) (wire.Proof, error) {
	_, n, err := s.ownEntry(ctx, c)
	pruned := fault.Has(err, fault.EntryPruned)
	if err != nil && !pruned {
		return wire.Proof{}, err
	}
	var p *audit.Proof
	if _, given := c.query["size"]; !given {
		p, err = s.audit.Prove(ctx, n)
	} else if size, bad := c.number("size", 1, math.MaxInt64, 0); bad != nil {
		return wire.Proof{}, bad
	} else {
		p, err = s.audit.ProveIn(ctx, n, size)
	}
	if err != nil {
		return wire.Proof{}, err
	}
	out := wire.Proof{Index: p.Index, Leaf: p.Leaf, Pruned: pruned, LeafHash: p.LeafHash[:], Hashes: make([][]byte, len(p.Hashes)), Size: p.Size,
		Checkpoint: string(p.Checkpoint)}
	for i := range p.Hashes {
		out.Hashes[i] = p.Hashes[i][:]
	}
	return out, nil
}

// consistency proves that the log as it was is the beginning of the log as it is: to the newest checkpoint, or to any size between.
func (s *Server) consistency(ctx context.Context, c *call, _ *wire.Empty) (wire.Consistency, error) {
	var none wire.Consistency
	from, err := c.number("from", 0, math.MaxInt64, 0)
	if err != nil {
		return none, err
	}
	to, err := c.number("to", 0, math.MaxInt64, 0)
	if err != nil {
		return none, err
	}
	var out wire.Consistency
	if _, given := c.query["to"]; !given {
		newest, err := s.checkpoint(ctx, c, nil) // cosigned is no parameter here
		if err != nil {
			return none, err
		}
		to, out.Checkpoint = newest.Size, newest.Checkpoint
	}
	hashes, err := s.audit.ConsistencyProof(ctx, from, to)
	if err != nil {
		return none, err
	}
	out.From, out.To, out.Hashes = from, to, make([][]byte, len(hashes))
	for i := range hashes {
		out.Hashes[i] = hashes[i][:]
	}
	return out, nil
}

// exportMedia is the form of an export: text, a line an entry.
const exportMedia = "text/plain; charset=utf-8"

// exportAudit streams the log. It holds the entries of every tenant, since a part of a Merkle tree's leaves proves nothing
// about the whole: so it has a scope of its own, and is not for a limited credential.
func (s *Server) exportAudit(ctx context.Context, c *call, _ *wire.Empty) (wire.Empty, error) {
	// The first write sends the header: until then a failure can still be told by its status.
	c.answer.stream = func(w http.ResponseWriter) error {
		rc := http.NewResponseController(w)
		out := &patient{w: w, rc: rc, limit: exportStall}
		w.Header()["Content-Type"] = []string{exportMedia}
		w.Header()["Content-Disposition"] = []string{`attachment; filename="keywright-audit.txt"`}
		_, err := s.audit.Export(ctx, out, nil)
		return err
	}
	return wire.Empty{}, nil
}

// exportStall is how long a reader of an export may take for one write.
const exportStall = 30 * time.Second

// patient gives each write its own deadline: a long export is fine, a reader that stands still is not.
type patient struct {
	w     io.Writer
	rc    *http.ResponseController
	limit time.Duration
	began bool
}

func (p *patient) Write(b []byte) (int, error) {
	p.began = true
	if err := p.rc.SetWriteDeadline(time.Now().Add(p.limit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.w.Write(b)
}
