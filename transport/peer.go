package transport

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of a Unix socket, as the kernel knew it when it connected.
type Peer struct {
	UID, GID uint32
	PID      int32 // in this process's namespace; 0 when it has none there. It may be another process's by now.
}

type peerKey struct{}

// ConnContext is for http.Server: it notes who is at the other end of a Unix socket. Of a TCP connection it notes nothing.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || failed != nil {
		return ctx // a peer of whom nothing is known
	}
	return context.WithValue(ctx, peerKey{}, Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid})
}

// PeerOf gives the peer of the Unix socket on which a request came, from the request's context; false when it came otherwise.
func PeerOf(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}

// ClientChain gives the verified chain of a request's client certificate, the client's own first, up to the trusted one. It is nil
// when there was no client certificate: one that does not verify ends its connection before there is a request. The certificates are shared: read only.
func ClientChain(r *http.Request) []*x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil
	}
	return r.TLS.VerifiedChains[0]
}
