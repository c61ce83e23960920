package keys

import "testing"

// TestStatedOrigin: statements know two origins of material, and verify refuses any other word.
func TestStatedOrigin(t *testing.T) {
	for origin, want := range map[Origin]string{OriginGenerated: "generated", OriginImported: "imported", OriginImportedInside: "imported"} {
		if got := statedOrigin(origin); got != want {
			t.Errorf("%s is stated as %s", origin, got)
		}
	}
}
