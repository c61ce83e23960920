package backendtest

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// testConcurrent uses one key from many goroutines, and many keys.
func (s *suite) testConcurrent(t *testing.T) {
	const rounds = 20
	t.Run("one key", func(t *testing.T) {
		for _, k := range s.kinds() {
			key, ref := s.key(t, k), s.ref(t, k)
			n := rounds
			switch {
			case k.Info.Family == backend.FamilyRSA:
				n = 1 // slow, and the locks are the same
			case !k.Info.Symmetric():
				n = 3
			}
			s.inParallel(t, func(int) error {
				for range n {
					if err := operate(t.Context(), k, key); err != nil {
						return fmt.Errorf("%s by a shared handle: %w", k.Algorithm, err)
					}
					if err := loadAndOperate(t.Context(), s.b, k, ref); err != nil {
						return fmt.Errorf("%s by an own handle: %w", k.Algorithm, err)
					}
				}
				return nil
			})
		}
	})
	t.Run("many keys", func(t *testing.T) {
		kinds := s.kinds()
		s.inParallel(t, func(worker int) error {
			for i := range rounds / 2 {
				k := kinds[(worker+i)%len(kinds)]
				if k.Info.Family == backend.FamilyRSA {
					continue
				}
				ref, err := s.b.Generate(t.Context(), s.spec(k))
				if err != nil {
					return err
				}
				if err := loadAndOperate(t.Context(), s.b, k, ref); err != nil {
					return fmt.Errorf("%s just made: %w", k.Algorithm, err)
				}
				if err := s.b.Destroy(t.Context(), ref); err != nil {
					return err
				}
			}
			return nil
		})
	})
	t.Run("nonces", s.testNonces)
	t.Run("close beside use", s.testHandleClose)
}

func loadAndOperate(ctx context.Context, b backend.Backend, k kind, ref backend.Ref) error {
	key, err := b.Load(ctx, ref)
	if err != nil {
		return err
	}
	if err := operate(ctx, k, key); err != nil {
		return err
	}
	return key.Close()
}

