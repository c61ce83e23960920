package tpm

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm/device"
)

// A sealed text is
//
//	version 1 ‖ form ‖ length of the Name (1) ‖ Name of the parent ‖ policy ‖ TPM2B_PUBLIC ‖ TPM2B_PRIVATE ‖ nonce (12) ‖ ciphertext ‖ tag (16)
//
// The TPM object holds a fresh AES-256 key, which it gives out to whoever meets its form; the text is AES-256-GCM under that key, done here. The additional data is
// everything before the nonce, a domain and the binding, each with its length in four bytes before it. docs/formats/tpm-sealed.md has it. No key that opens texts stays in memory:
// each opening is the TPM's.
type sealForm byte

const (
	sealVersion = 1
	// formOpen: whoever can use the TPM may have the key. For the root's slots, which open before anything else.
	formOpen sealForm = 1
	// formPolicy: the PCRs must be as an authority approved; policy is TPM2B_PUBLIC of the authority's key ‖ size (2) ‖ policyRef.
	formPolicy sealForm = 2
	// formAuth: the auth value is derived from the root over domain and binding. For keys in sealed custody.
	formAuth sealForm = 3

	dekSize   = 32
	gcmNonce  = 12
	gcmTag    = 16
	maxSealed = 1 << 20 // of a plaintext in bytes: key material has 2.4 KB, the root's slots less
)

// Domains keep what callers seal apart from key material: neither opens as the other, whatever the binding.
const (
	callerDomain = "keywright/v1/tpm-sealer"
	engineDomain = "keywright/v1/tpm-sealed-key"
)

// Sealer seals to one TPM without need of the root: it is what the root's own slots use. It is safe for concurrent use.
type Sealer struct {
	dev       *device.Device
	policy    *PCRPolicy
	approvals func() []Approval
	parent    []byte
}

var _ backend.Sealer = (*Sealer)(nil)

// SealerOptions are the choices of a sealer. The zero value is usable.
type SealerOptions struct {
	// Policy and Approvals are those of Options.
	Policy    *PCRPolicy
	Approvals func() []Approval
}

// NewSealer makes a sealer over an open device, which stays the caller's.
func NewSealer(dev *device.Device, o SealerOptions) (*Sealer, error) {
	if o.Policy != nil {
		if _, err := o.Policy.key(); err != nil {
			return nil, err
		}
	}
	if o.Approvals == nil {
		o.Approvals = func() []Approval { return nil }
	}
	s := &Sealer{dev: dev, policy: o.Policy, approvals: o.Approvals, parent: dev.ParentName()}
	if len(s.parent) != nameSize {
		return nil, fault.New(fault.Internal, "the storage parent's Name is not one of SHA-256")
	}
	return s, nil
}

// ID is the device's identity, which key records keep too: it follows from the storage parent.
func (s *Sealer) ID() string { return identity(s.parent) }

// Seal protects bytes, at most 1 MiB, so that they open on this TPM alone, and with a policy only when the PCRs are as approved. binding is authenticated, not stored.
// Whoever may use the TPM can seal: a text that opens is not for that the service's.
func (s *Sealer) Seal(ctx context.Context, plaintext, binding []byte) ([]byte, error) {
	if s.policy != nil {
		return s.seal(ctx, formPolicy, callerDomain, nil, plaintext, binding)
	}
	return s.seal(ctx, formOpen, callerDomain, nil, plaintext, binding)
}

// Open opens what Seal made with the same binding; everything else is fault.KeyMaterial, and so is a boot state that nobody approved.
func (s *Sealer) Open(ctx context.Context, sealed, binding []byte) (secret.Bytes, error) {
	p, ok := parseSealed(sealed)
	if !ok || p.form == formAuth {
		return nil, errUnreadable
	}
	return s.open(ctx, p, callerDomain, nil, binding)
}

func (s *Sealer) seal(ctx context.Context, form sealForm, domain string, auth secret.Bytes, plaintext, binding []byte) ([]byte, error) {
	if len(plaintext) > maxSealed || len(binding) > maxSealed {
		return nil, fault.New(fault.BadSize, "what is sealed has at most 1 MiB")
	}
	header := append(make([]byte, 0, 1024+len(plaintext)), sealVersion, byte(form), byte(len(s.parent)))
	header = append(header, s.parent...)
	var policy []byte
	if form == formPolicy {
		key, err := s.policy.key()
		if err != nil {
			return nil, err
		}
		if policy, err = key.digest(s.policy.Ref); err != nil {
			return nil, err
		}
		header = appendField(header, tpm2.Marshal(key.public))
		header = appendField(header, s.policy.Ref)
	}
	dek := make(secret.Bytes, dekSize)
	defer dek.Wipe()
	rand.Read(dek) // never fails (crypto/rand)
	template := dataPublic(policy, form != formPolicy)
	var o object
	err := s.dev.Do(ctx, "seal", func(tx *device.Tx) (err error) {
		o, err = create(tx, template, auth, dek)
		return err
	})
	if err != nil {
		return nil, refused(err)
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](o.public)
	if err != nil || !fits(public, &template) || len(o.public) > maxPart || len(o.private) > maxPart {
		return nil, errOtherKey
	}
	header = appendField(appendField(header, o.public), o.private)
	gcm, err := newGCM(dek)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "sealing", err)
	}
	// The nonce is the AEAD's own: it is drawn inside (SP 800-38D section 8.2.2).
	return gcm.Seal(header, nil, plaintext, additional(header, domain, binding)), nil //nolint:gosec // G407 takes the absent nonce for a constant one
}

