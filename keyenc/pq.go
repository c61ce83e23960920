package keyenc

import (
	"crypto"
	"crypto/subtle"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keywright/keywright/pqc"
)

// ErrNoSeed is for private keys of ML-KEM and ML-DSA in their expanded form alone (RFC 9935 section 6, RFC 9881 section 6). The seed cannot be
// computed from it, and keys are held as seeds. errors.Is(ErrNoSeed, ErrUnsupported).
var ErrNoSeed error = noSeed{}

type noSeed struct{}

func (noSeed) Error() string        { return "keyenc: the private key has no seed" }
func (noSeed) Is(target error) bool { return target == ErrUnsupported }

// pqForm is how a private key stands in the privateKey octets of PKCS#8.
type pqForm uint8

const (
	// pqChoice is RFC 9935 section 6 and RFC 9881 section 6: CHOICE { seed [0] IMPLICIT OCTET STRING, expandedKey OCTET STRING,
	// both SEQUENCE { seed, expandedKey } }. We write the first and read the first and the last.
	pqChoice pqForm = iota + 1
	// pqBare is the seed as it is (draft-connolly-cfrg-xwing-kem-10 section 5.8.2, composite ML-DSA with Ed25519).
	pqBare
	// pqRoot is SK.seed ‖ SK.prf ‖ PK.seed ‖ PK.root (RFC 9909 section 6).
	pqRoot
	// pqComposite is the ML-DSA seed and RFC 5915's ECPrivateKey with the curve and without the public key
	// (draft-ietf-lamps-pq-composite-sigs-19 section 4).
	pqComposite
)

type pqEncoding struct {
	name string
	oid  asn1.ObjectIdentifier
	form pqForm
}

// nist is an arc of NIST's computer security objects: 2.16.840.1.101.3.4.3 has the signatures, .4.4 the KEMs.
func nist(kind, n int) asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, kind, n}
}

// pqEncodings is read-only.
var pqEncodings = []pqEncoding{
	{pqc.MLKEM512, nist(4, 1), pqChoice},
	{pqc.MLKEM768, nist(4, 2), pqChoice},
	{pqc.MLKEM1024, nist(4, 3), pqChoice},
	{pqc.XWing, asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 62253, 25722}, pqBare},
	{pqc.MLDSA44, nist(3, 17), pqChoice},
	{pqc.MLDSA65, nist(3, 18), pqChoice},
	{pqc.MLDSA87, nist(3, 19), pqChoice},
	{pqc.SLHDSASHA2128s, nist(3, 20), pqRoot},
	{pqc.SLHDSASHA2128f, nist(3, 21), pqRoot},
	{pqc.SLHDSASHA2192s, nist(3, 22), pqRoot},
	{pqc.SLHDSASHA2192f, nist(3, 23), pqRoot},
	{pqc.SLHDSASHA2256s, nist(3, 24), pqRoot},
	{pqc.SLHDSASHA2256f, nist(3, 25), pqRoot},
	{pqc.SLHDSASHAKE128s, nist(3, 26), pqRoot},
	{pqc.SLHDSASHAKE128f, nist(3, 27), pqRoot},
	{pqc.SLHDSASHAKE192s, nist(3, 28), pqRoot},
	{pqc.SLHDSASHAKE192f, nist(3, 29), pqRoot},
	{pqc.SLHDSASHAKE256s, nist(3, 30), pqRoot},
	{pqc.SLHDSASHAKE256f, nist(3, 31), pqRoot},
	{pqc.MLDSA65P256, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 6, 45}, pqComposite},
	{pqc.MLDSA65Ed25519, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 6, 48}, pqBare},
}

func pqByName(name string) *pqEncoding {
	for i := range pqEncodings {
		if pqEncodings[i].name == name {
			return &pqEncodings[i]
		}
	}
	return nil
}

// pqByOID gives the encoding and the algorithm of an object identifier, or nil.
func pqByOID(oid asn1.ObjectIdentifier) (*pqEncoding, *pqc.Algorithm) {
	for i := range pqEncodings {
		if pqEncodings[i].oid.Equal(oid) {
			alg, _ := pqc.Lookup(pqEncodings[i].name) // the table has no others; a test keeps it so
			return &pqEncodings[i], alg
		}
	}
	return nil, nil
}

var tagSeed = cbasn1.Tag(0).ContextSpecific() // IMPLICIT OCTET STRING

