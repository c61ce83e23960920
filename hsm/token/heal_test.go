package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// broken is a token behind the fault module, with keys on it.
type broken struct {
	*device
	*rig.FaultModule
	resident, wrapped, aes Object
}

func breakable(t *testing.T, change ...func(*Config)) *broken {
	t.Helper()
	f := rig.Fault(t, rig.SoftHSM(t))
	b := &broken{device: openToken(t, f.Part, change...), FaultModule: f}
	for _, k := range []struct {
		to      *Object
		a       backend.Algorithm
		p       backend.Purpose
		wrapped bool
	}{{&b.resident, backend.ECDSAP256, backend.PurposeSigning, false}, {&b.wrapped, backend.ECDSAP256, backend.PurposeSigning, true}, {&b.aes, backend.AES256GCM, backend.PurposeEncryption, false}} {
		o, err := b.Generate(t.Context(), newID(), k.a, k.p, k.wrapped)
		if err != nil {
			t.Fatalf("Generate: %v", err)
		}
		*k.to = o
	}
	return b
}

// sign uses a key and checks the signature.
func (b *broken) sign(ctx context.Context, o Object) error {
	digest := known(32)
	sig, err := b.Use(ctx, Call{Op: Sign, ID: o.ID, Algorithm: o.Algorithm, Wrapped: o.Wrapped, Input: digest})
	if err != nil {
		return err
	}
	pub, err := keyenc.ParseSPKI(o.Public)
	if err != nil {
		return err
	}
	if !ecdsa.Verify(pub.(*ecdsa.PublicKey), digest, new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return errors.New("a wrong signature")
	}
	return nil
}

// decrypts encrypts and decrypts.
func (b *broken) decrypts(ctx context.Context) error {
	sealed, err := b.Use(ctx, Call{Op: Encrypt, ID: b.aes.ID, Algorithm: b.aes.Algorithm, Input: []byte("text")})
	if err != nil {
		return err
	}
	got, err := b.Use(ctx, Call{Op: Decrypt, ID: b.aes.ID, Algorithm: b.aes.Algorithm, Input: sealed})
	if err != nil {
		return err
	}
	if string(got) != "text" {
		return errors.New("another text")
	}
	return nil
}

func (b *broken) everything(ctx context.Context) error {
	return errors.Join(b.sign(ctx, b.resident), b.sign(ctx, b.wrapped), b.decrypts(ctx))
}

