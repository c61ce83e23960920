package api

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// selfSigned makes TLS for 127.0.0.1.
func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// frame is one of HTTP/2 (RFC 9113 section 4.1).
func frame(kind, flags byte, stream uint32, payload string) string {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return string(binary.BigEndian.AppendUint32(b, stream)) + payload
}

// TestStalledHTTP2: a client that takes nothing of what it has asked for loses its connection by HTTP/2 too. Else it would have its place among the
// connections for ever, as one with a request.
func TestStalledHTTP2(t *testing.T) {
	begun, closed := make(chan struct{}, 1), make(chan struct{}, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		begun <- struct{}{}
		for b := make([]byte, 64<<10); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	addr := serve(t, h, ServeOptions{TLS: selfSigned(t), WriteTime: 300 * time.Millisecond}, func(s *http.Server) {
		note := s.ConnState
		s.ConnState = func(c net.Conn, state http.ConnState) {
			note(c, state)
			if state == http.StateClosed {
				closed <- struct{}{}
			}
		}
	})
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // who it is does not matter
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const most = "\x7f\xff\xff\xff"
	// Room for as much as there can be, and a request: GET, https, / and the authority x in HPACK (RFC 7541 appendix A).
	say := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, "\x00\x04"+most) + frame(8, 0, 0, "\x7f\xff\x00\x00") + frame(1, 5, 1, "\x82\x87\x84\x41\x01x")
	if _, err := io.WriteString(c, say); err != nil {
		t.Fatal(err)
	}
	select {
	case <-begun:
	case <-time.After(10 * time.Second):
		t.Fatal("there was no request")
	}
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Error("the connection of a client that reads nothing stays open")
	}
}

// TestStalledVictim: the connection that has to go is cut, not taken leave of: who waits for its client to read holds up all who come.
func TestStalledVictim(t *testing.T) {
	near, far := net.Pipe() // on which nothing is written that is not read
	defer near.Close()
	server := tls.Server(near, selfSigned(t))
	done := make(chan error, 1)
	go func() { done <- server.HandshakeContext(t.Context()) }()
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}) //nolint:gosec // as above
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l := newConnLimit(1)
	l.state(server, http.StateNew)
	at := time.Now()
	other, end := net.Pipe()
	defer other.Close()
	defer end.Close()
	l.state(other, http.StateNew)
	if took := time.Since(at); took > time.Second {
		t.Errorf("one that does not read has held up the next for %v", took)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the victim is not closed: %v", err)
	}
}

// TestEveryAnswerIsOurs: none is given by the server of the standard library past the handler, which would be without headers and uncounted.
func TestEveryAnswerIsOurs(t *testing.T) {
	c := dial(t, serve(t, newRig(t, Limits{}).Handler(), ServeOptions{}))
	if _, err := io.WriteString(c, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound || resp.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}

// pipes is a listener of connections on which nothing is written that is not read.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestStalledAtTheEnd: clients that read nothing do not hold up the end of the service one after the other.
func TestStalledAtTheEnd(t *testing.T) {
	const clients = 4
	idle := make(chan struct{}, clients)
	s := NewHTTPServer(newRig(t, Limits{}).Handler(), ServeOptions{TLS: selfSigned(t)})
	note := s.ConnState
	s.ConnState = func(c net.Conn, state http.ConnState) {
		note(c, state)
		if state == http.StateIdle {
			idle <- struct{}{}
		}
	}
	l, done := make(pipes), make(chan error, 1)
	go func() { done <- ServeListener(s, l, true) }()
	for range clients {
		near, far := net.Pipe()
		l <- near
		c := tls.Client(far, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // as above
		defer far.Close()
		if err := ask(c); err != nil {
			t.Fatal(err)
		}
		<-idle
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	at := time.Now()
	_ = s.Shutdown(ctx) // what it says does not matter: when it does
	if took := time.Since(at); took > 3*time.Second {
		t.Errorf("the end took %v", took)
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}
