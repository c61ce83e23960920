package sealed

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"io"

	"github.com/cloudflare/circl/dh/x448"
	"github.com/cloudflare/circl/sign/ed448"
	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
	"github.com/keywright/keywright/secret"
)

// Generate makes new material and seals it. Nothing of it stays in memory. When ctx ends while RSA primes are looked for,
// the answer is fault.Timeout at once and what is found later is wiped; more callers in want of RSA keys than can wait get
// fault.Overloaded.
func (e *Engine) Generate(ctx context.Context, s backend.Spec) (backend.Ref, error) {
	if err := e.enter(ctx); err != nil {
		return backend.Ref{}, err
	}
	defer e.gate.Leave()
	s, info, err := e.resolve(s)
	if err != nil {
		return backend.Ref{}, err
	}
	if err := checkNew(&s); err != nil {
		return backend.Ref{}, err
	}
	if info.Symmetric() {
		raw, err := e.draw(info.KeySize)
		defer raw.Wipe()
		if err != nil {
			return backend.Ref{}, err
		}
		return e.seal(ctx, s, info, raw, nil)
	}
	if pqFamily(info.Family) {
		return e.generatePQ(ctx, s, info)
	}
	priv, err := e.newPrivate(ctx, info)
	if err != nil {
		return backend.Ref{}, err
	}
	defer wipePrivate(priv)
	return e.sealPrivate(ctx, s, info, priv)
}

// sealPrivate encodes a private key and seals it.
func (e *Engine) sealPrivate(ctx context.Context, s backend.Spec, info backend.AlgorithmInfo, priv crypto.PrivateKey) (backend.Ref, error) {
	pub, err := keyenc.PublicOf(priv)
	if err != nil {
		return backend.Ref{}, fault.Wrap(fault.Internal, "encoding a private key", err)
	}
	der, err := keyenc.MarshalPKCS8(priv)
	if err != nil {
		return backend.Ref{}, fault.Wrap(fault.Internal, "encoding a private key", err)
	}
	defer clear(der)
	return e.seal(ctx, s, info, der, pub)
}

// checkNew refuses what can only be a mistake of the caller.
func checkNew(s *backend.Spec) error {
	if s.KeyID == uuid.Nil || s.Version == 0 {
		return fault.New(fault.BadField, "a key version needs a key id and a number from 1")
	}
	return nil
}

// draw reads n bytes from the engine's generator.
func (e *Engine) draw(n int) (secret.Bytes, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(e.rand, b); err != nil {
		clear(b)
		return nil, fault.Wrap(fault.BackendUnavailable, "the random generator failed", err)
	}
	return b, nil
}

func (e *Engine) newPrivate(ctx context.Context, info backend.AlgorithmInfo) (crypto.PrivateKey, error) {
	switch info.Family {
	case backend.FamilyRSA:
		return e.rsa.generate(ctx, info.KeyBits)
	case backend.FamilyECDSA:
		return e.newEC(curveOf(info))
	case backend.FamilyECDH:
		if c := curveOf(info); c != nil {
			k, err := e.newEC(c)
			if err != nil {
				return nil, err
			}
			defer wipePrivate(k)
			return k.ECDH()
		}
	}
	var size int
	switch info.Name {
	case backend.Ed25519:
		size = ed25519.SeedSize
	case backend.Ed448:
		size = ed448.SeedSize
	case backend.X25519:
		size = 32
	case backend.X448:
		size = x448.Size
	default:
		return nil, errUnsupported
	}
	seed, err := e.draw(size)
	if err != nil {
		return nil, err
	}
	defer seed.Wipe()
	switch info.Name {
	case backend.Ed25519:
		return ed25519.NewKeyFromSeed(seed), nil
	case backend.Ed448:
		return ed448.NewKeyFromSeed(seed), nil
	case backend.X25519:
		return ecdh.X25519().NewPrivateKey(seed)
	default:
		k := keyenc.X448PrivateKey(seed)
		return &k, nil
	}
}

// newEC draws a private scalar by rejection sampling (FIPS 186-5 section A.2.2). A candidate is out of range with a
// probability below 2^-32 on P-256 and far below on the others; a generator that fails a hundred times is broken.
func (e *Engine) newEC(c elliptic.Curve) (*ecdsa.PrivateKey, error) {
	bits := c.Params().BitSize
	for range 100 {
		d, err := e.draw((bits + 7) / 8)
		if err != nil {
			return nil, err
		}
		if extra := len(d)*8 - bits; extra > 0 {
			d[0] &= 0xff >> extra
		}
		k, err := ecdsa.ParseRawPrivateKey(c, d) // refuses zero and what is not below the order
		d.Wipe()
		if err == nil {
			return k, nil
		}
	}
	return nil, fault.New(fault.BackendUnavailable, "the random generator failed")
}

// wipePrivate overwrites what can be reached of a private key. The standard library keeps copies of RSA, ECDSA and ECDH
// keys where nobody else can reach them.
func wipePrivate(priv crypto.PrivateKey) {
	switch k := priv.(type) {
	case *rsa.PrivateKey:
		if k.D != nil {
			clear(k.D.Bits())
		}
		for _, p := range k.Primes {
			clear(p.Bits())
		}
		if k.Precomputed.Dp != nil {
			clear(k.Precomputed.Dp.Bits())
			clear(k.Precomputed.Dq.Bits())
			clear(k.Precomputed.Qinv.Bits())
		}
	case *ecdsa.PrivateKey:
		if d := k.D; d != nil { //nolint:staticcheck // read for nothing but to wipe it, when the key is not used any more
			clear(d.Bits())
		}
	case ed25519.PrivateKey:
		clear(k)
	case ed448.PrivateKey:
		clear(k)
	case *keyenc.X448PrivateKey:
		k.Wipe()
	case *pqc.PrivateKey:
		k.Wipe()
	}
}
