package attest

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
)

// policyDomain begins what the authPolicy of a TPM object is a digest of (docs/formats/tpm-key-blob.md).
const policyDomain = "keywright/v1/tpm-key/binding-without-policy"

// ObjectPolicy is the authPolicy that the TPM objects of a key version have: a digest over tenant, key id, version, algorithm and purpose. It is
// in the public area, so that a certified Name proves for which key version the object was made. The fields of st must be well-formed; an
// algorithm that is not in the table is refused.
func ObjectPolicy(st *Statement) ([]byte, error) {
	info, ok := backend.Lookup(backend.Algorithm(st.Algorithm))
	tenant, err := uuid.Parse(st.Tenant)
	if !ok || err != nil {
		return nil, refuse("the statement is of no key that a TPM has")
	}
	id, err := uuid.Parse(st.KeyID)
	if err != nil {
		return nil, refuse("the statement is of no key that a TPM has")
	}
	var b []byte
	for _, field := range [][]byte{[]byte(policyDomain), tenant[:], id[:], binary.BigEndian.AppendUint32(nil, st.KeyVersion),
		binary.BigEndian.AppendUint16(nil, info.ID), []byte(st.Purpose), {0}} { // 0: keys in device custody are never exported
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(field))), field...) // purposes are short
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}
