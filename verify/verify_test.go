package verify_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"math/big"
	"testing"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/verify"
)

// signatures of one message by each kind of key that is quick to make.
type signed struct {
	alg   backend.Algorithm
	pub   crypto.PublicKey
	input []byte
	opts  backend.SignOpts
	p1363 bool
	sig   []byte
}

func someSigned(t *testing.T) map[string]signed {
	t.Helper()
	digest := sha256.Sum256([]byte("message"))
	out := map[string]signed{}

	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	h := crypto.SHA256
	pss, err := rsa.SignPSS(rand.Reader, rsaKey, h, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	check(t, err)
	pkcs1, err := rsa.SignPKCS1v15(nil, rsaKey, h, digest[:])
	check(t, err)
	out["pss"] = signed{backend.RSA2048, &rsaKey.PublicKey, digest[:], backend.SignOpts{Hash: h, Padding: backend.PaddingPSS}, false, pss}
	out["pkcs1"] = signed{backend.RSA2048, &rsaKey.PublicKey, digest[:], backend.SignOpts{Hash: h, Padding: backend.PaddingPKCS1v15}, false, pkcs1}

	ecKey, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	check(t, err)
	der, err := ecdsa.SignASN1(rand.Reader, ecKey, digest[:])
	check(t, err)
	r, s, err := ecdsa.Sign(rand.Reader, ecKey, digest[:])
	check(t, err)
	p1363 := append(r.FillBytes(make([]byte, 66)), s.FillBytes(make([]byte, 66))...)
	out["der"] = signed{backend.ECDSAP521, &ecKey.PublicKey, digest[:], backend.SignOpts{Hash: h}, false, der}
	out["p1363"] = signed{backend.ECDSAP521, &ecKey.PublicKey, digest[:], backend.SignOpts{Hash: h}, true, p1363}

	edPub, edKey, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	out["ed25519"] = signed{backend.Ed25519, edPub, []byte("message"), backend.SignOpts{}, false, ed25519.Sign(edKey, []byte("message"))}
	goldPub, goldKey, err := ed448.GenerateKey(rand.Reader)
	check(t, err)
	out["ed448"] = signed{backend.Ed448, goldPub, []byte("message"), backend.SignOpts{}, false, ed448.Sign(goldKey, []byte("message"), "")}
	return out
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSignature: each signature is valid as it is, and not with anything about it changed.
func TestSignature(t *testing.T) {
	all := someSigned(t)
	for name, s := range all {
		t.Run(name, func(t *testing.T) {
			is := func(what string, want bool, c signed) {
				t.Helper()
				got, err := verify.Signature(c.pub, c.alg, c.input, c.opts, c.p1363, c.sig)
				if err != nil || got != want {
					t.Errorf("%s: %v %v, want %v", what, got, err, want)
				}
			}
			is("the signature", true, s)
			for i := range s.sig {
				c := s
				c.sig = bytes.Clone(s.sig)
				c.sig[i] ^= 0x10
				is("a flipped bit", false, c)
				c.sig = s.sig[:i]
				is("a cut signature", false, c)
			}
			c := s
			c.sig = append(bytes.Clone(s.sig), 0)
			is("a byte more", false, c)
			c.sig = append([]byte{0}, s.sig...)
			is("a byte before", false, c)
			c.sig = nil
			is("nothing", false, c)
			c = s
			c.input = bytes.Clone(s.input)
			c.input[0] ^= 1
			is("another input", false, c)
			if s.alg == backend.ECDSAP521 {
				c = s
				c.p1363 = !s.p1363
				is("the other encoding", false, c)
			}
			if s.alg == backend.RSA2048 {
				c = s
				c.opts.Padding = map[backend.Padding]backend.Padding{
					backend.PaddingPSS: backend.PaddingPKCS1v15, backend.PaddingPKCS1v15: backend.PaddingPSS,
				}[s.opts.Padding]
				is("the other padding", false, c)
			}
		})
	}
}

// TestP1363Range: r and s of 0 and of the order are wrong, whatever else holds.
func TestP1363Range(t *testing.T) {
	s := someSigned(t)["p1363"]
	n := elliptic.P521().Params().N.FillBytes(make([]byte, 66))
	for _, part := range [][]byte{make([]byte, 66), n, bytes.Repeat([]byte{0xff}, 66)} {
		for _, sig := range [][]byte{append(bytes.Clone(part), s.sig[66:]...), append(bytes.Clone(s.sig[:66]), part...), append(bytes.Clone(part), part...)} {
			if ok, err := verify.Signature(s.pub, s.alg, s.input, s.opts, true, sig); ok || err != nil {
				t.Errorf("valid %v, %v", ok, err)
			}
		}
	}
}

// TestSaltLength: only a salt as long as the hash is right.
func TestSaltLength(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	digest := sha256.Sum256([]byte("message"))
	for _, n := range []int{1, 20, 31, 32, 33, rsa.PSSSaltLengthAuto} {
		sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: n})
		check(t, err)
		o := backend.SignOpts{Hash: crypto.SHA256, Padding: backend.PaddingPSS}
		if ok, err := verify.Signature(&key.PublicKey, backend.RSA2048, digest[:], o, false, sig); err != nil || ok != (n == 32) {
			t.Errorf("salt of %d bytes: %v %v", n, ok, err)
		}
	}
}

