package sealed

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/keywright/keywright/backend"
)

// TestCTRHMAC: the ciphertext of the first vector is that of SP 800-38A appendix F.5.5; tags, and the second vector, whose counter runs over, are by a separate
// implementation in Python.
func TestCTRHMAC(t *testing.T) {
	const (
		mac    = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
		enc    = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
		plain  = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
		first  = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c52b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a69c6c15b79e8ed0d465085de914780f8b588c88dd9894fb22f4efa0b9ce08f6ed"
		second = "ffffffffffffffffffffffffffffffff50fd97c3e61abb4873fb78df1e8e77e64b457cd68accda4a89fa236c06bf2605a1dd021ba826fb0a7eedd44349e737b966fc60ee773d28b97dd81c0b6117b1daac1f0cebf9d27fd4"
	)
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	info, _ := backend.Lookup(backend.AES256CTRHMACSHA256)
	m, err := newAEAD(info, unhex(mac+enc))
	if err != nil {
		t.Fatal(err)
	}
	c := m.(*aeadMaterial).aead
	for _, v := range []struct {
		sealed, aad string
		plain       []byte
	}{{first, "header", unhex(plain)}, {second, "", unhex(plain)[:40]}} {
		if got, err := c.Open(nil, nil, unhex(v.sealed), []byte(v.aad)); err != nil || !bytes.Equal(got, v.plain) {
			t.Errorf("%x, %v", got, err)
		}
	}
	for _, n := range []int{0, 32, 63, 65} {
		if _, err := newAEAD(info, make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is taken", n)
		}
	}
	inner := c.(randomNonce).AEAD.(*ctrHMAC)
	m.wipe()
	if !bytes.Equal(inner.mac, make([]byte, 32)) {
		t.Error("the MAC key is not wiped")
	}
}
