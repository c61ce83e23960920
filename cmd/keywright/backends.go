package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/hsm/uri"
)

const schemeSoftware = "software:"

// pkcs11Config is what a PKCS#11 URI has no words for. The zero value of every field is usable. What the URI says too (its x-
// attributes) goes before what is said here.
type pkcs11Config struct {
	// Members are the tokens of a group, each with a URI of its own; the backend's URI is then pkcs11: alone.
	Members []memberConfig `koanf:"members"`
	// Sharing is replicas (default: every member shows the same keys, as the HSMs of one domain do), copies (the service places each key on every
	// member, under the wrapping key that they share) or pinned (each key is on the member that made it).
	Sharing string `koanf:"sharing"`
	// ID is the device identity in key records. Default: from a key on the token. A group of pinned members needs one.
	ID string `koanf:"id"`
	// Required makes the start fail when none of the tokens is there. Default false: a backend that has been open before, or has an ID, waits
	// for its tokens and answers 503 meanwhile.
	Required bool `koanf:"required"`
	// MinCopies is how many members must have taken a new key, with copies. Default more than half.
	MinCopies int `koanf:"min_copies"`
	// FailoverAfter is the longest time that a member of a group may take before another one is asked. Default 1s.
	FailoverAfter time.Duration `koanf:"failover_after"`
	// Placement is resident (default) or wrapped.
	Placement string `koanf:"placement"`
	// AllowSealed offers the algorithms that the tokens lack in sealed custody. Default false.
	AllowSealed bool `koanf:"allow_sealed"`
	// AcceptLeaks opens a token that lets non-extractable keys be wrapped out. Default false.
	AcceptLeaks bool `koanf:"accept_leaks"`
	// InProcess loads the module into the service itself: faster, and a crash of the module is one of the service. Default false.
	InProcess bool `koanf:"in_process"`
	// Processes is how many processes load the module. Default 1.
	Processes int `koanf:"processes"`
	// Sessions and Queue bound one process's sessions and the calls that wait for one. Default 64 and 1024.
	Sessions int `koanf:"sessions"`
	Queue    int `koanf:"queue"`
	// Profile is a vendor profile. Default: by what the token says of itself.
	Profile string `koanf:"profile"`
	// InitArgs is what C_Initialize is given as pReserved (NSS).
	InitArgs string `koanf:"init_args"`
	// ReinitEvery is the least time between two initialisations, in whole seconds. Default 1s.
	ReinitEvery time.Duration `koanf:"reinit_every"`
	// KEKLabel is the label of the wrapping key. Default keywright-kek.
	KEKLabel string `koanf:"kek_label"`
	// WrappedCache is how many wrapped keys stay loaded on the token. Default 1024.
	WrappedCache int `koanf:"wrapped_cache"`
	// OpenTimeout bounds the first opening of the token. Default 30s.
	OpenTimeout time.Duration `koanf:"open_timeout"`
	// CallTimeout bounds a use of a key, however long the request would wait, and others as token.Limit says. Default 5s.
	CallTimeout time.Duration `koanf:"call_timeout"`
	// PingEvery is the time between two tests of the token. Default 20s, at most 1m.
	PingEvery time.Duration `koanf:"ping_every"`
}

// memberConfig is one token of a group.
type memberConfig struct {
	Name   string `koanf:"name"` // default: the token's label
	URI    string `koanf:"uri"`
	Weight int    `koanf:"weight"` // share of the operations; 0 is 1, negative stands by
}

// completeBackends checks the backends' names and URIs, and adds what is always there.
func (c *config) completeBackends() error {
	seen, tpms, soft := map[string]bool{}, map[string]bool{}, false
	var errs []error
	for i := range c.Backends {
		err := c.Backends[i].check(seen, tpms, &soft)
		errs = append(errs, at(fmt.Sprintf("backends[%d]", i), err))
	}
	if !soft {
		if seen["software"] {
			errs = append(errs, errors.New("the name software is for the software backend, which is always there"))
		}
		c.Backends = append(c.Backends, backendConfig{Name: "software", URI: schemeSoftware})
	}
	return errors.Join(errs...)
}

