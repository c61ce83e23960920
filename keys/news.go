package keys

import (
	"github.com/google/uuid"

	"github.com/keywright/keywright/cluster"
)

// Heard forgets what another node has changed. It is called before Options.Fresh says that the node knows of it.
func (s *Service) Heard(n cluster.News) {
	if n.Kind != cluster.KindKey {
		return // nothing else is cached: settings are read each time
	}
	if n.ID == uuid.Nil {
		s.defaults.drop() // one was taken away, and no key has changed
		return
	}
	s.Invalidate(n.ID)
}

// Invalidate forgets what is cached of a key, and every default key: another node has changed it.
func (s *Service) Invalidate(key uuid.UUID) {
	s.cache.drop(key, false)
	s.defaults.drop()
}

// InvalidateAll forgets everything that is cached: what other nodes have changed is not known.
func (s *Service) InvalidateAll() {
	s.cache.dropAll()
	s.defaults.drop()
}
