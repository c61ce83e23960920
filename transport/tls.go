package transport

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/keywright/keywright/secret"
)

// ClientAuth is what is asked of clients by TLS.
type ClientAuth string

// What may be asked of clients. In each case a certificate that is sent has to verify.
const (
	ClientNone     ClientAuth = "none"     // no certificate is asked for
	ClientOptional ClientAuth = "optional" // one is asked for, and may be missing
	ClientRequired ClientAuth = "required" // without one there is no connection
)

// Files name what TLS is served with, in PEM. Nothing of them is kept but what they hold.
type Files struct {
	Cert string // the chain, the server's own first
	Key  string // readable by its owner alone: see secret.Private
	// ClientCA holds the certificates that clients' chain to. Needed by ClientOptional and ClientRequired, refused otherwise.
	ClientCA string
	// ClientAuth is empty for none.
	ClientAuth ClientAuth
	// MinVersion is tls.VersionTLS12 (0 too) or tls.VersionTLS13.
	MinVersion uint16
}

// Check refuses what cannot be meant, without reading a file.
func (f Files) Check() error {
	switch {
	case f.Cert == "" || f.Key == "":
		return errors.New("both the certificate and its key are needed")
	case f.MinVersion != 0 && f.MinVersion != tls.VersionTLS12 && f.MinVersion != tls.VersionTLS13:
		return errors.New("the least version of TLS is 1.2 or 1.3")
	}
	switch f.ClientAuth {
	case "", ClientNone:
		if f.ClientCA != "" {
			return errors.New("client certificates are not asked for, so there is nothing to check against a client CA: say optional or required")
		}
	case ClientOptional, ClientRequired:
		if f.ClientCA == "" {
			return errors.New("client certificates need a client CA to be checked against")
		}
	default:
		return errors.New("client authentication is none, optional or required")
	}
	return nil
}

// maxPEM bounds each file, in bytes.
const maxPEM = 1 << 20

// contents is what the files hold at one time.
type contents struct{ cert, key, clientCA []byte }

func (c *contents) wipe() { clear(c.key) }

// read reads the files.
func (f Files) read() (c contents, err error) {
	if err := f.Check(); err != nil {
		return c, err
	}
	if c.cert, err = readFile(f.Cert, false); err != nil {
		return c, fmt.Errorf("the certificate: %w", err)
	}
	if f.ClientCA != "" {
		if c.clientCA, err = readFile(f.ClientCA, false); err != nil {
			return c, fmt.Errorf("the client CA: %w", err)
		}
	}
	if c.key, err = readFile(f.Key, true); err != nil {
		return c, fmt.Errorf("the certificate's key: %w", err)
	}
	return c, nil
}

func readFile(path string, private bool) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // read only: there is nothing to lose
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if private && !secret.Private(info) {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", path, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(file, maxPEM+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxPEM {
		clear(b)
		return nil, fmt.Errorf("%s is larger than a megabyte", path)
	}
	return b, nil
}

// Load reads the files and makes the configuration that serves by them. It says when the server's certificate expires and does not
// mind when that is over.
func (f Files) Load() (*tls.Config, time.Time, error) {
	c, err := f.read()
	if err != nil {
		return nil, time.Time{}, err
	}
	defer c.wipe()
	return f.parse(c)
}

func (f Files) parse(c contents) (*tls.Config, time.Time, error) {
	if !wholePEM(c.cert) {
		return nil, time.Time{}, errors.New("the certificate: a part of the file is no PEM, as while it is being written")
	}
	pair, err := tls.X509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("the certificate and its key: %w", err)
	}
	out := &tls.Config{
		Certificates:     []tls.Certificate{pair},
		MinVersion:       max(f.MinVersion, tls.VersionTLS12),
		CipherSuites:     slices.Clone(suites12[:]),
		CurvePreferences: slices.Clone(groups[:]),
		NextProtos:       []string{"h2", "http/1.1"},
	}
	switch f.ClientAuth {
	case "", ClientNone:
	case ClientOptional:
		out.ClientAuth = tls.VerifyClientCertIfGiven
	case ClientRequired:
		out.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if f.ClientCA != "" {
		if out.ClientCAs, err = authorities(c.clientCA); err != nil {
			return nil, time.Time{}, err
		}
	}
	return out, pair.Leaf.NotAfter, nil
}

// wholePEM reports whether every block that begins in a file is one: what does not end, or is damaged, pem.Decode passes over.
func wholePEM(text []byte) bool {
	edges := 0 // of blocks, two of each
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte("-----")) {
			edges++
		}
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		edges -= 2
	}
	return edges == 0
}

// authorities reads certificates, and nothing else: one that is skipped silently would be missed by its clients.
func authorities(text []byte) (*x509.CertPool, error) {
	if !wholePEM(text) {
		return nil, errors.New("the client CA: a part of the file is no PEM, as while it is being written")
	}
	pool, n := x509.NewCertPool(), 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("the client CA file holds something that is no certificate")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("the client CA: %w", err)
		}
		pool.AddCert(cert)
		n++
	}
	if n == 0 {
		return nil, errors.New("the client CA file holds no certificate in PEM")
	}
	return pool, nil
}

// suites12 are those of TLS 1.2 with forward secrecy and authenticated encryption (RFC 9325 section 4.2). crypto/tls orders them by what the hardware
// does well. Those of TLS 1.3 are all like that and cannot be chosen. Read-only.
var suites12 = [...]uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// groups are the key exchanges. The hybrids with ML-KEM (draft-ietf-tls-ecdhe-mlkem) go first: a client that knows one is asked for it, with another round
// trip if it has sent a share of a classical one only. GODEBUG does not take them away, as it would from the defaults. Read-only.
var groups = [...]tls.CurveID{
	tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024, tls.X25519, tls.CurveP256, tls.CurveP384,
}
