package auth

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Whose word is whose. Who was ever shown the secret of an API key can speak with its voice: its maker, and whoever renewed it. So what two credentials say is what two say
// only if neither comes from the other. That two come from a third is no objection: that one could speak with both voices, and nothing here shows whether it
// did (docs/guides/access.md).

const (
	anybody   = "*" // among makers: there were more than are kept
	maxMakers = 32  // of one API key, kept with it
	maxKin    = 128 // of a credential, over all generations
)

// makers gives all others who were ever shown a secret of the key. Records of the release before say who made it and who renewed it last.
func (k *APIKey) makers() []string {
	out := slices.Clone(k.Makers)
	for _, by := range []string{k.CreatedBy, k.RotatedBy} {
		if by != "" && by != k.PrincipalID() && !slices.Contains(out, by) {
			out = append(out, by)
		}
	}
	if len(out) > maxMakers {
		return []string{anybody}
	}
	return out
}

// since gives the time after which nobody but the key itself was shown a secret of it.
func (k *APIKey) since() time.Time {
	at := k.CreatedAt
	if k.ShownAt.After(at) {
		at = k.ShownAt
	}
	if k.RotatedBy != "" && k.RotatedBy != k.PrincipalID() && k.RotatedAt.After(at) {
		at = k.RotatedAt
	}
	return at
}

// APIKeyStore is what Kin needs of a Store.
type APIKeyStore interface {
	APIKey(ctx context.Context, tenant, id uuid.UUID) (*APIKey, error)
}

// Kin gives all of whom a principal's credential comes, over all generations, and since when nobody else has been shown its secret. Of one that is no API key it
// knows neither: who gives out certificates and tokens is not known here. since is zero then.
func Kin(ctx context.Context, store APIKeyStore, tenant uuid.UUID, principal string) (kin []string, since time.Time, err error) {
	next := []string{principal}
	for first := true; len(next) > 0; first = false {
		id, isKey := GrantHolder(tenant, next[0])
		next = next[1:]
		if !isKey {
			continue
		}
		k, err := store.APIKey(ctx, tenant, id)
		if fault.Has(err, fault.APIKeyNotFound) {
			continue // an operator's, of another tenant
		}
		if err != nil {
			return nil, since, err
		}
		if first {
			since = k.since()
		}
		for _, by := range k.makers() {
			if by != principal && !slices.Contains(kin, by) {
				kin, next = append(kin, by), append(next, by)
			}
		}
		if len(kin) > maxKin || slices.Contains(kin, anybody) {
			return []string{anybody}, since, nil
		}
	}
	slices.SortFunc(kin, strings.Compare)
	return kin, since, nil
}

// comes reports whether a credential with this kin comes from a principal.
func comes(kin []string, from string) bool {
	return slices.Contains(kin, from) || slices.Contains(kin, anybody)
}
