package auth

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/fault"
)

type keyring map[uuid.UUID]*APIKey

func (k keyring) APIKey(_ context.Context, _, id uuid.UUID) (*APIKey, error) {
	if one, ok := k[id]; ok {
		return one, nil
	}
	return nil, fault.New(fault.APIKeyNotFound, "none")
}

// TestKinAgainstTheHistory: whatever is made and renewed by whom, in whatever order, the kin of a credential are all who could have known a secret of it, by a
// second account that keeps for each secret who knows it.
func TestKinAgainstTheHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tenant := uuid.UUID{1}
		ring := keyring{}
		knows := map[string]map[string]bool{} // by credential, who has ever been shown a secret of it
		shown := map[string]time.Time{}
		var ids []string
		at := moment
		make1 := func(by string) {
			k := &APIKey{ID: uuid.UUID{byte(len(ids) + 1)}, Tenant: tenant, CreatedAt: at, CreatedBy: by, Makers: []string{by}}
			if rapid.IntRange(0, 3).Draw(t, "by the release before") == 0 {
				k.Makers = nil
			}
			ring[k.ID], ids = k, append(ids, k.PrincipalID())
			knows[k.PrincipalID()], shown[k.PrincipalID()] = map[string]bool{by: true}, at
		}
		make1("system")
		for range rapid.IntRange(1, 12).Draw(t, "acts") {
			at = at.Add(time.Second)
			by := rapid.SampledFrom(ids).Draw(t, "who")
			if rapid.Bool().Draw(t, "makes") {
				make1(by)
				continue
			}
			of := rapid.SampledFrom(ids).Draw(t, "whose")
			id, _ := GrantHolder(tenant, of)
			k := ring[id]
			k.Makers, k.ShownAt = k.makers(), k.since()
			k.RotatedAt, k.RotatedBy = at, by
			if by != of {
				k.Makers, k.ShownAt = k.makers(), at
				knows[of][by], shown[of] = true, at
			}
		}
		for _, one := range ids {
			// Who knows a secret of a credential could have done what it did: also have been shown secrets.
			all := map[string]bool{}
			var reach func(string)
			reach = func(c string) {
				for by := range knows[c] {
					if !all[by] {
						all[by] = true
						reach(by)
					}
				}
			}
			reach(one)
			delete(all, one)
			kin, since, err := Kin(t.Context(), ring, tenant, one)
			if err != nil || len(kin) != len(all) || !since.Equal(shown[one]) {
				t.Fatalf("the kin of %s are %v since %v, want %v since %v, %v", one, kin, since, all, shown[one], err)
			}
			for _, by := range kin {
				if !all[by] {
					t.Fatalf("%s is not kin of %s", by, one)
				}
			}
		}
	})
}

// TestCountedAreApart: of those who count none comes from another or from the requester, each is named and said yes, and the order of the votes changes nothing.
func TestCountedAreApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"r", "a", "b", "c", "d"}
		q := &Quorum{Operations: []string{"sign"}, Approvals: 2, Role: RoleAdmin}
		a := &Approval{RequestedBy: "r", CreatedAt: moment}
		for _, n := range names {
			if !rapid.Bool().Draw(t, "votes") {
				continue
			}
			a.Votes = append(a.Votes, Vote{Principal: n, Role: rapid.SampledFrom([]Role{RoleAdmin, RoleAdmin, RoleViewer}).Draw(t, "role"), Approves: rapid.IntRange(0, 4).Draw(t, "no") > 0,
				Kin: rapid.SliceOfN(rapid.SampledFrom(names), 0, 2).Draw(t, "kin"), Since: moment.Add(time.Duration(rapid.IntRange(-3, 1).Draw(t, "since")))})
		}
		counted := q.Counted(a)
		said := map[string]bool{}
		for i, v := range a.Votes {
			said[v.Principal] = counted[i]
			if !counted[i] {
				continue
			}
			if !v.Approves || v.Role != RoleAdmin || v.Principal == "r" || slices.Contains(v.Kin, "r") || v.Since.After(moment) {
				t.Fatalf("%+v counts", v)
			}
			for j, w := range a.Votes {
				if i != j && counted[j] && slices.Contains(v.Kin, w.Principal) {
					t.Fatalf("%s and %s count", v.Principal, w.Principal)
				}
			}
		}
		slices.Reverse(a.Votes)
		for i, c := range q.Counted(a) {
			if said[a.Votes[i].Principal] != c {
				t.Fatalf("%s counts by its place", a.Votes[i].Principal)
			}
		}
	})
}

// TestKinIsBounded: of whom nobody can say any more of whom it comes, it comes of everybody.
func TestKinIsBounded(t *testing.T) {
	k := &APIKey{ID: uuid.UUID{1}, CreatedBy: "system", CreatedAt: moment}
	for i := range maxMakers + 1 {
		k.Makers = k.makers()
		k.RotatedBy = fmt.Sprint("api-key:", uuid.UUID{2, byte(i)})
	}
	kin, _, err := Kin(t.Context(), keyring{k.ID: k}, uuid.UUID{}, k.PrincipalID())
	if err != nil || !comes(kin, "anyone at all") {
		t.Error(kin, err)
	}
	q := &Quorum{Approvals: 1, Role: RoleAdmin}
	if q.Objection(&Approval{RequestedBy: "r"}, &Vote{Principal: "p", Role: RoleAdmin, Kin: kin}, nil) == "" {
		t.Error("its word is taken")
	}
}
