package remote

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// openModule opens a real module in two processes.
func openModule(t testing.TB, p *rig.Part, o Options) *Supervisor {
	t.Helper()
	p.Setenv(t)
	config := token.Config{Module: p.Module, InitArgs: p.Init, Serial: p.Serial, Label: p.Label, PIN: secret.Bytes(p.PIN(t))}
	s, err := Open(within(t, time.Minute), config, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// openApart opens a module without the environment of this process, so that tests can run side by side.
func openApart(t *testing.T, p *rig.Part, o Options) *Supervisor {
	t.Helper()
	o.Command = func() *exec.Cmd {
		cmd := command()
		cmd.Env = append(os.Environ(), p.Env...)
		return cmd
	}
	config := token.Config{Module: p.Module, InitArgs: p.Init, Serial: p.Serial, Label: p.Label, PIN: secret.Bytes(p.PIN(t))}
	s, err := Open(within(t, 60*time.Second), config, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// after gives the time after which an error says to try again.
func after(err error) time.Duration {
	var f *fault.Error
	if !errors.As(err, &f) {
		return 0
	}
	return f.After
}

// signer is a key on the token, and what its signatures are checked with.
type signer struct {
	s      *Supervisor
	id     token.ID
	public *ecdsa.PublicKey
}

func newSigner(t testing.TB, s *Supervisor) *signer {
	t.Helper()
	k := &signer{s: s}
	rand.Read(k.id[:])
	o, err := s.Generate(within(t, 10*time.Second), k.id, backend.ECDSAP256, backend.PurposeSigning, false)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(o.Public)
	if err != nil {
		t.Fatal(err)
	}
	k.public = public.(*ecdsa.PublicKey)
	return k
}

var errWrong = errors.New("the signature is wrong")

// sign makes a signature and checks it.
func (k *signer) sign(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	digest := sha256.Sum256([]byte("message"))
	sig, err := k.s.Use(ctx, token.Call{Op: token.Sign, ID: k.id, Algorithm: backend.ECDSAP256, Input: digest[:]})
	if err != nil {
		return err
	}
	if len(sig) != 64 || !ecdsa.Verify(k.public, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return errWrong
	}
	return nil
}

func TestRealModule(t *testing.T) {
	s := openModule(t, rig.SoftHSM(t), Options{Processes: 2})
	k := newSigner(t, s)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				if err := k.sign(10 * time.Second); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if st := s.Stats(); st.Logins != 2 || st.Calls < 800 {
		t.Errorf("both processes must log in, and share the calls: %+v", st)
	}
	d := s.Describe()
	if d.Serial == "" || len(d.Mechanisms) == 0 || len(d.Capabilities) == 0 {
		t.Errorf("%+v", d)
	}
	o, err := s.Generate(within(t, 10*time.Second), token.ID{1}, backend.AES256GCM, backend.PurposeEncryption, true)
	if err != nil {
		t.Fatal(err)
	}
	wrapped := token.Call{Op: token.Encrypt, ID: o.ID, Algorithm: o.Algorithm, Wrapped: o.Wrapped, Input: []byte("plain"), AAD: []byte("with")}
	sealed, err := s.Use(within(t, 5*time.Second), wrapped)
	if err != nil {
		t.Fatal(err)
	}
	pids := make(map[*link]bool)
	for i := range s.children { // the wrapped key works in every process
		l := s.children[i].link.Load()
		pids[l] = true
		frame := appendCall(beginRequest(nil, opUse), &token.Call{Op: token.Decrypt, ID: o.ID, Algorithm: o.Algorithm, Wrapped: o.Wrapped, Input: sealed, AAD: []byte("with")})
		finish(frame)
		ctx := within(t, 5*time.Second)
		deadline, _ := ctx.Deadline()
		if a, err := l.call(ctx, frame, deadline, l.limit); err != nil || a.err != nil || string(a.body) != "plain" {
			t.Errorf("child %d: %q, %v, %v", i, a.body, a.err, err)
		}
	}
	if len(pids) != 2 {
		t.Errorf("%d processes", len(pids))
	}
}

// TestAnotherTokenOfTheLabel puts another token with the label in the place of the one that was opened: a new process neither opens it nor shows it the PIN,
// and goes on when the right one is back.
func TestAnotherTokenOfTheLabel(t *testing.T) {
	p, other := rig.SoftHSM(t), rig.SoftHSMUnder(t, "111111", "97531086")
	f := rig.Fault(t, p)
	byLabel := *f.Part
	byLabel.Serial = ""
	s := openModule(t, &byLabel, Options{Processes: 1})
	k := newSigner(t, s)
	tokens := func(part *rig.Part) string { return filepath.Join(part.Dir, "tokens") }
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	kill := func() {
		if l := s.children[0].link.Load(); l != nil {
			l.die(errHung)
		}
	}
	failed := s.Counters().FailedStarts
	move(tokens(p), tokens(p)+".kept")
	move(tokens(other), tokens(p))
	kill()
	for end := time.Now().Add(20 * time.Second); s.Counters().FailedStarts < failed+2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("another token was opened")
		}
	}
	if err := k.sign(time.Second); err == nil {
		t.Error("a key of the one token works on the other")
	}
	move(tokens(p), tokens(other))
	move(tokens(p)+".kept", tokens(p))
	for end := time.Now().Add(20 * time.Second); k.sign(time.Second) != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the right token is not opened again")
		}
	}
	if n := f.WrongPINs(t); n != 0 {
		t.Errorf("the PIN was shown to another token %d times", n)
	}
}

