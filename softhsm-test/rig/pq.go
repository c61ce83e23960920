package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// PostQuantum puts the fault module in front of the part as a PKCS#11 3.2 token with ML-DSA, ML-KEM and two sets of SLH-DSA, whose keys are computed by
// softhsm-test/pqhelper. It is a test token: no product with these mechanisms could be had. wrongs are the helper's arguments, each a way in which the
// token is wrong. A part that is a fault module already, or that has it in front of it twice, is another device with the same keys.
func PostQuantum(t testing.TB, behind *Part, wrongs ...string) *FaultModule {
	t.Helper()
	helper, err := buildHelper()
	if err != nil {
		t.Fatalf("building the helper: %v", err)
	}
	return fault(t, behind, fmt.Sprintf("pq=%s\n", strings.Join(append([]string{helper}, wrongs...), " ")))
}

// buildHelper makes the helper beside the module. It appears whole: one that runs must not be written to.
var buildHelper = sync.OnceValues(func() (string, error) {
	root, err := scripts()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "faultmodule")
	unlock, err := lock(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	path := filepath.Join(dir, "pqhelper")
	temporary := fmt.Sprintf("%s.%d.tmp", path, os.Getpid())
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", temporary, "./pqhelper") //nolint:gosec,noctx // our own program
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, os.Rename(temporary, path)
})
