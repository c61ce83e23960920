package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

func TestList(t *testing.T) {
	s := newMemStore()
	s.fill(t, 1000)
	l := openLog(t, s, Options{})
	ctx := context.Background()
	key := uuid.UUID(testKey(2))
	base := time.Unix(1_800_000_000, 0)
	for name, c := range map[string]struct {
		f    Filter
		want func(i int) bool
	}{
		"all":       {Filter{}, func(int) bool { return true }},
		"key":       {Filter{Key: &key}, func(i int) bool { return i%5 == 2 }},
		"principal": {Filter{Principal: "api-key:3"}, func(i int) bool { return i%7 == 3 }},
		"time":      {Filter{From: base.Add(100 * time.Second), To: base.Add(110 * time.Second)}, func(i int) bool { return i >= 100 && i < 110 }},
		"none":      {Filter{Outcome: "ERR"}, func(int) bool { return false }},
	} {
		for _, limit := range []int{0, 1, 7, 1000} {
			want := 999
			cursor, pages, total := "", 0, 0
			for {
				found, next, err := l.List(ctx, c.f, cursor, limit)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if max := limit; limit > 0 && len(found) > max || len(found) > MaxLimit {
					t.Fatalf("%s: %d entries for limit %d", name, len(found), limit)
				}
				for _, f := range found {
					for want >= 0 && !c.want(want) {
						want--
					}
					if f.Index != uint64(want) || f.Entry.RequestID != fmt.Sprintf("req-%d", want) || string(f.Leaf) != string(s.leaves[want]) {
						t.Fatalf("%s: got entry %d (%s), want %d", name, f.Index, f.Entry.RequestID, want)
					}
					want--
					total++
				}
				if pages++; pages > 2000 {
					t.Fatalf("%s does not end", name)
				}
				if next == "" {
					break
				}
				cursor = next
			}
			for want >= 0 && !c.want(want) {
				want--
			}
			if want != -1 {
				t.Errorf("%s, limit %d: ended before entry %d, after %d", name, limit, want, total)
			}
		}
	}
}

// TestListTold: pages are full as far as the entries that are told of go, and end at one of those; where very many are not told of, after a bounded number.
func TestListTold(t *testing.T) {
	s := newMemStore()
	s.fill(t, 1000)
	l := openLog(t, s, Options{})
	ctx := context.Background()
	f := Filter{Principal: "api-key:3"} // i%7 == 3
	for _, limit := range []int{1, 3, 500} {
		told := func(e *Entry) (bool, error) { return e.Key == testKey(2), nil } // i%5 == 2
		var got []uint64
		for cursor, pages := "", 0; ; pages++ {
			found, next, err := l.ListTold(ctx, f, told, cursor, limit)
			if err != nil || pages > 1000 {
				t.Fatal(pages, err)
			}
			for _, e := range found {
				got = append(got, e.Index)
			}
			if next == "" {
				break
			}
			if before, err := parseCursor(f, next); err != nil || len(found) == limit && before != got[len(got)-1] {
				t.Fatalf("limit %d: %d entries, then %d, %v", limit, len(found), before, err)
			}
			cursor = next
		}
		n := 0
		for i := 999; i >= 0; i-- {
			if i%7 == 3 && i%5 == 2 {
				if n >= len(got) || got[n] != uint64(i) {
					t.Fatalf("limit %d: entry %d is not there, but %d", limit, i, got)
				}
				n++
			}
		}
		if n != len(got) {
			t.Errorf("limit %d: %d entries, not %d", limit, len(got), n)
		}
	}
	ends := map[uint64]bool{}
	for _, asked := range []Filter{f, {Principal: "nobody"}} { // it is the same for what is there and for what is not
		found, next, err := l.ListTold(ctx, asked, func(*Entry) (bool, error) { return false, nil }, "", 5)
		if err != nil || len(found) != 0 {
			t.Error(found, err)
		}
		before, err := parseCursor(asked, next)
		if err != nil {
			t.Error(err)
		}
		ends[before] = true
	}
	if len(ends) != 1 {
		t.Errorf("a search that tells nothing ends at %v", ends)
	}
	broken := errors.New("broken")
	if _, _, err := l.ListTold(ctx, Filter{}, func(*Entry) (bool, error) { return false, broken }, "", 5); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestListErrors(t *testing.T) {
	s := newMemStore()
	s.fill(t, 20)
	l := openLog(t, s, Options{})
	ctx := context.Background()
	for _, limit := range []int{-1, MaxLimit + 1} {
		_, _, err := l.List(ctx, Filter{}, "", limit)
		wantFault(t, err, fault.BadQuery)
	}
	_, cursor, err := l.List(ctx, Filter{Action: "encrypt"}, "", 5)
	if err != nil || cursor == "" {
		t.Fatal(cursor, err)
	}
	id := uuid.UUID(testKey(1))
	for _, f := range []Filter{{}, {Action: "encryp"}, {Action: "encrypt", Tenant: &id}, {Principal: "encrypt"}, {Action: "encrypt", From: time.Unix(1, 0)}} {
		_, _, err := l.List(ctx, f, cursor, 5)
		wantFault(t, err, fault.BadCursor)
	}
	for _, bad := range []string{"x", cursor + "A", cursor[:len(cursor)-1], strings.Replace(cursor, cursor[:2], "Ag", 1), cursor[:len(cursor)-4] + "\nAAA",
		makeCursor(Filter{Action: "encrypt"}, 0), makeCursor(Filter{Action: "encrypt"}, 1<<63)} {
		_, _, err := l.List(ctx, Filter{Action: "encrypt"}, bad, 5)
		wantFault(t, err, fault.BadCursor)
	}
	l2 := openLog(t, s, Options{})
	s.leaves[19] = []byte("{}")
	_, _, err = l2.List(ctx, Filter{}, "", 5)
	if err == nil {
		t.Error("a damaged entry was listed")
	}
	_, err = l2.Get(ctx, 19)
	wantFault(t, err, fault.StoreCorrupted)
}

func FuzzCursor(f *testing.F) {
	f.Add(makeCursor(Filter{}, 12))
	f.Add(makeCursor(Filter{Action: "a"}, 12))
	f.Add("")
	f.Fuzz(func(t *testing.T, cursor string) {
		before, err := parseCursor(Filter{}, cursor)
		if err == nil && makeCursor(Filter{}, before) != cursor {
			t.Fatalf("two cursors for %d", before)
		}
	})
}