// check refuses what cannot be right about a backend, beside those seen before it.
func (b *backendConfig) check(seen, tpms map[string]bool, soft *bool) error {
	scheme, _, ok := strings.Cut(b.URI, ":")
	if b.Name == "" || !ok {
		return errors.New("a backend needs a name and a URI, as in NAME=software: on the command line")
	}
	if seen[b.Name] {
		return fmt.Errorf("two backends are named %s", b.Name)
	}
	seen[b.Name] = true
	if b.TPM != (tpmConfig{}) && !isTPM(b.URI) {
		return fmt.Errorf("backend %s: tpm is for the URI of a TPM", b.Name)
	}
	switch {
	case strings.EqualFold(scheme+":", uri.Scheme):
		if _, err := b.members(); err != nil {
			return fmt.Errorf("backend %s: %w", b.Name, err)
		}
	case isTPM(b.URI):
		o, err := b.tpmOptions()
		if err != nil {
			return fmt.Errorf("backend %s: %w", b.Name, err)
		}
		if tpms[o.URI.Address] {
			return fmt.Errorf("backend %s: two backends are on the same TPM", b.Name)
		}
		tpms[o.URI.Address] = true
	case scheme+":" != schemeSoftware:
		return fmt.Errorf("backend %s: this build opens software:, pkcs11: and tpm: only", b.Name)
	case b.URI != schemeSoftware:
		return fmt.Errorf("backend %s: software: takes nothing behind the colon", b.Name)
	case *soft:
		return errors.New("a software backend stands for the one root, so there can be only one")
	default:
		*soft = true
	}
	return nil
}

// member is a token that is to be opened.
type member struct {
	memberConfig
	uri *uri.URI
}

// members gives the tokens of a PKCS#11 backend: one, or those of the group.
func (b *backendConfig) members() ([]member, error) {
	configured := b.PKCS11.Members
	if len(configured) == 0 {
		configured = []memberConfig{{URI: b.URI}}
	} else if !strings.EqualFold(b.URI, uri.Scheme) {
		return nil, errors.New("with members the URI of the backend is pkcs11: alone")
	}
	out := make([]member, 0, len(configured))
	for i, m := range configured {
		u, err := uri.Parse(m.URI, b.origin)
		if err == nil {
			_, err = u.Config()
		}
		if err != nil && len(configured) > 1 {
			err = fmt.Errorf("member %d: %w", i+1, err)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, member{m, u})
	}
	return out, nil
}

// hasPIN reports whether a PIN stands in the configuration itself. What does not parse is refused later.
func (b *backendConfig) hasPIN() bool {
	uris := []string{b.URI}
	for _, m := range b.PKCS11.Members {
		uris = append(uris, m.URI)
	}
	return slices.ContainsFunc(uris, func(text string) bool {
		u, err := uri.Parse(text, uri.FromFile)
		return err == nil && u.PINValue != nil
	})
}

