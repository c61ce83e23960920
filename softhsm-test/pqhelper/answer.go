package main

import (
	"bytes"
	"crypto/sha3"
	"encoding/asn1"
	"errors"
	"slices"

	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
)

// The status of an answer.
const (
	done    = 0
	absent  = 1
	refused = 2
)

// sets are the token's, by key type and parameter set (PKCS#11 3.2, sections 6.67 to 6.69). Of SLH-DSA it has two of twelve: a mechanism list does not say
// which, and the slow ones are nobody's to wait for.
var sets = map[[2]byte]string{
	{0x49, 1}: pqc.MLKEM512, {0x49, 2}: pqc.MLKEM768, {0x49, 3}: pqc.MLKEM1024,
	{0x4a, 1}: pqc.MLDSA44, {0x4a, 2}: pqc.MLDSA65, {0x4a, 3}: pqc.MLDSA87,
	{0x4b, 3}: pqc.SLHDSASHA2128f, {0x4b, 4}: pqc.SLHDSASHAKE128f,
}

// hashes are numbered in the order of PKCS#11's mechanisms.
var hashes = [...]pqc.PreHash{"", pqc.SHA2x256, pqc.SHA2x384, pqc.SHA2x512}

type helper struct {
	wrong []string
	// The key that was used last, expanded.
	last    string
	lastKey *pqc.PrivateKey
}

func (h *helper) is(wrong string) bool { return slices.Contains(h.wrong, wrong) }

type request struct {
	what, keyType, set, flags, hash byte
	context, seed, data             []byte
}

func parse(b []byte) (q request, ok bool) {
	if len(b) < 6 {
		return q, false
	}
	q.what, q.keyType, q.set, q.flags, q.hash = b[0], b[1], b[2], b[3], b[4]
	var good bool
	if q.context, b, good = sized(b[5:]); !good {
		return q, false
	}
	if q.seed, q.data, good = sized(b); !good {
		return q, false
	}
	return q, int(q.hash) < len(hashes)
}

// sized reads a byte string with its size before it.
func sized(b []byte) (p, rest []byte, ok bool) {
	if len(b) < 1 || len(b) < 1+int(b[0]) {
		return nil, nil, false
	}
	return b[1 : 1+int(b[0])], b[1+int(b[0]):], true
}

func (h *helper) answer(body []byte) []byte {
	q, ok := parse(body)
	if !ok {
		return []byte{refused}
	}
	if (q.what == marshal || q.what == unmarshal) && h.is("no-wrapping") {
		return []byte{refused}
	}
	if q.what == unmarshal {
		return open(q)
	}
	alg, ok := pqc.Lookup(sets[[2]byte{q.keyType, q.set}])
	if !ok {
		return []byte{absent}
	}
	if alg.Info().Kind == pqc.KindKEM && h.is("no-secret") || alg.Info().Kind == pqc.KindSignature && h.is("no-signature") {
		return []byte{absent}
	}
	out, err := h.do(alg, q)
	if err != nil {
		return []byte{refused}
	}
	return append([]byte{done}, out...)
}

func (h *helper) do(alg *pqc.Algorithm, q request) ([]byte, error) {
	switch q.what {
	case generate:
		return h.generate(alg)
	case encapsulate:
		pub, err := alg.ParsePublicKey(q.data)
		if err != nil {
			return nil, err
		}
		ct, secret, err := pub.Encapsulate()
		return append(secret, ct...), err
	}
	key, err := h.key(alg, q.seed)
	if err != nil {
		return nil, err
	}
	switch q.what {
	case sign:
		return h.sign(key, q)
	case decapsulate:
		return h.decapsulate(key, q)
	case marshal:
		return keyenc.MarshalPKCS8(key)
	default:
		return key.PublicKey().Bytes(), nil
	}
}

// open reads PKCS#8. AES-KWP as some modules do it leaves zeros behind what was wrapped.
func open(q request) []byte {
	var whole asn1.RawValue
	if _, err := asn1.Unmarshal(q.data, &whole); err != nil {
		return []byte{refused}
	}
	priv, err := keyenc.ParsePKCS8(whole.FullBytes)
	if err != nil {
		return []byte{refused}
	}
	key, ok := priv.(*pqc.PrivateKey)
	if !ok {
		return []byte{refused}
	}
	for id, name := range sets {
		if name == key.Algorithm().Name() && id[0] == q.keyType {
			return slices.Concat([]byte{done, id[1]}, key.Seed())
		}
	}
	return []byte{absent}
}

func (h *helper) generate(alg *pqc.Algorithm) ([]byte, error) {
	seed, err := alg.GenerateSeed(nil)
	if err != nil {
		return nil, err
	}
	shown := seed
	if h.is("public") {
		if shown, err = alg.GenerateSeed(nil); err != nil {
			return nil, err
		}
	}
	key, err := h.key(alg, shown)
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte{byte(len(seed))}, seed, key.PublicKey().Bytes()), nil
}

func (h *helper) key(alg *pqc.Algorithm, seed []byte) (*pqc.PrivateKey, error) {
	name := alg.Name() + string(seed)
	if h.last == name {
		return h.lastKey, nil
	}
	key, err := alg.NewPrivateKey(seed)
	if err != nil {
		return nil, err
	}
	h.last, h.lastKey = name, key
	return key, nil
}

func (h *helper) sign(key *pqc.PrivateKey, q request) ([]byte, error) {
	o := pqc.SignOptions{Context: q.context, Deterministic: q.flags&deterministic != 0 && !h.is("random") || h.is("hedge")}
	if q.hash != 0 && !h.is("prehash") {
		o.PreHash, o.Digest = hashes[q.hash], true
	}
	if h.is("context") {
		o.Context = nil
	}
	out, err := key.Sign(q.data, o)
	if err == nil && h.is("signature") {
		out[len(out)/2] ^= 1
	}
	return out, err
}

func (h *helper) decapsulate(key *pqc.PrivateKey, q request) ([]byte, error) {
	secret, err := key.Decapsulate(q.data)
	if err != nil {
		return nil, err
	}
	if h.is("secret") {
		secret[0] ^= 1
	}
	// FIPS 203 algorithm 17, line 7: what implicit rejection gives is SHAKE256(z ‖ c), z being the second half of the seed.
	if h.is("rejection") && bytes.Equal(secret, sha3.SumSHAKE256(slices.Concat(q.seed[32:], q.data), 32)) {
		return nil, errors.New("rejected")
	}
	return secret, nil
}
