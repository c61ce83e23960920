package keys

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
)

// result is what the results of all operations have in common.
type result[O any] interface {
	*O
	set(Used, error)
	failure() error
	wipe()
}

func (r *BytesResult) set(u Used, err error) { r.Used, r.Err = u, err }
func (r *BytesResult) failure() error        { return r.Err }
func (r *BytesResult) wipe()                 { clear(r.Bytes); *r = BytesResult{} }

func (r *DataKey) set(u Used, err error) { r.Used, r.Err = u, err }
func (r *DataKey) failure() error        { return r.Err }
func (r *DataKey) wipe()                 { clear(r.Plaintext); *r = DataKey{} }

func (r *VerifyResult) set(u Used, err error) { r.Used, r.Err = u, err }
func (r *VerifyResult) failure() error        { return r.Err }
func (r *VerifyResult) wipe()                 { *r = VerifyResult{} }

func (r *Encapsulation) set(u Used, err error) { r.Used, r.Err = u, err }
func (r *Encapsulation) failure() error        { return r.Err }
func (r *Encapsulation) wipe()                 { clear(r.Secret); *r = Encapsulation{} }

// kind is how one operation differs from the others.
type kind[I, O any] struct {
	// context gives the caller's context of an item.
	context func(*I) map[string]string
	// envelope gives the envelope of an item, where the operation reads key and version from it; else nil.
	envelope func(*I) []byte
	// raw says that there is no envelope this time.
	raw bool
	// size gives how many bytes of an item are protected. May be nil: none, or the operation protects nothing.
	size func(*I) int
	// prepare looks once at what is common to all items, after the key is known and before any device is touched. May be nil.
	prepare func(*batch) error
	// do carries out one item. What it returns is the item's error; out is wiped when there is one.
	do func(ctx context.Context, b *batch, in *I, out *O) (Used, error)
	// many is how several items are done together. May be nil.
	many *many[I, O]
}

// batch is one request while it executes: one key, one or several of its versions.
type batch struct {
	s       *Service
	verb    verb
	op      backend.Operation
	record  *record
	target  Target
	uses    []use
	primary *version // the version that applies protection, or that the target names; nil when each envelope names its own
	// enveloped says that each item names its version itself.
	enveloped bool
	slab      []byte // from which the results of the items are cut
	scratch   []byte // for authenticated data, from item to item
}

// use is a version taken into use for this request.
type use struct {
	version *version
	op      backend.Operation
	handle  backend.Key // loaded when first needed
	err     error       // why it cannot be used
}

// operate is the part of the pipeline that all operations on keys share: from the resolution of the key to the outcome of each item. It
// counts at most one use of the key for each item that succeeded.
func operate[I, O any, P result[O]](ctx context.Context, s *Service, c Caller, v verb, t Target, items []I, single bool, k kind[I, O]) ([]O, error) {
	return pipeline(ctx, s, c, v, func(ctx context.Context, q *request) ([]O, error) {
		if !single {
			q.entry.Items = len(items)
		}
		if len(items) < 1 || len(items) > MaxItems {
			return nil, fault.New(fault.TooManyItems, fmt.Sprintf("a batch has 1 to %d items", MaxItems))
		}
		if single && len(items) != 1 {
			return nil, fault.New(fault.Internal, "internal fault")
		}
		b := &batch{s: s, verb: v, op: actions[v].op, target: t}
		named := uuid.Nil
		if k.envelope != nil && !k.raw && t.Key == "" {
			var err error
			if named, err = firstKey(items, k.envelope); err != nil && v != verbUnwrap {
				if single {
					return nil, err
				}
				return nameless[I, O, P](q, items, err), nil
			}
		}
		if err := b.resolve(ctx, q, named); err != nil {
			return nil, err
		}
		b.enveloped = k.envelope != nil && !k.raw && b.record.info.Family != backend.FamilyKWP
		if err := b.authorize(ctx, len(items)); err != nil {
			b.note(q)
			return nil, b.refreshed(ctx, err)
		}
		if k.prepare != nil {
			if err := k.prepare(b); err != nil {
				return nil, err
			}
		}
		if err := q.countDaily(len(items)); err != nil {
			b.note(q)
			return nil, err
		}
		if err := b.count(q, len(items), func() int64 { return sizes(items, k.size) }); err != nil {
			b.note(q)
			return nil, err
		}
		out := make([]O, len(items))
		start := s.now()
		failed, err := execute[I, O, P](ctx, b, q, items, out, k)
		if single && err == nil {
			err = P(&out[0]).failure()
		}
		took := s.now().Sub(start)
		q.entry.Patience = b.patience(took)
		b.close()
		outcome := fault.CodeOf(err)
		if err == nil && failed == len(items) {
			outcome = fault.CodeOf(P(&out[0]).failure())
		}
		s.metrics.observe(b.record, v, took, len(items), failed, outcome)
		b.note(q)
		if err != nil {
			wipeAll[O, P](out)
			return nil, b.refreshed(ctx, err)
		}
		if outcome != "" {
			q.entry.Outcome = string(outcome)
		}
		if limit := b.record.key.Policy.UsageLimit; limit > 0 && failed < len(items) {
			q.change(b.record.key.ID, s.store.AddUses(b.record.key.ID, int64(len(items)-failed), limit))
		}
		return out, nil
	}, wipeAll[O, P])
}

