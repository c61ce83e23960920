package keys

import (
	"math"
	"sync"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// amount is something that is counted of a key version.
type amount struct{ messages, bytes int64 }

// limits bound what one version may protect, and say how much of it makes its key due for rotation. 0: any amount.
type limits struct{ max, rotate amount }

const (
	firstBlock   = 32      // messages that are set aside together at first
	maxBlock     = 1 << 16 // and at most: what a crash can waste
	maxBlockSize = 1 << 34 // the same of bytes
	blockGrowth  = 2
	lowWater     = 4 // the next block is asked for when a quarter of the last one is left
	blockPart    = 8 // a block is at most this part of what is left until the next bound
)

// tally is what this node has set aside of a key version and not used yet. A block of uses is added to the count in the store by the commit of
// the operation that needs it, and given out from here: an operation with a block in hand writes nothing. What is in hand when the process ends was counted
// and is never used. Several tallies of one version, on one node or many, are as good as one.
type tally struct {
	mu    sync.Mutex // guards all below
	hand  amount
	known amount // counted in the store, at least
	block amount // the last block
	most  amount // the bounds, for the metrics
	busy  bool   // a block is on its way
}

// order is what one operation takes of a tally. The zero value is of none.
type order struct {
	tally *tally
	from  amount // taken from the hand
	ask   amount // to be counted in the store by the operation's commit
	block amount // the part of ask that goes into the hand afterwards
}

// asks reports whether something has to be counted in the store.
func (o *order) asks() bool { return o.ask != amount{} }

// extra reports whether more is asked for than the operation itself needs.
func (o *order) extra() bool { return o.block != amount{} }

// learn notes what the store has counted by now.
func (t *tally) learn(counted amount, l *limits) {
	t.mu.Lock()
	t.known.messages, t.known.bytes = max(t.known.messages, counted.messages), max(t.known.bytes, counted.bytes)
	t.most = l.max
	t.mu.Unlock()
}

// take takes n for an operation and writes into o what it took. exact asks the store for no more than the operation needs. fault.UsageLimit when it is known that the version may not
// protect so much; every other order ends by end.
func (t *tally) take(o *order, n amount, l *limits, exact bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	*o = order{}
	if t.hand.messages >= n.messages && t.hand.bytes >= n.bytes {
		o.from = n
	} else {
		o.from = amount{min(t.hand.messages, n.messages), min(t.hand.bytes, n.bytes)}
		o.ask = amount{n.messages - o.from.messages, n.bytes - o.from.bytes}
		if over(t.known.messages, o.ask.messages, l.max.messages) || over(t.known.bytes, o.ask.bytes, l.max.bytes) {
			return spent()
		}
	}
	o.tally = t
	t.hand.messages -= o.from.messages
	t.hand.bytes -= o.from.bytes
	if t.busy || exact {
		return nil
	}
	want := min(max(blockGrowth*t.block.messages, firstBlock, blockGrowth*lowWater*n.messages), maxBlock)
	if t.hand.messages <= want/lowWater {
		o.block.messages = blockOf(want, t.hand.messages, t.known.messages+o.ask.messages, l.rotate.messages, l.max.messages)
	}
	want = min(max(blockGrowth*t.block.bytes, firstBlock*n.bytes), maxBlockSize)
	if n.bytes > 0 && t.hand.bytes <= want/lowWater {
		o.block.bytes = blockOf(want, t.hand.bytes, t.known.bytes+o.ask.bytes, l.rotate.bytes, l.max.bytes)
	}
	o.ask.messages += o.block.messages
	o.ask.bytes += o.block.bytes
	t.busy = o.extra()
	return nil
}

// over reports whether counted and n more are above the bound, 0 being none.
func over(counted, n, bound int64) bool { return bound > 0 && counted > bound-n }

// blockOf cuts a block to a part of what is left until the next bound, so that little is lost before it, and nothing is set aside just below. Of
// what is in hand it is a multiple, or it is not asked for yet: 0.
func blockOf(want, hand, counted, rotate, most int64) int64 {
	left := int64(math.MaxInt64) - counted
	if most > 0 {
		left = min(left, most-counted)
	}
	if rotate >= counted && rotate > 0 { // at the very bound nothing: the version is about to be left behind
		left = min(left, rotate-counted)
	}
	if block := min(want, left/blockPart); hand <= block/lowWater {
		return max(block, 0)
	}
	return 0
}

// end settles an order by what became of the operation's commit. When it is not known what became of it, what was asked for may have been counted and
// is not used; nor is what was taken from the hand.
func (o *order) end(err error) {
	t := o.tally
	o.tally = nil
	if t == nil || !o.asks() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.extra() {
		t.busy = false
	}
	if err != nil {
		if fault.Has(err, fault.UsageLimit) || fault.Has(err, fault.DailyLimit) { // refused as a whole: the operation begins again, or never happened
			t.hand.messages += o.from.messages
			t.hand.bytes += o.from.bytes
		}
		return
	}
	t.known.messages += o.ask.messages
	t.known.bytes += o.ask.bytes
	t.hand.messages += o.block.messages
	t.hand.bytes += o.block.bytes
	if o.block.messages > 0 {
		t.block.messages = o.block.messages
	}
	if o.block.bytes > 0 {
		t.block.bytes = o.block.bytes
	}
}

// near reports whether the version has protected three quarters of what it may.
func (t *tally) near() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.most.messages > 0 && t.known.messages >= t.most.messages/4*3 || t.most.bytes > 0 && t.known.bytes >= t.most.bytes/4*3
}

func spent() error {
	return fault.New(fault.UsageLimit, "the key version has protected as much as it may: rotate the key")
}

// ledger has the tallies of this node. It is bounded: a tally that is forgotten loses what it had in hand, which was counted already.
type ledger struct {
	shards [cacheShards]ledgerShard
	limit  int // of a shard
}

type ledgerShard struct {
	mu      sync.Mutex // guards tallies
	tallies map[ledgerKey]*tally
}

type ledgerKey struct {
	key     uuid.UUID
	version uint32
}

func newLedger(size int) *ledger {
	l := &ledger{limit: max(1, (size+cacheShards-1)/cacheShards)}
	for i := range l.shards {
		l.shards[i].tallies = map[ledgerKey]*tally{}
	}
	return l
}

// tally gives that of a version. It is asked for when a version is loaded, and not for each operation.
func (l *ledger) tally(key uuid.UUID, version uint32) *tally {
	s, k := &l.shards[key[15]%cacheShards], ledgerKey{key, version}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tallies[k]
	if t == nil {
		for old := range s.tallies {
			if len(s.tallies) < l.limit {
				break
			}
			delete(s.tallies, old) // whichever comes first
		}
		t = &tally{}
		s.tallies[k] = t
	}
	return t
}

// near counts the versions that are near their limit.
func (l *ledger) near() (n int) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for _, t := range s.tallies {
			if t.near() {
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}
