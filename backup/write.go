package backup

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/filecrypt"
	"github.com/keywright/keywright/secret"
)

// Signer is the key that signs backups: Ed25519, in some backend. Sign signs the message itself (RFC 8032 section 5.1.6); it may be slow.
type Signer interface {
	Public() ed25519.PublicKey
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// outcome counts and hashes what is written.
type outcome struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (o *outcome) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	o.n += int64(n)
	o.h.Write(p[:n])
	return n, err
}

// write writes the snapshot to w: h with what the snapshot says of itself filled in, the content under a data key of its own, which is
// sealed under the backup key of the root that the snapshot's slots open, and the signature. What it reads it checks: ErrInconsistent when the store does not hold what its log says.
// After an error w holds a part that does not verify. The memory is constant.
func write(ctx context.Context, w io.Writer, snap Snapshot, h Header, derive func(generation uint32) (secret.Bytes, error), signer Signer) (sum Summary, err error) {
	out := &outcome{w: w, h: sha256.New()}
	l := &ledger{}
	if l.checkpoint, err = parseCheckpoint(h.Checkpoint); err != nil {
		return sum, err
	}
	tables := snap.Tables()
	if err := h.describe(ctx, snap, tables); err != nil {
		return sum, err
	}
	l.deployment = h.Deployment
	if h.Signer, err = VerifierKey(h.Deployment, signer.Public()); err != nil {
		return sum, err
	}
	if err := h.encode(); err != nil {
		return sum, err
	}
	if err := h.check(); err != nil {
		return sum, err
	}
	backupKey, err := derive(h.Generation)
	if err != nil {
		return sum, fmt.Errorf("deriving the backup key: %w", err)
	}
	defer backupKey.Wipe()
	dataKey := make(secret.Bytes, filecrypt.DataKeySize)
	defer dataKey.Wipe()
	rand.Read(dataKey) // never fails (crypto/rand, since Go 1.24)
	sealed, err := envelope.SealSoftware(backupKey, dataKey, h.binding())
	if err != nil {
		return sum, fmt.Errorf("sealing the data key: %w", err)
	}
	if _, err := out.Write(h.raw); err != nil {
		return sum, fmt.Errorf("writing the header: %w", err)
	}
	content, err := filecrypt.NewWriter(out, dataKey, sealed, filecrypt.Options{})
	if err != nil {
		return sum, err
	}
	if err := writeContent(ctx, content, snap, tables, l); err != nil {
		return sum, err
	}
	sum = l.summary()
	out.h.Sum(sum.Sum[:0])
	message := signed(sum.Sum[:])
	signature, err := signer.Sign(ctx, message)
	if err != nil {
		return sum, fmt.Errorf("signing the backup: %w", err)
	}
	// A device that signs wrongly must not leave a file behind that looks like a backup.
	if !ed25519.Verify(signer.Public(), message, signature) {
		return sum, errors.New("signing the backup: the signature does not verify under the key's own public key")
	}
	if _, err := out.Write(signature); err != nil {
		return sum, fmt.Errorf("writing the signature: %w", err)
	}
	sum.Bytes = out.n
	return sum, nil
}

func writeContent(ctx context.Context, content *filecrypt.Writer, snap Snapshot, tables []Table, l *ledger) error {
	e := &encoder{w: bufio.NewWriterSize(content, 32<<10)}
	for i := range tables {
		t := &tables[i]
		rows, err := snap.Rows(ctx, *t)
		if err != nil {
			return fmt.Errorf("reading table %s: %w", t.Name, err)
		}
		if rows, err = l.watch(t, rows); err != nil {
			return err
		}
		if err := e.table(t); err != nil {
			return err
		}
		var n int64
		err = each(rows, func(row []Value) error {
			n++
			return e.row(t, row)
		})
		if err != nil {
			return fmt.Errorf("table %s: %w", t.Name, err)
		}
		if err := e.end(n); err != nil {
			return err
		}
	}
	if err := l.finish(); err != nil {
		return err
	}
	err := e.last(len(tables))
	if err == nil {
		err = e.w.Flush()
	}
	return errors.Join(err, content.Close())
}

// describe fills in what the snapshot says of itself: small tables that are read twice, once for the header.
func (h *Header) describe(ctx context.Context, snap Snapshot, tables []Table) error {
	h.Schema, h.Generation = snap.Schema(), 1 // until the root was replaced
	var generations []int64                   // of the slots
	for i := range tables {
		t := &tables[i]
		var look func([]Value) error
		switch t.Name {
		case "deployment":
			id := t.column("uuid", Bytes)
			if id < 0 {
				return inconsistent("table deployment lacks a column")
			}
			look = func(row []Value) (err error) {
				h.Deployment, err = uuid.FromBytes(row[id].Bytes)
				return err
			}
		case "root_state":
			generation := t.column("generation", Int)
			if generation < 0 {
				return inconsistent("table root_state lacks a column")
			}
			look = func(row []Value) error {
				n := row[generation].Int
				if n < 1 || n > math.MaxUint32 {
					return inconsistent("the generation of the root is none")
				}
				h.Generation = uint32(n)
				return nil
			}
		case "root_slots":
			of := t.column("generation", Int) // -1 in a schema of before
			id, kind, label := t.column("id", Bytes), t.column("kind", Text), t.column("label", Text)
			params, sealed, at := t.column("params", Bytes), t.column("sealed", Bytes), t.column("created_at", Int)
			if min(id, kind, label, params, sealed, at) < 0 {
				return inconsistent("table root_slots lacks a column")
			}
			look = func(row []Value) error {
				s := Slot{Kind: string(row[kind].Bytes), Label: string(row[label].Bytes), Params: clone(row[params]), Sealed: clone(row[sealed]),
					CreatedAt: time.UnixMicro(row[at].Int).UTC()}
				var err error
				s.ID, err = uuid.FromBytes(row[id].Bytes)
				generation := int64(1)
				if of >= 0 {
					generation = row[of].Int
				}
				h.Slots, generations = append(h.Slots, s), append(generations, generation)
				return err
			}
		default:
			continue
		}
		rows, err := snap.Rows(ctx, *t)
		if err == nil {
			err = each(rows, look)
		}
		if err != nil {
			return fmt.Errorf("reading table %s: %w", t.Name, err)
		}
	}
	slots := h.Slots[:0]
	for i, s := range h.Slots {
		if generations[i] == int64(h.Generation) { // others open nothing
			slots = append(slots, s)
		}
	}
	h.Slots = slots
	return nil
}

func clone(v Value) []byte { return append([]byte{}, v.Bytes...) }
