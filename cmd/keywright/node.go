package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/keywright/keywright/api"
	"github.com/keywright/keywright/audit"
	auditsink "github.com/keywright/keywright/audit/sink"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/pqc"
	"github.com/keywright/keywright/rekey"
	"github.com/keywright/keywright/root"
)

// closeTime is how long one step of closing may take.
const closeTime = 5 * time.Second

// node is one running service: its parts, from the ground up, and how they end, from the top down.
type node struct {
	config   config
	log      *slog.Logger
	registry *prometheus.Registry
	notify   notifier

	store    store
	audit    *audit.Log
	root     *root.Keeper
	auth     *auth.Service
	jobs     *jobs.Service
	rekey    *rekey.Service
	rootNews chan struct{} // holds one: the root may have been replaced
	keys     *keys.Service
	signer   atomic.Pointer[keys.Service] // keys, once open: the audit log asks for it from its own goroutine
	server   *api.Server

	self       *cluster.Node // without what changes
	shared     bool          // there can be other nodes on the store
	feed       *cluster.Feed // nil unless shared
	leases     *cluster.Leases
	presence   *cluster.Presence
	backends   []backend.Backend
	listening  atomic.Pointer[string] // where the API is served
	newsPruned time.Time              // of housekeep alone

	sessionsPruned time.Time // of maintain alone

	changes  *events.Feed
	streams  *events.Streams
	webhooks *events.Webhooks
	sinks    []*auditsink.Sink
	// nil: the audit log is kept for ever
	retention *audit.Retention

	held        atomic.Int64   // bytes that opened keys take in the caches of all backends
	remembering remembering    // of backends
	stopped     []func() error // in the order of opening; close runs them backwards
	tasks       sync.WaitGroup // what runs beside the listeners
}

// openNode opens every part. What was opened is closed again when a later part fails.
func openNode(ctx context.Context, c config, dev bool, log *slog.Logger) (n *node, err error) {
	n = &node{config: c, log: log, rootNews: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	n.powerOn()
	registry := prometheus.NewRegistry()
	n.registry = registry
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := n.openStore(ctx, registry); err != nil {
		return n, err
	}
	n.root = root.New(n.store, n.audit, root.Options{Logger: log, Carry: carried()})
	n.onClose(func() error { n.root.Close(); return nil })
	if n.backends, err = n.openBackends(ctx, registry); err != nil {
		return n, err
	}
	tokens, signIn, err := n.issuers()
	if err != nil {
		return n, err
	}
	n.auth = auth.New(n.store, n.audit, auth.Options{Derive: n.root.Derive, DeriveAt: n.root.DeriveAt, Generation: n.root.Generation, Idempotency: n.store, Fresh: n.fresh, Plan: n.hasPlan,
		Certificates: c.Credentials.certificates, Peers: c.Credentials.peers, Tokens: tokens, SignIn: signIn, Sessions: c.Sessions.rules()})
	n.jobs = jobs.New(n.store, n.audit, jobs.Options{Idempotency: n.store, Logger: log})
	n.keys, err = keys.New(keys.Options{Store: n.store, Idempotency: n.store, Recorder: recorder(n.audit), Backends: n.backends,
		Registerer: registry, Logger: log, Regranted: n.auth.Regranted, OperationsPerDay: func(plan string) int64 { return c.plans.Of(plan).OperationsPerDay }, RecordCache: c.Cache.Records, Jobs: n.jobs, Maintained: n.reportMaintained, Fresh: n.fresh, Elsewhere: n.presence.Elsewhere})
	if err != nil {
		return n, err
	}
	n.onClose(n.keys.Close)
	if err := n.openEvents(registry); err != nil {
		return n, err
	}
	if err := n.openSinks(registry); err != nil {
		return n, err
	}
	if err := n.openRetention(registry); err != nil {
		return n, err
	}
	n.follow()
	n.signer.Store(n.keys)
	if err := n.openRekey(n.backends); err != nil {
		return n, err
	}
	if err := n.openJobs(registry); err != nil {
		return n, err
	}
	n.onClose(func() error { return within(n.lastCheckpoint) })
	denials := audit.NewDenials(n.audit, log)
	n.onClose(func() error { return within(denials.Close) })
	limited := audit.NewLimited(n.audit, log)
	n.onClose(func() error { return within(limited.Close) })
	if err := n.missedPlans(ctx); err != nil {
		return n, err
	}
	limiter, err := n.openLimiter(registry)
	if err != nil {
		return n, err
	}
	n.server, err = api.New(api.Options{Keys: n.keys, Auth: n.auth, Root: n.root, Audit: n.audit, Jobs: n.jobs, Rekey: n.rekey, Denials: denials, Limiter: limiter, Plans: n.config.plans, Limited: limited, Events: n.streams, Webhooks: n.webhooks,
		Backups: n.backups(), Nodes: n.nodes, Ready: n.store.Ping, Log: log, Metrics: registry, TrustedProxies: n.config.proxies, AfterLogin: n.config.Sessions.AfterLogin, Version: programVersion()})
	if err != nil {
		return n, err
	}
	// Of nodes that start at once one makes the root, and the others open it.
	err = n.once(ctx, startLease, func(ctx context.Context) error {
		if err := openRoot(ctx, n.root, c.Root, dev, log); err != nil || n.root.Locked() {
			return err
		}
		return n.bootstrap(ctx)
	})
	if err == nil && n.root.Locked() {
		stop := n.root.AutoUnlock(starter)
		n.onClose(func() error { stop(); return nil })
	}
	return n, err
}

func (n *node) onClose(f func() error) { n.stopped = append(n.stopped, f) }

// within runs a closing step that takes a deadline.
func within(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	return f(ctx)
}

// close ends every part that was opened, the last first, and says everything that went wrong.
func (n *node) close() error {
	var errs []error
	for i := len(n.stopped) - 1; i >= 0; i-- {
		errs = append(errs, n.stopped[i]())
	}
	n.stopped = nil
	return errors.Join(errs...)
}

// powerOn begins the self-tests of the post-quantum algorithms, a quarter of a second of processor time, beside the opening of the store. The backends
// wait for the results before they offer anything, and offer nothing that has failed.
func (n *node) powerOn() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, failed := pqc.PowerOn()
		for _, f := range failed {
			n.log.Error("an algorithm has failed its self-test and is not offered", "algorithm", f.Algorithm, "error", f.Err)
		}
	}()
	n.onClose(func() error { <-done; return nil })
}

