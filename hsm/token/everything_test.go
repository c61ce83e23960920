package token

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"github.com/cloudflare/circl/sign/ed448"
	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// allOf is what each module must show to do; less is a mistake in the probing.
var (
	aead   = []backend.Algorithm{backend.AES128GCM, backend.AES192GCM, backend.AES256GCM}
	common = []backend.Algorithm{backend.AES256KWP, backend.HMACSHA256, backend.HMACSHA384, backend.HMACSHA512, backend.RSA2048, backend.RSA3072, backend.RSA4096}
	curves = []backend.Algorithm{backend.ECDSAP256, backend.ECDSAP384, backend.ECDSAP521, backend.ECDHP256, backend.ECDHP384, backend.ECDHP521}
	edward = []backend.Algorithm{backend.Ed25519, backend.Ed448}
)

func TestEverything(t *testing.T) {
	for _, m := range []struct {
		name      string
		part      func(testing.TB) *rig.Part
		want      []backend.Algorithm
		unwrapped []backend.Algorithm // cannot be kept wrapped
	}{
		{"softhsm", rig.SoftHSM, slices.Concat(aead, common, curves, edward), edward},
		{"nss", rig.NSS, slices.Concat(aead, common, curves), nil},
		{"opencryptoki", rig.OpenCryptoki, common, nil},
	} {
		t.Run(m.name, func(t *testing.T) {
			d := openToken(t, m.part(t), acceptLeaks)
			desc := d.Describe()
			if desc.LeaksWrapped != (m.name == "nss") {
				t.Errorf("the self-test says leaks: %v", desc.LeaksWrapped)
			}
			var have []backend.Algorithm
			for _, c := range desc.Capabilities {
				have = append(have, c.Algorithm)
				if c.Custody != backend.CustodyDevice || !c.Import {
					t.Errorf("%s: custody %s, import %v", c.Algorithm, c.Custody, c.Import)
				}
			}
			slices.Sort(m.want)
			slices.Sort(have)
			if diff := cmp.Diff(m.want, have); diff != "" {
				t.Errorf("capabilities:\n%s", diff)
			}
			for _, c := range desc.Capabilities {
				k, _ := kindOf(c.Algorithm)
				for _, p := range k.Purposes {
					if k.KeyBits > 2048 && k.Family == backend.FamilyRSA {
						continue // making them takes seconds; see TestImport for the sizes
					}
					t.Run(fmt.Sprintf("%s/%s", c.Algorithm, p), func(t *testing.T) {
						rsaKey := k.Family == backend.FamilyRSA // takes seconds to make: one of each placement
						if !rsaKey || p == backend.PurposeSigning {
							lifeOf(t, d, k, p, false)
						}
						if rsaKey && p == backend.PurposeSigning {
							return
						}
						if !slices.Contains(m.unwrapped, k.Name) {
							lifeOf(t, d, k, p, true)
						} else if _, err := d.Generate(t.Context(), newID(), k.Name, p, true); !fault.Has(err, fault.Unsupported) {
							t.Errorf("Generate wrapped what cannot be: %v", err)
						}
					})
				}
			}
			t.Run("import", func(t *testing.T) { importAll(t, d, desc, m.unwrapped) })
			t.Run("list", func(t *testing.T) { listAll(t, d) })
			t.Run("leftovers", func(t *testing.T) {
				if s := d.Stats(); s.Breaker != "closed" || s.Reinitialisations != 0 || s.Stuck != 0 || s.Queued != 0 || s.SessionsInUse != 0 {
					t.Errorf("Stats: %+v", s)
				}
			})
		})
	}
}

