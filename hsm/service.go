package hsm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// ServiceKey is a key on the token that belongs to the service and to no record.
type ServiceKey struct {
	Name      string // binding, sealing-gcm or sealing-kwp
	ID        token.ID
	Algorithm backend.Algorithm
	Purpose   backend.Purpose
}

// ServiceKeys lists the keys that Open makes on a token where they are missing: the binding key, whose tags Refs carry, and the sealing
// key, which seals what is in sealed custody, in its first
// generation. Their identities are fixed, the same on every token. Only RetireKEK destroys one.
func ServiceKeys() []ServiceKey { return []ServiceKey{bindingKey(), sealingGCM(), sealingKWP()} }

func serviceKey(name string, a backend.Algorithm, p backend.Purpose) ServiceKey {
	sum := sha256.Sum256([]byte("keywright/v1/hsm-service-key/" + name))
	k := ServiceKey{Name: name, Algorithm: a, Purpose: p}
	copy(k.ID[:16], sum[:])
	k.ID[6] = k.ID[6]&0x0f | 0x80 // RFC 9562 section 5.8: a version that no key id has
	k.ID[8] = k.ID[8]&0x3f | 0x80
	k.ID[token.IDSize-1] = 1
	return k
}

func bindingKey() ServiceKey { return serviceKey("binding", backend.HMACSHA256, backend.PurposeMAC) }
func sealingGCM() ServiceKey {
	return serviceKey("sealing-gcm", backend.AES256GCM, backend.PurposeEncryption)
}
func sealingKWP() ServiceKey {
	return serviceKey("sealing-kwp", backend.AES256KWP, backend.PurposeWrapping)
}

// isService reports whether a CKA_ID has the first 16 bytes of a service key's, or is a claim on making one.
func isService(id token.ID) bool {
	return isClaim(id) || slices.ContainsFunc(ServiceKeys(), func(k ServiceKey) bool { return [16]byte(k.ID[:]) == [16]byte(id[:]) })
}

// proven reports whether all members that are there can do an operation.
func (b *Backend) proven(a backend.Algorithm, op backend.Operation) bool {
	return !slices.ContainsFunc(b.present(), func(m *member) bool { return !m.does(a, op) })
}

// service finds or makes the service's keys. Replicas must have the same; one of them that is not available now is looked at again
// by its watcher before it gets anything to do.
func (b *Backend) service(ctx context.Context) error {
	b.keyed = b.proven(backend.HMACSHA256, backend.OpMAC)
	if b.wraps() && !b.keyed {
		return fault.New(fault.Unsupported, "keys can only be kept wrapped by tokens that have HMAC-SHA-256")
	}
	switch {
	case b.proven(backend.AES256GCM, backend.OpEncrypt):
		b.form = formGCM
	case b.proven(backend.AES256KWP, backend.OpWrap):
		b.form = formKWP
	}
	var first *member
	var unavailable error
	here := b.present()
	// A token takes the place of one that was known and is not there only if it has the same keys.
	known := ""
	if k := b.o.Known; k != nil && !b.pinned && (len(here) < len(b.members) || b.info.Load() != nil) {
		known = k.Identity
	}
	for _, m := range here {
		// Of replicas the first makes what is missing: the others have it by replication, or are none.
		err := b.equip(ctx, m, b.pinned || first == nil && known == "")
		if err == nil && known != "" && m.identity != known {
			err = fault.New(fault.Conflict, "the token is another than the one that was known by the backend's name: its service keys differ")
		}
		if err == nil && first != nil && !b.pinned && m.identity != first.identity {
			err = fault.New(fault.BadField, "the members of the group are no replicas of each other: their service keys differ")
		}
		if err == nil && first != nil {
			err = b.kin(ctx, first, m)
		}
		switch {
		case err == nil:
			m.verified.Store(true)
			if first == nil {
				first = m
			}
		case fault.Has(err, fault.BackendUnavailable) && len(b.members) > 1:
			b.log.Warn("a member of the group is not available", "member", m.name, "error", err)
			b.mark(m, err)
			unavailable = err
		default:
			return err
		}
	}
	if first == nil {
		return unavailable
	}
	if !b.pinned {
		b.identity = first.identity
	}
	return nil
}

