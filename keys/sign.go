package keys

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/verify"
)

// Sign signs each message, or its digest, with the primary version or the one that t names. ECDSA signatures are DER (RFC 3279
// section 2.2.3) unless o.P1363.
func (s *Service) Sign(ctx context.Context, c Caller, t Target, o SignOpts, items []SignItem, single bool) ([]BytesResult, error) {
	var opts backend.SignOpts
	form := func(b *batch, sig []byte) ([]byte, error) {
		if b.record.info.Family != backend.FamilyECDSA || o.P1363 {
			return sig, nil
		}
		der, err := keyenc.P1363ToDER(sig, fieldSize(&b.record.info))
		if err != nil {
			return nil, fault.Wrap(fault.Internal, "internal fault", err)
		}
		return der, nil
	}
	return operate(ctx, s, c, verbSign, t, items, single, kind[SignItem, BytesResult]{
		context: func(i *SignItem) map[string]string { return i.Context },
		size:    func(i *SignItem) int { return len(i.Message) + len(i.Digest) + len(i.Mu) },
		prepare: func(b *batch) (err error) {
			opts, err = signOpts(&b.record.info, o)
			return err
		},
		do: func(ctx context.Context, b *batch, in *SignItem, out *BytesResult) (Used, error) {
			var digest [maxDigest]byte
			opts := opts
			opts.ExternalMu = in.Mu != nil
			input, err := signInput(&digest, &b.record.info, opts, in.Message, in.Digest, in.Mu)
			if err != nil {
				return Used{}, err
			}
			u, err := b.use(ctx, 0, backend.OpSign)
			if err != nil {
				return Used{}, err
			}
			key, err := u.load(ctx, b)
			if err != nil {
				return Used{}, err
			}
			signer, ok := key.(backend.Signer)
			if !ok {
				return Used{}, unsupported()
			}
			sig, err := signer.Sign(ctx, input, opts)
			if err != nil {
				return Used{}, err
			}
			out.Bytes, err = form(b, sig)
			return u.used(b), err
		},
		many: &many[SignItem, BytesResult]{
			fits: func(b *batch) bool { return !b.record.info.PostQuantum }, // whose items may each choose
			ask: func(ctx context.Context, b *batch, in *SignItem) (*use, backend.Item, error) {
				var digest [maxDigest]byte
				opts := opts
				opts.ExternalMu = in.Mu != nil
				input, err := signInput(&digest, &b.record.info, opts, in.Message, in.Digest, in.Mu)
				if err != nil {
					return nil, backend.Item{}, err
				}
				if opts.Hash != 0 {
					input = b.keep(input)
				}
				u, err := b.use(ctx, 0, backend.OpSign)
				return u, backend.Item{Input: input}, err
			},
			with: func(key backend.Key) func(context.Context, []backend.Item) ([]backend.Result, error) {
				h, ok := key.(backend.BatchSigner)
				if !ok {
					return nil
				}
				return func(ctx context.Context, list []backend.Item) ([]backend.Result, error) {
					return h.SignMany(ctx, list, opts)
				}
			},
			give: func(b *batch, _ *use, _ *SignItem, out *BytesResult, sig []byte) (err error) {
				out.Bytes, err = form(b, sig)
				return err
			},
		},
	})
}

// Verify checks each signature with the public part of the primary version or the one that t names. No backend is asked, so keys of
// devices that are away, and keys of which only the public part is here, verify too.
func (s *Service) Verify(ctx context.Context, c Caller, t Target, o SignOpts, items []VerifyItem, single bool) ([]VerifyResult, error) {
	var opts backend.SignOpts
	return operate(ctx, s, c, verbVerify, t, items, single, kind[VerifyItem, VerifyResult]{
		context: func(i *VerifyItem) map[string]string { return i.Context },
		prepare: func(b *batch) (err error) {
			opts, err = signOpts(&b.record.info, o)
			return err
		},
		do: func(ctx context.Context, b *batch, in *VerifyItem, out *VerifyResult) (Used, error) {
			var digest [maxDigest]byte
			opts := opts
			opts.ExternalMu = in.Mu != nil
			input, err := signInput(&digest, &b.record.info, opts, in.Message, in.Digest, in.Mu)
			if err != nil {
				return Used{}, err
			}
			u, err := b.use(ctx, 0, backend.OpVerify)
			if err != nil {
				return Used{}, err
			}
			out.Valid, err = verify.Signature(u.version.public, b.record.info.Name, input, opts, o.P1363, in.Signature)
			return u.used(b), err
		},
	})
}

const (
	maxDigest         = sha512.Size
	maxSigningContext = 255 // FIPS 204 section 5.2
	muSize            = 64  // FIPS 204 section 6.2
)

