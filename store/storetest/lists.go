package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/keys"
)

// names lists all pages and gives the names.
func (e *env) names(t *testing.T, tenant uuid.UUID, f keys.Filter, limit int) []string {
	t.Helper()
	var all []string
	for after := ""; ; {
		page, err := e.Keys(t.Context(), tenant, f, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > limit {
			t.Fatalf("%d keys in a page of %d", len(page), limit)
		}
		for _, k := range page {
			all = append(all, k.Name)
			if k.Tenant != tenant {
				t.Fatalf("%s is another tenant's", k.Name)
			}
		}
		if len(page) == 0 {
			return all
		}
		after = page[len(page)-1].Name
	}
}

func testFilters(t *testing.T, e *env) {
	tenant := uuid.New()
	label := func(l map[string]string) func(*keys.Key) { return func(k *keys.Key) { k.Labels = l } }
	e.insert(t, tenant, "a", label(map[string]string{"env": "prod"}))
	e.insert(t, tenant, "a.b", label(map[string]string{"env": "test", "team": ""}))
	e.insert(t, tenant, "a_b", label(map[string]string{"env": "prod=1"}))
	e.insert(t, tenant, "ab%", func(k *keys.Key) { k.Algorithm = "HMAC-SHA256" })
	e.insert(t, tenant, "b", func(k *keys.Key) { k.State = keys.StateSuspended })
	e.insert(t, tenant, "c", func(k *keys.Key) { k.State = keys.StateDestroyed; k.Labels = map[string]string{"env": "prod"} })
	e.insert(t, tenant, "d", func(k *keys.Key) { k.Internal = true; k.Labels = map[string]string{"env": "prod"} })
	e.insert(t, uuid.New(), "a", label(map[string]string{"env": "prod"}))
	for _, c := range []struct {
		f    keys.Filter
		want string
	}{
		{keys.Filter{}, "a a.b a_b ab% b"},
		{keys.Filter{NamePrefix: "a"}, "a a.b a_b ab%"},
		{keys.Filter{NamePrefix: "a_"}, "a_b"},
		{keys.Filter{NamePrefix: "ab%"}, "ab%"},
		{keys.Filter{NamePrefix: "A"}, ""},
		{keys.Filter{Algorithm: "HMAC-SHA256"}, "ab%"},
		{keys.Filter{Algorithm: "AES-256-GCM"}, "a a.b a_b b"},
		{keys.Filter{Algorithm: "AES-256-GCM", NamePrefix: "a."}, "a.b"},
		{keys.Filter{State: keys.StateActive}, "a a.b a_b ab%"},
		{keys.Filter{State: keys.StateActive, Algorithm: "HMAC-SHA256"}, "ab%"},
		{keys.Filter{State: keys.StateSuspended}, "b"},
		{keys.Filter{State: keys.StateDestroyed}, "c"},
		{keys.Filter{Label: "env"}, "a a.b a_b"},
		{keys.Filter{Label: "env=prod"}, "a"},
		{keys.Filter{Label: "env=prod=1"}, "a_b"},
		{keys.Filter{Label: "env=prod", State: keys.StateDestroyed}, "c"},
		{keys.Filter{Label: "env", State: keys.StateSuspended}, ""},
		{keys.Filter{Label: "env", Algorithm: "HMAC-SHA256"}, ""},
		{keys.Filter{Label: "team"}, "a.b"},
		{keys.Filter{Label: "team="}, "a.b"},
		{keys.Filter{Label: "none"}, ""},
	} {
		for _, limit := range []int{1, 2, 100} {
			wantSame(t, fmt.Sprintf("%+v by %d", c.f, limit), strings.Join(e.names(t, tenant, c.f, limit), " "), c.want)
		}
	}
	if got, err := e.Keys(t.Context(), tenant, keys.Filter{}, "", 0); err != nil || len(got) != 0 {
		t.Errorf("limit 0: %d keys, %v", len(got), err)
	}
}

// testFilterModel compares every combination of filters with a plain loop over all keys, after inserts, renames, new labels
// and new states.
func testFilterModel(t *testing.T, e *env) {
	tenant := uuid.New()
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same sequence in every run, on purpose
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	shape := func(k *keys.Key) {
		k.State = keys.State(pick("active", "active", "suspended", "destroyed", "creating"))
		k.Labels = map[string]string{}
		for _, l := range []string{"x", "y", "z"} {
			if r.IntN(2) == 0 {
				k.Labels[l] = pick("", "1", "2")
			}
		}
		if len(k.Labels) == 0 {
			k.Labels = nil
		}
	}
	var model []*keys.Key
	for i := range 80 {
		model = append(model, e.insert(t, tenant, fmt.Sprintf("%s%d", pick("a", "ab", "b"), i), func(k *keys.Key) {
			k.Algorithm = "AES-256-GCM"
			if r.IntN(3) == 0 {
				k.Algorithm = "RSA-3072"
			}
			k.Internal = r.IntN(10) == 0
			shape(k)
		}))
	}
	for i := range 120 {
		k := model[r.IntN(len(model))]
		shape(k)
		if r.IntN(2) == 0 {
			k.Name = fmt.Sprintf("%s%d", pick("a", "ab", "b"), 1000+i)
		}
		e.must(t, e.UpdateKey(k))
		k.Revision++
	}
	for _, prefix := range []string{"", "a", "ab"} {
		for _, algorithm := range []string{"", "AES-256-GCM", "RSA-3072"} {
			for _, state := range []string{"", "active", "suspended", "destroyed", "creating"} {
				for _, label := range []string{"", "x", "x=1", "y="} {
					var want []string
					for _, k := range model {
						name, value, exact := strings.Cut(label, "=")
						has, found := k.Labels[name]
						if !k.Internal && strings.HasPrefix(k.Name, prefix) && (algorithm == "" || string(k.Algorithm) == algorithm) &&
							(state == "" && k.State != keys.StateDestroyed || string(k.State) == state) &&
							(label == "" || found && (!exact || has == value)) {
							want = append(want, k.Name)
						}
					}
					slices.Sort(want)
					f := keys.Filter{NamePrefix: prefix, State: keys.State(state), Label: label}
					if algorithm != "" {
						f.Algorithm = model[0].Algorithm
						if algorithm != string(f.Algorithm) {
							f.Algorithm = "RSA-3072"
							if algorithm == "AES-256-GCM" {
								f.Algorithm = "AES-256-GCM"
							}
						}
					}
					wantSame(t, fmt.Sprintf("%+v", f), e.names(t, tenant, f, 7), want)
				}
			}
		}
	}
}

// testPages: pages follow each other by the bytes of the names, whatever their size.
func testPages(t *testing.T, e *env) {
	tenant := uuid.New()
	var want []string
	var batch []*audit.Item
	for i := range 230 {
		name := fmt.Sprintf("%c%d", "Zaz"[i%3], i*7919%1000)
		k, v := NewKey(tenant, name)
		want, batch = append(want, name), append(batch, Item(e.InsertKey(k, v)))
	}
	if err := e.Commit(t.Context(), batch, Extend); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	for _, limit := range []int{1, 7, 229, 230, 1000} {
		wantSame(t, fmt.Sprintf("pages of %d", limit), e.names(t, tenant, keys.Filter{}, limit), want)
	}
	page, err := e.Keys(t.Context(), tenant, keys.Filter{NamePrefix: "z"}, "Z999", 1)
	if err != nil || len(page) != 1 || page[0].Name[0] != 'z' {
		t.Errorf("a cursor before the prefix: %v, %v", page, err)
	}
	page, err = e.Keys(t.Context(), tenant, keys.Filter{NamePrefix: "a"}, "b", 1)
	if err != nil || len(page) != 0 {
		t.Errorf("a cursor behind the prefix: %v, %v", page, err)
	}
	page, err = e.Keys(t.Context(), tenant, keys.Filter{}, want[10]+"0", 1)
	if err != nil || len(page) != 1 || page[0].Name <= want[10] {
		t.Errorf("a cursor of no key: %v, %v", page, err)
	}
}

// testPagesOfDestroyed: names of destroyed keys repeat, so the cursor names the key too.
func testPagesOfDestroyed(t *testing.T, e *env) {
	tenant := uuid.New()
	want := map[uuid.UUID]bool{}
	for i := range 20 {
		k := e.insert(t, tenant, fmt.Sprintf("n%d", i/8), func(k *keys.Key) {
			k.State, k.Labels = keys.StateDestroyed, map[string]string{"l": "v"}
		})
		want[k.ID] = true
	}
	for _, f := range []keys.Filter{{State: keys.StateDestroyed}, {State: keys.StateDestroyed, Label: "l"}, {State: keys.StateDestroyed, Label: "l=v"}} {
		got := map[uuid.UUID]bool{}
		for after := ""; ; {
			page, err := e.Keys(t.Context(), tenant, f, after, 3)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, k := range page {
				if got[k.ID] {
					t.Errorf("%+v: a key twice", f)
				}
				got[k.ID] = true
			}
			last := page[len(page)-1]
			after = last.Name + "\x00" + string(last.ID[:])
		}
		wantSame(t, fmt.Sprintf("%+v", f), got, want)
	}
	// A name alone goes on after all keys of that name.
	page, err := e.Keys(t.Context(), tenant, keys.Filter{State: keys.StateDestroyed}, "n0", 100)
	if err != nil || len(page) != 12 {
		t.Errorf("%d keys after n0, %v", len(page), err)
	}
}

// testPagesWhileInserting: who lists while others insert sees each key that was there before once, and in order.
func testPagesWhileInserting(t *testing.T, e *env) {
	tenant := uuid.New()
	var old []string
	for i := range 60 {
		name := fmt.Sprintf("k%03d-old", i)
		e.insert(t, tenant, name, nil)
		old = append(old, name)
	}
	stop, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		for i := 0; stop.Err() == nil; i++ {
			k, v := NewKey(tenant, fmt.Sprintf("k%03d-new%d", i*37%60, i))
			if err := e.Commit(t.Context(), []*audit.Item{Item(e.InsertKey(k, v))}, Extend); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 10 {
		all := e.names(t, tenant, keys.Filter{}, 7)
		if !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
			t.Error("the list is out of order, or has a key twice")
		}
		seen := slices.DeleteFunc(all, func(name string) bool { return !strings.HasSuffix(name, "-old") })
		wantSame(t, "old keys", seen, old)
	}
	cancel()
	group.Wait()
}
