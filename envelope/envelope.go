// Package envelope reads and writes the two versioned byte formats of the service: the ciphertext envelope that callers
// get from encrypt, and the sealed blob that the store keeps. The layouts are in docs/formats/envelope.md and
// docs/formats/sealed-blob.md, with vectors.
//
// It trusts nobody: what it parses comes from outside. A parsed envelope is well-formed and no more than that; only the
// AEAD says whether it is genuine.
package envelope

import (
	"encoding/binary"
	"slices"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Sizes of the format, in bytes.
const (
	MaxKEM   = 1<<16 - 1 // the length field has 16 bits
	MaxNonce = 1<<8 - 1  // 8 bits
	MaxBody  = 1<<32 - 1 // 32 bits; callers bound their plaintexts far below

	fixedSize = 4 + 1 + 16 + 4 + 2 + 2 + 1 + 4 // all but KEM ciphertext, nonce and body
)

const (
	magic         = "KWCE" // Keywright ciphertext envelope
	formatVersion = 1
)

// Header is what an envelope says in clear about the key that opens it. All of it is authenticated.
type Header struct {
	KeyID      uuid.UUID
	KeyVersion uint32 // from 1
	Algorithm  uint16 // backend.AlgorithmInfo.ID, never 0
	KEM        []byte // KEM ciphertext, nil where the algorithm has none
}

// Envelope is a parsed ciphertext envelope. Its slices alias the parsed input.
type Envelope struct {
	Header
	Nonce []byte // empty where the algorithm has none
	Body  []byte // ciphertext ‖ tag, never empty

	// Sealed is Nonce ‖ Body in one piece, as backend.AEAD.Open takes it. Parse sets it; Append does not look at it.
	Sealed []byte
}

// errMalformed is the one answer for everything that is wrong with an envelope, so that the answer is no oracle.
var errMalformed = fault.New(fault.BadEnvelope, "the ciphertext is not a well-formed envelope")

// Parse reads one envelope that fills b exactly. It allocates nothing: the result's slices alias b, with their capacity
// cut so that an append to one cannot overwrite the next. Every failure is the same fault.BadEnvelope.
func Parse(b []byte) (Envelope, error) {
	if len(b) <= fixedSize || string(b[:4]) != magic || b[4] != formatVersion {
		return Envelope{}, errMalformed
	}
	var e Envelope
	copy(e.KeyID[:], b[5:21])
	e.KeyVersion = binary.BigEndian.Uint32(b[21:25])
	e.Algorithm = binary.BigEndian.Uint16(b[25:27])
	kem := int(binary.BigEndian.Uint16(b[27:29]))
	if e.KeyVersion == 0 || e.Algorithm == 0 || len(b) <= fixedSize+kem {
		return Envelope{}, errMalformed
	}
	if kem > 0 {
		e.KEM = b[29 : 29+kem : 29+kem]
	}
	at := 29 + kem
	nonce, body := int(b[at]), uint64(binary.BigEndian.Uint32(b[at+1:at+5]))
	rest := b[at+5:]
	if body == 0 || uint64(len(rest)) != uint64(nonce)+body {
		return Envelope{}, errMalformed
	}
	e.Sealed = rest[:len(rest):len(rest)]
	e.Nonce, e.Body = rest[:nonce:nonce], e.Sealed[nonce:]
	return e, nil
}

// Size is the exact size in bytes of an envelope with this header, so that its buffer can be made once.
func (h *Header) Size(nonceSize, bodySize int) int {
	return fixedSize + len(h.KEM) + nonceSize + bodySize
}

// AppendHeader appends everything that stands before the nonce. What belongs behind it is nonce ‖ ciphertext ‖ tag in one
// piece, which is what backend.AEAD.Seal appends: header and sealed bytes go into one buffer without a copy.
//
//	buf := h.AppendHeader(make([]byte, 0, h.Size(nonce, body)), nonce, body)
//	buf, err = key.Seal(ctx, buf, plaintext, h.AppendAAD(nil, nonce, aad, context))
//
// bodySize counts ciphertext and tag. Sizes beyond the format's limits, a zero version or algorithm, or an empty body
// are faults of the program, not of its input, and panic: such an envelope could never be opened again.
func (h *Header) AppendHeader(dst []byte, nonceSize, bodySize int) []byte {
	if bodySize < 1 || uint64(bodySize) > MaxBody {
		panic("envelope: body size out of range")
	}
	dst = h.appendBound(dst, nonceSize)
	return binary.BigEndian.AppendUint32(dst, uint32(bodySize))
}

// appendBound appends the part of the envelope that is known before encryption and authenticated as it stands.
func (h *Header) appendBound(dst []byte, nonceSize int) []byte {
	if h.KeyVersion == 0 || h.Algorithm == 0 || len(h.KEM) > MaxKEM || nonceSize < 0 || nonceSize > MaxNonce {
		panic("envelope: header out of range")
	}
	dst = append(dst, magic...)
	dst = append(dst, formatVersion)
	dst = append(dst, h.KeyID[:]...)
	dst = binary.BigEndian.AppendUint32(dst, h.KeyVersion)
	dst = binary.BigEndian.AppendUint16(dst, h.Algorithm)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.KEM)))
	dst = append(dst, h.KEM...)
	return append(dst, byte(nonceSize))
}

// Append appends the whole envelope: for a parsed one, exactly the bytes that were parsed. Its limits are those of
// AppendHeader.
func (e *Envelope) Append(dst []byte) []byte {
	dst = e.AppendHeader(dst, len(e.Nonce), len(e.Body))
	dst = append(dst, e.Nonce...)
	return append(dst, e.Body...)
}

// AADSize is the exact size in bytes of what AppendAAD appends.
func (h *Header) AADSize(aad []byte, context map[string]string) int {
	n := fixedSize - 4 + len(h.KEM) + 4 + len(aad) + 4
	for k, v := range context {
		n += 8 + len(k) + len(v)
	}
	return n
}

// AppendAAD appends the additional authenticated data of the envelope: the envelope's own first bytes up to and with the
// nonce size, then the caller's aad and context, each length-prefixed, the context sorted by the bytes of its names.
// Absent and empty aad are alike, and so are absent and empty context. The nonce is authenticated by the AEAD as its nonce
// and the body size as the size of its ciphertext.
func (h *Header) AppendAAD(dst []byte, nonceSize int, aad []byte, context map[string]string) []byte {
	dst = h.appendBound(dst, nonceSize)
	dst = appendBytes(dst, aad)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(context)))
	if len(context) == 0 {
		return dst
	}
	var space [16]string // enough for nearly every context, so that the names need no heap
	names := space[:0]
	for k := range context {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		dst = appendString(dst, k)
		dst = appendString(dst, context[k])
	}
	return dst
}

// appendBytes appends b with its length before it. The lengths are 32 bits; a longer slice than that cannot come in: the
// bodies of requests are bounded to megabytes.
func appendBytes(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(s))), s...)
}
