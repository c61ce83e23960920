package hsm_test

import (
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// Of SLH-DSA the test token has two sets, which sign too slowly for the parts of the suite that sign often.
var postQuantum = []backend.Algorithm{backend.MLKEM512, backend.MLKEM768, backend.MLKEM1024, backend.MLDSA44, backend.MLDSA65, backend.MLDSA87}

func pqHarness(t *testing.T, h how) backendtest.Harness {
	t.Helper()
	p := rig.SoftHSM(t)
	pq := rig.PostQuantum(t, p).Part
	out := h.harness(pq, p.Another(t, "foreign"), aeads, postQuantum)
	// What else the token does is SoftHSM's, and looked at where that is tested.
	p.Setenv(t)
	return out
}

// TestPostQuantum is the suite on a token of PKCS#11 3.2: softhsm-test/faultmodule, for no product could be had.
func TestPostQuantum(t *testing.T) {
	h := pqHarness(t, how{})
	h.Only = []string{"info", "unsupported", "handles", "sign", "decapsulate", "batch", "refs", "import"}
	backendtest.Run(t, h)
}

func TestPostQuantumChild(t *testing.T) {
	h := pqHarness(t, how{processes: 1})
	h.Only = []string{"info", "handles", "sign", "decapsulate", "batch", "refs", "contexts", "close-in-use"}
	backendtest.Run(t, h)
}
