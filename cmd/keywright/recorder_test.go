package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywright/keywright/audit"
)

// TestAlwaysRecorded: operations are recorded by the audit log itself, and the program that does not is made of a file that no build takes in: it is no
// Go file, in a folder that is no package, and nothing of it is in this program.
func TestAlwaysRecorded(t *testing.T) {
	log := new(audit.Log)
	if got := recorder(log); got != audit.Recorder(log) {
		t.Errorf("operations are recorded by %T", got)
	}

	const folder = "../../bench/unaudited"
	if found, err := filepath.Glob(folder + "/*.go"); err != nil || len(found) > 0 {
		t.Errorf("Go files in %s: %v %v", folder, found, err)
	}
	var overlay struct{ Replace map[string]string }
	text, err := os.ReadFile(folder + "/overlay.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &overlay); err != nil || len(overlay.Replace) != 1 {
		t.Fatalf("%+v %v", overlay, err)
	}
	instead, err := os.ReadFile("../../" + overlay.Replace["cmd/keywright/recorder.go"])
	if err != nil {
		t.Fatal(err)
	}
	// What is looked for is put together here, so that this test is not where it is found.
	marks := []string{strings.ReplaceAll("unrecorded-Operations", "-", ""), strings.ReplaceAll("RECORDS-NO-OPERATION", "-", " ")}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for _, mark := range marks {
		if !bytes.Contains(instead, []byte(mark)) {
			t.Errorf("%q is not in the file that is built instead: the test looks for nothing", mark)
		}
		if bytes.Contains(program, []byte(mark)) {
			t.Errorf("%q is in the program", mark)
		}
	}
}
