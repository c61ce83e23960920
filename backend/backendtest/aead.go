package backendtest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// stdAEAD is the judge.
func stdAEAD(t testing.TB, a backend.Algorithm, key []byte) cipher.AEAD {
	t.Helper()
	if a == backend.ChaCha20Poly1305 {
		c, err := chacha20poly1305.New(key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if a == backend.AES256CTRHMACSHA256 {
		return ctrHMAC(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sealed is nonce ‖ ciphertext ‖ tag by the judge.
func sealed(t testing.TB, c cipher.AEAD, plaintext, aad []byte) []byte {
	t.Helper()
	nonce := random(t, c.NonceSize())
	return c.Seal(nonce, nonce, plaintext, aad)
}

func (s *suite) testAEAD(t *testing.T) {
	for _, k := range s.of(backend.FamilyAEAD, backend.PurposeEncryption) {
		t.Run(string(k.Algorithm), func(t *testing.T) {
			aead := s.key(t, k).(backend.AEAD)
			checkRoundTrips(t, k, aead)
			checkAppend(t, k, aead)
			checkTampering(t, k, aead)
			m := fresh(t, k.Info)
			if known, ok := s.imported(t, k, m.bytes); ok {
				checkAgainstStd(t, known.(backend.AEAD), stdAEAD(t, k.Algorithm, m.bytes))
			}
		})
	}
}

// checkRoundTrips seals and opens data of any size.
func checkRoundTrips(t *testing.T, k kind, aead backend.AEAD) {
	t.Helper()
	nonces := map[string]bool{}
	overhead := k.Info.NonceSize + k.Info.TagSize
	ctx := t.Context()
	one := func(t rapid.TB, plaintext, aad []byte) {
		p, a := slices.Clone(plaintext), slices.Clone(aad)
		out, err := aead.Seal(ctx, nil, plaintext, aad)
		if err != nil {
			t.Fatalf("Seal of %d bytes: %v", len(plaintext), err)
		}
		if len(out) != len(plaintext)+overhead {
			t.Fatalf("Seal of %d bytes gave %d", len(plaintext), len(out))
		}
		nonce := string(out[:k.Info.NonceSize])
		if nonces[nonce] {
			t.Fatalf("a nonce came twice")
		}
		nonces[nonce] = true
		back, err := aead.Open(ctx, nil, out, aad)
		if err != nil {
			t.Fatalf("Open of %d bytes: %v", len(out), err)
		}
		if !bytes.Equal(back, plaintext) {
			t.Fatalf("Open gave other bytes (%d of %d)", len(back), len(plaintext))
		}
		if !bytes.Equal(p, plaintext) || !bytes.Equal(a, aad) {
			t.Fatal("an input was changed")
		}
	}
	property(t, func(t *rapid.T) {
		gen := seeded(t)
		plaintext := filled(gen, rapid.IntRange(0, 5000).Draw(t, "plaintext"))
		one(t, plaintext, filled(gen, rapid.IntRange(0, 300).Draw(t, "aad")))
	})
	for _, n := range []int{1 << 16, 1<<20 + 1} {
		one(t, random(t, n), random(t, 1<<16))
	}
}

// checkAppend: results are appended to dst, and a failure leaves no plaintext behind dst.
func checkAppend(t *testing.T, k kind, aead backend.AEAD) {
	t.Helper()
	plaintext, prefix := []byte("attack at dawn, and bring the ladders"), []byte("prefix")
	for _, spare := range []int{0, 8, 4096} {
		dst := append(make([]byte, 0, len(prefix)+spare), prefix...)
		out, err := aead.Seal(t.Context(), dst, plaintext, nil)
		if err != nil {
			t.Fatalf("Seal: %v", err)
		}
		ct, ok := bytes.CutPrefix(out, prefix)
		if !ok || len(ct) != len(plaintext)+k.Info.NonceSize+k.Info.TagSize {
			t.Fatalf("Seal with %d spare bytes in dst did not append", spare)
		}
		dst = append(make([]byte, 0, len(prefix)+spare), prefix...)
		back, err := aead.Open(t.Context(), dst, ct, nil)
		if err != nil || !bytes.Equal(back, append(slices.Clone(prefix), plaintext...)) {
			t.Fatalf("Open with %d spare bytes in dst did not append: %v", spare, err)
		}
		dst = append(make([]byte, 0, len(prefix)+spare), prefix...)
		back, err = aead.Open(t.Context(), dst, flip(ct, len(ct)-1), nil)
		want(t, "Open of a wrong tag", err, fault.DecryptionFailed)
		if len(back) != 0 || !bytes.Equal(dst, prefix) || bytes.Contains(dst[:cap(dst)], plaintext[:8]) {
			t.Error("plaintext of a ciphertext that does not open was released")
		}
	}
}

// checkTampering: whatever is wrong, the answer is one and the same.
func checkTampering(t *testing.T, k kind, aead backend.AEAD) {
	t.Helper()
	aad := []byte("context")
	ct, err := aead.Seal(t.Context(), nil, random(t, 40), aad)
	if err != nil {
		t.Fatalf("Seal: %v", err)
	}
	bad := alike{code: fault.DecryptionFailed}
	open := func(what string, ct, aad []byte) {
		t.Helper()
		out, err := aead.Open(t.Context(), nil, ct, aad)
		bad.add(t, what, out, err)
	}
	for i := range ct {
		open(fmt.Sprintf("byte %d flipped", i), flip(ct, i), aad)
		open(fmt.Sprintf("cut to %d", i), ct[:i], aad)
	}
	open("nil", nil, aad)
	open("a byte more", append(slices.Clone(ct), 0), aad)
	open("a byte before", append([]byte{0}, ct...), aad)
	open("other aad", ct, []byte("Context"))
	open("no aad", ct, nil)
	open("longer aad", ct, append(slices.Clone(aad), 0))
	// The border between aad and ciphertext must not move.
	open("first byte moved into aad", ct[1:], append(slices.Clone(aad), ct[0]))
	if _, err := aead.Open(t.Context(), nil, ct, aad); err != nil {
		t.Errorf("the untouched ciphertext does not open any more: %v", err)
	}
}

// checkAgainstStd: the judge opens what the backend sealed, and the other way round.
func checkAgainstStd(t *testing.T, aead backend.AEAD, judge cipher.AEAD) {
	t.Helper()
	for _, n := range []int{0, 1, 15, 16, 17, 1000, 70000} {
		plaintext, aad := random(t, n), random(t, n%37)
		ct, err := aead.Seal(t.Context(), nil, plaintext, aad)
		if err != nil {
			t.Fatalf("Seal: %v", err)
		}
		got, err := judge.Open(nil, ct[:judge.NonceSize()], ct[judge.NonceSize():], aad)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("the standard library does not open what Seal made of %d bytes: %v", n, err)
		}
		got, err = aead.Open(t.Context(), nil, sealed(t, judge, plaintext, aad), aad)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("Open does not open what the standard library made of %d bytes: %v", n, err)
		}
	}
}
