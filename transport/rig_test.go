package transport_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywright/keywright/api"
	"github.com/keywright/keywright/transport"
)

// authority is a certification authority of one test.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	a.key, a.cert, a.pem = a.make(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)})
	return a
}

func (a *authority) make(template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-2 * time.Hour)
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// leaf makes a certificate of a server and client, and its key, in PEM.
func (a *authority) leaf(name string, lasts time.Duration) (cert, key []byte) {
	a.t.Helper()
	k, _, cert := a.make(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		NotAfter: time.Now().Add(lasts), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// pair is leaf for a client.
func (a *authority) pair(name string) tls.Certificate {
	a.t.Helper()
	p, err := tls.X509KeyPair(a.leaf(name, time.Hour))
	if err != nil {
		a.t.Fatal(err)
	}
	return p
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// put writes files of mode 0600.
func put(t *testing.T, files map[string][]byte) {
	t.Helper()
	for path, b := range files {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// filesOf makes the files of a server in a folder.
func filesOf(t *testing.T, a *authority) transport.Files {
	t.Helper()
	dir := t.TempDir()
	f := transport.Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	cert, key := a.leaf("one", time.Hour)
	put(t, map[string][]byte{f.Cert: cert, f.Key: key})
	return f
}

// serve runs the service's own server on a handler, and gives its address.
func serve(t *testing.T, l net.Listener, h http.HandlerFunc, o api.ServeOptions) {
	t.Helper()
	s := api.NewHTTPServer(h, o)
	done := make(chan error, 1)
	go func() { done <- api.ServeListener(s, l, o.TLS != nil) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			s.Close()
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving ended with %v", err)
		}
	})
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := transport.Listen(t.Context(), transport.Endpoint{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serveTLS serves who the client is, by files.
func serveTLS(t *testing.T, f transport.Files, o transport.CertificateOptions) (*transport.Certificates, string) {
	t.Helper()
	c, err := transport.OpenCertificates(f, o)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, "127.0.0.1:0")
	serve(t, l, func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if chain := transport.ClientChain(r); len(chain) > 0 {
			name = fmt.Sprintf("%s of %s", chain[0].Subject.CommonName, chain[len(chain)-1].Subject.CommonName)
		}
		fmt.Fprint(w, name)
	}, api.ServeOptions{TLS: c.Config()})
	return c, l.Addr().String()
}
