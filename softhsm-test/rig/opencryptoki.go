package rig

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// lockFile is held by a test that has opencryptoki's token: the machine has one, and packages are tested at the same time.
const lockFile = "/run/lock/keywright-opencryptoki-test"

// OpenCryptoki gives the test the machine's opencryptoki soft token, wiped, for itself alone until it ends; other tests wait
// their turn, at most four minutes. A test asks once, and closes its sessions before it ends.
func OpenCryptoki(t testing.TB) *Part {
	t.Helper()
	lock, err := os.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatalf("opencryptoki needs root: %v", err)
	}
	t.Cleanup(func() { _ = lock.Close() }) // nothing was written; the lock goes with it
	deadline := time.Now().Add(4 * time.Minute)
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("another test keeps opencryptoki's token: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	part, _ := setUp(t, "opencryptoki.sh", tempDir(t), "wipe")
	return part
}
