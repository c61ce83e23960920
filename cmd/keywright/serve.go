package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/keywright/keywright/hsm/uri"
)

// serveCmd runs the service.
type serveCmd struct {
	Dev            bool     `help:"The embedded default: everything under --data, a key file as root, plain HTTP. For trying things out."`
	Data           string   `help:"Folder for what the service keeps." placeholder:"DIR" type:"path"`
	Config         string   `help:"Configuration file (YAML); flags override it." placeholder:"FILE" type:"path"`
	Listen         []string `help:"Where to serve the API: HOST:PORT, or unix:/PATH (default 127.0.0.1:8200). Repeatable." placeholder:"ADDRESS" sep:"none"`
	MetricsListen  string   `help:"Where to serve /metrics, or off (default: the port after --listen's, on loopback)." placeholder:"HOST:PORT"`
	Store          string   `help:"The store: sqlite:/PATH or postgres://ROLE@HOST/DATABASE (default sqlite:DIR/keywright.db)." placeholder:"URI"`
	StorePassword  string   `name:"store-password-file" help:"File with the password of the store's database role; read again for each connection." placeholder:"FILE" type:"path"`
	Backend        []string `help:"A backend by name and URI, as in software=software:, tpm=tpm:/dev/tpmrm0 or hsm=pkcs11:token=prod?module-path=/M.so&pin-source=file:/PIN; the first is the default. Repeatable." placeholder:"NAME=URI" sep:"none"`
	RootKeyFile    string   `help:"Key file that opens the root at start." placeholder:"FILE" type:"path"`
	PassphraseFile string   `help:"File with the passphrase that opens the root at start." placeholder:"FILE" type:"path"`
	RootSlot       string   `help:"Device that opens the root at start: the name of a backend, or pkcs11:token=prod?module-path=/M.so&pin-source=file:/PIN or tpm:/dev/tpmrm0 for the root alone." placeholder:"NAME|URI"`
	LogLevel       string   `help:"debug, info, warn or error." placeholder:"LEVEL"`
}

// settings merges the configuration file and the flags.
func (s *serveCmd) settings() (config, error) {
	var c config
	if s.Config != "" {
		var err error
		if c, err = loadConfig(s.Config); err != nil {
			return c, err
		}
	} else if !s.Dev {
		return c, usage("give --config FILE, or --dev for the embedded default")
	}
	for _, f := range []struct{ flag, setting *string }{
		{&s.Data, &c.Data}, {&s.MetricsListen, &c.MetricsListen}, {&s.Store, &c.Store.URL},
		{&s.StorePassword, &c.Store.PasswordFile},
		{&s.RootKeyFile, &c.Root.KeyFile}, {&s.PassphraseFile, &c.Root.PassphraseFile}, {&s.LogLevel, &c.Log.Level},
	} {
		if *f.flag != "" {
			*f.setting = *f.flag
		}
	}
	if len(s.Listen) > 0 {
		c.Listen = nil
	}
	for _, address := range s.Listen {
		c.Listen = append(c.Listen, listenConfig{Address: address})
	}
	if s.RootSlot != "" {
		c.Root.Device, c.Root.origin = s.RootSlot, uri.FromFlag
	}
	if len(s.Backend) > 0 {
		c.Backends = nil
	}
	for _, b := range s.Backend {
		name, address, ok := strings.Cut(b, "=")
		if !ok {
			return c, usage("--backend takes NAME=URI, as in software=software:")
		}
		c.Backends = append(c.Backends, backendConfig{Name: name, URI: address})
	}
	if err := c.complete(s.Dev); err != nil {
		return c, usage("%w", err)
	}
	if s.Dev && c.Root.KeyFile == "" && c.Root.PassphraseFile == "" && c.Root.Device == "" {
		c.Root.KeyFile = filepath.Join(c.Data, "root.key")
	}
	return c, nil
}

// Run serves until ctx ends.
func (s *serveCmd) Run(ctx context.Context, a *app) error {
	c, err := s.settings()
	if err != nil {
		return err
	}
	log, err := newLogger(c.Log, a.stderr)
	if err != nil {
		return usage("%w", err)
	}
	notify := newNotifier()
	tune()
	harden(log)
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	n, err := openNode(ctx, c, s.Dev, log)
	if err != nil {
		return err
	}
	n.notify = notify
	return errors.Join(n.serve(ctx), n.close())
}

// newLogger makes the service's logger.
func newLogger(c logConfig, w *os.File) (*slog.Logger, error) {
	var level slog.Level
	if c.Level != "" {
		if err := level.UnmarshalText([]byte(c.Level)); err != nil {
			return nil, fmt.Errorf("log level: %w", err)
		}
	}
	o := &slog.HandlerOptions{Level: level}
	switch c.Format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, errors.New("log format is text or json")
}
