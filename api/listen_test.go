package api

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
)

// serve runs a handler on a loopback port for the length of a test.
func serve(t *testing.T, h http.Handler, o ServeOptions, change ...func(*http.Server)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewHTTPServer(h, o)
	for _, f := range change {
		f(s)
	}
	done := make(chan error, 1)
	go func() { done <- ServeListener(s, l, o.TLS != nil) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			s.Close()
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving ended with %v", err)
		}
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends a request for the health and reads the answer.
func ask(c net.Conn) error {
	if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// gone waits for the server to close a connection.
func gone(c net.Conn) bool {
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return true
	}
	_, err := c.Read(make([]byte, 1))
	var timeout net.Error
	return err != nil && (!errors.As(err, &timeout) || !timeout.Timeout())
}

// alive checks that a connection has not been closed.
func alive(c net.Conn) bool {
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
		return false
	}
	_, err := c.Read(make([]byte, 1))
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestIdleConnectionsMakeRoom(t *testing.T) {
	const most = 8
	idle := make(chan struct{}, 64)
	addr := serve(t, newRig(t, Limits{}).Handler(), ServeOptions{MaxConns: most}, func(s *http.Server) {
		note := s.ConnState
		s.ConnState = func(c net.Conn, state http.ConnState) {
			note(c, state)
			if state == http.StateIdle {
				idle <- struct{}{}
			}
		}
	})
	// The server calls a connection idle some time after the client has its answer: the order of the test is that of the books.
	ask := func(c net.Conn) error {
		err := ask(c)
		if err == nil {
			<-idle
		}
		return err
	}
	var conns []net.Conn
	for range most {
		c := dial(t, addr)
		if err := ask(c); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	// The second asks again: now the first has been idle for longest, then the third.
	if err := ask(conns[1]); err != nil {
		t.Fatal(err)
	}
	for i, victim := range []int{0, 2} {
		c := dial(t, addr)
		if err := ask(c); err != nil {
			t.Fatalf("new client %d: %v", i, err)
		}
		if !gone(conns[victim]) {
			t.Errorf("connection %d is still open", victim)
		}
	}
	for _, i := range []int{1, 3, 4, 5, 6, 7} {
		if !alive(conns[i]) {
			t.Errorf("connection %d was closed", i)
		}
	}
}

// TestManyIdleConnections opens far more than the bound, most of which never say anything.
func TestManyIdleConnections(t *testing.T) {
	const most, many = 64, 600
	h := newRig(t, Limits{}).Handler()
	addr := serve(t, h, ServeOptions{MaxConns: most})
	conns := make([]net.Conn, many)
	for i := range conns {
		conns[i] = dial(t, addr)
	}
	if err := ask(dial(t, addr)); err != nil {
		t.Fatalf("a new client: %v", err)
	}
	open := 0
	for _, c := range conns[many-most-8:] {
		if alive(c) {
			open++
		}
	}
	for _, c := range conns[:many-most-8] {
		if !gone(c) {
			t.Fatal("an old idle connection is still open")
		}
	}
	if open > most {
		t.Errorf("%d connections are open, more than %d", open, most)
	}
}

// TestBusyConnectionsStay fills the bound with requests at work: the new client is the one to go.
func TestBusyConnectionsStay(t *testing.T) {
	release := make(chan struct{})
	started := make(chan struct{}, 4)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			started <- struct{}{}
			<-release
		}
		w.WriteHeader(http.StatusOK)
	})
	addr := serve(t, h, ServeOptions{MaxConns: 4})
	answers := make(chan error, 4)
	for range 4 {
		c := dial(t, addr)
		go func() {
			if _, err := io.WriteString(c, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				answers <- err
				return
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err == nil {
				err = resp.Body.Close()
			}
			answers <- err
		}()
	}
	for range 4 {
		<-started
	}
	if c := dial(t, addr); !gone(c) {
		t.Error("a fifth connection stayed open")
	}
	close(release)
	for range 4 {
		if err := <-answers; err != nil {
			t.Errorf("a busy connection was cut: %v", err)
		}
	}
}

func TestSlowBody(t *testing.T) {
	r := newRig(t, Limits{BodyTime: 150 * time.Millisecond})
	addr := serve(t, r.Handler(), ServeOptions{})
	const head = "POST /api/v1/encrypt HTTP/1.1\r\nHost: x\r\nX-API-Key: good\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
	c := dial(t, addr)
	start := time.Now()
	if _, err := io.WriteString(c, head+`{"plain`); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusGatewayTimeout || !strings.Contains(string(body), string(fault.Timeout)) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("a slow body held its handler for %v", d)
	}
	if !gone(c) {
		t.Error("the connection of a slow body stays open")
	}
	// A handler that takes longer than a body may is not cut off by the body's deadline.
	r.keys.slow = 400 * time.Millisecond
	c = dial(t, addr)
	body2 := `{"plaintext":"AAEC"}`
	if _, err := io.WriteString(c, strings.Replace(head, "100", fmt.Sprint(len(body2)), 1)+body2); err != nil {
		t.Fatal(err)
	}
	resp, err = http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v %+v", err, resp)
	}
	resp.Body.Close()
}

// TestUnreadBody refuses a request whose body never comes: the server must not wait for it for long.
func TestUnreadBody(t *testing.T) {
	addr := serve(t, newRig(t, Limits{}).Handler(), ServeOptions{ReadTime: 200 * time.Millisecond})
	c := dial(t, addr)
	if _, err := io.WriteString(c, "POST /api/v1/encrypt HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	// Everything up to the end of the connection, which must come before dial's deadline.
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 401 ") {
		t.Errorf("%v %s", err, answer)
	}
}

func TestSlowHeader(t *testing.T) {
	addr := serve(t, newRig(t, Limits{}).Handler(), ServeOptions{HeaderTime: 100 * time.Millisecond})
	c := dial(t, addr)
	if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost:"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if !gone(c) || time.Since(start) > 3*time.Second {
		t.Error("a header that does not end holds its connection")
	}
}

func TestLongHeader(t *testing.T) {
	addr := serve(t, newRig(t, Limits{}).Handler(), ServeOptions{})
	c := dial(t, addr)
	if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost: x\r\nX-Long: "+strings.Repeat("x", 64<<10)+"\r\n\r\n"); err != nil {
		return // it was cut while we were sending: as good
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
}

func TestHTTP2OverTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	addr := serve(t, newRig(t, Limits{}).Handler(), ServeOptions{TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}})
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodPost, "https://"+addr+"/api/v1/encrypt", strings.NewReader(`{"plaintext":"AAEC"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer good")
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"ciphertext":"AgEA"`) {
		t.Errorf("%s %d %s", resp.Proto, resp.StatusCode, body)
	}
	if resp.TLS.Version != tls.VersionTLS13 || resp.TLS.CurveID != tls.X25519MLKEM768 {
		t.Errorf("TLS %x with curve %v", resp.TLS.Version, resp.TLS.CurveID)
	}
	old := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if c, err := tls.Dial("tcp", addr, old); err == nil {
		c.Close()
		t.Error("TLS 1.1 is taken")
	}
}
