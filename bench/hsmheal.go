package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	healWorkers  = 8
	healPatience = time.Second     // how long a caller waits for an answer
	healWatch    = 4 * time.Second // how long a fault's effect is followed after its end
)

// outcome is the end of one operation.
type outcome struct {
	at  time.Time
	err error
}

// watcher drives an HSM's keys and checks every result: each signature with the public key, each ciphertext by opening it.
type watcher struct {
	t      *target
	client *http.Client
	public *ecdsa.PublicKey

	mu       sync.Mutex // guards all below
	outcomes []outcome
	wrong    int
	made     []string // ids of keys whose creation was acknowledged
	failed   int      // creations that were not
}

func newWatcher(ctx context.Context, t *target) (*watcher, error) {
	w := &watcher{t: t, client: &http.Client{Timeout: healPatience, Transport: &http.Transport{MaxIdleConnsPerHost: 2 * healWorkers}}}
	var v struct {
		Data struct {
			PublicKey string `json:"public_key"`
		} `json:"data"`
	}
	if err := t.call(ctx, http.MethodGet, "/keys/p256/public", nil, &v); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(v.Data.PublicKey))
	if block == nil {
		return nil, errors.New("the public key is not PEM")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	var ok bool
	if w.public, ok = k.(*ecdsa.PublicKey); !ok {
		return nil, errors.New("the public key is of another kind")
	}
	return w, nil
}

// data is what the answers have that the watcher asks for.
type data struct {
	ID         string `json:"id"`
	Signature  []byte `json:"signature"`
	Ciphertext []byte `json:"ciphertext"`
	Plaintext  []byte `json:"plaintext"`
}

func (w *watcher) post(ctx context.Context, path string, body any) (data, error) {
	var out struct {
		Data data `json:"data"`
	}
	b, err := json.Marshal(body)
	if err != nil {
		return out.Data, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.t.base+path, bytes.NewReader(b))
	if err != nil {
		return out.Data, err
	}
	req.Header = w.t.header
	resp, err := w.client.Do(req)
	if err != nil {
		return out.Data, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return out.Data, err
	}
	if resp.StatusCode >= 300 {
		return out.Data, fmt.Errorf("%s: status %d: %.200s", path, resp.StatusCode, answer)
	}
	return out.Data, json.Unmarshal(answer, &out)
}

// errWrong is a result that is there and not right: what must never be.
var errWrong = errors.New("a wrong result")

func (w *watcher) sign(ctx context.Context, message []byte) error {
	d, err := w.post(ctx, "/keys/p256/sign", map[string]any{"message": message})
	if err != nil {
		return err
	}
	digest := sha256.Sum256(message)
	if !ecdsa.VerifyASN1(w.public, digest[:], d.Signature) {
		return errWrong
	}
	return nil
}

func (w *watcher) seal(ctx context.Context, message []byte) error {
	d, err := w.post(ctx, "/keys/aes/encrypt", map[string]any{"plaintext": message})
	if err != nil {
		return err
	}
	if d, err = w.post(ctx, "/decrypt", map[string]any{"ciphertext": d.Ciphertext}); err != nil {
		return err
	}
	if !bytes.Equal(d.Plaintext, message) {
		return errWrong
	}
	return nil
}

func (w *watcher) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(err, errWrong) {
		w.wrong++
	}
	w.outcomes = append(w.outcomes, outcome{time.Now(), err})
}

// run works until ctx ends: workers that sign and encrypt, and one that makes keys.
func (w *watcher) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range healWorkers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				do := w.sign
				if (n+i)%2 == 0 {
					do = w.seal
				}
				err := do(ctx, fmt.Appendf(nil, "message %d of worker %d", n, i))
				if ctx.Err() != nil {
					break
				}
				w.note(err)
				pause(ctx, map[bool]time.Duration{true: 2 * time.Millisecond, false: 20 * time.Millisecond}[err == nil])
			}
		})
	}
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			d, err := w.post(ctx, "/keys", map[string]any{"name": fmt.Sprintf("made-%d", n), "algorithm": "ECDSA-P256", "backend": "hsm"})
			w.mu.Lock()
			if err == nil {
				w.made = append(w.made, d.ID)
			} else {
				w.failed++
			}
			w.mu.Unlock()
			pause(ctx, 50*time.Millisecond)
		}
	})
	wg.Wait()
	w.client.CloseIdleConnections()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// healed gives how long after from the first success came that no failure followed, how many operations failed since before, and how