// recovers waits until everything works: for the two seconds in which it must, and a while for a busy machine. Meanwhile nothing but fault.BackendUnavailable may come.
func (b *broken) recovers(t *testing.T) {
	t.Helper()
	start := time.Now()
	for {
		err := b.everything(t.Context())
		if err == nil {
			t.Logf("after %v", time.Since(start))
			return
		}
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			if !fault.Has(e, fault.BackendUnavailable) {
				t.Errorf("while healing: %v", e)
			}
		}
		if took := time.Since(start); took > 15*time.Second {
			t.Fatalf("after %v: %v", took, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestSessionErrors: what one call of a function answers must not reach a caller whose operation can be repeated.
func TestSessionErrors(t *testing.T) {
	b := breakable(t)
	for _, c := range []struct{ function, rv string }{
		{"C_SignInit", "CKR_SESSION_HANDLE_INVALID"}, {"C_Sign", "CKR_SESSION_CLOSED"}, {"C_Sign", "CKR_OPERATION_NOT_INITIALIZED"},
		{"C_SignInit", "CKR_OPERATION_ACTIVE"}, {"C_SignInit", "CKR_KEY_HANDLE_INVALID"}, {"C_Sign", "CKR_GENERAL_ERROR"},
		{"C_Decrypt", "CKR_GENERAL_ERROR"}, {"C_Encrypt", "CKR_FUNCTION_FAILED"}, {"C_DecryptInit", "CKR_KEY_HANDLE_INVALID"},
		{"C_Sign", "CKR_HOST_MEMORY"}, {"C_Encrypt", "CKR_BUFFER_TOO_SMALL"}, {"C_Decrypt", "CKR_FUNCTION_CANCELED"},
	} {
		t.Run(c.function+"/"+c.rv, func(t *testing.T) {
			b.Clear(t)
			dropped := b.Stats().SessionsDropped
			fired := b.Fired(t, c.function)
			b.Set(t, c.function, c.rv, "times=1")
			if err := b.everything(t.Context()); err != nil {
				t.Errorf("a caller saw it: %v", err)
			}
			if b.Fired(t, c.function) != fired+1 {
				t.Error("the fault did not happen")
			}
			if b.Stats().SessionsDropped == dropped {
				t.Error("the session went back to the pool")
			}
		})
	}
	if s := b.Stats(); s.Reinitialisations != 0 {
		t.Errorf("the module was initialised again: %+v", s)
	}
}

func TestLengthLies(t *testing.T) {
	b := breakable(t)
	for _, f := range []string{"C_Sign", "C_Encrypt", "C_Decrypt"} {
		b.Clear(t)
		b.Length(t, f, "+100000", "times=1")
		if err := b.everything(t.Context()); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		b.Clear(t)
		b.Length(t, f, "-1", "times=1")
		if err := b.everything(t.Context()); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	// A number may lack its leading zeros, so that a length of an RSA signature is not wrong by itself.
	b.Clear(t)
	o, err := b.Generate(t.Context(), newID(), backend.RSA2048, backend.PurposeSigning, true)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(o.Public)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	for _, change := range []string{"-16", "=3", "=0"} {
		b.Length(t, "C_Sign", change, "times=1")
		sig, err := b.Use(t.Context(), Call{Op: Sign, ID: o.ID, Algorithm: o.Algorithm, Wrapped: o.Wrapped, Input: digest[:], Hash: crypto.SHA256, Padding: backend.PaddingPSS})
		if err == nil {
			err = rsa.VerifyPSS(public.(*rsa.PublicKey), crypto.SHA256, digest[:], sig, nil)
		}
		if err != nil {
			t.Errorf("RSA, %s: %v", change, err)
		}
	}
	b.Clear(t)
	b.Length(t, "C_GetAttributeValue", "+5000", "times=1")
	if o, err := b.Find(t.Context(), b.resident.ID); err != nil || cmp.Diff(b.resident, o) != "" {
		t.Errorf("Find: %v", err)
	}
	b.Clear(t)
	b.Length(t, "C_FindObjects", "+5000", "times=1")
	if o, err := b.Find(t.Context(), b.resident.ID); err != nil || cmp.Diff(b.resident, o) != "" {
		t.Errorf("Find: %v", err)
	}
}

func TestHealing(t *testing.T) {
	for _, c := range []struct {
		name  string
		harm  func(*testing.T, *broken)
		mend  func(*testing.T, *broken)
		light bool // without initialising
	}{
		{"sessions dropped", func(t *testing.T, b *broken) { b.DropSessions(t) }, nil, true},
		{"logged out", func(t *testing.T, b *broken) { b.Set(t, "C_SignInit", "CKR_USER_NOT_LOGGED_IN", "times=1") }, nil, true},
		{"wedged", func(t *testing.T, b *broken) { b.Wedge(t) }, nil, false},
		{"device error", func(t *testing.T, b *broken) { b.Set(t, "C_Sign", "CKR_DEVICE_ERROR", "times=1") }, nil, false},
		{"token gone and back", func(t *testing.T, b *broken) { b.TokenGone(t) }, func(t *testing.T, b *broken) { b.TokenBack(t) }, false},
		{"slot gone and back", func(t *testing.T, b *broken) { b.TokenGone(t, "as=empty") }, func(t *testing.T, b *broken) { b.TokenBack(t) }, false},
		{"general error until cleared", func(t *testing.T, b *broken) {
			b.Set(t, "C_*Init,C_Login,C_OpenSession,C_Sign,C_Encrypt,C_Decrypt", "CKR_GENERAL_ERROR")
		},
			func(t *testing.T, b *broken) { b.Clear(t) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := breakable(t)
			before := b.Describe().Generation
			c.harm(t, b)
			if c.mend != nil {
				until := time.Now().Add(1200 * time.Millisecond)
				for time.Now().Before(until) {
					if err := b.sign(t.Context(), b.resident); !fault.Has(err, fault.BackendUnavailable) {
						t.Fatalf("with the token broken: %v", err)
					} else if f := new(fault.Error); !errors.As(err, &f) || f.After <= 0 {
						t.Fatalf("without a time to try again: %v", err)
					}
					time.Sleep(10 * time.Millisecond)
				}
				if s := b.Stats(); s.Reinitialisations > 3 {
					t.Errorf("the module was initialised %d times in 1.2 s", s.Reinitialisations)
				}
				c.mend(t, b)
			}
			b.recovers(t)
			s := b.Stats()
			if c.light != (s.Reinitialisations == 0) {
				t.Errorf("initialised %d times", s.Reinitialisations)
			}
			if b.Describe().Generation == before {
				t.Error("the generation is the same")
			}
			if s.Breaker != "closed" || b.WrongPINs(t) != 0 {
				t.Errorf("%+v, %d wrong PINs", s, b.WrongPINs(t))
			}
		})
	}
}

// TestTampering: a text that does not open is the caller's fault, whatever the module calls it, and never the token's.
func TestTampering(t *testing.T) {
	b := breakable(t)
	for range 20 {
		_, err := b.Use(t.Context(), Call{Op: Decrypt, ID: b.aes.ID, Algorithm: b.aes.Algorithm, Input: make([]byte, 60)})
		if !fault.Has(err, fault.DecryptionFailed) {
			t.Fatalf("a text of zeros: %v", err)
		}
	}
	if s := b.Stats(); s.Breaker != "closed" || s.Reinitialisations != 0 {
		t.Errorf("Stats: %+v", s)
	}
	// The same answer to a good text is not believed while the test key does not work either.
	sealed, err := b.Use(t.Context(), Call{Op: Encrypt, ID: b.aes.ID, Algorithm: b.aes.Algorithm, Input: []byte("text")})
	if err != nil {
		t.Fatal(err)
	}
	b.Set(t, "C_Decrypt", "CKR_GENERAL_ERROR")
	if _, err := b.Use(t.Context(), Call{Op: Decrypt, ID: b.aes.ID, Algorithm: b.aes.Algorithm, Input: sealed}); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("a good text on a broken token: %v", err)
	}
	b.Clear(t)
	b.recovers(t)
}

func TestHang(t *testing.T) {
	b := breakable(t)
	b.Hang(t, "C_Sign")
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			start := time.Now()
			if err := b.sign(ctx, b.resident); !fault.Has(err, fault.Timeout) {
				t.Errorf("a call that hangs: %v", err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("the deadline was kept after %v", took)
			}
		})
	}
	wg.Wait()
	if s := b.Stats(); s.Stuck != 6 || s.Breaker != "closed" {
		t.Errorf("at once: %+v", s)
	}
	if err := b.decrypts(t.Context()); err != nil {
		t.Errorf("other calls: %v", err)
	}
	waitFor(t, "the breaker to open", func() bool { return b.Stats().Breaker == "open" })
	if err := b.decrypts(t.Context()); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("with many calls stuck: %v", err)
	}
	if err := b.Ping(t.Context()); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("Ping with many calls stuck: %v", err)
	}
	b.Release(t)
	b.Clear(t)
	b.recovers(t)
	if s := b.Stats(); s.Stuck != 0 {
		t.Errorf("Stats: %+v", s)
	}
}

