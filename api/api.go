// Package api is the REST front end: routes as data, one pipeline for all of them, one table from fault codes to HTTP.
//
// It trusts nothing that comes in by the network: every body is bounded, strictly decoded and wiped after use, every
// caller authenticated and held to the scopes of its credential before a handler runs. It trusts the services behind it
// to hold every other rule; no handler reaches a backend or a store.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/keywright/keywright/ratelimit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options are what a Server is made of. Keys, Auth, Root, Audit, Jobs and Rekey are required.
type Options struct {
	Keys  Keys
	Auth  Auth
	Root  Root
	Audit Audit
	Jobs  Jobs
	Rekey Rekey

	// Nodes lists the nodes on the store. Default: none are known.
	Nodes NodesFunc
	// Events and Webhooks tell what has changed. Default: their routes answer fault.Unavailable.
	Events   Events
	Webhooks Webhooks
	// Backups makes backups. Default: the route answers fault.Unavailable.
	Backups Backups

	// Limiter holds callers to the rates of Plans and to those of their credentials. Default: nobody is held to any.
	Limiter Limiter
	Plans   ratelimit.Plans
	// Limited counts requests over a rate. Default: they are not counted.
	Limited Denials

	// Denials counts requests without a valid credential. Default: they are not counted.
	Denials Denials
	// Ready says whether the service can work, beyond being unlocked: nil error for yes. It must answer at once.
	// Default: always.
	Ready func(context.Context) error
	// Log gets unexpected failures. Default: discarded.
	Log *slog.Logger
	// Metrics collects the request metrics and is what the metrics handler shows. Default: a registry of its own.
	Metrics *prometheus.Registry
	// TrustedProxies are where proxies stand whose X-Forwarded-For is believed. Default: nowhere.
	TrustedProxies []netip.Prefix
	// AfterLogin is the path of this origin where a browser goes that has signed in. Default: /api/v1/session.
	AfterLogin string
	// Version is shown by /health and in the OpenAPI document. Default: "dev".
	Version string
	Limits  Limits
}

// Limits bound what a caller can make the server hold. The zero value of each field means its default.
type Limits struct {
	// BodyMemory is how many bytes of large request bodies (over 64 KiB) may be in memory at once, over all connections;
	// what does not fit is answered with 503 and Retry-After. Default: 64 MiB.
	BodyMemory int64
	// BodyTime is how long a caller may take to send a body. Default: 15 s.
	BodyTime time.Duration
	// Timeout, when positive, replaces the time limit of every route that has one.
	Timeout time.Duration
	// EventBeat is the time between signs of life of an event stream that has nothing to tell. Default: 15 s.
	EventBeat time.Duration
	// EventStall is how long a client of an event stream may take for one write before it is cut off. Default: 10 s.
	EventStall time.Duration
}

func (l Limits) withDefaults() Limits {
	if l.BodyMemory <= 0 {
		l.BodyMemory = 64 << 20
	}
	if l.BodyTime <= 0 {
		l.BodyTime = 15 * time.Second
	}
	if l.EventBeat <= 0 {
		l.EventBeat = 15 * time.Second
	}
	if l.EventStall <= 0 {
		l.EventStall = 10 * time.Second
	}
	return l
}

// Server answers the REST API. It is safe for concurrent use and has no goroutine of its own.
type Server struct {
	keys     Keys
	auth     Auth
	root     Root
	audit    Audit
	jobs     Jobs
	rekey    Rekey
	nodes    NodesFunc
	denials  Denials
	limiter  Limiter
	plans    ratelimit.Plans
	limited  Denials
	events   Events
	webhooks Webhooks
	backups  Backups
	ready    func(context.Context) error
	log      *slog.Logger
	limits   Limits
	proxies  []netip.Prefix

	afterLogin string
	version    string
	registry   *prometheus.Registry
	metrics    *metrics
	routes     []route
	engine     *gin.Engine
	calls      sync.Pool // of *call
	bodies     budget

	document    sync.Once // guards the making of what follows, which never changes afterwards
	documentErr error
	spec        []byte
	page        []byte
	pagePolicy  string // Content-Security-Policy of the page
}

// New makes a Server. It fails when a required service is missing or a metric name is taken in the registry.
func New(o Options) (*Server, error) {
	if o.Keys == nil || o.Auth == nil || o.Root == nil || o.Audit == nil || o.Jobs == nil || o.Rekey == nil {
		return nil, errors.New("api: Keys, Auth, Root, Audit, Jobs and Rekey are required")
	}
	if o.Ready == nil {
		o.Ready = func(context.Context) error { return nil }
	}
	if o.Backups == nil {
		o.Backups = noBackups{}
	}
	if o.Nodes == nil {
		o.Nodes = noNodes
	}
	if o.Denials == nil {
		o.Denials = uncounted{}
	}
	if o.Limited == nil {
		o.Limited = uncounted{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	if o.AfterLogin == "" {
		o.AfterLogin = prefix + "/session"
	}
	s := &Server{keys: o.Keys, auth: o.Auth, root: o.Root, audit: o.Audit, jobs: o.Jobs, rekey: o.Rekey, nodes: o.Nodes, denials: o.Denials, limiter: o.Limiter, plans: o.Plans, limited: o.Limited, ready: o.Ready, log: o.Log,
		limits: o.Limits.withDefaults(), proxies: o.TrustedProxies, events: o.Events, webhooks: o.Webhooks, backups: o.Backups, afterLogin: o.AfterLogin, version: o.Version, registry: o.Metrics}
	s.bodies.free = s.limits.BodyMemory
	s.calls.New = func() any { return newCall(s) }
	s.routes = s.table()
	if err := settleActs(s.routes); err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Metrics, s.routes)
	if err != nil {
		return nil, err
	}
	s.metrics = m
	s.engine = s.router()
	return s, nil
}

// uncounted is the Denials of a server without any.
type uncounted struct{}

func (uncounted) Add(string) {}

// Handler answers the API: everything but the metrics.
func (s *Server) Handler() http.Handler { return s.engine }

// MetricsHandler shows the registry in the Prometheus exposition formats. It asks for no credential: it belongs on a
// listener of its own.
func (s *Server) MetricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	return mux
}

// router builds the gin engine from the route table. None of gin's own middleware is used: the pipeline in serve is all.
func (s *Server) router() *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.HandleMethodNotAllowed = true
	e.RedirectTrailingSlash = false
	e.RedirectFixedPath = false
	// Names of keys may hold a percent-encoded slash: match on the encoded path, decode each parameter by ourselves (gin
	// would decode it as a query and turn "+" into a blank).
	e.UseEscapedPath = true
	e.UnescapePathValues = false
	for i := range s.routes {
		r := &s.routes[i]
		for _, p := range r.ginPaths() {
			e.Handle(r.Method, p, s.serve(r))
		}
	}
	e.NoRoute(s.notFound)
	e.NoMethod(s.methodNotAllowed)
	return e
}
