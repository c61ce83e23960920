package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/client"
	"github.com/keywright/keywright/fault"
)

type auditCmd struct {
	List        auditListCmd        `cmd:"" help:"List entries, newest first."`
	Show        auditShowCmd        `cmd:"" help:"Show an entry by its index, as X-Audit-Index tells it."`
	Checkpoint  auditCheckpointCmd  `cmd:"" help:"Show a signed checkpoint of the log. Keep it elsewhere: verify compares with it."`
	VerifierKey auditKeyCmd         `cmd:"" help:"Show the key that verifies checkpoints. Keep it elsewhere."`
	Proof       auditProofCmd       `cmd:"" help:"Show an entry with the proof that it is in the log; exit code 7 when the proof is wrong."`
	Consistency auditConsistencyCmd `cmd:"" help:"Prove that the log has only grown since a checkpoint that was kept; exit code 7 when it has not."`
	Export      auditExportCmd      `cmd:"" help:"Export the whole log to a file, for verify."`
	Verify      auditVerifyCmd      `cmd:"" help:"Verify an export, offline; exit code 7 when it does not verify."`
}

type auditListCmd struct {
	Key       string    `short:"k" help:"Only about this key (name or id)."`
	Principal string    `help:"Only by this principal, as in api-key:ID."`
	Action    string    `help:"Only this action, as in encrypt or key.create."`
	Outcome   string    `help:"Only with this outcome: ok, or an error code."`
	From      time.Time `placeholder:"TIME" help:"Not before (RFC 3339)."`
	To        time.Time `placeholder:"TIME" help:"Before (RFC 3339)."`
	Limit     int       `help:"At most so many; 0: all." default:"100"`
}

func (k auditListCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	f := client.AuditFilter{Key: k.Key, Principal: k.Principal, Action: k.Action, Outcome: k.Outcome, From: k.From, To: k.To}
	return list(a, take(c.Audit(ctx, f), k.Limit), []string{"INDEX", "TIME", "ACTION", "OUTCOME", "KEY", "VERSION", "PRINCIPAL", "REQUEST"}, func(e wire.AuditEntry) []string {
		key := e.KeyID
		if key == "" {
			key = e.Resource
		}
		return []string{fmt.Sprint(e.Index), when(e.Time), e.Action, e.Outcome, key, number(e.KeyVersion), e.Principal, e.RequestID}
	})
}

type auditShowCmd struct {
	Index uint64 `arg:"" help:"Index of the entry."`
}

func (k auditShowCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	e, err := c.AuditEntry(ctx, k.Index)
	if err != nil {
		return err
	}
	return a.show(e, func() error {
		return a.fields("index", fmt.Sprint(e.Index), "time", when(e.Time), "principal", e.Principal, "action", e.Action, "outcome", e.Outcome, "key", e.KeyID, "version", number(e.KeyVersion),
			"resource", printable(e.Resource), "items", number(e.Items), "request", printable(e.RequestID), "detail", printable(e.Detail))
	})
}

type auditCheckpointCmd struct {
	sink
	Cosigned bool `help:"The newest one that witnesses have cosigned."`
}

func (k auditCheckpointCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	ask := c.AuditCheckpoint
	if k.Cosigned {
		ask = c.AuditCosigned
	}
	v, err := ask(ctx)
	if err != nil {
		return err
	}
	if k.Out != "" {
		if err := k.create(func(w io.Writer) error { _, err := io.WriteString(w, v.Checkpoint); return err }); err != nil {
			return err
		}
		if !a.json() {
			return nil
		}
	}
	return a.show(v, func() error { return a.printf("%s", v.Checkpoint) })
}

type auditKeyCmd struct {
	sink
	PostQuantum bool `help:"The ML-DSA-44 key of the second signature. Every command that takes a verifier key takes either."`
}

func (k auditKeyCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	v, err := c.AuditCheckpoint(ctx)
	if err != nil {
		return err
	}
	text := v.VerifierKey
	if k.PostQuantum {
		text = v.PostQuantumKey
	}
	if k.Out != "" {
		return k.create(func(w io.Writer) error { _, err := fmt.Fprintln(w, text); return err })
	}
	key := struct {
		VerifierKey string `json:"verifier_key"`
	}{text}
	return a.show(key, func() error { return a.printf("%s\n", text) })
}

// cosigners are the witnesses that a kept checkpoint must show.
type cosigners struct {
	WitnessKeyFile []string `placeholder:"FILE" help:"File with the verifier key of a witness. May be repeated. The checkpoint kept from before must bear their cosignatures."`
	Witnesses      int      `help:"So many of them suffice. Default: all."`
}

