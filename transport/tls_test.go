package transport_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keywright/keywright/transport"
)

// hello makes one request on a connection of its own, and gives the answer and what TLS came to.
func hello(t *testing.T, addr string, c *tls.Config) (string, *tls.ConnectionState, error) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: c.Clone(), ForceAttemptHTTP2: true, DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), resp.TLS, err
}

func TestKeyExchange(t *testing.T) {
	a := newAuthority(t, "root")
	_, addr := serveTLS(t, filesOf(t, a), transport.CertificateOptions{})
	for _, c := range []struct {
		offered []tls.CurveID
		version uint16
		want    tls.CurveID
	}{
		{nil, tls.VersionTLS13, tls.X25519MLKEM768},
		{[]tls.CurveID{tls.X25519, tls.X25519MLKEM768}, tls.VersionTLS13, tls.X25519MLKEM768},
		{[]tls.CurveID{tls.CurveP256, tls.SecP256r1MLKEM768}, tls.VersionTLS13, tls.SecP256r1MLKEM768},
		{[]tls.CurveID{tls.CurveP384, tls.SecP384r1MLKEM1024}, tls.VersionTLS13, tls.SecP384r1MLKEM1024},
		{[]tls.CurveID{tls.X25519}, tls.VersionTLS13, tls.X25519},
		{[]tls.CurveID{tls.X25519MLKEM768, tls.CurveP256}, tls.VersionTLS12, tls.CurveP256},
	} {
		_, s, err := hello(t, addr, &tls.Config{RootCAs: a.pool(), CurvePreferences: c.offered, MaxVersion: c.version})
		if err != nil {
			t.Errorf("%v: %v", c.offered, err)
			continue
		}
		if s.Version != c.version || s.CurveID != c.want || s.NegotiatedProtocol != "h2" {
			t.Errorf("%v: version %x, %v, %s; want %v", c.offered, s.Version, s.CurveID, s.NegotiatedProtocol, c.want)
		}
	}
	for name, c := range map[string]*tls.Config{
		"TLS 1.1":        {RootCAs: a.pool(), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
		"CBC":            {RootCAs: a.pool(), MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}},
		"P-521 alone":    {RootCAs: a.pool(), CurvePreferences: []tls.CurveID{tls.CurveP521}},
		"RSA for a key":  {RootCAs: a.pool(), MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}},
		"another's root": {RootCAs: newAuthority(t, "other").pool()},
	} {
		if _, s, err := hello(t, addr, c); err == nil {
			t.Errorf("%s is taken: %x", name, s.Version)
		}
	}
}

func TestMinVersion(t *testing.T) {
	a := newAuthority(t, "root")
	f := filesOf(t, a)
	f.MinVersion = tls.VersionTLS13
	_, addr := serveTLS(t, f, transport.CertificateOptions{})
	if _, _, err := hello(t, addr, &tls.Config{RootCAs: a.pool(), MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is taken")
	}
	if _, _, err := hello(t, addr, &tls.Config{RootCAs: a.pool()}); err != nil {
		t.Error(err)
	}
}

// TestOpenSSL: what shares no code with us resumes sessions, in both versions, and is refused what it should be.
func TestOpenSSL(t *testing.T) {
	a := newAuthority(t, "root")
	_, addr := serveTLS(t, filesOf(t, a), transport.CertificateOptions{})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	put(t, map[string][]byte{ca: a.pem})
	client := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "openssl", append([]string{"s_client", "-connect", addr, "-CAfile", ca, "-verify_return_error"}, args...)...)
		cmd.Stdin = strings.NewReader("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for version, suite := range map[string]string{"-tls1_2": "Cipher is ECDHE-ECDSA-", "-tls1_3": "Cipher is TLS_"} {
		session := filepath.Join(t.TempDir(), "session")
		out, err := client(version, "-ign_eof", "-sess_out", session)
		if err != nil || !strings.Contains(out, "nobody") || !strings.Contains(out, suite) || !strings.Contains(out, "\nNew, ") {
			t.Fatalf("%s: %v\n%s", version, err, out)
		}
		if out, err = client(version, "-ign_eof", "-sess_in", session); err != nil || !strings.Contains(out, "\nReused, ") || !strings.Contains(out, "nobody") {
			t.Errorf("%s: no resumption: %v\n%s", version, err, out)
		}
	}
	for _, args := range [][]string{{"-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"}, {"-tls1_2", "-cipher", "AES128-SHA:ECDHE-ECDSA-AES128-SHA256"}, {"-groups", "P-521"}} {
		if out, err := client(args...); err == nil {
			t.Errorf("%v is taken:\n%s", args, out)
		}
	}
}

