package keys

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/hkdf"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

const (
	minDerived  = 16
	maxDerived  = 1024
	derivedSize = 32
)

// Derive agrees on a secret with each peer (SP 800-56A section 5.7.1.2, RFC 7748 section 6) and gives HKDF (RFC 5869) of it. The shared
// secret itself is wiped and never given out. Whoever gets the derived key wipes it after use.
func (s *Service) Derive(ctx context.Context, c Caller, t Target, items []DeriveItem, single bool) ([]BytesResult, error) {
	return operate(ctx, s, c, verbDerive, t, items, single, kind[DeriveItem, BytesResult]{
		context: func(i *DeriveItem) map[string]string { return i.Context },
		do: func(ctx context.Context, b *batch, in *DeriveItem, out *BytesResult) (Used, error) {
			h, length := in.Hash, in.Length
			if h == 0 {
				h = crypto.SHA256
			}
			if length == 0 {
				length = derivedSize
			}
			if !keyenc.SignatureHash(h) {
				return Used{}, fault.New(fault.BadField, "the hash of HKDF is SHA-256, SHA-384 or SHA-512")
			}
			if length < minDerived || length > maxDerived || len(in.Salt) > MaxAAD || len(in.Info) > MaxAAD {
				return Used{}, fault.New(fault.BadSize, "a derived key is 16 to 1024 bytes, salt and info at most 64 KiB")
			}
			peer, err := peerKey(&b.record.info, in.Peer)
			if err != nil {
				return Used{}, err
			}
			u, err := b.use(ctx, 0, backend.OpDerive)
			if err != nil {
				return Used{}, err
			}
			key, err := u.load(ctx, b)
			if err != nil {
				return Used{}, err
			}
			agreer, ok := key.(backend.Agreer)
			if !ok {
				return Used{}, unsupported()
			}
			shared, err := agreer.Agree(ctx, peer)
			if err != nil {
				return Used{}, err
			}
			defer shared.Wipe()
			out.Bytes, err = hkdf.Key(h.New, shared, in.Salt, string(in.Info), length)
			if err != nil {
				return Used{}, fault.Wrap(fault.Internal, "internal fault", err)
			}
			return u.used(b), nil
		},
	})
}

// peerKey gives the SPKI of a peer's key that is SPKI already or the raw public value. The raw values of a curve have one size, which
// no SPKI of it has.
func peerKey(info *backend.AlgorithmInfo, peer []byte) ([]byte, error) {
	bad := fault.New(fault.BadField, "the peer's public key is malformed or not of this curve")
	var curve ecdh.Curve
	var size int
	switch info.Name {
	case backend.ECDHP256:
		curve, size = ecdh.P256(), 65
	case backend.ECDHP384:
		curve, size = ecdh.P384(), 97
	case backend.ECDHP521:
		curve, size = ecdh.P521(), 133
	case backend.X25519:
		curve, size = ecdh.X25519(), 32
	case backend.X448:
		size = len(keyenc.X448PublicKey{})
	default:
		return nil, fault.New(fault.OperationNotAllowed, "the key does not have this operation")
	}
	if len(peer) != size {
		if _, err := keyenc.ParseSPKI(peer); err != nil {
			return nil, bad
		}
		return peer, nil
	}
	var pub crypto.PublicKey
	if curve == nil {
		var k keyenc.X448PublicKey
		copy(k[:], peer)
		pub = k
	} else {
		k, err := curve.NewPublicKey(peer)
		if err != nil {
			return nil, bad
		}
		pub = k
	}
	der, err := keyenc.MarshalSPKI(pub)
	if err != nil {
		return nil, bad
	}
	return der, nil
}
