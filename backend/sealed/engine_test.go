package sealed

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// counting is a sealer that counts what it opens.
type counting struct {
	software
	opened atomic.Int32
	broken atomic.Pointer[fault.Error]
}

func (c *counting) Open(ctx context.Context, blob, binding []byte) (secret.Bytes, error) {
	c.opened.Add(1)
	if err := c.broken.Load(); err != nil {
		return nil, err
	}
	return c.software.Open(ctx, blob, binding)
}

func newEngine(t testing.TB, o Options) (*Engine, *counting) {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	s := &counting{software: key}
	if o.Custody == "" {
		o.Custody = backend.CustodySoftware
	}
	e, err := New(s, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e, s
}

func spec(a backend.Algorithm, p backend.Purpose) backend.Spec {
	return backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: a, Purpose: p}
}

func generate(t testing.TB, e *Engine, s backend.Spec) backend.Ref {
	t.Helper()
	ref, err := e.Generate(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func load(t testing.TB, e *Engine, r backend.Ref) backend.Key {
	t.Helper()
	k, err := e.Load(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestNewRefusesNonsense(t *testing.T) {
	if _, err := New(nil, Options{Custody: backend.CustodySealed}); err == nil {
		t.Error("no sealer")
	}
	for _, c := range []backend.Custody{"", backend.CustodyDevice, "other"} {
		if _, err := New(software(make([]byte, 32)), Options{Custody: c}); err == nil {
			t.Errorf("custody %q", c)
		}
	}
}

// TestCacheOfEngine: the sealer is asked once while the material is kept, and each time with the cache off.
func TestCacheOfEngine(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
		want int32
	}{
		{"default", Options{}, 1}, {"no capacity", Options{Capacity: -1}, 3}, {"no time", Options{TTL: -1}, 3},
	} {
		e, s := newEngine(t, c.o)
		ref := generate(t, e, spec(backend.AES256GCM, backend.PurposeEncryption))
		for range 3 {
			if err := load(t, e, ref).Close(); err != nil {
				t.Error(err)
			}
		}
		if n := s.opened.Load(); n != c.want {
			t.Errorf("%s: asked %d times, want %d", c.name, n, c.want)
		}
		if n := e.cache.stats(); n.misses != uint64(c.want) || n.hits != uint64(3-c.want) {
			t.Errorf("%s: %+v", c.name, n)
		}
	}
}

// TestWipe: the buffers of material are zero once nobody holds it, and not before.
func TestWipe(t *testing.T) {
	e, _ := newEngine(t, Options{Capacity: 1})
	s := spec(backend.HMACSHA256, backend.PurposeMAC)
	s.Exportable = true
	ref := generate(t, e, s)
	k := load(t, e, ref)
	m := k.(*exportableMAC)
	export := m.entry.export
	if len(export) != 32 || isZero(export) || !bytes.Equal(export, m.mac.key) {
		t.Fatal("the material is not there")
	}
	for range 2 { // evict it
		load(t, e, generate(t, e, spec(backend.HMACSHA256, backend.PurposeMAC))).Close()
	}
	if isZero(export) || isZero(m.mac.key) {
		t.Fatal("wiped while a handle is open")
	}
	if _, err := m.MAC(t.Context(), []byte("still working")); err != nil {
		t.Error(err)
	}
	for range 2 { // the second one does nothing
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
	if !isZero(export) || !isZero(m.mac.key) {
		t.Error("not wiped after the last handle")
	}
	if _, err := m.MAC(t.Context(), nil); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("a closed handle: %v", err)
	}
}

func isZero(b []byte) bool { return bytes.Equal(b, make([]byte, len(b))) }

// TestPublicOutlivesWipe: the public key of a handle stays what it is when the private one is gone.
func TestPublicOutlivesWipe(t *testing.T) {
	for _, a := range []backend.Algorithm{backend.Ed25519, backend.Ed448, backend.ECDSAP256, backend.X448, backend.X25519} {
		e, _ := newEngine(t, Options{Capacity: -1})
		info, _ := backend.Lookup(a)
		ref := generate(t, e, spec(a, info.Purposes[0]))
		one, two := load(t, e, ref), load(t, e, ref)
		one.Close()
		p, ok := one.Public().(interface{ Equal(crypto.PublicKey) bool })
		if !ok || !p.Equal(two.Public()) {
			t.Errorf("%s: the public key changed", a)
		}
		two.Close()
	}
}

// TestCloseDuringHandle: a Close of the handle in the middle of an operation takes nothing from under it.
func TestCloseDuringHandle(t *testing.T) {
	e, _ := newEngine(t, Options{Capacity: -1})
	ref := generate(t, e, spec(backend.HMACSHA512, backend.PurposeMAC))
	reference := load(t, e, ref)
	want, err := reference.(backend.MACer).MAC(t.Context(), []byte("m"))
	if err != nil {
		t.Fatal(err)
	}
	defer reference.Close()
	for range 300 {
		k := load(t, e, ref).(backend.MACer)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				got, err := k.MAC(context.Background(), []byte("m"))
				if err == nil && !bytes.Equal(got, want) {
					t.Error("a tag under a wiped key")
				}
				if err != nil && !fault.Has(err, fault.BackendUnavailable) {
					t.Error(err)
				}
			})
		}
		wg.Go(func() { k.Close() })
		wg.Wait()
	}
}

