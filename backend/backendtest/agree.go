package backendtest

import (
	"bytes"
	"crypto/ecdh"
	"slices"
	"testing"

	"github.com/cloudflare/circl/dh/x448"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

func (s *suite) testAgree(t *testing.T) {
	for _, k := range s.of(backend.FamilyECDH, backend.PurposeAgreement) {
		t.Run(string(k.Algorithm), func(t *testing.T) {
			key := s.key(t, k).(backend.Agreer)
			checkAgreer(t, k, key)
			refusePeers(t, k, key)
			m := fresh(t, k.Info)
			if known, ok := s.imported(t, k, m.bytes); ok {
				if !bytes.Equal(spki(t, known.Public()), m.public) {
					t.Error("an imported key has another public key")
				}
				checkAgreer(t, k, known.(backend.Agreer))
			}
		})
	}
}

// checkAgreer lets the standard library compute the other side.
func checkAgreer(t *testing.T, k kind, key backend.Agreer) {
	t.Helper()
	for range 3 {
		peer := fresh(t, k.Info)
		got, err := key.Agree(t.Context(), peer.public)
		if err != nil {
			t.Fatalf("Agree: %v", err)
		}
		if right := otherSide(t, key, peer); !bytes.Equal(got, right) {
			t.Error("the two sides come to different secrets")
		}
	}
}

func otherSide(t testing.TB, key backend.Agreer, peer material) []byte {
	t.Helper()
	own := spki(t, key.Public())
	if peer.x448 != nil {
		var pub, out x448.Key
		copy(pub[:], rawPublic(t, own))
		if !x448.Shared(&out, peer.x448, &pub) {
			t.Fatal("the backend's public key is of low order")
		}
		return out[:]
	}
	out, err := peer.dh.ECDH(key.Public().(*ecdh.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// refusePeers gives public keys of other curves, off the curve and of low order.
func refusePeers(t *testing.T, k kind, key backend.Agreer) {
	t.Helper()
	refuse := func(what string, peer []byte) {
		t.Helper()
		out, err := key.Agree(t.Context(), peer)
		want(t, "Agree with "+what, err, fault.BadField)
		if out != nil {
			t.Errorf("Agree with %s: a secret came out", what)
		}
	}
	good := fresh(t, k.Info).public
	for _, other := range backend.Algorithms() {
		if !other.Symmetric() && !sameEncoding(k.Info, other) { // whatever a point is for, one of the same curve is good
			refuse("a key of "+string(other.Name), fresh(t, other).public)
		}
	}
	refuse("nothing", nil)
	refuse("garbage", random(t, len(good)))
	refuse("a byte more", append(slices.Clone(good), 0))
	for _, i := range positions(len(good)) {
		refuse("a cut key", good[:i])
	}
	raw := rawPublic(t, good)
	refuse("a raw key", raw)
	point := bytes.Index(good, raw)
	put := func(p []byte) []byte { return append(slices.Clone(good[:point]), p...) }
	switch k.Algorithm {
	case backend.X25519, backend.X448:
		for _, low := range lowOrder(len(raw)) {
			refuse("a point of low order", put(low))
		}
	default:
		refuse("a point off the curve", put(flip(raw, len(raw)-1)))
		refuse("the point 0, 0", put(append([]byte{4}, make([]byte, len(raw)-1)...)))
		refuse("coordinates not reduced", put(append([]byte{4}, bytes.Repeat([]byte{0xff}, len(raw)-1)...)))
	}
}

// lowOrder lists u-coordinates of points of small order: 0, 1 and p-1 on both curves, p and p+1 not reduced.
func lowOrder(size int) [][]byte {
	zero, one := make([]byte, size), make([]byte, size)
	one[0] = 1
	prime := bytes.Repeat([]byte{0xff}, size) // 2^448 - 2^224 - 1
	if size == 32 {
		prime[0], prime[31] = 0xed, 0x7f // 2^255 - 19
	} else {
		prime[28] = 0xfe
	}
	less, more := slices.Clone(prime), slices.Clone(prime)
	less[0]--
	if size == 32 {
		more[0]++
		return [][]byte{zero, one, less, prime, more}
	}
	more = make([]byte, size) // p + 1 is 2^448 - 2^224
	for i := 28; i < size; i++ {
		more[i] = 0xff
	}
	return [][]byte{zero, one, less, prime, more}
}
