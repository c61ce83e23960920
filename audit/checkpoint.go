package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/keywright/keywright/fault"
)

// CheckpointSigner is the key that signs checkpoints: Ed25519, in some backend. Sign signs msg itself (RFC 8032 Ed25519,
// no prehash); it may be slow.
type CheckpointSigner interface {
	Public() ed25519.PublicKey
	Sign(ctx context.Context, msg []byte) ([]byte, error)
}

// Checkpoint is what a checkpoint says (C2SP tlog-checkpoint): the log named Origin had Size entries and this root.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   [32]byte
}

// ErrCheckpoint is under every error about a checkpoint that does not verify.
var ErrCheckpoint = errors.New("the checkpoint does not verify")

// signedHead is a kept checkpoint. The zero value says that there is none.
type signedHead struct {
	Checkpoint
	note []byte
	key  string // the verifier key under which the signature was found good; "" when not looked at
}

func (c Checkpoint) text() string {
	return c.Origin + "\n" + strconv.FormatUint(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// parseCheckpoint reads the text of a checkpoint: three lines and no extension lines, which this log never writes.
func parseCheckpoint(text string) (Checkpoint, error) {
	var c Checkpoint
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] == "" || lines[3] != "" {
		return c, fmt.Errorf("%w: not three lines", ErrCheckpoint)
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil || size > math.MaxInt64/4 || strconv.FormatUint(size, 10) != lines[1] {
		return c, fmt.Errorf("%w: malformed size", ErrCheckpoint)
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != len(c.Root) {
		return c, fmt.Errorf("%w: malformed root hash", ErrCheckpoint)
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: [32]byte(root)}, nil
}

// OpenCheckpoint verifies a signed checkpoint under a verifier key in note form, as VerifierKey or PostQuantumVerifierKey gives it, and
// reads it.
// Signatures of other keys are passed over. Every error wraps ErrCheckpoint.
func OpenCheckpoint(signed []byte, verifierKey string) (Checkpoint, error) {
	v, kind, err := newVerifier(verifierKey)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: reading the verifier key: %w", ErrCheckpoint, err)
	}
	if kind == typeCosign {
		return Checkpoint{}, fmt.Errorf("%w: the key is that of a witness", ErrCheckpoint)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != v.Name() {
		return Checkpoint{}, fmt.Errorf("%w: its origin is not the name of the key", ErrCheckpoint)
	}
	return c, nil
}

// placeholderKey is a verifier key in form only, to have a name checked by the note package.
func placeholderKey(origin string) string {
	key, err := note.NewEd25519VerifierKey(origin, make(ed25519.PublicKey, ed25519.PublicKeySize))
	if err != nil {
		return "" // cannot be for a key of this size, and "" is not a key
	}
	return key
}

// noteSigner lends a CheckpointSigner to the note package for one signature.
type noteSigner struct {
	note.Verifier
	ctx    context.Context // lives for one call; note's interface has no place for it
	signer CheckpointSigner
}

func (s noteSigner) Sign(msg []byte) ([]byte, error) {
	sig, err := s.signer.Sign(s.ctx, msg)
	if err != nil {
		return nil, err
	}
	// A device that signs wrongly must not leave a checkpoint behind that proves nothing.
	if !s.Verify(msg, sig) {
		return nil, errors.New("the signature does not verify under the key's own public key")
	}
	return sig, nil
}

func (l *Log) signer(ctx context.Context) (noteSigner, string, error) {
	if l.opts.Signer == nil {
		return noteSigner{}, "", fault.New(fault.Unavailable, "the audit log has no key for checkpoints")
	}
	s, err := l.opts.Signer(ctx)
	if err != nil {
		return noteSigner{}, "", fmt.Errorf("opening the checkpoint key: %w", err)
	}
	key, err := note.NewEd25519VerifierKey(l.opts.Origin, s.Public())
	if err != nil {
		return noteSigner{}, "", fmt.Errorf("encoding the checkpoint key: %w", err)
	}
	v, err := note.NewVerifier(key)
	if err != nil {
		return noteSigner{}, "", fmt.Errorf("encoding the checkpoint key: %w", err)
	}
	return noteSigner{Verifier: v, ctx: ctx, signer: s}, key, nil
}

// VerifierKey gives the public key of the checkpoints in note form, origin+hash+key (C2SP signed-note, Ed25519).
func (l *Log) VerifierKey(ctx context.Context) (string, error) {
	_, key, err := l.signer(ctx)
	return key, err
}

// PostQuantumVerifierKey gives the public key of the checkpoints' second signature in note form (C2SP tlog-cosignature, ML-DSA-44); "" when
// there is none.
func (l *Log) PostQuantumVerifierKey(ctx context.Context) (string, error) {
	if l.opts.PostQuantum == nil {
		return "", nil
	}
	_, key, err := l.pqSigner(ctx)
	return key, err
}

func (l *Log) pqSigner(ctx context.Context) (pqNoteSigner, string, error) {
	s, err := l.opts.PostQuantum(ctx)
	if err != nil {
		return pqNoteSigner{}, "", fmt.Errorf("opening the checkpoint's post-quantum key: %w", err)
	}
	key := encodeVerifierKey(l.opts.Origin, typeMLDSA44, s.PublicBytes())
	v, _, err := newVerifier(key)
	if err != nil {
		return pqNoteSigner{}, "", fmt.Errorf("encoding the checkpoint's post-quantum key: %w", err)
	}
	return pqNoteSigner{Verifier: v, ctx: ctx, signer: s}, key, nil
}

// Checkpoint gives a signed checkpoint of the log as it now is. It signs only when the log has grown since the newest one
// or the key is another; callers at the same time share one signature. The checkpoint is kept in the store before it is
// given out, so that a log that loses entries that somebody holds a checkpoint of does not open again.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	s, err := l.signedNow(ctx, func(*signedHead) bool { return false })
	if err != nil {
		return nil, err
	}
	return s.note, nil
}

// signedNow gives a checkpoint: the kept one when it will do or nothing has changed, else a new one.
func (l *Log) signedNow(ctx context.Context, willDo func(*signedHead) bool) (*signedHead, error) {
	signer, key, err := l.signer(ctx)
	if err != nil {
		return nil, err
	}
	if last := l.checkpoint.Load(); last.key == key && willDo(last) {
		return last, nil // without waiting for a signature that is under way
	}
	select {
	case <-l.signing:
		defer func() { l.signing <- struct{}{} }()
	case <-ctx.Done():
		return nil, fault.Wrap(fault.Timeout, "the deadline passed before the checkpoint was signed", ctx.Err())
	}
	last, err := l.newest(ctx, key)
	if err != nil {
		return nil, err
	}
	if last.key == key && willDo(last) {
		return last, nil
	}
	head, err := l.store.AuditHead(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the head of the audit log: %w", err)
	}
	if last.key == key && head.Size == last.Size && head.Root() == last.Root {
		return last, nil
	}
	// Two signed trees of which one is not the beginning of the other would make this log a liar for ever.
	if err := head.check(); err != nil {
		return nil, fault.Wrap(fault.StoreCorrupted, "the stored head of the audit log is malformed", err)
	}
	if err := checkHead(ctx, l.store, head); err != nil {
		return nil, err
	}
	if len(last.note) > 0 {
		if err := checkContains(ctx, l.store, head, last.Checkpoint); err != nil {
			return nil, err
		}
	}
	next := &signedHead{Checkpoint: Checkpoint{Origin: l.opts.Origin, Size: head.Size, Root: head.Root()}, key: key}
	signers := []note.Signer{signer}
	if l.opts.PostQuantum != nil {
		pq, _, err := l.pqSigner(ctx)
		if err != nil {
			return nil, err
		}
		signers = append(signers, pq)
	}
	if next.note, err = note.Sign(&note.Note{Text: next.text()}, signers...); err != nil {
		return nil, fmt.Errorf("signing the checkpoint: %w", err)
	}
	if err := l.store.SaveCheckpoint(ctx, next.Size, next.note); err != nil {
		return nil, fmt.Errorf("keeping the checkpoint: %w", err)
	}
	l.checkpoint.Store(next)
	return next, nil
}

// newest gives the newest checkpoint kept, also when another node has signed it. Whoever calls it may sign.
func (l *Log) newest(ctx context.Context, key string) (*signedHead, error) {
	last := l.checkpoint.Load()
	if len(last.note) > 0 && last.key != key {
		// Kept by an earlier start, perhaps under another key: good only when its signature is.
		if c, err := OpenCheckpoint(last.note, key); err == nil {
			last = &signedHead{Checkpoint: c, note: last.note, key: key}
		}
	}
	kept, err := l.store.Checkpoint(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the newest checkpoint: %w", err)
	}
	if !bytes.Equal(kept, last.note) {
		// A smaller one is what a store shows that was rolled back: the one that is known here finds that out.
		if c, err := OpenCheckpoint(kept, key); err == nil && c.Origin == l.opts.Origin && c.Size >= last.Size {
			// That a longer one goes on from the one that is known here its signature does not say: another node may have signed it on a copy.
			if len(last.note) > 0 {
				if err := l.contains(ctx, last.Checkpoint); err != nil {
					return nil, err
				}
			}
			last = &signedHead{Checkpoint: c, note: kept, key: key}
		}
	}
	l.checkpoint.Store(last)
	return last, nil
}

// contains shows that the stored tree goes on from that of the checkpoint.
func (l *Log) contains(ctx context.Context, c Checkpoint) error {
	head, err := l.store.AuditHead(ctx)
	if err != nil {
		return fmt.Errorf("reading the head of the audit log: %w", err)
	}
	return checkContains(ctx, l.store, head, c)
}

// grown reports whether the log is longer than its newest checkpoint.
func (l *Log) grown() bool { return l.Size() > l.checkpoint.Load().Size }

// checkpointLoop signs a checkpoint now and then until the log is closed, while this node is the one to do it.
func (l *Log) checkpointLoop() {
	defer close(l.periodic)
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	go func() {
		select {
		case <-l.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	if l.opts.Alone == nil {
		l.checkpoints(ctx)
		return
	}
	l.opts.Alone(ctx, l.checkpoints)
}

// checkpoints signs a checkpoint whenever some time has passed and the log has grown, on whatever node, until ctx ends.
func (l *Log) checkpoints(ctx context.Context) {
	tick := time.NewTicker(l.opts.CheckpointEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if l.opts.Alone == nil && !l.grown() {
			l.cosign(ctx) // a witness may have been silent the last time
			continue
		}
		signing, cancel := context.WithTimeout(ctx, max(l.opts.CheckpointEvery, 10*time.Second))
		_, err := l.Checkpoint(signing)
		cancel()
		if err == nil {
			l.cosign(ctx)
		}
		switch {
		case err == nil || ctx.Err() != nil:
			failing = false
		case !failing && !fault.Has(err, fault.Locked): // while the root is locked there is no key, and nothing is wrong
			failing = true
			l.log.Warn("signing an audit checkpoint", "error", err)
		}
	}
}
