package remote

import (
	"sync"
	"sync/atomic"

	"github.com/keywright/keywright/hsm/token"
)

// counters are the supervisor's own.
type counters struct {
	restarts, failedStarts, crashes, kills, calls, retries, lost atomic.Uint64
}

// Counters are what has happened to the children since Open.
type Counters struct {
	Processes    int    // that shall be there
	Ready        int    // that are there and have the token open
	InFlight     int    // calls that children have at the moment
	Restarts     uint64 // children that replaced another
	FailedStarts uint64 // replacements that could not open the token
	Crashes      uint64 // children that ended by themselves or broke the protocol
	Kills        uint64 // children that were killed for a call past its deadline
	Calls        uint64 // calls made by callers
	Retries      uint64 // calls that were made again because their child was lost
	Lost         uint64 // calls that failed because their child was lost
	PINRefused   bool   // the token has refused the PIN: nothing is started any more
}

// Counters gives the counters of the moment. It asks no child.
func (s *Supervisor) Counters() Counters {
	n := &s.counters
	c := Counters{Processes: len(s.children), Restarts: n.restarts.Load(), FailedStarts: n.failedStarts.Load(),
		Crashes: n.crashes.Load(), Kills: n.kills.Load(), Calls: n.calls.Load(), Retries: n.retries.Load(),
		Lost: n.lost.Load(), PINRefused: s.logins.isRefused()}
	for _, k := range s.children {
		if l := k.link.Load(); l != nil {
			c.Ready++
			c.InFlight += int(l.load.Load())
		}
	}
	return c
}

// Describe gives what the first child found when it opened the token, with what has changed since. The generation grows
// with each initialisation in a child and with each new child. A child that does not answer within the grace is described as last known.
func (s *Supervisor) Describe() token.Description {
	c := s.children[0]
	if l := c.link.Load(); l != nil {
		if a, err := l.ask(opDescribe); err == nil && a.err == nil {
			d, err := decodeDescription(a.body)
			if err != nil {
				l.die(err)
			} else {
				c.mu.Lock()
				if c.link.Load() == l {
					c.description = d
				}
				c.mu.Unlock()
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.description
	d.Generation += c.base
	return d
}

// Stats adds up the children's statistics; a child that does not answer within the grace counts with its last. The breaker is closed
// when one child's is, and open when no child is there or all are.
func (s *Supervisor) Stats() token.Stats {
	var wg sync.WaitGroup
	for _, c := range s.children {
		if l := c.link.Load(); l != nil {
			wg.Go(func() { c.refresh(l) })
		}
	}
	wg.Wait()
	total := token.Stats{Breaker: "open"}
	for _, c := range s.children {
		c.mu.Lock()
		addCounters(&total, &c.past)
		addCounters(&total, &c.stats)
		if c.link.Load() != nil {
			total.Sessions += c.stats.Sessions
			total.SessionsInUse += c.stats.SessionsInUse
			total.Queued += c.stats.Queued
			total.Stuck += c.stats.Stuck
			total.StuckFor = max(total.StuckFor, c.stats.StuckFor)
			total.SilentFor = max(total.SilentFor, c.stats.SilentFor)
			total.MendingFor = max(total.MendingFor, c.stats.MendingFor)
			if b := c.stats.Breaker; b == "closed" || b == "half-open" && total.Breaker == "open" {
				total.Breaker = b
			}
		}
		c.mu.Unlock()
	}
	return total
}

func (c *child) refresh(l *link) {
	a, err := l.ask(opStats)
	if err != nil || a.err != nil {
		return // it counts with its last
	}
	s, err := decodeStats(a.body)
	if err != nil {
		l.die(err)
		return
	}
	c.mu.Lock()
	if c.link.Load() == l {
		c.stats = s
	}
	c.mu.Unlock()
}

func addCounters(to, s *token.Stats) {
	to.Reinitialisations += s.Reinitialisations
	to.SessionsDropped += s.SessionsDropped
	to.Logins += s.Logins
	to.LoginsRefused += s.LoginsRefused
	to.Calls += s.Calls
	to.Returns += s.Returns
	to.QueueTime += s.QueueTime
	to.DeviceTime += s.DeviceTime
	for i := range to.Times {
		to.Times[i].Queue.Add(&s.Times[i].Queue)
		to.Times[i].Device.Add(&s.Times[i].Device)
	}
}
