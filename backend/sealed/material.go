package sealed

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

// material is an opened key of one family. It is immutable and safe for concurrent use until wipe, which is called once,
// when nobody holds the entry any more.
type material interface {
	// public is nil for symmetric keys. It shares no memory with what wipe overwrites.
	public() crypto.PublicKey
	// handle makes a handle for the entry, whose share goes over to it.
	handle(*Engine, *entry) backend.Key
	wipe()
}

// resolve checks a Spec against the table and the engine and fills in the custody.
func (e *Engine) resolve(s backend.Spec) (backend.Spec, backend.AlgorithmInfo, error) {
	info, ok := backend.Lookup(s.Algorithm)
	if !ok || !supported(info) {
		return s, info, errUnsupported
	}
	if !info.Allows(s.Purpose) {
		return s, info, errUnsupported
	}
	if s.Custody == "" {
		s.Custody = e.custody
	}
	if s.Custody != e.custody {
		return s, info, errCustody
	}
	return s, info, nil
}

func supported(info backend.AlgorithmInfo) bool {
	switch info.Family {
	case backend.FamilyAEAD, backend.FamilyKWP, backend.FamilyHMAC, backend.FamilyRSA, backend.FamilyECDSA,
		backend.FamilyEdDSA, backend.FamilyECDH:
		return true
	}
	if pqFamily(info.Family) {
		_, ok := pqAlgorithm(info.Name)
		return ok
	}
	return false
}

// Capabilities lists what the engine can do: every algorithm of the families it knows, each with import and export.
func (e *Engine) Capabilities() []backend.Capability {
	var out []backend.Capability
	for _, info := range backend.Algorithms() {
		if !supported(info) {
			continue
		}
		c := backend.Capability{Algorithm: info.Name, Custody: e.custody, Import: true}
		for _, p := range info.Purposes {
			c.Operations = append(c.Operations, backend.OperationsOf(info, p)...)
		}
		c.Operations = append(c.Operations, backend.OpExport)
		out = append(out, c)
	}
	return out
}

// seal makes the Ref of material, whose public key is pub.
func (e *Engine) seal(ctx context.Context, s backend.Spec, info backend.AlgorithmInfo, raw secret.Bytes, pub crypto.PublicKey) (backend.Ref, error) {
	r := backend.Ref{Spec: s}
	if pub != nil {
		der, err := keyenc.MarshalSPKI(pub)
		if err != nil {
			return backend.Ref{}, fault.Wrap(fault.Internal, "encoding a public key", err)
		}
		r.Public = der
	}
	blob, err := e.sealer.Seal(ctx, raw, binding(&s, info.ID, s.Custody, r.Public))
	if err != nil {
		return backend.Ref{}, err
	}
	r.Blob = append([]byte{blobVersion}, blob...)
	return r, nil
}

// open asks the sealer for the material of a Ref and checks that it is what the Ref says. Whatever does not fit, the answer
// is the same fault.KeyMaterial.
func (e *Engine) open(ctx context.Context, r *backend.Ref) (*entry, error) {
	s, info, err := e.resolve(r.Spec)
	if err != nil || s != r.Spec || len(r.Blob) < 2 || r.Blob[0] != blobVersion || info.Symmetric() != (len(r.Public) == 0) {
		return nil, errUnreadable // no Ref of this engine is like that
	}
	raw, err := e.sealer.Open(ctx, r.Blob[1:], binding(&s, info.ID, s.Custody, r.Public))
	if fault.Has(err, fault.KeyMaterial) {
		return nil, fault.Wrap(fault.KeyMaterial, errUnreadable.Message, err) // one answer for all; the cause is for the log
	}
	if err != nil {
		return nil, err
	}
	defer raw.Wipe()
	mat, err := newMaterial(info, s.Purpose, raw, r.Public)
	if err != nil {
		return nil, errUnreadable
	}
	ent := newEntry(r, mat)
	if pub := ent.pub; pub != nil {
		der, err := keyenc.MarshalSPKI(pub)
		if err != nil || !bytes.Equal(der, r.Public) {
			ent.release()
			return nil, errUnreadable
		}
	}
	if s.Exportable {
		if ent.export, err = exportForm(mat, raw); err != nil {
			ent.release()
			return nil, fault.Wrap(fault.Internal, "encoding a private key", err)
		}
	}
	return ent, nil
}

