package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
