package postgres

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

const (
	// repeats bounds how often Commit repeats its transaction.
	repeats = 4
	// resolveFor is how long Commit tries to learn what became of a transaction whose connection broke at its end.
	resolveFor = 3 * time.Second
)

type extendFunc = func(audit.Head, []*audit.Item) (audit.Head, []audit.Node, error)

// Commit carries out one batch in one transaction; see audit.Store. When the connection breaks while the transaction is
// being committed, Commit asks on a new one, for up to 3 s, what became of it, and answers that. Only when the database does
// not come back in this time the error is StoreUnavailable although the batch may have become durable.
func (s *Store) Commit(ctx context.Context, batch []*audit.Item, extend extendFunc) error {
	if len(batch) == 0 {
		return ended(ctx)
	}
	err := s.hold(ctx, func() error { return translate(ctx, "writing the store", s.commit(ctx, batch, extend)) })
	var own *extendError
	if errors.As(err, &own) {
		return own.error
	}
	switch fault.CodeOf(err) {
	case "":
		s.failing.Store(false)
	case fault.StoreUnavailable, fault.StoreCorrupted:
		s.failing.Store(true)
	}
	return err
}

// extendError is an error of the caller's function, on its way back to the caller.
type extendError struct{ error }

func (e *extendError) Unwrap() error { return e.error }

var (
	errMoved   = errors.New("the head is not where it was")
	errCareful = errors.New("a change failed")
)

// commit repeats the transaction until it is clear what became of it.
func (s *Store) commit(ctx context.Context, batch []*audit.Item, extend extendFunc) error {
	careful := false
	for attempt := 1; ; attempt++ {
		w, err := s.writer(ctx)
		if err != nil {
			return err
		}
		t := transaction{store: s, w: w, batch: batch, extend: extend, careful: careful}
		err = t.run(ctx)
		if err != nil && t.sent && lost(err) {
			s.drop()
			done, unknown := s.resolve(ctx, &t, err)
			if unknown != nil {
				return unknown // to repeat it now could do it twice
			}
			if done {
				err = nil
			}
		}
		if err == nil {
			s.known = &t.after
			return nil
		}
		s.known = nil
		switch {
		case errors.Is(err, errMoved):
			s.alone = false
		case errors.Is(err, errCareful):
			careful = true
		case passing(err):
		default:
			return err
		}
		if err := ended(ctx); err != nil {
			return err
		}
		if attempt == repeats {
			return err
		}
		s.leaveTransaction(ctx)
		if rejected(err) {
			time.Sleep(time.Duration(rand.Int64N(int64(10 * time.Millisecond)))) //nolint:gosec // spreads nodes, hides nothing
		}
	}
}

// leaveTransaction ends a transaction that failed.
func (s *Store) leaveTransaction(ctx context.Context) {
	if s.w == nil || s.w.idle() {
		return
	}
	if s.w.conn.IsClosed() || s.w.conn.PgConn().IsBusy() {
		s.drop()
		return
	}
	if _, err := s.w.conn.Exec(ctx, sqlRollback); err != nil {
		s.drop()
	}
}

// transaction is one attempt to carry out a batch.
type transaction struct {
	store   *Store
	w       *writer
	batch   []*audit.Item
	extend  extendFunc
	careful bool // one item at a time, each under a savepoint

	survivors     []*audit.Item
	before, after audit.Head
	nodes         []audit.Node
	sent          bool // what commits it has been sent
	savepoint     bool // one is open
}

func (t *transaction) run(ctx context.Context) error {
	changes := false
	for _, item := range t.batch {
		item.Err = nil
		changes = changes || len(item.Changes) > 0
	}
	s := t.store
	if !changes && s.alone && s.known != nil {
		// Nothing but entries, and the head is most likely the known one: one statement does it, and does nothing when the
		// head is another.
		t.before, t.survivors = *s.known, t.batch
		return t.append(ctx, false)
	}
	known := s.known
	var err error
	if t.careful {
		err = t.stepByStep(ctx)
	} else {
		err = t.atOnce(ctx)
	}
	if err != nil {
		return err
	}
	s.alone = known != nil && known.Size == t.before.Size
	return t.append(ctx, true)
}

