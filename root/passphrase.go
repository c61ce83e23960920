package root

import (
	"crypto/rand"
	"fmt"
	"runtime/debug"

	"golang.org/x/crypto/argon2"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Cost is what one Argon2id run takes (RFC 9106 section 3.1).
type Cost struct {
	MemoryKiB   uint32 // KiB
	Time        uint32 // passes
	Parallelism uint8  // lanes
}

// DefaultCost is the second recommended option of RFC 9106 section 4: 64 MiB, 3 passes, 4 lanes.
func DefaultCost() Cost { return Cost{MemoryKiB: 64 << 10, Time: 3, Parallelism: 4} }

// The bounds within which a slot's cost must lie. They are checked before any memory is taken: who can write the store
// must not be able to make the next start ask for all of the machine.
const (
	minMemoryKiB   = 8 << 10
	maxMemoryKiB   = 256 << 10
	maxTime        = 16
	maxParallelism = 16
	saltSize       = 16 // RFC 9106 section 4
	tagSize        = 32
)

func (c Cost) check() error {
	if c.MemoryKiB < minMemoryKiB || c.MemoryKiB > maxMemoryKiB || c.Time < 1 || c.Time > maxTime ||
		c.Parallelism < 1 || c.Parallelism > maxParallelism {
		return fault.New(fault.KeyMaterial, "the Argon2id costs of a root slot are out of range")
	}
	return nil
}

type passphraseParams struct {
	Version     int    `json:"v"`
	KDF         string `json:"kdf"` // "argon2id"
	MemoryKiB   uint32 `json:"memory_kib"`
	Time        uint32 `json:"time"`
	Parallelism uint8  `json:"parallelism"`
	Salt        []byte `json:"salt"` // 16 bytes, standard padded base64
}

func (p *passphraseParams) cost() Cost { return Cost{p.MemoryKiB, p.Time, p.Parallelism} }

func readPassphraseParams(b []byte) (*passphraseParams, error) {
	p := new(passphraseParams)
	if err := decodeParams(b, p); err != nil {
		return nil, err
	}
	if p.Version != slotVersion || p.KDF != "argon2id" || len(p.Salt) != saltSize {
		return nil, fault.New(fault.KeyMaterial, "the parameters of a passphrase slot are not of a known form")
	}
	return p, p.cost().check()
}

func (k *Keeper) makePassphrase(s *Slot, passphrase, root secret.Bytes) error {
	if len(passphrase) < MinPassphrase || len(passphrase) > MaxPassphrase {
		return fault.New(fault.BadSize, fmt.Sprintf("a passphrase has %d to %d bytes", MinPassphrase, MaxPassphrase))
	}
	p := &passphraseParams{Version: slotVersion, KDF: "argon2id", MemoryKiB: k.cost.MemoryKiB, Time: k.cost.Time,
		Parallelism: k.cost.Parallelism, Salt: make([]byte, saltSize)}
	if err := p.cost().check(); err != nil {
		return err
	}
	rand.Read(p.Salt) // never fails (crypto/rand, since Go 1.24)
	var err error
	if s.Params, err = encodeParams(p); err != nil {
		return err
	}
	ikm := stretch(p, passphrase)
	defer ikm.Wipe()
	return s.seal(ikm, root)
}

// stretch runs Argon2id. Its working memory is many times what the whole service needs otherwise and is garbage at once:
// it is given back to the operating system here, and only here, because the collector would keep it as head room for hours
// on an idle service. Unlocking is rare enough for the full collection that this costs.
func stretch(p *passphraseParams, passphrase secret.Bytes) secret.Bytes {
	defer debug.FreeOSMemory()
	return argon2.IDKey(passphrase, p.Salt, p.Time, p.MemoryKiB, p.Parallelism, tagSize)
}
