package api

import (
	"container/list"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/keywright/keywright/transport"
)

// ServeOptions bound the connections of a listener. The zero value of each field means its default.
type ServeOptions struct {
	// TLS switches HTTPS on, with HTTP/2: see transport.Certificates. Unix sockets are served without it.
	TLS *tls.Config
	// MaxConns is how many connections may be open. One more closes the one that has been idle for longest. Default: 4096.
	MaxConns int
	// HeaderTime is how long a client may take for a request's header. Default: 5 s.
	HeaderTime time.Duration
	// ReadTime is how long a request may take to arrive, body and all, when no handler says otherwise. It bounds bodies that
	// nobody reads, such as those of refused requests. Default: 20 s.
	ReadTime time.Duration
	// IdleTime is how long a connection may be without a request. Default: 120 s.
	IdleTime time.Duration
	// WriteTime is how long a client may take to take a response, from the end of the request's header, and by HTTP/2 how long it may take nothing of what
	// is there for it. Default: 120 s.
	WriteTime time.Duration
	// HeaderBytes bounds a request's header, in bytes; net/http allows 4 KiB more. Default: 16 KiB.
	HeaderBytes int
	// CORS says which pages of other origins may read the answers. Default: none.
	CORS transport.CORS
	// Log gets net/http's own complaints. Default: discarded.
	Log *slog.Logger
}

// NewHTTPServer makes a server for a handler, with every limit set. The caller starts it with ServeListener and ends it
// with Shutdown.
func NewHTTPServer(h http.Handler, o ServeOptions) *http.Server {
	if o.MaxConns <= 0 {
		o.MaxConns = 4096
	}
	if o.HeaderTime <= 0 {
		o.HeaderTime = 5 * time.Second
	}
	if o.ReadTime <= 0 {
		o.ReadTime = 20 * time.Second
	}
	if o.IdleTime <= 0 {
		o.IdleTime = 120 * time.Second
	}
	if o.WriteTime <= 0 {
		o.WriteTime = 120 * time.Second
	}
	if o.HeaderBytes <= 0 {
		o.HeaderBytes = 16 << 10
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	limit := newConnLimit(o.MaxConns)
	s := &http.Server{
		Handler:           transport.Headers(h, o.CORS),
		ReadHeaderTimeout: o.HeaderTime,
		ReadTimeout:       o.ReadTime,
		IdleTimeout:       o.IdleTime,
		WriteTimeout:      o.WriteTime,
		MaxHeaderBytes:    o.HeaderBytes,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		ConnState:         limit.state,
		ConnContext:       transport.ConnContext,
		// WriteTimeout ends streams of HTTP/2, and never a connection whose client reads nothing: its streams end on the wire alone.
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 128, MaxReadFrameSize: 64 << 10, WriteByteTimeout: o.WriteTime},
		// Else net/http answers "OPTIONS *" past the handler.
		DisableGeneralOptionsHandler: true,
	}
	s.RegisterOnShutdown(limit.end)
	if o.TLS != nil {
		s.TLSConfig = o.TLS.Clone()
	}
	return s
}

// ServeListener serves until the server is shut down: by TLS when secure is true, for which the server has its TLS configuration. A server may serve
// several listeners. Like http.Server.Serve it always gives an error: http.ErrServerClosed after a Shutdown.
func ServeListener(s *http.Server, l net.Listener, secure bool) error {
	// Not decided by s.TLSConfig: net/http writes to that when the first listener is served.
	if secure {
		return s.ServeTLS(l, "", "")
	}
	return s.Serve(l)
}

// connLimit keeps the number of open connections at or below a bound by closing, for each one too many, that which has
// been without a request for longest: ten thousand idle clients then cost no more memory than the bound, and a new one is
// still served. Only when every connection is at work is the new one closed.
type connLimit struct {
	most int

	mu   sync.Mutex                 // guards what follows
	open map[net.Conn]*list.Element // its place in idle; nil while it has a request
	idle *list.List                 // of net.Conn, the longest idle first
}

func newConnLimit(most int) *connLimit {
	return &connLimit{most: most, open: make(map[net.Conn]*list.Element), idle: list.New()}
}

// state is the ConnState hook of http.Server.
func (l *connLimit) state(c net.Conn, s http.ConnState) {
	if victim := l.note(c, s); victim != nil {
		cut(victim)
	}
}

// cut closes a connection without TLS's farewell: net/http does nothing else meanwhile, and who reads nothing would hold it up for seconds.
func cut(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	// Its error says that the peer had closed it already, which is as good.
	_ = c.Close()
}

// farewell is how long clients without a request have, all together, to take leave when the server is shut down.
const farewell = 250 * time.Millisecond

// end is for http.Server.RegisterOnShutdown: Shutdown takes leave of one idle connection after the other, whatever its context says.
func (l *connLimit) end() {
	time.Sleep(farewell)
	l.mu.Lock()
	var left []net.Conn
	for e := l.idle.Front(); e != nil; e = e.Next() {
		left = append(left, e.Value.(net.Conn))
	}
	l.mu.Unlock()
	for _, c := range left {
		cut(c)
	}
}

// note keeps the books and gives the connection to close, if there is one.
func (l *connLimit) note(c net.Conn, s http.ConnState) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch s {
	case http.StateNew:
		// One that has not sent anything is idle too.
		l.open[c] = l.idle.PushBack(c)
		if len(l.open) <= l.most {
			return nil
		}
		first := l.idle.Front()
		victim := first.Value.(net.Conn)
		l.idle.Remove(first)
		delete(l.open, victim)
		return victim
	case http.StateActive:
		if e, ok := l.open[c]; ok && e != nil {
			l.idle.Remove(e)
			l.open[c] = nil
		}
	case http.StateIdle:
		if e, ok := l.open[c]; ok && e == nil {
			l.open[c] = l.idle.PushBack(c)
		}
	case http.StateClosed, http.StateHijacked:
		if e, ok := l.open[c]; ok {
			if e != nil {
				l.idle.Remove(e)
			}
			delete(l.open, c)
		}
	}
	return nil
}
