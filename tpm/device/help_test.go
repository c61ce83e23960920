package device_test

import "math/big"

func number(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
