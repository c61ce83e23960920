package remote

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

func manyItems(n int, input func(i int) string) []backend.Item {
	out := make([]backend.Item, n)
	for i := range out {
		out[i].Input = []byte(input(i))
	}
	return out
}

var signing = token.Call{Op: token.Sign, Algorithm: backend.ECDSAP256}

// TestManyKeepsOrder: items come back in their order from all children, faults of items in their places.
func TestManyKeepsOrder(t *testing.T) {
	s := open(t, device(t), Options{Processes: 3})
	for _, n := range []int{1, 7, 8, 23, 100, 1000} {
		items := manyItems(n, func(i int) string {
			if i == n/2 {
				return "fault"
			}
			return fmt.Sprint("item ", i)
		})
		out, err := s.UseMany(t.Context(), signing, items)
		if err != nil || len(out) != n {
			t.Fatalf("%d items: %d results, %v", n, len(out), err)
		}
		for i := range out {
			if i == n/2 {
				if !fault.Has(out[i].Err, fault.DecryptionFailed) || out[i].Output != nil {
					t.Errorf("%d items: the bad one: %q, %v", n, out[i].Output, out[i].Err)
				}
			} else if out[i].Err != nil || !bytes.Equal(out[i].Output, items[i].Input) {
				t.Errorf("%d items: item %d: %q, %v", n, i, out[i].Output, out[i].Err)
			}
		}
	}
	eventually(t, "99 items are done by all three children", func() bool { // two parts that look for a child at the same moment may find the same one
		pids, err := s.UseMany(t.Context(), signing, manyItems(99, func(i int) string {
			if i%33 == 0 {
				return "sleep 100ms" // so that no child is free again for another part
			}
			return "pid"
		}))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, p := range pids {
			seen[string(p.Output)] = true
		}
		return len(seen) == 3+1
	})
}

// TestManyLarge: items that do not fit one frame together travel in several.
func TestManyLarge(t *testing.T) {
	s := open(t, device(t), Options{})
	items := manyItems(12, func(i int) string { return string(bytes.Repeat([]byte{'a' + byte(i)}, 700<<10)) })
	out, err := s.UseMany(t.Context(), signing, items)
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		if !bytes.Equal(out[i].Output, items[i].Input) {
			t.Errorf("item %d is another", i)
		}
	}
	_, err = s.UseMany(t.Context(), signing, manyItems(3, func(int) string { return string(make([]byte, maxFrame)) }))
	if !fault.Has(err, fault.BadSize) {
		t.Errorf("items larger than a frame: %v", err)
	}
}

// TestManyLost: a child that is lost in the middle costs nothing when another is there; what all of it suffers is one error.
func TestManyLost(t *testing.T) {
	s := open(t, device(t), Options{Processes: 2})
	out, err := s.UseMany(t.Context(), signing, manyItems(40, func(i int) string {
		if i == 5 {
			return "crash-once"
		}
		return "item"
	}))
	if err != nil || len(out) != 40 {
		t.Fatalf("%d results, %v", len(out), err)
	}
	out, err = s.UseMany(t.Context(), signing, manyItems(40, func(i int) string {
		if i == 20 {
			return "crash"
		}
		return "item"
	}))
	if !fault.Has(err, fault.BackendUnavailable) || out != nil {
		t.Errorf("with an item that kills every child: %d results, %v", len(out), err)
	}
}

// TestResultsAreStrict: results have one form, of their number, and no fault that is about more than an item.
func TestResultsAreStrict(t *testing.T) {
	good := []backend.Result{{Output: []byte("one")}, {Err: fault.New(fault.BadSize, "too long")}}
	body := appendResults(nil, []backend.Result{{Output: []byte("one")}, good[1]})
	out := make([]backend.Result, 2)
	if err := decodeResults(body, out); err != nil || string(out[0].Output) != "one" || !fault.Has(out[1].Err, fault.BadSize) {
		t.Fatalf("%+v, %v", out, err)
	}
	for n := range body {
		if decodeResults(body[:n:n], out) == nil {
			t.Fatalf("cut off after %d bytes it is taken", n)
		}
	}
	if decodeResults(append(bytes.Clone(body), 0), out) == nil || decodeResults(body, out[:1]) == nil {
		t.Error("more than it should have is taken")
	}
	for _, code := range []fault.Code{fault.BackendUnavailable, fault.Timeout} {
		if decodeResults(appendResults(nil, []backend.Result{{Err: fault.New(code, "no")}}), out[:1]) == nil {
			t.Errorf("%s is taken as the fault of an item", code)
		}
	}
}
