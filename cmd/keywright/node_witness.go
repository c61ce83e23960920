package main

import (
	"context"
	"fmt"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/audit/witness"
)

// auditConfig is what becomes of the audit log.
type auditConfig struct {
	Witnesses []witnessConfig `koanf:"witnesses"`
	Sinks     []sinkConfig    `koanf:"sinks"`
	// Retention is for how long bodies of entries are kept, at least 168h; then their hashes are. Default 0: for ever.
	Retention time.Duration `koanf:"retention"`
}

// witnessConfig is somebody outside who watches that the log only grows (C2SP tlog-witness).
type witnessConfig struct {
	Key string `koanf:"key"` // its verifier key in note form
	URL string `koanf:"url"` // its submission prefix
}

// completeWitnesses refuses what cannot be right.
func (c *auditConfig) completeWitnesses() error {
	_, err := c.witnesses()
	return err
}

// witnesses makes the clients of the configured witnesses.
func (c *auditConfig) witnesses() ([]audit.Witness, error) {
	var all []audit.Witness
	for i, w := range c.Witnesses {
		one, err := witness.New(w.Key, w.URL, nil)
		if err != nil {
			return nil, at(fmt.Sprintf("audit.witnesses[%d]", i), err)
		}
		all = append(all, one)
	}
	if err := audit.CheckWitnesses(all); err != nil {
		return nil, at("audit.witnesses", err)
	}
	return all, nil
}

// postQuantumSigner is asked beside checkpointSigner.
func (n *node) postQuantumSigner(ctx context.Context) (audit.PostQuantumSigner, error) {
	service, err := n.signing()
	if err != nil {
		return nil, err
	}
	return service.InternalPostQuantumSigner(ctx, postQuantumCheckpointKey)
}
