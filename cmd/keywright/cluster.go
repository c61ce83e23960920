package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/store/postgres"
)

// nodeConfig is what this node is called among the nodes on one store.
type nodeConfig struct {
	Name string `koanf:"name"` // Default: the machine's name.
}

// complete fills in the default and refuses what no list could show.
func (c *nodeConfig) complete() error {
	if c.Name == "" {
		name, err := os.Hostname()
		if err != nil || name == "" {
			name = "node" // the id tells them apart
		}
		c.Name = name[:min(len(name), maxNodeName)]
		return nil
	}
	if len(c.Name) > maxNodeName {
		return fmt.Errorf("node: a name has at most %d bytes", maxNodeName)
	}
	for _, r := range c.Name {
		if r <= ' ' || r > '~' {
			return errors.New("node: a name is of printable ASCII, without spaces")
		}
	}
	return nil
}

const maxNodeName = 64

const (
	// maintainEvery is how often the node whose turn it is looks for what is due: two reads of indices.
	maintainEvery = 5 * time.Second
	// newsKept is how long news are kept: far longer than a node can be behind that has not started anew.
	newsKept  = 72 * time.Hour
	pruneNews = time.Hour
)

// openCluster gives the node its identity and, where there can be others on the store, the ways to hear of them. It comes before all that
// asks whether it is alone.
func (n *node) openCluster(registry prometheus.Registerer) error {
	n.self = &cluster.Node{ID: uuid.New(), Name: n.config.Node.Name, Version: programVersion(), StartedAt: time.Now().UTC().Truncate(time.Microsecond)}
	n.shared = postgres.IsURI(n.config.Store.URL)
	var err error
	if n.presence, err = cluster.NewPresence(n.store, n.describe, n.log); err != nil {
		return err
	}
	n.leases, err = cluster.NewLeases(cluster.LeasesOptions{Store: n.store, Holder: n.self.ID, Registerer: registry, Logger: n.log})
	if err != nil || !n.shared {
		return err
	}
	n.feed, err = cluster.NewFeed(cluster.FeedOptions{Store: n.store, Registerer: registry, Logger: n.log, Subscribers: []cluster.Subscriber{{
		Heard: func(news cluster.News) {
			n.auth.Heard(news)
			n.keys.Heard(news)
			n.heardJob(news)
			n.changes.Wake()
			if news.Kind == cluster.KindRoot {
				n.rootChanged()
			}
		},
		Forget: func() { n.auth.ForgetAll(); n.keys.InvalidateAll(); n.rootChanged() },
	}}})
	return err
}

// follow begins to hear what other nodes change. Everything that caches is there by now.
func (n *node) follow() {
	if !n.shared {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.feed.Run(ctx) })
	n.onClose(func() error { cancel(); running.Wait(); return nil })
}

// fresh reports whether what is cached may be believed.
func (n *node) fresh() bool { return !n.shared || n.feed.Fresh() }

// describe is this node as the others see it.
func (n *node) describe() *cluster.Node {
	out := *n.self
	if at := n.listening.Load(); at != nil {
		out.Address = *at
	}
	for _, b := range n.backends {
		info := b.Info()
		out.Backends = append(out.Backends, cluster.NodeBackend{ID: info.ID, Name: info.Name, Kind: info.Kind})
	}
	return &out
}

// nodes lists the nodes on the store, and which leases are held by whom. A node that is alone lists itself.
func (n *node) nodes(ctx context.Context) (nodes []*cluster.Node, leases []cluster.Lease, self uuid.UUID, err error) {
	if !n.shared {
		only := n.describe()
		only.SeenAt = time.Now().UTC()
		return []*cluster.Node{only}, nil, n.self.ID, nil
	}
	if nodes, err = n.presence.Nodes(ctx); err == nil {
		leases, err = n.store.Leases(ctx)
	}
	return nodes, leases, n.self.ID, err
}

// hold runs work whenever it is this node's turn: always, when it is alone.
func (n *node) hold(ctx context.Context, lease string, work func(context.Context)) {
	if n.shared {
		n.leases.Hold(ctx, lease, work)
		return
	}
	work(ctx)
}

// once runs work while no other node does the same.
func (n *node) once(ctx context.Context, lease string, work func(context.Context) error) error {
	if n.shared {
		return n.leases.Once(ctx, lease, work)
	}
	return work(ctx)
}

// every runs f now and then until ctx ends, and says what fails.
func (n *node) every(ctx context.Context, interval time.Duration, what string, f func(context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := f(ctx); err != nil && ctx.Err() == nil {
			n.log.Error(what+" failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// maintain does what comes due with time: scheduled deletions, rotations, old idempotency records. While the service is
// locked it waits; when the root opens it makes the owner's key if there is none.
//
// Of several nodes one at a time does it for each backend, one that has the backend.
func (n *node) maintain(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-n.root.Opened():
	}
	if err := n.once(ctx, startLease, n.bootstrap); err != nil && ctx.Err() == nil {
		n.log.Error("bootstrap failed", "error", err)
	}
	if !n.shared {
		n.every(ctx, maintainEvery, "maintenance", func(ctx context.Context) error { return errors.Join(n.keys.Maintain(ctx), n.pruneSessions(ctx)) })
		return
	}
	var running sync.WaitGroup
	for _, b := range n.backends {
		id := b.Info().ID
		running.Go(func() {
			n.hold(ctx, "maintain/"+id, func(ctx context.Context) {
				n.every(ctx, maintainEvery, "maintenance", func(ctx context.Context) error {
					return n.keys.MaintainKeys(ctx, func(other string) bool { return other == id })
				})
			})
		})
	}
	running.Go(func() {
		n.hold(ctx, "maintain", func(ctx context.Context) { n.every(ctx, maintainEvery, "maintenance", n.housekeep) })
	})
	running.Wait()
}

// startLease is held by a node that makes what a deployment has once: its root and its owner's key.
const startLease = "start"

// housekeep does what is about no backend, or about one that no node has: that it fails is to be seen somewhere.
func (n *node) housekeep(ctx context.Context) error {
	nobodys := func(backendID string) bool {
		if backendID == "" {
			return true
		}
		_, others := n.presence.Elsewhere(backendID)
		return !n.keys.Has(backendID) && len(others) == 0
	}
	err := errors.Join(n.keys.MaintainKeys(ctx, nobodys), n.keys.Prune(ctx), n.pruneSessions(ctx))
	if now := time.Now(); now.Sub(n.newsPruned) >= pruneNews {
		pruned := errors.Join(n.store.PruneNews(ctx, now.Add(-newsKept)), n.store.PruneCells(ctx))
		if pruned == nil {
			n.newsPruned = now
		}
		err = errors.Join(err, pruned)
	}
	return err
}

// pruneSessions forgets sessions that have expired, once an hour.
func (n *node) pruneSessions(ctx context.Context) error {
	if time.Since(n.sessionsPruned) < auth.SessionKeep {
		return nil
	}
	err := n.auth.PruneSessions(ctx)
	if err == nil {
		n.sessionsPruned = time.Now()
	}
	return err
}
