// Package transport is what stands between the network and the handlers: listeners on TCP and Unix sockets, TLS with certificates that
// are exchanged while it runs, who is at the other end, and the headers that every answer has.
//
// It trusts the files that it is told to read, the kernel for the credentials of a Unix socket's peer (unix(7), SO_PEERCRED), and nothing
// that comes in by the network. It says who a peer is, and never what a peer may do.
package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unixScheme begins the address of a Unix socket.
const unixScheme = "unix:"

// Endpoint is where to listen.
type Endpoint struct {
	// Address is HOST:PORT, or unix:/PATH for a Unix socket.
	Address string
	// Mode is who may connect to a Unix socket. Default 0600. Not for TCP.
	Mode fs.FileMode
	// Group gets a Unix socket, by name or number. Default: the group of the process. Not for TCP.
	Group string
}

// Unix gives the path of a Unix socket.
func (e Endpoint) Unix() (path string, ok bool) { return strings.CutPrefix(e.Address, unixScheme) }

// Check refuses what cannot be listened on, without listening.
func (e Endpoint) Check() error {
	path, ok := e.Unix()
	if !ok {
		if e.Mode != 0 || e.Group != "" {
			return errors.New("mode and group are for a Unix socket")
		}
		_, port, err := net.SplitHostPort(e.Address)
		if err != nil {
			return fmt.Errorf("an address is HOST:PORT or unix:/PATH: %w", err)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return errors.New("a port is a number up to 65535")
		}
		return nil
	}
	// 108 bytes hold the path and the zero behind it (unix(7)); the name under which it is made is longer by its suffix.
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || len(path)+len(newSuffix) > 107 {
		return errors.New("the address of a Unix socket is unix: and an absolute path of at most 103 bytes")
	}
	if e.Mode&^0o777 != 0 {
		return errors.New("the mode of a Unix socket has permissions only")
	}
	_, err := e.gid()
	return err
}

// Loopback reports whether nobody but this machine can reach it: a Unix socket, or a loopback address.
func (e Endpoint) Loopback() bool {
	if _, ok := e.Unix(); ok {
		return true
	}
	host, _, err := net.SplitHostPort(e.Address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// gid gives the group's number, or -1 for none.
func (e Endpoint) gid() (int, error) {
	if e.Group == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(e.Group, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(e.Group)
	if err != nil {
		return -1, fmt.Errorf("the group of a Unix socket: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

// Listen opens the endpoint. A Unix socket that nobody listens on any more is replaced; one that somebody does is an error.
func Listen(ctx context.Context, e Endpoint) (net.Listener, error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	path, ok := e.Unix()
	if !ok {
		return (&net.ListenConfig{}).Listen(ctx, "tcp", e.Address)
	}
	return listenUnix(ctx, e, path)
}

// newSuffix is under what name a socket is made, before it has its mode.
const newSuffix = ".new"

// listenUnix makes the socket beside its path and moves it there when it has its group and mode, so that nobody connects in between.
func listenUnix(ctx context.Context, e Endpoint, path string) (net.Listener, error) {
	if err := vacant(ctx, path); err != nil {
		return nil, err
	}
	gid, err := e.gid()
	if err != nil {
		return nil, err
	}
	made := path + newSuffix
	if err := os.Remove(made); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	inner, err := (&net.ListenConfig{Control: ownersOnly}).Listen(ctx, "unix", made)
	if err != nil {
		return nil, err
	}
	l := &unixListener{UnixListener: inner.(*net.UnixListener), path: path} // what the network "unix" gives (net.Listen)
	l.SetUnlinkOnClose(false)
	mode := e.Mode
	if mode == 0 {
		mode = 0o600
	}
	if gid >= 0 {
		err = os.Chown(made, -1, gid)
	}
	if err == nil {
		err = os.Chmod(made, mode)
	}
	if err == nil {
		l.info, err = os.Lstat(made)
	}
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.UnixListener.Close(), os.Remove(made))
	}
	return l, nil
}

// ownersOnly gives a socket its first mode before it has a name: Linux makes the file with that, less the umask, and not with whatever the umask allows.
func ownersOnly(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), 0o600) }) //nolint:gosec // a descriptor
	return errors.Join(err, failed)
}

// vacant makes sure that nobody listens at a path, and that what is there is a socket if anything.
func vacant(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket", path)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("somebody listens on %s", path), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("whether somebody listens on %s: %w", path, err)
	}
	return nil
}

// unixListener takes its socket away when it closes, unless another has taken its place.
type unixListener struct {
	*net.UnixListener
	path string
	info fs.FileInfo
}

// Addr has the path that clients use, not the one it was made under.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *unixListener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.info) {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, l.UnixListener.Close())
		}
	}
	return l.UnixListener.Close()
}