// TestLateGenerate: a key whose making was given up must not become two.
func TestLateGenerate(t *testing.T) {
	b := breakable(t)
	b.Delay(t, "C_GenerateKeyPair", 300*time.Millisecond, "times=1")
	id := newID()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Generate(ctx, id, backend.ECDSAP256, backend.PurposeSigning, false); !fault.Has(err, fault.Timeout) {
		t.Fatalf("Generate: %v", err)
	}
	if _, err := b.Generate(t.Context(), id, backend.ECDSAP256, backend.PurposeSigning, false); !fault.Has(err, fault.Conflict) {
		t.Errorf("Generate while the first is under way: %v", err)
	}
	waitFor(t, "the late key", func() bool { _, err := b.Find(t.Context(), id); return err == nil })
	if _, err := b.Generate(t.Context(), id, backend.ECDSAP256, backend.PurposeSigning, false); !fault.Has(err, fault.Conflict) {
		t.Errorf("Generate after the first: %v", err)
	}
	// A module that loses its answer after the key was made: no second attempt, and what is there is found.
	n := b.Count(t, "C_GenerateKeyPair")
	b.Set(t, "C_GenerateKeyPair", "CKR_SESSION_HANDLE_INVALID", "times=1", "at=after")
	if _, err := b.Generate(t.Context(), newID(), backend.ECDSAP256, backend.PurposeSigning, false); err == nil {
		t.Error("Generate with its answer lost succeeds")
	}
	if got := b.Count(t, "C_GenerateKeyPair"); got != n+1 {
		t.Errorf("C_GenerateKeyPair was called %d times for one key", got-n)
	}
	b.Clear(t)
	b.recovers(t)
}

