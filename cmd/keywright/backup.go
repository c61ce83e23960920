package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/fault"
)

type backupCmd struct {
	Create backupCreateCmd `cmd:"" default:"withargs" help:"Make a backup of the running service: one encrypted, signed file (the default)."`
	Verify backupVerifyCmd `cmd:"" help:"Verify a backup, offline; exit code 7 when it does not verify."`
}

type backupCreateCmd struct {
	Out   string `required:"" placeholder:"FILE" help:"File to write."`
	Force bool   `help:"Replace the file if it exists."`
}

func (k backupCreateCmd) Help() string {
	return "The file holds everything that the service keeps, as it was at one moment. It opens only where the root opens, and what it holds of keys is sealed beneath that as it is in the store: who has the file, or makes it, cannot read them. Needs the scope backup:write."
}

func (k backupCreateCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	bar := a.progress(-1, "backing up", true)
	var f *backup.File
	var sum backup.Summary
	err = sink(k).create(func(w io.Writer) error {
		// What arrives is checked on the way: a file that does not verify is not kept.
		r, check := io.Pipe()
		checked := make(chan error, 1)
		go func() {
			var err error
			if f, err = backup.Open(r); err == nil {
				sum, err = f.Check("")
			}
			_ = r.CloseWithError(err) // never fails; ends the writer when the check did
			checked <- err
		}()
		err := c.Backup(ctx, io.MultiWriter(w, bar, check))
		_ = check.CloseWithError(err) // never fails; nil is the end of the file
		if found := <-checked; err == nil {
			err = found
		}
		return err
	})
	if err = errors.Join(err, bar.Finish()); err != nil {
		return refusedBackup(err)
	}
	return a.showBackup(k.Out, f, sum, false, "")
}

// shownBackup is the JSON output of the backup commands.
type shownBackup struct {
	File        string    `json:"file"`
	Bytes       int64     `json:"bytes"`
	SHA256      string    `json:"sha256"` // of what is signed: all but the signature
	Deployment  string    `json:"deployment"`
	CreatedAt   time.Time `json:"created_at"`
	Release     string    `json:"release"`
	Schema      int64     `json:"schema"`
	Generation  uint32    `json:"root_generation"`
	Checkpoint  uint64    `json:"checkpoint_size"`
	VerifierKey string    `json:"verifier_key"`
	Slots       []string  `json:"root_slots"`
	Opened      bool      `json:"opened"` // the content too was looked at; only then what follows is known
	Rows        int64     `json:"rows,omitempty"`
	Entries     uint64    `json:"entries,omitempty"`
	Root        []byte    `json:"root_hash,omitempty"`
	Pinned      bool      `json:"verifier_key_given"`
}

// showBackup shows a backup that was verified, under the key that was given.
func (a *app) showBackup(path string, f *backup.File, sum backup.Summary, opened bool, key string) error {
	head, err := audit.OpenCheckpoint([]byte(f.Checkpoint), f.CheckpointKey)
	if err != nil {
		return &exitError{exitInvalid, "the checkpoint in the backup: " + err.Error()}
	}
	v := shownBackup{File: path, Bytes: sum.Bytes, SHA256: hex.EncodeToString(sum.Sum[:]), Deployment: f.Deployment.String(), CreatedAt: f.CreatedAt,
		Release: f.Release, Schema: f.Schema, Generation: f.Generation, Checkpoint: head.Size, VerifierKey: f.Signer, Opened: opened, Pinned: key != ""}
	kinds := ""
	for _, s := range f.Slots {
		v.Slots = append(v.Slots, s.Kind)
		kinds += ", " + printable(s.Kind)
	}
	rows, entries := "", ""
	if opened {
		v.Rows, v.Entries, v.Root = sum.Rows, sum.Entries, sum.Root[:]
		rows, entries = fmt.Sprint(sum.Rows), fmt.Sprintf("%d, which give their tree", sum.Entries)
	}
	return a.show(v, func() error {
		return a.fields("file", path, "bytes", fmt.Sprint(v.Bytes), "sha256", v.SHA256, "deployment", v.Deployment, "made", when(v.CreatedAt)+" by "+printable(v.Release),
			"schema", fmt.Sprint(v.Schema), "opened by", kinds[min(2, len(kinds)):], "checkpoint", fmt.Sprintf("%d entries", head.Size), "rows", rows, "audit entries", entries,
			"verifier key", printable(v.VerifierKey))
	})
}

type backupVerifyCmd struct {
	File string `arg:"" placeholder:"FILE" help:"The backup; - is standard input."`
	backupKey
	rootSecret
}

// backupKey is the key that a backup has to be signed with.
type backupKey struct {
	VerifierKey     string `placeholder:"KEY" help:"The key that the backup has to be signed with, as \"backup\" shows it."`
	VerifierKeyFile string `placeholder:"FILE" help:"The same from a file."`
}

func (k backupVerifyCmd) Help() string {
	return "Without the root it proves that the file is as the holder of the key has made it; without --verifier-key the key is taken from the file itself, and only damage is found. With what opens the root (--root-key-file, --passphrase-file, --shares-file, --root-slot or --config) it also opens the content, and shows that its audit log gives its tree and goes on from the checkpoint. Needs no service."
}

func (k backupVerifyCmd) Run(ctx context.Context, a *app) error {
	key, err := verifierKey(k.backupKey).get()
	if err != nil {
		return err
	}
	in, size, err := source{In: k.File}.open(a)
	if err != nil {
		return err
	}
	bar := a.progress(size, "verifying", true)
	f, sum, err := k.verify(ctx, a, io.TeeReader(untilDone{ctx, in}, bar), key)
	if err = errors.Join(err, bar.Finish(), in.Close()); err != nil {
		return refusedBackup(err)
	}
	if key == "" && !k.given() {
		a.warn("the signature was checked under the key in the file itself: that finds damage, and proves nothing about who made it")
	}
	return a.showBackup(k.File, f, sum, k.given(), key)
}

func (k backupVerifyCmd) verify(ctx context.Context, a *app, r io.Reader, key string) (*backup.File, backup.Summary, error) {
	f, err := backup.Open(r)
	if err != nil {
		return nil, backup.Summary{}, err
	}
	if !k.given() {
		sum, err := f.Check(key)
		return f, sum, err
	}
	secret, err := k.open(ctx, a, &f.Header)
	if err != nil {
		return nil, backup.Summary{}, err
	}
	defer secret.Wipe()
	sum, err := f.Verify(ctx, secret, key)
	return f, sum, err
}

// refusedBackup gives an error of a backup its exit code.
func refusedBackup(err error) error {
	var shown *exitError
	switch {
	case err == nil, errors.As(err, &shown), isUsage(err):
		return err
	case errors.Is(err, backup.ErrFormat), errors.Is(err, backup.ErrDamaged), errors.Is(err, backup.ErrSignature), errors.Is(err, backup.ErrInconsistent):
		return &exitError{exitInvalid, err.Error()}
	case errors.Is(err, backup.ErrRoot):
		return &exitError{exitDenied, err.Error()}
	}
	var f *fault.Error
	if !errors.As(err, &f) {
		return err
	}
	switch f.Code {
	case fault.WrongSecret, fault.KeyMaterial:
		return &exitError{exitDenied, err.Error()}
	case fault.Conflict:
		return &exitError{exitConflict, err.Error()}
	case fault.StoreUnavailable, fault.BackendUnavailable:
		return &exitError{exitUnavailable, err.Error()}
	case fault.StoreCorrupted:
		return &exitError{exitInvalid, err.Error()}
	}
	return err
}
