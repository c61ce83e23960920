package keys

import (
	"context"
	"sync"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// pingTimeout bounds the proof that a backend works, so that a dead device does not hold up the list of the living.
const pingTimeout = 2 * time.Second

// backendNamed gives an open backend; "" is the default one.
func (s *Service) backendNamed(name string) (backend.Backend, error) {
	if name == "" {
		return s.backends[0], nil
	}
	b := s.byName[name]
	if b == nil {
		return nil, fault.New(fault.BackendNotFound, "no backend of this name is configured")
	}
	return b, nil
}

// Backends gives all backends in the order of the configuration, each probed now.
func (s *Service) Backends(ctx context.Context) []BackendStatus {
	all := make([]BackendStatus, len(s.backends))
	var wg sync.WaitGroup
	for i, b := range s.backends {
		wg.Go(func() { all[i] = s.status(ctx, b) })
	}
	wg.Wait()
	return all
}

// Backend gives one backend by its configured name, probed now, or fault.BackendNotFound.
func (s *Service) Backend(ctx context.Context, name string) (BackendStatus, error) {
	if name == "" {
		return BackendStatus{}, fault.New(fault.BackendNotFound, "no backend of this name is configured")
	}
	b, err := s.backendNamed(name)
	if err != nil {
		return BackendStatus{}, err
	}
	return s.status(ctx, b), nil
}

func (s *Service) status(ctx context.Context, b backend.Backend) BackendStatus {
	st := BackendStatus{Info: b.Info(), Default: b == s.backends[0], Healthy: true}
	if p, ok := b.(backend.Pinger); ok {
		ctx, cancel := context.WithTimeout(ctx, pingTimeout)
		defer cancel()
		if err := p.Ping(ctx); err != nil {
			st.Healthy, st.Error = false, string(fault.CodeOf(asFault(err)))
		}
	}
	if g, ok := b.(backend.Grouper); ok {
		st.Members = g.Members()
	}
	return st
}

// CustodyCaveat says what weakens the custody of every key in a backend, by its identity: "" when nothing does, or when it is not open here.
func (s *Service) CustodyCaveat(id string) string {
	if b := s.byID[id]; b != nil {
		return b.Info().CustodyCaveat
	}
	return ""
}

// BackendName gives the configured name of a backend by its identity, or the identity when it is not open here.
func (s *Service) BackendName(id string) string {
	if name, ok := s.names[id]; ok {
		return name
	}
	return id
}