// exportForm gives what an export wraps: raw symmetric bytes, or PKCS#8.
func exportForm(mat material, raw []byte) ([]byte, error) {
	if m, ok := mat.(*pqMaterial); ok {
		return m.pkcs8()
	}
	return bytes.Clone(raw), nil
}

// newMaterial reads raw symmetric bytes, a seed, or PKCS#8. It copies what it keeps.
func newMaterial(info backend.AlgorithmInfo, purpose backend.Purpose, raw, public []byte) (material, error) {
	if pqFamily(info.Family) {
		return openPQ(info, raw, public)
	}
	if info.Symmetric() {
		if len(raw) != info.KeySize {
			return nil, errImport
		}
		switch info.Family {
		case backend.FamilyAEAD:
			return newAEAD(info, raw)
		case backend.FamilyKWP:
			return newKWP(raw)
		case backend.FamilyHMAC:
			return newMAC(info, raw), nil
		}
		return nil, errImport
	}
	priv, err := parsePrivate(info, raw)
	if err != nil {
		return nil, err
	}
	switch k := priv.(type) {
	case *rsa.PrivateKey:
		return &rsaMaterial{key: k, decrypts: purpose == backend.PurposeEncryption}, nil
	case *ecdsa.PrivateKey:
		return &ecdsaMaterial{key: k, size: (info.KeyBits + 7) / 8}, nil
	case ed25519.PrivateKey:
		return &ed25519Material{k}, nil
	case ed448.PrivateKey:
		return &ed448Material{k}, nil
	case *ecdh.PrivateKey:
		return &ecdhMaterial{key: k, raw: k.PublicKey()}, nil
	case *keyenc.X448PrivateKey:
		return &x448Material{key: k, raw: k.Public().(keyenc.X448PublicKey)}, nil
	}
	return nil, errImport
}

// parsePrivate reads PKCS#8 and gives the key only when it is one of the algorithm: *rsa.PrivateKey of the right size with
// an odd public exponent above 2^16 (FIPS 186-5 section A.1.1), *ecdsa.PrivateKey, ed25519.PrivateKey, ed448.PrivateKey,
// *ecdh.PrivateKey or *keyenc.X448PrivateKey.
func parsePrivate(info backend.AlgorithmInfo, der []byte) (crypto.PrivateKey, error) {
	priv, err := keyenc.ParsePKCS8(der)
	if err != nil {
		return nil, errImport
	}
	fits := false
	switch k := priv.(type) {
	case *rsa.PrivateKey:
		fits = info.Family == backend.FamilyRSA && k.N.BitLen() == info.KeyBits && k.E > 1<<16
	case *ecdsa.PrivateKey:
		fits = k.Curve == curveOf(info)
		if fits && info.Family == backend.FamilyECDH {
			x, err := k.ECDH()
			if err != nil {
				return nil, errImport
			}
			return x, nil
		}
	case ed25519.PrivateKey:
		fits = info.Name == backend.Ed25519
	case ed448.PrivateKey:
		fits = info.Name == backend.Ed448
	case *ecdh.PrivateKey:
		fits = info.Name == backend.X25519
	case *keyenc.X448PrivateKey:
		fits = info.Name == backend.X448
	}
	if !fits {
		return nil, errImport
	}
	return priv, nil
}

// curveOf gives the P curve of an ECDSA or ECDH algorithm, nil for others.
func curveOf(info backend.AlgorithmInfo) elliptic.Curve {
	switch info.Name {
	case backend.ECDSAP256, backend.ECDHP256:
		return elliptic.P256()
	case backend.ECDSAP384, backend.ECDHP384:
		return elliptic.P384()
	case backend.ECDSAP521, backend.ECDHP521:
		return elliptic.P521()
	}
	return nil
}
