package token

import (
	"slices"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// pqCan lists what the token was proven to do of post-quantum algorithms.
func pqCan(d *device) (out []backend.Algorithm) {
	for _, c := range d.Describe().Capabilities {
		if info, _ := backend.Lookup(c.Algorithm); info.PostQuantum {
			out = append(out, c.Algorithm)
		}
	}
	return out
}

var (
	mlkems  = []backend.Algorithm{backend.MLKEM512, backend.MLKEM768, backend.MLKEM1024}
	mldsas  = []backend.Algorithm{backend.MLDSA44, backend.MLDSA65, backend.MLDSA87}
	slhdsas = []backend.Algorithm{backend.SLHDSASHA2128f, backend.SLHDSASHAKE128f}
)

func TestPostQuantumProbe(t *testing.T) {
	part := rig.SoftHSM(t)
	d := openToken(t, rig.PostQuantum(t, part).Part)
	if got, want := pqCan(d), slices.Concat(mlkems, mldsas, slhdsas); !slices.Equal(got, want) {
		t.Errorf("the token is offered with %v, it has %v", got, want)
	}
	for _, q := range d.Describe().Quirks {
		t.Log(q)
	}
	for a, f := range d.pq {
		t.Log(a, f)
	}
}
