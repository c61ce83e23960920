package transport_test

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/api"
	"github.com/keywright/keywright/transport"
)

// Headers as the specification gives them, in hexadecimal.
const (
	signature = "0d0a0d0a000d0a515549540a"
	fromV4    = signature + "2111000c" + "cb007109" + "c0000201" + "3039" + "2008" // 203.0.113.9:12345
	fromV6    = signature + "21210024" + "20010db8000000000000000000000001" + "20010db8000000000000000000000002" + "3039" + "2008"
	mapped    = signature + "21210024" + "00000000000000000000ffffcb007109" + "00000000000000000000ffffc0000201" + "3039" + "2008"
	extended  = signature + "21110013" + "cb007109" + "c0000201" + "3039" + "2008" + "04000401020304" // with an extension
	local     = signature + "20000000"
	unknown   = signature + "21000003" + "010203"
)

// through serves behind a proxy, and gives what a connection that begins with these bytes is told of its own address. Empty: it is cut.
func through(t *testing.T, trusted string, start []byte, secure bool) string {
	t.Helper()
	a := newAuthority(t, "root")
	o := api.ServeOptions{}
	if secure {
		c, err := transport.OpenCertificates(filesOf(t, a), transport.CertificateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		o.TLS = c.Config()
	}
	l := transport.Proxied(listen(t, "127.0.0.1:0"), []netip.Prefix{netip.MustParsePrefix(trusted)}, 300*time.Millisecond)
	serve(t, l, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.WriteString(w, r.RemoteAddr); err != nil {
			t.Log(err)
		}
	}, o)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(start); err != nil {
		return ""
	}
	if secure {
		c = tls.Client(c, &tls.Config{RootCAs: a.pool(), ServerName: "localhost"})
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return ""
	}
	b, err := io.ReadAll(c)
	if err != nil && len(b) == 0 {
		return ""
	}
	if !bytes.HasPrefix(b, []byte("HTTP/1.1 200 ")) {
		return ""
	}
	_, body, _ := bytes.Cut(b, []byte("\r\n\r\n"))
	return string(body)
}

func TestProxied(t *testing.T) {
	const balancer, other = "127.0.0.1/32", "192.0.2.0/24"
	for name, c := range map[string]struct{ trusted, header, want string }{
		"IPv4":                 {balancer, fromV4, "203.0.113.9:12345"},
		"IPv6":                 {balancer, fromV6, "[2001:db8::1]:12345"},
		"IPv4 in IPv6":         {balancer, mapped, "203.0.113.9:12345"},
		"an extension":         {balancer, extended, "203.0.113.9:12345"},
		"a probe":              {balancer, local, "127.0.0.1:"},
		"it does not know":     {balancer, unknown, "unknown"}, // not the balancer, whose word on others counts
		"nothing":              {balancer, "", ""},
		"cut":                  {balancer, fromV4[:30], ""},
		"version 1":            {balancer, hex.EncodeToString([]byte("PROXY TCP4 203.0.113.9 192.0.2.1 12345 8200\r\n")), ""},
		"version 3":            {balancer, signature + "31" + fromV4[26:], ""},
		"a Unix socket":        {balancer, signature + "2131000c" + fromV4[32:], ""},
		"too short":            {balancer, signature + "2111000b" + fromV4[32:], ""},
		"too long":             {balancer, signature + "2111ffff" + fromV4[32:], ""},
		"of nobody's":          {other, "", "127.0.0.1:"},
		"a stranger who lies":  {other, fromV4, ""},
		"a stranger who lies6": {other, fromV6, ""},
	} {
		start, err := hex.DecodeString(c.header)
		if err != nil {
			t.Fatal(name, err)
		}
		for _, secure := range []bool{false, true} {
			if got := through(t, c.trusted, start, secure); !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
				t.Errorf("%s, TLS %v: %q, want %q", name, secure, got, c.want)
			}
		}
	}
}

// TestSilentProxy: who says nothing is cut off in time, and keeps nobody from being accepted.
func TestSilentProxy(t *testing.T) {
	l := transport.Proxied(listen(t, "127.0.0.1:0"), []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, 200*time.Millisecond)
	serve(t, l, func(http.ResponseWriter, *http.Request) {}, api.ServeOptions{})
	for range 3 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := io.ReadAll(c); err != nil && strings.Contains(err.Error(), "timeout") || time.Since(start) > 3*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	}
}