// patience is how long the record of an operation that took so long may wait for those of others: where they queue for a device that does one after the
// other, a caller who is answered a little later only waits less in the queue next time.
func (b *batch) patience(took time.Duration) time.Duration {
	if len(b.uses) == 0 {
		return 0
	}
	if device, ok := b.uses[0].version.backend.(backend.Queuer); ok && device.Queued() > 0 {
		return took / 4
	}
	return 0
}

// note writes into the entry which versions were used, or were to be.
func (b *batch) note(q *request) {
	if b.primary != nil {
		q.entry.KeyVersion = b.primary.Version.Version
	} else if len(b.uses) == 1 {
		q.entry.KeyVersion = b.uses[0].version.Version.Version
	}
	if len(b.uses) > 1 {
		q.entry.Detail = strings.TrimPrefix(q.entry.Detail+" "+b.versions(), " ")
	}
}

func wipeAll[O any, P result[O]](out []O) {
	for i := range out {
		P(&out[i]).wipe()
	}
}

// execute carries out the items and counts those that failed. Its error is that of the whole request: its time was over. Where the
// device takes several at once it gets all; else they are done one after the other, and devices that profit from it get their
// parallelism from many requests, not from one.
func execute[I, O any, P result[O]](ctx context.Context, b *batch, q *request, items []I, out []O, k kind[I, O]) (failed int, err error) {
	if len(items) > 1 && k.many != nil && k.many.fits(b) {
		done, together, err := executeMany[I, O, P](ctx, b, q, items, out, k)
		if err != nil {
			return len(items), err
		}
		for i := range done {
			failed += settle[O, P](q, i, &out[i], done[i].used, done[i].err)
		}
		if together {
			return failed, nil
		}
	}
	for i := range items {
		if ctx.Err() != nil {
			return len(items), expired(ctx)
		}
		in := &items[i]
		var used Used
		err := q.permitItem(b.record.facts, k.context(in))
		if err == nil {
			used, err = k.do(ctx, b, in, &out[i])
		}
		if err != nil {
			if ctx.Err() != nil {
				return len(items), expired(ctx)
			}
		}
		failed += settle[O, P](q, i, &out[i], used, err)
	}
	return failed, nil
}

// settle writes down how an item ended, and gives 1 when it failed.
func settle[O any, P result[O]](q *request, i int, out *O, used Used, err error) int {
	o := P(out)
	if err == nil {
		o.set(used, nil)
		return 0
	}
	o.wipe()
	o.set(Used{}, asFault(err))
	if q.entry.Items > 0 {
		q.entry.Failed = append(q.entry.Failed, i)
		if q.entry.Detail == "" {
			q.entry.Detail = string(fault.CodeOf(err))
		}
	}
	return 1
}

