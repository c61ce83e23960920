package sealed

import (
	"crypto/rand"
	"crypto/subtle"
	"io"
)

// Mixed gives a device's generator and the operating system's together, for Options.Rand: the XOR of two independent sources is
// unpredictable as long as one of them is (SP 800-90C section 3.1, the XOR construction). When the device fails, so does reading. Safe for
// concurrent use if device is.
func Mixed(device io.Reader) io.Reader { return mixed{device} }

type mixed struct{ device io.Reader }

func (m mixed) Read(p []byte) (int, error) {
	if _, err := io.ReadFull(m.device, p); err != nil {
		clear(p)
		return 0, err
	}
	own := make([]byte, len(p))
	rand.Read(own) // never fails (crypto/rand, since Go 1.24)
	subtle.XORBytes(p, p, own)
	clear(own)
	return len(p), nil
}
