package device

import "github.com/google/go-tpm/tpm2"

// Endorsement is the endorsement hierarchy with the session that authorises its use: attestation keys are made there.
func (tx *Tx) Endorsement() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tx.Salted(tx.d.o.EndorsementAuth, Plain)}
}