// lifeOf makes a key, uses it, finds it and destroys it.
func lifeOf(t *testing.T, d *device, k kind, p backend.Purpose, wrapped bool) {
	t.Helper()
	ctx, id := t.Context(), newID()
	o, err := d.Generate(ctx, id, k.Name, p, wrapped)
	if err != nil {
		t.Fatalf("Generate (wrapped %v): %v", wrapped, err)
	}
	if !o.Sensitive || o.Extractable || o.ID != id || o.Algorithm != k.Name || (len(o.Wrapped) > 0) != wrapped {
		t.Errorf("Generate gives %+v", o)
	}
	if !wrapped && !o.NeverExtractable {
		t.Errorf("a resident key was extractable once")
	}
	works(t, d, k, p, o, nil)
	if wrapped {
		if _, err := d.Find(ctx, id); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("a wrapped key is on the token: %v", err)
		}
		return
	}
	found, err := d.Find(ctx, id)
	if diff := cmp.Diff(o, found); err != nil || diff != "" {
		t.Errorf("Find: %v\n%s", err, diff)
	}
	if _, err := d.Generate(ctx, id, k.Name, p, false); !fault.Has(err, fault.Conflict) {
		t.Errorf("a second Generate with the id: %v", err)
	}
	for range 2 {
		if err := d.Destroy(ctx, id); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
	if _, err := d.Find(ctx, id); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("Find after Destroy: %v", err)
	}
	if _, err := d.Use(ctx, firstCall(k, p, o)); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("Use after Destroy: %v", err)
	}
}

func firstCall(k kind, p backend.Purpose, o Object) Call {
	c := Call{ID: o.ID, Algorithm: k.Name, Wrapped: o.Wrapped, Hash: crypto.SHA256, Padding: backend.PaddingPSS}
	switch k.Family {
	case backend.FamilyAEAD:
		c.Op = Encrypt
	case backend.FamilyKWP:
		c.Op, c.Input = Wrap, []byte("material")
	case backend.FamilyHMAC:
		c.Op = MAC
	case backend.FamilyECDH:
		c.Op, c.Input = Agree, o.Public
	default:
		c.Op, c.Input = Sign, make([]byte, 32)
		if p == backend.PurposeEncryption {
			c.Op, c.Input = Decrypt, make([]byte, k.KeyBits/8)
		}
	}
	return c
}

