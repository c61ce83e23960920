package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keywright/keywright/api"
	"github.com/keywright/keywright/transport"
)

// listenConfig is one place where the API is served; a text alone is its address.
type listenConfig struct {
	// Address is HOST:PORT, or unix:/PATH for a Unix socket, which is always plain HTTP. Required.
	Address string `koanf:"address"`
	// Mode is who may connect to a Unix socket, in octal, as in "0660". Default "0600".
	Mode string `koanf:"mode"`
	// Group gets a Unix socket, by name or number. Default: the group of the process.
	Group string `koanf:"group"`
	// ProxyProtocol is for a balancer that passes TLS through: connections from trusted_proxies begin with a header of the PROXY protocol, version 2,
	// that says whose they are. Default false.
	ProxyProtocol bool `koanf:"proxy_protocol"`
}

// tlsConfig names a PEM certificate chain and its key, both or neither, and what is asked of clients. The files are read again when they change.
type tlsConfig struct {
	CertFile string `koanf:"cert_file"`
	KeyFile  string `koanf:"key_file"` // readable by its owner alone
	// ClientCAFile holds the certificates that clients' certificates chain to. With client_auth optional or required.
	ClientCAFile string `koanf:"client_ca_file"`
	// ClientAuth is none (default), optional or required.
	ClientAuth string `koanf:"client_auth"`
	// MinVersion is "1.2" (default) or "1.3".
	MinVersion string `koanf:"min_version"`
	// ReloadEvery is how often the files are looked at; SIGHUP does it at once. Default 10s.
	ReloadEvery time.Duration `koanf:"reload_every"`
}

// corsConfig is for pages of other origins, in browsers.
type corsConfig struct {
	// Origins may read the answers; exact, as in https://console.example.org. Default: none.
	Origins []string `koanf:"origins"`
}

// limitsConfig bounds the server.
type limitsConfig struct {
	Connections int `koanf:"connections"` // open at once; beyond it the longest idle is closed. Default 4096.
	// HeaderTime, ReadTime and WriteTime are how long a client may take to send a request's header, to send all of it, and to take the answer; streams
	// have times of their own. IdleTime is how long a connection may be without a request. Default 5s, 20s, 2m and 2m.
	HeaderTime time.Duration `koanf:"header_time"`
	ReadTime   time.Duration `koanf:"read_time"`
	WriteTime  time.Duration `koanf:"write_time"`
	IdleTime   time.Duration `koanf:"idle_time"`
	HeaderKiB  int           `koanf:"header_kib"` // of a request, in KiB. Default 16.
}

// listenByAddress takes a text for a listener's address, and for a list of one.
func listenByAddress(_, to reflect.Type, data any) (any, error) {
	text, ok := data.(string)
	switch {
	case ok && to == reflect.TypeFor[listenConfig]():
		return listenConfig{Address: text}, nil
	case ok && to == reflect.TypeFor[[]listenConfig]():
		return []listenConfig{{Address: text}}, nil
	}
	return data, nil
}

// endpoint reads the mode.
func (l *listenConfig) endpoint() (transport.Endpoint, error) {
	e := transport.Endpoint{Address: l.Address, Group: l.Group}
	if l.Mode != "" {
		n, err := strconv.ParseUint(l.Mode, 8, 9)
		if err != nil || n == 0 {
			return e, errors.New(`a mode is in octal, as in "0660"`)
		}
		e.Mode = fs.FileMode(n)
	}
	return e, e.Check()
}

// files gives what TLS is served with.
func (t *tlsConfig) files() (transport.Files, error) {
	f := transport.Files{Cert: t.CertFile, Key: t.KeyFile, ClientCA: t.ClientCAFile, ClientAuth: transport.ClientAuth(t.ClientAuth)}
	switch t.MinVersion {
	case "", "1.2":
		f.MinVersion = tls.VersionTLS12
	case "1.3":
		f.MinVersion = tls.VersionTLS13
	default:
		return f, errors.New(`tls.min_version is "1.2" or "1.3"`)
	}
	return f, f.Check()
}