func TestCurlHTTP2(t *testing.T) {
	a := newAuthority(t, "root")
	_, addr := serveTLS(t, filesOf(t, a), transport.CertificateOptions{})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	put(t, map[string][]byte{ca: a.pem})
	out, err := exec.CommandContext(t.Context(), "curl", "-sS", "--http2", "--cacert", ca, "-D", "-", "https://"+addr+"/").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "HTTP/2 200") || !strings.Contains(string(out), "strict-transport-security: max-age=31536000") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestReload(t *testing.T) {
	a := newAuthority(t, "root")
	f := filesOf(t, a)
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	c, addr := serveTLS(t, f, transport.CertificateOptions{Log: slog.New(slog.NewTextHandler(&log, nil)), Registerer: reg})
	client := &tls.Config{RootCAs: a.pool(), ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	served := func(want string, resumed bool) {
		t.Helper()
		_, s, err := hello(t, addr, client)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.PeerCertificates[0].Subject.CommonName; got != want || s.DidResume != resumed {
			t.Errorf("%s is served, resumed %v; want %s, %v", got, s.DidResume, want, resumed)
		}
	}
	counts := func(ok, failed int) {
		t.Helper()
		want := strings.NewReader(strings.ReplaceAll(strings.ReplaceAll(`# HELP keywright_tls_reloads_total Changed certificate files that were taken (ok) or refused (failed).
# TYPE keywright_tls_reloads_total counter
keywright_tls_reloads_total{outcome="failed"} F
keywright_tls_reloads_total{outcome="ok"} O
`, "F", string(rune('0'+failed))), "O", string(rune('0'+ok))))
		if err := testutil.GatherAndCompare(reg, want, "keywright_tls_reloads_total"); err != nil {
			t.Error(err)
		}
	}
	reload := func(changed bool, problem string) {
		t.Helper()
		got, err := c.Reload()
		if got != changed || (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("changed %v, %v; want %v, %q", got, err, changed, problem)
		}
	}
	served("one", false)
	served("one", true)
	reload(false, "")
	counts(0, 0)

	// The certificate first, and its key a moment later: in between the old pair goes on, and is complained of once.
	cert, key := a.leaf("two", time.Hour)
	put(t, map[string][]byte{f.Cert: cert})
	reload(false, "the certificate and its key")
	reload(false, "the certificate and its key")
	counts(0, 1)
	served("one", true)
	put(t, map[string][]byte{f.Key: key})
	reload(true, "")
	counts(1, 1)
	served("one", true) // a session from before: its ticket still counts, and its client knows the server as one
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	served("two", false)

	// Nothing that is no good replaces what is.
	expired, expiredKey := a.leaf("three", -time.Minute)
	put(t, map[string][]byte{f.Cert: expired, f.Key: expiredKey})
	reload(false, "expired")
	put(t, map[string][]byte{f.Cert: []byte("nonsense")})
	reload(false, "the certificate and its key")
	if err := os.Remove(f.Cert); err != nil {
		t.Fatal(err)
	}
	reload(false, "no such file")
	reload(false, "no such file")
	counts(1, 4)
	client.ClientSessionCache = nil
	served("two", false)
	put(t, map[string][]byte{f.Cert: cert, f.Key: key})
	reload(false, "")
	if err := os.Chmod(f.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	reload(false, "can be read by others")
	if text := log.String(); !strings.Contains(text, "those before are kept") || strings.Contains(text, "PRIVATE") || strings.Count(text, "level=ERROR") != 5 {
		t.Errorf("the log: %s", text)
	}
	if n := testutil.CollectAndCount(reg, "keywright_tls_certificate_expiry_timestamp_seconds"); n != 1 {
		t.Errorf("%d series of the expiry", n)
	}
}

// TestWatch: the files are looked at by themselves, and at once when asked to.
func TestWatch(t *testing.T) {
	a := newAuthority(t, "root")
	f := filesOf(t, a)
	c, addr := serveTLS(t, f, transport.CertificateOptions{})
	ask := make(chan struct{})
	done := make(chan struct{})
	ctx := t.Context()
	go func() { defer close(done); c.Watch(ctx, time.Hour, ask) }()
	cert, key := a.leaf("two", time.Hour)
	put(t, map[string][]byte{f.Cert: cert, f.Key: key})
	ask <- struct{}{}
	ask <- struct{}{} // taken when the first has been worked on
	if _, s, err := hello(t, addr, &tls.Config{RootCAs: a.pool()}); err != nil || s.PeerCertificates[0].Subject.CommonName != "two" {
		t.Errorf("%v %v", s, err)
	}
	go func() { c.Watch(ctx, time.Millisecond, nil) }()
	cert, key = a.leaf("three", time.Hour)
	put(t, map[string][]byte{f.Cert: cert, f.Key: key})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		_, s, err := hello(t, addr, &tls.Config{RootCAs: a.pool()})
		if err == nil && s.PeerCertificates[0].Subject.CommonName == "three" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not served")
		}
	}
}

