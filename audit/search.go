package audit

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Found is an entry of the log with its place, decoded and as the exact bytes that are hashed.
type Found struct {
	Index uint64
	Entry Entry
	Leaf  []byte
}

var (
	errNoEntry = fault.New(fault.EntryNotFound, "the audit log has no such entry")
	errPruned  = fault.New(fault.EntryPruned, "the entry was pruned: its hash is kept, and its proof can be had")
)

// Get gives the entry at index, of whatever tenant: the caller decides who may see it. The error is fault.EntryNotFound
// when there is none and fault.EntryPruned when there was one.
func (l *Log) Get(ctx context.Context, index uint64) (Found, error) {
	s, err := l.stored(ctx, index)
	if err != nil {
		return Found{}, err
	}
	if s.Pruned() {
		return Found{}, errPruned
	}
	return decode(s)
}

// stored gives the entry at index, or its hash.
func (l *Log) stored(ctx context.Context, index uint64) (Stored, error) {
	if index >= math.MaxInt64 {
		return Stored{}, errNoEntry
	}
	entries, err := l.store.AuditEntries(ctx, index, 1)
	if err != nil {
		return Stored{}, fmt.Errorf("reading an audit entry: %w", err)
	}
	if len(entries) == 0 {
		return Stored{}, errNoEntry
	}
	return entries[0], nil
}

func decode(s Stored) (Found, error) {
	e, err := ParseLeaf(s.Leaf)
	if err != nil {
		return Found{}, fault.Wrap(fault.StoreCorrupted, fmt.Sprintf("entry %d of the audit log is damaged", s.Index), err)
	}
	return Found{Index: s.Index, Entry: e, Leaf: s.Leaf}, nil
}

// Bounds of List.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
	// searchCalls bounds the store reads of one List, each of which looks at a bounded number of entries.
	searchCalls = 8
	// toldRead is how many entries ListTold reads at once.
	toldRead = 256
)

// List gives matching entries, newest first, and the cursor from which it goes on; "" when there are no more. A limit of 0
// is DefaultLimit. A page may hold fewer than limit, even none, while the cursor says that there is more to look at. The
// errors are fault.BadCursor for a cursor that was not made by List with the same filter and fault.BadQuery for a limit
// out of range.
func (l *Log) List(ctx context.Context, f Filter, cursor string, limit int) (found []Found, next string, err error) {
	return l.ListTold(ctx, f, nil, cursor, limit)
}

// ListTold is List for somebody who is told of some entries alone: those that told says, all when it is nil. Nor does a cursor say what others there are:
// it is the index of an entry that was given or, when many were looked at, of one of the tenant's, whatever principal, action and outcome were asked for.
func (l *Log) ListTold(ctx context.Context, f Filter, told func(*Entry) (bool, error), cursor string, limit int) (found []Found, next string, err error) {
	if limit == 0 {
		limit = DefaultLimit
	}
	if limit < 0 || limit > MaxLimit {
		return nil, "", fault.New(fault.BadQuery, fmt.Sprintf("limit must be from 1 to %d", MaxLimit))
	}
	before := uint64(math.MaxInt64)
	if cursor != "" {
		if before, err = parseCursor(f, cursor); err != nil {
			return nil, "", err
		}
	}
	search := f
	if told != nil {
		search.Principal, search.Action, search.Outcome = "", "", ""
	}
	for range searchCalls {
		n := limit - len(found)
		if told != nil {
			n = toldRead
		}
		page, more, err := l.store.AuditSearch(ctx, search, before, n)
		if err != nil {
			return nil, "", fmt.Errorf("searching the audit log: %w", err)
		}
		for _, s := range page {
			d, err := decode(s)
			if err != nil {
				return nil, "", err
			}
			if told != nil {
				if is, err := f.tells(&d.Entry, told); err != nil {
					return nil, "", err
				} else if !is {
					continue
				}
			}
			if found = append(found, d); told != nil && len(found) == limit && d.Index > 0 {
				return found, makeCursor(f, d.Index), nil
			}
		}
		if more == 0 {
			return found, "", nil
		}
		if more >= before {
			return nil, "", fault.New(fault.Internal, "the search of the audit log does not move on")
		}
		before = more
		if len(found) >= limit {
			break
		}
	}
	return found, makeCursor(f, before), nil
}

// tells reports whether an entry is one of the principal, action and outcome that are asked for, and one that is told of.
func (f *Filter) tells(e *Entry, told func(*Entry) (bool, error)) (bool, error) {
	if f.Principal != "" && f.Principal != e.Principal || f.Action != "" && f.Action != e.Action || f.Outcome != "" && f.Outcome != e.Outcome {
		return false, nil
	}
	return told(e)
}

// A cursor is a version byte, the first 8 bytes of a hash of the filter and the index below which to go on, in base64url.
// The hash is no secret and keeps nobody out: it tells a client that took the cursor of another search.
const (
	cursorVersion = 1
	cursorLen     = 1 + 8 + 8
)

func makeCursor(f Filter, before uint64) string {
	b := append([]byte{cursorVersion}, filterHash(f)...)
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(b, before))
}

func parseCursor(f Filter, cursor string) (uint64, error) {
	bad := fault.New(fault.BadCursor, "the cursor is not one of this list")
	if len(cursor) != base64.RawURLEncoding.EncodedLen(cursorLen) {
		return 0, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) != cursorLen || b[0] != cursorVersion || string(b[1:9]) != string(filterHash(f)) {
		return 0, bad
	}
	before := binary.BigEndian.Uint64(b[9:])
	if before == 0 || before > math.MaxInt64 {
		return 0, bad
	}
	return before, nil
}

func filterHash(f Filter) []byte {
	var b []byte
	for _, id := range [...]*uuid.UUID{f.Tenant, f.Key} {
		if id == nil {
			b = append(b, 0)
			continue
		}
		b = append(append(b, 1), id[:]...)
	}
	for _, s := range [...]string{f.Principal, f.Action, f.Outcome} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, t := range [...]time.Time{f.From, f.To} {
		if t.IsZero() {
			b = append(b, 0)
			continue
		}
		b = binary.BigEndian.AppendUint64(append(b, 1), uint64(t.Unix()))
		b = binary.BigEndian.AppendUint32(b, uint32(t.Nanosecond()))
	}
	sum := sha256.Sum256(b)
	return sum[:8]
}