// TestClose: it waits for calls under way, ends every goroutine (synctest fails otherwise), and afterwards there is one answer.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := make([]byte, 32)
		s := &blocking{software: key, gate: make(chan struct{})}
		reg := prometheus.NewRegistry()
		e, err := New(s, Options{Custody: backend.CustodySealed, Registerer: reg})
		if err != nil {
			t.Fatal(err)
		}
		ref := generate(t, e, spec(backend.AES256GCM, backend.PurposeEncryption))
		loaded, closed := make(chan backend.Key, 1), make(chan struct{})
		go func() {
			k, err := e.Load(context.Background(), ref)
			if err != nil {
				t.Errorf("the call under way: %v", err)
			}
			loaded <- k
		}()
		synctest.Wait()
		go func() { e.Close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Fatal("Close did not wait")
		default:
		}
		if _, err := e.Load(t.Context(), ref); !fault.Has(err, fault.BackendUnavailable) {
			t.Errorf("Load while closing: %v", err)
		}
		close(s.gate)
		k := <-loaded
		<-closed
		if k == nil {
			t.Fatal("the call under way got nothing")
		}
		_, err1 := k.(backend.AEAD).Seal(t.Context(), nil, nil, nil)
		_, err2 := e.Generate(t.Context(), ref.Spec)
		_, err3 := e.Import(t.Context(), ref.Spec, key)
		_, err4 := e.ImportWrapped(t.Context(), ref.Spec, ref, 0, nil)
		err5 := e.Destroy(t.Context(), ref)
		for i, err := range []error{err1, err2, err3, err4, err5} {
			if !fault.Has(err, fault.BackendUnavailable) {
				t.Errorf("call %d: %v", i, err)
			}
		}
		if err := errors.Join(k.Close(), e.Close()); err != nil {
			t.Error(err)
		}
		if families, err := reg.Gather(); err != nil || len(families) != 0 {
			t.Errorf("%d metrics are left (%v)", len(families), err)
		}
	})
}

// blocking opens when its gate is open.
type blocking struct {
	software
	gate chan struct{}
}

func (b *blocking) Open(ctx context.Context, blob, binding []byte) (secret.Bytes, error) {
	<-b.gate
	return b.software.Open(ctx, blob, binding)
}

// TestSealerErrors: what the sealer says goes through, and a failure is not kept.
func TestSealerErrors(t *testing.T) {
	e, s := newEngine(t, Options{})
	ref := generate(t, e, spec(backend.AES256GCM, backend.PurposeEncryption))
	for _, code := range []fault.Code{fault.Locked, fault.BackendUnavailable, fault.Overloaded, fault.KeyMaterial} {
		s.broken.Store(fault.New(code, "the sealer says so"))
		if _, err := e.Load(t.Context(), ref); !fault.Has(err, code) {
			t.Errorf("%s became %v", code, err)
		}
	}
	s.broken.Store(nil)
	load(t, e, ref).Close()
}

