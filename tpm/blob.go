package tpm

import (
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"
)

// Ref.Blob is
//
//	version 1 ‖ place 1 ‖ length of the Name (1) ‖ Name of the parent ‖ objects (1) ‖ { TPM2B_PUBLIC ‖ TPM2B_PRIVATE } ‖ tag (32)
//
// or, in sealed custody, version 1 ‖ place 2 ‖ the engine's blob. docs/formats/tpm-key-blob.md has it.
const (
	blobVersion = 1
	tagSize     = 32
	nameSize    = 2 + 32 // TPMI_ALG_HASH and a SHA-256 digest (TPM 2.0 part 1, section 16): every parent here has that name algorithm
	maxObjects  = 2
	// maxPart bounds a TPM2B in bytes: an RSA-4096 key has about 0.6 KB public and 0.9 KB private.
	maxPart = 4096
)

// place is where the key is; on disk, never reused.
type place byte

const (
	placeTPM    place = 1
	placeSealed place = 2
)

// object is one TPM object of a blob: what TPM2_Load takes, without the sizes before it.
type object struct {
	public  []byte // TPMT_PUBLIC
	private []byte // the contents of TPM2B_PRIVATE
}

// blob is a parsed Ref.Blob. Its slices belong to the bytes that it was made of.
type blob struct {
	place   place
	parent  []byte // Name
	objects [maxObjects]object
	count   int
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
	case placeTPM:
	default:
		return blob{}, false
	}
	if int(b[2]) != nameSize || len(b) < 3+nameSize+1+tagSize {
		return blob{}, false
	}
	end := len(b) - tagSize
	out.body, out.tag = b[:end], b[end:]
	out.parent = b[3 : 3+nameSize]
	out.count = int(b[3+nameSize])
	rest := b[3+nameSize+1 : end]
	if out.count < 1 || out.count > maxObjects {
		return blob{}, false
	}
	for i := range out.count {
		o := &out.objects[i]
		if o.public, rest, ok = part(rest); !ok {
			return blob{}, false
		}
		if o.private, rest, ok = part(rest); !ok {
			return blob{}, false
		}
	}
	return out, len(rest) == 0
}

// part takes a TPM2B, of one byte at least, off the front.
func part(b []byte) (first, rest []byte, ok bool) {
	if len(b) < 3 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n == 0 || n > maxPart || len(b) < 2+n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// appendBody makes everything before the tag.
func appendBody(parent []byte, objects ...object) []byte {
	size := 4 + len(parent) + tagSize
	for _, o := range objects {
		size += 4 + len(o.public) + len(o.private)
	}
	out := make([]byte, 0, size)
	out = append(out, blobVersion, byte(placeTPM), byte(len(parent))) // Names of parents have nameSize
	out = append(out, parent...)
	out = append(out, byte(len(objects)))
	for _, o := range objects {
		out = appendField(out, o.public)
		out = appendField(out, o.private)
	}
	return out
}

// appendField puts a size of two bytes before the bytes: every field here has less than 64 KiB, by its type or by a check before.
func appendField(b, field []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(field)))
	return append(b, field...)
}

// load2B gives what TPM2_Load takes of an object.
func (o object) load2B() (tpm2.TPM2BPrivate, tpm2.TPM2BPublic) {
	return tpm2.TPM2BPrivate{Buffer: o.private}, tpm2.BytesAs2B[tpm2.TPMTPublic](o.public)
}
