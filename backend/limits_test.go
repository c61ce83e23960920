package backend_test

import (
	"math"
	"testing"

	"github.com/keywright/keywright/backend"
)

// TestLimits holds the bounds of the table against the birthday bounds that they are argued from: none of the events that break an algorithm is likelier than
// 2^-32, which is what SP 800-38D section 8 asks of random nonces.
func TestLimits(t *testing.T) {
	const largest = 1 << 20 // bytes of a message
	for _, a := range backend.Algorithms() {
		if a.Family != backend.FamilyAEAD {
			if a.MaxMessages != 0 || a.MaxBytes != 0 || a.LimitSource != "" {
				t.Errorf("%s has a limit that nothing argues for", a.Name)
			}
			continue
		}
		if a.MaxMessages <= 0 || a.LimitSource == "" {
			t.Errorf("%s has no limit, or no source of it", a.Name)
			continue
		}
		q := math.Log2(float64(a.MaxMessages))
		bytes := float64(a.MaxMessages) * largest
		if a.MaxBytes > 0 {
			bytes = min(bytes, float64(a.MaxBytes))
		}
		blocks := math.Log2(bytes/16 + float64(a.MaxMessages))
		var events map[string]float64
		switch a.NonceSize {
		case 12:
			events = map[string]float64{"equal nonces": 2*q - 1 - 96}
			if a.MaxMessages != 1<<32 {
				t.Errorf("%s: %d messages, and SP 800-38D section 8.3 says 2^32", a.Name, a.MaxMessages)
			}
		case 16:
			events = map[string]float64{"ranges of counters that overlap": q + blocks - 128}
		default:
			t.Errorf("%s: nobody has argued about nonces of %d bytes", a.Name, a.NonceSize)
		}
		if a.Name != backend.ChaCha20Poly1305 { // whose block function is no permutation
			events["AES told from a random function"] = 2*blocks - 129
		}
		for event, exponent := range events {
			if exponent > -32 {
				t.Errorf("%s: %s with 2^%.1f", a.Name, event, exponent)
			}
		}
	}
}
