package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestInspectSurvives looks at a module that crashes and one that hangs: neither happens here.
func TestInspectSurvives(t *testing.T) {
	part := rig.Fault(t, rig.SoftHSM(t))
	part.Setenv(t)
	found, err := inspect(t.Context(), part.Module, part.Init)
	if err != nil || !slices.ContainsFunc(found.Slots, func(s token.SlotInventory) bool { return s.Serial == part.Serial }) {
		t.Fatalf("%+v, %v", found, err)
	}
	for _, how := range []string{"segv", "abort", "exit", "kill"} {
		part.Crash(t, "C_GetInfo", how)
		if _, err := inspect(t.Context(), part.Module, part.Init); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", how, err)
		}
		part.Clear(t)
	}
	part.Hang(t, "C_GetSlotList")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := inspect(ctx, part.Module, part.Init); err == nil || !strings.Contains(err.Error(), "did not answer") || time.Since(began) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
