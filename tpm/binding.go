package tpm

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// The Spec of a key version is bound three times, because each binding holds against somebody else:
//
//   - The object's authPolicy is a digest over it. The TPM keeps public and private part together (TPM 2.0 part 1, section 27.5), so that
//     the key cannot be had under another Spec by anybody, and a certified Name proves it.
//   - The object's authValue is derived from the root over it: without the root the TPM does nothing with the key.
//   - The blob has a tag by a key of the root over it, the public key and the whole blob: a record that was changed does not load.
const (
	// policyDomain begins what authPolicy is a digest of. A policy session's digest is H(digest before ‖ …) (part 1, section 19.7), so
	// that the first 32 bytes of its preimage are a digest or zeros. These are a constant, longer than that: no session gets there.
	policyDomain = "keywright/v1/tpm-key/binding-without-policy"
	refDomain    = "keywright/v1/tpm-ref"
	authDomain   = "keywright/v1/tpm-auth"
	tagDomain    = "keywright/v1/tpm-tag"
)

// Label is what the backend's secret is derived from the root under.
const Label = "keywright/v1/tpm"

const secretSize = 32

// appendSpec encodes the Spec: each field with its length in two bytes before it. Custody is not in it: it follows from the place.
func appendSpec(b []byte, s *backend.Spec, algorithm uint16) []byte {
	b = appendField(b, s.Tenant[:])
	b = appendField(b, s.KeyID[:])
	b = appendField(b, binary.BigEndian.AppendUint32(nil, s.Version))
	b = appendField(b, binary.BigEndian.AppendUint16(nil, algorithm))
	b = appendField(b, []byte(s.Purpose))
	exportable := []byte{0}
	if s.Exportable {
		exportable[0] = 1
	}
	return appendField(b, exportable)
}

// PolicyOf is the authPolicy of the TPM objects of a key version: SHA-256 over its Spec, which no policy session can reach. A verifier of
// evidence computes it to see that a certified object is that key version's. The algorithm must be in the table.
func PolicyOf(s backend.Spec) ([]byte, error) {
	info, ok := backend.Lookup(s.Algorithm)
	if !ok {
		return nil, errUnsupported
	}
	return policyOf(&s, info.ID), nil
}

func policyOf(s *backend.Spec, algorithm uint16) []byte {
	b := appendField(make([]byte, 0, 160), []byte(policyDomain))
	sum := sha256.Sum256(appendSpec(b, s, algorithm))
	return sum[:]
}

// secrets are the two keys that the root gives.
type secrets struct {
	tag  secret.Bytes // of the tags of Refs
	auth secret.Bytes // of auth values
}

// newSecrets expands the root's secret into one key for each use (HKDF-Expand, RFC 5869 section 2.3; the secret is uniformly random, so that
// the extract step may be left out: section 3.3).
func newSecrets(prk secret.Bytes) (*secrets, error) {
	if len(prk) != secretSize {
		return nil, fault.New(fault.Internal, "the root derives a secret of the wrong size")
	}
	tag, err := hkdf.Expand(sha256.New, prk, tagDomain, secretSize)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "deriving a key", err)
	}
	auth, err := hkdf.Expand(sha256.New, prk, authDomain, secretSize)
	if err != nil {
		clear(tag)
		return nil, fault.Wrap(fault.Internal, "deriving a key", err)
	}
	return &secrets{tag: tag, auth: auth}, nil
}

func (s *secrets) wipe() {
	s.tag.Wipe()
	s.auth.Wipe()
}

// value derives the auth value for a context (HKDF-Expand, RFC 5869 section 2.3): 32 bytes, as long as the name algorithm's digest, which is the most that an object
// takes. TPMs cut zeros off the end of auth values (part 1, section 19.6.5) and programs differ in how, so a value with a zero byte is left for the next of the
// sequence: what is left is uniform over the 255^32 others, 255.8 bits. One in nine is left out.
func (s *secrets) value(context []byte) (secret.Bytes, error) {
	info := appendField(make([]byte, 0, 4+len(authDomain)+len(context)), []byte(authDomain))
	info = append(info, context...)
	info = append(info, 0, 0)
	for n := range uint16(1 << 12) {
		binary.BigEndian.PutUint16(info[len(info)-2:], n)
		out, err := hkdf.Expand(sha256.New, s.auth, string(info), secretSize)
		if err != nil {
			return nil, fault.Wrap(fault.Internal, "deriving an auth value", err)
		}
		if !hasZero(out) {
			return out, nil
		}
		clear(out)
	}
	return nil, fault.New(fault.Internal, "no auth value could be derived") // probability 2^-13000
}

func hasZero(b []byte) bool {
	for _, c := range b {
		if c == 0 {
			return true
		}
	}
	return false
}

// authOf gives the auth value of the objects of a key version.
func (s *secrets) authOf(spec *backend.Spec, algorithm uint16) (secret.Bytes, error) {
	return s.value(appendSpec(make([]byte, 0, 128), spec, algorithm))
}

// tagOf authenticates a Ref (HMAC-SHA-256, RFC 2104).
func (s *secrets) tagOf(spec *backend.Spec, algorithm uint16, public, body []byte) []byte {
	b := appendField(make([]byte, 0, 320), []byte(refDomain))
	b = appendSpec(b, spec, algorithm)
	b = appendField(b, []byte(spec.Custody))
	sum := sha256.Sum256(public)
	b = appendField(b, sum[:])
	sum = sha256.Sum256(body)
	b = appendField(b, sum[:])
	mac := hmac.New(sha256.New, s.tag)
	mac.Write(b)
	return mac.Sum(nil)
}