// works uses a key and judges the results with other code than the token's. clear is the key's material if it is known.
func works(t *testing.T, d *device, k kind, p backend.Purpose, o Object, clear []byte) {
	t.Helper()
	use := func(c Call) []byte {
		t.Helper()
		c.ID, c.Algorithm, c.Wrapped = o.ID, k.Name, o.Wrapped
		out, err := d.Use(t.Context(), c)
		if err != nil {
			t.Fatalf("operation %d with %s: %v", c.Op, k.Name, err)
		}
		return out
	}
	refused := func(c Call, code fault.Code) {
		t.Helper()
		c.ID, c.Algorithm, c.Wrapped = o.ID, k.Name, o.Wrapped
		if out, err := d.Use(t.Context(), c); !fault.Has(err, code) {
			t.Errorf("operation %d with %s: %d bytes, %v; want %s", c.Op, k.Name, len(out), err, code)
		}
	}
	var pub crypto.PublicKey
	if o.Public != nil {
		var err error
		if pub, err = keyenc.ParseSPKI(o.Public); err != nil {
			t.Fatalf("ParseSPKI: %v", err)
		}
	}
	switch k.Family {
	case backend.FamilyAEAD:
		for _, n := range []int{0, 1, 16, 1000} {
			text, aad := known(n), known(n/2)
			sealed := use(Call{Op: Encrypt, Input: text, AAD: aad})
			if got := use(Call{Op: Decrypt, Input: sealed, AAD: aad}); !bytes.Equal(got, text) {
				t.Errorf("%d bytes come back as %d", n, len(got))
			}
			if clear != nil {
				block, _ := aes.NewCipher(clear)
				judge, _ := cipher.NewGCM(block)
				if got, err := judge.Open(nil, sealed[:12], sealed[12:], aad); err != nil || !bytes.Equal(got, text) {
					t.Errorf("the standard library does not open it: %v", err)
				}
			}
			sealed[len(sealed)-1] ^= 1
			refused(Call{Op: Decrypt, Input: sealed, AAD: aad}, fault.DecryptionFailed)
			sealed[len(sealed)-1] ^= 1
			refused(Call{Op: Decrypt, Input: sealed, AAD: append(aad, 1)}, fault.DecryptionFailed)
			refused(Call{Op: Decrypt, Input: sealed[:20], AAD: aad}, fault.DecryptionFailed)
		}
		a, b := use(Call{Op: Encrypt}), use(Call{Op: Encrypt})
		if bytes.Equal(a[:12], b[:12]) {
			t.Error("two nonces are the same")
		}
		refused(Call{Op: Wrap, Input: make([]byte, 16)}, fault.Unsupported)
	case backend.FamilyKWP:
		for _, n := range []int{1, 8, 9, 32, 100} {
			out := use(Call{Op: Wrap, Input: known(n)})
			if clear != nil {
				if want, err := keyenc.KWPWrap(clear, known(n)); err != nil || !bytes.Equal(want, out) {
					t.Errorf("%d bytes are wrapped otherwise than RFC 5649 says", n)
				}
			}
			if got := use(Call{Op: Unwrap, Input: out}); !bytes.Equal(got, known(n)) {
				t.Errorf("%d bytes come back as %d", n, len(got))
			}
			out[3] ^= 1
			refused(Call{Op: Unwrap, Input: out}, fault.DecryptionFailed)
		}
		refused(Call{Op: Unwrap, Input: known(12)}, fault.DecryptionFailed)
		refused(Call{Op: Wrap}, fault.BadSize)
	case backend.FamilyHMAC:
		out := use(Call{Op: MAC, Input: known(100)})
		if clear != nil {
			mac := hmac.New(k.Hash.New, clear)
			mac.Write(known(100))
			if !hmac.Equal(out, mac.Sum(nil)) {
				t.Error("the tag is wrong")
			}
		}
		if len(out) != k.TagSize || bytes.Equal(out, use(Call{Op: MAC, Input: known(99)})) {
			t.Errorf("a tag of %d bytes", len(out))
		}
	case backend.FamilyECDSA:
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			digest := known(h.Size())
			sig := use(Call{Op: Sign, Input: digest, Hash: h})
			if !ecdsa.Verify(pub.(*ecdsa.PublicKey), digest, new(big.Int).SetBytes(sig[:k.field]), new(big.Int).SetBytes(sig[k.field:])) {
				t.Errorf("a signature of a %v digest is wrong", h)
			}
		}
		refused(Call{Op: Sign, Input: known(31)}, fault.BadSize)
	case backend.FamilyEdDSA:
		sig := use(Call{Op: Sign, Input: known(300)})
		switch pk := pub.(type) {
		case ed25519.PublicKey:
			if !ed25519.Verify(pk, known(300), sig) {
				t.Error("the signature is wrong")
			}
		case ed448.PublicKey:
			if !ed448.Verify(pk, known(300), sig, "") {
				t.Error("the signature is wrong")
			}
		}
	case backend.FamilyECDH:
		point := pub
		if pk, ok := pub.(*ecdsa.PublicKey); ok {
			point, _ = pk.ECDH()
		}
		curve := point.(*ecdh.PublicKey).Curve()
		peer, err := curve.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := keyenc.MarshalSPKI(peer.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		want, err := peer.ECDH(point.(*ecdh.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		if got := use(Call{Op: Agree, Input: der}); !bytes.Equal(got, want) {
			t.Error("another secret")
		}
		refused(Call{Op: Agree, Input: der[:len(der)-1]}, fault.BadField)
		bad := bytes.Clone(der)
		bad[len(bad)-1] ^= 1
		refused(Call{Op: Agree, Input: bad}, fault.BadField)
	case backend.FamilyRSA:
		usesRSA(t, p, pub.(*rsa.PublicKey), use, refused)
	}
}

func usesRSA(t *testing.T, p backend.Purpose, pub *rsa.PublicKey, use func(Call) []byte, refused func(Call, fault.Code)) {
	t.Helper()
	if p == backend.PurposeEncryption {
		for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			for _, label := range [][]byte{nil, []byte("a label")} {
				ct, err := rsa.EncryptOAEP(h.New(), rand.Reader, pub, []byte("text"), label)
				if err != nil {
					t.Fatal(err)
				}
				if got := use(Call{Op: Decrypt, Input: ct, Hash: h, Label: label}); string(got) != "text" {
					t.Errorf("OAEP with %v gives %d bytes", h, len(got))
				}
				refused(Call{Op: Decrypt, Input: ct, Hash: h, Label: []byte("another")}, fault.DecryptionFailed)
				ct[len(ct)-1] ^= 1
				refused(Call{Op: Decrypt, Input: ct, Hash: h, Label: label}, fault.DecryptionFailed)
			}
		}
		refused(Call{Op: Decrypt, Input: make([]byte, 10), Hash: crypto.SHA256}, fault.DecryptionFailed)
		refused(Call{Op: Decrypt, Input: bytes.Repeat([]byte{0xff}, pub.Size()), Hash: crypto.SHA256}, fault.DecryptionFailed)
		refused(Call{Op: Decrypt, Input: make([]byte, pub.Size()), Hash: crypto.MD5}, fault.BadField)
		return
	}
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		digest := known(h.Size())
		if err := rsa.VerifyPKCS1v15(pub, h, digest, use(Call{Op: Sign, Input: digest, Hash: h, Padding: backend.PaddingPKCS1v15})); err != nil {
			t.Errorf("PKCS#1 with %v: %v", h, err)
		}
		if err := rsa.VerifyPSS(pub, h, digest, use(Call{Op: Sign, Input: digest, Hash: h, Padding: backend.PaddingPSS}), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}); err != nil {
			t.Errorf("PSS with %v: %v", h, err)
		}
	}
	refused(Call{Op: Sign, Input: known(20), Hash: crypto.SHA1, Padding: backend.PaddingPSS}, fault.BadField)
	refused(Call{Op: Sign, Input: known(32), Hash: crypto.SHA512, Padding: backend.PaddingPSS}, fault.BadSize)
	refused(Call{Op: Sign, Input: known(32), Hash: crypto.SHA256}, fault.BadField)
}

