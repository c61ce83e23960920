package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Actions of this package in the audit log. ActionBegin is recorded before the first byte leaves, so that the backup holds it; ActionEnd
// says how it ended. ActionRestore is the first entry of a store that was filled from a backup, ActionMigrate of one that was copied.
const (
	ActionBegin   = "backup.begin"
	ActionEnd     = "backup.end"
	ActionRestore = "backup.restore"
	ActionMigrate = "store.migrate"
)

// Log is what a Service needs of the audit log. *audit.Log is the implementation.
type Log interface {
	audit.Recorder
	Checkpoint(ctx context.Context) ([]byte, error)
	VerifierKey(ctx context.Context) (string, error)
}

// Options of a Service. All but Release and Now are required.
type Options struct {
	Source Source
	Audit  Log
	// DeriveAt gives a key of a root (root.Keeper.DeriveAt). fault.Locked while it is not open.
	DeriveAt func(label string, generation uint32) (secret.Bytes, error)
	// Signer gives the key that signs backups.
	Signer  func(ctx context.Context) (Signer, error)
	Release string           // of the program
	Now     func() time.Time // default time.Now
}

// Service makes backups of a running store, one at a time. It is safe for concurrent use.
type Service struct {
	o    Options
	turn chan struct{}
}

// New makes a Service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, turn: make(chan struct{}, 1)}
}

// Caller is who asks, as it stands in the audit log.
type Caller struct {
	Tenant    uuid.UUID
	Principal string
	RequestID string
	Judge     Judge // nil: the program itself
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

// endTime is how long the entry that ends a backup may take, beyond the caller's own time.
const endTime = 5 * time.Second

// Write makes a backup and writes it to w. That it begins is durable in the audit log before the first byte; that it ended is recorded, too. An
// error before the first byte is a fault that a caller may be told: Conflict when another is under way on this node, Locked, and those of
// the store, the log and the key that signs. After an error w holds a part that does not verify. The snapshot ends with ctx, or with w.
func (s *Service) Write(ctx context.Context, who Caller, w io.Writer) (Summary, error) {
	if err := who.may(ActionBegin); err != nil {
		return Summary{}, err
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	default:
		return Summary{}, fault.New(fault.Conflict, "a backup is under way on this node already")
	}
	start := time.Now()
	signer, err := s.o.Signer(ctx)
	if err != nil {
		return Summary{}, fmt.Errorf("opening the key of backups: %w", err)
	}
	if err := s.record(ctx, who, ActionBegin, start, "", nil); err != nil {
		return Summary{}, err
	}
	sum, err := s.make(ctx, w, signer)
	detail := ""
	if err == nil {
		detail = fmt.Sprintf("%d rows, %d entries, sha256 %x", sum.Rows, sum.Entries, sum.Sum)
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if unrecorded := s.record(late, who, ActionEnd, start, detail, err); unrecorded != nil {
		return sum, errors.Join(err, fmt.Errorf("recording the end of the backup: %w", unrecorded))
	}
	return sum, err
}

func (s *Service) make(ctx context.Context, w io.Writer, signer Signer) (sum Summary, err error) {
	h := Header{CreatedAt: s.o.Now().UTC().Truncate(time.Second), Release: s.o.Release}
	// Signed before the snapshot is taken: the log in it is at least as long.
	note, err := s.o.Audit.Checkpoint(ctx)
	if err != nil {
		return sum, fmt.Errorf("signing a checkpoint for the backup: %w", err)
	}
	h.Checkpoint = string(note)
	if h.CheckpointKey, err = s.o.Audit.VerifierKey(ctx); err != nil {
		return sum, fmt.Errorf("reading the checkpoint key: %w", err)
	}
	snap, err := s.o.Source.Snapshot(ctx)
	if err != nil {
		return sum, err
	}
	sum, err = write(ctx, w, snap, h, func(generation uint32) (secret.Bytes, error) { return s.o.DeriveAt(Label, generation) }, signer)
	if errors.Is(err, ErrInconsistent) {
		err = fault.Wrap(fault.StoreCorrupted, "what the store holds does not fit together", err)
	}
	return sum, errors.Join(err, snap.Close())
}

func (s *Service) record(ctx context.Context, who Caller, action string, start time.Time, detail string, cause error) error {
	e := &audit.Entry{Tenant: who.Tenant, Principal: who.Principal, Action: action, Outcome: "ok", RequestID: who.RequestID, Detail: detail,
		Latency: time.Since(start)}
	if cause != nil {
		e.Outcome = string(outcomeOf(cause))
	}
	_, err := s.o.Audit.Record(ctx, e)
	return err
}

// outcomeOf gives a code for every error: one that is none of ours comes from the reader that went away.
func outcomeOf(err error) fault.Code {
	if code := fault.CodeOf(err); code != fault.Internal {
		return code
	}
	return fault.Unavailable
}