// marshalPQ gives the PKCS#8 DER of a private key by its seed.
func marshalPQ(k *pqc.PrivateKey) ([]byte, error) {
	e := pqByName(k.Algorithm().Name())
	seed := k.Seed()
	defer seed.Wipe()
	if e == nil || seed == nil {
		return nil, ErrUnsupported
	}
	public := k.PublicKey().Bytes()
	return wrapPKCS8(len(seed)+len(public), func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(e.oid) },
		func(b *cryptobyte.Builder) {
			switch e.form {
			case pqChoice:
				b.AddASN1(tagSeed, func(b *cryptobyte.Builder) { b.AddBytes(seed) })
			case pqBare:
				b.AddBytes(seed)
			case pqRoot:
				b.AddBytes(seed)
				b.AddBytes(public[len(public)/2:])
			case pqComposite:
				b.AddBytes(seed[:mldsaSeed])
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1Int64(1)
					b.AddASN1OctetString(seed[mldsaSeed:])
					b.AddASN1(tagECParams, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidP256) })
				})
			}
		})
}

const mldsaSeed = 32

// parsePQ reads the privateKey octets of a post-quantum key. What stands there twice must fit: the seed and its expanded form, and SLH-DSA's root.
func parsePQ(e *pqEncoding, alg *pqc.Algorithm, key cryptobyte.String, public []byte) (crypto.PrivateKey, error) {
	var seed, expanded, root []byte
	defer func() { clear(seed) }() // a copy, whatever the form
	size := alg.Info().SeedSize
	switch e.form {
	case pqChoice:
		var err error
		if seed, expanded, err = readChoice(key); err != nil {
			return nil, err
		}
	case pqBare:
		seed = append(make([]byte, 0, size), key...)
	case pqRoot:
		if len(key) != size/3*4 {
			return nil, ErrMalformed
		}
		seed, root = append(make([]byte, 0, size), key[:size]...), key[size:]
	case pqComposite:
		var err error
		if seed, err = readComposite(key); err != nil {
			return nil, err
		}
	}
	if len(seed) != size {
		return nil, ErrMalformed
	}
	k, err := alg.NewPrivateKey(seed)
	if err != nil {
		return nil, ErrMalformed
	}
	own := k.PublicKey().Bytes()
	ok := subtle.ConstantTimeCompare(root, own[len(own)-len(root):]) == 1
	if expanded != nil {
		whole, err := k.Expanded()
		ok = err == nil && subtle.ConstantTimeCompare(whole, expanded) == 1
		whole.Wipe()
	}
	if !ok || public != nil && subtle.ConstantTimeCompare(public, own) != 1 {
		k.Wipe()
		return nil, ErrMalformed
	}
	return k, nil
}

// readChoice gives copies of the seed and a view of the expanded key, nil where it is not there.
func readChoice(key cryptobyte.String) (seed, expanded []byte, err error) {
	var s, x, both cryptobyte.String
	switch {
	case key.PeekASN1Tag(tagSeed):
		if !key.ReadASN1(&s, tagSeed) || !key.Empty() {
			return nil, nil, ErrMalformed
		}
	case key.PeekASN1Tag(cbasn1.SEQUENCE):
		if !key.ReadASN1(&both, cbasn1.SEQUENCE) || !key.Empty() ||
			!both.ReadASN1(&s, cbasn1.OCTET_STRING) || !both.ReadASN1(&x, cbasn1.OCTET_STRING) || !both.Empty() || x == nil {
			return nil, nil, ErrMalformed
		}
	case key.PeekASN1Tag(cbasn1.OCTET_STRING):
		if !key.ReadASN1(&x, cbasn1.OCTET_STRING) || !key.Empty() {
			return nil, nil, ErrMalformed
		}
		return nil, nil, ErrNoSeed
	default:
		return nil, nil, ErrMalformed
	}
	return append([]byte(nil), s...), x, nil
}

// readComposite gives the seed of package pqc: ML-DSA's ‖ the scalar.
func readComposite(key cryptobyte.String) ([]byte, error) {
	var pq []byte
	var ec, scalar, params cryptobyte.String
	var version int64
	var curve asn1.ObjectIdentifier
	if !key.ReadBytes(&pq, mldsaSeed) || !key.ReadASN1(&ec, cbasn1.SEQUENCE) || !key.Empty() ||
		!ec.ReadASN1Integer(&version) || version != 1 || !ec.ReadASN1(&scalar, cbasn1.OCTET_STRING) || len(scalar) != 32 ||
		!ec.ReadASN1(&params, tagECParams) || !ec.Empty() ||
		!params.ReadASN1ObjectIdentifier(&curve) || !params.Empty() || !curve.Equal(oidP256) {
		return nil, ErrMalformed
	}
	return append(append(make([]byte, 0, mldsaSeed+len(scalar)), pq...), scalar...), nil
}

// pqPublic reads the key bits of a SubjectPublicKeyInfo.
func pqPublic(alg *pqc.Algorithm, key []byte) (crypto.PublicKey, error) {
	pub, err := alg.ParsePublicKey(key)
	if err != nil {
		return nil, ErrMalformed
	}
	return pub, nil
}
