package backup

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/filecrypt"
	"github.com/keywright/keywright/secret"
)

// File is a backup that is being read, once, from its beginning to its end. It is for one goroutine.
type File struct {
	Header
	src *tail
	h   hash.Hash
	n   int64
}

// Open reads the header of a backup and leaves the rest for Verify, Check or Restore. Nothing of the header is proven before one of them has
// returned nil. Errors: ErrFormat, or those of r.
func Open(r io.Reader) (*File, error) {
	h, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	f := &File{Header: *h, h: sha256.New(), n: int64(len(h.raw))}
	f.h.Write(h.raw)
	f.src = &tail{r: r, buf: make([]byte, 64<<10+ed25519.SignatureSize)}
	return f, nil
}

// Read gives the file behind the header up to its signature, and hashes it on the way.
func (f *File) Read(p []byte) (int, error) {
	n, err := f.src.Read(p)
	f.h.Write(p[:n])
	f.n += int64(n)
	return n, err
}

// tail holds back the signature at the end.
type tail struct {
	r        io.Reader
	buf      []byte
	from, to int  // of buf: read and not given out; the last bytes of it may be the signature
	done     bool // there is no more: what is left is the signature, and what is before it
}

func (t *tail) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for !t.done && t.to-t.from <= ed25519.SignatureSize {
		t.from, t.to = 0, copy(t.buf, t.buf[t.from:t.to])
		n, err := t.r.Read(t.buf[t.to:])
		t.to += n
		if errors.Is(err, io.EOF) {
			t.done = true
		} else if err != nil {
			return 0, err
		}
	}
	if t.to-t.from <= ed25519.SignatureSize {
		return 0, io.EOF
	}
	n := copy(p, t.buf[t.from:t.to-ed25519.SignatureSize])
	t.from += n
	return n, nil
}

// rest gives what is left at the end: the signature, or less.
func (t *tail) rest() []byte { return t.buf[t.from:t.to] }

// Check reads to the end and verifies the signature: the file is as the holder of the key made it. With a verifier key (VerifierKey's form),
// which must come from elsewhere than the file, that is proven; with "" the key in the file itself is taken, and only damage is found. The
// content is not opened. Errors: ErrSignature, ErrDamaged, ErrFormat, or those of the reader.
func (f *File) Check(verifierKey string) (Summary, error) {
	if err := f.checkKey(verifierKey); err != nil {
		return Summary{}, err
	}
	if _, err := filecrypt.ReadHeader(f); err != nil {
		return Summary{}, f.damaged(err)
	}
	if _, err := io.Copy(io.Discard, f); err != nil {
		return Summary{}, fmt.Errorf("reading the backup: %w", err)
	}
	sum := Summary{}
	return sum, f.verify(&sum)
}

// checkKey refuses a file that says itself that it is signed by another key.
func (f *File) checkKey(verifierKey string) error {
	if verifierKey == "" || verifierKey == f.Signer {
		return nil
	}
	if _, err := publicKey(verifierKey); err != nil {
		return err
	}
	return fmt.Errorf("%w: it is signed by another key, %s", ErrSignature, f.Signer)
}

// verify is for when everything before the signature has been read.
func (f *File) verify(sum *Summary) error {
	key, err := publicKey(f.Signer)
	if err != nil {
		return err
	}
	if !f.src.done || len(f.src.rest()) != ed25519.SignatureSize {
		return fmt.Errorf("%w: it has no signature", ErrDamaged)
	}
	f.h.Sum(sum.Sum[:0])
	sum.Bytes = f.n + ed25519.SignatureSize
	if !ed25519.Verify(key, signed(sum.Sum[:]), f.src.rest()) {
		return ErrSignature
	}
	return nil
}

// damaged makes the errors of the file inside those of this package.
func (f *File) damaged(err error) error {
	if errors.Is(err, filecrypt.ErrFormat) || errors.Is(err, filecrypt.ErrDamaged) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// Verify reads to the end, opens the content under the backup key (Label of the root) and verifies everything: each segment, the records, the
// audit log against its tree and the checkpoint in the header, and the signature as Check does. It loads nothing.
func (f *File) Verify(ctx context.Context, backupKey secret.Bytes, verifierKey string) (Summary, error) {
	return f.Restore(ctx, backupKey, verifierKey, nil)
}

// Restore is Verify, and loads every row into the target on the way: when it returns nil the target holds what the backup holds, and
// otherwise nothing that is to be used. ErrRoot when the backup key is not that of the file.
func (f *File) Restore(ctx context.Context, backupKey secret.Bytes, verifierKey string, target Target) (Summary, error) {
	if err := f.checkKey(verifierKey); err != nil {
		return Summary{}, err
	}
	l := &ledger{deployment: f.Deployment}
	var err error
	if l.checkpoint, err = parseCheckpoint(f.Checkpoint); err != nil {
		return Summary{}, err
	}
	inner, err := filecrypt.ReadHeader(f)
	if err != nil {
		return Summary{}, f.damaged(err)
	}
	dataKey, err := envelope.OpenSoftware(backupKey, inner.EncryptedKey, f.binding())
	if err != nil {
		return Summary{}, ErrRoot // why is not said
	}
	content, err := filecrypt.NewReader(f, inner, dataKey)
	dataKey.Wipe()
	if err != nil {
		return Summary{}, ErrRoot
	}
	defer content.Close()
	d := &decoder{r: bufio.NewReaderSize(untilDone{ctx, content}, 64<<10)}
	var load func(Table, Rows) error
	if target != nil {
		load = func(t Table, rows Rows) error { return target.Load(ctx, t, rows) }
	}
	err = transfer(l, target, load, func() (*Table, Rows, error) {
		t, err := d.next()
		return t, d, err
	})
	if err != nil {
		return Summary{}, f.damaged(err)
	}
	sum := l.summary()
	return sum, f.verify(&sum)
}

// untilDone ends a long read when ctx ends.
type untilDone struct {
	ctx context.Context //nolint:containedctx // lives for one call
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// Copy loads a snapshot into a target without a file in between, with the same checks. progress, when not nil, is called with the number of
// rows that have been read, now and then and at the end.
func Copy(ctx context.Context, snap Snapshot, target Target, progress func(rows int64)) (Summary, error) {
	l := &ledger{}
	tables := snap.Tables()
	i := 0
	load := func(t Table, rows Rows) error {
		if progress == nil {
			return target.Load(ctx, t, rows)
		}
		err := target.Load(ctx, t, &counted{rows: rows, l: l, progress: progress})
		progress(l.rows)
		return err
	}
	err := transfer(l, target, load, func() (*Table, Rows, error) {
		if i == len(tables) {
			return nil, nil, io.EOF
		}
		t := &tables[i]
		i++
		rows, err := snap.Rows(ctx, *t)
		return t, rows, err
	})
	return l.summary(), err
}

// counted tells of progress every thousand rows.
type counted struct {
	rows     Rows
	l        *ledger
	progress func(int64)
}

func (c *counted) Next() ([]Value, error) {
	row, err := c.rows.Next()
	if c.l.rows%1000 == 0 {
		c.progress(c.l.rows)
	}
	return row, err
}
