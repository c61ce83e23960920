package envelope

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/fault"
)

func TestSealedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Sealed{
			Sealer:     rapid.Uint16Min(1).Draw(t, "sealer"),
			Generation: rapid.Uint32Min(1).Draw(t, "generation"),
			Nonce:      rapid.SliceOfN(rapid.Byte(), 0, MaxNonce).Draw(t, "nonce"),
			Ciphertext: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "ciphertext"),
		}
		b := want.Append(nil)
		if n := want.Size(); n != len(b) {
			t.Fatalf("Size = %d, the blob has %d bytes", n, len(b))
		}
		got, err := ParseSealed(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("ParseSealed(Append) (-want +got):\n%s", diff)
		}
	})
}

// The generation is part of what is authenticated: a blob of one is none of another, under whatever key.
func TestGenerations(t *testing.T) {
	key := make([]byte, 32)
	rand.Read(key)
	for _, made := range []uint32{1, 2, 3, 1 << 31} {
		blob, err := SealGeneration(key, made, []byte("plaintext"), []byte("binding"))
		if err != nil {
			t.Fatal(err)
		}
		if s, err := ParseSealed(blob); err != nil || s.Generation != made {
			t.Errorf("generation %d reads as %d, %v", made, s.Generation, err)
		}
		for _, asked := range []uint32{0, 1, 2, 3, 1 << 31} {
			plain, err := OpenGeneration(key, asked, blob, []byte("binding"))
			if asked == made && (err != nil || string(plain) != "plaintext") || asked != made && !fault.Has(err, fault.KeyMaterial) {
				t.Errorf("generation %d asked for as %d: %v", made, asked, err)
			}
		}
		for i := range blob {
			changed := bytes.Clone(blob)
			changed[i] ^= 1
			s, err := ParseSealed(changed)
			if err != nil {
				continue
			}
			if _, err := OpenGeneration(key, s.Generation, changed, []byte("binding")); !fault.Has(err, fault.KeyMaterial) {
				t.Errorf("generation %d with byte %d changed: %v", made, i, err)
			}
		}
	}
	if _, err := SealGeneration(key, 0, nil, nil); err == nil {
		t.Error("sealed without a generation")
	}
}

// Nothing about a blob can be changed, and nothing else opens it.
func TestOpenSoftwareRefuses(t *testing.T) {
	key, other := make([]byte, 32), make([]byte, 32)
	rand.Read(key)
	rand.Read(other)
	blob, err := SealSoftware(key, []byte("plaintext"), []byte("binding"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := OpenSoftware(key, blob, []byte("binding")); err != nil || string(plain) != "plaintext" {
		t.Fatalf("the blob as it was made: %v", err)
	}
	for i := range blob {
		for _, flip := range []byte{0x01, 0x80} {
			changed := bytes.Clone(blob)
			changed[i] ^= flip
			if _, err := OpenSoftware(key, changed, []byte("binding")); !fault.Has(err, fault.KeyMaterial) {
				t.Errorf("byte %d changed: %v, want %s", i, err, fault.KeyMaterial)
			}
		}
	}
	if _, err := OpenSoftware(other, blob, []byte("binding")); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("another key: %v", err)
	}
	for _, binding := range []string{"", "bindin", "binding2", "Binding"} {
		if _, err := OpenSoftware(key, blob, []byte(binding)); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("binding %q: %v", binding, err)
		}
	}
	if _, err := OpenSoftware(key, (&Sealed{Sealer: 1, Nonce: make([]byte, 24), Ciphertext: make([]byte, 15)}).Append(nil), nil); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("a ciphertext shorter than its tag: %v", err)
	}
	if _, err := OpenSoftware(key[:31], blob, []byte("binding")); err == nil || fault.Has(err, fault.KeyMaterial) {
		t.Errorf("a key of the wrong size: %v", err)
	}
	if _, err := SealSoftware(key[:31], nil, nil); err == nil {
		t.Error("sealed with a key of the wrong size")
	}
	again, err := SealSoftware(key, []byte("plaintext"), []byte("binding"))
	if err != nil || bytes.Equal(blob, again) {
		t.Error("two blobs have one nonce")
	}
}

func FuzzParseSealed(f *testing.F) {
	for _, v := range loadSealed(f).Valid {
		f.Add([]byte(v.Blob))
	}
	for _, v := range loadSealed(f).Invalid {
		f.Add([]byte(v.Blob))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSealed(b)
		if err != nil {
			if !fault.Has(err, fault.KeyMaterial) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		if again := s.Append(nil); !bytes.Equal(b, again) {
			t.Fatalf("Append(ParseSealed) is not what was parsed:\n%x\n%x", b, again)
		}
		if plain, err := OpenGeneration(make([]byte, 32), s.Generation, b, nil); err == nil {
			t.Fatalf("opened %d bytes that nobody sealed", len(plain))
		}
	})
}
