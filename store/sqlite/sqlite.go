// Package sqlite is the embedded store: keys, API keys, root slots, idempotency records and the audit log in one SQLite
// file that belongs to one process.
//
// It trusts the file system to keep what fsync returned for, and the directory's owner. Everything secret that it is given
// is sealed already: it keeps no material in clear, and checks nobody's rights.
//
// Everything is written by Commit, on one connection; reads have a few connections of their own that cannot write. Errors
// are fault.Error values: StoreUnavailable (disk full, read-only, another process, closed), StoreCorrupted (damaged pages,
// not a database, not this program's), Timeout (the context ended first). All methods are safe for concurrent use.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/ratelimit"
	"github.com/keywright/keywright/root"
)

var (
	_ audit.Store       = (*Store)(nil)
	_ auth.Store        = (*Store)(nil)
	_ root.Store        = (*Store)(nil)
	_ keys.Store        = (*Store)(nil)
	_ idempotency.Store = (*Store)(nil)
	_ ratelimit.Store   = (*Store)(nil)
	_ cluster.Store     = (*Store)(nil)
)

// Options are the choices of an opened store. The zero value is right for the embedded default.
type Options struct {
	Readers     int // connections for reads; 0: 4
	WriterCache int // KiB of page cache of the writing connection; 0: 8192
	ReaderCache int // KiB of page cache of each reading connection; 0: 1024
	MaxLog      int // MiB of write-ahead log at which it is begun anew (it may grow beyond while readers need it); 0: 48
	// MaxSnapshotLog is how many MiB the write-ahead log may have while a snapshot keeps it from being begun anew; 0: 1024.
	MaxSnapshotLog int
	MaxPages       int // upper bound of the file in pages of 4096 bytes; 0: none. Reaching it is the same as a full disk
}

func (o Options) withDefaults() Options {
	if o.Readers <= 0 {
		o.Readers = 4
	}
	if o.WriterCache <= 0 {
		o.WriterCache = 8192
	}
	if o.ReaderCache <= 0 {
		o.ReaderCache = 1024
	}
	if o.MaxLog <= 0 {
		o.MaxLog = 48
	}
	if o.MaxSnapshotLog <= 0 {
		o.MaxSnapshotLog = 1024
	}
	return o
}

// Store is an open store.
type Store struct {
	path string
	opts Options
	lock *os.File // PATH.lock, held by flock until Close

	deployment uuid.UUID // fixed by Open
	read       *sql.DB

	mu      sync.RWMutex // read-held by every call that uses a connection, so that Close can wait for them
	closed  bool         // guarded by mu
	endOnce sync.Once
	ending  chan struct{} // closed by Close before it waits

	listeners listeners

	turn    chan struct{} // a lock with a context: whoever has its one place may use w
	w       *writer       // nil when the last failure left it unusable: opened again at the next turn
	failing atomic.Bool   // the last Commit failed for a reason of the store

	checkpoints *checkpointer
}

// Open opens or creates the store at path, whose directory must exist. The file and its companions (path-wal, path-shm,
// path.lock) are readable by their owner alone. Only one Store at a time, over all processes, has a file open: the second
// is refused with StoreUnavailable. Open brings the schema up to date and checks that the audit head fits the last entries;
// it reads no more than that, so its time does not grow with the file.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, unavailable("the path of the store cannot be resolved", err)
	}
	s := &Store{path: abs, opts: o.withDefaults(), turn: make(chan struct{}, 1), ending: make(chan struct{})}
	if s.lock, err = lockFile(abs + ".lock"); err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.closeAll())
	}
	return s, nil
}

// OpenURI is Open for "sqlite:PATH" (PATH absolute, or relative to the working directory) and "sqlite:///PATH".
func OpenURI(ctx context.Context, uri string, o Options) (*Store, error) {
	path, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	return Open(ctx, path, o)
}

// ParseURI gives the path of a store's URI. There are no parameters, and nothing is percent-decoded: a path is taken as it is.
func ParseURI(uri string) (string, error) {
	path, found := strings.CutPrefix(uri, "sqlite:")
	if !found {
		return "", fault.New(fault.BadField, "the URI of this store begins with sqlite:")
	}
	if rest, authority := strings.CutPrefix(path, "//"); authority {
		if !strings.HasPrefix(rest, "/") {
			return "", fault.New(fault.BadField, "sqlite:// is followed by an absolute path: a file has no host")
		}
		path = rest
	}
	if path == "" || strings.ContainsRune(path, 0) || strings.HasSuffix(path, "/") {
		return "", fault.New(fault.BadField, "the URI names no file")
	}
	return path, nil
}

// Path gives the absolute path of the file.
func (s *Store) Path() string { return s.path }

// Ping reports whether the store can be read and, when the last Commit failed, whether it can be written again.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.AuditHead(ctx); err != nil {
		return err
	}
	if !s.failing.Load() {
		return nil
	}
	return s.write(ctx, func(w *writer) error {
		// There and back: SQLite does not write a page that does not change.
		return w.transaction(ctx, func() error {
			if _, err := w.exec(sqlProbe); err != nil {
				return err
			}
			_, err := w.exec(sqlProbe)
			return err
		})
	})
}

// Close waits for the calls under way, moves what the write-ahead log holds into the file and releases it. A second call
// does nothing.
func (s *Store) Close() error {
	s.endOnce.Do(func() { close(s.ending) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.closeAll()
}

// closeAll releases whatever is open. Nobody else uses the store any more.
func (s *Store) closeAll() error {
	var errs []error
	if s.checkpoints != nil {
		errs = append(errs, s.checkpoints.close())
	}
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	if s.w != nil {
		// Close of the last connection does the same, but says nothing when it fails.
		errs = append(errs, s.w.run("PRAGMA wal_checkpoint(TRUNCATE)"), s.w.close())
		s.w = nil
	}
	errs = append(errs, s.lock.Close())
	if err := errors.Join(errs...); err != nil {
		return translate("closing the store", err)
	}
	return nil
}

// enter is the first line of every call that reads: leave must follow when it gives nil.
func (s *Store) enter(ctx context.Context) error {
	if err := ended(ctx); err != nil {
		return err
	}
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return errClosed()
	}
	return nil
}

func (s *Store) leave() { s.mu.RUnlock() }

// write gives f the writing connection, alone. The connection is left without a transaction, or not at all.
func (s *Store) write(ctx context.Context, f func(*writer) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ended(ctx)
	}
	defer func() { <-s.turn }()
	if s.w == nil {
		w, err := openWriter(s.path, s.opts)
		if err != nil {
			return translate("opening the store", err)
		}
		s.w = w
	}
	usable := false
	defer func() { // also when f panics
		if !usable && !s.w.reset() {
			_ = s.w.close() // what was wrong with it is in f's error; a new one is opened at the next turn
			s.w = nil
		}
	}()
	err := translate("writing the store", f(s.w))
	usable = err == nil
	return err
}