func TestSessionLimits(t *testing.T) {
	t.Run("told", func(t *testing.T) {
		f := rig.Fault(t, rig.SoftHSM(t))
		f.LimitSessions(t, 5, 0)
		b := loaded(t, f)
		if s := b.Stats(); s.Sessions > 5 || b.Describe().MaxSessions != 5 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("lied", func(t *testing.T) {
		f := rig.Fault(t, rig.SoftHSM(t))
		f.LimitSessions(t, 5, -1)
		loaded(t, f)
	})
	for _, n := range []int{1, 2, 3} {
		t.Run("few", func(t *testing.T) {
			f := rig.Fault(t, rig.SoftHSM(t))
			f.LimitSessions(t, n, 0)
			b := loaded(t, f)
			b.DropSessions(t)
			b.recovers(t)
		})
	}
}

// loaded uses a token by many at once.
func loaded(t *testing.T, f *rig.FaultModule) *broken {
	t.Helper()
	b := &broken{device: openToken(t, f.Part), FaultModule: f}
	var err error
	for to, wrapped := range map[*Object]bool{&b.resident: false, &b.wrapped: true} {
		if *to, err = b.Generate(t.Context(), newID(), backend.ECDSAP256, backend.PurposeSigning, wrapped); err != nil {
			t.Fatalf("Generate: %v", err)
		}
	}
	if b.aes, err = b.Generate(t.Context(), newID(), backend.AES256GCM, backend.PurposeEncryption, false); err != nil {
		t.Fatalf("Generate: %v", err)
	}
	// A deadline, so that an operation that waits for nobody is an error, and says what the queue looked like.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 10 {
				if err := b.everything(ctx); err != nil {
					t.Errorf("under load: %v; %+v, %d workers of %d, %d idle", err, b.Stats(), b.workers.Load(), b.limit.Load(), b.idle.Load())
					return
				}
			}
		})
	}
	wg.Wait()
	return b
}