// check gives the cosignatures of a checkpoint, if they are enough.
func (w cosigners) check(checkpoint []byte) ([]audit.Cosignature, error) {
	if w.Witnesses < 0 || w.Witnesses > len(w.WitnessKeyFile) {
		return nil, usage("--witnesses is not more than the number of --witness-key-file")
	}
	keys := make([]string, len(w.WitnessKeyFile))
	for i, path := range w.WitnessKeyFile {
		key, err := verifierKey{VerifierKeyFile: path}.get()
		if err != nil {
			return nil, err
		}
		if slices.Contains(keys[:i], key) {
			return nil, usage("the witness key in %s is there twice: it counts once", path)
		}
		keys[i] = key
	}
	found, err := audit.Cosignatures(checkpoint, keys)
	if err != nil {
		return nil, &exitError{exitInvalid, err.Error()}
	}
	need := w.Witnesses
	if need == 0 {
		need = len(keys)
	}
	if len(found) < need {
		return nil, &exitError{exitInvalid, fmt.Sprintf("the checkpoint bears the cosignatures of %d witnesses, not of %d", len(found), need)}
	}
	return found, nil
}

// verifierKey reads the key that verifies checkpoints: the text itself or a file of it. It is public.
type verifierKey struct {
	VerifierKey     string `placeholder:"KEY" help:"The key that verifies checkpoints, as \"audit verifier-key\" shows it."`
	VerifierKeyFile string `placeholder:"FILE" help:"The same from a file."`
}

