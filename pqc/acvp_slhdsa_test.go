package pqc

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// acvpOptions gives the options of a case of the external interface.
func acvpOptions(g *acvpGroup, in *acvpCase) SignOptions {
	o := SignOptions{Context: in.Context, Deterministic: g.Deterministic}
	if g.PreHash == "preHash" {
		o.PreHash = PreHash(in.Hash)
	}
	return o
}

// thinned says which of a parameter set's cases are left out. A signature of a small set takes up to a second, and ten times that under the
// race detector: without it the small sets have one case and the fast ones three of each kind, and with it the fast sets one.
func thinned(done map[string]int, g *acvpGroup) bool {
	small := strings.HasSuffix(g.ParameterSet, "s")
	key, limit := g.ParameterSet, 1
	if !raceDetector && !small {
		key, limit = key+g.PreHash, 3
	}
	if raceDetector && small {
		return true
	}
	done[key]++
	return done[key] > limit
}

func TestACVPSLHDSA(t *testing.T) {
	const dir = "sign/slhdsa/testdata/"
	t.Run("keyGen", func(t *testing.T) {
		t.Parallel()
		sets, done := map[string]bool{}, map[string]int{}
		acvpPair(t, dir+"keyGen_prompt.json.gz", dir+"keyGen_results.json.gz", func(t *testing.T, g *acvpGroup, in, want *acvpCase) {
			if thinned(done, g) {
				return
			}
			sets[g.ParameterSet] = true
			k, err := lookup(t, g.ParameterSet).NewPrivateKey(slices.Concat(in.SKSeed, in.SKPRF, in.PKSeed))
			if err != nil || !bytes.Equal(k.PublicKey().Bytes(), want.PK) {
				t.Errorf("%s %d: %v", g.ParameterSet, in.ID, err)
			}
		})
		if len(sets) != 12 && !raceDetector || len(sets) < 6 {
			t.Errorf("%d parameter sets", len(sets))
		}
	})
	t.Run("sigGen", func(t *testing.T) {
		t.Parallel()
		done := map[string]int{}
		type work struct {
			g        *acvpGroup
			in, want *acvpCase
		}
		var todo []work
		acvpPair(t, dir+"sigGen_prompt.json.gz", dir+"sigGen_results.json.gz", func(t *testing.T, g *acvpGroup, in, want *acvpCase) {
			if g.Interface == "external" && g.Deterministic && !thinned(done, g) {
				todo = append(todo, work{g, in, want})
			}
		})
		sets := map[string]bool{}
		for _, w := range todo {
			sets[w.g.ParameterSet] = true
		}
		if len(sets) != 12 && !raceDetector || len(sets) < 6 {
			t.Errorf("%d parameter sets", len(sets))
		}
		for part := range 2 { // as many at a time as there are processors to count on
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for i := part; i < len(todo); i += 2 {
					g, in, want := todo[i].g, todo[i].in, todo[i].want
					n := len(in.SK) / 4
					k, err := lookup(t, g.ParameterSet).OpenPrivateKey(in.SK[:3*n], in.SK[2*n:])
					if err != nil {
						t.Fatal(err)
					}
					sig, err := k.Sign(in.Message, acvpOptions(g, in))
					if err != nil || !bytes.Equal(sig, want.Signature) {
						t.Errorf("%s %d: %v", g.ParameterSet, in.ID, err)
					}
				}
			})
		}
	})
	t.Run("sigVer", func(t *testing.T) {
		t.Parallel()
		accepted, refused := 0, 0
		seen := map[string]int{}
		acvpPair(t, dir+"verify_prompt.json.gz", dir+"verify_results.json.gz", func(t *testing.T, g *acvpGroup, in, want *acvpCase) {
			if g.Interface != "external" {
				return
			}
			// Some three hundred, a few milliseconds each: a ninth of them under the race detector.
			if seen[g.ParameterSet]++; raceDetector && seen[g.ParameterSet]%9 != 0 {
				return
			}
			p, err := lookup(t, g.ParameterSet).ParsePublicKey(in.PK)
			if err != nil {
				t.Fatal(err)
			}
			ok, err := p.Verify(in.Message, in.Signature, acvpOptions(g, in))
			if err != nil || ok != want.Passed {
				t.Errorf("%s %d: %v, %v", g.ParameterSet, in.ID, ok, err)
			}
			if ok {
				accepted++
			} else {
				refused++
			}
		})
		least := [2]int{12, 50}
		if raceDetector {
			least = [2]int{1, 10}
		}
		if accepted < least[0] || refused < least[1] {
			t.Errorf("%d accepted, %d refused", accepted, refused)
		}
	})
}
