package sealed

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
	"github.com/keywright/keywright/secret"
)

// pqFamily reports whether package pqc computes the family: its material is a seed.
func pqFamily(f backend.Family) bool {
	switch f {
	case backend.FamilyKEM, backend.FamilyMLDSA, backend.FamilySLHDSA, backend.FamilyComposite:
		return true
	}
	return false
}

// pqAlgorithm gives the code of an algorithm that passes its self-test; a broken one is as if it were not there.
func pqAlgorithm(name backend.Algorithm) (*pqc.Algorithm, bool) {
	a, ok := pqc.Lookup(string(name))
	return a, ok && a.SelfTest() == nil
}

// generatePQ makes a seed and seals it.
func (e *Engine) generatePQ(ctx context.Context, s backend.Spec, info backend.AlgorithmInfo) (backend.Ref, error) {
	alg, ok := pqAlgorithm(info.Name)
	if !ok {
		return backend.Ref{}, errUnsupported
	}
	seed, err := alg.GenerateSeed(e.rand)
	defer seed.Wipe()
	if err != nil {
		return backend.Ref{}, fault.Wrap(fault.BackendUnavailable, "the random generator failed", err)
	}
	return e.sealSeed(ctx, s, info, alg, seed)
}

// sealSeed expands a seed for its public key and seals it.
func (e *Engine) sealSeed(ctx context.Context, s backend.Spec, info backend.AlgorithmInfo, alg *pqc.Algorithm, seed secret.Bytes) (backend.Ref, error) {
	key, err := e.expand(ctx, alg, seed)
	if err != nil {
		return backend.Ref{}, err
	}
	defer key.Wipe()
	pub, err := pqPublic(info, key.PublicKey())
	if err != nil {
		return backend.Ref{}, fault.Wrap(fault.Internal, "encoding a public key", err)
	}
	return e.seal(ctx, s, info, seed, pub)
}

// expand makes a private key of a seed; what takes long is done in the pool.
func (e *Engine) expand(ctx context.Context, alg *pqc.Algorithm, seed secret.Bytes) (key *pqc.PrivateKey, err error) {
	if alg.Info().Slow {
		key, err = e.slow.NewPrivateKey(ctx, alg, seed)
	} else {
		key, err = alg.NewPrivateKey(seed)
	}
	if fault.Has(err, fault.BadImport) {
		return nil, errImport
	}
	return key, err
}

// importPQ seals the seed of a PKCS#8 key.
func (e *Engine) importPQ(ctx context.Context, s backend.Spec, info backend.AlgorithmInfo, der []byte) (backend.Ref, error) {
	alg, ok := pqAlgorithm(info.Name)
	if !ok {
		return backend.Ref{}, errUnsupported
	}
	priv, err := keyenc.ParsePKCS8(der)
	if err != nil {
		return backend.Ref{}, errImport
	}
	defer wipePrivate(priv)
	seed, err := seedOf(alg, info, priv)
	if err != nil {
		return backend.Ref{}, err
	}
	defer seed.Wipe()
	return e.sealSeed(ctx, s, info, alg, seed)
}

// seedOf gives the seed of a parsed private key of the algorithm: those of RFC 9180's KEMs are the scalars of their curves.
func seedOf(alg *pqc.Algorithm, info backend.AlgorithmInfo, priv crypto.PrivateKey) (secret.Bytes, error) {
	switch k := priv.(type) {
	case *pqc.PrivateKey:
		if k.Algorithm() == alg {
			return k.Seed(), nil
		}
	case *ecdsa.PrivateKey:
		if x, err := k.ECDH(); err == nil && x.Curve() == kemCurve(info.Name) {
			return x.Bytes(), nil
		}
	case *ecdh.PrivateKey:
		if k.Curve() == kemCurve(info.Name) {
			return k.Bytes(), nil
		}
	case *keyenc.X448PrivateKey:
		if info.Name == backend.DHKEMX448 {
			seed := *k
			return seed[:], nil
		}
	}
	return nil, errImport
}

// kemCurve gives the curve of a KEM of RFC 9180, nil for others and for X448, which the standard library does not have.
func kemCurve(a backend.Algorithm) ecdh.Curve {
	switch a {
	case backend.DHKEMP256:
		return ecdh.P256()
	case backend.DHKEMP384:
		return ecdh.P384()
	case backend.DHKEMP521:
		return ecdh.P521()
	case backend.DHKEMX25519:
		return ecdh.X25519()
	}
	return nil
}