func fieldSize(info *backend.AlgorithmInfo) int { return (info.KeyBits + 7) / 8 }

// signOpts checks the choices of a signature against the algorithm and fills in its defaults. SHA-1 is refused: SP 800-131A
// section 3.
func signOpts(info *backend.AlgorithmInfo, o SignOpts) (backend.SignOpts, error) {
	var none backend.SignOpts
	f := info.Family
	prehash := f == backend.FamilyMLDSA || f == backend.FamilySLHDSA
	if o.P1363 && f != backend.FamilyECDSA {
		return none, fault.New(fault.BadField, "only ECDSA signatures have the P1363 encoding")
	}
	if f != backend.FamilyRSA && o.Padding != "" {
		return none, fault.New(fault.BadField, "only RSA signatures have a padding")
	}
	if len(o.Context) > 0 && !prehash && f != backend.FamilyComposite {
		return none, fault.New(fault.BadField, "only ML-DSA, SLH-DSA and composite signatures have a context of their own")
	}
	if len(o.Context) > maxSigningContext {
		return none, fault.New(fault.BadSize, "the context of a signature is at most 255 bytes")
	}
	if o.Deterministic && !prehash {
		return none, fault.New(fault.BadField, "only ML-DSA and SLH-DSA have a choice of deterministic signatures")
	}
	opts := backend.SignOpts{Hash: o.Hash, Padding: o.Padding, Context: string(o.Context), Deterministic: o.Deterministic}
	if f == backend.FamilyEdDSA || f == backend.FamilyComposite {
		if o.Hash != 0 {
			return none, fault.New(fault.BadField, "the algorithm signs the message itself, without a choice of hash")
		}
		return opts, nil
	}
	if opts.Hash == 0 {
		opts.Hash = info.Hash // none for those that can do without
	}
	if opts.Hash == 0 {
		return opts, nil
	}
	if !keyenc.SignatureHash(opts.Hash) {
		return none, fault.New(fault.BadField, "the hash of a signature is SHA-256, SHA-384 or SHA-512")
	}
	if f == backend.FamilyRSA {
		switch opts.Padding {
		case "":
			opts.Padding = backend.PaddingPSS
		case backend.PaddingPSS, backend.PaddingPKCS1v15:
		default:
			return none, fault.New(fault.BadField, "the padding of an RSA signature is pss or pkcs1v15")
		}
	}
	return opts, nil
}

// signInput gives what is signed: the message itself where no hash goes before, else a digest, hashed here into space or by the
// caller; or the message representative of ML-DSA, which only the caller can have made.
func signInput(space *[maxDigest]byte, info *backend.AlgorithmInfo, o backend.SignOpts, message, digest, mu []byte) ([]byte, error) {
	given := 0
	for _, b := range [...][]byte{message, digest, mu} {
		if b != nil {
			given++
		}
	}
	h := o.Hash
	switch {
	case given != 1:
		return nil, fault.New(fault.MissingField, "exactly one of message, digest and mu is needed")
	case len(message) > MaxPlaintext:
		return nil, fault.New(fault.BadSize, "a message is at most 1 MiB")
	case mu != nil && (info.Family != backend.FamilyMLDSA || h != 0 || o.Context != ""):
		return nil, fault.New(fault.BadField, "only ML-DSA takes mu, without hash and context: they are in it")
	case mu != nil && len(mu) != muSize:
		return nil, fault.New(fault.BadSize, "mu is 64 bytes")
	case mu != nil:
		return mu, nil
	case digest != nil && h == 0:
		return nil, fault.New(fault.BadField, "the algorithm signs the message itself, not a digest, unless a hash is named that it has a pre-hash variant for")
	case info.Family == backend.FamilySLHDSA && digest != nil:
		return nil, fault.New(fault.BadField, "SLH-DSA takes the message, also for its pre-hash variant")
	case info.Family == backend.FamilySLHDSA:
		return message, nil
	case digest != nil && len(digest) != h.Size():
		return nil, fault.New(fault.BadSize, "the digest is not as long as its hash")
	case digest != nil:
		return digest, nil
	}
	switch h {
	case 0:
		return message, nil
	case crypto.SHA256:
		d := sha256.Sum256(message)
		return space[:copy(space[:], d[:])], nil
	case crypto.SHA384:
		d := sha512.Sum384(message)
		return space[:copy(space[:], d[:])], nil
	case crypto.SHA512:
		d := sha512.Sum512(message)
		return space[:copy(space[:], d[:])], nil
	}
	return nil, fault.New(fault.BadField, "the hash of a signature is SHA-256, SHA-384 or SHA-512")
}
