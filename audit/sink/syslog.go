package sink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/keywright/keywright/audit"
)

// syslog is a place: messages of RFC 5424, framed by their size (RFC 6587 section 3.4.1) on streams, one a datagram else.
type syslog struct {
	remote
	scheme, address string
	tls             *tls.Config
	host            string
	c               net.Conn
	buf             []byte
}

const (
	// priority is facility 13 (log audit) and severity 6 (informational): RFC 5424 section 6.2.1.
	priority = 13*8 + 6
	// dialTime and writeTime bound what a server may keep this one waiting for.
	dialTime  = 10 * time.Second
	writeTime = 10 * time.Second
	// maxDatagram is how much of an entry goes into one: RFC 5426 section 3.2 leaves it to the network.
	maxDatagram = 60 << 10
)

// NewSyslog hands on to a syslog server: unix:///dev/log, unixgram:///dev/log, udp://HOST:514, tcp://HOST:601 or tls://HOST:6514 (RFC 5425).
// roots are trusted for the server's certificate; nil: the system's. TCP tells nobody what a server has taken: what was under way when a
// connection breaks can be lost, and UDP loses what it likes.
func NewSyslog(name, target string, config *tls.Config, o Options) (*Sink, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, errors.New("the address of a syslog server is a URL")
	}
	p := &syslog{remote: remote{name, o.Cursors}, scheme: u.Scheme, address: u.Host}
	switch u.Scheme {
	case "unix", "unixgram":
		p.address = u.Path
		if u.Host != "" || u.Path == "" {
			return nil, errors.New("a syslog socket is unix:///PATH or unixgram:///PATH")
		}
	case "udp", "tcp", "tls":
		if u.Port() == "" || u.Hostname() == "" || u.Path != "" || u.User != nil || u.RawQuery != "" {
			return nil, fmt.Errorf("a syslog server is %s://HOST:PORT", u.Scheme)
		}
	default:
		return nil, errors.New("a syslog server is reached by unix, unixgram, udp, tcp or tls")
	}
	if u.Scheme == "tls" {
		p.tls = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname()}
		if config != nil {
			p.tls.RootCAs = config.RootCAs
		}
	}
	if p.host, err = os.Hostname(); err != nil || p.host == "" || len(p.host) > 255 {
		p.host = "-"
	}
	return &Sink{name: name, place: p, o: o}, nil
}

func (p *syslog) begin(ctx context.Context) (uint64, error) {
	next, err := p.remote.begin(ctx)
	if err != nil {
		return 0, err
	}
	d := &net.Dialer{Timeout: dialTime}
	if p.tls != nil {
		p.c, err = (&tls.Dialer{NetDialer: d, Config: p.tls}).DialContext(ctx, "tcp", p.address)
	} else {
		p.c, err = d.DialContext(ctx, p.scheme, p.address)
	}
	if err == nil && !p.datagrams() {
		go watch(p.c)
	}
	return next, err
}

// watch closes a stream that the server has closed, so that the next write fails: TCP would take one more, and nobody would ever read it. A server has
// nothing to say. It ends with the connection.
func watch(c net.Conn) {
	_, _ = io.Copy(io.Discard, c) // whatever ends it, it is over
	_ = c.Close()
}

func (p *syslog) datagrams() bool { return p.scheme == "udp" || p.scheme == "unixgram" }

func (p *syslog) write(_ context.Context, entries []audit.Stored) error {
	if err := p.c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	p.buf = p.buf[:0]
	for i := range entries {
		message, err := p.message(&entries[i])
		if err != nil {
			return err
		}
		if p.datagrams() {
			if _, err := p.c.Write(message[:min(len(message), maxDatagram)]); err != nil {
				return err
			}
			continue
		}
		p.buf = strconv.AppendInt(p.buf, int64(len(message)), 10)
		p.buf = append(append(p.buf, ' '), message...)
	}
	if len(p.buf) == 0 {
		return nil
	}
	_, err := p.c.Write(p.buf)
	return err
}

// message makes one of RFC 5424 section 6: its time is the entry's, its structured data the entry's index, its text the line. 32473 is the
// number that RFC 5612 keeps for examples: this program has none of its own.
func (p *syslog) message(s *audit.Stored) ([]byte, error) {
	e, err := audit.ParseLeaf(s.Leaf)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "<%d>1 %s %s keywright - audit [entry@32473 index=\"%d\"] %s", priority, e.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), p.host, s.Index, s.Leaf), nil
}

func (p *syslog) end() {
	if p.c != nil {
		_ = p.c.Close() // what it says of itself has been seen by write, or is seen by nobody
		p.c = nil
	}
}
