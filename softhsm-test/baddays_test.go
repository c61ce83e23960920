package softhsmtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tmpfs mounts a small file system of its own, which can be filled without hurting anybody. It needs root, as CI has.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=700"); err != nil {
		t.Fatalf("mounting a small file system (this test needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestDiskFull: when the disk is full nothing is acknowledged, the error says so, what was there still works once there is
// space again, without a restart.
func TestDiskFull(t *testing.T) {
	dir := tmpfs(t, "16m")
	s := start(t, dir)
	s.must(201, "POST", "/keys", m{"name": "before", "algorithm": "AES-256-GCM"})
	var sealed struct{ Ciphertext string }
	s.must(200, "POST", "/keys/before/encrypt", m{"plaintext": []byte("kept")}).into(t, &sealed)

	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	var full answer
	for i := 0; ; i++ { // the log may still fit into pages that the store has already
		a, err := s.call("POST", "/keys", m{"name": fmt.Sprintf("during-%d", i), "algorithm": "AES-256-GCM"})
		if err != nil {
			t.Fatalf("%v\n%s", err, s.log)
		}
		if a.status != 201 {
			full = a
			break
		}
		if i > 5000 {
			t.Fatal("a full disk took 5,000 keys")
		}
	}
	if full.status != 503 || (full.code != "ERR_STORE_UNAVAILABLE" && full.code != "ERR_AUDIT_UNAVAILABLE") {
		t.Fatalf("on a full disk: status %d %s", full.status, full.code)
	}
	// A result whose audit entry cannot be written is not released.
	if a, err := s.call("POST", "/keys/before/encrypt", m{"plaintext": []byte("x")}); err != nil || a.status != 503 || a.data != nil {
		t.Fatalf("encrypt on a full disk: status %d %s data %s, %v", a.status, a.code, a.data, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	var open struct{ Plaintext []byte }
	s.must(200, "POST", "/decrypt", m{"ciphertext": sealed.Ciphertext}).into(t, &open)
	if string(open.Plaintext) != "kept" {
		t.Fatal("the plaintext changed")
	}
	s.must(201, "POST", "/keys", m{"name": "after", "algorithm": "AES-256-GCM"})
	verifyAudit(t, s)
	s.kill()
	s = start(t, dir)
	s.must(200, "GET", "/keys/after", nil)
	s.stop()
}

// fill takes all the space that is left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		block := make([]byte, size)
		for {
			if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// fails runs the service and expects it to end by itself, not by a panic, with a message that has all the words.
func fails(t *testing.T, cmd *exec.Cmd, words ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err == nil {
			t.Fatalf("the service ended without an error\n%s", &out)
		}
	case <-time.After(15 * time.Second):
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		t.Fatalf("the service runs where it must refuse\n%s", &out)
	}
	text := out.String()
	if strings.Contains(text, "panic") || strings.Contains(text, "goroutine ") {
		t.Fatalf("the service panicked:\n%s", text)
	}
	for _, w := range words {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(w)) {
			t.Errorf("the message does not say %q:\n%s", w, text)
		}
	}
}

func TestReadOnlyDirectory(t *testing.T) {
	dir := tmpfs(t, "16m")
	s := start(t, dir)
	s.must(201, "POST", "/keys", m{"name": "k", "algorithm": "AES-256-GCM"})
	s.stop()
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	fails(t, command(dir), "read-only")
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir)
	s.must(200, "POST", "/keys/k/encrypt", m{"plaintext": []byte("x")})
	s.stop()
}

// TestCorruptedPage damages the database in many places: the service refuses to start or answers with an error, never
// with a panic and never with a wrong result.
func TestCorruptedPage(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	var sealed []string
	for i := range 50 {
		name := fmt.Sprintf("k%d", i)
		s.must(201, "POST", "/keys", m{"name": name, "algorithm": "AES-256-GCM"})
		var v struct{ Ciphertext string }
		s.must(200, "POST", "/keys/"+name+"/encrypt", m{"plaintext": []byte(name)}).into(t, &v)
		sealed = append(sealed, v.Ciphertext)
	}
	s.stop()
	db := filepath.Join(dir, "keywright.db")
	whole, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	refused, failed := 0, 0
	for p := 0; p < len(whole)/page; p += max(len(whole)/page/12, 1) {
		damaged := bytes.Clone(whole)
		for i := p * page; i < (p+1)*page; i++ {
			damaged[i] ^= 0xa5
		}
		broken := t.TempDir()
		for _, name := range []string{"root.key", "owner.key"} {
			copyFile(t, filepath.Join(dir, name), filepath.Join(broken, name))
		}
		if err := os.WriteFile(filepath.Join(broken, "keywright.db"), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s, ok := startOrRefuse(t, broken)
		if !ok {
			refused++
			continue
		}
		for i, c := range sealed {
			a, err := s.call("POST", "/decrypt", m{"ciphertext": c})
			if err != nil {
				t.Fatalf("page %d: %v\n%s", p, err, s.log)
			}
			if a.status != 200 {
				failed++
				continue
			}
			var v struct{ Plaintext []byte }
			if a.into(t, &v); string(v.Plaintext) != fmt.Sprintf("k%d", i) {
				t.Fatalf("page %d: a wrong plaintext was released", p)
			}
		}
		s.kill()
		if text := s.log.String(); strings.Contains(text, "panic") || strings.Contains(text, "goroutine ") {
			t.Fatalf("page %d: panic\n%s", p, text)
		}
	}
	if refused+failed == 0 {
		t.Fatal("no damage was noticed anywhere")
	}
	t.Logf("%d starts refused, %d operations failed", refused, failed)
}

// startOrRefuse starts the service; false means that it ended by itself with a message about damage.
func startOrRefuse(t *testing.T, dir string) (*service, bool) {
	t.Helper()
	s := launch(t, dir)
	deadline := time.Now().Add(15 * time.Second)
	for time.Now().Before(deadline) {
		select {
		case err := <-s.done:
			text := s.log.String()
			if err == nil || strings.Contains(text, "panic") || strings.Contains(text, "goroutine ") {
				t.Fatalf("ended with %v:\n%s", err, text)
			}
			return nil, false
		default:
		}
		if address, err := os.ReadFile(filepath.Join(dir, "address")); err == nil && len(address) > 0 {
			s.base = "http://" + strings.TrimSpace(string(address))
			key, err := os.ReadFile(filepath.Join(dir, "owner.key"))
			if err != nil {
				t.Fatal(err)
			}
			s.key = strings.TrimSpace(string(key))
			return s, true
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("neither started nor refused\n%s", s.log)
	return nil, false
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestWrongRoot puts the key file of another deployment in place.
func TestWrongRoot(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for _, dir := range []string{one, two} {
		s := start(t, dir)
		s.must(201, "POST", "/keys", m{"name": "k", "algorithm": "AES-256-GCM"})
		s.stop()
	}
	right, err := os.ReadFile(filepath.Join(one, "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(two, "root.key"), filepath.Join(one, "root.key"))
	fails(t, command(one), "root")
	if err := os.WriteFile(filepath.Join(one, "root.key"), right, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(one, "root.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	fails(t, command(one), "root.key", "owner alone", "chmod 600")
	if err := os.Chmod(filepath.Join(one, "root.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, one)
	s.must(200, "POST", "/keys/k/encrypt", m{"plaintext": []byte("x")})
	s.stop()
}

// TestSecondProcess: two services over one folder would each believe to be alone.
func TestSecondProcess(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	fails(t, command(dir), "another process")
	s.must(201, "POST", "/keys", m{"name": "k", "algorithm": "AES-256-GCM"})
	s.stop()
}
