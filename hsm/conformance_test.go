package hsm_test

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestMain makes the test binary its own children's.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == remote.Argument {
		os.Exit(remote.Child(context.Background(), func(ctx context.Context, c token.Config) (token.Token, error) {
			return token.Open(ctx, c, token.Options{Logger: logger()})
		}))
	}
	os.Exit(m.Run())
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// What the modules have: less is a capability that got lost.
var (
	aeads  = []backend.Algorithm{backend.AES128GCM, backend.AES192GCM, backend.AES256GCM}
	common = []backend.Algorithm{backend.AES256KWP, backend.HMACSHA256, backend.HMACSHA384, backend.HMACSHA512, backend.RSA2048, backend.RSA3072, backend.RSA4096}
	curves = []backend.Algorithm{backend.ECDSAP256, backend.ECDSAP384, backend.ECDSAP521, backend.ECDHP256, backend.ECDHP384, backend.ECDHP521}
	edward = []backend.Algorithm{backend.Ed25519, backend.Ed448}
)

func all() []backend.Algorithm {
	var out []backend.Algorithm
	for _, a := range backend.Algorithms() {
		out = append(out, a.Name)
	}
	return out
}

// how a test opens tokens.
type how struct {
	processes int // 0: in this process
	change    func(*hsm.Options)
}

func config(t testing.TB, p *rig.Part) token.Config {
	t.Helper()
	return token.Config{Module: p.Module, InitArgs: p.Init, Serial: p.Serial, Label: p.Label, PIN: secret.Bytes(p.PIN(t)), AcceptLeaks: true}
}

func (h how) token(t testing.TB, p *rig.Part) token.Token {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p.Setenv(t)
	var tok token.Token
	var err error
	if h.processes == 0 {
		tok, err = token.Open(ctx, config(t, p), token.Options{Logger: logger()})
	} else {
		tok, err = remote.Open(ctx, config(t, p), remote.Options{Processes: h.processes, Logger: logger()})
	}
	if err != nil {
		t.Fatalf("opening the token: %v", err)
	}
	return tok
}

func (h how) open(t testing.TB, name string, parts ...*rig.Part) *hsm.Backend {
	t.Helper()
	o := hsm.Options{Name: name, Logger: logger()}
	for _, p := range parts {
		o.Members = append(o.Members, hsm.Member{Token: h.token(t, p)})
	}
	if h.change != nil {
		h.change(&o)
	}
	b, err := hsm.Open(t.Context(), o)
	if err != nil {
		for _, m := range o.Members {
			_ = m.Token.Close() // the first error counts
		}
		t.Fatalf("Open: %v", err)
	}
	return b
}

func (h how) harness(part, foreign *rig.Part, algorithms ...[]backend.Algorithm) backendtest.Harness {
	return backendtest.Harness{
		Open:     func(t testing.TB, name string) backend.Backend { return h.open(t, name, part) },
		Foreign:  func(t testing.TB, name string) backend.Backend { return h.open(t, name, foreign) },
		Requires: backendtest.Requirements{Algorithms: slices.Concat(algorithms...), Import: true, Sealer: true, Randomer: true, Pinger: true},
	}
}

func wrapped(o *hsm.Options)     { o.Placement = hsm.PlacementWrapped }
func allowSealed(o *hsm.Options) { o.AllowSealed = true }

// brief is the suite without the parts that look at algorithms in depth: what is around them differs between ways of opening.
var brief = []string{"info", "unsupported", "handles", "aead", "mac", "sign", "batch", "refs", "destroy", "concurrent", "contexts", "sealer", "random", "ping", "reopen", "close", "close-in-use"}

// full is the whole suite but for the Wycheproof vectors, whose many keys are files for SoftHSM: its run with wrapped keys has them, which are
// session objects.
var full = append([]string{"kwp", "oaep", "agree", "import", "import-wrapped", "export", "reveal", "recover", "attest"}, brief...)

// whole runs the suite with all that h asks for. Under the race detector, where it would take minutes, it runs what is not one computation after the other;
// make unit runs these once more without it.
func whole(t *testing.T, h backendtest.Harness) {
	if backendtest.RaceDetector && h.Replace != nil {
		h.Only = []string{"info", "handles", "refs", "reseal", "reopen", "close"}
	} else if backendtest.RaceDetector {
		h.Only = brief
	}
	backendtest.Run(t, h)
}

func TestSoftHSM(t *testing.T) {
	p := rig.SoftHSM(t)
	h := how{}.harness(p, p.Another(t, "foreign"), aeads, common, curves, edward)
	h.Only = full
	backendtest.Run(t, h)
}

func TestSoftHSMWrapped(t *testing.T) {
	p := rig.SoftHSM(t)
	whole(t, how{change: wrapped}.harness(p, p.Another(t, "foreign"), aeads, common, curves))
}

// TestSoftHSMChildren has the module in two processes.
func TestSoftHSMChildren(t *testing.T) {
	p := rig.SoftHSM(t)
	h := how{processes: 2}.harness(p, p.Another(t, "foreign"), aeads, common, curves, edward)
	h.Only = brief
	backendtest.Run(t, h)
}

// beside is the suite for the algorithms that a token lacks, in sealed custody. The engine that computes them has runs of its own.
var beside = []string{"reveal", "info", "unsupported", "handles", "sign", "decapsulate", "refs", "reseal", "reopen", "close"}

// rotateKEK makes the next sealing key, as an operator does.
func rotateKEK(t testing.TB, b backend.Backend) {
	t.Helper()
	if _, err := b.(backend.KEKRotator).RotateKEK(t.Context()); err != nil {
		t.Fatalf("RotateKEK: %v", err)
	}
}

// TestSoftHSMSealed has every algorithm that the module lacks in sealed custody.
func TestSoftHSMSealed(t *testing.T) {
	p := rig.SoftHSM(t)
	h := how{processes: 1, change: allowSealed}.harness(p, p.Another(t, "foreign"), all())
	h.Only, h.Replace = beside, rotateKEK
	whole(t, h)
}

func TestNSS(t *testing.T) {
	h := how{processes: 1}.harness(rig.NSS(t), rig.SoftHSM(t), aeads, common, curves)
	h.Untold = true // it does not say CKA_LOCAL of what it keeps
	open := h.Open
	h.Open = func(t testing.TB, name string) backend.Backend {
		b := open(t, name)
		if b.Info().CustodyCaveat == "" {
			t.Error("NSS lets keys be wrapped out, and custody does not say so")
		}
		return b
	}
	whole(t, h)
}

func TestOpenCryptoki(t *testing.T) {
	whole(t, how{processes: 1}.harness(rig.OpenCryptoki(t), rig.SoftHSM(t), common))
}

// TestOpenCryptokiSealed: the token has no AES-GCM and no curves, and seals by AES-KWP.
func TestOpenCryptokiSealed(t *testing.T) {
	h := how{processes: 1, change: allowSealed}.harness(rig.OpenCryptoki(t), rig.SoftHSM(t), all())
	h.Only, h.Replace = beside, rotateKEK
	whole(t, h)
}
