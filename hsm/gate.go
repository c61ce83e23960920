package hsm

import (
	"sync"
	"sync/atomic"
)

// gate counts calls under way and can be closed once, without a lock on the way in.
type gate struct {
	state atomic.Int64 // the count, and shut
	once  *sync.Once
	idle  chan struct{} // closed when the gate is shut and nobody is inside
}

const shut = int64(1) << 62

func newGate() gate { return gate{once: new(sync.Once), idle: make(chan struct{})} }

// enter reports whether the caller may go on; it then owes a leave.
func (g *gate) enter() bool {
	if g.state.Add(1)&shut == 0 {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.state.Add(-1) == shut {
		g.once.Do(func() { close(g.idle) })
	}
}

// close shuts the gate and waits until everybody has left. It may be called again.
func (g *gate) close() {
	if g.state.Or(shut)&^shut == 0 {
		g.once.Do(func() { close(g.idle) })
	}
	<-g.idle
}
