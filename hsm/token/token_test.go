package token

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// openToken opens a part's token; it is closed with the test.
func openToken(t testing.TB, p *rig.Part, change ...func(*Config)) *device {
	t.Helper()
	d, err := tryOpen(t, p, change...)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

func tryOpen(t testing.TB, p *rig.Part, change ...func(*Config)) (*device, error) {
	t.Helper()
	cfg := Config{Module: p.Module, InitArgs: p.Init, Serial: p.Serial, Label: p.Label, PIN: secret.Bytes(p.PIN(t))}
	for _, c := range change {
		c(&cfg)
	}
	p.Setenv(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tok, err := Open(ctx, cfg, Options{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return nil, err
	}
	return tok.(*device), nil
}

func acceptLeaks(c *Config) { c.AcceptLeaks = true }

func newID() (id ID) {
	rand.Read(id[:])
	return id
}