// atOnce begins the transaction, locks the head and makes all changes, in one round trip. When one of them fails it gives
// errCareful, and the transaction is to be repeated step by step.
func (t *transaction) atOnce(ctx context.Context) error {
	var b pgx.Batch
	b.Queue(sqlBegin)
	b.Queue(sqlLockHead)
	var all []statement
	for _, item := range t.batch {
		own, err := statements(item)
		if err != nil {
			return errCareful
		}
		all = append(all, own...)
	}
	for i := range all {
		b.Queue(all[i].query, all[i].args...)
	}
	t.survivors = t.batch
	return t.send(ctx, &b, func(r pgx.BatchResults) error {
		if err := t.begun(r); err != nil {
			return err
		}
		for i := range all {
			tag, err := r.Exec()
			if err != nil && (passing(err) || ofStore(translate(ctx, "changing a record", err))) {
				return err
			}
			if err != nil || all[i].failed(tag) {
				return errCareful
			}
		}
		return nil
	})
}

// stepByStep is atOnce with a savepoint for each item, and sets the Err of those that fail.
func (t *transaction) stepByStep(ctx context.Context) error {
	var b pgx.Batch
	b.Queue(sqlBegin)
	b.Queue(sqlLockHead)
	if err := t.send(ctx, &b, t.begun); err != nil {
		return err
	}
	t.survivors = make([]*audit.Item, 0, len(t.batch))
	for _, item := range t.batch {
		if len(item.Changes) > 0 {
			if err := ended(ctx); err != nil {
				return err
			}
			if err := t.applyItem(ctx, item); err != nil {
				return err
			}
		}
		if item.Err == nil {
			t.survivors = append(t.survivors, item)
		}
	}
	return nil
}

// applyItem makes all changes of an item or none. It sets item.Err for what is wrong with the item, and returns what is
// wrong with the store.
func (t *transaction) applyItem(ctx context.Context, item *audit.Item) error {
	all, wrong := statements(item)
	if wrong != nil {
		item.Err = wrong
		return nil //nolint:nilerr // the item's, and not the batch's
	}
	var b pgx.Batch
	if t.savepoint {
		b.Queue(sqlReleaseItem) // of the item before: until here it could be needed
	}
	b.Queue(sqlSavepoint)
	for i := range all {
		b.Queue(all[i].query, all[i].args...)
	}
	var unchanged *statement // the first that should have changed a row, and did not
	err := t.send(ctx, &b, func(r pgx.BatchResults) error {
		for range b.Len() - len(all) {
			if _, err := r.Exec(); err != nil {
				return err
			}
		}
		for i := range all {
			tag, err := r.Exec()
			if err != nil {
				return all[i].explain(err)
			}
			if unchanged == nil && all[i].failed(tag) {
				unchanged = &all[i]
			}
		}
		return nil
	})
	t.savepoint = true
	if err == nil && unchanged != nil {
		err = unchanged.nothing(ctx, t.w.conn)
	}
	if err == nil {
		return nil
	}
	if passing(err) {
		return err
	}
	if err = translate(ctx, "changing a record", err); ofStore(err) {
		return err
	}
	item.Err = err
	_, err = t.w.conn.Exec(ctx, sqlRollbackItem)
	return err
}

// statements gives what carries an item's changes out. An error is the item's.
func statements(item *audit.Item) ([]statement, error) {
	var all []statement
	for _, c := range item.Changes {
		own, ok := c.(change)
		if !ok {
			return nil, fault.New(fault.Internal, "a change of another store")
		}
		more, err := own.statements()
		if err != nil {
			return nil, translate(context.Background(), "changing a record", err)
		}
		all = append(all, more...)
	}
	return all, nil
}

// send carries out a pipeline in one round trip. read takes the results; it may end before the last.
func (t *transaction) send(ctx context.Context, b *pgx.Batch, read func(pgx.BatchResults) error) error {
	r := t.w.conn.SendBatch(ctx, b)
	err := read(r)
	if closed := r.Close(); err == nil {
		err = closed
	}
	return err
}

// begun reads the results of BEGIN and of the head's lock.
func (t *transaction) begun(r pgx.BatchResults) error {
	if _, err := r.Exec(); err != nil {
		return err
	}
	var err error
	t.before, err = scanHead(r.QueryRow())
	return err
}

