package events

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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/keywright/keywright/fault"
)

// Reach says where webhooks may go. The zero value is usable.
type Reach struct {
	// Allow lists addresses (CIDR) and hosts that may be called although they lie inside the machine or its network segment: loopback,
	// link-local and the metadata services of clouds are refused otherwise. A host is taken with all its addresses.
	Allow []string
	// PlainHTTP permits http://. Default: https:// only.
	PlainHTTP bool
	// Roots are trusted for the receivers' certificates. Default: the system's.
	Roots *x509.CertPool
}

// Bounds of a call to a receiver.
const (
	callTime   = 15 * time.Second // from the name's look-up to the end of the answer
	dialTime   = 5 * time.Second
	answerSize = 4 << 10 // bytes of an answer that are read, so that the connection can be used again
	maxURL     = 2048
)

// reach is a Reach, understood.
type reach struct {
	nets  []netip.Prefix
	hosts []string
	plain bool
	roots *x509.CertPool
}

func newReach(r Reach) (*reach, error) {
	out := &reach{plain: r.PlainHTTP, roots: r.Roots}
	for _, a := range r.Allow {
		if p, err := netip.ParsePrefix(a); err == nil {
			out.nets = append(out.nets, p.Masked())
			continue
		}
		if ip, err := netip.ParseAddr(a); err == nil {
			out.nets = append(out.nets, netip.PrefixFrom(ip, ip.BitLen()))
			continue
		}
		if a == "" || strings.ContainsAny(a, "/:*[] ") {
			return nil, errors.New("webhooks may go to an address, a CIDR or a host")
		}
		out.hosts = append(out.hosts, strings.ToLower(strings.TrimSuffix(a, ".")))
	}
	return out, nil
}

// metadata are addresses of cloud platforms' own services that look like any other.
var metadata = [...]netip.Prefix{
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba Cloud
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle Cloud
	netip.MustParsePrefix("fd00:ec2::254/128"),  // Amazon EC2
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google Cloud
}

var (
	nat64   = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052 section 2.1: the last 4 bytes are an IPv4 address
	nat64l  = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	to6     = netip.MustParsePrefix("2002::/16")      // RFC 3056: bytes 2 to 5 are one
	thisNet = netip.MustParsePrefix("0.0.0.0/8")      // RFC 1122 section 3.2.1.3
)

// inside reports whether an address is of the machine, its network segment or its platform.
func inside(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	if b := ip.As16(); nat64.Contains(ip) || nat64l.Contains(ip) {
		return inside(netip.AddrFrom4([4]byte(b[12:])))
	} else if to6.Contains(ip) {
		return inside(netip.AddrFrom4([4]byte(b[2:6])))
	}
	return !ip.IsValid() || ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || thisNet.Contains(ip) ||
		ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) ||
		slices.ContainsFunc(metadata[:], func(p netip.Prefix) bool { return p.Contains(ip) })
}

var errInside = errors.New("the address is inside this machine or its network segment")

// allowed refuses an address, at the moment of the call: what a name means may change between two look-ups.
func (r *reach) allowed(ip netip.Addr) bool {
	if !inside(ip) {
		return true
	}
	ip = ip.Unmap().WithZone("")
	return slices.ContainsFunc(r.nets, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// checkURL gives fault.BadField for an address that can never be called.
func (r *reach) checkURL(text string) error {
	bad := func(what string) error { return fault.New(fault.BadField, "the url of a webhook "+what) }
	if len(text) > maxURL {
		return bad(fmt.Sprintf("has at most %d bytes", maxURL))
	}
	for i := range len(text) {
		if text[i] <= 0x20 || text[i] >= 0x7f {
			return bad("is of printable ASCII without blanks")
		}
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return bad("must be https://HOST[:PORT]/PATH")
	case u.Scheme != "https" && (u.Scheme != "http" || !r.plain):
		return bad("must begin with https://")
	case u.User != nil:
		return bad("must not hold a user or a password")
	case u.Fragment != "":
		return bad("must not have a fragment")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if slices.Contains(r.hosts, host) {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && !r.allowed(ip) || host == "localhost" && !r.allowed(netip.AddrFrom4([4]byte{127, 0, 0, 1})) {
		return bad("is inside this machine or its network segment")
	}
	return nil
}

// dial connects, and refuses what is inside when the name has become an address.
func (r *reach) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: dialTime, KeepAlive: 30 * time.Second}
	if !slices.Contains(r.hosts, strings.ToLower(strings.TrimSuffix(host, "."))) {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil || !r.allowed(to.Addr()) {
				return errInside
			}
			return nil
		}
	}
	return d.DialContext(ctx, network, address)
}

// client is the HTTP client for receivers. It asks no proxy, which would make the call from elsewhere, and follows nothing.
func (r *reach) client() *http.Client {
	return &http.Client{
		Timeout:       callTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            r.dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: r.roots},
			TLSHandshakeTimeout:    dialTime,
			ResponseHeaderTimeout:  callTime,
			MaxResponseHeaderBytes: 16 << 10,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true,
			MaxIdleConns:           64,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        time.Minute,
		},
	}
}

// Reasons of failed calls, as they are shown: nothing of what the receiver said.
const (
	whyTimeout    = "timeout"
	whyInside     = "address refused"
	whyTLS        = "TLS failed"
	whyName       = "name not found"
	whyConnection = "connection failed"
	whyStatus     = "refused"
	whyRedirect   = "redirected"
	whyGone       = "gone"
	whySecret     = "secret cannot be opened"
	whyLost       = "events were no longer kept"
)

// why puts the error of a call into one of the fixed words.
func why(err error) string {
	var timeout net.Error
	var dns *net.DNSError
	var record *tls.CertificateVerificationError
	var alert tls.AlertError
	var header tls.RecordHeaderError
	switch {
	case errors.Is(err, errInside):
		return whyInside
	case errors.As(err, &record), errors.As(err, &alert), errors.As(err, &header):
		return whyTLS
	case errors.As(err, &dns) && dns.IsNotFound:
		return whyName
	case errors.As(err, &timeout) && timeout.Timeout():
		return whyTimeout
	}
	return whyConnection
}