func TestSignatureRefuses(t *testing.T) {
	all := someSigned(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	check(t, err)
	change := func(name string, f func(*signed)) signed {
		c := all[name]
		f(&c)
		return c
	}
	for what, c := range map[string]struct {
		signed
		code fault.Code
	}{
		"no algorithm":            {change("pss", func(s *signed) { s.alg = "" }), fault.BadAlgorithm},
		"one that does not sign":  {change("pss", func(s *signed) { s.alg = backend.AES256GCM }), fault.BadAlgorithm},
		"agreement":               {change("der", func(s *signed) { s.alg = backend.ECDHP521 }), fault.BadAlgorithm},
		"SHA-1":                   {change("pkcs1", func(s *signed) { s.opts.Hash = crypto.SHA1; s.input = make([]byte, 20) }), fault.BadField},
		"no hash":                 {change("der", func(s *signed) { s.opts.Hash = 0 }), fault.BadField},
		"an unknown hash":         {change("der", func(s *signed) { s.opts.Hash = 99 }), fault.BadField},
		"RSA without padding":     {change("pss", func(s *signed) { s.opts.Padding = "" }), fault.BadField},
		"an unknown padding":      {change("pss", func(s *signed) { s.opts.Padding = "raw" }), fault.BadField},
		"ECDSA with padding":      {change("der", func(s *signed) { s.opts.Padding = backend.PaddingPSS }), fault.BadField},
		"Ed25519 with hash":       {change("ed25519", func(s *signed) { s.opts.Hash = crypto.SHA512 }), fault.BadField},
		"Ed448 with padding":      {change("ed448", func(s *signed) { s.opts.Padding = backend.PaddingPSS }), fault.BadField},
		"P1363 for RSA":           {change("pss", func(s *signed) { s.p1363 = true }), fault.BadField},
		"P1363 for Ed25519":       {change("ed25519", func(s *signed) { s.p1363 = true }), fault.BadField},
		"a short digest":          {change("der", func(s *signed) { s.input = s.input[:31] }), fault.BadSize},
		"a long digest":           {change("pss", func(s *signed) { s.input = make([]byte, 33) }), fault.BadSize},
		"no digest":               {change("pkcs1", func(s *signed) { s.input = nil }), fault.BadSize},
		"another RSA size":        {change("pss", func(s *signed) { s.alg = backend.RSA3072 }), fault.KeyMaterial},
		"another curve":           {change("der", func(s *signed) { s.alg = backend.ECDSAP256 }), fault.KeyMaterial},
		"RSA-1024":                {change("pss", func(s *signed) { s.pub = &weak.PublicKey }), fault.KeyMaterial},
		"no key":                  {change("pss", func(s *signed) { s.pub = nil }), fault.KeyMaterial},
		"a nil RSA key":           {change("pss", func(s *signed) { s.pub = (*rsa.PublicKey)(nil) }), fault.KeyMaterial},
		"an empty RSA key":        {change("pss", func(s *signed) { s.pub = &rsa.PublicKey{} }), fault.KeyMaterial},
		"a nil ECDSA key":         {change("der", func(s *signed) { s.pub = (*ecdsa.PublicKey)(nil) }), fault.KeyMaterial},
		"an empty ECDSA key":      {change("der", func(s *signed) { s.pub = &ecdsa.PublicKey{} }), fault.KeyMaterial},
		"an RSA key for ECDSA":    {change("der", func(s *signed) { s.pub = all["pss"].pub }), fault.KeyMaterial},
		"an Ed25519 key for 448":  {change("ed448", func(s *signed) { s.pub = all["ed25519"].pub }), fault.KeyMaterial},
		"a short Ed25519 key":     {change("ed25519", func(s *signed) { s.pub = make(ed25519.PublicKey, 31) }), fault.KeyMaterial},
		"a long Ed448 key":        {change("ed448", func(s *signed) { s.pub = make(ed448.PublicKey, 58) }), fault.KeyMaterial},
		"a private key":           {change("ed25519", func(s *signed) { s.pub = make(ed25519.PrivateKey, 64) }), fault.KeyMaterial},
		"an RSA key by its value": {change("pss", func(s *signed) { s.pub = *s.pub.(*rsa.PublicKey) }), fault.KeyMaterial},
	} {
		ok, err := verify.Signature(c.pub, c.alg, c.input, c.opts, c.p1363, c.sig)
		var f *fault.Error
		if ok || !errors.As(err, &f) || f.Code != c.code {
			t.Errorf("%s: %v %v, want %s", what, ok, err, c.code)
		}
	}
}

func TestEncryptOAEP(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	for h, limit := range map[crypto.Hash]int{crypto.SHA1: 214, crypto.SHA256: 190, crypto.SHA384: 158, crypto.SHA512: 126} {
		if n, err := verify.MaxOAEP(&key.PublicKey, h); err != nil || n != limit {
			t.Errorf("MaxOAEP with %v: %d %v, want %d", h, n, err, limit)
		}
		for _, n := range []int{0, 1, limit} {
			plaintext := bytes.Repeat([]byte{7}, n)
			ct, err := verify.EncryptOAEP(&key.PublicKey, h, []byte("label"), plaintext)
			if err != nil || len(ct) != 256 {
				t.Fatalf("EncryptOAEP with %v of %d bytes: %d bytes, %v", h, n, len(ct), err)
			}
			back, err := rsa.DecryptOAEP(h.New(), nil, key, ct, []byte("label"))
			if err != nil || !bytes.Equal(back, plaintext) {
				t.Errorf("the standard library does not decrypt %v of %d bytes: %v", h, n, err)
			}
		}
		_, err := verify.EncryptOAEP(&key.PublicKey, h, nil, make([]byte, limit+1))
		if !fault.Has(err, fault.BadSize) {
			t.Errorf("a plaintext too long with %v: %v", h, err)
		}
	}
	weak := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537}
	for what, c := range map[string]struct {
		pub  crypto.PublicKey
		hash crypto.Hash
		code fault.Code
	}{
		"no key":         {nil, crypto.SHA256, fault.KeyMaterial},
		"a nil key":      {(*rsa.PublicKey)(nil), crypto.SHA256, fault.KeyMaterial},
		"an empty key":   {&rsa.PublicKey{}, crypto.SHA256, fault.KeyMaterial},
		"RSA-1024":       {weak, crypto.SHA256, fault.KeyMaterial},
		"an exponent 0":  {&rsa.PublicKey{N: key.N}, crypto.SHA256, fault.KeyMaterial},
		"an Ed25519 key": {make(ed25519.PublicKey, 32), crypto.SHA256, fault.KeyMaterial},
		"MD5":            {&key.PublicKey, crypto.MD5, fault.BadField},
		"no hash":        {&key.PublicKey, 0, fault.BadField},
	} {
		ct, err := verify.EncryptOAEP(c.pub, c.hash, nil, []byte("plaintext"))
		if ct != nil || !fault.Has(err, c.code) {
			t.Errorf("%s: %d bytes, %v, want %s", what, len(ct), err, c.code)
		}
	}
}

// FuzzSignature: no input makes a wrong signature right, an error or a panic.
func FuzzSignature(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	edPub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	goldPub, _, err := ed448.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{0x30, 6, 2, 1, 1, 2, 1, 1}, []byte("input"))
	f.Add(make([]byte, 64), []byte{})
	f.Add(make([]byte, 114), []byte("input"))
	f.Fuzz(func(t *testing.T, sig, input []byte) {
		digest := sha256.Sum256(input)
		o := backend.SignOpts{Hash: crypto.SHA256}
		for _, c := range []signed{
			{backend.ECDSAP256, &key.PublicKey, digest[:], o, false, sig},
			{backend.ECDSAP256, &key.PublicKey, digest[:], o, true, sig},
			{backend.Ed25519, edPub, input, backend.SignOpts{}, false, sig},
			{backend.Ed448, goldPub, input, backend.SignOpts{}, false, sig},
		} {
			if ok, err := verify.Signature(c.pub, c.alg, c.input, c.opts, c.p1363, c.sig); ok || err != nil {
				t.Errorf("%s: %v %v", c.alg, ok, err)
			}
		}
	})
}
