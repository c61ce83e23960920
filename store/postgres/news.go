package postgres

import (
	"context"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
)

// newsColumns are the news of a batch, column by column, like entryColumns.
type newsColumns struct {
	idx, pos, at []int64
	tenant, id   [][]byte
	kind         []string
}

// args gives the arguments of sqlInsertNews, or nil when the items tell nothing. They are used until the next call.
func (c *newsColumns) args(items []*audit.Item) []any {
	c.idx, c.pos, c.at = c.idx[:0], c.pos[:0], c.at[:0]
	c.tenant, c.id, c.kind = c.tenant[:0], c.id[:0], c.kind[:0]
	for _, it := range items {
		first := len(c.idx)
		for _, ch := range it.Changes {
			own, ok := ch.(change)
			if !ok {
				continue // there is none: the item would not be among those that survived
			}
			if kind, about := own.news(); kind != "" && !c.has(first, kind, &about) {
				c.idx, c.pos, c.at = append(c.idx, int64(it.Index)), append(c.pos, int64(len(c.idx)-first)), append(c.at, it.Entry.Time.UnixMicro())
				c.tenant, c.id, c.kind = append(c.tenant, idOrNull(&it.Entry.Tenant)), append(c.id, idOrNull(&about)), append(c.kind, string(kind))
			}
		}
	}
	if len(c.idx) == 0 {
		return nil
	}
	return []any{c.idx, c.pos, c.at, c.tenant, c.kind, c.id}
}

// has reports whether the item whose news begin at first has told it already: most items change one thing twice.
func (c *newsColumns) has(first int, kind cluster.Kind, about *uuid.UUID) bool {
	for i := first; i < len(c.idx); i++ {
		if c.kind[i] == string(kind) && string(c.id[i]) == string(idOrNull(about)) {
			return true
		}
	}
	return false
}

// News gives news from index from on; see cluster.Store.
func (s *Store) News(ctx context.Context, from uint64, limit int) (news []cluster.News, next uint64, isLost bool, err error) {
	limit = max(limit, 1000)
	from = min(from, math.MaxInt64)
	err = s.reading(ctx, "reading news", func(c conn) error {
		news, next, isLost = nil, 0, false
		rows, err := c.Query(ctx, sqlNews, int64(from), limit+1)
		if err != nil {
			return err
		}
		defer rows.Close()
		var size, floor int64
		for rows.Next() {
			var n cluster.News
			var idx *int64
			var kind *string
			if err := rows.Scan(&size, &floor, &idx, (*timeColumn)(&n.At), (*nullIDColumn)(&n.Tenant), &kind, (*nullIDColumn)(&n.ID)); err != nil {
				return err
			}
			if idx == nil || kind == nil {
				continue // the outer join's row without news
			}
			n.Index, n.Kind = uint64(*idx), cluster.Kind(*kind)
			news = append(news, n)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		next = uint64(size)
		if from < uint64(floor) || from > next { // beyond the end: the database is one from before
			news, isLost = nil, true
			return nil
		}
		if len(news) <= limit {
			return nil
		}
		// The page is cut. It ends with the whole of its last entry.
		last := news[limit-1].Index
		next = last + 1
		if news[limit].Index != last {
			news = news[:limit]
			return nil
		}
		for limit > 0 && news[limit-1].Index == last {
			limit--
		}
		whole, err := s.newsOf(ctx, c, last)
		news = append(news[:limit], whole...)
		return err
	})
	return news, next, isLost, err
}

// newsOf gives all news of one entry.
func (s *Store) newsOf(ctx context.Context, c conn, index uint64) ([]cluster.News, error) {
	rows, err := c.Query(ctx, sqlNewsOf, int64(index))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (cluster.News, error) {
		n := cluster.News{Index: index}
		err := row.Scan((*timeColumn)(&n.At), (*nullIDColumn)(&n.Tenant), &n.Kind, (*nullIDColumn)(&n.ID))
		return n, err
	})
}

// pruneAtOnce is how many rows of news one statement deletes: some tens of milliseconds.
const pruneAtOnce = 10_000

// PruneNews forgets the news of entries older than before, up to the first that is not. What is forgotten is said first.
func (s *Store) PruneNews(ctx context.Context, before time.Time) error {
	const action = "forgetting news"
	var cut int64
	if err := s.row(ctx, action, sqlNewsCut, []any{&cut}, before.UnixMicro()); err != nil {
		return err
	}
	if err := s.change(ctx, action, sqlRaiseFloor, cut); err != nil {
		return err
	}
	for {
		var gone int64
		err := s.reading(ctx, action, func(c conn) error {
			tag, err := c.Exec(ctx, sqlPruneNews, cut, pruneAtOnce)
			gone = tag.RowsAffected()
			return err
		})
		if err != nil || gone < pruneAtOnce {
			return err
		}
	}
}

// change carries out one statement, that may as well be carried out twice, beside the writing connection: it touches nothing that
// Commit does.
func (s *Store) change(ctx context.Context, action, query string, args ...any) error {
	return s.reading(ctx, action, func(c conn) error {
		_, err := c.Exec(ctx, query, args...)
		return err
	})
}

const (
	sqlInsertNews = `INSERT INTO news (idx, pos, at, tenant, kind, id) SELECT n.idx, n.pos, n.at, n.tenant, n.kind, n.id
		FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[], $6::bytea[]) AS n (idx, pos, at, tenant, kind, id)`
	sqlNewsRows = "SELECT 1 AS one, idx, pos, at, tenant, kind, id FROM news WHERE idx >= $1 ORDER BY idx, pos LIMIT $2"
	// One statement sees one moment: the size, the floor and the news fit each other.
	sqlNews = `SELECT h.size, f.idx, n.idx, n.at, n.tenant, n.kind, n.id FROM audit_head h JOIN news_floor f ON f.id = h.id
		LEFT JOIN (` + sqlNewsRows + `) n ON n.one = h.id
		WHERE h.id = 1 ORDER BY n.idx, n.pos`
	sqlNewsOf = "SELECT at, tenant, kind, id FROM news WHERE idx = $1 ORDER BY pos"
	// The first that stays, or behind the last.
	sqlNewsCut = `SELECT COALESCE((SELECT idx FROM news WHERE at >= $1 ORDER BY idx LIMIT 1),
		(SELECT MAX(idx) + 1 FROM news), 0)`
	sqlRaiseFloor = "UPDATE news_floor SET idx = $1 WHERE id = 1 AND idx < $1"
	sqlPruneNews  = "DELETE FROM news WHERE (idx, pos) IN (SELECT idx, pos FROM news WHERE idx < $1 ORDER BY idx, pos LIMIT $2)"
)
