package pqc

import (
	"bytes"
	"crypto"
	_ "crypto/md5"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/fault"
)

func signing(t *testing.T) (all []*PrivateKey) {
	t.Helper()
	for _, a := range quickAlgorithms() {
		if a.Info().Kind == KindSignature {
			all = append(all, newKey(t, a.Name()))
		}
	}
	return all
}

func isMLDSA(k *PrivateKey) bool { return strings.HasPrefix(k.Algorithm().Name(), "ML-DSA") }
func isComposite(k *PrivateKey) bool {
	return strings.HasPrefix(k.Algorithm().Name(), "MLDSA")
}

func TestSign(t *testing.T) {
	for _, k := range signing(t) {
		name := k.Algorithm().Name()
		forms := []SignOptions{{}, {Context: []byte("context")}, {Context: make([]byte, MaxContext)}}
		if !isComposite(k) {
			forms = append(forms, SignOptions{PreHash: SHA2x256}, SignOptions{PreHash: SHAKE128, Context: []byte("context")})
		}
		message := []byte("message")
		var sigs [][]byte
		for _, o := range forms {
			sig, err := k.Sign(message, o)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if size := k.Algorithm().Info().SignatureSize; len(sig) > size || len(sig) < size && name != MLDSA65P256 {
				t.Errorf("%s: %d bytes", name, len(sig))
			}
			hedged, err := k.Sign(message, o)
			if err != nil || bytes.Equal(sig, hedged) {
				t.Errorf("%s: hedged signatures are the same: %v", name, err)
			}
			d := o
			d.Deterministic = true
			one, err1 := k.Sign(message, d)
			two, err2 := k.Sign(message, d)
			if err1 != nil || err2 != nil || bytes.Equal(one, two) != (name != MLDSA65P256) || !bytes.Equal(one[:2000], two[:2000]) {
				t.Errorf("%s: deterministic signatures differ: %v, %v", name, err1, err2)
			}
			sigs = append(sigs, sig)
			for _, s := range [][]byte{sig, hedged, one} {
				if ok, err := k.PublicKey().Verify(message, s, o); err != nil || !ok {
					t.Errorf("%s: %v, %v", name, ok, err)
				}
			}
			if ok, err := k.PublicKey().Verify([]byte("massage"), sig, o); err != nil || ok {
				t.Errorf("%s: another message: %v", name, err)
			}
			for _, bad := range [][]byte{nil, sig[1:], sig[:len(sig)-1], append(bytes.Clone(sig), 0), make([]byte, len(sig))} {
				if ok, err := k.PublicKey().Verify(message, bad, o); err != nil || ok {
					t.Errorf("%s: %d bytes taken: %v", name, len(bad), err)
				}
			}
			for _, at := range []int{0, len(sig) / 2, len(sig) - 1} {
				bad := bytes.Clone(sig)
				bad[at] ^= 0x80
				if ok, err := k.PublicKey().Verify(message, bad, o); err != nil || ok {
					t.Errorf("%s: byte %d changed and taken: %v", name, at, err)
				}
			}
		}
		// A signature of one form is none of another.
		for i, sig := range sigs {
			for j, o := range forms {
				if ok, err := k.PublicKey().Verify(message, sig, o); err != nil || ok != (i == j) {
					t.Errorf("%s: form %d taken as %d: %v", name, i, j, err)
				}
			}
		}
	}
}

