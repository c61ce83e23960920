package transport

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Certificates serve TLS by files that may change while it runs. Safe for concurrent use.
type Certificates struct {
	files Files
	log   *slog.Logger
	now   func() time.Time

	current atomic.Pointer[tls.Config]

	mu      sync.Mutex // guards what follows, and keeps reloads apart
	serving [sha256.Size]byte
	refused [sha256.Size]byte // the last contents that were no good: each is complained of once
	problem string            // the last failure to read them at all, likewise

	reloads *prometheus.CounterVec
	expiry  prometheus.Gauge
}

// CertificateOptions are for OpenCertificates. The zero value of each field means its default.
type CertificateOptions struct {
	Log        *slog.Logger          // Default: discarded.
	Registerer prometheus.Registerer // Default: no metrics.
	Now        func() time.Time      // Default: time.Now.
}

// OpenCertificates loads the files for the first time. An expired certificate is served, and logged: clients see for themselves, and
// those on a Unix socket need none.
func OpenCertificates(f Files, o CertificateOptions) (*Certificates, error) {
	c := &Certificates{files: f, log: o.Log, now: o.Now}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	c.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keywright_tls_reloads_total",
		Help: "Changed certificate files that were taken (ok) or refused (failed)."}, []string{"outcome"})
	c.expiry = prometheus.NewGauge(prometheus.GaugeOpts{Name: "keywright_tls_certificate_expiry_timestamp_seconds",
		Help: "When the certificate that is served expires, in seconds since 1970."})
	for _, outcome := range []string{reloadOK, reloadFailed} {
		c.reloads.WithLabelValues(outcome)
	}
	text, err := f.read()
	if err != nil {
		return nil, err
	}
	defer text.wipe()
	config, expires, err := f.parse(text)
	if err != nil {
		return nil, err
	}
	if !expires.After(c.now()) {
		c.log.Error("the TLS certificate has expired: clients will refuse it", "file", f.Cert, "not_after", expires)
	}
	if o.Registerer != nil {
		for _, m := range []prometheus.Collector{c.reloads, c.expiry} {
			if err := o.Registerer.Register(m); err != nil {
				return nil, err
			}
		}
	}
	c.take(text, config, expires)
	return c, nil
}

const (
	reloadOK     = "ok"
	reloadFailed = "failed"
)

// take serves by a configuration from now on.
func (c *Certificates) take(text contents, config *tls.Config, expires time.Time) {
	c.current.Store(config)
	c.serving = text.sum()
	c.expiry.Set(float64(expires.Unix()))
}

// Config gives the configuration for a server. Each handshake takes the newest files. Session tickets are of the server's one and only
// configuration, so that sessions are resumed across a change of certificates; whose client certificate does not verify any more is not.
func (c *Certificates) Config() *tls.Config {
	first := c.current.Load().Clone()
	first.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load(), nil }
	return first
}

// Reload takes the files if they have changed. When the new ones are no good (they do not fit each other, as while the second is being
// written; they do not parse; the certificate has expired) those before are kept, and the error says why. changed is true when new ones are served.
func (c *Certificates) Reload() (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, err := c.files.read()
	if err != nil {
		if c.problem != err.Error() {
			c.problem = err.Error()
			c.failed(err)
		}
		return false, err
	}
	defer text.wipe()
	c.problem = ""
	sum := text.sum()
	if sum == c.serving {
		return false, nil
	}
	config, expires, err := c.files.parse(text)
	if err == nil && !expires.After(c.now()) {
		err = errors.New("the new certificate has expired")
	}
	if err != nil {
		if sum != c.refused {
			c.refused = sum
			c.failed(err)
		}
		return false, err
	}
	c.take(text, config, expires)
	c.reloads.WithLabelValues(reloadOK).Inc()
	c.log.Info("the TLS certificate was exchanged", "file", c.files.Cert, "not_after", expires)
	return true, nil
}

func (c *Certificates) failed(err error) {
	c.reloads.WithLabelValues(reloadFailed).Inc()
	c.log.Error("the changed TLS files cannot be used: those before are kept", "file", c.files.Cert, "error", err)
}

// Watch looks at the files every interval, and at once when now is received from, until ctx ends.
func (c *Certificates) Watch(ctx context.Context, every time.Duration, now <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-now:
		}
		// What went wrong has been logged and counted, and is tried again.
		_, _ = c.Reload()
	}
}

// sum tells contents apart, without keeping them.
func (t *contents) sum() (out [sha256.Size]byte) {
	h := sha256.New()
	for _, b := range [][]byte{t.cert, t.key, t.clientCA} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(b)))
		h.Write(size[:])
		h.Write(b)
	}
	h.Sum(out[:0])
	return out
}
