package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Proxied gives a listener for a balancer that passes TLS through and says in a header of the PROXY protocol, version 2, whose connection it is. A connection from
// one of the trusted addresses has to begin with such a header, and its remote address is the one in there; a connection from anywhere else is taken as it is,
// and a header there is no header but a broken request. within is how long the header may take.
func Proxied(l net.Listener, trusted []netip.Prefix, within time.Duration) net.Listener {
	return &proxied{Listener: l, trusted: trusted, within: within}
}

type proxied struct {
	net.Listener
	trusted []netip.Prefix
	within  time.Duration
}

// Accept does not wait for the header: a slow balancer holds up its own connection alone.
func (l *proxied) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	peer, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return c, nil //nolint:nilerr // no TCP: nobody to trust
	}
	at := peer.Addr().Unmap().WithZone("")
	for _, p := range l.trusted {
		if p.Contains(at) {
			return &proxiedConn{Conn: c, within: l.within}, nil
		}
	}
	return c, nil
}

// proxiedConn reads its header when somebody first wants to know where it comes from, or what it says. net/http does so in the connection's own goroutine.
type proxiedConn struct {
	net.Conn
	within time.Duration

	once   sync.Once // guards the reading of the header, and thereby what follows
	remote net.Addr
	err    error
}

func (c *proxiedConn) begin() {
	c.once.Do(func() {
		c.remote = c.Conn.RemoteAddr()
		if c.err = c.SetReadDeadline(time.Now().Add(c.within)); c.err != nil {
			return
		}
		client, own, err := readProxyHeader(c.Conn)
		if err != nil {
			c.err = fmt.Errorf("a trusted proxy does not say whose connection it is: %w", err)
			return
		}
		switch {
		case client.IsValid():
			c.remote = net.TCPAddrFromAddrPort(client)
		case !own:
			c.remote = nowhere{}
		}
		c.err = c.SetReadDeadline(time.Time{})
	})
}

// nowhere is where a client is of whom the proxy does not know it. It is not the proxy's address: what the proxy says of others, in X-Forwarded-For, is
// believed, and here it would be the client who says it.
type nowhere struct{}

func (nowhere) Network() string { return "tcp" }
func (nowhere) String() string  { return "unknown" }

// RemoteAddr is the client's; the proxy's own for what the proxy does by itself, such as its probes, and where it has said nothing that can be read.
func (c *proxiedConn) RemoteAddr() net.Addr {
	c.begin()
	return c.remote
}

func (c *proxiedConn) Read(p []byte) (int, error) {
	if c.begin(); c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}

// The PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt, section 2.2).
const (
	proxyFixed  = 16   // signature, version and command, family, length
	proxyMost   = 1024 // of what follows: addresses, and extensions that are not looked at
	proxyLocal  = 0x20
	proxyProxy  = 0x21
	proxyTCP4   = 0x11
	proxyTCP6   = 0x21
	proxyUnspec = 0x00
)

var proxySignature = [12]byte{0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a} //nolint:gochecknoglobals // read-only

// readProxyHeader reads a header, and not a byte more. The address is not valid when the proxy speaks for itself (own) or does not know.
func readProxyHeader(r io.Reader) (client netip.AddrPort, own bool, err error) {
	var head [proxyFixed]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return client, false, err
	}
	n := int(binary.BigEndian.Uint16(head[14:]))
	switch {
	case !bytes.Equal(head[:12], proxySignature[:]):
		return client, false, errors.New("no header of the PROXY protocol, version 2")
	case n > proxyMost:
		return client, false, errors.New("the header is too long")
	}
	rest := make([]byte, n)
	if _, err := io.ReadFull(r, rest); err != nil {
		return client, false, err
	}
	switch command, family := head[12], head[13]; {
	case command == proxyLocal:
		return client, true, nil
	case command == proxyProxy && family == proxyUnspec:
		return client, false, nil
	case command == proxyProxy && family == proxyTCP4 && n >= 12:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest[0:4])), binary.BigEndian.Uint16(rest[8:])), false, nil
	case command == proxyProxy && family == proxyTCP6 && n >= 36:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(rest[0:16])).Unmap(), binary.BigEndian.Uint16(rest[32:])), false, nil
	}
	return client, false, errors.New("the header's version, command or family is not known")
}
