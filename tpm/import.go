package tpm

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/sealed"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm/device"
)

var errExponent = fault.New(fault.Unsupported, "the TPM takes RSA keys with the public exponent 65537 alone")

// Import gives the TPM a key made elsewhere, encrypted to the storage parent (TPM2_Import with an outer wrapper: TPM 2.0 part 1, section 23.3). The object says for ever that the TPM did not make
// it: sensitiveDataOrigin, fixedTPM and fixedParent are clear, and no policy exists under which it could be duplicated.
func (b *Backend) Import(ctx context.Context, s backend.Spec, material []byte) (backend.Ref, error) {
	if err := b.enter(ctx); err != nil {
		return backend.Ref{}, err
	}
	defer b.gate.Leave()
	s, info, err := b.resolve(s)
	if err != nil {
		return backend.Ref{}, err
	}
	if s.Custody == backend.CustodySealed {
		return sealedRef(b.engine.Import(ctx, s, material))
	}
	auth, err := b.auth(&s, info.ID)
	if err != nil {
		return backend.Ref{}, err
	}
	defer auth.Wipe()
	areas := templates(info, s.Purpose, policyOf(&s, info.ID), true)
	foreign, err := imported(info, areas, auth, material)
	defer func() {
		for i := range foreign {
			foreign[i].wipe()
		}
	}()
	if err != nil {
		return backend.Ref{}, err
	}
	var objects []object
	err = b.dev.Do(ctx, "import", func(tx *device.Tx) error {
		objects = objects[:0]
		for i := range foreign {
			o, err := foreign[i].bring(tx)
			if err != nil {
				return err
			}
			objects = append(objects, o)
		}
		return nil
	})
	if err != nil {
		return backend.Ref{}, refused(err)
	}
	return b.ref(s, info, areas, objects)
}

// foreign is an object that another made: its public area, and TPMT_SENSITIVE in clear.
type foreign struct {
	public    tpm2.TPMTPublic
	sensitive secret.Bytes
}

func (f *foreign) wipe() { f.sensitive.Wipe() }

// imported makes the objects of material, which must be a key of the algorithm.
func imported(info backend.AlgorithmInfo, areas []tpm2.TPMTPublic, auth secret.Bytes, material []byte) ([]foreign, error) {
	if !info.Symmetric() {
		f, err := importedPrivate(info, areas[0], auth, material)
		return []foreign{f}, err
	}
	if len(material) != info.KeySize {
		return nil, errImport
	}
	if len(areas) == maxObjects {
		return []foreign{symmetricObject(areas[0], auth, material[etmKey:]), symmetricObject(areas[1], auth, material[:etmKey])}, nil
	}
	return []foreign{symmetricObject(areas[0], auth, material)}, nil
}

// symmetricObject makes the object of a symmetric key: unique is the digest of a seed and the key (part 1, section 27.6.2), so that it says nothing about the key.
func symmetricObject(public tpm2.TPMTPublic, auth secret.Bytes, key []byte) foreign {
	seed := make([]byte, sha256.Size)
	rand.Read(seed) // never fails (crypto/rand)
	defer clear(seed)
	h := sha256.New()
	h.Write(seed)
	h.Write(key)
	public.Unique = tpm2.NewTPMUPublicID(public.Type, &tpm2.TPM2BDigest{Buffer: h.Sum(nil)})
	return foreign{public, sensitiveArea(public.Type, auth, seed, key)}
}

// importedPrivate reads PKCS#8 and makes the object of the key, which must be one of the algorithm.
func importedPrivate(info backend.AlgorithmInfo, public tpm2.TPMTPublic, auth secret.Bytes, der []byte) (foreign, error) {
	priv, err := keyenc.ParsePKCS8(der)
	if err != nil {
		return foreign{}, errImport
	}
	switch k := priv.(type) {
	case *rsa.PrivateKey:
		if info.Family != backend.FamilyRSA || k.N.BitLen() != info.KeyBits || k.E <= 1<<16 || len(k.Primes) != 2 || k.Primes[0].BitLen() != info.KeyBits/2 {
			return foreign{}, errImport
		}
		if k.E != 65537 {
			return foreign{}, errExponent
		}
		p := k.Primes[0].FillBytes(make([]byte, info.KeyBits/16))
		defer clear(p)
		public.Unique = tpm2.NewTPMUPublicID(public.Type, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
		return foreign{public, sensitiveArea(public.Type, auth, nil, p)}, nil
	case *ecdsa.PrivateKey:
		c, ok := curveOf(info)
		if !ok || k.Curve != c.ec {
			return foreign{}, errImport
		}
		x, err := k.ECDH()
		if err != nil {
			return foreign{}, errImport
		}
		return ecObject(c, public, auth, x), nil
	}
	return foreign{}, errImport
}

func ecObject(c curve, public tpm2.TPMTPublic, auth secret.Bytes, k *ecdh.PrivateKey) foreign {
	d := k.Bytes()
	defer clear(d)
	public.Unique = tpm2.NewTPMUPublicID(public.Type, pointOf(c, k.PublicKey().Bytes()))
	return foreign{public, sensitiveArea(public.Type, auth, nil, d)}
}

// bring makes a duplicate of the object for the storage parent, to which a fresh seed is encrypted, and has the TPM import it.
func (f *foreign) bring(tx *device.Tx) (object, error) {
	parent := tx.ParentPublic()
	key, err := tpm2.ImportEncapsulationKey(&parent)
	if err != nil {
		return object{}, err
	}
	public := tpm2.Marshal(f.public)
	wrapped, seed, err := duplicate(key, nameOf(public), f.sensitive)
	if err != nil {
		return object{}, err
	}
	rsp, err := tpm2.Import{
		ParentHandle: tx.Auth(tx.Parent(), nil, device.Plain),
		ObjectPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](public),
		Duplicate:    tpm2.TPM2BPrivate{Buffer: wrapped},
		InSymSeed:    tpm2.TPM2BEncryptedSecret{Buffer: seed},
		Symmetric:    tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
	}.Execute(tx)
	if err != nil {
		return object{}, importRefused(err)
	}
	return object{public: public, private: append([]byte(nil), rsp.OutPrivate.Buffer...)}, nil
}

// importRefused: what is wrong with the object is the material's fault. Not that a TPM looks at it as closely as keyenc has.
func importRefused(err error) error {
	var f tpm2.TPMFmt1Error
	if errors.As(err, &f) {
		if is, _ := f.Parameter(); is {
			return fault.Wrap(fault.BadImport, errImport.Message, err)
		}
	}
	return err
}

// ImportWrapped opens an RSA_AES_KEY_WRAP blob (PKCS#11 2.40 current mechanisms section 2.1.21): the TPM opens the AES key with the RSA key of with, this process opens the material with it, and
// gives it to the TPM as Import does.
func (b *Backend) ImportWrapped(ctx context.Context, s backend.Spec, with backend.Ref, hash crypto.Hash, wrapped []byte) (ref backend.Ref, err error) {
	key, err := b.Load(ctx, with)
	if err != nil {
		return backend.Ref{}, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	return sealed.ImportWrapped(ctx, key, hash, wrapped, rand.Reader, func(raw []byte) (backend.Ref, error) { return b.Import(ctx, s, raw) })
}
