package token

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestInside: keys in envelopes come into the token by C_UnwrapKey alone, where it can; nothing of a bad one stays, and all bad ones are alike.
func TestInside(t *testing.T) {
	symmetric := []backend.Algorithm{backend.AES128GCM, backend.AES192GCM, backend.AES256GCM, backend.AES256KWP, backend.HMACSHA256, backend.HMACSHA384, backend.HMACSHA512}
	pairs := []backend.Algorithm{backend.RSA2048, backend.RSA3072, backend.RSA4096}
	for _, m := range []struct {
		name   string
		part   func(testing.TB) *rig.Part
		want   []backend.Algorithm
		hashes []string
	}{
		{"softhsm", rig.SoftHSM, slices.Clone(pairs), []string{"SHA-1"}}, // it does not know the length of secret keys that it has unwrapped
		{"nss", rig.NSS, slices.Concat(symmetric, pairs), []string{"SHA-1", "SHA-256", "SHA-384", "SHA-512"}},
		{"opencryptoki", rig.OpenCryptoki, nil, nil},
	} {
		t.Run(m.name, func(t *testing.T) {
			d := openToken(t, m.part(t), acceptLeaks)
			desc := d.Describe()
			got := slices.Sorted(slices.Values(desc.Inside))
			slices.Sort(m.want)
			if diff := cmp.Diff(m.want, got); diff != "" || !slices.Equal(desc.InsideHashes, m.hashes) {
				t.Errorf("inside: %v\n%s", desc.InsideHashes, diff)
			}
			if len(m.want) == 0 {
				_, err := d.ImportWrapped(t.Context(), newID(), backend.HMACSHA256, backend.PurposeMAC, Envelope{Algorithm: backend.RSA2048, Hash: crypto.SHA256}, false)
				if !fault.Has(err, fault.Unsupported) {
					t.Errorf("ImportWrapped: %v", err)
				}
				return
			}
			hash := crypto.SHA1
			if slices.Contains(m.hashes, "SHA-256") {
				hash = crypto.SHA256
			}
			for _, wrapped := range []bool{false, true} {
				opener, err := d.Generate(t.Context(), newID(), backend.RSA2048, backend.PurposeEncryption, wrapped)
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range desc.Inside {
					k, _ := kindOf(a)
					purposes := k.Purposes
					if !k.Symmetric() && !wrapped {
						if k.KeyBits > 2048 {
							continue // each takes NSS's database seconds
						}
						purposes = purposes[:1]
					}
					for _, p := range purposes {
						comesInside(t, d, opener, hash, k, p, wrapped)
					}
				}
				refusesEnvelopes(t, d, opener, hash, wrapped)
			}
		})
	}
}

func material(t *testing.T, k kind) []byte {
	t.Helper()
	if !k.Symmetric() {
		in, err := knownRSA(k)
		if err != nil {
			t.Fatal(err)
		}
		return in.bytes
	}
	out := make([]byte, k.KeySize)
	rand.Read(out)
	return out
}

func envelopeOf(t *testing.T, o Object, h crypto.Hash, material []byte) Envelope {
	t.Helper()
	pub, err := keyenc.ParseSPKI(o.Public)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := keyenc.WrapRSAAES(rand.Reader, pub.(*rsa.PublicKey), h, material)
	if err != nil {
		t.Fatal(err)
	}
	return Envelope{ID: o.ID, Algorithm: o.Algorithm, Wrapped: o.Wrapped, Hash: h, Blob: blob}
}