func TestSignOptions(t *testing.T) {
	mu := make([]byte, MuSize)
	for _, k := range signing(t) {
		name := k.Algorithm().Name()
		for what, c := range map[string]struct {
			message []byte
			o       SignOptions
			want    fault.Code
		}{
			"long context":        {nil, SignOptions{Context: make([]byte, MaxContext+1)}, fault.BadSize},
			"unknown hash":        {nil, SignOptions{PreHash: "MD5"}, fault.BadField},
			"digest, no hash":     {mu, SignOptions{Digest: true}, fault.BadField},
			"digest, wrong size":  {mu, SignOptions{Digest: true, PreHash: SHA2x256}, fault.BadSize},
			"mu with context":     {mu, SignOptions{ExternalMu: true, Context: []byte("c")}, fault.BadField},
			"mu with hash":        {mu, SignOptions{ExternalMu: true, PreHash: SHA2x512}, fault.BadField},
			"mu of another size":  {mu[1:], SignOptions{ExternalMu: true}, fault.BadSize},
			"mu":                  {mu, SignOptions{ExternalMu: true}, fault.BadField},
			"digest":              {mu, SignOptions{Digest: true, PreHash: SHA2x512}, fault.BadField},
			"pre-hashed, deter.":  {mu, SignOptions{Digest: true, PreHash: SHAKE256, Deterministic: true}, fault.BadField},
			"a context of 255":    {nil, SignOptions{Context: make([]byte, MaxContext)}, ""},
			"composite, pre-hash": {nil, SignOptions{PreHash: SHA2x512}, fault.BadField},
		} {
			want := c.want
			if isMLDSA(k) && slices.Contains([]string{"mu", "digest", "pre-hashed, deter."}, what) || what == "composite, pre-hash" && !isComposite(k) {
				want = ""
			}
			sig, err := k.Sign(c.message, c.o)
			if fault.CodeOf(err) != want {
				t.Errorf("%s: %s: sign: %v", name, what, err)
			}
			ok, err := k.PublicKey().Verify(c.message, sig, c.o)
			if fault.CodeOf(err) != want || ok != (want == "") {
				t.Errorf("%s: %s: verify: %v, %v", name, what, ok, err)
			}
		}
		if _, err := k.PublicKey().Mu(nil, SignOptions{}); isMLDSA(k) != (err == nil) || err != nil && !fault.Has(err, fault.OperationNotAllowed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	k := newKey(t, MLDSA44)
	if _, err := k.PublicKey().Mu(mu, SignOptions{ExternalMu: true}); !fault.Has(err, fault.BadField) {
		t.Error(err)
	}
	if _, err := k.PublicKey().Mu(nil, SignOptions{Context: make([]byte, MaxContext+1)}); !fault.Has(err, fault.BadSize) {
		t.Error(err)
	}
}

// TestExternalMu: a signature by mu is the signature of the message, whoever hashed it.
func TestExternalMu(t *testing.T) {
	for _, name := range []string{MLDSA44, MLDSA65, MLDSA87} {
		k := newKey(t, name)
		message := []byte("message")
		for _, o := range []SignOptions{{}, {Context: []byte("c")}, {PreHash: SHA2x384, Context: []byte("c")}, {PreHash: SHA3x256}} {
			mu, err := k.PublicKey().Mu(message, o)
			if err != nil {
				t.Fatal(err)
			}
			o.Deterministic = true
			direct, err1 := k.Sign(message, o)
			byMu, err2 := k.Sign(mu, SignOptions{ExternalMu: true, Deterministic: true})
			if err1 != nil || err2 != nil || !bytes.Equal(direct, byMu) {
				t.Errorf("%s: %v, %v", name, err1, err2)
			}
			if o.PreHash != "" {
				d := o
				d.Digest = true
				if sig, err := k.Sign(o.PreHash.Sum(message), d); err != nil || !bytes.Equal(sig, direct) {
					t.Errorf("%s: by the digest: %v", name, err)
				}
				if ok, err := k.PublicKey().Verify(o.PreHash.Sum(message), direct, d); err != nil || !ok {
					t.Errorf("%s: by the digest: %v", name, err)
				}
			}
		}
	}
}

func TestPreHashes(t *testing.T) {
	seen := map[byte]bool{}
	for p, f := range preHashes {
		if len(p.Sum(nil)) != p.Size() || p.Size() == 0 || !p.known() || seen[f.oid] || len(p.der()) != 11 {
			t.Errorf("%s", p)
		}
		seen[f.oid] = true
		if f.hash != 0 {
			if f.hash.Size() != f.size {
				t.Errorf("%s: %d", p, f.size)
			}
			if got, ok := PreHashOf(f.hash); !ok || got != p {
				t.Errorf("%s: %s", p, got)
			}
		}
	}
	if len(seen) != 12 || PreHash("").Size() != 0 || PreHash("").Sum(nil) != nil || PreHash("MD5").Sum(nil) != nil {
		t.Error("not the twelve")
	}
	for _, h := range []crypto.Hash{0, crypto.MD5, crypto.SHA1} {
		if p, ok := PreHashOf(h); ok {
			t.Errorf("%v: %s", h, p)
		}
	}
}

// FuzzMLDSAVerify: our verification by mu and circl's of the message agree on every signature.
func FuzzMLDSAVerify(f *testing.F) {
	names := []string{MLDSA44, MLDSA65, MLDSA87}
	var keys []*PrivateKey
	for i, name := range names {
		k, err := lookup(f, name).NewPrivateKey(bytes.Repeat([]byte{byte(i)}, 32))
		if err != nil {
			f.Fatal(err)
		}
		keys = append(keys, k)
		sig, err := k.Sign([]byte("message"), SignOptions{Deterministic: true})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), []byte("message"), []byte(nil), uint16(0), byte(0))
		f.Add(byte(i), []byte("message"), []byte("c"), uint16(len(sig)-1), byte(1))  // the hints' counts
		f.Add(byte(i), []byte("message"), []byte("c"), uint16(len(sig)-80), byte(1)) // the hints
		f.Add(byte(i), []byte("message"), []byte("c"), uint16(70), byte(0xff))       // z
	}
	f.Fuzz(func(t *testing.T, which byte, message, context []byte, at uint16, by byte) {
		k := keys[int(which)%len(keys)]
		if len(context) > MaxContext {
			return
		}
		o := SignOptions{Context: context, Deterministic: true}
		sig, err := k.Sign(message, o)
		if err != nil {
			t.Fatal(err)
		}
		sig[int(at)%len(sig)] ^= by
		theirs, err := k.PublicKey().Verify(message, sig, o)
		if err != nil {
			t.Fatal(err)
		}
		mu, err := k.PublicKey().Mu(message, o)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := k.PublicKey().Verify(mu, sig, SignOptions{ExternalMu: true})
		if err != nil || ours != theirs || ours != (by == 0) {
			t.Errorf("ours %v, theirs %v, %v", ours, theirs, err)
		}
	})
}

// FuzzParsePublicKey: no bytes make any algorithm panic, and what is taken is given back.
func FuzzParsePublicKey(f *testing.F) {
	for i, a := range Algorithms() {
		f.Add(byte(i), []byte(nil))
		f.Add(byte(i), bytes.Repeat([]byte{0xff}, a.Info().PublicKeySize))
		f.Add(byte(i), make([]byte, a.Info().PublicKeySize))
	}
	f.Fuzz(func(t *testing.T, which byte, raw []byte) {
		a := table[int(which)%len(table)]
		p, err := a.ParsePublicKey(raw)
		if err != nil {
			if !fault.Has(err, fault.BadImport) {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(p.Bytes(), raw) {
			t.Error("other bytes")
		}
		if a.Info().Kind == KindKEM {
			if _, _, err := p.Encapsulate(); err != nil && !fault.Has(err, fault.BadImport) {
				t.Error(err)
			}
			return
		}
		if ok, err := p.Verify(nil, make([]byte, a.Info().SignatureSize), SignOptions{}); err != nil || ok {
			t.Errorf("%v, %v", ok, err)
		}
	})
}
