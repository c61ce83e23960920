package main

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
)

// openJobs begins to run what this node can run. It is closed before the keys, which the jobs work on.
func (n *node) openJobs(registry prometheus.Registerer) error {
	kinds := append(n.keys.JobKinds(), n.rekey.Definition())
	runner, err := jobs.NewRunner(n.jobs, jobs.RunnerOptions{Node: n.self.ID, Leases: n.store, Registerer: registry, Kinds: kinds})
	if err != nil {
		return fmt.Errorf("opening the jobs: %w", err)
	}
	n.onClose(func() error { return within(runner.Close) })
	return nil
}

// heardJob looks for jobs when another node tells of one, or of its cancellation.
func (n *node) heardJob(news cluster.News) {
	if news.Kind == cluster.KindJob {
		n.jobs.Wake()
	}
}

// reportMaintained leaves a job of each tenant and kind of what the schedule did. What cannot be written is in the audit log, key by key.
func (n *node) reportMaintained(ctx context.Context, all []keys.Maintained) {
	for _, m := range all {
		for _, act := range []struct {
			name string
			kind jobs.Kind
			done int
		}{
			{keys.ActActivate, jobs.KindActivation, m.Activated}, {keys.ActExpire, jobs.KindExpiry, m.Expired}, {keys.ActRotate, jobs.KindRotation, m.Rotated},
			{keys.ActDestroy, jobs.KindDeletion, m.Destroyed}, {keys.ActAbandon, jobs.KindAbandoning, m.Abandoned},
		} {
			sum := jobs.Summary{Tenant: m.Tenant, Kind: act.kind, Counts: jobs.Counts{Done: int64(act.done)}, StartedAt: m.Since, Node: n.self.ID}
			for _, f := range m.Failures {
				if f.Act == act.name {
					sum.Counts.Failed++
					sum.Notices = append(sum.Notices, jobs.NewNotice("key:"+f.Key.String(), f.Err))
				}
			}
			if _, err := n.jobs.Report(ctx, sum); err != nil && ctx.Err() == nil {
				n.log.Warn("what the schedule did could not be written as a job", "kind", act.kind, "error", err)
			}
		}
	}
}
