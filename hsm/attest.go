package hsm

import (
	"context"

	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// Attest gives the attributes of the key's object, read from the token now. A token signs nothing, so that binding is only looked at for its
// size. A wrapped key has no object: of it the placement and the token are told, and no attributes. A key with copies on several tokens is told of
// like one: it can be had out of what the store has, and what a token says of a copy is another thing for each.
func (h *handle) Attest(ctx context.Context, binding []byte) (backend.Evidence, error) {
	if err := h.begin(ctx); err != nil {
		return backend.Evidence{}, err
	}
	defer h.b.gate.Leave()
	if len(binding) != backend.AttestationBinding {
		return backend.Evidence{}, fault.New(fault.BadSize, "the binding of an attestation has 32 bytes")
	}
	var e attest.PKCS11
	var err error
	if len(h.e.wrapped) > 0 {
		e, err = h.wrappedEvidence()
	} else {
		e, err = h.residentEvidence(ctx)
	}
	if err != nil {
		return backend.Evidence{}, err
	}
	b, err := attest.Encode(e)
	if err != nil {
		return backend.Evidence{}, fault.Wrap(fault.Internal, "internal fault", err)
	}
	return backend.Evidence{Kind: attest.KindPKCS11, Document: b}, nil
}

func (h *handle) residentEvidence(ctx context.Context) (attest.PKCS11, error) {
	members, err := h.b.homed(h.e.name)
	if err != nil {
		return attest.PKCS11{}, err
	}
	e, err := each(ctx, h.b, members, opFind, func(ctx context.Context, m *member) (attest.PKCS11, error) {
		o, err := m.token.Find(ctx, h.e.id)
		if err != nil {
			return attest.PKCS11{}, err
		}
		if err := fits(o, h.e.id, h.e.info, h.e.public); err != nil {
			return attest.PKCS11{}, unreadable(err)
		}
		e := tokenEvidence(m.token.Describe())
		e.Placement = attest.PlacementResident
		e.Attributes = &attest.Attributes{Local: o.Local, Sensitive: o.Sensitive, AlwaysSensitive: o.AlwaysSensitive,
			Extractable: o.Extractable, NeverExtractable: o.NeverExtractable}
		return e, nil
	})
	if fault.Has(err, fault.KeyMaterial) {
		h.b.refs.drop(&h.e.spec)
		return e, unreadable(err)
	}
	return e, err
}

// wrappedEvidence is of the token that the key is used on next: all that may be asked have the same wrapping key.
func (h *handle) wrappedEvidence() (attest.PKCS11, error) {
	members, err := h.b.homed(h.e.name)
	if err != nil {
		return attest.PKCS11{}, err
	}
	if len(members) == 0 {
		return attest.PKCS11{}, errNobody
	}
	e := tokenEvidence(members[0].token.Describe())
	e.Placement = attest.PlacementWrapped
	return e, nil
}

func tokenEvidence(d token.Description) attest.PKCS11 {
	return attest.PKCS11{Manufacturer: d.Manufacturer, Model: d.Model, Serial: d.Serial, Firmware: d.Firmware, Label: d.Label, LeaksWrapped: d.LeaksWrapped}
}
