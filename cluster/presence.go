package cluster

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const (
	// AliveFor is how long after it was seen last a node counts as running.
	AliveFor = 15 * time.Second
	// seenEvery is how often a node says that it is there, and looks who else is.
	seenEvery = 5 * time.Second
	// forgetAfter is when a node that has not said so for long is forgotten.
	forgetAfter = time.Minute
)

// Presence says that this node is there, and knows the others. It is safe for concurrent use.
type Presence struct {
	store  Store
	self   func() *Node
	log    *slog.Logger
	others atomic.Pointer[[]*Node]
}

// NewPresence makes the presence of the node that self describes anew each time; its ID must stay. log may be nil.
func NewPresence(store Store, self func() *Node, log *slog.Logger) (*Presence, error) {
	if store == nil || self == nil || self().ID == uuid.Nil {
		return nil, errors.New("cluster: presence needs a store and a node with an id")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Presence{store: store, self: self, log: log}
	p.others.Store(&[]*Node{})
	return p, nil
}

// Run keeps the presence until ctx ends, and takes it away then.
func (p *Presence) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := p.tell(ctx); err != nil && ctx.Err() == nil {
			p.log.Debug("the presence of this node could not be written", "error", err)
		}
		sleep(ctx, seenEvery, nil)
	}
	going, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := p.store.RemoveNode(going, p.self().ID); err != nil {
		p.log.Debug("the presence of this node could not be taken away: it ends by itself", "error", err)
	}
}

func (p *Presence) tell(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, seenEvery)
	defer cancel()
	self := p.self()
	if err := p.store.SaveNode(ctx, self, forgetAfter); err != nil {
		return err
	}
	nodes, err := p.store.Nodes(ctx, AliveFor)
	if err != nil {
		return err
	}
	nodes = slices.DeleteFunc(nodes, func(n *Node) bool { return n.ID == self.ID })
	p.others.Store(&nodes)
	return nil
}

// Nodes lists the nodes that run, this one among them, as the store knows them now.
func (p *Presence) Nodes(ctx context.Context) ([]*Node, error) { return p.store.Nodes(ctx, AliveFor) }

// Self is the id of this node.
func (p *Presence) Self() uuid.UUID { return p.self().ID }

// Elsewhere says what a backend is called on the other nodes that have it open, and which those are by their names, as known a few seconds
// ago. It asks nobody.
func (p *Presence) Elsewhere(backendID string) (name string, nodes []string) {
	for _, n := range *p.others.Load() {
		for _, b := range n.Backends {
			if b.ID == backendID {
				name = b.Name
				nodes = append(nodes, n.Name)
			}
		}
	}
	return name, nodes
}
