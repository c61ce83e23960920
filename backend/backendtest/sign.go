package backendtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/pqc"
)

var signHashes = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}

// variants lists the choices that a key of the kind has.
func variants(k kind) []backend.SignOpts {
	switch k.Info.Family {
	case backend.FamilyEdDSA:
		return []backend.SignOpts{{}}
	case backend.FamilyComposite:
		return []backend.SignOpts{{}, {Context: "context"}}
	case backend.FamilySLHDSA:
		return []backend.SignOpts{{Context: "context"}}
	case backend.FamilyMLDSA:
		return []backend.SignOpts{{}, {Context: "context"}, {Deterministic: true}, {Hash: crypto.SHA512, Context: strings.Repeat("x", 255)}}
	}
	paddings := []backend.Padding{""}
	if k.Info.Family == backend.FamilyRSA {
		paddings = []backend.Padding{backend.PaddingPSS, backend.PaddingPKCS1v15}
	}
	var out []backend.SignOpts
	for _, p := range paddings {
		for _, h := range signHashes {
			out = append(out, backend.SignOpts{Hash: h, Padding: p})
		}
	}
	return out
}

func (s *suite) testSign(t *testing.T) {
	for _, k := range s.every() {
		if k.Purpose != backend.PurposeSigning || RaceDetector && slow(k.Info) {
			continue // the detector makes seconds of tenths; all sets sign in the run without it
		}
		t.Run(string(k.Algorithm), func(t *testing.T) {
			if k.Info.Family == backend.FamilySLHDSA {
				s.signSlowly(t, k)
				return
			}
			signer := s.key(t, k).(backend.Signer)
			for _, o := range variants(k) {
				checkSigner(t, k, signer, o)
			}
			refuseSign(t, k, signer)
			m := fresh(t, k.Info)
			key, ok := s.imported(t, k, m.bytes)
			if !ok {
				return
			}
			known := key.(backend.Signer)
			if !bytes.Equal(spki(t, known.Public()), m.public) {
				t.Error("an imported key has another public key")
			}
			for _, o := range variants(k) {
				checkSigner(t, k, known, o)
				checkDeterministic(t, m, known, o)
			}
		})
	}
}

// checkSigner signs and lets the standard library verify.
func checkSigner(t *testing.T, k kind, signer backend.Signer, o backend.SignOpts) {
	t.Helper()
	inputs := [][]byte{{}, {0}, random(t, 1000), random(t, 1<<16)}
	if o.Hash != 0 {
		inputs = [][]byte{make([]byte, o.Hash.Size()), bytes.Repeat([]byte{0xff}, o.Hash.Size()), random(t, o.Hash.Size())}
	}
	for _, in := range inputs {
		sig, err := signer.Sign(t.Context(), in, o)
		if err != nil {
			t.Errorf("Sign %v %s: %v", o.Hash, o.Padding, err)
			continue
		}
		if !stdVerify(t, signer.Public(), in, o, sig) {
			t.Errorf("%s: the standard library refuses a signature with %v %s of %d bytes", k.Algorithm, o.Hash, o.Padding, len(in))
		}
		other := append(bytes.Clone(in), 1)
		if o.Hash != 0 {
			other = flip(in, 0) // a curve takes the leftmost bits only
		}
		if stdVerify(t, signer.Public(), other, o, sig) {
			t.Error("the judge takes any input")
		}
	}
}