func TestRSAGivenUp(t *testing.T) {
	e, _ := newEngine(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond) // nobody finds primes in that time
	defer cancel()
	begin := time.Now()
	_, err := e.Generate(ctx, spec(backend.RSA4096, backend.PurposeSigning))
	if !fault.Has(err, fault.Timeout) {
		t.Errorf("%v", err)
	}
	// The answer does not wait for the primes; the engine's Close does, in the clean-up.
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("given up after %v", d)
	}
}

func TestRSAQueueIsBounded(t *testing.T) {
	w := newPrimeWorks(1)
	w.benchs <- struct{}{} // the one worker is busy
	w.places <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var timeouts atomic.Int32
	for range queuePerWorker {
		wg.Go(func() {
			if _, err := w.generate(ctx, 2048); fault.Has(err, fault.Timeout) {
				timeouts.Add(1)
			}
		})
	}
	for len(w.places) < cap(w.places) {
		time.Sleep(time.Millisecond)
	}
	_, err := w.generate(ctx, 2048)
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.Overloaded || f.After <= 0 {
		t.Errorf("one too many: %v", err)
	}
	cancel()
	wg.Wait()
	if n := timeouts.Load(); n != queuePerWorker || len(w.places) != 1 {
		t.Errorf("%d timeouts, %d places taken", n, len(w.places))
	}
	<-w.benchs
	<-w.places
	w.wait()
}

// sequence gives its readings one after another, then zeros for ever.
type sequence struct {
	mu   sync.Mutex
	data []byte
}

func (s *sequence) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(p)
	s.data = s.data[copy(p, s.data):]
	return len(p), nil
}

// TestGeneratorIsUsed: key material is drawn from Options.Rand, and nothing but it.
func TestGeneratorIsUsed(t *testing.T) {
	for _, a := range []backend.Algorithm{backend.AES256GCM, backend.HMACSHA512, backend.Ed25519, backend.Ed448, backend.X25519,
		backend.X448, backend.ECDSAP256, backend.ECDSAP384, backend.ECDSAP521, backend.ECDHP256} {
		info, _ := backend.Lookup(a)
		seed := bytes.Repeat([]byte{0x17}, 128)
		e, s := newEngine(t, Options{Rand: &sequence{data: seed}})
		sp := spec(a, info.Purposes[0])
		ref := generate(t, e, sp)
		raw, err := s.software.Open(t.Context(), ref.Blob[1:], binding(&ref.Spec, info.ID, ref.Spec.Custody, ref.Public))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(raw, seed[:24]) {
			t.Errorf("%s: the material is not what was drawn", a)
		}
	}
	broken, _ := newEngine(t, Options{Rand: io.LimitReader(rand.Reader, 5)})
	for _, a := range []backend.Algorithm{backend.AES256GCM, backend.ECDSAP256, backend.X448} {
		info, _ := backend.Lookup(a)
		if _, err := broken.Generate(t.Context(), spec(a, info.Purposes[0])); !fault.Has(err, fault.BackendUnavailable) {
			t.Errorf("%s with a broken generator: %v", a, err)
		}
	}
}

// TestScalarsAreRejected: candidates of zero and of the order and above are drawn again; a generator that gives nothing else
// is broken.
func TestScalarsAreRejected(t *testing.T) {
	order := elliptic.P256().Params().N.Bytes()
	good := bytes.Repeat([]byte{0x42}, 32)
	e, _ := newEngine(t, Options{Rand: &sequence{data: bytes.Join([][]byte{order, bytes.Repeat([]byte{0xff}, 32), make([]byte, 32), good}, nil)}})
	k, err := e.newEC(elliptic.P256())
	if err != nil {
		t.Fatal(err)
	}
	if d, err := k.Bytes(); err != nil || !bytes.Equal(d, good) {
		t.Errorf("another candidate was taken (%v)", err)
	}
	if _, err := e.newEC(elliptic.P256()); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("a generator of zeros: %v", err)
	}
}