// pqPublic gives a public key in the type that its SubjectPublicKeyInfo parses to.
func pqPublic(info backend.AlgorithmInfo, pub *pqc.PublicKey) (crypto.PublicKey, error) {
	if c := kemCurve(info.Name); c != nil {
		return c.NewPublicKey(pub.Bytes())
	}
	if info.Name == backend.DHKEMX448 {
		var k keyenc.X448PublicKey
		copy(k[:], pub.Bytes())
		return k, nil
	}
	return pub, nil
}

// openPQ expands a sealed seed. public is the stored key, which the sealer has authenticated together with the seed.
func openPQ(info backend.AlgorithmInfo, seed, public []byte) (material, error) {
	alg, ok := pqAlgorithm(info.Name)
	if !ok {
		return nil, errUnreadable
	}
	stored, err := keyenc.ParseSPKI(public)
	if err != nil {
		return nil, errUnreadable
	}
	raw, err := keyenc.MarshalRaw(stored)
	if err != nil {
		return nil, errUnreadable
	}
	key, err := alg.OpenPrivateKey(seed, raw)
	if err != nil {
		return nil, errUnreadable
	}
	pub, err := pqPublic(info, key.PublicKey())
	if err != nil {
		key.Wipe()
		return nil, errUnreadable
	}
	return &pqMaterial{info: info, key: key, pub: pub}, nil
}

// pkcs8 is the form in which a seed leaves by an export.
func (m *pqMaterial) pkcs8() ([]byte, error) {
	if m.info.Family != backend.FamilyKEM || m.info.PostQuantum {
		return keyenc.MarshalPKCS8(m.key)
	}
	seed := m.key.Seed()
	defer seed.Wipe()
	if c := kemCurve(m.info.Name); c != nil {
		priv, err := c.NewPrivateKey(seed)
		if err != nil {
			return nil, err
		}
		return keyenc.MarshalPKCS8(priv)
	}
	priv := keyenc.X448PrivateKey(seed)
	defer priv.Wipe()
	return keyenc.MarshalPKCS8(&priv)
}

// pqMaterial is a key that package pqc computes with.
type pqMaterial struct {
	info backend.AlgorithmInfo
	key  *pqc.PrivateKey
	pub  crypto.PublicKey
}

func (m *pqMaterial) public() crypto.PublicKey { return m.pub }
func (m *pqMaterial) wipe()                    { m.key.Wipe() }
func (m *pqMaterial) footprint() int           { return m.key.Footprint() }

func (m *pqMaterial) handle(e *Engine, ent *entry) backend.Key {
	switch {
	case m.info.Family != backend.FamilyKEM:
		return newSigner(e, ent, m)
	case ent.export != nil:
		return &exportableDecapsulator{decapsulatorKey{handle{engine: e, entry: ent}, m.key}}
	default:
		return &decapsulatorKey{handle{engine: e, entry: ent}, m.key}
	}
}

func (m *pqMaterial) sign(ctx context.Context, e *Engine, input []byte, opts backend.SignOpts) ([]byte, error) {
	o, err := pqOptions(m.info.Family, opts)
	if err != nil {
		return nil, err
	}
	if m.key.Algorithm().Info().Slow {
		return e.slow.Sign(ctx, m.key, input, o)
	}
	return m.key.Sign(input, o)
}

// pqOptions translates the choices of a signature. What the algorithm does not have is refused by it.
func pqOptions(f backend.Family, opts backend.SignOpts) (pqc.SignOptions, error) {
	if opts.Padding != "" {
		return pqc.SignOptions{}, errPadding
	}
	o := pqc.SignOptions{Context: []byte(opts.Context), Deterministic: opts.Deterministic, ExternalMu: opts.ExternalMu}
	if opts.Hash != 0 {
		if !keyenc.SignatureHash(opts.Hash) {
			return o, errHash
		}
		o.PreHash, _ = pqc.PreHashOf(opts.Hash)
		o.Digest = f == backend.FamilyMLDSA
	}
	return o, nil
}

type decapsulatorKey struct {
	handle
	key *pqc.PrivateKey
}

func (k *decapsulatorKey) Decapsulate(ctx context.Context, ciphertext []byte) (secret.Bytes, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.end()
	return k.key.Decapsulate(ciphertext)
}
