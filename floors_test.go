// Package keywright_test keeps the floor plan of docs/design/DESIGN.md section 2.
package keywright_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/keywright/keywright/"

// floors says on which floor each package stands. Imports point down only, and never sideways, but for the pairs in beside.
var floors = map[string]int{
	"fault": 0, "secret": 0, "envelope": 0, "keyenc": 0, "pqc": 0,
	"backend": 1, "attest": 1, "tpm/device": 1, "audit": 1, "audit/witness": 2, "idempotency": 1, "verify": 1, "api/wire": 1, "cluster": 1, "transport": 1,
	"backend/sealed": 2, "backend/software": 2, "backend/backendtest": 2, "auth": 2, "auth/oidc": 2, "root": 2, "filecrypt": 2,
	"jobs": 2, "backup": 2, "ratelimit": 2, "cursor": 1,
	"hsm": 2, "hsm/token": 2, "hsm/remote": 2, "hsm/uri": 2, "tpm": 2,
	"events":       2,
	"audit/sink":   2,
	"keys":         3,
	"rekey":        4,
	"store/sqlite": 4, "store/postgres": 4, "store/storetest": 4, "store/migrations": 4,
	"api": 5, "api/qpher": 5, "client": 5,
	"cmd/keywright": 6, "deploy": 6, "bench": 6, "softhsm-test": 6,
	"softhsm-test/rig": 6, "softhsm-test/rig/tpmsim": 6, "softhsm-test/pqhelper": 6, // so that nothing but tests and the benchmark can import them
}

// beside lists the imports within a floor that the floor plan allows.
var beside = map[[2]string]bool{
	{"api", "api/qpher"}:                   true,
	{"backend/software", "backend/sealed"}: true,
	{"hsm", "backend/sealed"}:              true,
	{"tpm", "backend/sealed"}:              true,
	{"hsm", "hsm/remote"}:                  true,
	{"auth/oidc", "auth"}:                  true,
	{"jobs", "auth"}:                       true,
	{"hsm", "hsm/token"}:                   true,
	{"hsm/remote", "hsm/token"}:            true,
	{"hsm/uri", "hsm/token"}:               true,
	{"backup", "filecrypt"}:                true,
	{"idempotency", "audit"}:               true,
	{"verify", "backend"}:                  true,
	{"attest", "backend"}:                  true,
	{"keyenc", "fault"}:                    true,
	{"envelope", "fault"}:                  true,
	{"envelope", "secret"}:                 true,
	{"keyenc", "secret"}:                   true,
	{"keyenc", "pqc"}:                      true,
	{"pqc", "fault"}:                       true,
	{"pqc", "secret"}:                      true,
	{"store/sqlite", "store/migrations"}:   true,
	{"bench", "softhsm-test/rig"}:          true,
	{"store/postgres", "store/migrations"}: true,
}

func TestFloors(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		if name == strings.TrimSuffix(module, "/") {
			continue // this package: tests only
		}
		floor, ok := floors[name]
		if !ok {
			t.Errorf("package %s has no floor: add it to the plan", name)
			continue
		}
		seen++
		for _, imp := range p.Imports {
			dep, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			below, known := floors[dep]
			if known && (below < floor || beside[[2]string{name, dep}]) {
				continue
			}
			t.Errorf("%s (floor %d) imports %s (floor %d)", name, floor, dep, below)
		}
	}
	if seen < 8 {
		t.Fatalf("only %d packages found", seen)
	}
}

// TestClientIsThin: the SDK is for other people's programs, so it brings the wire types and nothing else of ours.
func TestClientIsThin(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "./client").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		if ours, ok := strings.CutPrefix(dep, module); ok && ours != "client" && ours != "api/wire" {
			t.Errorf("client depends on %s", ours)
		}
	}
}
