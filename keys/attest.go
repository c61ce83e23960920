package keys

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

// attestationSigner names the internal key that signs statements: the service's word has a key of its own, apart from that of the audit
// log's checkpoints, so that neither can be taken for the other.
const attestationSigner = "attestation"

// discardTimeout bounds the erasing of a key whose evidence did not satisfy its policy.
const discardTimeout = 5 * time.Second

// AttestRequest asks where a version of a key lives (0: the primary one). Nonce is 16 to 64 bytes of the verifier's.
type AttestRequest struct {
	Key     string
	Version uint32
	Nonce   []byte
}

// Attestation is the evidence of a key version, and what it says: verified before it is given out, though whoever relies on it verifies it again.
type Attestation struct {
	Document *attest.Document
	Claims   *attest.Claims
}

// Attest gives evidence of where a key version lives: a TPM's signatures, a token's attributes, or the service's plain statement of
// sealed or software custody. Versions that still process (active, deactivated, compromised) have it. It does not count as a use.
func (s *Service) Attest(ctx context.Context, c Caller, r AttestRequest) (*Attestation, error) {
	return pipeline(ctx, s, c, verbAttest, func(ctx context.Context, q *request) (*Attestation, error) {
		if attest.CheckNonce(r.Nonce) != nil {
			return nil, fault.New(fault.BadSize, "a nonce has 16 to 64 bytes")
		}
		rec, err := q.find(ctx, r.Key)
		if err != nil {
			return nil, err
		}
		q.entry.Key = rec.key.ID
		b := &batch{s: s, verb: verbAttest, op: backend.OpAttest, record: rec, target: Target{Key: r.Key, Version: r.Version}}
		defer b.close()
		u, err := b.use(ctx, r.Version, backend.OpAttest)
		if err != nil {
			return nil, b.refreshed(ctx, err)
		}
		q.entry.KeyVersion = u.version.Version.Version
		start := s.now()
		a, err := s.attestUse(ctx, b, u, r.Nonce)
		failed := 0
		if err != nil {
			failed = 1
		}
		s.metrics.observe(rec, verbAttest, s.now().Sub(start), 1, failed, fault.CodeOf(err))
		return a, err
	}, nil)
}

// AttestationKey gives the public key of the service's statements, SPKI DER of Ed25519. It is for verifiers to keep.
func (s *Service) AttestationKey(ctx context.Context, c Caller) ([]byte, error) {
	return pipeline(ctx, s, c, verbAttestationKey, func(ctx context.Context, _ *request) ([]byte, error) {
		signer, err := s.InternalSigner(ctx, attestationSigner)
		if err != nil {
			return nil, err
		}
		return spkiOf(signer.Public())
	}, nil)
}

func spkiOf(pub ed25519.PublicKey) ([]byte, error) {
	der, err := keyenc.MarshalSPKI(pub)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "internal fault", err)
	}
	return der, nil
}

func (s *Service) attestUse(ctx context.Context, b *batch, u *use, nonce []byte) (*Attestation, error) {
	key, err := u.load(ctx, b)
	if err != nil {
		return nil, err
	}
	return s.attestHandle(ctx, key, b.record.key, u.version.Version, b.record.key.stateAt(u.version.State, s.now()), u.version.backend.Info(), nonce)
}

