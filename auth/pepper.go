package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// pepper is the key of the MACs by which presented secrets are stored. It is derived from the root under its label when it is first needed.
type pepper struct {
	label string
	pool  atomic.Pointer[sync.Pool] // of *macer, keyed; nil until the root was open once
	mu    sync.Mutex                // guards the making of pool
}

// macer computes one MAC at a time, without allocating.
type macer struct {
	h   hash.Hash
	in  [maxToken]byte
	sum mac // here, because what is handed to an interface goes to the heap
}

type mac = [sha256.Size]byte

// macs gives the pool of keyed macers. The pepper itself is wiped once they are keyed. fault.Locked while the root is not
// open.
func (k *pepper) macs(derive func(string) (secret.Bytes, error)) (*sync.Pool, error) {
	if p := k.pool.Load(); p != nil {
		return p, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.pool.Load(); p != nil {
		return p, nil
	}
	key, err := derive(k.label)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	keyed, ok := hmac.New(sha256.New, key).(hash.Cloner)
	if !ok {
		return nil, fault.New(fault.Internal, "HMAC-SHA-256 cannot be cloned")
	}
	if _, err := keyed.Clone(); err != nil {
		return nil, fmt.Errorf("keying the pepper's HMAC: %w", err)
	}
	p := &sync.Pool{New: func() any {
		h, err := keyed.Clone()
		if err != nil {
			return nil // proven not to happen a few lines above; mac answers for it
		}
		return &macer{h: h}
	}}
	k.pool.Store(p)
	return p, nil
}

// mac computes HMAC-SHA-256 (RFC 2104) of a presented secret under the pepper.
func (k *pepper) mac(derive func(string) (secret.Bytes, error), presented string) (out mac, err error) {
	pool, err := k.macs(derive)
	if err != nil {
		return out, err
	}
	m, ok := pool.Get().(*macer)
	if !ok {
		return out, fault.New(fault.Internal, "HMAC-SHA-256 cannot be cloned")
	}
	n := copy(m.in[:], presented)
	m.h.Reset()
	m.h.Write(m.in[:n]) // never fails (hash.Hash)
	m.h.Sum(m.sum[:0])
	out = m.sum
	clear(m.in[:n])
	pool.Put(m)
	return out, nil
}
