package keys

import (
	"github.com/keywright/keywright/backend"
)

// protecting is what is counted of a key version.
func protecting() opset {
	return setOf(backend.OpEncrypt, backend.OpRewrap, backend.OpDataKey, backend.OpWrap, backend.OpSign, backend.OpMAC, backend.OpDerive, backend.OpEncapsulate)
}

// count takes the uses of the request's version that its items need, just before they are carried out: also of those that fail then, as nobody knows how
// far they got. What is not in hand becomes a change of the request's record.
func (b *batch) count(q *request, items int, size func() int64) error {
	if b.primary == nil || !b.record.counts.has(b.op) {
		return nil
	}
	v, l := b.primary, &b.record.limits
	if err := v.tally.take(&q.uses, amount{int64(items), size()}, l, q.exact); err != nil {
		return err
	}
	if q.uses.asks() {
		ask := q.uses.ask
		q.changes = append(q.changes, b.s.store.ReserveUses(Reservation{Key: v.KeyID, Version: v.Version.Version, Messages: ask.messages, Bytes: ask.bytes,
			MaxMessages: l.max.messages, MaxBytes: l.max.bytes, RotateMessages: l.rotate.messages, RotateBytes: l.rotate.bytes, At: b.s.stamp()}))
	}
	return nil
}

func sizes[I any](items []I, size func(*I) int) (n int64) {
	if size == nil {
		return 0
	}
	for i := range items {
		n += int64(size(&items[i]))
	}
	return n
}

// allowedByDate is whether a version of a key with dates may do op now.
func (b *batch) allowedByDate(v *version, op backend.Operation) bool {
	now := b.s.now()
	if p := &b.record.key.Policy; v.state == StateActive && (p.ExpiresAt.IsZero() || now.Before(p.ExpiresAt)) {
		return v.allows.has(op)
	}
	ops, _ := allowed(b.record.key.stateAt(v.Version.State, now))
	return ops.has(op)
}