func (s *Sealer) open(ctx context.Context, p sealedText, domain string, auth secret.Bytes, binding []byte) (secret.Bytes, error) {
	if string(p.parent) != string(s.parent) {
		return nil, unreadable(errParent)
	}
	if len(binding) > maxSealed {
		return nil, errUnreadable
	}
	var dek secret.Bytes
	defer func() { dek.Wipe() }()
	err := s.dev.Do(ctx, "unseal", func(tx *device.Tx) error {
		key, err := load(tx, p.object)
		if err != nil {
			return err
		}
		if p.form == formPolicy {
			dek, err = s.unsealApproved(tx, p, key)
			return err
		}
		rsp, err := tpm2.Unseal{ItemHandle: tx.Auth(key, auth, device.Out)}.Execute(tx)
		if err != nil {
			return err
		}
		dek = rsp.OutData.Buffer
		return nil
	})
	if err != nil {
		return nil, refused(err)
	}
	return openText(p, dek, domain, binding)
}

// openText opens the text by the key that the TPM gave.
func openText(p sealedText, dek secret.Bytes, domain string, binding []byte) (secret.Bytes, error) {
	if len(dek) != dekSize {
		return nil, errUnreadable
	}
	gcm, err := newGCM(dek)
	if err != nil {
		return nil, errUnreadable
	}
	out, err := gcm.Open(nil, nil, p.body, additional(p.header, domain, binding))
	if err != nil {
		return nil, errUnreadable
	}
	return out, nil
}

// sealedText is a parsed one. Its slices belong to the bytes that it was made of. Nothing in it is authentic yet; a wrong object does not load, or holds
// another key.
type sealedText struct {
	form      sealForm
	parent    []byte
	authority []byte // TPMT_PUBLIC, with formPolicy
	ref       []byte
	object    object
	header    []byte // everything before the nonce
	body      []byte
}

func parseSealed(b []byte) (out sealedText, ok bool) {
	if len(b) > 2*maxSealed || len(b) < 3+nameSize || b[0] != sealVersion || int(b[2]) != nameSize {
		return sealedText{}, false
	}
	out.form, out.parent = sealForm(b[1]), b[3:3+nameSize]
	rest := b[3+nameSize:]
	switch out.form {
	case formOpen, formAuth:
	case formPolicy:
		if out.authority, rest, ok = part(rest); !ok || len(rest) < 2 {
			return sealedText{}, false
		}
		n := int(binary.BigEndian.Uint16(rest))
		if n > maxRef || len(rest) < 2+n {
			return sealedText{}, false
		}
		out.ref, rest = rest[2:2+n], rest[2+n:]
	default:
		return sealedText{}, false
	}
	if out.object.public, rest, ok = part(rest); !ok {
		return sealedText{}, false
	}
	if out.object.private, rest, ok = part(rest); !ok || len(rest) < gcmNonce+gcmTag {
		return sealedText{}, false
	}
	out.header, out.body = b[:len(b)-len(rest)], rest
	return out, true
}

func additional(header []byte, domain string, binding []byte) []byte {
	out := make([]byte, 0, 12+len(header)+len(domain)+len(binding))
	for _, p := range [][]byte{header, []byte(domain), binding} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p))) // bounded by the callers
		out = append(out, p...)
	}
	return out
}

// newGCM gives AES-256-GCM whose Seal picks a random nonce and puts it in front (SP 800-38D section 8.2.2).
func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Sealer is what Seal and Open of the backend use, for the root's slots and for approvals. It works until the backend closes.
func (b *Backend) Sealer() *Sealer { return b.sealer }

// Seal protects bytes, at most 1 MiB, so that they open on this TPM alone (Sealer.Seal). It works while the root is locked.
func (b *Backend) Seal(ctx context.Context, plaintext, binding []byte) ([]byte, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.gate.Leave()
	return b.sealer.Seal(ctx, plaintext, binding)
}

// Open opens what Seal made with the same binding (Sealer.Open). It works while the root is locked.
func (b *Backend) Open(ctx context.Context, sealed, binding []byte) (secret.Bytes, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.gate.Leave()
	return b.sealer.Open(ctx, sealed, binding)
}

// engineSealer is the sealer of sealed custody: with auth values from the root, so that the TPM opens nothing without it. The engine calls it within a call of the backend.
type engineSealer struct{ b *Backend }

func (s engineSealer) auth(binding []byte) (out secret.Bytes, err error) {
	sum := sha256.Sum256(binding)
	context := appendField(appendField(nil, []byte(engineDomain)), sum[:])
	err = s.b.withSecrets(func(k *secrets) error {
		out, err = k.value(context)
		return err
	})
	return out, err
}

func (s engineSealer) Seal(ctx context.Context, plaintext, binding []byte) ([]byte, error) {
	auth, err := s.auth(binding)
	if err != nil {
		return nil, err
	}
	defer auth.Wipe()
	return s.b.sealer.seal(ctx, formAuth, engineDomain, auth, plaintext, binding)
}

func (s engineSealer) Open(ctx context.Context, sealed, binding []byte) (secret.Bytes, error) {
	p, ok := parseSealed(sealed)
	if !ok || p.form != formAuth {
		return nil, errUnreadable
	}
	auth, err := s.auth(binding)
	if err != nil {
		return nil, err
	}
	defer auth.Wipe()
	return s.b.sealer.open(ctx, p, engineDomain, auth, binding)
}
