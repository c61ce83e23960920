package keyenc

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"strings"

	"github.com/cloudflare/circl/dh/x448"
	"github.com/cloudflare/circl/sign/ed448"
	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/pqc"
)

// JWK is a public key as RFC 7517 writes it, with the members of RFC 7518 section 6 (EC, RSA) RFC 8037 section 2
// (OKP) and RFC 9964 section 3 (AKP).
// PublicJWK fills those of the key; the common ones (section 4 of RFC 7517) are the caller's.
type JWK struct {
	KeyType   string   `json:"kty"`
	Use       string   `json:"use,omitempty"`
	KeyOps    []string `json:"key_ops,omitempty"`
	Algorithm string   `json:"alg,omitempty"`
	KeyID     string   `json:"kid,omitempty"`
	Curve     string   `json:"crv,omitempty"`
	X         string   `json:"x,omitempty"`
	Y         string   `json:"y,omitempty"`
	N         string   `json:"n,omitempty"`
	E         string   `json:"e,omitempty"`
	Pub       string   `json:"pub,omitempty"`
}

// secretMembers is what a private or symmetric JWK has beside the members of a public one. A parser of public keys refuses
// them, lest a secret be taken, stored or logged as if it were public.
type secretMembers struct {
	JWK
	D   any `json:"d"`
	P   any `json:"p"`
	Q   any `json:"q"`
	DP  any `json:"dp"`
	DQ  any `json:"dq"`
	QI  any `json:"qi"`
	Oth any `json:"oth"`
	K   any `json:"k"`

	Priv any `json:"priv"`
}

// b64 is strict: no padding (RFC 7515 section 2), no loose bits at the end.
var b64 = base64.RawURLEncoding.Strict()

// unb64 reads it. No line ends either, which Go's decoder passes over.
func unb64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, ErrMalformed
	}
	return b64.DecodeString(s)
}

// PublicJWK gives the JWK of a public key.
func PublicJWK(pub crypto.PublicKey) (JWK, error) {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if k.N == nil || k.N.Sign() <= 0 || k.E < 2 || k.N.BitLen() > maxRSABits {
			return JWK{}, ErrUnsupported
		}
		return JWK{KeyType: "RSA", N: b64.EncodeToString(k.N.Bytes()), E: b64.EncodeToString(big.NewInt(int64(k.E)).Bytes())}, nil
	case ed25519.PublicKey:
		return okp("Ed25519", k, ed25519.PublicKeySize)
	case ed448.PublicKey:
		return okp("Ed448", k, ed448.PublicKeySize)
	case X448PublicKey:
		return okp("X448", k[:], x448.Size)
	case *ecdh.PublicKey:
		switch k.Curve() {
		case ecdh.X25519():
			return okp("X25519", k.Bytes(), 32)
		case ecdh.P256():
			return ecJWK("P-256", k.Bytes()), nil
		case ecdh.P384():
			return ecJWK("P-384", k.Bytes()), nil
		case ecdh.P521():
			return ecJWK("P-521", k.Bytes()), nil
		}
	case *ecdsa.PublicKey:
		if curveOID(k.Curve) == nil {
			return JWK{}, ErrUnsupported
		}
		point, err := k.Bytes()
		if err != nil {
			return JWK{}, ErrUnsupported
		}
		return ecJWK(k.Curve.Params().Name, point), nil
	case *pqc.PublicKey:
		if name := k.Algorithm().Name(); akp(name) {
			return JWK{KeyType: "AKP", Algorithm: name, Pub: b64.EncodeToString(k.Bytes())}, nil
		}
	}
	return JWK{}, ErrUnsupported
}

// akp reports whether the algorithm has a JWK of the type AKP, in which "alg" names it: ML-DSA (RFC 9964 section 3).
// The drafts for the others are not as far.
func akp(name string) bool { return name == pqc.MLDSA44 || name == pqc.MLDSA65 || name == pqc.MLDSA87 }