func TestClientCertificates(t *testing.T) {
	a, clients, strangers := newAuthority(t, "root"), newAuthority(t, "clients"), newAuthority(t, "strangers")
	good, bad := clients.pair("app"), strangers.pair("app")
	for mode, want := range map[transport.ClientAuth]struct{ none, good, bad string }{
		transport.ClientNone:     {"nobody", "nobody", "nobody"},
		transport.ClientOptional: {"nobody", "app of clients", ""},
		transport.ClientRequired: {"", "app of clients", ""},
	} {
		f := filesOf(t, a)
		if f.ClientAuth = mode; mode != transport.ClientNone {
			f.ClientCA = filepath.Join(t.TempDir(), "clients.pem")
			put(t, map[string][]byte{f.ClientCA: clients.pem})
		}
		c, addr := serveTLS(t, f, transport.CertificateOptions{})
		for name, one := range map[string]struct {
			pairs []tls.Certificate
			want  string
		}{"none": {nil, want.none}, "good": {[]tls.Certificate{good}, want.good}, "bad": {[]tls.Certificate{bad}, want.bad}} {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				// Sent whatever the server would take.
				config := &tls.Config{RootCAs: a.pool(), MaxVersion: version, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if len(one.pairs) == 0 {
						return new(tls.Certificate), nil
					}
					return &one.pairs[0], nil
				}}
				got, _, err := hello(t, addr, config)
				if got != one.want || (err == nil) != (one.want != "") {
					t.Errorf("%s, %s, %x: %q, %v; want %q", mode, name, version, got, err, one.want)
				}
			}
		}
		if mode == transport.ClientNone {
			continue
		}
		// A session that began under a CA is not resumed when that is gone.
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			put(t, map[string][]byte{f.ClientCA: clients.pem})
			if _, err := c.Reload(); err != nil {
				t.Fatal(err)
			}
			config := &tls.Config{RootCAs: a.pool(), MaxVersion: version, Certificates: []tls.Certificate{good}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			for _, resumed := range []bool{false, true} {
				if got, s, err := hello(t, addr, config); err != nil || got != "app of clients" || s.DidResume != resumed {
					t.Fatalf("%s %x: %s %v %v", mode, version, got, s, err)
				}
			}
			put(t, map[string][]byte{f.ClientCA: strangers.pem})
			if changed, err := c.Reload(); err != nil || !changed {
				t.Fatal(changed, err)
			}
			if got, _, err := hello(t, addr, config); strings.HasPrefix(got, "app") {
				t.Errorf("%s %x: %q of a CA that is gone, %v", mode, version, got, err)
			}
		}
	}
}

func TestFiles(t *testing.T) {
	a := newAuthority(t, "root")
	f := filesOf(t, a)
	two := filesOf(t, a)
	for name, c := range map[string]struct {
		files transport.Files
		want  string
	}{
		"no key":         {transport.Files{Cert: f.Cert}, "both"},
		"another's key":  {transport.Files{Cert: f.Cert, Key: two.Key}, "the certificate and its key"},
		"no file":        {transport.Files{Cert: f.Cert + "x", Key: f.Key}, "no such file"},
		"CA for nobody":  {transport.Files{Cert: f.Cert, Key: f.Key, ClientCA: f.Cert}, "say optional or required"},
		"nobody's CA":    {transport.Files{Cert: f.Cert, Key: f.Key, ClientAuth: "required"}, "need a client CA"},
		"no such choice": {transport.Files{Cert: f.Cert, Key: f.Key, ClientAuth: "maybe"}, "none, optional or required"},
		"a key as CA":    {transport.Files{Cert: f.Cert, Key: f.Key, ClientAuth: "required", ClientCA: f.Key}, "no certificate"},
		"old TLS":        {transport.Files{Cert: f.Cert, Key: f.Key, MinVersion: tls.VersionTLS11}, "1.2 or 1.3"},
	} {
		if _, _, err := c.files.Load(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, expires, err := f.Load(); err != nil || time.Until(expires) > time.Hour || time.Until(expires) < time.Minute {
		t.Error(expires, err)
	}
}

// TestHalfWritten: of a file that is still being written nothing is taken, also when what is there of it so far would do.
func TestHalfWritten(t *testing.T) {
	a, clients, more := newAuthority(t, "root"), newAuthority(t, "clients"), newAuthority(t, "more")
	f := filesOf(t, a)
	f.ClientAuth, f.ClientCA = transport.ClientOptional, filepath.Join(t.TempDir(), "clients.pem")
	both := append(bytes.Clone(clients.pem), more.pem...)
	put(t, map[string][]byte{f.ClientCA: both})
	chain, err := os.ReadFile(f.Cert)
	if err != nil {
		t.Fatal(err)
	}
	chain = append(chain, a.pem...)
	put(t, map[string][]byte{f.Cert: chain})
	c, err := transport.OpenCertificates(f, transport.CertificateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for path, one := range map[string]struct{ whole, last []byte }{f.ClientCA: {both, more.pem}, f.Cert: {chain, a.pem}} {
		whole := one.whole
		for _, less := range []int{2, 28, 100, len(one.last) - 30, len(one.last) - 7} {
			put(t, map[string][]byte{path: whole[:len(whole)-less]})
			if changed, err := c.Reload(); changed || err == nil {
				t.Errorf("%s without its last %d bytes is taken: %v", filepath.Base(path), less, err)
			}
		}
		put(t, map[string][]byte{path: append([]byte("# whose they are\n"), whole...)})
		if changed, err := c.Reload(); !changed || err != nil {
			t.Errorf("%s with a comment: %v, %v", filepath.Base(path), changed, err)
		}
	}
}
