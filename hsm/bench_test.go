package hsm_test

import (
	"crypto"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// BenchmarkBackend is what the way through a backend costs, with the module in this process and in two of its own.
func BenchmarkBackend(b *testing.B) {
	for name, h := range map[string]how{"in-process": {}, "processes=2": {processes: 2}} {
		b.Run(name, func(b *testing.B) {
			be := h.open(b, "bench", rig.SoftHSM(b))
			defer func() {
				if err := be.Close(); err != nil {
					b.Error(err)
				}
			}()
			load := func(a backend.Algorithm, p backend.Purpose) backend.Key {
				ref, err := be.Generate(b.Context(), spec(a, p))
				if err != nil {
					b.Fatal(err)
				}
				key, err := be.Load(b.Context(), ref)
				if err != nil {
					b.Fatal(err)
				}
				return key
			}
			signer := load(backend.ECDSAP256, backend.PurposeSigning).(backend.Signer)
			aead := load(backend.AES256GCM, backend.PurposeEncryption).(backend.AEAD)
			in := make([]byte, 32)
			measure(b, "sign-p256", func() error {
				_, err := signer.Sign(b.Context(), in, backend.SignOpts{Hash: crypto.SHA256})
				return err
			})
			measure(b, "aes-gcm", func() error {
				_, err := aead.Seal(b.Context(), nil, in, nil)
				return err
			})
		})
	}
}

func measure(b *testing.B, name string, f func() error) {
	b.Run(name+"/callers=1", func(b *testing.B) {
		for b.Loop() {
			if err := f(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run(name+"/callers=16", func(b *testing.B) {
		b.SetParallelism(8) // of two processors
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := f(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// BenchmarkModule is the same straight on the module, each caller with a session of its own.
func BenchmarkModule(b *testing.B) {
	p := rig.SoftHSM(b)
	p.Setenv(b)
	m := pkcs11.New(p.Module)
	if m == nil {
		b.Fatal("the module does not load")
	}
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	must(m.Initialize())
	defer func() { must(m.Finalize()) }()
	slots, err := m.GetSlotList(true)
	must(err)
	session := func() pkcs11.SessionHandle {
		s, err := m.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		must(err)
		return s
	}
	first := session()
	must(m.Login(first, pkcs11.CKU_USER, p.PIN(b)))
	attr := pkcs11.NewAttribute
	_, priv, err := m.GenerateKeyPair(first, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{attr(pkcs11.CKA_EC_PARAMS, []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})},
		[]*pkcs11.Attribute{attr(pkcs11.CKA_SIGN, true), attr(pkcs11.CKA_TOKEN, true), attr(pkcs11.CKA_PRIVATE, true)})
	must(err)
	aes, err := m.GenerateKey(first, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)},
		[]*pkcs11.Attribute{attr(pkcs11.CKA_VALUE_LEN, 32), attr(pkcs11.CKA_ENCRYPT, true), attr(pkcs11.CKA_TOKEN, true), attr(pkcs11.CKA_PRIVATE, true)})
	must(err)
	sessions := make(chan pkcs11.SessionHandle, 16)
	for range cap(sessions) {
		sessions <- session()
	}
	in := make([]byte, 32)
	measure(b, "sign-p256", func() error {
		s := <-sessions
		defer func() { sessions <- s }()
		if err := m.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, priv); err != nil {
			return err
		}
		_, err := m.Sign(s, in)
		return err
	})
	measure(b, "aes-gcm", func() error {
		s := <-sessions
		defer func() { sessions <- s }()
		params := pkcs11.NewGCMParams(in[:12], nil, 128)
		defer params.Free()
		if err := m.EncryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, aes); err != nil {
			return err
		}
		_, err := m.Encrypt(s, in)
		return err
	})
}

// BenchmarkBatch is the same in batches of 100, per item.
func BenchmarkBatch(b *testing.B) {
	for name, h := range map[string]how{"in-process": {}, "processes=2": {processes: 2}} {
		b.Run(name, func(b *testing.B) {
			be := h.open(b, "bench", rig.SoftHSM(b))
			defer func() {
				if err := be.Close(); err != nil {
					b.Error(err)
				}
			}()
			load := func(a backend.Algorithm, p backend.Purpose) backend.Key {
				ref, err := be.Generate(b.Context(), spec(a, p))
				if err != nil {
					b.Fatal(err)
				}
				key, err := be.Load(b.Context(), ref)
				if err != nil {
					b.Fatal(err)
				}
				return key
			}
			signer := load(backend.ECDSAP256, backend.PurposeSigning).(backend.BatchSigner)
			aead := load(backend.AES256GCM, backend.PurposeEncryption).(backend.BatchAEAD)
			items := make([]backend.Item, 100)
			for i := range items {
				items[i].Input = make([]byte, 32)
			}
			perItem := func(name string, f func() ([]backend.Result, error)) {
				measure(b, name, func() error {
					_, err := f()
					return err
				})
			}
			perItem("sign-p256", func() ([]backend.Result, error) {
				return signer.SignMany(b.Context(), items, backend.SignOpts{Hash: crypto.SHA256})
			})
			perItem("aes-gcm", func() ([]backend.Result, error) { return aead.SealMany(b.Context(), items) })
		})
	}
}
