package rig_test

import (
	"testing"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// What the fault module adds to a call when no fault is set, and when the function has one that does not choose the call.
func BenchmarkForwarding(b *testing.B) {
	soft := rig.SoftHSM(b)
	fault := rig.Fault(b, soft)
	idle := rig.Fault(b, soft)
	idle.Set(b, "C_GenerateRandom", "CKR_DEVICE_ERROR", "skip=1000000000")
	for name, part := range map[string]*rig.Part{"direct": soft, "fault": fault.Part, "armed": idle.Part} {
		b.Run(name, func(b *testing.B) {
			ctx := load(b, part)
			s := openSession(b, ctx, part)
			for b.Loop() {
				if _, err := ctx.GenerateRandom(s, 16); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