// inParallel runs one function in as many goroutines as the harness wants.
func (s *suite) inParallel(t testing.TB, f func(worker int) error) {
	t.Helper()
	var all sync.WaitGroup
	for w := range s.h.Workers {
		all.Go(func() {
			if err := f(w); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// testNonces: no nonce comes twice under one key, whoever asks.
func (s *suite) testNonces(t *testing.T) {
	for _, k := range s.of(backend.FamilyAEAD, backend.PurposeEncryption) {
		ref := s.ref(t, k)
		var mu sync.Mutex // guards seen
		seen := map[string]bool{}
		s.inParallel(t, func(int) error {
			key, err := s.b.Load(t.Context(), ref)
			if err != nil {
				return err
			}
			for range 200 {
				ct, err := key.(backend.AEAD).Seal(t.Context(), nil, nil, nil)
				if err != nil {
					return err
				}
				nonce := string(ct[:k.Info.NonceSize])
				mu.Lock()
				twice := seen[nonce]
				seen[nonce] = true
				mu.Unlock()
				if twice {
					return fmt.Errorf("%s: a nonce came twice", k.Algorithm)
				}
			}
			return key.Close()
		})
	}
}

// testHandleClose closes a handle while others use it, and uses it after that. Another handle of the same key goes on.
func (s *suite) testHandleClose(t *testing.T) {
	for _, k := range s.kinds() {
		ref := s.ref(t, k)
		key, err := s.b.Load(t.Context(), ref)
		if err != nil {
			t.Fatalf("Load: %v", err)
		}
		other := load(t, s.b, ref)
		s.inParallel(t, func(worker int) error {
			if worker == 0 {
				return key.Close()
			}
			if err := operate(t.Context(), k, key); err != nil && !fault.Has(err, fault.BackendUnavailable) {
				return fmt.Errorf("%s beside Close of its handle: %w", k.Algorithm, err)
			}
			return nil
		})
		use(t, k, key, "a closed handle", fault.BackendUnavailable)
		if err := key.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		use(t, k, other, "another handle of the same key")
	}
}

// testContexts: a context that has ended does nothing; one that ends meanwhile ends the call.
func (s *suite) testContexts(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	all := s.calls(t, s.b)
	for what, op := range s.operations(t) {
		all[what] = op
	}
	for what, call := range all {
		want(t, what+" with a cancelled context", call(cancelled), fault.Timeout)
		want(t, what+" with an expired context", call(expired), fault.Timeout)
	}
	for what, call := range all {
		if what == "open" {
			continue // its input is wrong on purpose
		}
		if err := call(t.Context()); err != nil {
			t.Errorf("%s with a good context, after one with a bad: %v", what, err)
		}
	}
	for _, k := range s.kinds() {
		if k.Algorithm != backend.RSA3072 {
			continue // the one call that surely lasts longer than its deadline
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		_, err := s.b.Generate(ctx, s.spec(k))
		cancel()
		if err != nil { // a device may be that quick
			want(t, "Generate with a short deadline", err, fault.Timeout)
		}
		break
	}
}

// calm gives the number of goroutines once it has been the same for a while: one that is just ending, of the part before, would
// otherwise make room for one that is leaked.
func calm() int {
	n, same := runtime.NumGoroutine(), 0
	for range 200 {
		time.Sleep(5 * time.Millisecond)
		if now := runtime.NumGoroutine(); now != n {
			n, same = now, 0
		} else if same++; same == 20 {
			break
		}
	}
	return n
}

// testReopen: refs live on in the same device, under whatever name it is configured.
func (s *suite) testReopen(t *testing.T) {
	before := calm()
	b := s.h.Open(t, "renamed")
	info := b.Info()
	if info.Name != "renamed" {
		t.Errorf("opened as renamed, Info says %q", info.Name)
	}
	if info.ID != s.info.ID {
		t.Errorf("the device's ID changed from %q to %q with its name", s.info.ID, info.ID)
	}
	if len(s.refs) == 0 {
		t.Error("no key from before: a part that makes keys has to run first")
	}
	for at, ref := range s.refs {
		for _, k := range kindsOf(info) {
			if k.Algorithm == at.alg && k.Purpose == at.purpose {
				key, err := b.Load(t.Context(), ref)
				if err != nil {
					t.Errorf("%s: a ref from before does not load: %v", at.alg, err)
					continue
				}
				use(t, k, key, "a key from before")
				checkPublic(t, k, key, ref)
				if err := key.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
		}
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	settled(t, before)
}

// testClose: after Close everything answers fault.BackendUnavailable, and no goroutine is left.
func (s *suite) testClose(t *testing.T) {
	before := calm()
	b := s.h.Open(t, "conformance")
	s.b = b
	type open struct {
		k   kind
		key backend.Key
	}
	var handles []open
	for _, k := range s.kinds() {
		key, err := b.Load(t.Context(), s.ref(t, k))
		if err != nil {
			t.Fatalf("Load: %v", err)
		}
		handles = append(handles, open{k, key})
	}
	calls := s.calls(t, b)
	operations := s.operations(t)
	for range 2 {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	for what, call := range calls {
		want(t, what+" after Close", call(t.Context()), fault.BackendUnavailable)
	}
	for what, op := range operations {
		want(t, what+" after Close of the backend", op(t.Context()), fault.BackendUnavailable)
	}
	if b.Info().ID != s.info.ID {
		t.Error("Info is not the same after Close")
	}
	for _, h := range handles {
		h.key.Public()
		if err := h.key.Close(); err != nil {
			t.Errorf("closing a handle after its backend: %v", err)
		}
	}
	settled(t, before)
}

// testCloseInUse closes the backend under load: each call either works or says that the backend is gone.
func (s *suite) testCloseInUse(t *testing.T) {
	for range 3 {
		before := calm()
		b := s.h.Open(t, "conformance")
		s.b = b
		kinds, refs := s.kinds(), map[string]backend.Ref{}
		for _, k := range kinds {
			refs[k.String()] = s.ref(t, k)
		}
		var closed atomic.Bool
		var done, refused atomic.Int64
		var all sync.WaitGroup
		for w := range s.h.Workers {
			all.Go(func() {
				for i := 0; ; i++ {
					k := kinds[(w+i)%len(kinds)]
					late := closed.Load()
					err := loadAndOperate(t.Context(), b, k, refs[k.String()])
					switch {
					case err == nil && late:
						t.Errorf("%s worked after Close had returned", k.Algorithm)
						return
					case err == nil:
						done.Add(1)
					case fault.Has(err, fault.BackendUnavailable):
						refused.Add(1)
						return
					default:
						t.Errorf("%s beside Close: %v", k.Algorithm, err)
						return
					}
				}
			})
		}
		for deadline := time.Now().Add(10 * time.Second); done.Load() < 20 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		closed.Store(true)
		all.Wait()
		if done.Load() == 0 || refused.Load() != int64(s.h.Workers) {
			t.Errorf("%d calls worked before Close, %d of %d goroutines were refused after it", done.Load(), refused.Load(), s.h.Workers)
		}
		settled(t, before)
	}
}
