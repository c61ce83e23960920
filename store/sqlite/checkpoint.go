package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"sync"

	"github.com/mattn/go-sqlite3"
)

const pageSize = 4096

// checkpointer moves pages from the write-ahead log into the file, on a connection of its own, so that no Commit pays for
// it. A passive checkpoint disturbs nobody, but under constant load it never sees the end of the log, which then grows
// without bound. So when the log is long, a second one follows while the writer is held still: it finds little left to do,
// and the next Commit begins the log anew, unless a reader still needs the old one.
type checkpointer struct {
	store   *Store
	conn    *sqlite3.SQLiteConn
	kick    chan struct{} // holds one: there is work
	cancel  context.CancelFunc
	done    sync.WaitGroup
	limit   int64 // pages of the log at which it is begun anew
	written int   // bytes since the last kick, by estimate; guarded by Store.turn
}

// logPages is MaxLog in pages.
func (o Options) logPages() int64 { return int64(o.MaxLog) << 20 / pageSize }

func startCheckpoints(s *Store) (*checkpointer, error) {
	conn, err := connect(&sqlite3.SQLiteDriver{}, dsn(s.path), []string{
		"PRAGMA cache_size = -256", "PRAGMA mmap_size = 0", "PRAGMA busy_timeout = 50",
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &checkpointer{store: s, conn: conn, kick: make(chan struct{}, 1), cancel: cancel, limit: s.opts.logPages()}
	c.done.Add(1)
	go c.loop(ctx)
	return c, nil
}

// wrote says that a commit has written about n bytes. Called by whoever has the turn.
func (c *checkpointer) wrote(n int) {
	// A few passes for each log: each costs a sync of the file, beside those of the commits.
	if c.written += n; int64(c.written) < c.limit*pageSize/4 {
		return
	}
	c.written = 0
	select {
	case c.kick <- struct{}{}:
	default: // one is waiting already
	}
}

func (c *checkpointer) loop(ctx context.Context) {
	defer c.done.Done()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
		}
		// An error here loses nothing: the pages stay in the log and are moved next time, by the writer when the log
		// becomes very long, or at Close, which reports it.
		pages, err := c.checkpoint(sqlMovePages)
		if err != nil || pages < c.limit {
			continue
		}
		select {
		case c.store.turn <- struct{}{}:
		case <-ctx.Done():
			return
		}
		mode := sqlMovePages
		if pages > 2*c.limit {
			mode = sqlBeginAnew // a reader was in the way last time: wait for it, up to busy_timeout
		}
		_, _ = c.checkpoint(mode) // as above
		<-c.store.turn
	}
}

const (
	sqlMovePages = "PRAGMA wal_checkpoint(PASSIVE)"
	sqlBeginAnew = "PRAGMA wal_checkpoint(RESTART)"
)

// checkpoint gives the length of the log in pages.
func (c *checkpointer) checkpoint(query string) (pages int64, err error) {
	rows, err := c.conn.Query(query, nil)
	if err != nil {
		return 0, err
	}
	row := make([]driver.Value, 3) // busy, pages in the log, pages moved
	err = rows.Next(row)
	if err = errors.Join(err, rows.Close()); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	pages, _ = row[1].(int64) // not a number: the log cannot be measured, and is not long
	return pages, nil
}

func (c *checkpointer) close() error {
	c.cancel()
	c.done.Wait()
	return c.conn.Close()
}
