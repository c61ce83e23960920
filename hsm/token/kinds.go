package token

import (
	"crypto/elliptic"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/pqc"
)

// Numbers of PKCS#11 3.0 that the library does not have.
const (
	ckmECEdwardsKeyPairGen    = 0x1055
	ckmECMontgomeryKeyPairGen = 0x1056
	ckmEDDSA                  = 0x1057
	ckmAESKeyWrapKWP          = 0x210B
	ckkECEdwards              = 0x40
	ckkECMontgomery           = 0x41
	ckaNSSDB                  = 0xD5A0DB00 // of NSS: CKA_NSS_DB
)

// kind is how PKCS#11 sees an algorithm.
type kind struct {
	backend.AlgorithmInfo
	class    uint
	keyType  uint
	generate uint
	params   [][]byte // CKA_EC_PARAMS, in the order of trying: named curves as OID, then as the printable name of PKCS#11 3.0
	curve    elliptic.Curve
	field    int // bytes of a field element
	// Of post-quantum algorithms: CKA_PARAMETER_SET, which is 0 for all others, the mechanism of the operation, and the code that checks.
	set, mech uint
	pq        *pqc.Algorithm
}

// OIDs of curves in DER (RFC 5480 section 2.1.1.1, RFC 8410 section 3) and names (PKCS#11 3.0 section 2.3.10).
var (
	oidP256       = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	oidP384       = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
	oidP521       = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}
	oidX25519     = []byte{0x06, 0x03, 0x2b, 0x65, 0x6e}
	oidX448       = []byte{0x06, 0x03, 0x2b, 0x65, 0x6f}
	oidEd25519    = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}
	oidEd448      = []byte{0x06, 0x03, 0x2b, 0x65, 0x71}
	nameEd25519   = append([]byte{0x13, 0x0c}, "edwards25519"...)
	nameEd448     = append([]byte{0x13, 0x0a}, "edwards448"...)
	nameX25519    = append([]byte{0x13, 0x0a}, "curve25519"...)
	nameX448      = append([]byte{0x13, 0x08}, "curve448"...)
	edwardsParams = map[backend.Algorithm][][]byte{
		backend.Ed25519: {nameEd25519, oidEd25519}, backend.Ed448: {nameEd448, oidEd448},
		backend.X25519: {nameX25519, oidX25519}, backend.X448: {nameX448, oidX448},
	}
)

// kindOf gives the PKCS#11 side of an algorithm; ok is false for those that no module has.
func kindOf(name backend.Algorithm) (kind, bool) {
	info, ok := backend.Lookup(name)
	if !ok {
		return kind{}, false
	}
	k := kind{AlgorithmInfo: info, class: pkcs11.CKO_PRIVATE_KEY}
	switch info.Family {
	case backend.FamilyAEAD:
		if name == backend.ChaCha20Poly1305 || name == backend.AES256CTRHMACSHA256 {
			return kind{}, false
		}
		k.class, k.keyType, k.generate = pkcs11.CKO_SECRET_KEY, pkcs11.CKK_AES, pkcs11.CKM_AES_KEY_GEN
	case backend.FamilyKWP:
		k.class, k.keyType, k.generate = pkcs11.CKO_SECRET_KEY, pkcs11.CKK_AES, pkcs11.CKM_AES_KEY_GEN
	case backend.FamilyHMAC:
		k.class, k.keyType, k.generate = pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET, pkcs11.CKM_GENERIC_SECRET_KEY_GEN
	case backend.FamilyRSA:
		k.keyType, k.generate = pkcs11.CKK_RSA, pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN
	case backend.FamilyEdDSA:
		k.keyType, k.generate, k.params = ckkECEdwards, ckmECEdwardsKeyPairGen, edwardsParams[name]
	case backend.FamilyECDSA, backend.FamilyECDH:
		k.keyType, k.generate = pkcs11.CKK_EC, pkcs11.CKM_EC_KEY_PAIR_GEN
		switch name {
		case backend.ECDSAP256, backend.ECDHP256:
			k.params, k.curve, k.field = [][]byte{oidP256}, elliptic.P256(), 32
		case backend.ECDSAP384, backend.ECDHP384:
			k.params, k.curve, k.field = [][]byte{oidP384}, elliptic.P384(), 48
		case backend.ECDSAP521, backend.ECDHP521:
			k.params, k.curve, k.field = [][]byte{oidP521}, elliptic.P521(), 66
		case backend.X25519:
			k.keyType, k.generate, k.params, k.field = ckkECMontgomery, ckmECMontgomeryKeyPairGen, edwardsParams[name], 32
		case backend.X448:
			k.keyType, k.generate, k.params, k.field = ckkECMontgomery, ckmECMontgomeryKeyPairGen, edwardsParams[name], 56
		}
	case backend.FamilyKEM, backend.FamilyMLDSA, backend.FamilySLHDSA:
		return pqKind(k)
	default:
		return kind{}, false
	}
	return k, true
}

