package root

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"slices"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"
	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Bounds of a Shamir slot.
const (
	MinThreshold = 2
	MaxShares    = 64
)

const (
	sharePrefix  = "keywright-root-share:v1:"
	scalarSize   = 48 // bytes of a scalar of P-384
	shareSumSize = 4
	shareBody    = 16 + 1 + 1 + scalarSize // slot id, threshold, index, value
	shareSize    = shareBody + shareSumSize
	shareText    = shareSize * 8 / 5 // base32 without a remainder
)

// The labels that keep the two uses of SHA-256 on a share apart.
const (
	labelShareSum   = "keywright/v1/root-share-sum"
	labelShareCheck = "keywright/v1/root-share-check"
)

// share is one part of a slot's secret: a point of a random polynomial of degree threshold-1 over the scalar field of
// P-384 (Shamir 1979), whose value at 0 is the secret. P-384 because the secret must have no less than 256 bits, which do not fit the field of
// P-256. circl's arithmetic there is not constant-time: whoever can time an unlock that closely sits on the machine that
// is about to hold the root in memory.
type share struct {
	slot      uuid.UUID
	threshold uint8
	index     uint8 // from 1
	value     secret.Bytes
}

// shamirParams: Checks has, for each share, the SHA-256 of the share, so that a share can be refused when it comes in and
// a forged one cannot spoil the honest ones. It tells nothing about a value of 384 random bits, also not to a quantum
// computer, as Feldman's commitments would.
type shamirParams struct {
	Version   int      `json:"v"`
	Group     string   `json:"group"` // "P-384"
	Threshold int      `json:"threshold"`
	Shares    int      `json:"shares"`
	Checks    [][]byte `json:"checks"`
}

func readShamirParams(b []byte) (*shamirParams, error) {
	p := new(shamirParams)
	if err := decodeParams(b, p); err != nil {
		return nil, err
	}
	if p.Version != slotVersion || p.Group != "P-384" || p.Threshold < MinThreshold || p.Shares < p.Threshold ||
		p.Shares > MaxShares || len(p.Checks) != p.Shares ||
		slices.ContainsFunc(p.Checks, func(c []byte) bool { return len(c) != sha256.Size }) {
		return nil, fault.New(fault.KeyMaterial, "the parameters of a Shamir slot are not of a known form")
	}
	return p, nil
}

// takes reports whether s is a share of the slot with these parameters.
func (p *shamirParams) takes(s *share) bool {
	if int(s.threshold) != p.Threshold || s.index < 1 || int(s.index) > p.Shares {
		return false
	}
	sum := s.hash(labelShareCheck)
	return subtle.ConstantTimeCompare(sum[:], p.Checks[s.index-1]) == 1
}

func (s *share) body() []byte {
	b := make([]byte, 0, shareSize)
	b = append(b, s.slot[:]...)
	b = append(b, s.threshold, s.index)
	return append(b, s.value...)
}

func (s *share) hash(label string) [sha256.Size]byte {
	b := s.body()
	defer clear(b)
	return labelled(label, b)
}

func labelled(label string, body []byte) [sha256.Size]byte {
	b := append([]byte(label), body...)
	defer clear(b)
	return sha256.Sum256(b)
}

// text is the share as people keep it: a prefix and 112 characters of base32 (RFC 4648 section 6), the last of which are a
// checksum against slips of the pen.
func (s *share) text() string {
	b := s.body()
	defer clear(b)
	sum := labelled(labelShareSum, b)
	return sharePrefix + base32.StdEncoding.EncodeToString(append(b, sum[:shareSumSize]...))
}

// parseShare reads a share. Every failure is the same fault.BadEncoding; whether the share is genuine is for takes to say.
func parseShare(text string) (*share, error) {
	malformed := fault.New(fault.BadEncoding, "a share is not of the form "+sharePrefix+"<base32>, or was copied with a mistake")
	if len(text) != len(sharePrefix)+shareText || text[:len(sharePrefix)] != sharePrefix {
		return nil, malformed
	}
	b := make([]byte, shareSize)
	// Line breaks, which the decoder would skip, make the result too short.
	if n, err := base32.StdEncoding.Decode(b, []byte(text[len(sharePrefix):])); err != nil || n != shareSize {
		clear(b)
		return nil, malformed
	}
	s := &share{slot: uuid.UUID(b[:16]), threshold: b[16], index: b[17], value: b[18:shareBody:shareBody]}
	sum := labelled(labelShareSum, b[:shareBody])
	if string(sum[:shareSumSize]) != string(b[shareBody:]) || s.index == 0 || s.threshold < MinThreshold || !canonical(s.value) {
		clear(b)
		return nil, malformed
	}
	return s, nil
}

// canonical reports whether value is a scalar as it is written: below the order of the group.
func canonical(value []byte) bool {
	v := group.P384.NewScalar()
	if v.UnmarshalBinary(value) != nil {
		return false
	}
	again, err := v.MarshalBinary()
	return err == nil && string(again) == string(value)
}

// makeShares makes a random slot secret, splits it and seals root under it.
func makeShares(s *Slot, shares, threshold int, root secret.Bytes) ([]string, error) {
	if threshold < MinThreshold || shares < threshold || shares > MaxShares {
		return nil, fault.New(fault.BadField,
			fmt.Sprintf("the threshold is at least %d and at most the number of shares, which is at most %d", MinThreshold, MaxShares))
	}
	whole := group.P384.RandomNonZeroScalar(rand.Reader)
	p := &shamirParams{Version: slotVersion, Group: "P-384", Threshold: threshold, Shares: shares}
	texts := make([]string, 0, shares)
	for i, part := range secretsharing.New(rand.Reader, uint(threshold-1), whole).Share(uint(shares)) {
		value, err := part.Value.MarshalBinary()
		if err != nil {
			return nil, fmt.Errorf("writing a share: %w", err)
		}
		sh := &share{slot: s.ID, threshold: uint8(threshold), index: uint8(i + 1), value: value}
		sum := sh.hash(labelShareCheck)
		p.Checks = append(p.Checks, sum[:])
		texts = append(texts, sh.text())
		sh.value.Wipe()
	}
	ikm, err := whole.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("writing a slot secret: %w", err)
	}
	defer clear(ikm)
	if s.Params, err = encodeParams(p); err != nil {
		return nil, err
	}
	return texts, s.seal(ikm, root)
}

// recoverSecret gives the slot's secret from shares of different indices, at least the threshold of them.
func recoverSecret(threshold int, shares []*share) (secret.Bytes, error) {
	parts := make([]secretsharing.Share, 0, len(shares))
	for _, s := range shares {
		v := group.P384.NewScalar()
		if err := v.UnmarshalBinary(s.value); err != nil {
			return nil, fmt.Errorf("reading a share: %w", err)
		}
		parts = append(parts, secretsharing.Share{ID: group.P384.NewScalar().SetUint64(uint64(s.index)), Value: v})
	}
	whole, err := secretsharing.Recover(uint(threshold-1), parts)
	if err != nil {
		return nil, fmt.Errorf("joining shares: %w", err)
	}
	b, err := whole.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("joining shares: %w", err)
	}
	return b, nil
}