func TestOverload(t *testing.T) {
	b := breakable(t, func(c *Config) { c.Sessions, c.Queue = 2, 4 })
	b.Delay(t, "C_Sign", 50*time.Millisecond)
	var full, fine atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			err := b.sign(t.Context(), b.resident)
			switch {
			case err == nil:
				fine.Add(1)
			case fault.Has(err, fault.Overloaded):
				full.Add(1)
			default:
				t.Errorf("with the queue full: %v", err)
			}
		})
	}
	wg.Wait()
	if full.Load() == 0 || fine.Load() < 4 {
		t.Errorf("%d refused, %d done", full.Load(), fine.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.sign(ctx, b.resident); !fault.Has(err, fault.Timeout) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestPIN(t *testing.T) {
	f := rig.Fault(t, rig.SoftHSM(t))
	f.LockPIN(t, 3)
	pins := &PINMemory{}
	cfg := Config{Module: f.Module, Serial: f.Serial, PIN: secret.Bytes("000000")}
	for range 3 {
		_, err := Open(t.Context(), cfg, Options{PINs: pins})
		if !errors.Is(err, ErrPINRefused) || !fault.Has(err, fault.BackendUnavailable) || strings.Contains(err.Error(), "000000") {
			t.Errorf("Open with a wrong PIN: %v", err)
		}
	}
	if n := f.WrongPINs(t); n != 1 {
		t.Errorf("a wrong PIN was sent %d times", n)
	}
	cfg.PIN = secret.Bytes(f.PIN(t))
	tok, err := Open(t.Context(), cfg, Options{PINs: pins})
	if err != nil {
		t.Fatalf("Open with the right one: %v", err)
	}
	// The PIN is changed by somebody else while we are logged in: one attempt, then never again.
	f.Set(t, "C_Login", "CKR_PIN_INCORRECT")
	f.DropSessions(t)
	n := f.Count(t, "C_Login")
	for range 30 {
		if err := tok.Ping(t.Context()); !fault.Has(err, fault.BackendUnavailable) {
			t.Errorf("Ping: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := tok.Ping(t.Context()); !errors.Is(err, ErrPINRefused) {
		t.Errorf("Ping: %v", err)
	}
	if got := f.Count(t, "C_Login") - n; got != 1 {
		t.Errorf("the PIN was sent %d times", got)
	}
	if s := tok.Stats(); s.LoginsRefused != 1 {
		t.Errorf("Stats: %+v", s)
	}
	if err := tok.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// TestPINWordsElsewhere: a value about the PIN that no login has answered says nothing of the PIN.
func TestPINWordsElsewhere(t *testing.T) {
	b := breakable(t)
	for _, rv := range []string{"CKR_PIN_EXPIRED", "CKR_PIN_INCORRECT", "CKR_PIN_LOCKED"} {
		b.Set(t, "C_Sign", rv, "times=1")
		if err := b.sign(t.Context(), b.resident); errors.Is(err, ErrPINRefused) || err != nil && !fault.Has(err, fault.BackendUnavailable) {
			t.Errorf("%s: %v", rv, err)
		}
		b.DropSessions(t) // so that a login comes
		b.recovers(t)
	}
	// Nor does a login that finds no PIN on the token at the moment: nothing was compared with it.
	b.Set(t, "C_Login", "CKR_USER_PIN_NOT_INITIALIZED", "times=1")
	b.DropSessions(t)
	b.recovers(t)
}

func TestBinding(t *testing.T) {
	one := rig.SoftHSM(t)
	one.Setenv(t)
	two := one.Another(t, "second")
	for _, c := range []struct {
		name, serial, label string
		fails               bool
	}{
		{"serial", one.Serial, "", false},
		{"label", "", two.Label, false},
		{"both", two.Serial, two.Label, false},
		{"padded", " " + two.Serial + "  ", two.Label + "   ", false},
		{"they disagree", one.Serial, two.Label, true},
		{"nothing there", "0123456789abcdef", "", true},
	} {
		d, err := tryOpen(t, one, func(cfg *Config) { cfg.Serial, cfg.Label = c.serial, c.label })
		if c.fails != (err != nil) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil {
			if !fault.Has(err, fault.BackendUnavailable) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if got := d.Describe(); c.label != "" && got.Label != strings.TrimSpace(c.label) || c.serial != "" && got.Serial != strings.TrimSpace(c.serial) {
			t.Errorf("%s: opened %q %q", c.name, got.Serial, got.Label)
		}
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

func TestRefusesLeaks(t *testing.T) {
	p := rig.NSS(t)
	if _, err := tryOpen(t, p); !fault.Has(err, fault.PolicyDenied) {
		t.Errorf("Open of a token that leaks: %v", err)
	}
	if d := openToken(t, p, acceptLeaks); !d.Describe().LeaksWrapped {
		t.Error("the description does not tell")
	}
}

// TestNothingLeft: after Close there are no sessions and no goroutines.
func TestNothingLeft(t *testing.T) {
	f := rig.Fault(t, rig.SoftHSM(t))
	before := runtime.NumGoroutine()
	d, err := tryOpen(t, f.Part)
	if err != nil {
		t.Fatal(err)
	}
	b := &broken{device: d, FaultModule: f}
	if b.resident, err = b.Generate(t.Context(), newID(), backend.ECDSAP256, backend.PurposeSigning, false); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 20 {
				err := b.sign(t.Context(), b.resident)
				if err != nil && !fault.Has(err, fault.BackendUnavailable) {
					t.Errorf("closing: %v", err)
				}
			}
		})
	}
	time.Sleep(5 * time.Millisecond)
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	wg.Wait()
	if err := b.sign(t.Context(), b.resident); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	if ps := f.Processes(t); len(ps) != 0 {
		t.Errorf("the module is still initialised: %+v", ps)
	}
	waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
