package sqlite

import (
	"context"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Sync makes everything committed before durable: it syncs the write-ahead log, which is what SQLite itself would do at the end of every
// commit with synchronous = FULL. The writing connection runs with NORMAL, which leaves out that sync and no other (those around
// checkpoints stay), so that the disk can work on one batch while the next is made. The log is written in order and its frames
// carry a running checksum: a crash before the sync keeps a beginning of what was committed (sqlite.org/wal.html).
//
// When a sync fails nobody knows which pages the disk has: the system may have dropped them and report success the next time. So the
// first failure is final, and every later Commit is refused until the store is opened anew.
func (s *Store) Sync(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	err := s.log.sync(s.path + "-wal")
	if err != nil {
		s.failing.Store(true)
	}
	return err
}

// walFile is the write-ahead log, opened beside SQLite to be synced. SQLite takes no locks on this file (they are on the
// database and on its -shm), so that closing this descriptor drops none.
type walFile struct {
	mu     sync.Mutex // guards both below
	file   *os.File
	failed error
}

// fit reports a sync that has failed.
func (l *walFile) fit() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (l *walFile) sync(path string) error {
	f, err := l.current(path)
	if err != nil {
		return err
	}
	for {
		err = unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = unavailable("the disk failed to keep what was written: the store must be started again", err)
	return l.failed
}

// current gives the open log. SQLite removes the file when its last connection closes; then there is a new one to open.
func (l *walFile) current(path string) (*os.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return nil, l.failed
	}
	if l.file != nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(l.file.Fd()), &st); err == nil && st.Nlink > 0 {
			return l.file, nil
		}
		_ = l.file.Close() // it is gone from the disk: nothing of it can be lost
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		l.file = nil
		return nil, translate("opening the log of the store", err)
	}
	l.file = f
	return f, nil
}

func (l *walFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