func TestSpecsAreChecked(t *testing.T) {
	e, _ := newEngine(t, Options{})
	good := spec(backend.AES256GCM, backend.PurposeEncryption)
	for what, change := range map[string]func(*backend.Spec){
		"no key id": func(s *backend.Spec) { s.KeyID = uuid.Nil }, "no version": func(s *backend.Spec) { s.Version = 0 },
	} {
		s := good
		change(&s)
		_, err1 := e.Generate(t.Context(), s)
		_, err2 := e.Import(t.Context(), s, make([]byte, 32))
		if !fault.Has(err1, fault.BadField) || !fault.Has(err2, fault.BadField) {
			t.Errorf("%s: %v, %v", what, err1, err2)
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	e, _ := newEngine(t, Options{Name: "vault", Registerer: reg, Capacity: 1})
	ref := generate(t, e, spec(backend.AES256GCM, backend.PurposeEncryption))
	for range 3 {
		load(t, e, ref).Close()
	}
	load(t, e, generate(t, e, spec(backend.AES256GCM, backend.PurposeEncryption))).Close()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		if l := m.GetLabel(); len(f.GetMetric()) != 1 || len(l) != 1 || l[0].GetName() != "backend" || l[0].GetValue() != "vault" {
			t.Errorf("%s: labels %v", f.GetName(), l)
		}
		got[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	if n := got["keywright_sealed_cache_bytes"]; n < entryOverhead || n > 2*entryOverhead {
		t.Errorf("one AES key takes %v bytes", n)
	}
	delete(got, "keywright_sealed_cache_bytes")
	if d := cmp.Diff(map[string]float64{
		"keywright_sealed_cache_hits_total": 2, "keywright_sealed_cache_misses_total": 2,
		"keywright_sealed_cache_evictions_total": 1, "keywright_sealed_cache_entries": 1,
	}, got); d != "" {
		t.Error(d)
	}
	if _, err := New(software(make([]byte, 32)), Options{Name: "vault", Custody: backend.CustodySealed, Registerer: reg}); err == nil {
		t.Error("two engines of one name share their metrics")
	}
}

// TestHitAllocates: a Load of opened material allocates the handle and nothing else, whatever else is in the cache.
func TestHitAllocates(t *testing.T) {
	e, _ := newEngine(t, Options{})
	ctx := t.Context()
	for _, a := range []backend.Algorithm{backend.AES256GCM, backend.ECDSAP256} {
		info, _ := backend.Lookup(a)
		ref := generate(t, e, spec(a, info.Purposes[0]))
		load(t, e, ref).Close()
		n := testing.AllocsPerRun(100, func() {
			k, err := e.Load(ctx, ref)
			if err != nil {
				t.Fatal(err)
			}
			k.Close()
		})
		if n > 1 {
			t.Errorf("%s: %v allocations", a, n)
		}
	}
}

// TestNonces: the nonce of a Seal does not repeat and is not a counter's.
func TestNonces(t *testing.T) {
	for _, a := range []backend.Algorithm{backend.AES256GCM, backend.ChaCha20Poly1305} {
		e, _ := newEngine(t, Options{})
		k := load(t, e, generate(t, e, spec(a, backend.PurposeEncryption))).(backend.AEAD)
		seen := map[[12]byte]bool{}
		for range 2000 {
			out, err := k.Seal(t.Context(), nil, []byte("x"), nil)
			if err != nil || len(out) != 12+1+aes.BlockSize {
				t.Fatalf("%d bytes: %v", len(out), err)
			}
			n := [12]byte(out)
			if seen[n] {
				t.Fatal("a nonce repeats")
			}
			seen[n] = true
		}
		k.Close()
	}
}
