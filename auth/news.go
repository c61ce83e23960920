package auth

import "github.com/keywright/keywright/cluster"

// Heard forgets what another node has changed. It is called before Options.Fresh says that the node knows of it.
func (s *Service) Heard(n cluster.News) {
	switch n.Kind {
	case cluster.KindAPIKey, cluster.KindPolicy:
		s.ForgetAPIKey(n.ID)
	case cluster.KindSession:
		s.cache.revoke(n.ID)
	case cluster.KindTenant:
		s.ForgetTenant(n.ID)
	}
}

// ForgetAll forgets every cached key, also for those who are on the way to the store at this moment.
func (s *Service) ForgetAll() {
	s.cache.forget(func(*entry) bool { return true })
}