// TestRealModuleHeals breaks a real module under load in every way: operations succeed again within two seconds after the
// cause is gone, no result is wrong, and no PIN is refused.
func TestRealModuleHeals(t *testing.T) {
	f := rig.Fault(t, rig.SoftHSM(t))
	s := openModule(t, f.Part, Options{Processes: 2})
	k := newSigner(t, s)
	for _, c := range []struct {
		name        string
		break_, fix func()
	}{
		{"crash", func() { f.Crash(t, "C_Sign", "segv", "times=2") }, func() {}},
		{"hang", func() { f.Hang(t, "C_Sign", "times=2") }, func() {}},
		{"sessions dropped", func() { f.DropSessions(t) }, func() {}},
		{"wedged", func() { f.Wedge(t) }, func() {}},
		{"token gone", func() { f.TokenGone(t) }, func() { f.TokenBack(t) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			eventually(t, "all is well before", func() bool { return k.sign(time.Second) == nil && s.Counters().Ready == 2 })
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for ctx.Err() == nil {
						if err := k.sign(300 * time.Millisecond); errors.Is(err, errWrong) || fault.Has(err, fault.Internal) || fault.Has(err, fault.KeyMaterial) {
							t.Error(err)
						}
					}
				})
			}
			c.break_()
			time.Sleep(500 * time.Millisecond)
			c.fix()
			start := time.Now()
			eventually(t, "operations succeed again", func() bool {
				for range 20 {
					if k.sign(2*time.Second) != nil {
						return false
					}
				}
				return true
			})
			t.Logf("twenty operations in a row succeeded %v after the cause was gone, or half a second after it", time.Since(start))
			stop()
			wg.Wait()
		})
	}
	if n := f.WrongPINs(t); n != 0 {
		t.Errorf("%d wrong PINs", n)
	}
	t.Logf("%+v", s.Counters())
}

// TestRealModuleRefusesThePIN has the token refuse its PIN after its sessions are gone: of all processes, and of all attempts to
// heal, one login reaches it.
func TestRealModuleRefusesThePIN(t *testing.T) {
	f := rig.Fault(t, rig.SoftHSM(t))
	s := openModule(t, f.Part, quickly(3))
	k := newSigner(t, s)
	f.ResetCounts(t)
	f.Set(t, "C_Login", "CKR_PIN_INCORRECT")
	f.DropSessions(t)
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			until := time.Now().Add(2 * time.Second)
			for time.Now().Before(until) {
				if err := k.sign(time.Second); err == nil {
					t.Error("a token without a login has signed")
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	if n := f.Count(t, "C_Login"); n != 1 {
		t.Errorf("the PIN was sent %d times", n)
	}
	if err := k.sign(time.Second); !errors.Is(err, token.ErrPINRefused) || !s.Counters().PINRefused {
		t.Errorf("got %v", err)
	}
}

// BenchmarkRealModule signs with P-256 on SoftHSM: in process, through one child, and through two.
func BenchmarkRealModule(b *testing.B) {
	p := rig.SoftHSM(b)
	p.Setenv(b)
	config := token.Config{Module: p.Module, InitArgs: p.Init, Serial: p.Serial, PIN: secret.Bytes(p.PIN(b))}
	digest := make([]byte, 32)
	run := func(name string, callers int, open func() (token.Token, error)) {
		b.Run(fmt.Sprintf("%s/callers=%d", name, callers), func(b *testing.B) {
			tok, err := open()
			if err != nil {
				b.Fatal(err)
			}
			defer tok.Close()
			var id token.ID
			rand.Read(id[:])
			if _, err := tok.Generate(b.Context(), id, backend.ECDSAP256, backend.PurposeSigning, false); err != nil {
				b.Fatal(err)
			}
			measure(b, callers, func() error {
				_, err := tok.Use(b.Context(), token.Call{Op: token.Sign, ID: id, Algorithm: backend.ECDSAP256, Input: digest})
				return err
			})
		})
	}
	for _, callers := range []int{1, 16} {
		run("in-process", callers, func() (token.Token, error) { return token.Open(b.Context(), config, token.Options{}) })
		for _, n := range []int{1, 2} {
			run(fmt.Sprintf("processes=%d", n), callers, func() (token.Token, error) { return Open(b.Context(), config, Options{Processes: n}) })
		}
	}
}

// TestRealModuleDoesLess: a child that opens the token while some of it fails must not go on by what it has found.
func TestRealModuleDoesLess(t *testing.T) {
	f := rig.Fault(t, rig.SoftHSM(t))
	s := openModule(t, f.Part, Options{Processes: 1, LesserFor: 3 * time.Second})
	k := newSigner(t, s)
	restart := func() {
		t.Helper()
		f.Set(t, "C_SignInit", "CKR_MECHANISM_INVALID")
		for _, p := range f.Processes(t) {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	works := func(limit time.Duration) {
		t.Helper()
		var err error
		for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if err = k.sign(time.Second); err == nil {
				return
			}
		}
		t.Fatalf("after %v: %v", limit, err)
	}
	restart()
	refused := 0
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := k.sign(time.Second); !fault.Has(err, fault.BackendUnavailable) {
			t.Errorf("while the token does less: %v", err)
		}
		refused++
	}
	if refused == 0 {
		t.Error("nothing was tried")
	}
	f.Clear(t)
	works(30 * time.Second)

	// When it lasts the token is taken as it is, and when it ends after all that is noticed.
	restart()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err := k.sign(time.Second); fault.Has(err, fault.Unsupported) {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the token is not taken as it is: %v", err)
		}
	}
	f.Clear(t)
	works(30 * time.Second)
}