// append extends the tree by the survivors and commits. locked says that a transaction is open and holds the head.
func (t *transaction) append(ctx context.Context, locked bool) error {
	var err error
	if t.after, t.nodes, err = t.extend(t.before, t.survivors); err != nil {
		if !locked {
			return errMoved // perhaps because the head was a guess
		}
		return &extendError{err}
	}
	if err := extends(t.before, t.after, t.survivors); err != nil {
		return err
	}
	if err := ended(ctx); err != nil {
		return err
	}
	if len(t.survivors) == 0 {
		if locked {
			_, err = t.w.conn.Exec(ctx, sqlRollback)
		}
		return err
	}
	// From here on a caller who goes away changes nothing: what was sent may be done, and the answer has to say so.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.store.opts.StatementTimeout+time.Second)
	defer cancel()
	t.sent = true
	args := t.w.columns.args(t)
	if !locked {
		tag, err := t.w.conn.Exec(ctx, sqlAppend, args...)
		if err != nil {
			return beyond(err)
		}
		if tag.RowsAffected() == 0 {
			return errMoved
		}
		return nil
	}
	var b pgx.Batch
	b.Queue(sqlAppend, args...)
	t.tell(&b)
	b.Queue(sqlCommit)
	return t.send(ctx, &b, func(r pgx.BatchResults) error {
		for range b.Len() {
			if _, err := r.Exec(); err != nil {
				return beyond(err)
			}
		}
		return nil
	})
}

// tell writes what the survivors have changed into the news, and wakes who listens when it is committed.
func (t *transaction) tell(b *pgx.Batch) {
	args := t.w.news.args(t.survivors)
	if args == nil {
		return
	}
	b.Queue(sqlInsertNews, args...)
	if t.store.notifies {
		b.Queue(sqlNotify, t.store.channel())
	}
}

// beyond explains a number that is taken: the tables do not fit the head.
func beyond(err error) error {
	if state(err) == stateUnique {
		return corrupted("the audit log has entries or nodes that its head does not count", serverError{pgError(err)})
	}
	return err
}

// resolve finds out on a new connection whether a transaction was committed whose connection broke. The lock on the head waits
// for it if it is still under way; and one that begins only later finds the head moved, or does not have its lock any more.
func (s *Store) resolve(ctx context.Context, t *transaction, cause error) (done bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveFor)
	defer cancel()
	for {
		done, err = s.committed(ctx, t)
		if err == nil {
			return done, nil
		}
		if ctx.Err() == nil && !passing(err) && !fault.Has(translate(ctx, "resolving", err), fault.StoreUnavailable) {
			return false, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return false, unavailable("the connection to the database was lost during a commit, and it did not come back in time to tell what became of it",
				errors.Join(cause, err))
		}
	}
}

// committed compares what is stored where the batch belongs with the batch, on a connection of its own: it changes nothing.
func (s *Store) committed(ctx context.Context, t *transaction) (bool, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return false, err
	}
	defer s.hangUp(conn)
	var b pgx.Batch
	b.Queue(sqlBegin)
	b.Queue(sqlLockHead)
	b.Queue(sqlEntries, int64(t.before.Size), int64(t.before.Size)+int64(len(t.survivors)))
	b.Queue(sqlRollback)
	same := false
	asks := transaction{store: s, w: &writer{conn: conn}}
	err = asks.send(ctx, &b, func(r pgx.BatchResults) error {
		if err := asks.begun(r); err != nil {
			return err
		}
		rows, err := r.Query()
		if err != nil {
			return err
		}
		found, err := pgx.CollectRows(rows, scanStored)
		if err != nil {
			return err
		}
		same = len(found) == len(t.survivors) && slices.EqualFunc(found, t.survivors, func(a audit.Stored, b *audit.Item) bool {
			return a.Index == b.Index && slices.Equal(a.Leaf, b.Leaf)
		})
		_, err = r.Exec()
		return err
	})
	return same, err
}

// extends checks what the caller's function gave: a wrong index would overwrite nothing, but break the tree for good.
func extends(before, after audit.Head, items []*audit.Item) error {
	ok := after.Size == before.Size+uint64(len(items)) && after.Size <= math.MaxInt64
	for i, item := range items {
		ok = ok && item.Index == before.Size+uint64(i)
	}
	if !ok {
		return fault.New(fault.Internal, "the audit log was not extended by its new entries")
	}
	return nil
}
