package keys

import (
	"context"
	"crypto"
	"crypto/ed25519"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/pqc"
)

// InternalSigner is a signing key of the service itself, such as that of audit checkpoints. It is safe for concurrent use.
type InternalSigner struct {
	s      *Service
	id     uuid.UUID
	public crypto.PublicKey
	here   bool
}

// Here reports whether this node has the backend of the key, and so can sign.
func (k *InternalSigner) Here() bool { return k.here }

// InternalSigner gives the service's own Ed25519 key of the name, made on first use in the first backend that can: the order of the
// backends says which is trusted most. Its creation is recorded; its signatures are not, since what it signs is the record.
func (s *Service) InternalSigner(ctx context.Context, name string) (*InternalSigner, error) {
	k, err := s.internalSigner(ctx, name, backend.Ed25519)
	if err != nil {
		return nil, err
	}
	if _, ok := k.public.(ed25519.PublicKey); !ok {
		return nil, fault.New(fault.StoreCorrupted, "the stored public key is not one of its algorithm")
	}
	return k, nil
}

// InternalPostQuantumSigner is InternalSigner for an ML-DSA-44 key, which signs as FIPS 204 says with an empty context.
func (s *Service) InternalPostQuantumSigner(ctx context.Context, name string) (*InternalSigner, error) {
	k, err := s.internalSigner(ctx, name, backend.MLDSA44)
	if err != nil {
		return nil, err
	}
	if _, ok := k.public.(*pqc.PublicKey); !ok {
		return nil, fault.New(fault.StoreCorrupted, "the stored public key is not one of its algorithm")
	}
	return k, nil
}

func (s *Service) internalSigner(ctx context.Context, name string, alg backend.Algorithm) (*InternalSigner, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	if !wellFormed(name, "._/-", MaxLabelKey) {
		return nil, fault.New(fault.BadName, "the name of an internal key is malformed")
	}
	var home backend.Backend
	for _, b := range s.backends {
		info := b.Info()
		// One of which nothing is known yet may be able to: what is trusted less does not get the key in its place.
		if _, ok := info.Can(alg); ok || len(info.Capabilities) == 0 {
			home = b
			break
		}
	}
	if home == nil {
		return nil, unsupported()
	}
	r, err := s.internal(ctx, uuid.Nil, internalPrefix+"sign/"+name, alg, backend.PurposeSigning, home, "")
	if err != nil {
		return nil, err
	}
	v, err := s.version(ctx, r, 0)
	if err != nil {
		return nil, err
	}
	return &InternalSigner{s: s, id: r.key.ID, public: v.public, here: v.backend != nil}, nil
}

// Public is the public key of an Ed25519 key, nil of another. It does not change while the key is not rotated.
func (k *InternalSigner) Public() ed25519.PublicKey {
	public, _ := k.public.(ed25519.PublicKey)
	return public
}

// PublicBytes is the public key in its standard's encoding (RFC 8032 section 5.1.5, FIPS 204 algorithm 22).
func (k *InternalSigner) PublicBytes() []byte {
	if public, ok := k.public.(*pqc.PublicKey); ok {
		return public.Bytes()
	}
	return k.Public()
}

// Sign signs the message itself (RFC 8032 section 5.1.6, FIPS 204 section 5.2).
func (k *InternalSigner) Sign(ctx context.Context, message []byte) (sig []byte, err error) {
	if err := k.s.enter(); err != nil {
		return nil, err
	}
	defer k.s.leave()
	r, err := k.s.recordByID(ctx, uuid.Nil, k.id)
	if err != nil {
		return nil, err
	}
	b := &batch{s: k.s, op: backend.OpSign, record: r}
	defer b.close()
	u, err := b.use(ctx, 0, backend.OpSign)
	if err != nil {
		return nil, err
	}
	key, err := u.load(ctx, b)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(backend.Signer)
	if !ok {
		return nil, unsupported()
	}
	sig, err = signer.Sign(ctx, message, backend.SignOpts{})
	return sig, asFault(err)
}
