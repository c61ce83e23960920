package auth

import (
	"github.com/google/uuid"

	"github.com/keywright/keywright/cluster"
)

// Heard forgets what another node has changed. It is called before Options.Fresh says that the node knows of it.
func (s *Service) Heard(n cluster.News) {
	switch {
	case n.Kind != cluster.KindAPIKey:
	case n.ID == uuid.Nil:
		s.ForgetAll()
	default:
		s.cache.revoke(n.ID)
	}
}

// ForgetAll forgets every cached key, also for those who are on the way to the store at this moment.
func (s *Service) ForgetAll() {
	s.cache.generation.Add(1)
	for i := range s.cache.shards {
		sh := &s.cache.shards[i]
		sh.mu.Lock()
		clear(sh.entries)
		sh.mu.Unlock()
	}
}
