package softhsmtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// served is the binary over TLS, with certificates of its own.
type served struct {
	*service
	address, ca, cert, key string // HOST:PORT, and files
	root                   *x509.Certificate
	signer                 *ecdsa.PrivateKey
}

func (s *served) write(path, kind string, der []byte) {
	s.t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// issue writes a certificate for 127.0.0.1 and its key in the place of those before.
func (s *served) issue(serial int64) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "server"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, s.root, &key.PublicKey, s.signer)
	if err != nil {
		s.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(s.key, "PRIVATE KEY", private)
	s.write(s.cert, "CERTIFICATE", der)
}

func serveTLS(t *testing.T, more string) *served {
	t.Helper()
	dir := t.TempDir()
	s := &served{service: &service{t: t}, ca: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
	var err error
	if s.signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &s.signer.PublicKey, s.signer)
	if err != nil {
		t.Fatal(err)
	}
	if s.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	s.write(s.ca, "CERTIFICATE", der)
	s.issue(2)
	config := filepath.Join(dir, "keywright.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "tls: {cert_file: %q, key_file: %q, reload_every: 1h}\n%s", s.cert, s.key, more), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	s.service = launch(t, data, "--config", config)
	pool := x509.NewCertPool()
	pool.AddCert(s.root)
	s.http = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	t.Cleanup(s.http.CloseIdleConnections)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if text, err := os.ReadFile(filepath.Join(data, "address")); err == nil && len(text) > 0 {
			s.address = strings.TrimSpace(string(text))
			s.base = "https://" + s.address
			if r, err := s.http.Get(s.base + "/health"); err == nil {
				r.Body.Close()
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the service did not answer within 20 s\n%s", s.log)
		}
	}
	key, err := os.ReadFile(filepath.Join(data, "owner.key"))
	if err != nil {
		t.Fatal(err)
	}
	s.service.key = strings.TrimSpace(string(key))
	return s
}

// openssl is a client that shares no code with the service.
func (s *served) openssl(args ...string) (string, error) {
	cmd := exec.CommandContext(s.t.Context(), "openssl", append([]string{"s_client", "-connect", s.address, "-CAfile", s.ca, "-verify_return_error"}, args...)...)
	cmd.Stdin = strings.NewReader("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// curl asks, and gives the header of the answer in lower case.
func (s *served) curl(args ...string) string {
	s.t.Helper()
	out, err := exec.CommandContext(s.t.Context(), "curl", append([]string{"-sS", "--cacert", s.ca, "-o", os.DevNull, "-D", "-"}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Errorf("curl %v: %v\n%s", args, err, out)
	}
	return strings.ToLower(strings.ReplaceAll(string(out), "\r", ""))
}

// TestTransport asks the binary as it is served to the world, by clients that share no code with it.
func TestTransport(t *testing.T) {
	s := serveTLS(t, "limits: {header_time: 1s, idle_time: 2s}\n")
	t.Run("Versions", s.versions)
	t.Run("KeyExchange", s.keyExchange)
	t.Run("Headers", s.headers)
	t.Run("NoCORS", s.noCORS)
	t.Run("Limits", s.connectionLimits)
	t.Run("Reload", s.reload)
	s.stop()
}

// versions: TLS 1.2 and 1.3 with resumption, nothing older, nothing weaker.
func (s *served) versions(t *testing.T) {
	for version, suite := range map[string]string{"-tls1_2": "Cipher is ECDHE-ECDSA-", "-tls1_3": "Cipher is TLS_"} {
		session := filepath.Join(t.TempDir(), "session")
		out, err := s.openssl(version, "-ign_eof", "-sess_out", session)
		if err != nil || !strings.Contains(out, "HTTP/1.1 200 OK") || !strings.Contains(out, suite) || !strings.Contains(out, "\nNew, ") {
			t.Fatalf("%s: %v\n%s", version, err, out)
		}
		if out, err = s.openssl(version, "-ign_eof", "-sess_in", session); err != nil || !strings.Contains(out, "\nReused, ") || !strings.Contains(out, "HTTP/1.1 200 OK") {
			t.Errorf("%s: no resumption: %v\n%s", version, err, out)
		}
	}
	for _, args := range [][]string{{"-tls1", "-cipher", "DEFAULT@SECLEVEL=0"}, {"-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"},
		{"-tls1_2", "-cipher", "AES128-SHA:AES256-GCM-SHA384:ECDHE-ECDSA-AES128-SHA256"}} {
		if out, err := s.openssl(args...); err == nil {
			t.Errorf("%v is taken:\n%s", args, out)
		}
	}
}

// keyExchange: a client that knows the hybrid gets it, also when it has sent a share of another first, and one that does not gets X25519.
func (s *served) keyExchange(t *testing.T) {
	pool := x509.NewCertPool()
	pool.AddCert(s.root)
	for name, c := range map[string]struct {
		offers []tls.CurveID
		want   tls.CurveID
	}{
		"hybrid":            {[]tls.CurveID{tls.X25519MLKEM768, tls.X25519}, tls.X25519MLKEM768},
		"hybrid thought of": {[]tls.CurveID{tls.X25519, tls.X25519MLKEM768}, tls.X25519MLKEM768},
		"classical":         {[]tls.CurveID{tls.X25519, tls.CurveP256}, tls.X25519},
	} {
		d := tls.Dialer{Config: &tls.Config{RootCAs: pool, CurvePreferences: c.offers, NextProtos: []string{"h2", "http/1.1"}}}
		conn, err := d.DialContext(t.Context(), "tcp", s.address)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		state := conn.(*tls.Conn).ConnectionState()
		if state.CurveID != c.want || state.NegotiatedProtocol != "h2" || state.Version != tls.VersionTLS13 {
			t.Errorf("%s: %v, %q, %x", name, state.CurveID, state.NegotiatedProtocol, state.Version)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

// headers: every kind of answer has them, by HTTP/2 and by HTTP/1.1.
func (s *served) headers(t *testing.T) {
	auth := "Authorization: Bearer " + s.service.key
	for name, c := range map[string]struct {
		status string
		args   []string
	}{
		"good":            {"200", []string{"-H", auth, "/api/v1/me"}},
		"open":            {"200", []string{"/health"}},
		"page":            {"200", []string{"/api/v1/docs"}},
		"no credential":   {"401", []string{"/api/v1/keys"}},
		"session only":    {"403", []string{"-H", auth, "-X", "PATCH", "-H", "Content-Type: application/json", "-d", "{}", "/api/v1/settings/security"}},
		"nothing":         {"404", []string{"-H", auth, "/api/v1/nothing"}},
		"not found":       {"404", []string{"-H", auth, "/api/v1/keys/none"}},
		"method":          {"405", []string{"-H", auth, "-X", "PUT", "/api/v1/keys"}},
		"wrong body":      {"400", []string{"-H", auth, "-H", "Content-Type: application/json", "-d", "[", "/api/v1/keys"}},
		"wrong type":      {"415", []string{"-H", auth, "-H", "Content-Type: text/plain", "-d", "x", "/api/v1/keys"}},
		"body too large":  {"413", []string{"-H", auth, "-H", "Content-Type: application/json", "-d", strings.Repeat(" ", 70<<10), "/api/v1/keys"}},
		"the whole log":   {"200", []string{"-H", auth, "/api/v1/audit/export"}},
		"a preflight":     {"", []string{"-X", "OPTIONS", "-H", "Origin: https://evil.example.org", "-H", "Access-Control-Request-Method: POST", "/api/v1/keys"}},
		"the root folder": {"404", []string{"/"}},
	} {
		for _, version := range []string{"--http2", "--http1.1"} {
			args := slices.Clone(c.args)
			args[len(args)-1] = s.base + args[len(args)-1]
			head := s.curl(append([]string{version}, args...)...)
			want := map[string]string{"--http2": "http/2 ", "--http1.1": "http/1.1 "}[version] + c.status
			if !strings.HasPrefix(head, want) {
				t.Errorf("%s: %s\n%s", name, want, head)
			}
			for _, line := range []string{"strict-transport-security: max-age=31536000", "x-content-type-options: nosniff", "x-frame-options: deny", "referrer-policy: no-referrer",
				"cross-origin-opener-policy: same-origin", "cross-origin-resource-policy: same-origin", "content-security-policy: default-src 'none'", "cache-control: no-store"} {
				if !strings.Contains(head, "\n"+line) {
					t.Errorf("%s by %s lacks %s:\n%s", name, version, line, head)
				}
			}
			for _, line := range []string{"\nserver:", "\nx-powered-by:", "\naccess-control", "\nset-cookie:", "\ntrace"} {
				if strings.Contains(head, line) {
					t.Errorf("%s by %s has%s:\n%s", name, version, line, head)
				}
			}
		}
	}
}

// noCORS: without an origin in the configuration no page of another origin reads anything.
func (s *served) noCORS(t *testing.T) {
	for _, origin := range []string{"https://console.example.org", "null", s.base, "http://127.0.0.1"} {
		for _, method := range []string{"OPTIONS", "GET"} {
			head := s.curl("-X", method, "-H", "Origin: "+origin, "-H", "Access-Control-Request-Method: GET", "-H", "Authorization: Bearer "+s.service.key, s.base+"/api/v1/me")
			if strings.Contains(head, "\naccess-control") {
				t.Errorf("%s of %s:\n%s", method, origin, head)
			}
		}
	}
}

// connectionLimits: long headers are refused, slow ones and idle connections ended.
func (s *served) connectionLimits(t *testing.T) {
	if head := s.curl("--http1.1", "-H", "X-Long: "+strings.Repeat("x", 40<<10), s.base+"/health"); !strings.HasPrefix(head, "http/1.1 431") {
		t.Errorf("a long header: %s", head)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.root)
	for name, c := range map[string]struct {
		sends string
		after time.Duration
	}{"slow header": {"GET /health HTTP/1.1\r\nHost:", time.Second}, "idle": {"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 2 * time.Second}} {
		conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool}}).DialContext(t.Context(), "tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, c.sends); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if err := conn.SetDeadline(begun.Add(15 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, conn)
		if waited := time.Since(begun); err != nil || waited < c.after/2 || waited > c.after+8*time.Second {
			t.Errorf("%s: the connection ended after %v, %v", name, waited, err)
		}
		_ = conn.Close() // the other end is gone
	}
}

// reload: a new certificate is served to who comes after it, and who is there stays.
func (s *served) reload(t *testing.T) {
	pool := x509.NewCertPool()
	pool.AddCert(s.root)
	dial := func() *tls.Conn {
		conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool}}).DialContext(t.Context(), "tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		return conn.(*tls.Conn)
	}
	serial := func(c *tls.Conn) int64 { return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64() }
	old := dial()
	defer old.Close()
	s.issue(3)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for now := int64(0); now != 3; {
		c := dial()
		now = serial(c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("still certificate %d", now)
		}
	}
	if _, err := io.WriteString(old, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(old).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 200") || serial(old) != 2 {
		t.Errorf("a connection from before: %q, %v", line, err)
	}
}

// rated counts what passed and what was refused, and looks at the headers of every answer.
type rated struct {
	t               *testing.T
	mu              sync.Mutex // guards what follows
	passed, refused int
}

func (r *rated) ask(s *service, key string) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.base+"/api/v1/me", http.NoBody)
	if err != nil {
		r.t.Error(err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := s.http.Do(req)
	if err != nil {
		r.t.Error(err)
		return
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusTooManyRequests || err != nil {
		r.t.Errorf("%d %s, %v", resp.StatusCode, body, err)
		return
	}
	h := resp.Header
	number := func(name string) int {
		n, err := strconv.Atoi(h.Get(name))
		if err != nil {
			r.t.Errorf("%s of an answer %d: %q", name, resp.StatusCode, h.Get(name))
		}
		return n
	}
	limit, remaining, reset := number("X-RateLimit-Limit"), number("X-RateLimit-Remaining"), number("X-RateLimit-Reset")
	r.mu.Lock()
	defer r.mu.Unlock()
	if resp.StatusCode == http.StatusOK {
		r.passed++
	} else {
		r.refused++
		if after := number("Retry-After"); after < 1 || after > 60 || remaining != 0 || !bytes.Contains(body, []byte("ERR_RATE_LIMITED")) {
			r.t.Errorf("a refusal: %v %s", h, body)
		}
	}
	if limit <= 0 || int64(reset) < time.Now().Add(-5*time.Second).Unix() {
		r.t.Errorf("%v", h)
	}
}

// together asks all nodes at once for some time, and gives how long it took.
func (r *rated) together(nodes []*service, key string, lasts time.Duration) time.Duration {
	begun := time.Now()
	var group sync.WaitGroup
	for i, s := range nodes {
		for range 2 + 2*i { // the load is uneven
			group.Go(func() {
				for time.Since(begun) < lasts {
					r.ask(s, key)
				}
			})
		}
	}
	group.Wait()
	return time.Since(begun)
}

// TestRateOverNodes: nodes on one store let through together what a tenant's plan and an API key's own rate allow, to within a tenth.
func TestRateOverNodes(t *testing.T) {
	server := rig.Postgres(t)
	c := startNodes(t, server, 2, "plans:\n  - {name: default, per_minute: 600000}\n  - {name: small, per_minute: 3000, burst: 60}\n")
	var tenant struct {
		OwnerKey struct{ Key string } `json:"owner_key"`
	}
	var own struct{ Key string }
	c.all[0].must(201, "POST", "/tenants", m{"name": "small", "plan": "small"}).into(t, &tenant)
	c.all[0].must(201, "POST", "/api-keys", m{"name": "slow", "role": "viewer", "rate_limit": 60}).into(t, &own)
	for name, one := range map[string]struct {
		key              string
		burst, perSecond float64
	}{"the tenant's plan": {tenant.OwnerKey.Key, 60, 50}, "the API key's rate": {own.Key, 60, 1}} {
		r := &rated{t: t}
		took := r.together(c.all, one.key, 3*time.Second)
		may := one.burst + one.perSecond*took.Seconds()
		if n := float64(r.passed); n > 1.1*may || n < 0.9*may || r.refused == 0 {
			t.Errorf("%s: %.0f passed and %d were refused in %v; %.0f may", name, n, r.refused, took, may)
		} else {
			t.Logf("%s: %.0f passed and %d were refused in %v; %.0f may", name, n, r.refused, took.Round(time.Millisecond), may)
		}
	}
	for _, s := range c.all {
		s.stop()
	}
}