func okp(curve string, key []byte, size int) (JWK, error) {
	if len(key) != size {
		return JWK{}, ErrUnsupported
	}
	return JWK{KeyType: "OKP", Curve: curve, X: b64.EncodeToString(key)}, nil
}

func ecJWK(curve string, point []byte) JWK {
	n := len(point) / 2
	return JWK{KeyType: "EC", Curve: curve, X: b64.EncodeToString(point[1 : 1+n]), Y: b64.EncodeToString(point[1+n:])}
}

// MarshalJWK gives the JSON of a public key's JWK without the common members, in the member order of the struct.
func MarshalJWK(pub crypto.PublicKey) ([]byte, error) {
	j, err := PublicJWK(pub)
	if err != nil {
		return nil, err
	}
	return json.Marshal(j)
}

// ParseJWK reads one public JWK. Unknown members are ignored, as RFC 7517 section 4 wants; duplicate ones, trailing data and
// members of a private key are refused, and so are integers with leading zeros and coordinates that are not of full size.
func ParseJWK(text []byte) (crypto.PublicKey, error) {
	var m secretMembers
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, ErrMalformed
	}
	for _, v := range []any{m.D, m.P, m.Q, m.DP, m.DQ, m.QI, m.Oth, m.K, m.Priv} {
		if v != nil {
			return nil, ErrUnsupported
		}
	}
	return m.PublicKey()
}

// PublicKey gives the key that the JWK describes.
func (j JWK) PublicKey() (crypto.PublicKey, error) {
	switch j.KeyType {
	case "RSA":
		n, err1 := decodeUint(j.N)
		e, err2 := decodeUint(j.E)
		if err1 != nil || err2 != nil || n.BitLen() > maxRSABits || e.BitLen() > 31 || e.Sign() <= 0 {
			return nil, ErrMalformed
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
	case "EC":
		return j.ecPublic()
	case "OKP":
		x, err := unb64(j.X)
		if err != nil {
			return nil, ErrMalformed
		}
		return okpPublic(j.Curve, x)
	case "AKP":
		alg, ok := pqc.Lookup(j.Algorithm)
		if !ok || !akp(j.Algorithm) {
			return nil, ErrUnsupported
		}
		raw, err := unb64(j.Pub)
		if err != nil {
			return nil, ErrMalformed
		}
		return pqPublic(alg, raw)
	}
	return nil, ErrUnsupported
}

func okpPublic(curve string, x []byte) (crypto.PublicKey, error) {
	switch {
	case curve == "Ed25519" && len(x) == ed25519.PublicKeySize:
		return ed25519.PublicKey(x), nil
	case curve == "Ed448" && len(x) == ed448.PublicKeySize:
		return ed448.PublicKey(x), nil
	case curve == "X448" && len(x) == x448.Size:
		return X448PublicKey(x), nil
	case curve == "X25519" && len(x) == 32:
		pub, err := ecdh.X25519().NewPublicKey(x)
		if err != nil {
			return nil, ErrMalformed
		}
		return pub, nil
	}
	return nil, ErrMalformed
}

func (j JWK) ecPublic() (crypto.PublicKey, error) {
	var c elliptic.Curve
	switch j.Curve {
	case "P-256":
		c = elliptic.P256()
	case "P-384":
		c = elliptic.P384()
	case "P-521":
		c = elliptic.P521()
	default:
		return nil, ErrUnsupported
	}
	x, err1 := unb64(j.X)
	y, err2 := unb64(j.Y)
	if err1 != nil || err2 != nil || len(x) != fieldSize(c) || len(y) != fieldSize(c) {
		return nil, ErrMalformed
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(c, bytes.Join([][]byte{{4}, x, y}, nil))
	if err != nil {
		return nil, ErrMalformed
	}
	return pub, nil
}

// decodeUint reads a Base64urlUInt (RFC 7518 section 2): the minimum number of octets, at least one.
func decodeUint(s string) (*big.Int, error) {
	b, err := unb64(s)
	if err != nil || len(b) == 0 || b[0] == 0 {
		return nil, ErrMalformed
	}
	return new(big.Int).SetBytes(b), nil
}
