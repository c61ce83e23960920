package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
)

// rogueVariable names what a child does that does not keep to the protocol.
const rogueVariable = "KEYWRIGHT_TEST_ROGUE"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Argument {
		if rogue := os.Getenv(rogueVariable); rogue != "" {
			os.Exit(runRogue(rogue))
		}
		os.Exit(Child(context.Background(), openAny))
	}
	os.Exit(m.Run())
}

// fake is a token in memory for the tests of protocol and supervision. What it does is told by Config.Module, and by the Input
// of Use. Its directory (Config.InitArgs) is the device that all processes share: what they do there stays.
type fake struct {
	dir    string
	config token.Config

	mu    sync.Mutex
	keys  map[token.ID]token.Object // guarded by mu
	stats token.Stats               // guarded by mu
	stuck time.Time                 // guarded by mu: since when
}

// record adds a line to a file of the device.
func (f *fake) record(file, line string) error { return record(f.dir, file, line) }

func record(dir, file, line string) error {
	w, err := os.OpenFile(filepath.Join(dir, file), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = w.WriteString(line + "\n")
	return errors.Join(err, w.Close())
}

func recorded(t testing.TB, dir, file string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func (f *fake) exists(file string) bool {
	_, err := os.Stat(filepath.Join(f.dir, file))
	return err == nil
}

// openAny opens a fake, or the real module that the configuration names.
func openAny(ctx context.Context, c token.Config) (token.Token, error) {
	switch c.Module {
	case "fake", "noop":
		return openFake(ctx, c)
	}
	return token.Open(ctx, c, token.Options{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
}

func openFake(ctx context.Context, c token.Config) (token.Token, error) {
	f := &fake{dir: c.InitArgs, config: c, keys: make(map[token.ID]token.Object)}
	if c.Module == "noop" {
		return f, nil
	}
	fmt.Fprintln(os.Stderr, "opening with", string(c.PIN))
	switch {
	case f.exists("hang-open"):
		select {}
	case f.exists("crash-open"):
		os.Exit(9)
	case f.exists("gone"):
		return nil, fault.New(fault.BackendUnavailable, "no such token").RetryAfter(time.Second)
	}
	if err := f.login(ctx, c); err != nil {
		return nil, err
	}
	return f, f.record("pids", fmt.Sprint(os.Getpid()))
}

// login compares the PIN with that of the device.
func (f *fake) login(ctx context.Context, c token.Config) error {
	return c.LoginGate(ctx, func() error {
		if err := f.record("logins", fmt.Sprint(os.Getpid())); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond) // for a second login to fall into it
		want, err := os.ReadFile(filepath.Join(f.dir, "pin"))
		if err != nil {
			return err
		}
		if !bytes.Equal(want, c.PIN) {
			return fault.Wrap(fault.BackendUnavailable, "the PIN is wrong", token.ErrPINRefused)
		}
		f.mu.Lock()
		f.stats.Logins++
		f.mu.Unlock()
		return nil
	})
}

func (f *fake) Describe() token.Description {
	f.mu.Lock()
	defer f.mu.Unlock()
	return token.Description{Serial: "0815", Label: "fake", MaxSessions: 16, Generation: 1 + f.stats.Reinitialisations,
		Mechanisms:   []token.Mechanism{{Type: 0x1041, Name: "CKM_ECDSA", MinSize: 256, MaxSize: 521, Flags: 0x800}},
		Capabilities: []backend.Capability{{Algorithm: backend.ECDSAP256, Custody: backend.CustodyDevice, Operations: []backend.Operation{backend.OpSign}}},
		Quirks:       []string{"it is a fake"}}
}

func (f *fake) Generate(ctx context.Context, id token.ID, a backend.Algorithm, _ backend.Purpose, wrapped bool) (token.Object, error) {
	if err := f.record("generated", fmt.Sprintf("%x", id)); err != nil {
		return token.Object{}, err
	}
	if f.exists("crash-generate") {
		os.Exit(9)
	}
	return f.put(id, a, []byte("public"), wrapped)
}

func (f *fake) put(id token.ID, a backend.Algorithm, public []byte, wrapped bool) (token.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, there := f.keys[id]; there {
		return token.Object{}, fault.New(fault.Conflict, "there is such an object")
	}
	o := token.Object{ID: id, Algorithm: a, Public: public, Local: true, Sensitive: true, NeverExtractable: true}
	f.keys[id] = o
	if wrapped {
		o.Wrapped = []byte("wrapped")
	}
	return o, nil
}

func (f *fake) Import(_ context.Context, id token.ID, a backend.Algorithm, _ backend.Purpose, material secret.Bytes, wrapped bool) (token.Object, error) {
	sum := sha256.Sum256(material)
	return f.put(id, a, sum[:], wrapped)
}

// ImportWrapped takes the blob for the material.
func (f *fake) ImportWrapped(ctx context.Context, id token.ID, a backend.Algorithm, p backend.Purpose, e token.Envelope, wrapped bool) (token.Object, error) {
	return f.Import(ctx, id, a, p, e.Blob, wrapped)
}

func (f *fake) Find(_ context.Context, id token.ID) (token.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o, ok := f.keys[id]
	if !ok {
		return token.Object{}, fault.New(fault.KeyMaterial, "no such object")
	}
	return o, nil
}

func (f *fake) List(context.Context) ([]token.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []token.Object
	for _, o := range f.keys {
		list = append(list, o)
	}
	return list, nil
}

func (f *fake) Destroy(_ context.Context, id token.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.keys, id)
	return nil
}

// Use gives its input back, unless the input says something else.
func (f *fake) Use(ctx context.Context, c token.Call) ([]byte, error) {
	word, argument, _ := strings.Cut(string(c.Input[:min(len(c.Input), 64)]), " ")
	switch word {
	case "crash": // the module overwrites memory
		if err := syscall.Kill(os.Getpid(), syscall.SIGSEGV); err != nil {
			return nil, err
		}
		time.Sleep(time.Minute)
	case "crash-once":
		if f.exists("crashed-once") {
			break
		}
		if err := f.record("crashed-once", "yes"); err != nil {
			return nil, err
		}
		os.Exit(9)
	case "hang": // the module does not come back
		select {}
	case "stop":
		if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
			return nil, err
		}
		time.Sleep(time.Minute) // the signal takes a moment
	case "stuck": // the token gives a call up that the module does not
		<-ctx.Done()
		f.mu.Lock()
		f.stats.Stuck++
		f.stuck = time.Now()
		f.mu.Unlock()
		return nil, fault.Wrap(fault.Timeout, "the module took too long", ctx.Err())
	case "wait": // for a session that is not free
		<-ctx.Done()
		if err := f.record("ended", ctx.Err().Error()); err != nil {
			return nil, err
		}
		return nil, fault.Wrap(fault.Timeout, "no session was free in time", ctx.Err())
	case "sleep":
		d, err := time.ParseDuration(argument)
		if err != nil {
			return nil, err
		}
		time.Sleep(d)
	case "fault":
		return nil, fault.Wrap(fault.DecryptionFailed, "it does not open", errors.New("CKR_GENERAL_ERROR")).RetryAfter(3 * time.Second)
	case "pid":
		return fmt.Append(nil, os.Getpid()), nil
	case "reinitialise":
		f.mu.Lock()
		f.stats.Reinitialisations++
		f.mu.Unlock()
	case "relogin":
		return nil, f.login(ctx, f.config)
	case "huge":
		return make([]byte, maxFrame+1), nil
	}
	return c.Input, nil
}

// UseMany does what Use does with each item.
func (f *fake) UseMany(ctx context.Context, c token.Call, items []backend.Item) ([]backend.Result, error) {
	out := make([]backend.Result, len(items))
	for i, item := range items {
		c.Input, c.AAD = item.Input, item.AAD
		got, err := f.Use(ctx, c)
		if err != nil && !fault.Has(err, fault.DecryptionFailed) {
			return nil, err
		}
		out[i] = backend.Result{Output: bytes.Clone(got), Err: err}
	}
	return out, nil
}

// Attributes gives what Find gives.
func (f *fake) Attributes(ctx context.Context, id token.ID, _ backend.Algorithm, wrapped []byte) (token.Object, error) {
	o, err := f.Find(ctx, id)
	o.KeyGenMechanism = uint(len(wrapped))
	return o, err
}

func (f *fake) Random(_ context.Context, n int) ([]byte, error) {
	return bytes.Repeat([]byte{7}, n), nil
}

func (f *fake) Ping(ctx context.Context) error {
	if f.exists("hang-ping") {
		<-ctx.Done()
		return fault.Wrap(fault.Timeout, "the token does not answer", ctx.Err())
	}
	return nil
}

func (f *fake) Stats() token.Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.Sessions, s.Breaker = 1, "closed"
	if s.Stuck > 0 {
		s.StuckFor = time.Since(f.stuck)
	}
	return s
}

func (f *fake) Close() error { return f.record("closed", fmt.Sprint(os.Getpid())) }

// device makes the directory that all processes of a fake share.
func device(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pin"), []byte("648219"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func set(t testing.TB, dir, file string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func unset(t testing.TB, dir, file string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, file)); err != nil {
		t.Fatal(err)
	}
}

func testConfig(dir string) token.Config {
	return token.Config{Module: "fake", InitArgs: dir, PIN: secret.Bytes("648219")}
}

// open opens a fake, whose children are gone when the test ends.
func open(t testing.TB, dir string, o Options) *Supervisor {
	t.Helper()
	s, err := Open(t.Context(), testConfig(dir), o)
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

// rogue makes the command of a child that breaks the protocol in a way.
func rogue(how string) func() *exec.Cmd {
	return func() *exec.Cmd {
		cmd := command()
		cmd.Env = append(os.Environ(), rogueVariable+"="+how)
		return cmd
	}
}

func use(ctx context.Context, tok token.Token, input string) (string, error) {
	out, err := tok.Use(ctx, token.Call{Op: token.Sign, Algorithm: backend.ECDSAP256, Input: []byte(input)})
	return string(out), err
}
