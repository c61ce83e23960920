package backendtest

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
)

// Bench measures an open backend: for each advertised kind of key its making (RSA aside), its loading, and each operation, on
// 32 bytes where a size is to choose, as one caller and as many.
func Bench(b *testing.B, be backend.Backend) {
	b.Helper()
	s := &suite{b: be, info: be.Info(), refs: map[refKey]backend.Ref{}, tenant: uuid.New()}
	for _, k := range s.kinds() {
		b.Run(k.String(), func(b *testing.B) {
			if k.Info.Family != backend.FamilyRSA {
				b.Run("generate", func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						ref := s.generate(b, s.spec(k))
						if err := be.Destroy(b.Context(), ref); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			ref := s.ref(b, k)
			b.Run("load", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					key, err := be.Load(b.Context(), ref)
					if err != nil {
						b.Fatal(err)
					}
					if err := key.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
			for name, op := range operationsOf(b, k, load(b, be, ref)) {
				b.Run(name, func(b *testing.B) { benchOne(b, op) })
				b.Run(name+"-parallel", func(b *testing.B) { benchParallel(b, op) })
			}
		})
	}
}

func benchOne(b *testing.B, op func(context.Context) error) {
	b.ReportAllocs()
	for b.Loop() {
		if err := op(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func benchParallel(b *testing.B, op func(context.Context) error) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := op(b.Context()); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
