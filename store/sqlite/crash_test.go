package sqlite_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/store/storetest"
)

// childVariable names what this binary does instead of its tests, when a test runs it as a process of its own.
const childVariable = "STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	children := map[string]func(path string) error{
		"commit": childCommits, "full": childFull, "each-write": childEachWrite, "read-only": childReadOnly, "prune": childPrunes,
	}
	if child := children[os.Getenv(childVariable)]; child != nil {
		if err := child(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(t *testing.T, what, path string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, path)
	cmd.Env = append(os.Environ(), childVariable+"="+what)
	return cmd
}

var crashTenant = uuid.UUID{1}

// childCommits makes keys until it is killed, and says of each commit what it has acknowledged.
func childCommits(path string) error {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		var batch []*audit.Item
		var ids []uuid.UUID
		for range 1 + n%5 {
			k, v := storetest.NewKey(crashTenant, "crash-"+uuid.NewString())
			k.Labels = map[string]string{"env": "prod"}
			batch, ids = append(batch, storetest.Item(s.InsertKey(k, v))), append(ids, k.ID)
		}
		if err := s.Commit(ctx, batch, storetest.Extend); err != nil {
			return err
		}
		var line strings.Builder
		for i, it := range batch {
			fmt.Fprintf(&line, "%s %d %x\n", ids[i], it.Index, it.Leaf)
		}
		if _, err := os.Stdout.WriteString(line.String()); err != nil {
			return err
		}
	}
}

// TestKill: after kill -9 at any moment, everything that was acknowledged is there and nothing is half there.
func TestKill(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	acknowledged := map[uint64][]byte{}
	ids := map[uuid.UUID]bool{}
	for round := range 8 {
		cmd := child(t, "commit", path)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() }) // gone already: fine
		lines := bufio.NewScanner(out)
		for first := true; lines.Scan(); first = false {
			if first {
				kill.Reset(time.Duration(rand.IntN(60_000)) * time.Microsecond)
			}
			var id, leaf string
			var index uint64
			if n, _ := fmt.Sscanf(lines.Text(), "%s %d %s", &id, &index, &leaf); n < 3 {
				break // the last line, cut by the kill
			}
			raw, err := hex.DecodeString(leaf)
			if err != nil {
				break // as above
			}
			acknowledged[index], ids[uuid.MustParse(id)] = raw, true
		}
		_ = cmd.Wait() // killed, as intended
		if stderr.Len() > 0 {
			t.Fatalf("the child failed: %s", stderr.String())
		}
		checkSurvivors(t, path, acknowledged, ids, round)
	}
	if len(ids) < 8 {
		t.Errorf("only %d keys were made", len(ids))
	}
}