// firstKey gives the key that the first well-formed envelope of a request names. A request is about one key, so that its one entry in
// the audit log says all; items of other keys fail.
func firstKey[I any](items []I, of func(*I) []byte) (uuid.UUID, error) {
	var first error
	for i := range items {
		e, err := envelope.Parse(of(&items[i]))
		if err == nil {
			return e.KeyID, nil
		}
		if first == nil {
			first = err
		}
	}
	return uuid.Nil, first
}

// nameless is the answer to a batch none of whose items names a key: each fails by itself.
func nameless[I, O any, P result[O]](q *request, items []I, err error) []O {
	out := make([]O, len(items))
	for i := range out {
		P(&out[i]).set(Used{}, err)
		q.entry.Failed = append(q.entry.Failed, i)
	}
	q.entry.Outcome = string(fault.CodeOf(err))
	q.entry.Detail = q.entry.Outcome
	return out
}

// resolve finds the key: the one that the target names, else the one that the first envelope named, else the tenant's default.
func (b *batch) resolve(ctx context.Context, q *request, enveloped uuid.UUID) (err error) {
	tenant := q.tenant()
	switch {
	case b.target.Key != "":
		if b.record, err = b.s.find(ctx, tenant, b.target.Key); err != nil {
			q.named(b.target.Key)
		}
	case enveloped != uuid.Nil:
		if b.record, err = b.s.recordByID(ctx, tenant, enveloped); err == nil && b.record.key.Internal {
			err = keyNotFound()
		}
		if err != nil {
			q.named(enveloped.String())
		}
	default:
		var id uuid.UUID
		if id, err = b.s.defaultOf(ctx, tenant, actions[b.verb].purpose); err == nil {
			b.record, err = b.s.recordByID(ctx, tenant, id)
		}
	}
	if err != nil {
		return q.hide(err)
	}
	q.entry.Key = b.record.key.ID
	if err := q.permit(ctx, b.record.facts, true); err != nil {
		return err
	}
	if a := b.target.Algorithm; a != "" && a != b.record.info.Name {
		return keyNotFound()
	}
	return nil
}

// named notes in the log which key was asked for in vain. Only an id is noted: in the place of a name there may be anything, a misplaced
// credential among it.
func (q *request) named(key string) {
	if id, ok := idForm(key); ok {
		q.entry.Resource = "key:" + id.String()
	}
}

// authorize asks in this order: does the key have the operation, does its policy allow it, does the state of the version, is there use left.
func (b *batch) authorize(ctx context.Context, items int) error {
	r := b.record
	if !r.capable.has(b.op) {
		return fault.New(fault.OperationNotAllowed, "the key does not have this operation")
	}
	if !r.policy.has(b.op) {
		return fault.New(fault.PolicyDenied, "the policy of the key does not allow this operation")
	}
	if r.key.State == StatePendingDeletion || r.key.State == StateDestroyed {
		return stateDenied()
	}
	if p := r.key.Policy; p.UsageLimit > 0 && r.key.Uses+int64(items) > p.UsageLimit {
		return fault.New(fault.UsageLimit, "the usage limit of the key is reached")
	}
	if b.enveloped && b.verb != verbRewrap {
		return nil
	}
	op := b.op
	if op == backend.OpRewrap {
		op = backend.OpEncrypt // with the new version
	}
	u, err := b.use(ctx, b.target.Version, op)
	if err == nil {
		err = u.err
	}
	if err != nil {
		return err
	}
	b.primary = u.version
	return nil
}

// refreshed looks whether a refusal comes from a record that was read before a change and its version after it, as happens to whoever
// uses a key while it is rotated: then the request begins again.
func (b *batch) refreshed(ctx context.Context, err error) error {
	switch fault.CodeOf(err) {
	case fault.BadState, fault.BadVersion, fault.VersionNotFound:
	default:
		return err
	}
	k := b.record.key
	fresh, failed := b.s.store.KeyByID(ctx, k.Tenant, k.ID)
	if failed != nil || fresh.Revision == k.Revision {
		return err // the refusal stands
	}
	b.s.cache.drop(k.ID, false)
	return again{err}
}

