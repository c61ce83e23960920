package hsm

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// Two processes that find a token without a service key at the same moment would make two, and what one of them has authenticated would be worth
// nothing to the other. PKCS#11 has no lock, so each that wants to make the key first makes another object, its claim, and then looks for
// claims: of two, the one that comes later sees the other's and takes its own back. Only who sees none but its own looks once more for
// the key, makes it, and then takes the claim back. A claim is a key that nobody ever uses, so that destroying one loses nothing.
const (
	// claimFor bounds how long a process may hold its claim. A claim that another process has seen unchanged for claimStale was left
	// by one that crashed, and is destroyed.
	claimFor   = 20 * time.Second
	claimStale = 30 * time.Second
	claimTries = 150
)

// claimPrefix is what the identities of claims begin with. Its version is one that no key id has (RFC 9562 section 5.8).
func claimPrefix() [9]byte {
	sum := sha256.Sum256([]byte("keywright/v1/hsm-service-key/claim"))
	p := [9]byte(sum[:])
	p[6] = p[6]&0x0f | 0x80
	p[8] = p[8]&0x3f | 0x80
	return p
}

func isClaim(id token.ID) bool { return [9]byte(id[:]) == claimPrefix() }

func newClaim() (id token.ID) {
	rand.Read(id[:]) // never fails (crypto/rand)
	p := claimPrefix()
	copy(id[:], p[:])
	return id
}

// elect makes a service key, or finds the one that another process made meanwhile.
func (b *Backend) elect(ctx context.Context, m *member, k ServiceKey) (token.Object, error) {
	seen := map[token.ID]time.Time{} // claims of others, since when
	var last error
	conflicts := 0
	for range claimTries {
		o, others, err := b.claim(ctx, m, k)
		switch {
		case err == nil && len(others) == 0:
			return o, nil
		case ctx.Err() != nil:
			return token.Object{}, ended(ctx)
		case err != nil && !fault.Has(err, fault.Conflict) && !fault.Has(err, fault.KeyMaterial):
			return token.Object{}, err
		}
		last = err
		if !fault.Has(err, fault.Conflict) {
			conflicts = 0
		} else if conflicts++; conflicts == 5 {
			// Not found, and yet there: that is what several are.
			return token.Object{}, fault.Wrap(fault.KeyMaterial, "the token has the service's "+k.Name+" key several times, or one that cannot be read: keep the one that keys were made with, by the vendor's tools", err)
		}
		for id := range seen {
			if !slices.Contains(others, id) {
				delete(seen, id)
			}
		}
		for _, id := range others {
			if since, ok := seen[id]; !ok {
				seen[id] = b.now()
			} else if b.now().Sub(since) > claimStale {
				b.log.Warn("removing the claim of a process that has ended while it prepared the token", "member", m.name)
				if err := m.token.Destroy(ctx, id); err != nil {
					return token.Object{}, err
				}
			}
		}
		if err := hesitate(ctx, 50*time.Millisecond); err != nil {
			return token.Object{}, err
		}
	}
	return token.Object{}, fault.Wrap(fault.BackendUnavailable, "other processes prepare the token, and do not come to an end", last).RetryAfter(time.Second)
}

// hesitate waits for a time and up to 128 ms more, by chance.
func hesitate(ctx context.Context, least time.Duration) error {
	var r [1]byte
	rand.Read(r[:]) // never fails (crypto/rand)
	select {
	case <-ctx.Done():
		return ended(ctx)
	case <-time.After(least + time.Duration(r[0])*time.Millisecond/2):
		return nil
	}
}

// claim tries once. others are the claims that keep it from making the key.
func (b *Backend) claim(ctx context.Context, m *member, k ServiceKey) (o token.Object, others []token.ID, err error) {
	ctx, cancel := context.WithTimeout(ctx, claimFor)
	defer cancel()
	// Of two processes that write at the same moment SoftHSM may show neither what the other wrote, until one of them writes again: so there are
	// two claims, with a while between them that is hardly ever the same for both.
	mine := [2]token.ID{newClaim(), newClaim()}
	defer func() {
		free, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
		defer cancel()
		err = errors.Join(err, m.token.Destroy(free, mine[0]), m.token.Destroy(free, mine[1]))
	}()
	for i, id := range mine {
		if i > 0 {
			if err := hesitate(ctx, 30*time.Millisecond); err != nil {
				return o, nil, err
			}
		}
		if _, err := m.token.Generate(ctx, id, k.Algorithm, k.Purpose, false); err != nil {
			return o, nil, err
		}
	}
	list, err := m.token.List(ctx)
	if err != nil {
		return o, nil, err
	}
	shown := 0
	for i := range list {
		switch id := list[i].ID; {
		case slices.Contains(mine[:], id):
			shown++
		case isClaim(id):
			others = append(others, id)
		}
	}
	if len(others) > 0 {
		return o, others, nil
	}
	if shown < len(mine) {
		// A list without our own may lack another's too.
		return o, nil, fault.New(fault.KeyMaterial, "the token does not list what was just made on it")
	}
	if o, err = m.token.Find(ctx, k.ID); !fault.Has(err, fault.KeyMaterial) {
		return o, nil, err
	}
	if o, err = m.token.Generate(ctx, k.ID, k.Algorithm, k.Purpose, false); err == nil {
		b.log.Info("made a key of the service on the token", "member", m.name, "key", k.Name)
		o, err = m.token.Find(ctx, k.ID) // there must be one
	}
	return o, nil, err
}
