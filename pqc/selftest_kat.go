package pqc

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha3"
	_ "embed"
	"encoding/base64"
	"errors"
	"strings"
)

// katText has a line for each algorithm: its name, then fields name=base64. Where the values come from is in kat_test.go, which makes
// the file from published vectors and says when it is another.
//
//go:embed kat.txt
var katText string

var (
	errKAT     = errors.New("pqc: a known answer is another")
	errKATFile = errors.New("pqc: the known answers are not there")
)

// kat gives the known answers of an algorithm.
func kat(name string) (map[string][]byte, error) {
	for line := range strings.Lines(katText) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != name {
			continue
		}
		m := make(map[string][]byte, len(fields)-1)
		for _, f := range fields[1:] {
			k, v, _ := strings.Cut(f, "=")
			b, err := base64.RawStdEncoding.Strict().DecodeString(v)
			if err != nil {
				return nil, errKATFile
			}
			m[k] = b
		}
		return m, nil
	}
	return nil, errKATFile
}

// katKey expands the seed of the known answers and compares the public key, where they have it.
func katKey(a *Algorithm) (*PrivateKey, map[string][]byte, error) {
	v, err := kat(a.info.Name)
	if err != nil {
		return nil, nil, err
	}
	k, err := a.NewPrivateKey(v["seed"])
	if err != nil {
		return nil, nil, err
	}
	if digest := sha256.Sum256(k.public.raw); v["public"] != nil && !bytes.Equal(digest[:], v["public"]) {
		k.Wipe()
		return nil, nil, errKAT
	}
	return k, v, nil
}

// katDecapsulate is a known ciphertext's secret, and that what is encapsulated now opens.
func katDecapsulate(k *PrivateKey, v map[string][]byte) error {
	ss, err := k.Decapsulate(v["ciphertext"])
	if err != nil {
		return err
	}
	if !bytes.Equal(ss, v["shared"]) {
		return errKAT
	}
	return katAgree(k)
}

func katAgree(k *PrivateKey) error {
	ct, ss, err := k.public.Encapsulate()
	if err != nil {
		return err
	}
	again, err := k.Decapsulate(ct)
	if err != nil {
		return err
	}
	if !bytes.Equal(ss, again) {
		return errKAT
	}
	return nil
}

// testMLKEM also takes the implicit rejection, whose answer the standard gives: J(z ‖ c) (FIPS 203 algorithm 18 line 7).
func testMLKEM(a *Algorithm) error {
	k, v, err := katKey(a)
	if err != nil {
		return err
	}
	defer k.Wipe()
	if err := katDecapsulate(k, v); err != nil {
		return err
	}
	changed := bytes.Clone(v["ciphertext"])
	changed[len(changed)/2] ^= 1
	rejected, err := k.Decapsulate(changed)
	if err != nil {
		return err
	}
	if want := sha3.SumSHAKE256(append(bytes.Clone(v["seed"][32:]), changed...), 32); !bytes.Equal(rejected, want) {
		return errKAT
	}
	return nil
}

func testXWing(a *Algorithm) error {
	k, v, err := katKey(a)
	if err != nil {
		return err
	}
	defer k.Wipe()
	impl, err := k.public.expanded()
	if err != nil {
		return err
	}
	kem, ok := impl.(kemPublic)
	if !ok {
		return errKAT
	}
	ct, ss, err := kem.encapsulate(v["coins"])
	if err != nil {
		return err
	}
	if !bytes.Equal(ss, v["shared"]) {
		return errKAT
	}
	return katDecapsulate(k, map[string][]byte{"ciphertext": ct, "shared": ss})
}

func testDHKEM(a *Algorithm) error {
	k, v, err := katKey(a)
	if err != nil {
		return err
	}
	defer k.Wipe()
	return katDecapsulate(k, v)
}

// katSign is a known signature's digest, and that it verifies where it is one and not where it was changed.
func katSign(k *PrivateKey, message []byte, o SignOptions, digest []byte) error {
	sig, err := k.Sign(message, o)
	if err != nil {
		return err
	}
	if d := sha256.Sum256(sig); !bytes.Equal(d[:], digest) {
		return errKAT
	}
	return katVerify(k.public, message, sig, o)
}

func katVerify(p *PublicKey, message, sig []byte, o SignOptions) error {
	ok, err := p.Verify(message, sig, o)
	if err != nil {
		return err
	}
	changed := bytes.Clone(sig)
	changed[len(changed)/2] ^= 1
	bad, err := p.Verify(message, changed, o)
	if err != nil {
		return err
	}
	if !ok || bad {
		return errKAT
	}
	return nil
}

// testMLDSA computes the known signature twice: from the message, and from its message representative by the other implementation.
func testMLDSA(a *Algorithm) error {
	k, v, err := katKey(a)
	if err != nil {
		return err
	}
	defer k.Wipe()
	o := SignOptions{Context: v["context"], Deterministic: true}
	if err := katSign(k, v["message"], o, v["signature"]); err != nil {
		return err
	}
	mu, err := k.public.Mu(v["message"], o)
	if err != nil {
		return err
	}
	return katSign(k, mu, SignOptions{ExternalMu: true, Deterministic: true}, v["signature"])
}

// testSLHDSA verifies a known signature. Of a fast set it also computes a known key, and of the fastest, SHA2-128f, the known signature. The
// others sign by the same code with other sizes, heights and hash functions, all of which key generation and verification go through, and
// would take up to a second each.
func testSLHDSA(a *Algorithm) error {
	v, err := kat(a.info.Name)
	if err != nil {
		return err
	}
	p, err := a.ParsePublicKey(v["key"])
	if err != nil {
		return err
	}
	o := SignOptions{Context: v["context"], Deterministic: true}
	if err := katVerify(p, v["message"], v["signature"], o); err != nil || v["seed"] == nil {
		return err
	}
	k, err := a.NewPrivateKey(v["seed"])
	if err != nil {
		return err
	}
	defer k.Wipe()
	if !k.public.Equal(p) {
		return errKAT
	}
	if a.info.Name != SLHDSASHA2128f {
		return nil
	}
	sig, err := k.Sign(v["message"], o)
	if err != nil {
		return err
	}
	if !bytes.Equal(sig, v["signature"]) {
		return errKAT
	}
	return nil
}

// testComposite verifies the draft's signature, whose ECDSA or ML-DSA part is not deterministic, and signs and verifies.
func testComposite(a *Algorithm) error {
	k, v, err := katKey(a)
	if err != nil {
		return err
	}
	defer k.Wipe()
	if err := katVerify(k.public, v["message"], v["signature"], SignOptions{}); err != nil {
		return err
	}
	o := SignOptions{Context: []byte("context")}
	sig, err := k.Sign(v["message"], o)
	if err != nil {
		return err
	}
	if ok, err := k.public.Verify(v["message"], sig, o); err != nil || !ok {
		return errKAT
	}
	// Each part has to hold by itself.
	for _, at := range []int{0, len(v["signature"]) - 1} {
		changed := bytes.Clone(v["signature"])
		changed[at] ^= 1
		if ok, err := k.public.Verify(v["message"], changed, SignOptions{}); err != nil || ok {
			return errKAT
		}
	}
	return nil
}
