package keys

import (
	"errors"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/fault"
)

// books is what a store would count of one version.
type books struct {
	counted amount
	limits  limits
}

// commit counts as ReserveUses does.
func (b *books) commit(n amount) error {
	if over(b.counted.messages, n.messages, b.limits.max.messages) || over(b.counted.bytes, n.bytes, b.limits.max.bytes) {
		return fault.New(fault.UsageLimit, "full")
	}
	b.counted.messages += n.messages
	b.counted.bytes += n.bytes
	return nil
}

// TestTallies: whatever several nodes take, lose and fail to write, in any order, no more is released than was counted, no more is counted than is
// allowed, and nothing is in hand twice.
func TestTallies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bound := func(name string) int64 {
			return rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1, 300), rapid.Int64Range(1, 1<<40)).Draw(t, name)
		}
		b := &books{limits: limits{max: amount{bound("max"), bound("max bytes")}, rotate: amount{bound("rotate"), bound("rotate bytes")}}}
		nodes := make([]*tally, rapid.IntRange(1, 3).Draw(t, "nodes"))
		for i := range nodes {
			nodes[i] = &tally{}
		}
		var released amount
		type open struct {
			o    order
			n    amount
			node int
		}
		var under []open // the operations under way
		finish := func(i int, fate string) {
			x := under[i]
			under = append(under[:i], under[i+1:]...)
			var err error
			switch fate {
			case "lost": // the commit is not heard of again, done or not
				if rapid.Bool().Draw(t, "done all the same") {
					_ = b.commit(x.o.ask) // whether it fits is as unknown
				}
				err = errors.New("lost")
			case "failed":
				err = errors.New("failed")
			default:
				if x.o.asks() {
					err = b.commit(x.o.ask)
				}
			}
			x.o.end(err)
			if err == nil {
				released.messages += x.n.messages
				released.bytes += x.n.bytes
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				i := rapid.IntRange(0, len(nodes)-1).Draw(t, "node")
				n := amount{rapid.Int64Range(1, 20).Draw(t, "messages"), rapid.Int64Range(0, 500).Draw(t, "bytes")}
				var o order
				if err := nodes[i].take(&o, n, &b.limits, rapid.Bool().Draw(t, "exact")); err != nil {
					if !fault.Has(err, fault.UsageLimit) {
						t.Fatal(err)
					}
					return
				}
				under = append(under, open{o, n, i})
			},
			"finish": func(t *rapid.T) {
				if len(under) == 0 {
					return
				}
				finish(rapid.IntRange(0, len(under)-1).Draw(t, "which"), rapid.SampledFrom([]string{"done", "done", "done", "lost", "failed"}).Draw(t, "fate"))
			},
			"crash": func(t *rapid.T) {
				i := rapid.IntRange(0, len(nodes)-1).Draw(t, "node")
				nodes[i] = &tally{} // what was under way still ends, on the one that is gone
			},
			"read": func(t *rapid.T) {
				nodes[rapid.IntRange(0, len(nodes)-1).Draw(t, "node")].learn(b.counted, &b.limits)
			},
			"": func(t *rapid.T) {
				sum := released
				for _, n := range nodes {
					if n.hand.messages < 0 || n.hand.bytes < 0 {
						t.Fatalf("in hand: %+v", n.hand)
					}
					sum.messages += n.hand.messages
					sum.bytes += n.hand.bytes
					if n.known.messages > b.counted.messages || n.known.bytes > b.counted.bytes {
						t.Fatalf("known %+v of %+v", n.known, b.counted)
					}
				}
				if sum.messages > b.counted.messages || sum.bytes > b.counted.bytes {
					t.Fatalf("released or in hand %+v, counted %+v", sum, b.counted)
				}
				if m := b.limits.max; m.messages > 0 && b.counted.messages > m.messages || m.bytes > 0 && b.counted.bytes > m.bytes {
					t.Fatalf("counted %+v of %+v", b.counted, m)
				}
			},
		})
	})
}

// TestTallyWastesNothing: one node that loses nothing gets to the last message, and says that the key is due exactly when it has used what the policy says.
func TestTallyWastesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.Int64Range(1, 5000).Draw(t, "max")
		rotate := rapid.Int64Range(1, most).Draw(t, "rotate")
		b := &books{limits: limits{max: amount{messages: most}, rotate: amount{messages: rotate}}}
		n := &tally{}
		commits := 0
		for used := int64(1); ; used++ {
			var o order
			if err := n.take(&o, amount{1, 7}, &b.limits, false); err != nil {
				if used != most+1 || !fault.Has(err, fault.UsageLimit) {
					t.Fatalf("refused the %d. of %d: %v", used, most, err)
				}
				break
			}
			if o.asks() {
				commits++
				if err := b.commit(o.ask); err != nil {
					t.Fatalf("the %d. of %d: asked for %+v beyond %+v", used, most, o.ask, b.counted)
				}
			}
			o.end(nil)
			if due := b.counted.messages >= rotate; due != (used >= rotate) {
				t.Fatalf("after %d of %d: due %v", used, rotate, due)
			}
		}
		if most > 1000 && commits > int(most)/4 {
			t.Errorf("%d writes for %d messages", commits, most)
		}
	})
}

// TestTallyWithoutBounds: far from every bound, writes become rare.
func TestTallyWithoutBounds(t *testing.T) {
	n, l := &tally{}, limits{max: amount{messages: 1 << 32}, rotate: amount{messages: 3 << 30}}
	b := &books{limits: l}
	commits := 0
	const uses = 1 << 20
	for range uses {
		var o order
		if err := n.take(&o, amount{1, 32}, &l, false); err != nil {
			t.Fatal(err)
		}
		if o.asks() {
			commits++
			if err := b.commit(o.ask); err != nil {
				t.Fatal(err)
			}
		}
		o.end(nil)
	}
	if commits > 80 {
		t.Errorf("%d writes for %d uses", commits, uses)
	}
	if wasted := b.counted.messages - uses; wasted > 3*maxBlock {
		t.Errorf("a crash would waste %d", wasted)
	}
}

// TestLedgerIsBounded: it forgets what it has no room for, and goes on.
func TestLedgerIsBounded(t *testing.T) {
	l := newLedger(64)
	first := uuid.New()
	kept := l.tally(first, 1)
	if l.tally(first, 1) != kept || l.tally(first, 2) == kept {
		t.Error("a version has not one tally of its own")
	}
	kept.learn(amount{messages: 75}, &limits{max: amount{messages: 100}})
	if l.near() != 1 {
		t.Errorf("%d near their limit", l.near())
	}
	for range 1000 {
		l.tally(uuid.New(), 1)
	}
	n := 0
	for i := range l.shards {
		n += len(l.shards[i].tallies)
	}
	if n > 64 {
		t.Errorf("%d tallies", n)
	}
}

// BenchmarkTally is what counting adds to an operation with a block in hand.
func BenchmarkTally(b *testing.B) {
	n, l := &tally{}, limits{max: amount{messages: 1 << 62}}
	take := func() {
		var o order
		if err := n.take(&o, amount{1, 32}, &l, false); err != nil {
			b.Error(err)
		}
		o.end(nil)
	}
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			take()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				take()
			}
		})
	})
}
