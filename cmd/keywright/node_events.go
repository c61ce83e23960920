package main

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/events"
)

// webhooksConfig says where webhooks may go.
type webhooksConfig struct {
	// Allow lists addresses, CIDRs and hosts that may be called although they are inside the machine or its network segment.
	Allow []string `koanf:"allow"`
	// PlainHTTP permits http://. Default: https:// only.
	PlainHTTP bool `koanf:"plain_http"`
	// CAFile is a PEM file of certificates that the receivers' are to chain to. Default: the system's.
	CAFile string `koanf:"ca_file"`
}

// eventsConfig bounds the event streams of this node.
type eventsConfig struct {
	Streams       int `koanf:"streams"`        // open at once. Default 512.
	TenantStreams int `koanf:"tenant_streams"` // of one tenant. Default 64.
}

// eventKeys tells the names of keys from their records.
type eventKeys struct{ store store }

func (k eventKeys) EventKey(ctx context.Context, tenant, id uuid.UUID) (string, map[string]string, error) {
	key, err := k.store.KeyByID(ctx, tenant, id)
	if err != nil {
		return "", nil, err
	}
	return key.Name, key.Labels, nil
}

// openEvents makes what tells of changes.
func (n *node) openEvents(registry prometheus.Registerer) error {
	n.changes = events.NewFeed(n.store, eventKeys{n.store}, n.log)
	n.onClose(func() error { n.changes.Close(); return nil })
	var err error
	n.streams, err = events.NewStreams(n.changes, events.StreamOptions{Most: n.config.Events.Streams, MostOfTenant: n.config.Events.TenantStreams, Registerer: registry})
	if err != nil {
		return fmt.Errorf("opening the event streams: %w", err)
	}
	reach := events.Reach{Allow: n.config.Webhooks.Allow, PlainHTTP: n.config.Webhooks.PlainHTTP}
	if path := n.config.Webhooks.CAFile; path != "" {
		pem, err := readSmall(path, 1<<20)
		if err != nil {
			return fmt.Errorf("reading webhooks.ca_file: %w", err)
		}
		if reach.Roots = x509.NewCertPool(); !reach.Roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("webhooks.ca_file %s holds no PEM certificate", path)
		}
	}
	n.webhooks, err = events.New(events.Options{Store: n.store, Recorder: n.audit, Feed: n.changes, Derive: n.root.Derive, Reach: reach,
		UserAgent: "Keywright-Webhooks/" + programVersion(), Logger: n.log, Registerer: registry})
	if err != nil {
		return fmt.Errorf("opening the webhooks: %w", err)
	}
	return nil
}
