package pqc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	stdmlkem "crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"filippo.io/mldsa"
	"filippo.io/mldsa/mldsacrypto"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
)

// loop runs f in b's loop and fails on its error.
func loop(b *testing.B, f func() error) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		if err := f(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecapsulate sets this package beside circl called directly and the standard library.
func BenchmarkDecapsulate(b *testing.B) {
	for _, name := range []string{MLKEM512, MLKEM768, MLKEM1024, XWing, DHKEMP256, DHKEMX25519, DHKEMX448} {
		k := newKey(b, name)
		ct, _, err := k.PublicKey().Encapsulate()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) { loop(b, func() error { return second(k.Decapsulate(ct)) }) })
		if name != MLKEM768 {
			continue
		}
		_, sk := mlkem768.NewKeyFromSeed(k.Seed())
		b.Run(name+"/circl", func(b *testing.B) {
			loop(b, func() error { return second(mlkem768.Scheme().Decapsulate(sk, ct)) })
		})
		dk, err := stdmlkem.NewDecapsulationKey768(k.Seed())
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/stdlib", func(b *testing.B) { loop(b, func() error { return second(dk.Decapsulate(ct)) }) })
	}
}

func BenchmarkEncapsulate(b *testing.B) {
	for _, name := range []string{MLKEM512, MLKEM768, MLKEM1024, XWing} {
		p := newKey(b, name).PublicKey()
		b.Run(name, func(b *testing.B) {
			loop(b, func() error { _, _, err := p.Encapsulate(); return err })
		})
	}
}

// BenchmarkSign sets this package beside circl called directly, filippo.io/mldsa, and ECDSA.
func BenchmarkSign(b *testing.B) {
	message := make([]byte, 32)
	for _, name := range []string{MLDSA44, MLDSA65, MLDSA87, MLDSA65P256, MLDSA65Ed25519, SLHDSASHA2128f} {
		k := newKey(b, name)
		b.Run(name, func(b *testing.B) { loop(b, func() error { return second(k.Sign(message, SignOptions{})) }) })
		if name != MLDSA65 {
			continue
		}
		_, sk := mldsa65.NewKeyFromSeed((*[32]byte)(k.Seed()))
		sig := make([]byte, mldsa65.SignatureSize)
		b.Run(name+"/circl", func(b *testing.B) { loop(b, func() error { return mldsa65.SignTo(sk, message, nil, true, sig) }) })
		judge, err := mldsa.NewPrivateKey(mldsa.MLDSA65(), k.Seed())
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/filippo", func(b *testing.B) { loop(b, func() error { return second(judge.Sign(nil, message, nil)) }) })
		mu := make([]byte, MuSize)
		b.Run(name+"/mu", func(b *testing.B) {
			loop(b, func() error { return second(k.Sign(mu, SignOptions{ExternalMu: true})) })
		})
		b.Run(name+"/mu-filippo", func(b *testing.B) {
			loop(b, func() error { return second(judge.Sign(nil, mu, mldsacrypto.MLDSAMu)) })
		})
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ECDSA-P256", func(b *testing.B) {
		loop(b, func() error {
			digest := sha256.Sum256(message)
			return second(ecdsa.SignASN1(rand.Reader, k, digest[:]))
		})
	})
}

func BenchmarkVerify(b *testing.B) {
	message := make([]byte, MuSize)
	for _, name := range []string{MLDSA44, MLDSA65, MLDSA87, MLDSA65P256, SLHDSASHA2128s, SLHDSASHA2128f} {
		k := newKey(b, name)
		sig, err := k.Sign(message, SignOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			loop(b, func() error { return second(k.PublicKey().Verify(message, sig, SignOptions{})) })
		})
	}
	k := newKey(b, MLDSA65)
	sig, err := k.Sign(message, SignOptions{ExternalMu: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Run(MLDSA65+"/mu", func(b *testing.B) {
		loop(b, func() error { return second(k.PublicKey().Verify(message, sig, SignOptions{ExternalMu: true})) })
	})
}

// BenchmarkOpen is what a use of a sealed key costs that is not in the cache.
func BenchmarkOpen(b *testing.B) {
	for _, a := range quickAlgorithms() {
		k := newKey(b, a.Name())
		seed, public := k.Seed(), k.PublicKey().Bytes()
		b.Run(a.Name(), func(b *testing.B) { loop(b, func() error { return second(a.OpenPrivateKey(seed, public)) }) })
	}
}
