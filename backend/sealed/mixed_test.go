package sealed_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/keywright/keywright/backend/sealed"
)

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestMixed: a device that always gives the same still makes no predictable bytes, and one that fails makes none.
func TestMixed(t *testing.T) {
	r := sealed.Mixed(zeros{})
	one, two := make([]byte, 32), make([]byte, 32)
	for _, b := range [][]byte{one, two} {
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatal(err)
		}
	}
	if bytes.Equal(one, two) || bytes.Equal(one, make([]byte, 32)) {
		t.Errorf("the bytes of a broken device come through: %x, %x", one, two)
	}
	if n, err := sealed.Mixed(bytes.NewReader(make([]byte, 5))).Read(one); err == nil || n != 0 || !bytes.Equal(one, make([]byte, 32)) {
		t.Errorf("a device that ends: %d bytes, %v", n, err)
	}
}
