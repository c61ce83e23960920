package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/audit"
	auditsink "github.com/keywright/keywright/audit/sink"
)

// sinkForgotten is after how long a node that says nothing of its file, and is not there, is not waited for any more.
const sinkForgotten = 30 * 24 * time.Hour

// completeRetention refuses a time that is too short.
func (c *auditConfig) completeRetention() error {
	if c.Retention == 0 || c.Retention >= audit.MinRetention {
		return nil
	}
	return at("audit.retention", fmt.Errorf("entries are kept for at least %d hours; 0: for ever", int(audit.MinRetention.Hours())))
}

// openRetention makes what prunes the audit log, when it is to be pruned.
func (n *node) openRetention(registry prometheus.Registerer) error {
	if n.config.Audit.Retention == 0 {
		return nil
	}
	var err error
	n.retention, err = audit.NewRetention(n.audit, audit.RetentionOptions{Keep: n.config.Audit.Retention, Taken: n.taken, Registerer: registry, Logger: n.log})
	return err
}

// retain prunes the audit log until ctx ends: of several nodes one at a time, that has the keys of the checkpoints.
func (n *node) retain(ctx context.Context) {
	if n.retention == nil {
		return
	}
	n.tasks.Go(func() { n.retention.Watch(ctx) })
	n.tasks.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-n.root.Opened():
		}
		n.hold(ctx, "audit-retention", func(ctx context.Context) {
			if !n.shared || n.canSign(ctx) {
				n.retention.Run(ctx)
			}
		})
	})
}

// taken gives up to where every sink has taken the audit log, and which is the last. Nodes are configured alike: what this one has not got is not
// waited for. A file is waited for on each node that is there, and on one that has been there within the last month.
func (n *node) taken(ctx context.Context) (next uint64, who string, err error) {
	next = math.MaxInt64
	if len(n.sinks) == 0 {
		return next, "", nil
	}
	all, err := n.store.SinkCursors(ctx)
	if err != nil {
		return 0, "", fmt.Errorf("reading the cursors of audit sinks: %w", err)
	}
	nodes, err := n.names(ctx)
	if err != nil {
		return 0, "", fmt.Errorf("reading which nodes there are: %w", err)
	}
	known := map[string]auditsink.Cursor{}
	for _, c := range all {
		known[c.Name] = c
	}
	wait := func(name string) {
		if c := known[name]; c.Next < next { // 0 of one that has said nothing yet
			next, who = c.Next, name
		}
	}
	for _, s := range n.sinks {
		if !s.Local() {
			wait(s.Name())
			continue
		}
		for name := range nodes {
			wait(auditsink.LocalName(s.Name(), name))
		}
		for _, c := range all {
			if _, found := strings.CutPrefix(c.Name, auditsink.LocalName(s.Name(), "")); found && time.Since(c.SaidAt) < sinkForgotten {
				wait(c.Name)
			}
		}
	}
	return next, who, nil
}

// names gives what the nodes that run are called, this one among them.
func (n *node) names(ctx context.Context) (map[string]bool, error) {
	names := map[string]bool{n.self.Name: true}
	if !n.shared {
		return names, nil
	}
	nodes, err := n.presence.Nodes(ctx)
	for _, other := range nodes {
		names[other.Name] = true
	}
	return names, err
}
