package token_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestInspect looks at a module behind the fault module, whose state no other test of this process shares.
func TestInspect(t *testing.T) {
	part := rig.Fault(t, rig.SoftHSM(t))
	found, err := token.Inspect(part.Module, part.Init)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(found.Slots, func(s token.SlotInventory) bool { return s.Label == part.Label })
	if i < 0 || found.Slots[i].Serial != part.Serial || !slices.Contains(found.Slots[i].Flags, "pin-set") {
		t.Fatalf("the token is not shown as it is: %+v", found.Slots)
	}
	m := found.Slots[i].Mechanisms
	j := slices.IndexFunc(m, func(e token.MechanismEntry) bool { return e.Name == "CKM_ECDSA" })
	if j < 0 || !slices.Contains(m[j].Uses, "sign") || m[j].MaxSize < 521 {
		t.Errorf("mechanisms: %+v", m)
	}
	if part.Count(t, "C_Login") != 0 || part.Count(t, "C_OpenSession") != 0 {
		t.Error("looking needs neither session nor login")
	}
	if n := len(part.Processes(t)); n != 0 {
		t.Errorf("the module is left initialised in %d processes", n)
	}
	part.TokenGone(t)
	found, err = token.Inspect(part.Module, part.Init)
	if err != nil || slices.ContainsFunc(found.Slots, func(s token.SlotInventory) bool { return s.Label == part.Label }) {
		t.Errorf("a token that is gone: %+v, %v", found.Slots, err)
	}
	part.TokenBack(t)
	part.Set(t, "C_GetSlotList", "CKR_GENERAL_ERROR")
	if _, err := token.Inspect(part.Module, part.Init); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("a module that fails: %v", err)
	}
	if _, err := token.Inspect("/no/such/module.so", ""); !fault.Has(err, fault.BackendUnavailable) || !strings.Contains(err.Error(), "loaded") {
		t.Errorf("no module: %v", err)
	}
}
