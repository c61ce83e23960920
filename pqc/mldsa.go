package pqc

import (
	"crypto/sha3"
	"reflect"
	"sync"
	"sync/atomic"

	"filippo.io/mldsa"
	"filippo.io/mldsa/mldsacrypto"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"

	"github.com/keywright/keywright/fault"
)

const mldsaSeed = 32

// mldsaSet is one parameter set. Pure signatures are circl's. It takes no message representative from outside, so what needs one
// (ExternalMu and HashML-DSA) is signed by filippo.io/mldsa and verified by mldsaVerify.
type mldsaSet[PK, SK any] struct {
	anySeed
	params    mldsa.Parameters
	numbers   mldsaNumbers
	sigSize   int
	fromSeed  func(*[mldsaSeed]byte) (*PK, *SK)
	unmarshal func([]byte) (*PK, error)
	encode    func(*PK) []byte
	expand    func(*SK) []byte
	signTo    func(sk *SK, message, context []byte, randomized bool, signature []byte) error
	verifyFn  func(pk *PK, message, context, signature []byte) bool
}

type mldsaPrivate[PK, SK any] struct {
	set  *mldsaSet[PK, SK]
	key  *SK
	seed [mldsaSeed]byte
	tr   [64]byte

	once   sync.Once // guards mu and err
	mu     *mldsa.PrivateKey
	err    error
	second atomic.Bool // mu is there
}

// byMu is the same key for message representatives, expanded when it is first used.
func (p *mldsaPrivate[PK, SK]) byMu() (*mldsa.PrivateKey, error) {
	p.once.Do(func() {
		p.mu, p.err = mldsa.NewPrivateKey(p.set.params, p.seed[:])
		p.second.Store(p.err == nil)
	})
	return p.mu, p.err
}

// footprint is the size of both expanded forms, which have no pointers, in bytes.
func (p *mldsaPrivate[PK, SK]) footprint() int {
	n := reflect.TypeFor[SK]().Size()
	if p.second.Load() {
		n += reflect.TypeFor[mldsa.PrivateKey]().Size()
	}
	return int(n)
}

func (s *mldsaSet[PK, SK]) private(seed, _ []byte) (privateImpl, []byte, error) {
	p := &mldsaPrivate[PK, SK]{set: s, seed: [mldsaSeed]byte(seed)}
	var pk *PK
	pk, p.key = s.fromSeed(&p.seed)
	raw := s.encode(pk)
	p.tr = hashTR(raw)
	return p, raw, nil
}

func (p *mldsaPrivate[PK, SK]) sign(message []byte, o *SignOptions) ([]byte, error) {
	if o.ExternalMu || o.PreHash != "" {
		return p.signMu(message, o)
	}
	sig := make([]byte, p.set.sigSize)
	if err := p.set.signTo(p.key, message, o.Context, !o.Deterministic, sig); err != nil {
		return nil, fault.Wrap(fault.Internal, "the signature could not be computed", err)
	}
	return sig, nil
}

func (p *mldsaPrivate[PK, SK]) signMu(message []byte, o *SignOptions) ([]byte, error) {
	key, err := p.byMu()
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the signature could not be computed", err)
	}
	mu := message
	if !o.ExternalMu {
		mu = hashMu(p.tr[:], message, o)
	}
	var sig []byte
	if o.Deterministic {
		sig, err = key.SignDeterministic(mu, mldsacrypto.MLDSAMu)
	} else {
		sig, err = key.Sign(nil, mu, mldsacrypto.MLDSAMu)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the signature could not be computed", err)
	}
	return sig, nil
}

func (p *mldsaPrivate[PK, SK]) expanded() ([]byte, error) { return p.set.expand(p.key), nil }

// wipe overwrites both expanded forms: they are plain structures without pointers.
func (p *mldsaPrivate[PK, SK]) wipe() {
	var zero SK
	*p.key = zero
	clear(p.seed[:])
	if p.mu != nil {
		*p.mu = mldsa.PrivateKey{}
	}
}

type mldsaPublic[PK, SK any] struct {
	set *mldsaSet[PK, SK]
	key *PK
	raw []byte
}

func (s *mldsaSet[PK, SK]) public(raw []byte) (publicImpl, error) {
	k, err := s.unmarshal(raw)
	if err != nil {
		return nil, err
	}
	return &mldsaPublic[PK, SK]{s, k, raw}, nil
}

func (p *mldsaPublic[PK, SK]) verify(message, signature []byte, o *SignOptions) (bool, error) {
	if len(signature) != p.set.sigSize {
		return false, nil
	}
	if o.ExternalMu || o.PreHash != "" {
		mu := message
		if !o.ExternalMu {
			tr := hashTR(p.raw)
			mu = hashMu(tr[:], message, o)
		}
		return p.set.numbers.verify(p.raw, mu, signature), nil
	}
	return p.set.verifyFn(p.key, message, o.Context, signature), nil
}

