package tpm_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm"
	"github.com/keywright/keywright/tpm/device"
)

// TestAwait: a backend that is known waits for its TPM, takes no other, and is the backend from then on.
func TestAwait(t *testing.T) {
	ctx := t.Context()
	m, other := rig.SWTPM(t), rig.SWTPM(t)
	p := m.Proxy(t)
	u, err := device.ParseURI(p.URI)
	if err != nil {
		t.Fatal(err)
	}
	var pinned []byte
	attempt := func(ctx context.Context) (*tpm.Backend, error) {
		d, err := device.Open(ctx, device.Options{Name: "tpm", URI: u, ParentName: pinned})
		if err != nil {
			return nil, err
		}
		b, err := tpm.Open(ctx, tpm.Options{Name: "tpm", Device: d, Derive: func(string) (secret.Bytes, error) { return make(secret.Bytes, 32), nil }})
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		pinned = d.ParentName()
		return b, nil
	}
	arrived := make(chan struct{}, 1)
	registry := prometheus.NewRegistry()
	o := tpm.WaitOptions{Name: "tpm", Open: attempt, Arrived: func() { arrived <- struct{}{} }, Registerer: registry, Soon: time.Millisecond, Late: 20 * time.Millisecond}
	open := func(want float64) {
		t.Helper()
		text := "# HELP keywright_tpm_open 1: the TPM was reached since the start, and is the pinned one.\n# TYPE keywright_tpm_open gauge\nkeywright_tpm_open{backend=\"tpm\"} " +
			map[float64]string{0: "0", 1: "1"}[want] + "\n"
		if err := testutil.GatherAndCompare(registry, strings.NewReader(text), "keywright_tpm_open"); err != nil {
			t.Error(err)
		}
	}

	p.Away()
	if w, err := tpm.Await(ctx, o); !fault.Has(err, fault.BackendUnavailable) || w != nil {
		t.Fatalf("a TPM that nobody has seen yet: %v", err)
	}
	p.Back()
	w, err := tpm.Await(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	open(1)
	known := w.Info()
	ref, err := w.Generate(ctx, spec(backend.ECDSAP256, backend.PurposeSigning))
	if err != nil {
		t.Fatal(err)
	}
	if s := w.Members(); len(s) != 1 || s[0].State != "healthy" || s[0].Reason != "" {
		t.Errorf("members %+v", s)
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Ping(ctx); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("after Close: %v", err)
	}

	o.Known, o.Required = &known, true
	p.Behind(other)
	if _, err := tpm.Await(ctx, o); !errors.Is(err, device.ErrForeign) {
		t.Errorf("another TPM where one is required: %v", err)
	}
	o.Required = false
	if w, err = tpm.Await(ctx, o); err != nil {
		t.Fatal(err)
	}
	open(0)
	if got := w.Info(); got.ID != known.ID || len(got.Capabilities) != len(known.Capabilities) {
		t.Errorf("known as %+v", got)
	}
	for what, f := range map[string]func() error{
		"Generate":      func() error { _, err := w.Generate(ctx, spec(backend.ECDSAP256, backend.PurposeSigning)); return err },
		"Load":          func() error { _, err := w.Load(ctx, ref); return err },
		"Destroy":       func() error { return w.Destroy(ctx, ref) },
		"Import":        func() error { _, err := w.Import(ctx, ref.Spec, nil); return err },
		"ImportWrapped": func() error { _, err := w.ImportWrapped(ctx, ref.Spec, ref, 0, nil); return err },
		"Seal":          func() error { _, err := w.Seal(ctx, nil, nil); return err },
		"Open":          func() error { _, err := w.Open(ctx, nil, nil); return err },
		"Random":        func() error { return w.Random(ctx, make([]byte, 1)) },
		"Ping":          func() error { return w.Ping(ctx) },
	} {
		var f1 *fault.Error
		if err := f(); !errors.Is(err, device.ErrForeign) || !fault.Has(err, fault.BackendUnavailable) || !errors.As(err, &f1) || f1.After <= 0 {
			t.Errorf("%s on another TPM: %v", what, err)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := w.Ping(gone); !fault.Has(err, fault.Timeout) {
		t.Errorf("a context that has ended: %v", err)
	}
	if s := w.Members(); len(s) != 1 || s[0].State != "missing" || !strings.Contains(s[0].Reason, "not the TPM") {
		t.Errorf("members %+v", s)
	}
	p.Behind(m)
	select {
	case <-arrived:
	case <-time.After(20 * time.Second):
		t.Fatal("the TPM is there and not found")
	}
	open(1)
	k, err := w.Load(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.Close(), w.Close()); err != nil {
		t.Error(err)
	}

	// Closed while it waits.
	p.Away()
	if w, err = tpm.Await(ctx, o); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := w.Ping(ctx); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}
