package sealed

import (
	"context"
	"fmt"
	"testing"

	"github.com/keywright/keywright/backend"
)

func BenchmarkLoadHit(b *testing.B) {
	for _, keys := range []int{1, 1000} {
		e, _ := newEngine(b, Options{})
		refs := make([]backend.Ref, keys)
		for i := range refs {
			refs[i] = generate(b, e, spec(backend.AES256GCM, backend.PurposeEncryption))
			load(b, e, refs[i]).Close()
		}
		ctx := context.Background()
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				k, err := e.Load(ctx, refs[i%keys])
				if err != nil {
					b.Fatal(err)
				}
				k.Close()
				i++
			}
		})
		b.Run(fmt.Sprint(keys, "-parallel"), func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					k, err := e.Load(ctx, refs[i%keys])
					if err != nil {
						b.Error(err)
						return
					}
					k.Close()
				}
			})
		})
	}
}

func BenchmarkSeal32(b *testing.B) {
	for _, a := range []backend.Algorithm{backend.AES256GCM, backend.ChaCha20Poly1305} {
		b.Run(string(a), func(b *testing.B) {
			e, _ := newEngine(b, Options{})
			k := load(b, e, generate(b, e, spec(a, backend.PurposeEncryption))).(backend.AEAD)
			defer k.Close()
			plain, dst, ctx := make([]byte, 32), make([]byte, 0, 128), context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.Seal(ctx, dst, plain, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMAC32(b *testing.B) {
	e, _ := newEngine(b, Options{})
	k := load(b, e, generate(b, e, spec(backend.HMACSHA256, backend.PurposeMAC))).(backend.MACer)
	defer k.Close()
	message, ctx := make([]byte, 32), context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.MAC(ctx, message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	for _, a := range []backend.Algorithm{backend.ECDSAP256, backend.Ed25519} {
		b.Run(string(a), func(b *testing.B) {
			e, _ := newEngine(b, Options{})
			info, _ := backend.Lookup(a)
			k := load(b, e, generate(b, e, spec(a, backend.PurposeSigning))).(backend.Signer)
			defer k.Close()
			input, ctx := make([]byte, 32), context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.Sign(ctx, input, backend.SignOpts{Hash: info.Hash}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGenerate(b *testing.B) {
	for _, info := range backend.Algorithms() {
		b.Run(string(info.Name), func(b *testing.B) {
			e, _ := newEngine(b, Options{})
			s := spec(info.Name, info.Purposes[0])
			for b.Loop() {
				generate(b, e, s)
			}
		})
	}
}
