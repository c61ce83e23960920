package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
)

// insertNews writes what the items have changed, and gives how many rows that are.
func (w *writer) insertNews(items []*audit.Item) (int, error) {
	type piece struct {
		kind  cluster.Kind
		about uuid.UUID
	}
	var told []piece // of one item: most change one thing twice
	rows := 0
	for _, it := range items {
		told = told[:0]
		for _, ch := range it.Changes {
			own, ok := ch.(change)
			if !ok {
				continue // there is none: the item would not be among those that survived
			}
			var p piece
			if p.kind, p.about = own.news(); p.kind == "" || slices.Contains(told, p) {
				continue
			}
			_, err := w.exec(sqlInsertNews, int64(it.Index), int64(len(told)), it.Entry.Time.UnixMicro(), idOrNull(&it.Entry.Tenant),
				string(p.kind), idOrNull(&p.about))
			if err != nil {
				return 0, err
			}
			told = append(told, p)
			rows++
		}
	}
	return rows, nil
}

// News gives news from index from on; see cluster.Store.
func (s *Store) News(ctx context.Context, from uint64, limit int) (news []cluster.News, next uint64, lost bool, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, 0, false, err
	}
	defer s.leave()
	limit = max(limit, 1000)
	from = min(from, math.MaxInt64)
	var size, floor uint64
	if news, size, floor, err = s.readNews(ctx, int64(from), math.MaxInt64, limit+1); err != nil {
		return nil, 0, false, translate("reading news", err)
	}
	if from < floor || from > size { // beyond the end: the file is one from before
		return nil, size, true, nil
	}
	if len(news) <= limit {
		return news, size, false, nil
	}
	// The page is cut. It ends with the whole of its last entry.
	last := news[limit-1].Index
	if news[limit].Index != last {
		return news[:limit], last + 1, false, nil
	}
	for limit > 0 && news[limit-1].Index == last {
		limit--
	}
	whole, _, _, err := s.readNews(ctx, int64(last), int64(last), math.MaxInt32)
	return append(news[:limit], whole...), last + 1, false, translate("reading news", err)
}

// readNews gives news of the indices from to to, and the size of the log and the floor at the same moment.
func (s *Store) readNews(ctx context.Context, from, to int64, limit int) (news []cluster.News, size, floor uint64, err error) {
	rows, err := s.read.QueryContext(ctx, sqlNews, from, to, limit)
	if err != nil {
		return nil, 0, 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var n cluster.News
		var idx *int64
		var kind *string
		if err := rows.Scan(&size, &floor, &idx, (*timeColumn)(&n.At), (*nullIDColumn)(&n.Tenant), &kind, (*nullIDColumn)(&n.ID)); err != nil {
			return nil, 0, 0, err
		}
		if idx == nil || kind == nil {
			continue // the outer join's row without news
		}
		n.Index, n.Kind = uint64(*idx), cluster.Kind(*kind)
		news = append(news, n)
	}
	return news, size, floor, rows.Err()
}

// pruneAtOnce is how many rows of news one transaction deletes: some milliseconds.
const pruneAtOnce = 2000

// PruneNews forgets the news of entries older than before, up to the first that is not. What is forgotten is said first.
func (s *Store) PruneNews(ctx context.Context, before time.Time) error {
	var cut int64
	err := s.alter(ctx, func(w *writer) error {
		v := make([]driver.Value, 1)
		if _, err := w.row(sqlNewsCut, v, before.UnixMicro()); err != nil {
			return err
		}
		var ok bool
		if cut, ok = v[0].(int64); !ok {
			return corrupted("the news in the store are damaged", nil)
		}
		_, err := w.exec(sqlRaiseFloor, cut, cut)
		return err
	})
	for gone := int64(pruneAtOnce); err == nil && gone >= pruneAtOnce; {
		err = s.alter(ctx, func(w *writer) (err error) {
			gone, err = w.exec(sqlPruneNews, cut, int64(pruneAtOnce))
			return err
		})
	}
	return err
}

// alter is a transaction beside those of Commit.
func (s *Store) alter(ctx context.Context, f func(*writer) error) error {
	return s.write(ctx, func(w *writer) error { return w.transaction(ctx, func() error { return f(w) }) })
}

const (
	sqlInsertNews = "INSERT INTO news (idx, pos, at, tenant, kind, id) VALUES (?, ?, ?, ?, ?, ?)"
	// One statement sees one moment: the size, the floor and the news fit each other.
	sqlNews = `SELECT h.size, f.idx, n.idx, n.at, n.tenant, n.kind, n.id FROM audit_head h JOIN news_floor f ON f.id = h.id
		LEFT JOIN (SELECT idx, pos, at, tenant, kind, id FROM news WHERE idx >= ? AND idx <= ? ORDER BY idx, pos LIMIT ?) n
		WHERE h.id = 1 ORDER BY n.idx, n.pos`
	// The first that stays, or behind the last.
	sqlNewsCut = `SELECT COALESCE((SELECT idx FROM news WHERE at >= ? ORDER BY idx LIMIT 1),
		(SELECT MAX(idx) + 1 FROM news), 0)`
	sqlRaiseFloor = "UPDATE news_floor SET idx = ? WHERE id = 1 AND idx < ?"
	sqlPruneNews  = "DELETE FROM news WHERE (idx, pos) IN (SELECT idx, pos FROM news WHERE idx < ? ORDER BY idx, pos LIMIT ?)"
)