func checkSurvivors(t *testing.T, path string, acknowledged map[uint64][]byte, ids map[uuid.UUID]bool, round int) {
	t.Helper()
	s := open(t, path, sqlite.Options{}) // checks head, nodes and last entries
	head, err := s.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	entries, err := s.AuditEntries(t.Context(), 0, int(head.Size)+1)
	if err != nil || uint64(len(entries)) != head.Size {
		t.Fatalf("%d entries of %d, %v", len(entries), head.Size, err)
	}
	var again audit.Head
	for i, e := range entries {
		if want, ok := acknowledged[uint64(i)]; ok && !bytes.Equal(want, e.Leaf) {
			t.Fatalf("round %d: entry %d is not the acknowledged one", round, i)
		}
		again, _, _ = storetest.Extend(again, []*audit.Item{{Hash: tlog.RecordHash(e.Leaf)}}) // never fails
	}
	for i := range acknowledged {
		if i >= head.Size {
			t.Fatalf("round %d: the acknowledged entry %d of %d is lost", round, i, head.Size)
		}
	}
	if fmt.Sprint(again) != fmt.Sprint(head) {
		t.Fatalf("round %d: the head is not that of the entries", round)
	}
	for id := range ids {
		k, err := s.KeyByID(t.Context(), crashTenant, id)
		if err != nil {
			t.Fatalf("round %d: an acknowledged key: %v", round, err)
		}
		if _, err := s.Version(t.Context(), id, k.LatestVersion); err != nil {
			t.Fatalf("round %d: an acknowledged version: %v", round, err)
		}
	}
	// Every item had one entry and one key: neither may be there without the other.
	for _, f := range []keys.Filter{{}, {Label: "env"}, {State: keys.StateActive}} {
		list, err := s.Keys(t.Context(), crashTenant, f, "", int(head.Size)+10)
		if err != nil || uint64(len(list)) != head.Size {
			t.Fatalf("round %d: %d keys beside %d entries, %v", round, len(list), head.Size, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDiskFull runs out of disk by the limit of a file's size, and gets space again.
func TestDiskFull(t *testing.T) {
	if out, err := child(t, "full", filepath.Join(tempDir(t), "store.db")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func childFull(path string) error {
	signal.Ignore(syscall.SIGXFSZ) // then writing beyond the limit is EFBIG
	ctx := context.Background()
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		return err
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	for round := range 3 {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(round+1) << 20, Max: before.Max}); err != nil {
			return err
		}
		good := uint64(0)
		head, err := s.AuditHead(ctx)
		if err != nil {
			return err
		}
		for {
			k, v := storetest.NewKey(crashTenant, fmt.Sprintf("key-%d-%d", round, good))
			v.Blob = make([]byte, 8000)
			item := storetest.Item(s.InsertKey(k, v))
			if err = s.Commit(ctx, []*audit.Item{item}, storetest.Extend); err != nil {
				break
			}
			if item.Err != nil {
				return item.Err
			}
			good++
		}
		if !fault.Has(err, fault.StoreUnavailable) || !strings.Contains(err.Error(), "disk of the store is full") {
			return fmt.Errorf("full: %w", err)
		}
		// A checkpoint may have made room by now. With this limit there is none, wherever the log goes on.
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1024, Max: before.Max}); err != nil {
			return err
		}
		if err := s.Commit(ctx, []*audit.Item{storetest.Item()}, storetest.Extend); !fault.Has(err, fault.StoreUnavailable) {
			return fmt.Errorf("commit without any space: %w", err)
		}
		if err := s.Ping(ctx); !fault.Has(err, fault.StoreUnavailable) {
			return fmt.Errorf("ping while full: %w", err)
		}
		after, err := s.AuditHead(ctx)
		if err != nil || after.Size != head.Size+good {
			return fmt.Errorf("round %d: %d entries of %d, %w", round, after.Size, head.Size+good, err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			return err
		}
		if err := s.Ping(ctx); err != nil {
			return fmt.Errorf("ping with space again: %w", err)
		}
		if err := s.Commit(ctx, []*audit.Item{storetest.Item()}, storetest.Extend); err != nil {
			return fmt.Errorf("commit with space again: %w", err)
		}
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = sqlite.Open(ctx, path, sqlite.Options{}); err != nil {
		return err
	}
	return s.Close()
}

// TestEachWriteFails lets the first, the second, the third … write of a commit fail.
func TestEachWriteFails(t *testing.T) {
	if out, err := child(t, "each-write", filepath.Join(tempDir(t), "store.db")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func childEachWrite(path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	ctx := context.Background()
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		return err
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	const frame = 24 + 4096 // a page in the log, with its header
	good := 0
	for n := 0; good < 3; n++ {
		log, err := os.Stat(path + "-wal")
		if err != nil {
			return err
		}
		k, v := storetest.NewKey(crashTenant, fmt.Sprintf("key-%d", n))
		k.Labels = map[string]string{"env": "prod"}
		commit := func() error {
			items := []*audit.Item{storetest.Item(), storetest.Item(s.InsertKey(k, v))}
			if err := s.Commit(ctx, items, storetest.Extend); err != nil {
				return err
			}
			return items[1].Err
		}
		// The middle of the n-th frame.
		limit := syscall.Rlimit{Cur: uint64(log.Size() + int64(n*frame) + frame/2), Max: before.Max}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			return err
		}
		failed := commit()
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			return err
		}
		if failed == nil {
			good++
		} else {
			if !fault.Has(failed, fault.StoreUnavailable) {
				return fmt.Errorf("write %d: %w", n, failed)
			}
			head, err := s.AuditHead(ctx)
			if err != nil || head.Size != uint64(2*n) {
				return fmt.Errorf("write %d: %d entries beside %d keys, %w", n, head.Size, n, err)
			}
			if _, err := s.KeyByID(ctx, crashTenant, k.ID); !fault.Has(err, fault.KeyNotFound) {
				return fmt.Errorf("write %d: a key of a failed commit: %w", n, err)
			}
			if err := commit(); err != nil {
				return fmt.Errorf("write %d, again: %w", n, err)
			}
		}
		if _, err := s.Version(ctx, k.ID, 1); err != nil {
			return fmt.Errorf("write %d: %w", n, err)
		}
		if n > 100 {
			return fmt.Errorf("a commit of %d pages", n)
		}
		if good == 1 && n < 3 {
			return fmt.Errorf("only %d writes failed", n)
		}
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = sqlite.Open(ctx, path, sqlite.Options{}); err != nil {
		return err
	}
	return s.Close()
}

// TestReadOnly opens a store, and a new one, in a directory that the process may not write.
func TestReadOnly(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "store.db")
	s := open(t, path, sqlite.Options{})
	commit(t, s, storetest.Item())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Root may write everywhere, so the child is somebody else, who needs the binary and the way to the directory.
	openWay(t, dir)
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Chmod(dir, 0o755); err != nil { // so that it can be removed
			t.Error(err)
		}
	}()
	cmd := child(t, "read-only", path)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Path = worldReadable(t, cmd.Path)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the store was changed, %v", err)
	}
}

// openWay lets everybody reach a temporary directory.
func openWay(t *testing.T, dir string) {
	t.Helper()
	for _, above := range []string{os.TempDir(), memoryDir} {
		for d := dir; strings.HasPrefix(d, above+"/"); d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// worldReadable copies a binary to where everybody may run it.
func worldReadable(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() // what tempDir gives may be mounted noexec
	openWay(t, dir)
	to := filepath.Join(dir, "store.test")
	if err := os.WriteFile(to, content, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

func childReadOnly(path string) error {
	for _, p := range []string{path, filepath.Join(filepath.Dir(path), "new.db")} {
		_, err := sqlite.Open(context.Background(), p, sqlite.Options{})
		if !fault.Has(err, fault.StoreUnavailable) || !strings.Contains(err.Error(), "read-only") {
			return fmt.Errorf("opening %s: %w", filepath.Base(p), err)
		}
	}
	return nil
}
