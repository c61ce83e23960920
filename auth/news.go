package auth

import (
	"github.com/google/uuid"

	"github.com/keywright/keywright/cluster"
)

// Heard forgets what another node has changed. It is called before Options.Fresh says that the node knows of it.
func (s *Service) Heard(n cluster.News) {
	switch n.Kind {
	case cluster.KindAPIKey, cluster.KindPolicy:
		s.ForgetAPIKey(n.ID)
	case cluster.KindSession:
		s.forgetSession(n.ID)
	case cluster.KindTenant:
		s.ForgetTenant(n.ID)
	}
}

// ForgetAll forgets every cached key, also for those who are on the way to the store at this moment.
func (s *Service) ForgetAll() {
	s.cache.forget(func(*entry) bool { return true })
}

// forgetSession makes this node look at a session again.
func (s *Service) forgetSession(id uuid.UUID) {
	s.cache.forget(func(e *entry) bool { return e.session != nil && e.session.record.ID == id })
}
