package pqc

import (
	"bytes"
	"crypto/rand"

	"github.com/cloudflare/circl/sign/slhdsa"
	"github.com/cloudflare/circl/xof"

	"github.com/keywright/keywright/fault"
)

// slhSet is one parameter set of SLH-DSA, by circl. Its seed is SK.seed ‖ SK.prf ‖ PK.seed, n bytes each (FIPS 205 section 9.1).
type slhSet struct {
	anySeed
	id slhdsa.ID
	n  int
}

func (s *slhSet) private(seed, public []byte) (privateImpl, []byte, error) {
	if public != nil {
		// PK.root is the costly part and comes from the caller's record. PK.seed is compared by who called.
		raw := make([]byte, 0, 4*s.n)
		raw = append(append(raw, seed...), public[s.n:]...)
		defer clear(raw)
		k := &slhPrivate{key: slhdsa.PrivateKey{ID: s.id}}
		if err := k.key.UnmarshalBinary(raw); err != nil { // copies
			return nil, nil, err
		}
		return k, bytes.Clone(raw[2*s.n:]), nil
	}
	// GenerateKey reads the three values in this order and nothing else (FIPS 205 algorithm 21).
	pub, priv, err := slhdsa.GenerateKey(bytes.NewReader(seed), s.id)
	if err != nil {
		return nil, nil, err
	}
	raw, err := pub.MarshalBinary()
	if err != nil {
		return nil, nil, err
	}
	return &slhPrivate{priv}, raw, nil
}

func (s *slhSet) public(raw []byte) (publicImpl, error) {
	k := slhdsa.PublicKey{ID: s.id}
	if err := k.UnmarshalBinary(raw); err != nil {
		return nil, err
	}
	return &slhPublic{k}, nil
}

type slhPrivate struct{ key slhdsa.PrivateKey }

func (p *slhPrivate) sign(message []byte, o *SignOptions) ([]byte, error) {
	m, err := slhMessage(message, o)
	if err != nil {
		return nil, err
	}
	var sig []byte
	if o.Deterministic {
		sig, err = slhdsa.SignDeterministic(&p.key, m, o.Context)
	} else {
		sig, err = slhdsa.SignRandomized(&p.key, rand.Reader, m, o.Context)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the signature could not be computed", err)
	}
	return sig, nil
}

// wipe lets go of the key. Its bytes lie behind fields that circl does not give out.
func (p *slhPrivate) wipe() { p.key = slhdsa.PrivateKey{} }

type slhPublic struct{ key slhdsa.PublicKey }

func (p *slhPublic) verify(message, signature []byte, o *SignOptions) (bool, error) {
	m, err := slhMessage(message, o)
	if err != nil {
		return false, err
	}
	return slhdsa.Verify(&p.key, m, signature, o.Context), nil
}

// slhMessage is the message as circl takes it. It hashes messages by itself and takes no digest from outside.
func slhMessage(message []byte, o *SignOptions) (*slhdsa.Message, error) {
	if err := o.noMu(); err != nil {
		return nil, err
	}
	if o.PreHash == "" {
		return slhdsa.NewMessage(message), nil
	}
	var ph *slhdsa.PreHash
	var err error
	switch o.PreHash {
	case SHAKE128:
		ph, err = slhdsa.NewPreHashWithXof(xof.SHAKE128)
	case SHAKE256:
		ph, err = slhdsa.NewPreHashWithXof(xof.SHAKE256)
	default:
		ph, err = slhdsa.NewPreHashWithHash(preHashes[o.PreHash].hash)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the pre-hash function is not there", err)
	}
	if _, err := ph.Write(message); err != nil {
		return nil, fault.Wrap(fault.Internal, "the message could not be hashed", err)
	}
	m, err := ph.BuildMessage()
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the message could not be hashed", err)
	}
	return m, nil
}

func slh(name string, id slhdsa.ID, category int) *Algorithm {
	s := id.Scheme()
	return newAlgorithm(Info{Name: name, Kind: KindSignature, Standard: "FIPS 205", Category: category, Slow: true,
		SeedSize: s.PublicKeySize() / 2 * 3, PublicKeySize: s.PublicKeySize(), SignatureSize: s.SignatureSize()},
		&slhSet{id: id, n: s.PublicKeySize() / 2}, testSLHDSA)
}

func slhdsas() []*Algorithm {
	return []*Algorithm{
		slh(SLHDSASHA2128s, slhdsa.SHA2_128s, 1), slh(SLHDSASHA2128f, slhdsa.SHA2_128f, 1),
		slh(SLHDSASHA2192s, slhdsa.SHA2_192s, 3), slh(SLHDSASHA2192f, slhdsa.SHA2_192f, 3),
		slh(SLHDSASHA2256s, slhdsa.SHA2_256s, 5), slh(SLHDSASHA2256f, slhdsa.SHA2_256f, 5),
		slh(SLHDSASHAKE128s, slhdsa.SHAKE_128s, 1), slh(SLHDSASHAKE128f, slhdsa.SHAKE_128f, 1),
		slh(SLHDSASHAKE192s, slhdsa.SHAKE_192s, 3), slh(SLHDSASHAKE192f, slhdsa.SHAKE_192f, 3),
		slh(SLHDSASHAKE256s, slhdsa.SHAKE_256s, 5), slh(SLHDSASHAKE256f, slhdsa.SHAKE_256f, 5),
	}
}
