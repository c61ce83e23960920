package api

import (
	"context"
	"encoding/pem"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

func (s *Server) attestKey(ctx context.Context, c *call, r *wire.Attest) (wire.Attestation, error) {
	name, err := c.param("key")
	if err != nil {
		return wire.Attestation{}, err
	}
	if r.Nonce == nil {
		return wire.Attestation{}, fault.New(fault.MissingField, "the field nonce is missing")
	}
	a, err := s.keys.Attest(ctx, c.caller(), keys.AttestRequest{Key: name, Version: r.Version, Nonce: r.Nonce})
	if err != nil {
		return wire.Attestation{}, err
	}
	d := a.Document
	return wire.Attestation{Format: d.Format, Claims: wireClaims(a.Claims), Evidence: wire.Evidence{Format: d.Format, Statement: d.Statement, Kind: d.Kind,
		Evidence: d.Evidence, Signature: wire.EvidenceSignature(d.Signature)}}, nil
}

func wireClaims(c *attest.Claims) wire.Claims {
	d := &c.Device
	w := wire.Claims{Assurance: string(c.Assurance), Tenant: c.Tenant, KeyID: c.KeyID, KeyVersion: c.KeyVersion, Algorithm: c.Algorithm, Purpose: c.Purpose, PublicKey: c.PublicKey,
		Custody: c.Custody, Origin: c.Origin, State: c.State, GeneratedOnDevice: c.GeneratedOnDevice, Exportable: c.Exportable,
		Policy: wire.ClaimedPolicy(c.Policy), Signer: c.Signer, Nonce: c.Nonce, Time: c.Time,
		Device: wire.AttestedDevice{Kind: d.Kind, Identity: d.Identity, Manufacturer: d.Manufacturer, Model: d.Model, Serial: d.Serial, Firmware: d.Firmware,
			Placement: d.Placement, Attributes: (*wire.TokenAttributes)(d.Attributes), DeviceIdentity: string(d.DeviceIdentity),
			AttestationKeyName: d.AttestationKeyName, EndorsementKey: d.EndorsementKey, EndorsementCertificate: d.EKCertificate,
			ObjectNames: d.ObjectNames, ResetCount: d.ResetCount, RestartCount: d.RestartCount}}
	for _, p := range c.PCRs {
		w.PCRs = append(w.PCRs, wire.PCR(p))
	}
	return w
}

func (s *Server) attestationKey(ctx context.Context, c *call, _ *wire.Empty) (wire.AttestationKey, error) {
	der, err := s.keys.AttestationKey(ctx, c.caller())
	if err != nil {
		return wire.AttestationKey{}, err
	}
	return wire.AttestationKey{Algorithm: string(backend.Ed25519), PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}, nil
}