// long it was from the first failure to that success.
func (w *watcher) healed(before, from time.Time) (after time.Duration, failed int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var last time.Time
	for _, o := range w.outcomes {
		if o.at.After(before) && o.err != nil {
			failed++
			if o.at.After(last) {
				last = o.at
			}
		}
	}
	var first time.Time
	for _, o := range w.outcomes {
		if o.err == nil && o.at.After(last) && o.at.After(from) && (first.IsZero() || o.at.Before(first)) {
			first = o.at
		}
	}
	if first.IsZero() {
		return 0, failed, errors.New("nothing has succeeded since")
	}
	return first.Sub(from), failed, nil
}

// misfortune is a fault, and its lifting if it does not end by itself.
type misfortune struct {
	name  string
	cause func(context.Context, *device) error
	lift  [][]string // commands, a second later
}

func misfortunes() []misfortune {
	commands := func(words ...string) func(context.Context, *device) error {
		return func(ctx context.Context, d *device) error {
			_, err := d.fault(ctx, words...)
			return err
		}
	}
	return []misfortune{
		{"the module's processes killed", killAll, nil},
		// As many calls hang as there are callers, for good: no release comes.
		{"calls hang in the module, callers wait 1 s", commands("hang", "C_Sign", fmt.Sprintf("times=%d", healWorkers)), nil},
		{"every call of the module hangs for 1 s, callers wait 1 s", commands("hang", "C_Sign,C_Encrypt,C_Decrypt"), [][]string{{"clear"}}},
		{"every session invalid", commands("drop-sessions"), nil},
		{"the token lost and back", commands("token", "gone"), [][]string{{"token", "back"}}},
		{"the module wedged until it is initialised anew", commands("wedge"), nil},
		{"every call answers CKR_DEVICE_ERROR for 1 s", commands("set", "*", "rv=CKR_DEVICE_ERROR"), [][]string{{"clear"}}},
	}
}

func killAll(ctx context.Context, d *device) error {
	pids, err := d.processes(ctx)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return errors.New("no process has the module loaded")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}

// heal does each misfortune to a service under load, and says how long it takes until operations succeed again.
func (h *hsmSuite) heal(ctx context.Context) error {
	for _, a := range arrangements()[1:] {
		if err := h.healOne(ctx, a); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return nil
}

// isolated gives a token of its own with a service on it, behind the fault module.
func (h *hsmSuite) isolated(ctx context.Context, a arrangement) (*device, *process, *target, error) {
	dir, err := os.MkdirTemp(h.dir, "device-")
	if err != nil {
		return nil, nil, nil, err
	}
	d, err := newDevice(ctx, h.parts, dir)
	if err != nil {
		return nil, nil, nil, err
	}
	p, t, err := h.start(ctx, d.uri(true, a.attributes...))
	if err != nil {
		return nil, nil, nil, err
	}
	if err = t.createKey(ctx, "aes", "AES-256-GCM"); err == nil {
		err = t.createKey(ctx, "p256", "ECDSA-P256")
	}
	if err != nil {
		stopQuietly(p)
		return nil, nil, nil, err
	}
	return d, p, t, nil
}

func (h *hsmSuite) healOne(ctx context.Context, a arrangement) error {
	d, p, t, err := h.isolated(ctx, a)
	if err != nil {
		return err
	}
	defer stopQuietly(p)
	w, err := newWatcher(ctx, t)
	if err != nil {
		return err
	}
	load, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { w.run(load) })
	defer func() { stop(); running.Wait() }()
	pause(ctx, time.Second)
	for _, m := range misfortunes() {
		var worst time.Duration
		failures := 0
		for range h.rounds {
			took, failed, err := w.suffer(ctx, d, m)
			if err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			worst, failures = max(worst, took), failures+failed
		}
		h.report.add(fmt.Sprintf("%s, %s: until operations succeed again, worst of %d", m.name, a.name, h.rounds), worst.Seconds(), "s", "≤ 2", worst <= 2*time.Second)
		h.report.info(fmt.Sprintf("%s, %s: operations that failed", m.name, a.name), float64(failures), "")
	}
	stop()
	running.Wait()
	return h.aftermath(ctx, d, p, w, a)
}

