package token

import (
	"crypto/rand"
	"fmt"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// BenchmarkUse measures operations through the token and, as "raw", the same calls made straight with the library by as many
// goroutines with a session each.
func BenchmarkUse(b *testing.B) {
	d := openToken(b, rig.SoftHSM(b))
	ctx := b.Context()
	ec, err := d.Generate(ctx, newID(), backend.ECDSAP256, backend.PurposeSigning, false)
	if err != nil {
		b.Fatal(err)
	}
	wrapped, err := d.Generate(ctx, newID(), backend.ECDSAP256, backend.PurposeSigning, true)
	if err != nil {
		b.Fatal(err)
	}
	aes, err := d.Generate(ctx, newID(), backend.AES256GCM, backend.PurposeEncryption, false)
	if err != nil {
		b.Fatal(err)
	}
	digest, text := known(32), known(32)
	gen := d.gen.Load()
	handle := func(id ID, class uint) pkcs11.ObjectHandle {
		var h pkcs11.ObjectHandle
		if err := d.do(ctx, 0, func(s *session) (err error) { h, err = s.lookup(id, class); return err }); err != nil {
			b.Fatal(err)
		}
		return h
	}
	sign, encrypt := handle(ec.ID, pkcs11.CKO_PRIVATE_KEY), handle(aes.ID, pkcs11.CKO_SECRET_KEY)
	lib := d.lib.Ctx
	for _, c := range []struct {
		name string
		call Call
		raw  func(s pkcs11.SessionHandle) error
	}{
		{"ECDSA-P256", Call{Op: Sign, ID: ec.ID, Algorithm: ec.Algorithm, Input: digest}, func(s pkcs11.SessionHandle) error {
			if err := lib.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, sign); err != nil {
				return err
			}
			_, err := lib.Sign(s, digest)
			return err
		}},
		{"ECDSA-P256-wrapped", Call{Op: Sign, ID: wrapped.ID, Algorithm: wrapped.Algorithm, Wrapped: wrapped.Wrapped, Input: digest}, nil},
		{"AES-256-GCM", Call{Op: Encrypt, ID: aes.ID, Algorithm: aes.Algorithm, Input: text}, func(s pkcs11.SessionHandle) error {
			iv := make([]byte, 12)
			rand.Read(iv)
			p := pkcs11.NewGCMParams(iv, nil, 128)
			defer p.Free()
			if err := lib.EncryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}, encrypt); err != nil {
				return err
			}
			_, err := lib.Encrypt(s, text)
			return err
		}},
	} {
		for _, n := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/token/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				each(b, n, func(func()) func() error {
					return func() error { _, err := d.Use(ctx, c.call); return err }
				})
			})
			if c.raw == nil {
				continue
			}
			b.Run(fmt.Sprintf("%s/raw/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				each(b, n, func(fail func()) func() error {
					s, err := lib.OpenSession(gen.description.Slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
					if err != nil {
						fail()
					}
					b.Cleanup(func() { _ = lib.CloseSession(s) })
					return func() error { return c.raw(s) }
				})
			})
		}
	}
}

func each(b *testing.B, n int, worker func(fail func()) func() error) {
	b.Helper()
	var wg sync.WaitGroup
	calls := make([]func() error, n)
	for i := range calls {
		calls[i] = worker(b.FailNow)
	}
	b.ResetTimer()
	for i, call := range calls {
		wg.Go(func() {
			for range b.N/n + min(1, max(0, b.N%n-i)) {
				if err := call(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}