// attestHandle makes the document of a loaded version and verifies it as its reader will.
func (s *Service) attestHandle(ctx context.Context, key backend.Key, k *Key, v *Version, state State, info backend.Info, nonce []byte) (*Attestation, error) {
	signer, err := s.InternalSigner(ctx, attestationSigner)
	if err != nil {
		return nil, err
	}
	public, err := spkiOf(signer.Public())
	if err != nil {
		return nil, err
	}
	if state == StateCreating {
		state = StatePreActive
	}
	st := attest.Statement{Tenant: k.Tenant.String(), KeyID: k.ID.String(), KeyVersion: v.Version, Algorithm: string(k.Algorithm), Purpose: string(k.Purpose), PublicKey: v.Public,
		Custody: string(v.Custody), Origin: statedOrigin(v.Origin), Exportable: v.Exportable, State: string(state), Policy: statedPolicy(k.Policy),
		Backend: attest.Backend{Kind: info.Kind, ID: info.ID}, Nonce: nonce, Time: s.now().UTC().Truncate(time.Second)}
	statement, err := attest.Encode(st)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "internal fault", err)
	}
	d := &attest.Document{Format: attest.Format, Statement: statement, Kind: attest.KindNone, Signature: attest.Signature{PublicKey: public}}
	if a, ok := key.(backend.Attester); ok {
		binding := attest.Binding(statement)
		e, err := a.Attest(ctx, binding[:])
		if err != nil {
			return nil, asFault(err)
		}
		d.Kind, d.Evidence = e.Kind, e.Document
	}
	if d.Signature.Value, err = signer.Sign(ctx, d.SignedBytes()); err != nil {
		return nil, err
	}
	claims, err := attest.Verify(d, attest.Options{Nonce: nonce, Signer: public, PublicKey: v.Public})
	if err != nil {
		return nil, fault.Wrap(fault.Attestation, "the evidence that the backend gives of this key does not verify", err)
	}
	return &Attestation{Document: d, Claims: claims}, nil
}

// statedOrigin is what a statement says of where material came from: generated, or brought, however it came in.
func statedOrigin(o Origin) string {
	if o == OriginImportedInside {
		return string(OriginImported)
	}
	return string(o)
}

func statedPolicy(p Policy) attest.Policy {
	out := attest.Policy{RequireAttestation: p.RequireAttestation, RequiredContext: p.RequiredContext, UsageLimit: p.UsageLimit}
	for _, op := range p.Operations {
		out.Operations = append(out.Operations, string(op))
	}
	return out
}

// attestable refuses early what could not satisfy a policy that demands attestation: before a device makes anything.
func attestable(p Policy, c backend.Capability) error {
	if p.RequireAttestation && (c.Custody != backend.CustodyDevice || !slices.Contains(c.Operations, backend.OpAttest)) {
		return fault.New(fault.Attestation, "the policy demands attestation, and the backend gives no evidence of keys of this algorithm")
	}
	return nil
}

// attested is a maker whose key has proven where it is before anybody gets it: made on the device, not exportable, by evidence over a nonce
// that the service draws. A key that does not prove it is erased again.
func (s *Service) attested(k *Key, v *Version, make maker) maker {
	if !k.Policy.RequireAttestation {
		return make
	}
	return func(ctx context.Context, b backend.Backend, spec backend.Spec) (backend.Ref, error) {
		ref, err := make(ctx, b, spec)
		if err != nil {
			return ref, err
		}
		if err := s.prove(ctx, b, k, v, ref); err != nil {
			s.discard(ctx, b, ref)
			return backend.Ref{}, err
		}
		return ref, nil
	}
}

func (s *Service) prove(ctx context.Context, b backend.Backend, k *Key, v *Version, ref backend.Ref) (err error) {
	key, err := b.Load(ctx, ref)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	if _, ok := key.(backend.Attester); !ok {
		return fault.New(fault.Attestation, "the policy demands attestation, and the backend gives no evidence of this key")
	}
	nonce := make([]byte, 32)
	rand.Read(nonce) // never fails (crypto/rand, since Go 1.24)
	made := *v
	made.take(k, ref)
	a, err := s.attestHandle(ctx, key, k, &made, StatePreActive, b.Info(), nonce)
	if err != nil {
		return err
	}
	if !a.Claims.GeneratedOnDevice || a.Claims.Exportable {
		return fault.New(fault.Attestation, "the policy demands attestation, and the evidence does not say that the key was made on the device and stays there")
	}
	return nil
}

func (s *Service) discard(ctx context.Context, b backend.Backend, ref backend.Ref) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
	defer cancel()
	if err := b.Destroy(ctx, ref); err != nil {
		s.log.Warn("a key that did not prove where it is could not be erased", "key", ref.Spec.KeyID, "version", ref.Spec.Version, "error", err)
	}
}
