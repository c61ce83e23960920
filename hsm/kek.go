package hsm

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

var _ backend.KEKRotator = (*Backend)(nil)

// Generations of the sealing key are keys of their own on the token: the last four bytes of their CKA_ID are the generation, from 1. Those that
// are there have no gaps: the lowest goes first.

// replicated is how long a group's members have to show a key that was made on one of them.
const replicated = 15 * time.Second

// at gives the service key of a generation.
func (k ServiceKey) at(generation uint32) ServiceKey {
	binary.BigEndian.PutUint32(k.ID[16:], generation)
	return k
}

// generationOf gives the generation of a CKA_ID if it is one of the service key's.
func (k ServiceKey) generationOf(id token.ID) (uint32, bool) {
	return binary.BigEndian.Uint32(id[16:]), [16]byte(id[:]) == [16]byte(k.ID[:])
}

// there lists the generations of a service key on a member, upward.
func (b *Backend) there(ctx context.Context, m *member, k ServiceKey) (out []uint32, err error) {
	all, err := m.token.List(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if g, ok := k.generationOf(all[i].ID); ok && g > 0 {
			out = append(out, g)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// equipSealing finds the newest sealing key on a member, and makes the first where there is none and it may.
func (b *Backend) equipSealing(ctx context.Context, m *member, k ServiceKey, create bool) error {
	_, err := m.token.Find(ctx, k.ID)
	newest := uint32(1)
	if fault.Has(err, fault.KeyMaterial) {
		// The first may have been given up.
		there, err := b.there(ctx, m, k)
		if err != nil {
			return err
		}
		if len(there) > 0 {
			newest = there[len(there)-1]
		}
	}
	if err := b.ensure(ctx, m, k.at(newest), create && newest == 1); err != nil {
		return err
	}
	m.sealing.Store(newest)
	return b.refresh(ctx, m)
}

// refresh looks whether a member has newer sealing keys: another process, or the vendor's replication, may have brought them.
func (b *Backend) refresh(ctx context.Context, m *member) error {
	k, ok := b.sealingKey()
	for known := m.sealing.Load(); ok && known > 0; known++ {
		err := b.ensure(ctx, m, k.at(known+1), false)
		if fault.Has(err, fault.KeyMaterial) {
			return nil
		}
		if err != nil {
			return err
		}
		m.sealing.Store(known + 1)
		b.log.Info("a newer sealing key is on the token", "member", m.name, "generation", known+1)
	}
	return nil
}

// newestSealing is the generation that new texts get: one that all members have. Of pinned ones each has its own.
func (b *Backend) newestSealing(m *member) uint32 {
	if b.pinned {
		return m.sealing.Load()
	}
	newest := uint32(0)
	for _, other := range b.members {
		if g := other.sealing.Load(); g > 0 && (newest == 0 || g < newest) {
			newest = g
		}
	}
	return newest
}

// sealedUnder leaves out the members that have not the sealing key of a generation, as far as is known; those are asked first.
func (b *Backend) sealedUnder(ctx context.Context, members []*member, generation uint32) []*member {
	out := make([]*member, 0, len(members))
	for _, m := range members {
		if m.sealing.Load() < generation && m.joined.Load() {
			if err := b.refresh(ctx, m); err != nil {
				b.log.Warn("whether a token has a newer sealing key cannot be seen", "member", m.name, "error", err)
			}
		}
		if m.sealing.Load() >= generation {
			out = append(out, m)
		}
	}
	return out
}

// Stale implements backend.Resealer, for sealed custody: what is on a token, or wrapped by it, is under no key that is replaced here.
func (b *Backend) Stale(r backend.Ref) bool {
	text, ok := sealedText(&r)
	if !ok || !b.ready.Load() {
		return false
	}
	p, ok := parseSealedText(text)
	if !ok {
		return false
	}
	members, err := b.homed(p.name)
	if err != nil || len(members) == 0 {
		return false
	}
	newest := b.newestSealing(members[0])
	return newest > 0 && p.generation < newest
}

// sealedText gives what the sealer made, of a Ref in sealed custody.
func sealedText(r *backend.Ref) ([]byte, bool) {
	p, ok := parseBlob(r.Blob)
	if !ok || p.place != placeSealed || len(p.sealed) < 2 || p.sealed[0] != engineBlobVersion {
		return nil, false
	}
	return p.sealed[1:], true
}

// engineBlobVersion is the first byte of the engine's blobs.
const engineBlobVersion = 1

// Reseal implements backend.Resealer. A Ref that is not in sealed custody is given back as it is, once it has loaded.
func (b *Backend) Reseal(ctx context.Context, r backend.Ref) (backend.Ref, error) {
	if _, ok := sealedText(&r); !ok {
		k, err := b.Load(ctx, r)
		if err != nil {
			return backend.Ref{}, err
		}
		return r, k.Close()
	}
	if err := b.enter(ctx); err != nil {
		return backend.Ref{}, err
	}
	defer b.gate.Leave()
	if b.engine == nil {
		return backend.Ref{}, errUnreadable
	}
	own := r
	own.Blob = r.Blob[2:]
	return sealedRef(b.engine.Reseal(ctx, own))
}

// Generation implements backend.KEKRotator.
func (b *Backend) Generation(r backend.Ref) uint32 {
	text, ok := sealedText(&r)
	if !ok {
		return 0
	}
	return b.SealedGeneration(text)
}

// SealedGeneration gives the generation of the sealing key that a text of Seal is under, 0 when it is none.
func (b *Backend) SealedGeneration(sealed []byte) uint32 {
	p, ok := parseSealedText(sealed)
	if !ok {
		return 0
	}
	return p.generation
}

// all gives the members, when every one of them is there.
func (b *Backend) all() ([]*member, error) {
	for _, m := range b.members {
		if !m.joined.Load() || !m.verified.Load() || m.sealing.Load() == 0 {
			return nil, errNotThere
		}
	}
	return b.members, nil
}

// RotateKEK makes the sealing key of the next generation: on the first member, and where they are pinned on each. Members of a group must show it
// within 15 seconds, by the vendor's replication; else it is destroyed again, unused, and the error is fault.Conflict. All members must be there. The keys that wrap in
// wrapped placement, and the binding key, are not replaced.
func (b *Backend) RotateKEK(ctx context.Context) (uint32, error) {
	if err := b.enter(ctx); err != nil {
		return 0, err
	}
	defer b.gate.Leave()
	k, ok := b.sealingKey()
	if !ok {
		return 0, errNoSealer
	}
	b.rotating.Lock()
	defer b.rotating.Unlock()
	members, err := b.all()
	if err != nil {
		return 0, err
	}
	next := uint32(0)
	for _, m := range members {
		if err := b.refresh(ctx, m); err != nil {
			return 0, err
		}
		next = max(next, m.sealing.Load()+1)
	}
	for _, m := range members {
		if m.sealing.Load()+1 != next {
			return 0, fault.New(fault.Conflict, "the members of the group do not have the same sealing keys yet: replicate them first")
		}
	}
	for i, m := range members {
		if i > 0 && !b.pinned {
			break
		}
		if _, err := b.elect(ctx, m, k.at(next)); err != nil {
			return 0, err
		}
	}
	if err := b.appears(ctx, members, k.at(next)); err != nil {
		free, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
		defer cancel()
		if gone := members[0].token.Destroy(free, k.at(next).ID); gone != nil {
			b.log.Error("a sealing key that nobody uses stays on the token", "member", members[0].name, "generation", next, "error", gone)
		}
		return 0, err
	}
	for _, m := range members {
		m.sealing.Store(next)
	}
	return next, nil
}

// appears waits until all members have a key.
func (b *Backend) appears(ctx context.Context, members []*member, k ServiceKey) error {
	until := time.Now().Add(replicated)
	for _, m := range members {
		for {
			err := b.ensure(ctx, m, k, false)
			if err == nil {
				break
			}
			if !fault.Has(err, fault.KeyMaterial) {
				return err
			}
			if time.Now().After(until) {
				return fault.Wrap(fault.Conflict, "the members of the group do not replicate a new key by themselves: make the sealing key of the next generation on all of them by the vendor's tools", err)
			}
			if err := hesitate(ctx, 200*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// RetireKEK destroys the sealing key of a generation on all members, the lowest before the others.
func (b *Backend) RetireKEK(ctx context.Context, generation uint32) error {
	if err := b.enter(ctx); err != nil {
		return err
	}
	defer b.gate.Leave()
	k, ok := b.sealingKey()
	if !ok {
		return errNoSealer
	}
	b.rotating.Lock()
	defer b.rotating.Unlock()
	members, err := b.all()
	if err != nil {
		return err
	}
	for _, m := range members {
		if generation == 0 || generation >= b.newestSealing(m) {
			return fault.New(fault.Conflict, "new keys are sealed under this generation, or it was never made")
		}
		there, err := b.there(ctx, m, k)
		if err != nil {
			return err
		}
		if len(there) > 0 && there[0] < generation {
			return fault.New(fault.Conflict, "there is an earlier generation: retire that first")
		}
	}
	for _, m := range members {
		if err := m.token.Destroy(ctx, k.at(generation).ID); err != nil {
			return err
		}
	}
	return nil
}

// KEKs implements backend.KEKRotator.
func (b *Backend) KEKs(ctx context.Context) ([]backend.KEK, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.gate.Leave()
	k, ok := b.sealingKey()
	if !ok {
		return nil, nil
	}
	members := b.order()
	if len(members) == 0 || !members[0].joined.Load() {
		return nil, errNotThere
	}
	m := members[0]
	there, err := b.there(ctx, m, k)
	if err != nil {
		return nil, err
	}
	var out []backend.KEK
	for _, g := range there {
		out = append(out, backend.KEK{Name: k.Name, Generation: g, Newest: g == b.newestSealing(m)})
	}
	return out, nil
}

// sealedParts is a parsed sealed text. Its slices belong to the bytes that it was made of.
type sealedParts struct {
	form       sealForm
	generation uint32
	name       string
	header     []byte
	body       []byte
}

// sealHeader makes the header of a sealed text. The first generation is not said: version 1.
func sealHeader(form sealForm, generation uint32, name string) []byte {
	if generation == 1 {
		return append([]byte{sealVersion, byte(form), byte(len(name))}, name...)
	}
	h := binary.BigEndian.AppendUint32([]byte{sealVersionGeneration, byte(form)}, generation)
	return append(append(h, byte(len(name))), name...)
}

// parseSealedText takes a sealed text apart. Nothing in it is to be believed before it has opened.
func parseSealedText(b []byte) (p sealedParts, ok bool) {
	if len(b) < 3 || len(b) > 2*maxSealed {
		return p, false
	}
	p.form, p.generation = sealForm(b[1]), 1
	at := 2
	switch b[0] {
	case sealVersion:
	case sealVersionGeneration:
		if len(b) < 7 {
			return p, false
		}
		if p.generation = binary.BigEndian.Uint32(b[2:]); p.generation < 2 {
			return p, false
		}
		at = 6
	default:
		return p, false
	}
	end := at + 1 + int(b[at])
	if len(b) < end {
		return p, false
	}
	p.name, p.header, p.body = string(b[at+1:end]), b[:end], b[end:]
	return p, true
}