// equip finds the service's keys on one member, makes them where it may, and computes the member's identity.
func (b *Backend) equip(ctx context.Context, m *member, create bool) error {
	// The binding key comes last: where it is, the others have been made.
	if k, ok := b.sealingKey(); ok && (m.does(k.Algorithm, backend.OpEncrypt) || m.does(k.Algorithm, backend.OpWrap)) {
		if err := b.equipSealing(ctx, m, k, create); err != nil {
			return err
		}
	}
	if b.keyed {
		if err := b.ensure(ctx, m, bindingKey(), create); err != nil {
			return err
		}
	}
	d := m.token.Describe()
	var err error
	if m.identity, err = b.identify(ctx, m, &m.description); err == nil {
		m.recognised.Store(d.Generation)
	}
	return err
}

// identify gives the identity of the token that a member has now: it follows from the binding key, or from what the token says of itself.
func (b *Backend) identify(ctx context.Context, m *member, d *token.Description) (string, error) {
	if !b.keyed {
		sum := sha256.New()
		for _, s := range []string{identityDomain, d.Serial, d.Label, d.Manufacturer, d.Model} {
			sum.Write(appendField(nil, s))
		}
		return "hsm-" + hex.EncodeToString(sum.Sum(nil)[:16]), nil
	}
	tag, err := m.token.Use(ctx, token.Call{Op: token.MAC, ID: bindingKey().ID, Algorithm: backend.HMACSHA256, Input: appendField(nil, identityDomain)})
	if err != nil {
		return "", err
	}
	if len(tag) != tagSize {
		return "", fault.New(fault.BackendUnavailable, "the token gave a tag of the wrong size")
	}
	return "hsm-" + hex.EncodeToString(tag[:16]), nil
}

// errReplaced is of a token that is not the one that its member had.
var errReplaced = fault.New(fault.BackendUnavailable, "another token, or one that was initialised anew, has taken the place of the one that was opened: the service's keys are not on it").RetryAfter(time.Second)

// recognise looks whether a member whose token was opened anew still has the same one: a label is quickly given to another. One that has not is
// asked nothing more until it has.
func (b *Backend) recognise(ctx context.Context, m *member) error {
	d := m.token.Describe()
	identity, err := b.identify(ctx, m, &d)
	if fault.Has(err, fault.KeyMaterial) || err == nil && identity != m.identity {
		m.replaced.Store(true)
		return errReplaced
	}
	if err == nil {
		m.recognised.Store(d.Generation)
		m.replaced.Store(false)
	}
	return err
}

// own reports an error when a member's token is another than its own. What makes something does not wait for the watcher to find that out: it would be lost there.
func (b *Backend) own(ctx context.Context, m *member, kind operation) error {
	if m.replaced.Load() {
		return errReplaced
	}
	if kind == opMake && m.verified.Load() && m.token.Describe().Generation != m.recognised.Load() {
		return b.recognise(ctx, m)
	}
	return nil
}

// ensure makes a service key where there is none. Where there are keys of records already the binding key was there once: a new one would make
// all of them unreadable, so that its loss is told instead.
func (b *Backend) ensure(ctx context.Context, m *member, k ServiceKey, create bool) error {
	o, err := m.token.Find(ctx, k.ID)
	if fault.Has(err, fault.KeyMaterial) && create {
		if err := b.virgin(ctx, m, k); err != nil {
			return err
		}
		o, err = b.elect(ctx, m, k)
	}
	if err != nil {
		return err
	}
	if o.Algorithm != k.Algorithm || !o.Sensitive || o.Extractable {
		return fault.New(fault.KeyMaterial, "a key of the service on the token is of another kind, or can be extracted")
	}
	return nil
}

// virgin reports an error unless the key may be made.
func (b *Backend) virgin(ctx context.Context, m *member, k ServiceKey) error {
	if k.Name != bindingKey().Name {
		return nil
	}
	all, err := m.token.List(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(o token.Object) bool { return !isService(o.ID) }) {
		return fault.New(fault.KeyMaterial, "the token has keys but not the service's binding key, without which their records cannot be checked: restore it")
	}
	return nil
}
