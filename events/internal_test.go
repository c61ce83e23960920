package events

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/secret"
)

// TestSignVectors: the published vector of Standard Webhooks, and ours, which a separate implementation has made.
func TestSignVectors(t *testing.T) {
	type vector struct {
		Name      string
		Secrets   []string
		ID        string
		Timestamp int64
		Body      string
		Signature string
	}
	var file struct {
		Standard vector
		Vectors  []vector
	}
	text, err := os.ReadFile("../docs/formats/vectors/webhook.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) < 3 || file.Standard.Signature != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Fatalf("%+v", file)
	}
	for _, v := range append(file.Vectors, file.Standard) {
		var secrets []secret.Bytes
		for _, s := range v.Secrets {
			raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, secretPrefix))
			if err != nil {
				t.Fatal(err)
			}
			secrets = append(secrets, raw)
		}
		if got := Sign(secrets, v.ID, time.Unix(v.Timestamp, 0), []byte(v.Body)); got != v.Signature {
			t.Errorf("%s: %s, want %s", v.Name, got, v.Signature)
		}
	}
}

func TestInsideAddresses(t *testing.T) {
	for text, want := range map[string]bool{
		"127.0.0.1": true, "127.255.0.3": true, "::1": true, "::ffff:127.0.0.1": true, "0.0.0.0": true, "0.1.2.3": true, "::": true,
		"169.254.169.254": true, "169.254.0.1": true, "::ffff:169.254.169.254": true, "fe80::1": true, "fe80::1%eth0": true, "224.0.0.1": true, "ff02::1": true,
		"255.255.255.255": true, "fd00:ec2::254": true, "100.100.100.200": true, "168.63.129.16": true, "192.0.0.192": true,
		"64:ff9b::7f00:1": true, "64:ff9b::a9fe:a9fe": true, "64:ff9b:1::a9fe:a9fe": true, "2002:7f00:1::": true, "2002:a9fe:a9fe::1": true,
		"10.0.0.1": false, "192.168.1.1": false, "93.184.216.34": false, "2606:2800:220:1:248:1893:25c8:1946": false, "64:ff9b::5db8:d822": false,
		"2002:5db8:d822::1": false, "fd00::1": false, "100.64.0.1": false,
	} {
		if got := inside(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// TestDial: the address is looked at when the name has become one, for every way to write it.
func TestDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		reach Reach
		host  string
		ok    bool
	}{
		"name":            {Reach{}, "localhost", false},
		"address":         {Reach{}, "127.0.0.1", false},
		"unspecified":     {Reach{}, "0.0.0.0", false},
		"mapped":          {Reach{}, "::ffff:127.0.0.1", false},
		"allowed host":    {Reach{Allow: []string{"LOCALHOST."}}, "localhost", true},
		"allowed network": {Reach{Allow: []string{"127.0.0.0/8", "::1"}}, "localhost", true},
		"allowed address": {Reach{Allow: []string{"127.0.0.1"}}, "127.0.0.1", true},
		"another":         {Reach{Allow: []string{"127.0.0.2", "10.0.0.0/8", "elsewhere"}}, "127.0.0.1", false},
	} {
		r, err := newReach(test.reach)
		if err != nil {
			t.Fatal(err)
		}
		c, err := r.dial(t.Context(), "tcp", net.JoinHostPort(test.host, port))
		if err == nil {
			c.Close()
		}
		if ok := err == nil; ok != test.ok || !ok && !errors.Is(err, errInside) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWhy: errors become one of the fixed words.
func TestWhy(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for want, err := range map[string]error{
		whyTimeout: ctx.Err(), whyInside: &net.OpError{Op: "dial", Err: errInside}, whyName: &net.DNSError{IsNotFound: true}, whyConnection: http.ErrServerClosed,
	} {
		if got := why(err); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

func TestMessageID(t *testing.T) {
	id := uuid.MustParse("0195f3a2-7b1c-7def-8123-456789abcdef")
	if got := messageID(id, 42); got != "msg_0195f3a27b1c7def8123456789abcdef_42" {
		t.Error(got)
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"0", "1", "9223372036854775807", "9223372036854775808", "01", "", "+1", "-1", " 1", "1e3", "18446744073709551616", "１"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := ParseID(s)
		if ok != (n <= 1<<63-1 && strconv.FormatUint(n, 10) == s) {
			t.Errorf("%q gives %d, %v", s, n, ok)
		}
	})
}

func FuzzCheckURL(f *testing.F) {
	for _, s := range []string{"https://hooks.example.org/a?b=c", "https://[::1]/", "https://127.1/", "https://0x7f000001/", "https://a@b/", "https://h:99999/", "HTTPS://x", "https://%31/", "https://[::ffff:7f00:1]/"} {
		f.Add(s)
	}
	r, err := newReach(Reach{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r.checkURL(s) != nil {
			return
		}
		// What is accepted can be asked for, and stays what it is.
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s, nil)
		if err != nil || req.URL.Scheme != "https" || req.URL.Hostname() == "" || req.URL.User != nil {
			t.Errorf("%q is accepted: %v", s, err)
		}
	})
}