// label tells apart what PKCS#11 keeps as the same type: keys for AES-KWP and AES-GCM, for ECDH and ECDSA. Usages do not: NSS gives
// keys that came in more than they were to have.
func (k kind) label() string {
	switch k.Family {
	case backend.FamilyKWP:
		return labels[1]
	case backend.FamilyECDH:
		return labels[2]
	}
	return labels[0]
}

// labels are those of our keys.
var labels = [...]string{objectLabel, objectLabel + "-kwp", objectLabel + "-ecdh"}

// usages are the CKA_ numbers of what a key may be used for.
var usages = [...]uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE}

// style is what a token wants of templates. The zero value says everything; each bit leaves something out that some token refuses.
type style uint8

const (
	omitFalse       style = 1 << iota // usages that are false
	omitExtractable                   // CKA_EXTRACTABLE, where it would be false
	omitSensitive                     // CKA_SENSITIVE, where it would be true
)

// styles is the order in which the probing tries them.
var styles = [...]style{0, omitFalse, omitExtractable, omitFalse | omitExtractable, omitFalse | omitExtractable | omitSensitive}

func attr(typ uint, value any) *pkcs11.Attribute { return pkcs11.NewAttribute(typ, value) }

// usageAttributes says yes to some usages of the class and no to the others.
func (st style) usageAttributes(class uint, yes ...uint) []*pkcs11.Attribute {
	var out []*pkcs11.Attribute
	for _, u := range usages {
		has := false
		for _, y := range yes {
			has = has || y == u
		}
		switch {
		case has:
			out = append(out, attr(u, true))
		case st&omitFalse == 0 && belongs(class, u):
			out = append(out, attr(u, false))
		}
	}
	return out
}

// belongs reports whether PKCS#11 gives objects of the class the attribute at all (base specification sections 4.8 to 4.10).
func belongs(class, usage uint) bool {
	switch usage {
	case pkcs11.CKA_ENCRYPT, pkcs11.CKA_VERIFY, pkcs11.CKA_WRAP:
		return class != pkcs11.CKO_PRIVATE_KEY
	case pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_UNWRAP:
		return class != pkcs11.CKO_PUBLIC_KEY
	}
	return true
}

// object is what a template is made of.
type object struct {
	class, keyType uint
	label          string
	id             []byte
	onToken        bool
	extractable    bool
	usages         []uint
}

// template of a secret or private key: sensitive always, extractable only for the moment between generation and wrapping.
func (st style) template(o object) []*pkcs11.Attribute {
	out := []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, o.class), attr(pkcs11.CKA_KEY_TYPE, o.keyType), attr(pkcs11.CKA_TOKEN, o.onToken), attr(pkcs11.CKA_PRIVATE, true),
		attr(pkcs11.CKA_LABEL, o.label),
	}
	if len(o.id) > 0 {
		out = append(out, attr(pkcs11.CKA_ID, o.id))
	}
	if st&omitSensitive == 0 {
		out = append(out, attr(pkcs11.CKA_SENSITIVE, true))
	}
	if o.extractable || st&omitExtractable == 0 {
		out = append(out, attr(pkcs11.CKA_EXTRACTABLE, o.extractable))
	}
	return append(out, st.usageAttributes(o.class, o.usages...)...)
}

// publicTemplate is for the public half of a pair.
func (st style) publicTemplate(o object, usage ...uint) []*pkcs11.Attribute {
	out := []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, uint(pkcs11.CKO_PUBLIC_KEY)), attr(pkcs11.CKA_KEY_TYPE, o.keyType), attr(pkcs11.CKA_TOKEN, o.onToken),
		attr(pkcs11.CKA_PRIVATE, false), attr(pkcs11.CKA_LABEL, o.label),
	}
	if len(o.id) > 0 {
		out = append(out, attr(pkcs11.CKA_ID, o.id))
	}
	return append(out, st.usageAttributes(pkcs11.CKO_PUBLIC_KEY, usage...)...)
}

// usagesOf gives what the private or secret key of a kind and purpose may do, and its public half.
func (d *device) usagesOf(k kind, p backend.Purpose) (own, public []uint) {
	switch k.Family {
	case backend.FamilyAEAD:
		return []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT}, nil
	case backend.FamilyKWP:
		return d.kwp.usages(), nil
	case backend.FamilyHMAC:
		return []uint{pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY}, nil
	case backend.FamilyECDH:
		return []uint{pkcs11.CKA_DERIVE}, []uint{pkcs11.CKA_DERIVE}
	case backend.FamilyKEM:
		return nil, nil // kemUsage
	}
	if p == backend.PurposeEncryption && len(d.inside) > 0 {
		return []uint{pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP}, []uint{pkcs11.CKA_ENCRYPT} // it opens envelopes
	}
	if p == backend.PurposeEncryption {
		return []uint{pkcs11.CKA_DECRYPT}, []uint{pkcs11.CKA_ENCRYPT}
	}
	return []uint{pkcs11.CKA_SIGN}, []uint{pkcs11.CKA_VERIFY}
}
