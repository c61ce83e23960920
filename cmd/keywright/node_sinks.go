package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"

	"github.com/prometheus/client_golang/prometheus"

	auditsink "github.com/keywright/keywright/audit/sink"
)

// sinkConfig is a place that the audit log is handed on to: one of file, syslog and http.
type sinkConfig struct {
	Name      string `koanf:"name"`       // of its cursor: one that is renamed begins with the first entry. Default: its kind.
	File      string `koanf:"file"`       // path; each node writes its own
	Syslog    string `koanf:"syslog"`     // unix:///dev/log, unixgram:///dev/log, udp://, tcp:// or tls://HOST:PORT
	HTTP      string `koanf:"http"`       // https://HOST[:PORT]/PATH
	TokenFile string `koanf:"token_file"` // of http: its first line is the bearer token
	CAFile    string `koanf:"ca_file"`    // of http and tls: PEM certificates to trust, instead of the system's
}

var sinkName = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

// kind gives what the sink is, and refuses what is none or several.
func (c *sinkConfig) kind() (kind string, err error) {
	for name, value := range map[string]string{"file": c.File, "syslog": c.Syslog, "http": c.HTTP} {
		switch {
		case value == "":
		case kind != "":
			return "", errors.New("a sink is one of file, syslog and http")
		default:
			kind = name
		}
	}
	switch {
	case c.Name != "" && !sinkName.MatchString(c.Name):
		return "", errors.New("the name of a sink is 1 to 64 of a-z, 0-9, - and _")
	case kind == "":
		return "", errors.New("a sink is one of file, syslog and http")
	case c.TokenFile != "" && kind != "http":
		return "", errors.New("token_file is for http")
	case c.CAFile != "" && kind == "file":
		return "", errors.New("ca_file is for http and syslog")
	}
	return kind, nil
}

// completeSinks refuses what cannot be right.
func (c *auditConfig) completeSinks() error {
	var errs []error
	names := map[string]bool{}
	for i := range c.Sinks {
		_, err := c.Sinks[i].kind()
		if err == nil {
			bare := c.Sinks[i]
			bare.CAFile = "" // is read at the start
			var s *auditsink.Sink
			if s, err = bare.open(auditsink.Options{}); err == nil {
				if names[s.Name()] {
					err = errSameName
				}
				names[s.Name()] = true
			}
		}
		errs = append(errs, at(fmt.Sprintf("audit.sinks[%d]", i), err))
	}
	return errors.Join(errs...)
}

var errSameName = errors.New("another sink has this name")

func (c *sinkConfig) open(o auditsink.Options) (*auditsink.Sink, error) {
	kind, err := c.kind()
	if err != nil {
		return nil, err
	}
	name := c.Name
	if name == "" {
		name = kind
	}
	trust := &tls.Config{} //nolint:gosec // carries roots alone: the sink sets the versions
	if c.CAFile != "" {
		pem, err := readSmall(c.CAFile, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("reading ca_file: %w", err)
		}
		if trust.RootCAs = x509.NewCertPool(); !trust.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("ca_file holds no PEM certificate")
		}
	}
	switch kind {
	case "file":
		return auditsink.NewFile(name, c.File, o), nil
	case "syslog":
		return auditsink.NewSyslog(name, c.Syslog, trust, o)
	}
	return auditsink.NewHTTP(name, c.HTTP, c.TokenFile, trust, o)
}

// openSinks makes what hands the audit log on.
func (n *node) openSinks(registry prometheus.Registerer) error {
	if len(n.config.Audit.Sinks) == 0 {
		return nil
	}
	m, err := auditsink.NewMetrics(registry)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for i := range n.config.Audit.Sinks {
		s, err := n.config.Audit.Sinks[i].open(auditsink.Options{Entries: n.store, Cursors: n.store, Leases: n.leases, Node: n.self.Name, Logger: n.log, Metrics: m})
		if err == nil && names[s.Name()] {
			err = errSameName
		}
		if err != nil {
			return at(fmt.Sprintf("audit.sinks[%d]", i), err)
		}
		names[s.Name()] = true
		n.sinks = append(n.sinks, s)
	}
	return nil
}

// handOn runs the sinks until ctx ends.
func (n *node) handOn(ctx context.Context) {
	for _, s := range n.sinks {
		n.tasks.Go(func() { s.Run(ctx) })
	}
}