func stateDenied() error {
	return fault.New(fault.BadState, "the state of the key version forbids this operation")
}

// use takes a version into use for one side of the cryptography. What it gives is valid until the next call of use.
func (b *batch) use(ctx context.Context, n uint32, op backend.Operation) (*use, error) {
	if n == 0 && b.primary != nil {
		n = b.primary.Version.Version
	}
	for i := range b.uses {
		if u := &b.uses[i]; u.version.Version.Version == n && u.op == op {
			return u, u.err
		}
	}
	v, err := b.s.version(ctx, b.record, n)
	if err != nil {
		return nil, err
	}
	u := use{version: v, op: op}
	k := b.record.key
	switch least := minimum(k, op); {
	case !v.allows.has(op) && !b.record.dated:
		u.err = stateDenied()
	case b.record.dated && !b.allowedByDate(v, op):
		u.err = stateDenied()
	case v.Version.Version < least:
		u.err = fault.New(fault.BadVersion, "the version is below the minimum of the key")
	}
	b.uses = append(b.uses, u)
	return &b.uses[len(b.uses)-1], u.err
}

func minimum(k *Key, op backend.Operation) uint32 {
	if processing().has(op) {
		return k.MinDecrypt
	}
	return k.MinEncrypt
}

func (u *use) used(b *batch) Used {
	return Used{KeyID: b.record.key.ID, Version: u.version.Version.Version, Compromised: u.version.flagged}
}

// load opens the version on its backend; close ends it.
func (u *use) load(ctx context.Context, b *batch) (backend.Key, error) {
	if u.handle != nil || u.err != nil {
		return u.handle, u.err
	}
	if u.version.backend == nil {
		if u.err = fault.New(fault.OperationNotAllowed, "the key has no private part"); u.version.Origin != OriginPublicOnly {
			u.err = b.s.notHere(u.version.BackendID)
		}
		return nil, u.err
	}
	u.handle, u.err = u.version.backend.Load(ctx, u.version.ref)
	return u.handle, u.err
}

// notHere is the answer for keys whose backend this node does not have open. It names the nodes that do, and not the identity of the device,
// which is for their logs.
func (s *Service) notHere(backendID string) error {
	const message = "the backend that holds this key is not open on this node"
	name, nodes := s.elsewhere(backendID)
	if len(nodes) == 0 {
		return fault.New(fault.BackendUnavailable, message)
	}
	const most = 8
	more := ""
	if len(nodes) > most {
		nodes, more = nodes[:most], " and others"
	}
	return fault.New(fault.BackendUnavailable, message+": "+name+" is open on "+strings.Join(nodes, ", ")+more)
}

func (b *batch) close() {
	for i := range b.uses {
		if h := b.uses[i].handle; h != nil {
			if err := h.Close(); err != nil {
				b.s.log.Warn("closing a key handle", "error", err)
			}
			b.uses[i].handle = nil
		}
	}
}

// versions names the versions of a request that used several, for the log: at most sixteen.
func (b *batch) versions() string {
	var d strings.Builder
	d.WriteString("versions")
	for i := range b.uses {
		if i == 16 {
			d.WriteString(" …")
			break
		}
		d.WriteByte(' ')
		d.WriteString(strconv.FormatUint(uint64(b.uses[i].version.Version.Version), 10))
	}
	return d.String()
}

// cut gives a buffer of no length and exactly n bytes of capacity from the slab of the request.
func (b *batch) cut(n int) []byte {
	if n > cap(b.slab)-len(b.slab) {
		return make([]byte, 0, n)
	}
	at := len(b.slab)
	b.slab = b.slab[:at+n]
	return b.slab[at : at : at+n]
}

// unsupported is the answer for a handle without the capability that its algorithm needs.
func unsupported() error {
	return fault.New(fault.Unsupported, "the backend cannot do this with this algorithm")
}