// Mu is the message representative of ML-DSA: 64 bytes that stand for message and options in an ExternalMu signature (FIPS 204 section
// 6.2, algorithm 7 line 6; M' as in algorithms 2 and 4). Errors: fault.OperationNotAllowed for other algorithms, and those of the options.
func (p *PublicKey) Mu(message []byte, o SignOptions) ([]byte, error) {
	switch p.alg.info.Name {
	case MLDSA44, MLDSA65, MLDSA87:
	default:
		return nil, fault.New(fault.OperationNotAllowed, "only ML-DSA has a message representative")
	}
	if err := o.check(message); err != nil {
		return nil, err
	}
	if o.ExternalMu {
		return nil, fault.New(fault.BadField, "the message is a mu already")
	}
	tr := hashTR(p.raw)
	return hashMu(tr[:], message, &o), nil
}

// hashTR is H(pk, 64) (FIPS 204 algorithm 6 line 9).
func hashTR(public []byte) (tr [64]byte) {
	h := sha3.NewSHAKE256()
	h.Write(public)
	h.Read(tr[:])
	return tr
}

// hashMu is H(tr ‖ M', 64), M' being 0 ‖ |ctx| ‖ ctx ‖ M, or 1 ‖ |ctx| ‖ ctx ‖ OID ‖ PH(M).
func hashMu(tr, message []byte, o *SignOptions) []byte {
	h := sha3.NewSHAKE256()
	h.Write(tr)
	if o.PreHash == "" {
		h.Write([]byte{0, byte(len(o.Context))})
		h.Write(o.Context)
		h.Write(message)
	} else {
		h.Write([]byte{1, byte(len(o.Context))})
		h.Write(o.Context)
		h.Write(o.PreHash.der())
		if o.Digest {
			h.Write(message)
		} else {
			h.Write(o.PreHash.Sum(message))
		}
	}
	mu := make([]byte, MuSize)
	h.Read(mu)
	return mu
}

func mldsaAlgorithm[PK, SK any](name string, category, publicSize int, s *mldsaSet[PK, SK]) *Algorithm {
	return newAlgorithm(Info{Name: name, Kind: KindSignature, Standard: "FIPS 204", Category: category, SeedSize: mldsaSeed,
		PublicKeySize: publicSize, SignatureSize: s.sigSize}, s, testMLDSA)
}

func mldsas() []*Algorithm {
	return []*Algorithm{
		mldsaAlgorithm(MLDSA44, 2, mldsa44.PublicKeySize, &mldsaSet[mldsa44.PublicKey, mldsa44.PrivateKey]{
			params: mldsa.MLDSA44(), numbers: mldsaNumbers44, sigSize: mldsa44.SignatureSize, fromSeed: mldsa44.NewKeyFromSeed,
			unmarshal: unmarshalKey[mldsa44.PublicKey], encode: (*mldsa44.PublicKey).Bytes, expand: (*mldsa44.PrivateKey).Bytes, signTo: mldsa44.SignTo, verifyFn: mldsa44.Verify}),
		mldsaAlgorithm(MLDSA65, 3, mldsa65.PublicKeySize, mldsa65Set),
		mldsaAlgorithm(MLDSA87, 5, mldsa87.PublicKeySize, &mldsaSet[mldsa87.PublicKey, mldsa87.PrivateKey]{
			params: mldsa.MLDSA87(), numbers: mldsaNumbers87, sigSize: mldsa87.SignatureSize, fromSeed: mldsa87.NewKeyFromSeed,
			unmarshal: unmarshalKey[mldsa87.PublicKey], encode: (*mldsa87.PublicKey).Bytes, expand: (*mldsa87.PrivateKey).Bytes, signTo: mldsa87.SignTo, verifyFn: mldsa87.Verify}),
	}
}

// mldsa65Set is also a component of the composites. Read-only.
var mldsa65Set = &mldsaSet[mldsa65.PublicKey, mldsa65.PrivateKey]{
	params: mldsa.MLDSA65(), numbers: mldsaNumbers65, sigSize: mldsa65.SignatureSize, fromSeed: mldsa65.NewKeyFromSeed,
	unmarshal: unmarshalKey[mldsa65.PublicKey], encode: (*mldsa65.PublicKey).Bytes, expand: (*mldsa65.PrivateKey).Bytes, signTo: mldsa65.SignTo, verifyFn: mldsa65.Verify}

// unmarshalKey is for types whose pointers are encoding.BinaryUnmarshalers.
func unmarshalKey[K any, P interface {
	*K
	UnmarshalBinary([]byte) error
}](raw []byte) (*K, error) {
	k := new(K)
	if err := P(k).UnmarshalBinary(raw); err != nil {
		return nil, err
	}
	return k, nil
}
