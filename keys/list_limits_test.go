package keys_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keys"
)

// TestListOfLimited: the pages of a limited credential are full of what it reaches, and where they end says nothing of other keys.
func TestListOfLimited(t *testing.T) {
	e := newEnv(t, nil)
	var mine, others []string
	ids := map[string]string{}
	for i := range 12 {
		name := fmt.Sprintf("k%02d-hidden", i)
		labels := map[string]string{"env": "prod", "team": "a"}
		if i%3 == 1 {
			name = fmt.Sprintf("k%02d-mine", i)
			labels["env"] = "dev"
			mine = append(mine, name)
		} else {
			others = append(others, name)
		}
		k := e.create(name, backend.AES256GCM, func(r *keys.CreateRequest) { r.Labels = labels })
		ids[name] = k.ID.String()
	}
	// A name that begins as one within the limit, and one within it of another label.
	e.create("k01-mine-hidden", backend.AES256GCM, func(r *keys.CreateRequest) { r.Labels = map[string]string{"env": "prod"} })
	e.create("k99-hidden", backend.AES256GCM, func(r *keys.CreateRequest) { r.Labels = map[string]string{"env": "dev"} })
	for limit, r := range map[string]auth.Restrictions{
		"labels": {Labels: map[string]string{"env": "dev", "team": "a"}},
		"names":  {Keys: append([]string{"nothing", "k99-nothing"}, mine...)},
		"ids":    {Keys: []string{ids[mine[3]], mine[1], ids[mine[0]], ids[mine[2]], ids[mine[0]][:35] + "x"}},
		"both":   {Keys: append(append([]string{}, mine...), others...), Labels: map[string]string{"env": "dev", "team": "a"}},
	} {
		c := e.narrow(r)
		for _, f := range []keys.Filter{{}, {NamePrefix: "k"}, {Label: "team=a"}, {Algorithm: backend.AES256GCM}, {State: keys.StateActive}} {
			for _, size := range []int{1, 3, 4, 100} {
				var got []string
				for cursor, pages := "", 0; ; pages++ {
					page, next, err := e.List(t.Context(), c, keys.ListRequest{Filter: f, Cursor: cursor, Limit: size})
					if err != nil || pages > 20 {
						t.Fatal(pages, err)
					}
					for _, k := range page {
						got = append(got, k.Name)
					}
					if next == "" {
						break
					}
					where, err := base64.RawURLEncoding.DecodeString(next[2:])
					if err != nil || strings.Contains(string(where), "hidden") || len(page) != size {
						t.Errorf("by %s, %+v: a page of %d, not %d, ends at %q, %v", limit, f, len(page), size, where, err)
					}
					cursor = next
				}
				if diff := cmp.Diff(mine, got); diff != "" {
					t.Errorf("by %s, %+v, %d a page: (-want +got)\n%s", limit, f, size, diff)
				}
			}
		}
		if page, next, err := e.List(t.Context(), c, keys.ListRequest{Filter: keys.Filter{NamePrefix: "k00"}, Limit: 1}); err != nil || len(page) != 0 || next != "" {
			t.Errorf("by %s, beside what it reaches: %d, %q, %v", limit, len(page), next, err)
		}
	}
}