// stdVerify is the judge.
func stdVerify(t testing.TB, pub crypto.PublicKey, in []byte, o backend.SignOpts, sig []byte) bool {
	t.Helper()
	switch p := pub.(type) {
	case *rsa.PublicKey:
		if o.Padding == backend.PaddingPKCS1v15 {
			return rsa.VerifyPKCS1v15(p, o.Hash, in, sig) == nil
		}
		return rsa.VerifyPSS(p, o.Hash, in, sig, &rsa.PSSOptions{SaltLength: o.Hash.Size()}) == nil
	case *ecdsa.PublicKey:
		n := (p.Curve.Params().BitSize + 7) / 8
		if len(sig) != 2*n {
			t.Errorf("signature of %d bytes, r ‖ s of the curve has %d", len(sig), 2*n)
			return false
		}
		return ecdsa.Verify(p, in, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
	case ed25519.PublicKey:
		return ed25519.Verify(p, in, sig)
	case ed448.PublicKey:
		return ed448.Verify(p, in, sig, "")
	case *pqc.PublicKey:
		return pqVerify(t, p, in, o, sig)
	}
	t.Fatalf("public key %T", pub)
	return false
}

// checkDeterministic compares with the standard library where a scheme has one right answer.
func checkDeterministic(t *testing.T, m material, signer backend.Signer, o backend.SignOpts) {
	t.Helper()
	in := random(t, 64)
	if o.Hash != 0 {
		in = in[:o.Hash.Size()]
	}
	var right []byte
	switch {
	case m.ed != nil:
		right = ed25519.Sign(m.ed, in)
	case m.ed448 != nil:
		right = ed448.Sign(m.ed448, in, "")
	case m.rsa != nil && o.Padding == backend.PaddingPKCS1v15:
		var err error
		if right, err = rsa.SignPKCS1v15(nil, m.rsa, o.Hash, in); err != nil {
			t.Fatal(err)
		}
	default:
		return
	}
	got, err := signer.Sign(t.Context(), in, o)
	if err != nil || !bytes.Equal(got, right) {
		t.Errorf("signature with %v %s is not the standard library's (%v)", o.Hash, o.Padding, err)
	}
}

// refuseSign asks for what no key may do.
func refuseSign(t *testing.T, k kind, signer backend.Signer) {
	t.Helper()
	refuse := func(code fault.Code, n int, o backend.SignOpts) {
		t.Helper()
		sig, err := signer.Sign(t.Context(), make([]byte, n), o)
		want(t, fmt.Sprintf("Sign of %d bytes with hash %d, padding %q", n, o.Hash, o.Padding), err, code)
		if sig != nil {
			t.Error("a signature came out beside an error")
		}
	}
	switch k.Info.Family {
	case backend.FamilyMLDSA, backend.FamilyComposite:
		refuse(fault.BadField, 32, backend.SignOpts{Padding: backend.PaddingPSS})
		refuse(fault.BadField, 20, backend.SignOpts{Hash: crypto.SHA1})
		refuse(fault.BadSize, 32, backend.SignOpts{Context: strings.Repeat("x", 256)})
		if k.Info.Family == backend.FamilyComposite {
			refuse(fault.BadField, 32, backend.SignOpts{Hash: crypto.SHA256})
			refuse(fault.BadField, 64, backend.SignOpts{ExternalMu: true})
			return
		}
		refuse(fault.BadSize, 31, backend.SignOpts{Hash: crypto.SHA256})
		refuse(fault.BadSize, 63, backend.SignOpts{ExternalMu: true})
		refuse(fault.BadField, 64, backend.SignOpts{ExternalMu: true, Context: "context"})
		return
	}
	for _, o := range []backend.SignOpts{{Context: "context"}, {Deterministic: true}, {ExternalMu: true}} {
		n := 32
		if k.Info.Family != backend.FamilyEdDSA {
			o.Hash = crypto.SHA256
		}
		if k.Info.Family == backend.FamilyRSA {
			o.Padding = backend.PaddingPSS
		}
		refuse(fault.BadField, n, o)
	}
	if k.Info.Family == backend.FamilyEdDSA {
		refuse(fault.BadField, 32, backend.SignOpts{Hash: crypto.SHA256})
		refuse(fault.BadField, 64, backend.SignOpts{Hash: crypto.SHA512})
		refuse(fault.BadField, 32, backend.SignOpts{Padding: backend.PaddingPSS})
		return
	}
	paddings := []backend.Padding{""}
	wrong := []backend.Padding{backend.PaddingPSS, backend.PaddingPKCS1v15, "none"}
	if k.Info.Family == backend.FamilyRSA {
		paddings, wrong = wrong[:2], []backend.Padding{"", "none", "PSS"}
	}
	for _, h := range signHashes {
		for _, p := range paddings {
			for _, n := range []int{0, 1, h.Size() - 1, h.Size() + 1, 20, 1000} {
				refuse(fault.BadSize, n, backend.SignOpts{Hash: h, Padding: p})
			}
		}
		for _, p := range wrong {
			refuse(fault.BadField, h.Size(), backend.SignOpts{Hash: h, Padding: p})
		}
	}
	for h, n := range map[crypto.Hash]int{0: 32, crypto.MD5: 16, crypto.SHA1: 20, crypto.MD5SHA1: 36, crypto.SHA224: 28, 99: 32} {
		for _, p := range paddings {
			refuse(fault.BadField, n, backend.SignOpts{Hash: h, Padding: p})
		}
	}
}
