package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Witness is somebody outside who watches that the log only grows (C2SP tlog-witness). Implementation: audit/witness.
type Witness interface {
	// VerifierKey is its key in note form, of type 0x04 or 0x06.
	VerifierKey() string
	// AddCheckpoint shows it a signed checkpoint, with the proof that the tree of the first old entries, its newest as far as is known, is
	// the beginning of it. It gives the witness's signature lines, a *WitnessSize when that newest is another, or ErrContradicted.
	AddCheckpoint(ctx context.Context, old uint64, proof [][32]byte, checkpoint []byte) ([]byte, error)
}

// ErrContradicted is under the error of a witness that says that the log is not the one that it has seen.
var ErrContradicted = errors.New("the log is not the one that the witness has seen")

// WitnessSize is the answer of a witness whose newest checkpoint is another one than was thought.
type WitnessSize struct{ Size uint64 }

func (e *WitnessSize) Error() string {
	return fmt.Sprintf("the witness has seen the log with %d entries", e.Size)
}

// witnessTimeout bounds the asking of all witnesses for one checkpoint.
const witnessTimeout = 15 * time.Second

// Cosigned gives the newest checkpoint that a witness has cosigned, nil when there is none.
func (l *Log) Cosigned(ctx context.Context) ([]byte, error) {
	signed, err := l.store.Cosigned(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the newest cosigned checkpoint: %w", err)
	}
	return signed, nil
}

// watched is what this node knows of a witness.
type watched struct {
	Witness
	verifier     note.Verifier
	seen         uint64 // the size of its newest checkpoint as far as is known
	failing      bool   // so that its silence is said once
	contradicted bool   // as failing, of ErrContradicted: it may come after silence
}

// CheckWitnesses says what Open would refuse.
func CheckWitnesses(all []Witness) error {
	_, err := watch(all)
	return err
}

func watch(all []Witness) ([]*watched, error) {
	var out []*watched
	for _, w := range all {
		v, kind, err := newVerifier(w.VerifierKey())
		if err != nil || kind == typeEd25519 {
			return nil, errors.New("audit: the key of a witness is malformed, or not that of a witness")
		}
		if slices.ContainsFunc(out, func(o *watched) bool { return o.verifier.Name() == v.Name() && o.verifier.KeyHash() == v.KeyHash() }) {
			return nil, fmt.Errorf("audit: the witness %s is there twice", v.Name())
		}
		out = append(out, &watched{Witness: w, verifier: v})
	}
	return out, nil
}

// cosign shows the newest checkpoint to the witnesses and keeps it with the cosignatures that come. It is called by the one who signs
// checkpoints now and then.
func (l *Log) cosign(ctx context.Context) {
	s := l.checkpoint.Load()
	if len(l.witnesses) == 0 || len(s.note) == 0 {
		return
	}
	kept, err := l.store.Cosigned(ctx)
	if err != nil {
		l.log.Warn("reading the newest cosigned checkpoint", "error", err)
		return
	}
	signed := s.note
	if c, err := OpenCheckpoint(kept, s.key); err == nil && c == s.Checkpoint {
		signed = kept // some were silent the last time
	}
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	lines := make([][]byte, len(l.witnesses))
	var asked sync.WaitGroup
	for i, w := range l.witnesses {
		if _, err := note.Open(signed, note.VerifierList(w.verifier)); err == nil {
			continue
		}
		asked.Go(func() { lines[i] = l.ask(ctx, w, s) })
	}
	asked.Wait()
	all := bytes.Clone(signed)
	for _, line := range lines {
		all = append(all, line...)
	}
	if len(all) == len(signed) {
		return
	}
	if err := l.store.SaveCosigned(ctx, s.Size, all); err != nil {
		l.log.Warn("keeping a cosigned checkpoint", "error", err)
	}
}

// ask gives the witness's signature lines for a checkpoint, nil when there are none to be had.
func (l *Log) ask(ctx context.Context, w *watched, s *signedHead) []byte {
	lines, err := l.show(ctx, w, s)
	switch {
	case err == nil && (w.failing || w.contradicted):
		w.failing, w.contradicted = false, false
		l.log.Info("a witness cosigns again", "witness", w.verifier.Name())
	case errors.Is(err, ErrContradicted):
		if !w.contradicted {
			w.contradicted = true
			l.log.Error("a witness has seen another audit log under this name: it was rewritten or rolled back", "witness", w.verifier.Name(), "error", err)
		}
	case err != nil && !w.failing && ctx.Err() == nil, err != nil && !w.failing && errors.Is(ctx.Err(), context.DeadlineExceeded):
		w.failing = true
		l.log.Warn("a witness does not cosign the audit log", "witness", w.verifier.Name(), "error", err)
	}
	l.metrics.witnessed(w.verifier.Name(), err == nil)
	return lines
}

func (l *Log) show(ctx context.Context, w *watched, s *signedHead) ([]byte, error) {
	for try := 0; ; try++ {
		var proof [][32]byte
		if w.seen > 0 && w.seen < s.Size {
			var err error
			if proof, err = l.ConsistencyProof(ctx, w.seen, s.Size); err != nil {
				return nil, err
			}
		}
		answer, err := w.AddCheckpoint(ctx, w.seen, proof, s.note)
		var other *WitnessSize
		if errors.As(err, &other) && try == 0 && other.Size <= s.Size && other.Size != w.seen {
			w.seen = other.Size // another node has shown it more, or this one has just started
			continue
		}
		if err != nil {
			return nil, err
		}
		lines, err := w.own(s, answer)
		if err == nil {
			w.seen = s.Size
		}
		return lines, err
	}
}

// own takes the lines of the answer that are the witness's cosignatures of this checkpoint; whatever else it says is left out.
func (w *watched) own(s *signedHead, answer []byte) ([]byte, error) {
	text := []byte(s.text() + "\n")
	n, err := note.Open(append(text, answer...), note.VerifierList(w.verifier))
	if err != nil {
		return nil, fmt.Errorf("the answer of the witness is not its cosignature: %w", err)
	}
	var out strings.Builder
	for _, sig := range n.Sigs {
		fmt.Fprintf(&out, "— %s %s\n", sig.Name, sig.Base64)
	}
	return []byte(out.String()), nil
}
