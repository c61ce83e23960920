package keyenc

import (
	"bytes"
	"testing"
)

// WrapPlain wraps constant ‖ length ‖ padded material as it stands, so that tests can break each part of it.
func WrapPlain(t testing.TB, kek, plain []byte) []byte {
	t.Helper()
	w, err := NewKWP(kek)
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.Clone(plain)
	if len(out) == 16 {
		w.block.Encrypt(out, out)
	} else {
		w.wrap(out)
	}
	return out
}
