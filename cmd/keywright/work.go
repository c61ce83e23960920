package main

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/jobs"
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
