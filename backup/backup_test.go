package backup_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/store/storetest"
)

// TestRestore: what comes out is what went in, with the entry that began the backup and without that which ended it.
func TestRestore(t *testing.T) {
	f := newFixture(t, 300)
	file, sum := f.make(t)
	head, err := f.store.AuditHead(t.Context())
	if err != nil || sum.Entries != head.Size-1 || sum.Bytes != int64(len(file)) {
		t.Errorf("the summary is %+v of a log of %d and a file of %d bytes: %v", sum, head.Size, len(file), err)
	}
	opened, err := backup.Open(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if opened.Deployment != f.store.Deployment() || opened.Generation != 1 || len(opened.Slots) != 1 || opened.Slots[0].Label != "é" {
		t.Errorf("the header is %+v", opened.Header)
	}
	if c, err := audit.OpenCheckpoint([]byte(opened.Checkpoint), opened.CheckpointKey); err != nil || c.Size > sum.Entries {
		t.Errorf("the checkpoint is of %d entries: %v", c.Size, err)
	}
	path := filepath.Join(memory(t), "new.db")
	l, err := sqlite.NewLoader(t.Context(), path, opened.Schema)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // looked at below
	again, err := opened.Restore(t.Context(), backupKey(t), opened.Signer, l)
	if err != nil || again != sum {
		t.Fatalf("restored %+v of %+v: %v", again, sum, err)
	}
	s, err := l.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Deployment() != f.store.Deployment() {
		t.Error("it is another deployment")
	}
	got, want := storetest.Digests(t, s), storetest.Digests(t, f.store)
	for table := range want {
		if !strings.HasPrefix(table, "audit_") && got[table] != want[table] {
			t.Errorf("table %s is %s, want %s", table, got[table], want[table])
		}
	}
	// The log goes on.
	log, err := audit.Open(t.Context(), s, audit.Options{Origin: "keywright/" + s.Deployment().String(), CheckpointEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	n, err := log.Record(t.Context(), &audit.Entry{Principal: "system", Action: backup.ActionRestore, Outcome: "ok"})
	if err != nil || n != sum.Entries {
		t.Errorf("the next entry is %d, want %d: %v", n, sum.Entries, err)
	}
	if err := errors.Join(log.Close(t.Context()), l.Commit(t.Context()), l.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestRecorded: that a backup begins and ends is in the log.
func TestRecorded(t *testing.T) {
	f := newFixture(t, 1)
	f.make(t)
	found, _, err := f.log.List(t.Context(), audit.Filter{Tenant: &who.Tenant}, "", 2)
	if err != nil || len(found) != 2 {
		t.Fatal(len(found), err)
	}
	for i, action := range []string{backup.ActionEnd, backup.ActionBegin} {
		e := found[i].Entry
		if e.Action != action || e.Principal != who.Principal || e.RequestID != who.RequestID || e.Outcome != "ok" {
			t.Errorf("got %+v, want %s", e, action)
		}
	}
}

// allowed are the errors of a file that was changed.
func allowed(err error) bool {
	for _, e := range []error{backup.ErrFormat, backup.ErrDamaged, backup.ErrRoot, backup.ErrSignature, backup.ErrInconsistent} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

const sealedSegment = 64<<10 + 16

// segments cuts a file into what stands before its segments, these, and the signature.
func segments(file []byte) (head []byte, all [][]byte, signature []byte) {
	n := 9 + int(binary.BigEndian.Uint32(file[5:]))
	n += 40 + int(binary.BigEndian.Uint16(file[n+38:]))
	head, file, signature = file[:n], file[n:len(file)-64], file[len(file)-64:]
	for len(file) > 0 {
		k := min(len(file), sealedSegment)
		all, file = append(all, file[:k]), file[k:]
	}
	return head, all, signature
}

func join(head []byte, all [][]byte, signature []byte) []byte {
	return append(append(append([]byte(nil), head...), bytes.Join(all, nil)...), signature...)
}

// TestDamage: every kind of change is found, with the root and without.
func TestDamage(t *testing.T) {
	f := newFixture(t, 400)
	file, _ := f.make(t)
	if err := check(file, ""); err != nil {
		t.Fatal(err)
	}
	opened, err := backup.Open(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	head, all, signature := segments(file)
	if len(all) < 3 {
		t.Fatalf("only %d segments", len(all))
	}
	want := func(what string, damaged []byte) {
		t.Helper()
		if _, err := verify(t, damaged, ""); !allowed(err) {
			t.Errorf("%s: Verify gives %v", what, err)
		}
		if err := check(damaged, opened.Signer); !allowed(err) {
			t.Errorf("%s: Check gives %v", what, err)
		}
	}
	step := max(len(file)/150, 1)
	for i := 0; i < len(file); i += step {
		damaged := bytes.Clone(file)
		damaged[i] ^= 1 << (i % 8)
		want("a bit", damaged)
		want("cut", file[:i])
	}
	for i := 1; i <= 70; i++ {
		want("cut at the end", file[:len(file)-i])
		damaged := bytes.Clone(file)
		damaged[len(file)-i] ^= 0x80
		want("the end", damaged)
	}
	want("a byte more", append(bytes.Clone(file), 0))
	want("a second signature", append(bytes.Clone(file), signature...))
	want("twice", append(bytes.Clone(file), file...))
	swapped := [][]byte{all[1], all[0]}
	want("segments swapped", join(head, append(swapped, all[2:]...), signature))
	want("a segment dropped", join(head, all[1:], signature))
	want("the last segment dropped", join(head, all[:len(all)-1], signature))
	want("a segment repeated", join(head, append([][]byte{all[0]}, all...), signature))
	other, _ := f.make(t)
	otherHead, otherAll, otherSignature := segments(other)
	want("another's content", join(head, otherAll, otherSignature))
	want("another's header", join(otherHead, all, signature))
}

// TestForged: whoever signs with a key of their own gets past neither a key that was kept nor the root.
func TestForged(t *testing.T) {
	f := newFixture(t, 3)
	file, _ := f.make(t)
	opened, err := backup.Open(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	o := f.options
	o.Signer = func(context.Context) (backup.Signer, error) { return newSigner(3), nil }
	var out bytes.Buffer
	if _, err := backup.New(o).Write(t.Context(), who, &out); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(t, out.Bytes(), opened.Signer); !errors.Is(err, backup.ErrSignature) {
		t.Errorf("another signer: %v", err)
	}
	if err := check(out.Bytes(), opened.Signer); !errors.Is(err, backup.ErrSignature) {
		t.Errorf("another signer: %v", err)
	}
	// Of another root.
	o.DeriveAt = func(string, uint32) (secret.Bytes, error) { return bytes.Repeat([]byte{9}, 32), nil }
	out.Reset()
	if _, err := backup.New(o).Write(t.Context(), who, &out); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(t, out.Bytes(), ""); !errors.Is(err, backup.ErrRoot) {
		t.Errorf("another root: %v", err)
	}
	for _, key := range []string{"x", "a+b+c", opened.CheckpointKey + "x"} {
		if err := check(file, key); !errors.Is(err, backup.ErrSignature) {
			t.Errorf("a malformed key: %v", err)
		}
	}
}

// TestOneAtATime: a second backup is told so, and the first goes on.
func TestOneAtATime(t *testing.T) {
	f := newFixture(t, 1)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := f.service.Write(context.Background(), who, w)
		done <- errors.Join(err, w.Close())
	}()
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.service.Write(t.Context(), who, io.Discard); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("a second one: %v", err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.make(t)
}

// limited is a reader that goes away.
type limited struct{ left int }

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

// TestReaderGoesAway: the snapshot ends, and the log tells of it.
func TestReaderGoesAway(t *testing.T) {
	f := newFixture(t, 500)
	if _, err := f.service.Write(t.Context(), who, &limited{70_000}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := f.service.Write(ctx, who, w)
		done <- err
	}()
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	go io.Copy(io.Discard, r) //nolint:errcheck // ends with the pipe
	if err := <-done; fault.CodeOf(err) != fault.Timeout {
		t.Errorf("a context that ends: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	found, _, err := f.log.List(t.Context(), audit.Filter{Action: backup.ActionEnd}, "", 10)
	if err != nil || len(found) != 2 {
		t.Fatal(len(found), err)
	}
	if a, b := found[1].Entry.Outcome, found[0].Entry.Outcome; a != string(fault.Unavailable) || b != string(fault.Timeout) {
		t.Errorf("the log says %q and %q", a, b)
	}
}

// TestRefusals: what keeps a backup from being made, before its first byte.
func TestRefusals(t *testing.T) {
	f := newFixture(t, 1)
	for name, change := range map[string]func(*backup.Options){
		"locked": func(o *backup.Options) {
			o.DeriveAt = func(string, uint32) (secret.Bytes, error) { return nil, fault.New(fault.Locked, "locked") }
		},
		"no signer": func(o *backup.Options) {
			o.Signer = func(context.Context) (backup.Signer, error) { return nil, fault.New(fault.Locked, "locked") }
		},
		"no log": func(o *backup.Options) { o.Audit = lockedLog{} },
	} {
		o := f.options
		change(&o)
		var out bytes.Buffer
		if _, err := backup.New(o).Write(t.Context(), who, &out); fault.CodeOf(err) != fault.Locked || out.Len() > 0 {
			t.Errorf("%s: %d bytes, %v", name, out.Len(), err)
		}
	}
	// A key that signs wrongly leaves nothing that verifies.
	o := f.options
	o.Signer = func(context.Context) (backup.Signer, error) { return liar{newSigner(2)}, nil }
	var out bytes.Buffer
	if _, err := backup.New(o).Write(t.Context(), who, &out); err == nil {
		t.Error("a wrong signature was kept")
	}
	if err := check(out.Bytes(), ""); err == nil {
		t.Error("it verifies")
	}
}

type liar struct{ signer }

func (liar) Sign(context.Context, []byte) ([]byte, error) { return make([]byte, 64), nil }

type lockedLog struct{ backup.Log }

func (lockedLog) Record(context.Context, *audit.Entry, ...audit.Change) (uint64, error) {
	return 0, fault.New(fault.Locked, "locked")
}

// TestInconsistent: a store whose log was tampered with is not backed up as if it were whole.
func TestInconsistent(t *testing.T) {
	f := newFixture(t, 300)
	for _, table := range []string{"audit_entries", "audit_nodes", "audit_head", "deployment"} {
		o := f.options
		o.Source = tampered{f.store, table}
		if _, err := backup.New(o).Write(t.Context(), who, io.Discard); fault.CodeOf(err) != fault.StoreCorrupted {
			t.Errorf("table %s: %v", table, err)
		}
	}
}

// tampered changes a byte of the last row of a table.
type tampered struct {
	backup.Source
	table string
}

func (t tampered) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	s, err := t.Source.Snapshot(ctx)
	return tamperedSnapshot{s, t.table}, err
}

type tamperedSnapshot struct {
	backup.Snapshot
	table string
}

func (s tamperedSnapshot) Rows(ctx context.Context, t backup.Table) (backup.Rows, error) {
	rows, err := s.Snapshot.Rows(ctx, t)
	if t.Name != s.table {
		return rows, err
	}
	return &tamperedRows{rows}, err
}

type tamperedRows struct{ backup.Rows }

func (r *tamperedRows) Next() ([]backup.Value, error) {
	row, err := r.Rows.Next()
	if err != nil {
		return nil, err
	}
	last := &row[len(row)-1]
	last.Bytes = append([]byte{last.Bytes[0] ^ 1}, last.Bytes[1:]...)
	return row, nil
}

const killedEnv = "KEYWRIGHT_TEST_RESTORE_TO"

// TestKilledRestore: a restore that is killed leaves no store, and is no obstacle to the next.
func TestKilledRestore(t *testing.T) {
	if path := os.Getenv(killedEnv); path != "" {
		restoreFrom(t, os.Stdin, path)
		return
	}
	f := newFixture(t, 1500)
	file, _ := f.make(t)
	path := filepath.Join(memory(t), "new.db")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledRestore$")
	cmd.Env = append(os.Environ(), killedEnv+"="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(file[:len(file)*3/4]); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if st, err := os.Stat(path + ".restoring"); err == nil && st.Size() > 100_000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not begin")
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it was not killed")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a store: %v", err)
	}
	restoreFrom(t, bytes.NewReader(file), path)
	if left, err := filepath.Glob(path + ".rest*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Fields(storetest.Digests(t, s)["keys"])[0]; n != "1500" {
		t.Errorf("%s keys", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func restoreFrom(t *testing.T, r io.Reader, path string) {
	t.Helper()
	f, err := backup.Open(r)
	if err != nil {
		t.Fatal(err)
	}
	l, err := sqlite.NewLoader(t.Context(), path, f.Schema)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Restore(t.Context(), backupKey(t), "", l); err != nil {
		t.Fatal(errors.Join(err, l.Close()))
	}
	_, err = l.Open(t.Context())
	if err := errors.Join(err, l.Commit(t.Context()), l.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestOtherSchema: tables that a target does not have, or lacks, end a restore.
func TestOtherSchema(t *testing.T) {
	f := newFixture(t, 1)
	file, _ := f.make(t)
	opened, err := backup.Open(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	l, err := sqlite.NewLoader(t.Context(), filepath.Join(memory(t), uuid.NewString()), opened.Schema)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // of a test
	for name, change := range map[string]func([]backup.Table) []backup.Table{
		"one less":      func(all []backup.Table) []backup.Table { return all[1:] },
		"one more":      func(all []backup.Table) []backup.Table { return append(all, backup.Table{Name: "more"}) },
		"a column less": func(all []backup.Table) []backup.Table { all[2].Columns = all[2].Columns[1:]; return all },
	} {
		opened, err := backup.Open(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := opened.Restore(t.Context(), backupKey(t), "", changed{l, change(l.Tables())}); !errors.Is(err, backup.ErrInconsistent) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type changed struct {
	backup.Target
	tables []backup.Table
}

func (c changed) Tables() []backup.Table { return c.tables }