func (v verifierKey) get() (string, error) {
	if v.VerifierKey != "" && v.VerifierKeyFile != "" {
		return "", usage("give --verifier-key or --verifier-key-file, not both")
	}
	if v.VerifierKeyFile == "" {
		return v.VerifierKey, nil
	}
	b, err := readSmall(v.VerifierKeyFile, 4096)
	if err != nil {
		return "", fmt.Errorf("reading the verifier key: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

type auditProofCmd struct {
	Index      uint64 `arg:"" help:"Index of the entry."`
	Checkpoint string `placeholder:"FILE" help:"A checkpoint that was kept: proves that the entry was in the log by then."`
	verifierKey
	cosigners
}

func (k auditProofCmd) Run(ctx context.Context, a *app) error {
	key, err := k.get()
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	if key == "" {
		// The service's own key proves that the answer fits itself; a key kept elsewhere proves more.
		p, err := c.AuditCheckpoint(ctx)
		if err != nil {
			return err
		}
		key = p.VerifierKey
	}
	if k.Checkpoint != "" {
		return k.inKept(ctx, a, c, key)
	}
	if len(k.WitnessKeyFile) > 0 {
		return usage("--witness-key-file goes with --checkpoint: the newest checkpoint has no cosignatures yet")
	}
	p, err := c.AuditProof(ctx, k.Index)
	if err != nil {
		return err
	}
	return k.show(a, p, key, p.Checkpoint)
}

// inKept proves in the log of a checkpoint that was kept.
func (k auditProofCmd) inKept(ctx context.Context, a *app, c *client.Client, key string) error {
	kept, err := readSmall(k.Checkpoint, 64<<10)
	if err != nil {
		return fmt.Errorf("reading the checkpoint: %w", err)
	}
	head, err := audit.OpenCheckpoint(kept, key)
	if err != nil {
		return &exitError{exitInvalid, "the checkpoint that was kept: " + err.Error()}
	}
	if _, err := k.check(kept); err != nil {
		return err
	}
	p, err := c.AuditProofIn(ctx, k.Index, head.Size)
	if err != nil {
		return err
	}
	return k.show(a, p, key, string(kept))
}

// show prints a proof that holds.
func (k auditProofCmd) show(a *app, p *wire.Proof, key, checkpoint string) error {
	head, err := checkProof(p, checkpoint, k.Index, key)
	if err != nil {
		return &exitError{exitInvalid, err.Error()}
	}
	return a.show(p, func() error {
		entry := printable(string(p.Leaf))
		if p.Pruned {
			entry = "pruned: its hash is all that is kept"
		}
		return a.fields("index", fmt.Sprint(p.Index), "entry", entry, "leaf hash", base64.StdEncoding.EncodeToString(p.LeafHash),
			"proof", fmt.Sprintf("%d hashes, in the tree of %d entries: correct", len(p.Hashes), head.Size))
	})
}

// checkProof verifies an inclusion proof (RFC 6962 section 2.1.1) from the leaf's own bytes, or from the hash of one that was pruned.
func checkProof(p *wire.Proof, checkpoint string, index uint64, key string) (audit.Checkpoint, error) {
	head, err := audit.OpenCheckpoint([]byte(checkpoint), key)
	if err != nil {
		return head, err
	}
	path := make(tlog.RecordProof, len(p.Hashes))
	for i, h := range p.Hashes {
		if len(h) != tlog.HashSize {
			return head, errors.New("the proof is malformed")
		}
		path[i] = tlog.Hash(h)
	}
	if p.Index != index || index >= head.Size || head.Size > 1<<62 {
		return head, errors.New("the proof is of another entry")
	}
	if len(p.LeafHash) != tlog.HashSize {
		return head, errors.New("the proof is malformed")
	}
	hash := tlog.Hash(p.LeafHash)
	if !p.Pruned && hash != audit.LeafHash(p.Leaf) {
		return head, errors.New("the hash is not that of the entry")
	}
	if tlog.CheckRecord(path, int64(head.Size), head.Root, int64(index), hash) != nil {
		return head, errors.New("the proof does not show that the entry is in the log")
	}
	return head, nil
}

type auditConsistencyCmd struct {
	Checkpoint string `required:"" placeholder:"FILE" help:"The checkpoint that was kept from before."`
	verifierKey
	cosigners
	sink
}

func (auditConsistencyCmd) Help() string {
	return "Asks the service for its newest checkpoint and for the proof that the log of the kept one is its beginning, and checks both: some hundred bytes where an export is the whole log. --out keeps the newest checkpoint for the next time."
}

func (k auditConsistencyCmd) Run(ctx context.Context, a *app) error {
	key, err := k.get()
	if err != nil {
		return err
	}
	if key == "" {
		return usage("give --verifier-key or --verifier-key-file: a key from the service itself would prove nothing")
	}
	b, err := readSmall(k.Checkpoint, 64<<10)
	if err != nil {
		return fmt.Errorf("reading the checkpoint: %w", err)
	}
	kept, err := audit.OpenCheckpoint(b, key)
	if err != nil {
		return &exitError{exitInvalid, "the checkpoint kept from before: " + err.Error()}
	}
	if _, err := k.check(b); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	p, err := c.AuditConsistency(ctx, kept.Size)
	if err != nil {
		var answered *client.Error
		if errors.As(err, &answered) && fault.Code(answered.Code) == fault.BadQuery {
			return &exitError{exitInvalid, "the log is shorter than the checkpoint kept from before: it was rolled back"}
		}
		return err
	}
	now, err := checkConsistency(p, kept, key)
	if err != nil {
		return &exitError{exitInvalid, err.Error()}
	}
	if k.Out != "" {
		if err := k.create(func(w io.Writer) error { _, err := io.WriteString(w, p.Checkpoint); return err }); err != nil {
			return err
		}
	}
	v := consistent{Valid: true, Origin: now.Origin, Kept: kept.Size, Size: now.Size, Root: now.Root[:]}
	return a.show(v, func() error {
		return a.printf("%s: the log of %d entries goes on from that of %d: nothing was dropped or changed\n", v.Origin, v.Size, v.Kept)
	})
}

// consistent is the JSON output of audit consistency.
type consistent struct {
	Valid  bool   `json:"valid"`
	Origin string `json:"origin"`
	Kept   uint64 `json:"kept_size"`
	Size   uint64 `json:"size"`
	Root   []byte `json:"root_hash"`
}

// checkConsistency verifies a consistency proof (RFC 6962 section 2.1.2) from the kept checkpoint to the one that came with it.
func checkConsistency(p *wire.Consistency, kept audit.Checkpoint, key string) (audit.Checkpoint, error) {
	now, err := audit.OpenCheckpoint([]byte(p.Checkpoint), key)
	if err != nil {
		return now, err
	}
	if now.Origin != kept.Origin || p.From != kept.Size || p.To != now.Size || now.Size < kept.Size || now.Size > 1<<62 {
		return now, errors.New("the proof is of other checkpoints")
	}
	if kept.Size == 0 {
		return now, nil // every log begins with the empty one
	}
	path := make(tlog.TreeProof, len(p.Hashes))
	for i, h := range p.Hashes {
		if len(h) != tlog.HashSize {
			return now, errors.New("the proof is malformed")
		}
		path[i] = tlog.Hash(h)
	}
	if tlog.CheckTree(path, int64(now.Size), now.Root, int64(kept.Size), kept.Root) != nil {
		return now, errors.New("the log does not go on from the checkpoint kept from before: it was rewritten")
	}
	return now, nil
}

type auditExportCmd struct {
	Out   string `required:"" placeholder:"FILE" help:"File to write."`
	Force bool   `help:"Replace the file if it exists."`
}

func (k auditExportCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	bar := a.progress(-1, "exporting", true)
	var n counter
	err = sink(k).create(func(w io.Writer) error { return c.AuditExport(ctx, io.MultiWriter(w, bar, &n)) })
	if err = errors.Join(err, bar.Finish()); err != nil {
		return err
	}
	return a.show(written{Out: k.Out, Bytes: int64(n)}, func() error { return a.printf("%s: %d bytes\n", k.Out, n) })
}

// counter counts what is written.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

type auditVerifyCmd struct {
	File string `arg:"" placeholder:"FILE" help:"The export; - is standard input."`
	verifierKey
	cosigners
	Checkpoint string `placeholder:"FILE" help:"A checkpoint that was kept from before: the export must go on from it."`
}

func (k auditVerifyCmd) Help() string {
	return "Proves that the export is the log that the holder of the key has signed: nothing dropped, changed, reordered or added. With --checkpoint it also proves that the log has not been rewritten since that checkpoint was kept. Needs no service."
}

func (k auditVerifyCmd) Run(ctx context.Context, a *app) error {
	key, err := k.get()
	if err != nil {
		return err
	}
	if key == "" {
		return usage("give --verifier-key or --verifier-key-file: a key from the export itself would prove nothing")
	}
	var kept []byte
	if k.Checkpoint != "" {
		if kept, err = readSmall(k.Checkpoint, 64<<10); err != nil {
			return fmt.Errorf("reading the checkpoint: %w", err)
		}
		if len(kept) == 0 {
			return usage("%s is empty", k.Checkpoint)
		}
	} else if len(k.WitnessKeyFile) > 0 {
		return usage("--witness-key-file needs --checkpoint: an export's own checkpoint was made for it and no witness has seen it")
	}
	witnessed, err := k.check(kept)
	if err != nil {
		return err
	}
	s := source{In: k.File}
	f, size, err := s.open(a)
	if err != nil {
		return err
	}
	bar := a.progress(size, "verifying", true)
	in := bufio.NewReader(io.TeeReader(untilDone{ctx, f}, bar))
	var r audit.Result
	var behind uint64                                                                    // entries that the checkpoint is not of yet
	if start, _ := in.Peek(len(audit.LinesHeader)); string(start) == audit.LinesHeader { // what cannot be read is met below
		if kept == nil {
			return errors.Join(usage("a file of audit lines has no checkpoint of its own: give --checkpoint"), f.Close())
		}
		var all uint64
		r, all, err = audit.VerifyLines(in, kept, key)
		behind = all - r.Size
	} else {
		r, err = audit.VerifyExport(in, kept, key, nil)
	}
	if jerr := errors.Join(bar.Finish(), f.Close()); err == nil {
		err = jerr
	}
	if err != nil {
		var bad *audit.BadExport
		if errors.As(err, &bad) || errors.Is(err, audit.ErrCheckpoint) {
			return &exitError{exitInvalid, "the log does not verify: " + err.Error()}
		}
		return err
	}
	v := verified{Valid: true, Origin: r.Origin, Size: r.Size, Root: r.Root[:], Kept: r.Kept, Pruned: r.Pruned, First: r.First, Last: r.Last}
	for _, w := range witnessed {
		v.Witnesses = append(v.Witnesses, w.Witness)
	}
	return a.show(v, func() error {
		since := ""
		if r.Pruned > 0 {
			since = fmt.Sprintf("; the first %d were pruned and are proven by their hashes", r.Pruned)
		}
		if r.Kept > 0 {
			since += fmt.Sprintf(", and goes on from the checkpoint of %d entries", r.Kept)
		}
		if len(v.Witnesses) > 0 {
			since += " that " + printable(strings.Join(v.Witnesses, ", ")) + " cosigned"
		}
		if behind > 0 {
			since += fmt.Sprintf("; %d more stand behind it, which a newer checkpoint proves", behind)
		}
		return a.printf("%s: %d entries, from %s to %s: the log verifies%s\n", r.Origin, r.Size, when(r.First), when(r.Last), since)
	})
}

// verified is the JSON output of audit verify.
type verified struct {
	Valid  bool   `json:"valid"`
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   []byte `json:"root_hash"`
	Kept   uint64 `json:"kept_size,omitempty"`
	// Pruned entries, the first ones, are there as their hashes alone.
	Pruned uint64 `json:"pruned,omitempty"`
	// Witnesses have cosigned the kept checkpoint.
	Witnesses []string  `json:"witnesses,omitempty"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
}

// untilDone ends a long read of a file when ctx ends.
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