func (n *node) openStore(ctx context.Context, registry prometheus.Registerer) error {
	var err error
	if n.store, err = openStore(ctx, n.config.Store); err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	n.onClose(n.store.Close)
	if err := n.openCluster(registry); err != nil {
		return fmt.Errorf("joining the nodes on the store: %w", err)
	}
	witnesses, err := n.config.Audit.witnesses()
	if err != nil {
		return err
	}
	o := audit.Options{
		Origin:      "keywright/" + n.store.Deployment().String(),
		Signer:      n.checkpointSigner,
		PostQuantum: n.postQuantumSigner,
		Witnesses:   witnesses,
		Registerer:  registry,
		Logger:      n.log,
	}
	if n.shared {
		o.Alone = func(ctx context.Context, work func(context.Context)) {
			n.hold(ctx, "checkpoints", func(ctx context.Context) {
				if n.canSign(ctx) { // else the turn is over: the next may have the key
					work(ctx)
				}
			})
		}
	}
	n.audit, err = audit.Open(ctx, n.store, o)
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	n.onClose(func() error { return within(n.audit.Close) })
	return nil
}

// checkpointSigner is asked whenever a checkpoint is to be signed, by when the keys have been opened, or not yet.
func (n *node) checkpointSigner(ctx context.Context) (audit.CheckpointSigner, error) {
	service, err := n.signing()
	if err != nil {
		return nil, err
	}
	return service.InternalSigner(ctx, checkpointKey)
}

// signing gives the keys to sign with, once they have been opened and while the root is.
func (n *node) signing() (*keys.Service, error) {
	service := n.signer.Load()
	if service == nil || n.root.Locked() {
		return nil, fault.New(fault.Locked, "the service is locked: its root is not open yet")
	}
	return service, nil
}

// canSign reports whether this node is open and has the backends with both keys of the checkpoints.
func (n *node) canSign(ctx context.Context) bool {
	service, err := n.signing()
	if err != nil {
		return false
	}
	classical, err := service.InternalSigner(ctx, checkpointKey)
	if err != nil || !classical.Here() {
		return false
	}
	second, err := service.InternalPostQuantumSigner(ctx, postQuantumCheckpointKey)
	return err == nil && second.Here()
}

// The names of the service's own keys for checkpoints.
const (
	checkpointKey            = "audit-checkpoints"
	postQuantumCheckpointKey = "audit-checkpoints-ml-dsa-44"
)

// backups makes backups of what this node works on.
func (n *node) backups() *backup.Service {
	return backup.New(backup.Options{Source: n.store, Audit: n.audit, DeriveAt: n.root.DeriveAt, Release: programVersion(),
		Signer: func(ctx context.Context) (backup.Signer, error) { return n.keys.InternalSigner(ctx, "backups") }})
}

