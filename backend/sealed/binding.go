package sealed

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/keywright/keywright/backend"
)

// blobVersion is the first byte of Ref.Blob: 1 is the sealer's blob as it stands, over raw symmetric bytes,
// PKCS#8, or the seed of a key of package pqc.
const blobVersion = 1

// bindingDomain separates key material from everything else that the same sealing key may protect.
const bindingDomain = "keywright/v1/sealed-key"

// binding is what the sealer authenticates beside the material: each field with its length in two bytes big-endian before
// it, in this order: domain, tenant, key id, version (4 bytes), algorithm id (2 bytes), purpose, exportable (1 byte),
// custody, SHA-256 of the SPKI (of nothing for symmetric keys). docs/formats/sealed-key.md has it with vectors.
func binding(s *backend.Spec, algorithm uint16, custody backend.Custody, public []byte) []byte {
	b := make([]byte, 0, 192)
	b = appendField(b, bindingDomain)
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
	b = appendField(b, string(custody))
	sum := sha256.Sum256(public)
	return appendField(b, string(sum[:]))
}

func appendField(b []byte, field string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(field))) // every field is a constant or of fixed size
	return append(b, field...)
}
