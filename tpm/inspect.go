package tpm

import (
	"bytes"
	"context"

	"github.com/keywright/keywright/tpm/device"
)

// PCRValues gives the values of PCRs now, in the order of their numbers. Whoever sits on the bus could change them on the way: they are to look at and to
// approve by somebody who knows what they should be.
func (s *Sealer) PCRValues(ctx context.Context, p PCRs) ([][]byte, error) {
	selection, err := p.selection()
	if err != nil {
		return nil, err
	}
	var out [][]byte
	err = s.dev.Do(ctx, "pcr-read", func(tx *device.Tx) error {
		values, err := readPCRs(tx, selection)
		out = out[:0]
		for _, v := range values {
			out = append(out, bytes.Clone(v))
		}
		return err
	})
	if err != nil {
		return nil, refused(err)
	}
	return out, nil
}

// EndorsementCertificates gives the certificates (X.509 DER) that the TPM's maker left in it for the endorsement key that evidence names: none where there is none. The caller
// must not change them.
func (b *Backend) EndorsementCertificates(ctx context.Context) ([][]byte, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.gate.Leave()
	ek, err := b.endorsement(ctx)
	if err != nil {
		return nil, err
	}
	return ek.certificates, nil
}
