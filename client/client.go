// Package client is the Go SDK of Keywright's REST API: one method for each route, typed errors, bounded retries of what is
// safe to repeat, and iterators over lists.
//
// It trusts the service at the given address as far as TLS proves who that is, and sends the API key to nobody else:
// redirects are refused, and plain HTTP is spoken to loopback addresses and Unix sockets only, unless the caller insists.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// Defaults and bounds of a Client.
const (
	DefaultAddress = "http://127.0.0.1:8200"
	DefaultTimeout = 30 * time.Second

	maxResponse = 64 << 20 // bytes; the largest answer, a full batch, is well below
	maxError    = 64 << 10
)

// Options says where the service is and how to speak to it. Only Address is required.
type Options struct {
	// Address is https://host[:port], http://host[:port] for loopback, unix:///path/to/socket, or host:port (https).
	// A path is kept as a prefix, for a service behind a proxy.
	Address string
	// Key is the API key. Empty: calls go without a credential (health, unlock).
	Key string
	// Session is presented instead of a Key: the service refuses both at once.
	Session *Session
	// HTTPClient is used as it is, except that redirects are never followed. Nil: one with the TLS settings below.
	HTTPClient *http.Client
	// CAFile names a PEM file with the certificates that the service's certificate must chain to, instead of the
	// system's. Only without HTTPClient.
	CAFile string
	// CertFile and CertKeyFile name the client's own certificate with its chain, and its key, in PEM; both or neither. They are read for each new
	// connection, so that they may be exchanged. Only without HTTPClient.
	CertFile, CertKeyFile string
	// AllowPlainHTTP permits http:// to an address that is not loopback. Whoever can read that network can then read
	// the API key and all data.
	AllowPlainHTTP bool
	// Timeout bounds a call with all its retries. 0: DefaultTimeout. Negative: no bound but the context's.
	Timeout time.Duration
	// Retries is how often a call that is safe to repeat is repeated. 0: 3. Negative: never.
	Retries int
	// UserAgent is sent as it is. Empty: "keywright-go".
	UserAgent string
}

// Client speaks to one service. It is safe for concurrent use.
type Client struct {
	http      *http.Client
	base      string
	key       string
	session   *Session
	userAgent string
	timeout   time.Duration
	retries   int
}

// New makes a client. It does not connect.
func New(o Options) (*Client, error) {
	base, socket, err := address(o.Address, o.AllowPlainHTTP)
	if err != nil {
		return nil, err
	}
	if !headerSafe(o.Key) || !headerSafe(o.UserAgent) {
		return nil, errors.New("client: the API key or user agent holds a character that cannot stand in a header")
	}
	if o.Session != nil && (o.Key != "" || o.Session.Token == "" || !headerSafe(o.Session.Token) || !headerSafe(o.Session.CSRF)) {
		return nil, errors.New("client: a session goes without an API key, and holds only what can stand in a header")
	}
	c := &Client{base: base, key: o.Key, session: o.Session, userAgent: o.UserAgent, timeout: o.Timeout, retries: o.Retries}
	if c.userAgent == "" {
		c.userAgent = "keywright-go"
	}
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	}
	if c.retries == 0 {
		c.retries = 3
	}
	if o.HTTPClient != nil {
		if o.CAFile != "" || o.CertFile != "" || o.CertKeyFile != "" || socket != "" {
			return nil, errors.New("client: CAFile, CertFile and unix:// need the client's own HTTP client")
		}
		h := *o.HTTPClient
		c.http = &h
	} else {
		t, err := transport(o.CAFile, socket)
		if err != nil {
			return nil, err
		}
		if err := identify(t.TLSClientConfig, o.CertFile, o.CertKeyFile); err != nil {
			return nil, err
		}
		c.http = &http.Client{Transport: t}
	}
	// The service never redirects; following one could carry the credential or a plaintext elsewhere.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

// Close lets go of idle connections. Calls under way go on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func address(s string, plain bool) (base, socket string, err error) {
	if s == "" {
		return "", "", errors.New("client: no address")
	}
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", "", errors.New("client: the address is not a URL") // url.Error would repeat it, credentials and all
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", errors.New("client: the address must not hold credentials, a query or a fragment")
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || u.Path == "" {
			return "", "", errors.New("client: a socket address has the form unix:///path/to/socket")
		}
		return "http://localhost/api/v1", u.Path, nil
	case "http":
		if !plain && !loopback(u.Hostname()) {
			return "", "", errors.New("client: plain HTTP is for loopback addresses only: use https://")
		}
	case "https":
	default:
		return "", "", errors.New("client: the address must begin with https://, http:// or unix://")
	}
	if u.Host == "" {
		return "", "", errors.New("client: the address has no host")
	}
	return u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/") + "/api/v1", "", nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

func headerSafe(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

func transport(caFile, socket string) (*http.Transport, error) {
	d := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           d.DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(16)},
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	if socket != "" {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) }
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("client: reading the CA file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.New("client: the CA file holds no PEM certificate")
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return t, nil
}

// identify makes a client show its certificate to a service that asks for one.
func identify(c *tls.Config, certFile, keyFile string) error {
	if certFile == "" && keyFile == "" {
		return nil
	}
	if certFile == "" || keyFile == "" {
		return errors.New("client: a certificate needs its key, and a key its certificate")
	}
	load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("client: reading the client certificate: %w", err)
		}
		return &pair, nil
	}
	_, err := load(nil) // what cannot be read is said at once
	c.GetClientCertificate = load
	c.ClientSessionCache = nil // a resumed session would show the certificate that it began with
	return err
}
