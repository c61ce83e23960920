package token

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"sync"
	"time"
)

// Options are what a token is given by the program around it.
type Options struct {
	Logger *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now
	// PINs remembers refused PINs over several openings in this process; nil: this opening alone remembers.
	PINs *PINMemory
	// CallTimeout bounds operations as Config.Limit says; 0: by their contexts alone.
	CallTimeout time.Duration
}

// PINMemory remembers which PINs tokens have refused, by a keyed hash, so that none is sent twice. Safe for concurrent use.
type PINMemory struct {
	mu      sync.Mutex // guards the rest
	key     []byte
	refused map[[sha256.Size]byte]bool
}

func (p *PINMemory) digest(module, token string, pin []byte) (out [sha256.Size]byte) {
	if p.key == nil {
		p.key = make([]byte, sha256.Size)
		rand.Read(p.key) // never fails (crypto/rand)
	}
	mac := hmac.New(sha256.New, p.key)
	for _, part := range [][]byte{[]byte(module), []byte(token), pin} {
		sum := sha256.Sum256(part)
		mac.Write(sum[:])
	}
	mac.Sum(out[:0])
	return out
}

// mayTry reports whether the PIN is not among the refused.
func (p *PINMemory) mayTry(module, token string, pin []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.refused[p.digest(module, token, pin)]
}

func (p *PINMemory) refuse(module, token string, pin []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused == nil {
		p.refused = map[[sha256.Size]byte]bool{}
	}
	p.refused[p.digest(module, token, pin)] = true
}