// suffer does one misfortune.
func (w *watcher) suffer(ctx context.Context, d *device, m misfortune) (time.Duration, int, error) {
	before := time.Now()
	if err := m.cause(ctx, d); err != nil {
		return 0, 0, err
	}
	from := before
	if len(m.lift) > 0 {
		pause(ctx, time.Second)
		from = time.Now()
		for _, words := range m.lift {
			if _, err := d.fault(ctx, words...); err != nil {
				return 0, 0, err
			}
		}
	}
	pause(ctx, healWatch)
	return w.healed(before, from)
}

// aftermath counts what must not have happened.
func (h *hsmSuite) aftermath(ctx context.Context, d *device, p *process, w *watcher, a arrangement) error {
	if _, err := d.fault(ctx, "clear"); err != nil {
		return err
	}
	w.mu.Lock()
	wrong, made, failed, operations := w.wrong, slices.Clone(w.made), w.failed, len(w.outcomes)
	w.mu.Unlock()
	lost := 0
	for _, id := range made {
		if err := w.t.call(ctx, http.MethodPost, "/keys/"+id+"/sign", map[string]any{"message": []byte("still there")}, nil); err != nil {
			fmt.Fprintln(os.Stderr, "bench: a key that was acknowledged:", err)
			lost++
		}
	}
	refused, err := d.number(ctx, "wrong-pins")
	if err != nil {
		return err
	}
	var r struct {
		Objects, Records int
		Orphans          []any `json:"objects_without_record"`
		Missing          []any `json:"records_without_object"`
		Creating         []any `json:"objects_being_created"`
	}
	// Exit code 7 says that something was found, which is looked at here.
	out, err := command(ctx, h.binary, "hsm", "reconcile", "--uri", d.uri(false), "--data", filepath.Dir(p.log), "-o", "json")
	if jerr := json.Unmarshal([]byte(out), &r); jerr != nil {
		return errors.Join(err, jerr)
	}
	doubles := r.Objects - (r.Records - len(r.Missing)) - len(r.Orphans) - len(r.Creating)
	what := func(s string) string { return "after all that, " + a.name + ": " + s }
	h.report.info(what("operations, each result checked"), float64(operations), "")
	h.report.add(what("wrong results"), float64(wrong), "", "0", wrong == 0)
	h.report.info(what("keys made"), float64(len(made)), "")
	h.report.add(what("keys lost"), float64(lost+len(r.Missing)), "", "0", lost+len(r.Missing) == 0)
	h.report.add(what("keys twice on the token"), float64(doubles), "", "0", doubles == 0)
	h.report.info(what("creations that failed"), float64(failed), "")
	left := len(r.Orphans) + len(r.Creating)
	h.report.add(what("keys on the token of creations that failed"), float64(left), "", "≤ failed", left <= failed)
	h.report.add(what("logins that the token refused"), float64(refused), "", "0", refused == 0)
	return nil
}

// refusedPIN makes the token refuse the PIN while it heals: of all processes one may send it, and none again.
func (h *hsmSuite) refusedPIN(ctx context.Context) error {
	a := arrangements()[2]
	d, p, t, err := h.isolated(ctx, a)
	if err != nil {
		return err
	}
	defer stopQuietly(p)
	w, err := newWatcher(ctx, t)
	if err != nil {
		return err
	}
	load, stop := context.WithTimeout(ctx, 6*time.Second)
	defer stop()
	var running sync.WaitGroup
	running.Go(func() { w.run(load) })
	pause(ctx, time.Second)
	if _, err := d.fault(ctx, "set", "C_Login", "rv=CKR_PIN_INCORRECT"); err != nil {
		return err
	}
	before, err := d.number(ctx, "count", "C_Login")
	if err != nil {
		return err
	}
	if err := killAll(ctx, d); err != nil {
		return err
	}
	running.Wait()
	after, err := d.number(ctx, "count", "C_Login")
	if err != nil {
		return err
	}
	h.report.add("PIN refused while both processes heal: attempts in 5 s", float64(after-before), "", "1", after-before == 1)
	return nil
}
