package device_test

import (
	"errors"
	"math/big"
	"testing"

	"github.com/keywright/keywright/fault"
)

func number(b []byte) *big.Int { return new(big.Int).SetBytes(b) }

// checkFault checks the code of a fault, whether it says when to try again, and what stands in its chain.
func checkFault(t testing.TB, err error, code fault.Code, again bool, causes ...error) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != code || again != (f.After > 0) {
		t.Errorf("got %v, want %s, try again %v", err, code, again)
	}
	for _, cause := range causes {
		if !errors.Is(err, cause) {
			t.Errorf("%v has not %q in its chain", err, cause)
		}
	}
}
