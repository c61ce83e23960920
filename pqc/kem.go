package pqc

import (
	"crypto/ecdh"

	"github.com/cloudflare/circl/hpke"
	"github.com/cloudflare/circl/kem"
	"github.com/cloudflare/circl/kem/mlkem/mlkem1024"
	"github.com/cloudflare/circl/kem/mlkem/mlkem512"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/kem/xwing"
)

// circlKEM is a KEM by circl's generic interface.
type circlKEM struct {
	kem.Scheme
	// expand makes the private key from the seed: DeriveKeyPair for ML-KEM and X-Wing, whose seed it is, and the encoded private key for
	// the KEMs of RFC 9180 (section 7.1.2).
	expand func(s kem.Scheme, seed []byte) (kem.PrivateKey, error)
	fix    func(seed []byte) bool
}

func (c circlKEM) fixSeed(seed []byte) bool { return c.fix(seed) }

func (c circlKEM) private(seed, _ []byte) (privateImpl, []byte, error) {
	k, err := c.expand(c.Scheme, seed)
	if err != nil {
		return nil, nil, err
	}
	raw, err := k.Public().MarshalBinary()
	if err != nil {
		return nil, nil, err
	}
	return &circlKEMPrivate{c.Scheme, k}, raw, nil
}

func (c circlKEM) public(raw []byte) (publicImpl, error) {
	k, err := c.UnmarshalBinaryPublicKey(raw)
	if err != nil {
		return nil, err
	}
	return circlKEMPublic{c.Scheme, k}, nil
}

type circlKEMPublic struct {
	scheme kem.Scheme
	key    kem.PublicKey
}

func (p circlKEMPublic) encapsulate(coins []byte) (ciphertext, shared []byte, err error) {
	if coins != nil {
		return p.scheme.EncapsulateDeterministically(p.key, coins)
	}
	return p.scheme.Encapsulate(p.key)
}

type circlKEMPrivate struct {
	scheme kem.Scheme
	key    kem.PrivateKey
}

func (p *circlKEMPrivate) decapsulate(ciphertext []byte) ([]byte, error) {
	return p.scheme.Decapsulate(p.key, ciphertext)
}

func (p *circlKEMPrivate) expanded() ([]byte, error) { return p.key.MarshalBinary() }

// wipe can overwrite X-Wing's own fields. What ML-KEM and the curves hold lies behind pointers that circl does not give out: it is left
// to the garbage collector, without anything that refers to it.
func (p *circlKEMPrivate) wipe() {
	if x, ok := p.key.(*xwing.PrivateKey); ok {
		*x = xwing.PrivateKey{}
	}
	p.key = nil
}

func derive(s kem.Scheme, seed []byte) (kem.PrivateKey, error) {
	_, k := s.DeriveKeyPair(seed)
	return k, nil
}

func decode(s kem.Scheme, seed []byte) (kem.PrivateKey, error) {
	return s.UnmarshalBinaryPrivateKey(seed)
}

func mlkem(name string, s kem.Scheme, category int) *Algorithm {
	return newAlgorithm(kemInfo(name, s, "FIPS 203", category), circlKEM{s, derive, anySeed{}.fixSeed}, testMLKEM)
}

func dhkem(name string, id hpke.KEM, fix func([]byte) bool) *Algorithm {
	s := id.Scheme()
	return newAlgorithm(kemInfo(name, s, "RFC 9180 section 4.1", 0), circlKEM{s, decode, fix}, testDHKEM)
}

func kemInfo(name string, s kem.Scheme, standard string, category int) Info {
	return Info{Name: name, Kind: KindKEM, Standard: standard, Category: category, SeedSize: s.SeedSize(),
		PublicKeySize: s.PublicKeySize(), CiphertextSize: s.CiphertextSize(), SharedKeySize: s.SharedKeySize()}
}

// scalarOf is for the P curves, whose private keys are the numbers from 1 to the order less 1, by rejection (FIPS 186-5 appendix A.2.2).
func scalarOf(c ecdh.Curve, topMask byte) func([]byte) bool {
	return func(seed []byte) bool {
		seed[0] &= topMask
		_, err := c.NewPrivateKey(seed)
		return err == nil
	}
}

func kems() []*Algorithm {
	x := xwing.Scheme()
	return []*Algorithm{
		mlkem(MLKEM512, mlkem512.Scheme(), 1),
		mlkem(MLKEM768, mlkem768.Scheme(), 3),
		mlkem(MLKEM1024, mlkem1024.Scheme(), 5),
		// circl names version 05 of the draft, whose test vectors the versions up to 10 kept.
		newAlgorithm(kemInfo(XWing, x, "draft-connolly-cfrg-xwing-kem-10", 3), circlKEM{x, derive, anySeed{}.fixSeed}, testXWing),
		dhkem(DHKEMP256, hpke.KEM_P256_HKDF_SHA256, scalarOf(ecdh.P256(), 0xff)),
		dhkem(DHKEMP384, hpke.KEM_P384_HKDF_SHA384, scalarOf(ecdh.P384(), 0xff)),
		dhkem(DHKEMP521, hpke.KEM_P521_HKDF_SHA512, scalarOf(ecdh.P521(), 0x01)),
		dhkem(DHKEMX25519, hpke.KEM_X25519_HKDF_SHA256, anySeed{}.fixSeed),
		dhkem(DHKEMX448, hpke.KEM_X448_HKDF_SHA512, anySeed{}.fixSeed),
	}
}

// table is read-only.
var table = append(append(append(kems(), mldsas()...), slhdsas()...), composites()...)
