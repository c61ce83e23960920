package device_test

import (
	"context"
	"crypto/sha256"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm/device"
)

// straight is a TPM with nothing between.
type straight struct {
	c   net.Conn
	buf [4096]byte
}

func (s *straight) Send(command []byte) ([]byte, error) {
	if _, err := s.c.Write(command); err != nil {
		return nil, err
	}
	n, err := s.c.Read(s.buf[:])
	return s.buf[:n:n], err
}

var _ transport.TPM = (*straight)(nil)

// BenchmarkSign compares P-256 signatures through Do with the same command, prepared once and written straight to the socket; and with
// what a program without a session, and one that loads and flushes for each signature, gets.
func BenchmarkSign(b *testing.B) {
	m := rig.SWTPM(b)
	digest := sha256.Sum256([]byte("data"))
	var k, other key
	run := func(b *testing.B, keep int, how func(key, context.Context, *device.Device, []byte) ([]byte, []byte, error), keys ...*key) {
		d, err := device.Open(b.Context(), device.Options{URI: uri(b, m.URI), KeepLoaded: keep})
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		for _, k := range keys {
			if k.auth == nil {
				*k = signingKey(b, d)
			}
		}
		i := 0
		b.ReportAllocs()
		for b.Loop() {
			i++
			if _, _, err := how(*keys[i%len(keys)], b.Context(), d, digest[:]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("do", func(b *testing.B) { run(b, 0, key.sign, &k) })
	b.Run("do-run", func(b *testing.B) { run(b, 0, key.run, &k) })
	b.Run("do-two-keys", func(b *testing.B) { run(b, 0, key.sign, &k, &other) })
	b.Run("do-loading", func(b *testing.B) { run(b, -1, key.sign, &k) })
	b.Run("straight", func(b *testing.B) {
		s := connect(b, m)
		defer s.c.Close()
		h, flush := s.load(b, k)
		defer flush()
		for b.Loop() {
			if _, err := (tpm2.Sign{KeyHandle: tpm2.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: tpm2.PasswordAuth(k.auth[:4])},
				Digest:     tpm2.TPM2BDigest{Buffer: digest[:]},
				Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}.Execute(s)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("straight-octets", func(b *testing.B) {
		s := connect(b, m)
		defer s.c.Close()
		h, flush := s.load(b, k)
		defer flush()
		last := &keeping{s: s}
		if _, err := (tpm2.Sign{KeyHandle: tpm2.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: tpm2.PasswordAuth(k.auth[:4])},
			Digest:     tpm2.TPM2BDigest{Buffer: digest[:]},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}.Execute(last)); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			rsp, err := s.Send(last.command)
			if err != nil || rsp[9] != 0 {
				b.Fatal(err, rsp)
			}
		}
	})
	b.Run("straight-loading", func(b *testing.B) {
		s := connect(b, m)
		defer s.c.Close()
		p, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(s)
		if err != nil {
			b.Fatal(err)
		}
		defer tpm2.FlushContext{FlushHandle: p.ObjectHandle}.Execute(s)
		for b.Loop() {
			h, err := tpm2.Load{ParentHandle: tpm2.NamedHandle{Handle: p.ObjectHandle, Name: p.Name}, InPrivate: k.private, InPublic: k.public}.Execute(s)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := (tpm2.Sign{KeyHandle: tpm2.AuthHandle{Handle: h.ObjectHandle, Name: h.Name, Auth: tpm2.PasswordAuth(k.auth[:4])},
				Digest:     tpm2.TPM2BDigest{Buffer: digest[:]},
				Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}.Execute(s)); err != nil {
				b.Fatal(err)
			}
			if _, err := (tpm2.FlushContext{FlushHandle: h.ObjectHandle}).Execute(s); err != nil {
				b.Fatal(err)
			}
		}
	})
}

type keeping struct {
	s       *straight
	command []byte
}

func (k *keeping) Send(command []byte) ([]byte, error) {
	k.command = command
	return k.s.Send(command)
}

func connect(t testing.TB, m *rig.TPM) *straight {
	t.Helper()
	c, err := net.Dial(m.Address())
	if err != nil {
		t.Fatal(err)
	}
	return &straight{c: c}
}

// load loads the key without a session. The function flushes it and its parent.
func (s *straight) load(t testing.TB, k key) (tpm2.NamedHandle, func()) {
	t.Helper()
	p, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(s)
	if err != nil {
		t.Fatal(err)
	}
	h, err := tpm2.Load{ParentHandle: tpm2.NamedHandle{Handle: p.ObjectHandle, Name: p.Name}, InPrivate: k.private, InPublic: k.public}.Execute(s)
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.NamedHandle{Handle: h.ObjectHandle, Name: h.Name}, func() {
		for _, h := range []tpm2.TPMHandle{h.ObjectHandle, p.ObjectHandle} {
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(s); err != nil {
				t.Error(err)
			}
		}
	}
}

// BenchmarkRatio reports how much of the time of a signature the TPM had the commands: the rate through Do over the rate of the same
// commands sent straight. Medians, because the machine is not the benchmark's alone.
func BenchmarkRatio(b *testing.B) {
	d := open(b, device.Options{URI: uri(b, rig.SWTPM(b).URI)})
	k, digest := signingKey(b, d), sha256.Sum256([]byte("data"))
	for name, sign := range map[string]func(tx *device.Tx, digest []byte) (r, s []byte, err error){"run": k.runIn, "execute": k.signIn} {
		b.Run(name, func(b *testing.B) {
			var all, tpm []time.Duration
			for b.Loop() {
				var spent time.Duration
				start := time.Now()
				err := d.Do(b.Context(), "sign", func(tx *device.Tx) error {
					_, _, err := sign(tx, digest[:])
					spent = tx.Spent()
					return err
				})
				all, tpm = append(all, time.Since(start)), append(tpm, spent)
				if err != nil {
					b.Fatal(err)
				}
			}
			slices.Sort(all)
			slices.Sort(tpm)
			b.ReportMetric(tpm[len(tpm)/2].Seconds()/all[len(all)/2].Seconds(), "ratio")
			b.ReportMetric(all[len(all)/2].Seconds()*1e6, "median-µs")
		})
	}
}

// BenchmarkSlowed is 64 callers on a TPM that takes 100 ms longer for a signature: the rate over that of one caller without a queue.
func BenchmarkSlowed(b *testing.B) {
	const callers, span = 64, 10 * time.Second
	m := rig.SWTPM(b)
	p := m.Proxy(b)
	d := open(b, device.Options{URI: uri(b, p.URI)})
	k, digest := signingKey(b, d), sha256.Sum256([]byte("data"))
	p.Slow(uint32(tpm2.TPMCCSign), 100*time.Millisecond)
	for b.Loop() {
		start, alone := time.Now(), 0
		for ; time.Since(start) < span/3; alone++ {
			if _, _, err := k.run(b.Context(), d, digest[:]); err != nil {
				b.Fatal(err)
			}
		}
		each := time.Since(start) / time.Duration(alone)
		var signed, refused, other atomic.Int64
		var running sync.WaitGroup
		start = time.Now()
		for range callers {
			running.Go(func() {
				for time.Since(start) < span {
					ctx, cancel := context.WithTimeout(b.Context(), 2*time.Second)
					_, _, err := k.run(ctx, d, digest[:])
					cancel()
					switch {
					case err == nil:
						signed.Add(1)
					case fault.Has(err, fault.Overloaded):
						refused.Add(1)
						time.Sleep(100 * time.Millisecond)
					default:
						other.Add(1)
					}
				}
			})
		}
		running.Wait()
		b.ReportMetric(float64(signed.Load())*each.Seconds()/time.Since(start).Seconds(), "of-the-device's-rate")
		b.ReportMetric(float64(signed.Load()), "signed")
		b.ReportMetric(float64(refused.Load()), "refused")
		b.ReportMetric(float64(other.Load()), "other-errors")
	}
}