// openPatiently opens a backend, and tries a token again that fails at that moment: tokens in software do where another node is just writing to them.
// A PIN that was refused is not sent again, and a TPM counts attempts.
func (n *node) openPatiently(ctx context.Context, b *backendConfig, registry prometheus.Registerer) (backend.Backend, error) {
	const tries, pause = 3, 500 * time.Millisecond
	for try := 1; ; try++ {
		opened, err := n.openBackend(ctx, b, registry)
		if err == nil || try == tries || !strings.HasPrefix(b.URI, "pkcs11:") || !fault.Has(err, fault.BackendUnavailable) || errors.Is(err, token.ErrPINRefused) {
			return opened, err
		}
		n.log.Warn("a backend does not open, and is tried again", "backend", b.Name, "error", err)
		select {
		case <-time.After(time.Duration(try) * pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// openBackends opens all backends at once, so that one that takes its time, or its deadline, does not keep the others waiting. They are in the order of
// the configuration. The device that is for the root alone is opened with them, and is not among them.
func (n *node) openBackends(ctx context.Context, registry prometheus.Registerer) ([]backend.Backend, error) {
	configured := slices.Clone(n.config.Backends)
	if n.config.Root.own != nil {
		configured = append(configured, *n.config.Root.own)
	}
	opened, errs := make([]backend.Backend, len(configured)), make([]error, len(configured))
	var all sync.WaitGroup
	for i := range configured {
		all.Go(func() {
			b := &configured[i]
			if opened[i], errs[i] = n.openPatiently(ctx, b, registry); errs[i] != nil {
				errs[i] = fmt.Errorf("opening backend %s: %w", b.Name, errs[i])
			}
		})
	}
	all.Wait()
	for i, one := range opened {
		if errs[i] == nil {
			n.onClose(one.Close)
			errs[i] = n.attach(configured[i].Name, one)
		}
	}
	return opened[:len(n.config.Backends)], errors.Join(errs...)
}

// openHSM opens a backend on its tokens. Those that are not there join when they are; a backend of which none is there opens when its identity is
// known, from the configuration or from an earlier start.
func (n *node) openHSM(ctx context.Context, b *backendConfig, registry prometheus.Registerer) (backend.Backend, error) {
	members, err := b.members()
	if err != nil {
		return nil, err
	}
	c := &b.PKCS11
	remembered := memory{path: filepath.Join(n.config.Data, memoryFile), backend: b.Name, tokens: tokenNames(members)}
	known, err := remembered.known()
	if err != nil {
		return nil, err
	}
	o := hsm.Options{Name: b.Name, ID: c.ID, Sharing: hsm.Sharing(c.Sharing), Placement: hsm.Placement(c.Placement), AllowSealed: c.AllowSealed,
		Capacity: n.config.Cache.Material, Bytes: n.config.Cache.materialBytes(), Held: &n.held, TTL: n.config.Cache.MaterialTTL, PingEvery: c.PingEvery, Logger: n.log, Registerer: registry,
		Required: c.Required, FailoverAfter: c.FailoverAfter, MinCopies: c.MinCopies, Known: known, Remember: func(k hsm.Known) {
			if err := remembered.keep(&n.remembering, k); err != nil {
				n.log.Warn("the backend could not be remembered: the next start needs its token", "backend", b.Name, "error", err)
			}
		}}
	for i, m := range members {
		if p := hsm.Placement(m.uri.Placement); p != "" {
			if i > 0 && o.Placement != p {
				return nil, errors.New("the members of a group have one placement")
			}
			o.Placement = p
		}
		o.Members = append(o.Members, hsm.Member{Name: cmp.Or(m.Name, m.uri.Token, m.uri.Serial), Weight: m.Weight,
			Open: func(ctx context.Context) (token.Token, error) { return c.open(ctx, m, n) }})
	}
	return hsm.Open(ctx, o)
}

// callTimeout is how long a use of a key may take on a token, if nothing is configured.
const callTimeout = 5 * time.Second

// open opens one token, in processes of its own unless the configuration wants it otherwise.
func (c *pkcs11Config) open(ctx context.Context, m member, n *node) (token.Token, error) {
	t, err := m.uri.Config()
	if err != nil {
		return nil, err
	}
	t.Sessions, t.Queue = cmp.Or(t.Sessions, c.Sessions), c.Queue
	t.Profile, t.InitArgs = cmp.Or(t.Profile, c.Profile), cmp.Or(t.InitArgs, c.InitArgs)
	t.AcceptLeaks = t.AcceptLeaks || c.AcceptLeaks
	t.ReinitEvery, t.KEKLabel, t.WrappedCache = int(c.ReinitEvery/time.Second), c.KEKLabel, c.WrappedCache
	if t.PIN, err = m.uri.PIN(); err != nil {
		return nil, err
	}
	defer t.PIN.Wipe()
	log := n.log.With("token", cmp.Or(m.uri.Token, m.uri.Serial))
	var opened token.Token
	if m.uri.InProcess || c.InProcess {
		opened, err = token.Open(ctx, t, token.Options{Logger: log, CallTimeout: cmp.Or(c.CallTimeout, callTimeout)})
	} else {
		opened, err = remote.Open(ctx, t, remote.Options{Processes: cmp.Or(m.uri.Processes, c.Processes), OpenTimeout: c.OpenTimeout,
			CallTimeout: cmp.Or(c.CallTimeout, callTimeout), Logger: log})
	}
	if err != nil {
		return nil, err
	}
	if err := m.uri.Matches(opened.Describe()); err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return opened, nil
}