func comesInside(t *testing.T, d *device, opener Object, h crypto.Hash, k kind, p backend.Purpose, wrapped bool) {
	t.Helper()
	raw, id := material(t, k), newID()
	e := envelopeOf(t, opener, h, raw)
	o, err := d.ImportWrapped(t.Context(), id, k.Name, p, e, wrapped)
	if err != nil {
		t.Errorf("%s for %s (wrapped %v): %v", k.Name, p, wrapped, err)
		return
	}
	if !o.Inside || o.Local || o.NeverExtractable || !o.Sensitive || o.Extractable || (len(o.Wrapped) > 0) != wrapped || o.ID != id {
		t.Errorf("%s: %+v", k.Name, o)
	}
	var clear []byte
	if k.Symmetric() {
		clear = raw
	}
	works(t, d, k, p, o, clear)
	if wrapped {
		return
	}
	found, err := d.Find(t.Context(), id)
	o.Inside = false // nothing on the token says so
	if diff := cmp.Diff(o, found); err != nil || diff != "" {
		t.Errorf("Find: %v\n%s", err, diff)
	}
	if _, err := d.ImportWrapped(t.Context(), id, k.Name, p, e, false); !fault.Has(err, fault.Conflict) {
		t.Errorf("a second time with the id: %v", err)
	}
	if err := d.Destroy(t.Context(), id); err != nil {
		t.Errorf("Destroy: %v", err)
	}
}

func refusesEnvelopes(t *testing.T, d *device, opener Object, h crypto.Hash, wrapped bool) {
	t.Helper()
	aes, _ := kindOf(backend.AES256GCM)
	if !slices.Contains(d.Describe().Inside, aes.Name) {
		aes, _ = kindOf(backend.RSA2048)
	}
	good := envelopeOf(t, opener, h, material(t, aes))
	before, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(e *Envelope)) Envelope {
		e := good
		e.Blob = bytes.Clone(good.Blob)
		f(&e)
		return e
	}
	for name, e := range map[string]Envelope{
		"a changed first part":        change(func(e *Envelope) { e.Blob[17] ^= 1 }),
		"a changed second part":       change(func(e *Envelope) { e.Blob[len(e.Blob)-1] ^= 1 }),
		"a first part of zeros":       change(func(e *Envelope) { clear(e.Blob[:256]) }),
		"no second part":              change(func(e *Envelope) { e.Blob = e.Blob[:256] }),
		"a part of a block too many":  change(func(e *Envelope) { e.Blob = append(e.Blob, 1, 2, 3) }),
		"a shorter key":               envelopeOf(t, opener, h, make([]byte, 16)),
		"a key that is none":          envelopeOf(t, opener, h, make([]byte, 27)),
		"the envelope of another key": {ID: opener.ID, Algorithm: opener.Algorithm, Wrapped: opener.Wrapped, Hash: h, Blob: envelopeOf(t, mustRSA(t, d), h, material(t, aes)).Blob},
	} {
		_, err := d.ImportWrapped(t.Context(), newID(), aes.Name, backend.PurposeEncryption, e, wrapped)
		if !fault.Has(err, fault.BadImport) || err.Error() != errMaterial.Error() {
			t.Errorf("%s: %v", name, err)
		}
	}
	secret := envelopeOf(t, opener, h, known(32))
	if _, err := d.ImportWrapped(t.Context(), newID(), backend.RSA2048, backend.PurposeSigning, secret, wrapped); !fault.Has(err, fault.BadImport) {
		t.Errorf("an AES key as an RSA key: %v", err)
	}
	larger, _ := kindOf(backend.RSA3072)
	if _, err := d.ImportWrapped(t.Context(), newID(), backend.RSA2048, backend.PurposeSigning, envelopeOf(t, opener, h, material(t, larger)), wrapped); !fault.Has(err, fault.BadImport) {
		t.Errorf("an RSA key of another size: %v", err)
	}
	after, err := d.List(t.Context())
	if err != nil || len(after) != len(before) {
		t.Errorf("%d objects before, %d after: %v", len(before), len(after), err)
	}
	if s := d.Stats(); s.Breaker != "closed" {
		t.Errorf("the breaker is %s", s.Breaker)
	}
}

// mustRSA makes a wrapped key, which leaves nothing on the token.
func mustRSA(t *testing.T, d *device) Object {
	t.Helper()
	o, err := d.Generate(t.Context(), newID(), backend.RSA2048, backend.PurposeEncryption, true)
	if err != nil {
		t.Fatal(err)
	}
	return o
}
