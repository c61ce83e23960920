package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// rawResult is what one process has measured straight on a module.
type rawResult struct {
	Calls     int64   `json:"calls"`
	Seconds   float64 `json:"seconds"`
	Processor float64 `json:"processor"` // seconds of processor time
}

func (r rawResult) perSecond() float64 { return float64(r.Calls) / r.Seconds }

// rawWork is what `bench raw` does: the calls that the service makes for a request, with nothing around them. Every thread has a
// session, and knows the handle of the key.
type rawWork struct {
	module, label, pinFile, op string
	threads                    int
	duration                   time.Duration
}

// serveRaw is the sub-command: it makes a key, says "ready", waits for a line, measures, prints the result and destroys the key.
func serveRaw(args []string) (err error) {
	var w rawWork
	f := flag.NewFlagSet("raw", flag.ExitOnError)
	f.StringVar(&w.module, "module", "", "path of the PKCS#11 module")
	f.StringVar(&w.label, "label", "", "the token's label")
	f.StringVar(&w.pinFile, "pin-file", "", "file with the user's PIN")
	f.StringVar(&w.op, "op", "sign", "sign (ECDSA P-256, a digest) or encrypt (AES-256-GCM, 32 bytes)")
	f.IntVar(&w.threads, "threads", 16, "threads, with a session each")
	f.DurationVar(&w.duration, "duration", time.Second, "how long")
	if err := f.Parse(args); err != nil {
		return err
	}
	m := pkcs11.New(w.module)
	if m == nil {
		return errors.New("the module does not load")
	}
	if err := m.Initialize(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Finalize()) }()
	open, err := w.login(m)
	if err != nil {
		return err
	}
	first, err := open()
	if err != nil {
		return err
	}
	objects, call, err := w.prepare(m, first)
	if err != nil {
		return err
	}
	defer func() {
		for _, o := range objects {
			err = errors.Join(err, m.DestroyObject(first, o))
		}
	}()
	sessions := make([]pkcs11.SessionHandle, w.threads)
	for i := range sessions {
		if sessions[i], err = open(); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fmt.Errorf("waiting for the start: %w", err)
	}
	r, err := w.measure(sessions, call)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// login logs in to the token with the label, and gives what opens sessions.
func (w *rawWork) login(m *pkcs11.Ctx) (func() (pkcs11.SessionHandle, error), error) {
	slots, err := m.GetSlotList(true)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(slots, func(s uint) bool {
		info, err := m.GetTokenInfo(s)
		return err == nil && strings.TrimRight(info.Label, " ") == w.label
	})
	if at < 0 {
		return nil, errors.New("the module has no token with the label")
	}
	open := func() (pkcs11.SessionHandle, error) {
		return m.OpenSession(slots[at], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	}
	pin, err := os.ReadFile(w.pinFile)
	if err != nil {
		return nil, err
	}
	s, err := open()
	if err != nil {
		return nil, err
	}
	return open, m.Login(s, pkcs11.CKU_USER, string(trimSpace(pin)))
}

// prepare makes a key such as the service's keys are: on the token, private, sensitive, not extractable.
func (w *rawWork) prepare(m *pkcs11.Ctx, s pkcs11.SessionHandle) ([]pkcs11.ObjectHandle, func(pkcs11.SessionHandle) error, error) {
	attr := pkcs11.NewAttribute
	kept := []*pkcs11.Attribute{attr(pkcs11.CKA_TOKEN, true), attr(pkcs11.CKA_PRIVATE, true), attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, false)}
	in := make([]byte, 32)
	rand.Read(in) // never fails (crypto/rand)
	switch w.op {
	case "sign":
		p256 := []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7} // DER of the curve's object identifier
		pub, priv, err := m.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
			[]*pkcs11.Attribute{attr(pkcs11.CKA_EC_PARAMS, p256), attr(pkcs11.CKA_TOKEN, true)}, append(kept, attr(pkcs11.CKA_SIGN, true)))
		mech := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}
		return []pkcs11.ObjectHandle{pub, priv}, func(s pkcs11.SessionHandle) error {
			if err := m.SignInit(s, mech, priv); err != nil {
				return err
			}
			_, err := m.Sign(s, in)
			return err
		}, err
	case "encrypt":
		key, err := m.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)},
			append(kept, attr(pkcs11.CKA_VALUE_LEN, 32), attr(pkcs11.CKA_ENCRYPT, true)))
		return []pkcs11.ObjectHandle{key}, func(s pkcs11.SessionHandle) error {
			var iv [12]byte
			rand.Read(iv[:]) // never fails (crypto/rand)
			params := pkcs11.NewGCMParams(iv[:], nil, 128)
			defer params.Free()
			if err := m.EncryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key); err != nil {
				return err
			}
			_, err := m.Encrypt(s, in)
			return err
		}, err
	}
	return nil, nil, errors.New("-op is sign or encrypt")
}

func (w *rawWork) measure(sessions []pkcs11.SessionHandle, call func(pkcs11.SessionHandle) error) (rawResult, error) {
	var total atomic.Int64
	var wg sync.WaitGroup
	before, err := processorTime(os.Getpid())
	if err != nil {
		return rawResult{}, err
	}
	errs := make([]error, len(sessions))
	start := time.Now()
	for i, s := range sessions {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			n := int64(0)
			for time.Since(start) < w.duration {
				if errs[i] = call(s); errs[i] != nil {
					break
				}
				n++
			}
			total.Add(n)
		})
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	after, err := processorTime(os.Getpid())
	return rawResult{total.Load(), took, after - before}, errors.Join(errors.Join(errs...), err)
}

// run does the work in so many processes at the same time, and gives what they did together, and the processor time of one call.
func (w rawWork) run(ctx context.Context, processes int) (figures, error) {
	return runRaw(ctx, processes, "raw", "-module", w.module, "-label", w.label, "-pin-file", w.pinFile, "-op", w.op,
		"-threads", fmt.Sprint(w.threads), "-duration", w.duration.String())
}

// runRaw starts this program once more, so many times, lets all of them begin when all are ready, and adds up what they have measured.
func runRaw(ctx context.Context, processes int, args ...string) (figures, error) {
	self, err := os.Executable()
	if err != nil {
		return figures{}, err
	}
	type child struct {
		cmd *exec.Cmd
		in  interface{ Write([]byte) (int, error) }
		out *bufio.Reader
	}
	children := make([]child, processes)
	for i := range children {
		cmd := exec.CommandContext(ctx, self, args...) //nolint:gosec // this program once more
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return figures{}, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return figures{}, err
		}
		if err := cmd.Start(); err != nil {
			return figures{}, err
		}
		children[i] = child{cmd, in, bufio.NewReader(out)}
		if _, err := children[i].out.ReadString('\n'); err != nil {
			return figures{}, fmt.Errorf("measuring without the service: %w", err)
		}
	}
	for _, c := range children {
		if _, err := c.in.Write([]byte("go\n")); err != nil {
			return figures{}, err
		}
	}
	var sum figures
	calls := int64(0)
	for _, c := range children {
		var r rawResult
		if err := json.NewDecoder(c.out).Decode(&r); err != nil {
			return figures{}, fmt.Errorf("measuring without the service: %w", err)
		}
		if err := c.cmd.Wait(); err != nil {
			return figures{}, fmt.Errorf("measuring without the service: %w", err)
		}
		sum.perSecond += r.perSecond()
		sum.processor += r.Processor
		calls += r.Calls
	}
	sum.processor /= float64(max(calls, 1))
	return sum, nil
}