// completeTransport fills in the defaults of what clients connect to, and refuses what cannot be right.
func (c *config) completeTransport(dev bool) error {
	if len(c.Listen) == 0 {
		c.Listen = []listenConfig{{Address: "127.0.0.1:8200"}}
	}
	seen := map[string]bool{}
	for i := range c.Listen {
		e, err := c.Listen[i].endpoint()
		if err != nil {
			return at(fmt.Sprintf("listen[%d]", i), err)
		}
		if seen[e.Address] && !strings.HasSuffix(e.Address, ":0") {
			return at(fmt.Sprintf("listen[%d]", i), errors.New("the address is there twice"))
		}
		seen[e.Address] = true
		if _, unix := e.Unix(); c.Listen[i].ProxyProtocol && (unix || len(c.TrustedProxies) == 0) {
			return at(fmt.Sprintf("listen[%d].proxy_protocol", i), errors.New("it is for TCP, and needs trusted_proxies: whom to believe"))
		}
		if !dev && c.TLS.CertFile == "" && !e.Loopback() {
			return at(fmt.Sprintf("listen[%d]", i), fmt.Errorf("refusing plain HTTP on %s: it is not loopback; configure tls.cert_file and tls.key_file", e.Address))
		}
	}
	if c.TLS.ReloadEvery < 0 {
		return at("tls.reload_every", errors.New("a time is not negative"))
	}
	if c.TLS.ReloadEvery == 0 {
		c.TLS.ReloadEvery = 10 * time.Second
	}
	if c.TLS != (tlsConfig{ReloadEvery: c.TLS.ReloadEvery}) {
		if _, err := c.TLS.files(); err != nil {
			return at("tls", err)
		}
	}
	if err := (transport.CORS{Origins: c.CORS.Origins}).Check(); err != nil {
		return at("cors.origins", err)
	}
	l := &c.Limits
	if l.Connections < 0 || l.HeaderTime < 0 || l.ReadTime < 0 || l.WriteTime < 0 || l.IdleTime < 0 || l.HeaderKiB < 0 || l.HeaderKiB > 1024 {
		return at("limits", errors.New("a limit is not negative, and header_kib at most 1024"))
	}
	return nil
}

// transportOptions are those of the API's server. watch keeps the certificates what their files are, until its context ends.
func (n *node) transportOptions() (o api.ServeOptions, watch func(context.Context), err error) {
	l := n.config.Limits
	o = api.ServeOptions{MaxConns: l.Connections, HeaderTime: l.HeaderTime, ReadTime: l.ReadTime, WriteTime: l.WriteTime, IdleTime: l.IdleTime,
		HeaderBytes: l.HeaderKiB << 10, CORS: transport.CORS{Origins: n.config.CORS.Origins}, Log: n.log}
	if n.config.TLS.CertFile == "" {
		return o, func(context.Context) {}, nil
	}
	files, err := n.config.TLS.files()
	if err != nil {
		return o, nil, err
	}
	certificates, err := transport.OpenCertificates(files, transport.CertificateOptions{Log: n.log, Registerer: n.registry})
	if err != nil {
		return o, nil, fmt.Errorf("loading the TLS certificate: %w", err)
	}
	o.TLS = certificates.Config()
	return o, func(ctx context.Context) {
		hangUp, now := make(chan os.Signal, 1), make(chan struct{})
		signal.Notify(hangUp, syscall.SIGHUP)
		defer signal.Stop(hangUp)
		n.tasks.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-hangUp:
				}
				select {
				case <-ctx.Done():
					return
				case now <- struct{}{}:
				}
			}
		})
		certificates.Watch(ctx, n.config.TLS.ReloadEvery, now)
	}, nil
}

// proxyHeaderTime is how long a proxy may take to say whose connection it is, where no header_time is configured.
const proxyHeaderTime = 5 * time.Second

// listen opens all listeners, those on TCP first, or none.
func (n *node) listen(ctx context.Context) (out []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range out {
				err = errors.Join(err, l.Close())
			}
		}
	}()
	var sockets []net.Listener
	for i := range n.config.Listen {
		e, err := n.config.Listen[i].endpoint()
		if err != nil {
			return append(out, sockets...), err
		}
		l, err := transport.Listen(ctx, e)
		if err != nil {
			return append(out, sockets...), fmt.Errorf("listening: %w", err)
		}
		if l.Addr().Network() == "unix" {
			sockets = append(sockets, l)
			continue
		}
		if n.config.Listen[i].ProxyProtocol {
			l = transport.Proxied(l, n.config.proxies, cmp.Or(n.config.Limits.HeaderTime, proxyHeaderTime))
		}
		out = append(out, l)
	}
	return append(out, sockets...), nil
}

// secure reports whether a listener is served by TLS. A Unix socket never is: the kernel says who is at its other end.
func secure(o api.ServeOptions, l net.Listener) bool {
	return o.TLS != nil && l.Addr().Network() != "unix"
}

// shownAddress is how a listener stands in DATA/address: HOST:PORT, or unix:///PATH as clients take it.
func shownAddress(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix://" + l.Addr().String()
	}
	return l.Addr().String()
}

func addresses(all []net.Listener) string {
	out := make([]string, 0, len(all))
	for _, l := range all {
		out = append(out, shownAddress(l))
	}
	return strings.Join(out, " ")
}