// importAll brings known material in and compares what the token does with it.
func importAll(t *testing.T, d *device, desc Description, unwrapped []backend.Algorithm) {
	for _, c := range desc.Capabilities {
		k, _ := kindOf(c.Algorithm)
		material := known(k.KeySize)
		if !k.Symmetric() {
			var priv crypto.PrivateKey
			var err error
			if k.Family == backend.FamilyRSA {
				in, kerr := knownRSA(k)
				if kerr != nil {
					t.Fatal(kerr)
				}
				priv = in.priv
			} else if priv, err = newPrivate(k); err != nil {
				t.Fatal(err)
			}
			if material, err = keyenc.MarshalPKCS8(priv); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range k.Purposes {
			for _, wrapped := range []bool{false, true} {
				if wrapped && slices.Contains(unwrapped, k.Name) {
					continue
				}
				id := newID()
				o, err := d.Import(t.Context(), id, k.Name, p, bytes.Clone(material), wrapped)
				if err != nil {
					t.Errorf("Import %s (wrapped %v): %v", k.Name, wrapped, err)
					continue
				}
				if o.Local || o.NeverExtractable || !o.Sensitive || o.Extractable {
					t.Errorf("Import %s gives %+v", k.Name, o)
				}
				var clear []byte
				if k.Symmetric() {
					clear = material
				}
				works(t, d, k, p, o, clear)
				if !wrapped {
					found, err := d.Find(t.Context(), id)
					if diff := cmp.Diff(o, found); err != nil || diff != "" {
						t.Errorf("Find: %v\n%s", err, diff)
					}
					if _, err := d.Import(t.Context(), id, k.Name, p, material, false); !fault.Has(err, fault.Conflict) {
						t.Errorf("a second Import with the id: %v", err)
					}
					if err := d.Destroy(t.Context(), id); err != nil {
						t.Errorf("Destroy: %v", err)
					}
				}
			}
		}
		if _, err := d.Import(t.Context(), newID(), k.Name, k.Purposes[0], material[1:], false); !fault.Has(err, fault.BadImport) {
			t.Errorf("Import of no key: %v", err)
		}
	}
}

func listAll(t *testing.T, d *device) {
	want := map[ID]backend.Algorithm{}
	for _, a := range []backend.Algorithm{backend.HMACSHA256, backend.AES256KWP, backend.RSA2048} {
		k, _ := kindOf(a)
		id := newID()
		if _, err := d.Generate(t.Context(), id, a, k.Purposes[0], false); err != nil {
			t.Fatalf("Generate: %v", err)
		}
		want[id] = a
	}
	objects, err := d.List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	got := map[ID]backend.Algorithm{}
	for _, o := range objects {
		got[o.ID] = o.Algorithm
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List:\n%s", diff)
	}
	for id := range want {
		if err := d.Destroy(t.Context(), id); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
}
