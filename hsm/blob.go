package hsm

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/token"
)

// Ref.Blob is
//
//	version 1 ‖ place ‖ authentication ‖ length of the name (1) ‖ name of the token ‖ CKA_ID (20) ‖ wrapped key ‖ tag (32)
//
// or, in sealed custody, version 1 ‖ place 3 ‖ the engine's blob. Never has it a handle: those die with their session. docs/formats/hsm-ref.md
// has it.
const (
	blobVersion = 1
	tagSize     = sha256.Size
	// maxName bounds the name of a token: PKCS#11 gives serial numbers 16 and labels 32 bytes.
	maxName = 64
	// maxWrapped bounds a wrapped key (see hsm/token).
	maxWrapped = 1 << 13
)

// place is where the key is; on disk, never reused.
type place byte

const (
	placeResident place = 1
	placeWrapped  place = 2
	placeSealed   place = 3
	placeCopied   place = 4 // resident on all members, and wrapped in the blob for those that do not have it yet
)

// authentication is what the tag is; on disk, never reused.
type authentication byte

const (
	byToken  authentication = 1 // HMAC-SHA-256 by the token's binding key
	byDigest authentication = 2 // SHA-256: the token has no HMAC
)

// blob is a parsed Ref.Blob. Its slices belong to the bytes it was made of.
type blob struct {
	place   place
	auth    authentication
	name    string // serial number or label of the token that made the key
	id      token.ID
	wrapped []byte
	body    []byte // everything before the tag
	tag     []byte
	sealed  []byte // in sealed custody alone
}

// parseBlob takes a blob apart. Nothing in it is to be believed before the tag is checked.
func parseBlob(b []byte) (out blob, ok bool) {
	if len(b) < 3 || b[0] != blobVersion {
		return blob{}, false
	}
	out.place = place(b[1])
	switch out.place {
	case placeSealed:
		out.sealed = b[2:]
		return out, true
	case placeResident, placeWrapped, placeCopied:
	default:
		return blob{}, false
	}
	out.auth = authentication(b[2])
	if out.auth != byToken && out.auth != byDigest || len(b) < 4 {
		return blob{}, false
	}
	n := int(b[3])
	if n > maxName || len(b) < 4+n+token.IDSize+tagSize {
		return blob{}, false
	}
	end := len(b) - tagSize
	out.name, out.id = string(b[4:4+n]), token.ID(b[4+n:])
	out.wrapped = b[4+n+token.IDSize : end]
	out.body, out.tag = b[:end], b[end:]
	if len(out.wrapped) > maxWrapped || (len(out.wrapped) > 0) == (out.place == placeResident) {
		return blob{}, false
	}
	return out, true
}

// appendBody makes everything before the tag.
func appendBody(p place, a authentication, name string, id token.ID, wrapped []byte) []byte {
	out := make([]byte, 0, 4+len(name)+token.IDSize+len(wrapped)+tagSize)
	out = append(out, blobVersion, byte(p), byte(a), byte(len(name))) // newMember cuts names to maxName
	out = append(out, name...)
	out = append(out, id[:]...)
	return append(out, wrapped...)
}

// refDomain and identityDomain keep apart what the binding key is used for.
const (
	refDomain      = "keywright/v1/hsm-ref"
	identityDomain = "keywright/v1/hsm-identity"
)

// statement is what the tag is made over: each field with its length in two bytes big-endian before it, in this order: domain,
// tenant, key id, version (4 bytes), algorithm id (2 bytes), purpose, exportable (1 byte), custody, SHA-256 of the SPKI (of nothing for
// symmetric keys), SHA-256 of the blob without its tag.
func statement(s *backend.Spec, algorithm uint16, public, body []byte) []byte {
	b := make([]byte, 0, 256)
	b = appendField(b, refDomain)
	b = appendField(b, string(s.Tenant[:]))
	b = appendField(b, string(s.KeyID[:]))
	b = appendField(b, string(binary.BigEndian.AppendUint32(nil, s.Version)))
	b = appendField(b, string(binary.BigEndian.AppendUint16(nil, algorithm)))
	b = appendField(b, string(s.Purpose))
	exportable := "\x00"
	if s.Exportable {
		exportable = "\x01"
	}
	b = appendField(b, exportable)
	b = appendField(b, string(s.Custody))
	sum := sha256.Sum256(public)
	b = appendField(b, string(sum[:]))
	sum = sha256.Sum256(body)
	return appendField(b, string(sum[:]))
}

func appendField(b []byte, field string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(field))) // resolve has checked the words; the rest is of fixed size
	return append(b, field...)
}

// idOf gives the CKA_ID of a key version.
func idOf(s *backend.Spec) (id token.ID) {
	copy(id[:], s.KeyID[:])
	binary.BigEndian.PutUint32(id[len(s.KeyID):], s.Version)
	return id
}
