package main

import (
	"context"
	"errors"
	"time"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/rekey"
	"github.com/keywright/keywright/tpm"
)

// resealConfig is for the job that seals key material anew after the root or a device's key over keys was replaced.
type resealConfig struct {
	// Share is how much of the time the job works, above 0 to 1: for the rest it pauses. Default 0.15.
	Share float64 `koanf:"share"`
	// Batch is how many key versions change in one transaction. Default 16.
	Batch int `koanf:"batch"`
	// Settle is how long after a root was replaced the one before is kept at least. Default 2m.
	Settle time.Duration `koanf:"settle"`
}

func (c *resealConfig) complete() error {
	if c.Share < 0 || c.Share > 1 || c.Batch < 0 || c.Batch > 1000 || c.Settle < 0 {
		return errors.New("reseal: share is 0 to 1, batch at most 1000, settle not negative")
	}
	return nil
}

// carried are the labels whose keys outlive their root; docs/formats/root-slots.md says why.
func carried() []string {
	return []string{auth.LabelPepper, auth.LabelSessions, tpm.Label, events.LabelSecrets}
}

func (n *node) openRekey(backends []backend.Backend) error {
	c := n.config.Reseal
	var err error
	n.rekey, err = rekey.New(rekey.Options{Root: n.root, Keys: n.keys, Jobs: n.jobs, Recorder: n.audit, Backends: backends, Shared: n.shared,
		Share: c.Share, Batch: c.Batch, Settle: c.Settle, Logger: n.log})
	return err
}

// followEvery is how often a node looks whether another has replaced the root: by then it must not seal under the old one any more.
const followEvery = time.Second

// rootChanged says that another node may have replaced the root. It does not block.
func (n *node) rootChanged() {
	select {
	case n.rootNews <- struct{}{}:
	default: // somebody has said so
	}
}

// followRoot brings the node to the root of the store, again and again. A store of one node has no other to follow.
func (n *node) followRoot(ctx context.Context) {
	if !n.shared {
		return
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for failing := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-n.rootNews:
		}
		err := n.rekey.Follow(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			n.log.Warn("whether the root was replaced cannot be seen", "error", err)
		}
		failing = err != nil
	}
}
