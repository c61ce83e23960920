package sealed

import (
	"sync"
	"sync/atomic"
)

// Gate counts calls under way and can be closed once, without a lock on the way in. A backend that lends the engine its sealer
// guards its own calls by one too. Make it with NewGate; it is safe for concurrent use and not to be copied.
type Gate struct {
	state atomic.Int64 // the count, and shut
	once  *sync.Once
	idle  chan struct{} // closed when the gate is shut and nobody is inside
}

const shut = int64(1) << 62

// NewGate gives an open gate.
func NewGate() Gate { return Gate{once: new(sync.Once), idle: make(chan struct{})} }

// Enter reports whether the caller may go on; it then owes a Leave.
func (g *Gate) Enter() bool {
	if g.state.Add(1)&shut == 0 {
		return true
	}
	g.Leave()
	return false
}

// Leave ends what Enter began.
func (g *Gate) Leave() {
	if g.state.Add(-1) == shut {
		g.once.Do(func() { close(g.idle) })
	}
}

// Close shuts the gate and waits until everybody has left. It may be called again.
func (g *Gate) Close() {
	if g.state.Or(shut)&^shut == 0 {
		g.once.Do(func() { close(g.idle) })
	}
	<-g.idle
}
