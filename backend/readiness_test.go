package backend_test

import (
	"testing"

	"github.com/keywright/keywright/backend"
)

// TestReadiness: whatever is vulnerable has successors for each of its purposes that are not, and nothing else has any.
func TestReadiness(t *testing.T) {
	for _, a := range backend.Algorithms() {
		vulnerable := a.Readiness() == backend.ReadinessVulnerable
		if vulnerable == (a.PostQuantum || a.Symmetric()) {
			t.Errorf("%s is %s", a.Name, a.Readiness())
		}
		for _, p := range a.Purposes {
			next := a.Successors(p)
			if (len(next) > 0) != vulnerable {
				t.Errorf("%s for %s has the successors %v", a.Name, p, next)
			}
			for _, n := range next {
				s, ok := backend.Lookup(n)
				if !ok || !s.PostQuantum {
					t.Errorf("%s for %s: successor %s", a.Name, p, n)
				}
				signs := p == backend.PurposeSigning
				if signs != s.Allows(backend.PurposeSigning) {
					t.Errorf("%s for %s: successor %s has another use", a.Name, p, n)
				}
				if s.SecurityBits < min(a.SecurityBits, 192) {
					t.Errorf("%s: successor %s is weaker", a.Name, n)
				}
			}
		}
	}
}