// lastCheckpoint signs what the log has become, while there is still a key to sign with.
func (n *node) lastCheckpoint(ctx context.Context) error {
	if n.root.Locked() {
		return nil
	}
	_, err := n.audit.Checkpoint(ctx)
	if fault.Has(err, fault.BackendUnavailable) {
		n.log.Warn("the log ends without a checkpoint: the device of its key is not there; the next start signs one", "error", err)
		return nil
	}
	return err
}

// firstTenant is the first tenant of a deployment: a name-based UUID (RFC 9562 section 5.5) of the deployment's own.
func firstTenant(deployment uuid.UUID) uuid.UUID {
	return uuid.NewSHA1(deployment, []byte("tenant: default"))
}

func (n *node) tenant() uuid.UUID { return firstTenant(n.store.Deployment()) }

// bootstrap makes the owner's API key at the first start. The key is on disk before it is valid.
func (n *node) bootstrap(ctx context.Context) error {
	path := n.config.OwnerKeyFile
	_, _, err := n.auth.Bootstrap(ctx, n.tenant(), func(presented string) error {
		return replaceFile(path, []byte(presented+"\n"))
	})
	if fault.Has(err, fault.Conflict) {
		return nil // a start as any other
	}
	if err != nil {
		return fmt.Errorf("making the owner's API key: %w", err)
	}
	n.log.Info("the owner's API key was made", "file", path)
	return nil
}

// replaceFile writes a file of mode 0600 whole or not at all, durably.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		if gone := os.Remove(f.Name()); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// serve listens until ctx ends, then lets the requests under way finish.
func (n *node) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options, watch, err := n.transportOptions()
	if err != nil {
		return err
	}
	listeners, err := n.listen(ctx)
	if err != nil {
		return err
	}
	failed := make(chan error, len(listeners)+1)
	main := api.NewHTTPServer(n.server.Handler(), options)
	servers := []*http.Server{main}
	for _, l := range listeners {
		n.tasks.Go(func() { failed <- api.ServeListener(main, l, secure(options, l)) })
	}

	if m, err := n.listenMetrics(ctx, listeners[0].Addr()); err != nil {
		return errors.Join(err, main.Close())
	} else if m != nil {
		side := api.NewHTTPServer(n.server.MetricsHandler(), api.ServeOptions{MaxConns: 64, Log: n.log})
		servers = append(servers, side)
		n.tasks.Go(func() { failed <- api.ServeListener(side, m, false) })
		n.log.Info("metrics are served", "address", m.Addr().String())
	}
	address := shownAddress(listeners[0])
	n.listening.Store(&address)
	if n.shared {
		n.tasks.Go(func() { n.presence.Run(ctx) })
	}
	n.tasks.Go(func() { n.maintain(ctx) })
	n.tasks.Go(func() { n.followRoot(ctx) })
	n.tasks.Go(func() { n.webhooks.Deliver(ctx, n.leases) })
	n.handOn(ctx)
	n.retain(ctx)
	n.tasks.Go(func() { followLimit(ctx, &n.held) })
	n.tasks.Go(func() { watch(ctx) })
	addressFile := filepath.Join(n.config.Data, "address")
	if err := replaceFile(addressFile, []byte(address+"\n")); err != nil {
		return errors.Join(fmt.Errorf("writing the address: %w", err), main.Close())
	}
	debug.FreeOSMemory() // what only the start has needed
	n.log.Info("Keywright is running", "address", addresses(listeners), "version", programVersion(), "locked", n.root.Locked())
	n.tell(ctx, notifyReady)

	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	n.log.Info("Keywright is stopping")
	n.tell(ctx, notifyStopping)
	n.streams.Drain()
	cancel()
	for _, s := range servers {
		if late := within(s.Shutdown); late != nil {
			n.log.Warn("some requests did not finish in time and are cut off", "error", late)
			err = errors.Join(err, s.Close())
		}
	}
	n.tasks.Wait()
	return err
}

// listenMetrics opens the metrics' listener: where it is configured, or at the next port on loopback; when that one is taken
// and nobody asked for it, anywhere on loopback. The address stands in DATA/metrics.address.
func (n *node) listenMetrics(ctx context.Context, api net.Addr) (net.Listener, error) {
	address := n.config.MetricsListen
	if address == "off" {
		return nil, nil
	}
	chosen := address != ""
	if !chosen {
		port := 0
		if a, ok := api.(*net.TCPAddr); ok {
			port = (a.Port + 1) % (1 << 16)
		}
		address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil && !chosen {
		n.log.Warn("the port for metrics is taken: using another", "address", address)
		l, err = lc.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	if err := replaceFile(filepath.Join(n.config.Data, "metrics.address"), []byte(l.Addr().String()+"\n")); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the metrics' address: %w", err), l.Close())
	}
	return l, nil
}
