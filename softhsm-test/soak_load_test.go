package softhsmtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// soakKey is a key under load.
type soakKey struct {
	name, id, backend, algorithm string
}

// sealedText is a ciphertext that the service gave, and what it must open to.
type sealedText struct {
	key        string
	ciphertext []byte
	plaintext  []byte
}

// soak is a load of everything that the keys of HSMs do, with every result checked, and the ledger of what was acknowledged.
type soak struct {
	s    *service // with callers' patience
	stop chan struct{}
	wg   sync.WaitGroup

	ok, refused, lost atomic.Int64 // operations; lost: the caller's patience ended
	created           atomic.Int64 // names given to keys so far

	mu       sync.Mutex // guards all below
	publics  map[string]crypto.PublicKey
	tags     map[string][]byte // of a fixed message, by the HMAC key's name
	made     []soakKey         // acknowledged
	failed   map[string]int    // creations and rotations by backend that were not
	versions map[string][]int  // of the rotated keys, by name
	sealed   []sealedText
	wrong    []string
	codes    map[string]int // refusals by error code
}

func newSoak(s *service, patience time.Duration) *soak {
	impatient := *s
	impatient.http = &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	return &soak{s: &impatient, publics: map[string]crypto.PublicKey{}, tags: map[string][]byte{}, failed: map[string]int{},
		versions: map[string][]int{}, codes: map[string]int{}}
}

// done are the fields of the answers that the load asks for.
type done struct {
	ID         string `json:"id"`
	Signature  []byte `json:"signature"`
	Ciphertext []byte `json:"ciphertext"`
	Plaintext  []byte `json:"plaintext"`
	MAC        []byte `json:"mac"`
	PublicKey  string `json:"public_key"`
	Primary    int    `json:"primary_version"`
	Version    int    `json:"key_version"`
	Items      []struct {
		done
		Error json.RawMessage `json:"error"`
	} `json:"items"`
}

// errRefused is an answer that is no success: what a failing device may cause, and no more.
var errRefused = errors.New("refused")

func (l *soak) do(method, path string, body any) (done, error) {
	var d done
	a, err := l.s.call(method, path, body)
	switch {
	case err != nil:
		l.lost.Add(1)
		return d, err
	case a.status >= 300:
		l.refused.Add(1)
		l.mu.Lock()
		l.codes[a.code]++
		l.mu.Unlock()
		return d, fmt.Errorf("%w: status %d %s", errRefused, a.status, a.code)
	}
	l.ok.Add(1)
	return d, json.Unmarshal(a.data, &d)
}

// isWrong keeps a result that is there and not right: what must never be.
func (l *soak) isWrong(format string, args ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) < 20 {
		l.wrong = append(l.wrong, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
	return errors.New("a wrong result")
}

// public gives the public key of a version. The store has it: no device is asked.
func (l *soak) public(key string, version int) (crypto.PublicKey, error) {
	name := fmt.Sprintf("%s/%d", key, version)
	l.mu.Lock()
	k := l.publics[name]
	l.mu.Unlock()
	if k != nil {
		return k, nil
	}
	d, err := l.do("GET", fmt.Sprintf("/keys/%s/public?version=%d", key, version), nil)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(d.PublicKey))
	if block == nil {
		return nil, l.isWrong("the public key of %s is not PEM", name)
	}
	if k, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return nil, l.isWrong("the public key of %s: %v", name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.publics[name] = k
	return k, nil
}

func (l *soak) checkSignature(key string, d done, message []byte) error {
	k, err := l.public(key, d.Version)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(message)
	ok := false
	switch k := k.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, digest[:], d.Signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPSS(k, crypto.SHA256, digest[:], d.Signature, nil) == nil
	}
	if !ok {
		return l.isWrong("a signature of %s version %d does not verify", key, d.Version)
	}
	return nil
}

func (l *soak) sign(key string, message []byte) error {
	d, err := l.do("POST", "/keys/"+key+"/sign", m{"message": message})
	if err != nil {
		return err
	}
	return l.checkSignature(key, d, message)
}

func (l *soak) signBatch(key string, message []byte) error {
	var items []m
	for i := range 20 {
		items = append(items, m{"message": fmt.Appendf(nil, "%s %d", message, i)})
	}
	d, err := l.do("POST", "/keys/"+key+"/sign", m{"items": items})
	if err != nil {
		return err
	}
	if len(d.Items) != len(items) {
		return l.isWrong("%d results for %d items", len(d.Items), len(items))
	}
	for i, item := range d.Items {
		if item.Error != nil {
			continue
		}
		if err := l.checkSignature(key, item.done, fmt.Appendf(nil, "%s %d", message, i)); err != nil {
			return err
		}
	}
	return nil
}

// keep remembers ciphertexts to be opened at the end, a bounded number of them.
func (l *soak) keep(key string, ciphertext, plaintext []byte) {
	const many = 3000
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sealed) < many {
		l.sealed = append(l.sealed, sealedText{key, ciphertext, plaintext})
	} else if i := rand.IntN(10 * many); i < many {
		l.sealed[i] = sealedText{key, ciphertext, plaintext}
	}
}

func (l *soak) open(key string, ciphertext, plaintext []byte) error {
	d, err := l.do("POST", "/decrypt", m{"ciphertext": ciphertext})
	if err != nil {
		return err
	}
	if !bytes.Equal(d.Plaintext, plaintext) {
		return l.isWrong("a ciphertext of %s opens to something else", key)
	}
	return nil
}

func (l *soak) encrypt(key string, message []byte) error {
	d, err := l.do("POST", "/keys/"+key+"/encrypt", m{"plaintext": message})
	if err != nil {
		return err
	}
	l.keep(key, d.Ciphertext, message)
	return l.open(key, d.Ciphertext, message)
}

func (l *soak) encryptBatch(key string, message []byte) error {
	var items []m
	for i := range 20 {
		items = append(items, m{"plaintext": fmt.Appendf(nil, "%s %d", message, i)})
	}
	d, err := l.do("POST", "/keys/"+key+"/encrypt", m{"items": items})
	if err != nil {
		return err
	}
	if len(d.Items) != len(items) {
		return l.isWrong("%d results for %d items", len(d.Items), len(items))
	}
	var open []m
	var want [][]byte
	for i, item := range d.Items {
		if item.Error == nil {
			plain := fmt.Appendf(nil, "%s %d", message, i)
			l.keep(key, item.Ciphertext, plain)
			open, want = append(open, m{"ciphertext": item.Ciphertext}), append(want, plain)
		}
	}
	if len(open) == 0 {
		return nil
	}
	if d, err = l.do("POST", "/keys/"+key+"/decrypt", m{"items": open}); err != nil {
		return err
	}
	for i, item := range d.Items {
		if item.Error == nil && !bytes.Equal(item.Plaintext, want[i]) {
			return l.isWrong("a ciphertext of %s in a batch opens to something else", key)
		}
	}
	return nil
}

var fixedMessage = []byte("the same message has the same tag for ever")

func (l *soak) mac(key string, _ []byte) error {
	d, err := l.do("POST", "/keys/"+key+"/mac", m{"message": fixedMessage})
	if err != nil {
		return err
	}
	l.mu.Lock()
	want := l.tags[key]
	if want == nil {
		l.tags[key] = d.MAC
	}
	l.mu.Unlock()
	if len(d.MAC) != sha256.Size || want != nil && !bytes.Equal(d.MAC, want) {
		return l.isWrong("%s gives another tag than before", key)
	}
	return nil
}

func (l *soak) create(backend string) error {
	algorithm := []string{"ECDSA-P256", "AES-256-GCM"}[rand.IntN(2)]
	k := soakKey{name: fmt.Sprintf("made-%d", l.created.Add(1)), backend: backend, algorithm: algorithm}
	d, err := l.do("POST", "/keys", m{"name": k.name, "algorithm": algorithm, "backend": backend})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed[backend]++
		return err
	}
	k.id = d.ID
	l.made = append(l.made, k)
	return nil
}

func (l *soak) rotate(key, backend string) error {
	d, err := l.do("POST", "/keys/"+key+"/rotate", nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed[backend]++
		return err
	}
	l.versions[key] = append(l.versions[key], d.Primary)
	return nil
}

// use does with a key what its algorithm is for.
func (l *soak) use(k soakKey) error {
	if k.algorithm == "AES-256-GCM" {
		return l.encrypt(k.id, []byte("does it work"))
	}
	return l.sign(k.id, []byte("does it work"))
}

// prepare makes the keys that the load uses on a backend.
func (l *soak) prepare(backend string) error {
	for _, algorithm := range []string{"ECDSA-P256", "RSA-2048", "AES-256-GCM", "HMAC-SHA256"} {
		body := m{"name": backend + "-" + algorithm, "algorithm": algorithm, "backend": backend}
		if algorithm == "RSA-2048" {
			body["purpose"] = "signing"
		}
		if _, err := l.do("POST", "/keys", body); err != nil {
			return err
		}
	}
	return nil
}

// start lets workers loose on the backends until halt.
func (l *soak) start(backends ...string) {
	l.stop = make(chan struct{})
	work := func(rest time.Duration, step func(message []byte) error) {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(rest):
				}
				if err := step(fmt.Appendf(nil, "message %d", rand.Uint64())); err != nil {
					time.Sleep(10 * time.Millisecond) // a caller that is refused comes back a little later
				}
			}
		})
	}
	for _, b := range backends {
		p256, rsa2048, aes, hmac := b+"-ECDSA-P256", b+"-RSA-2048", b+"-AES-256-GCM", b+"-HMAC-SHA256"
		for range 2 {
			work(0, func(p []byte) error { return l.sign(p256, p) })
			work(0, func(p []byte) error { return l.encrypt(aes, p) })
		}
		work(2*time.Millisecond, func(p []byte) error { return l.sign(rsa2048, p) })
		work(time.Millisecond, func(p []byte) error { return l.mac(hmac, p) })
		work(5*time.Millisecond, func(p []byte) error { return l.signBatch(p256, p) })
		work(5*time.Millisecond, func(p []byte) error { return l.encryptBatch(aes, p) })
		// A token holds thousands of keys, and SoftHSM looks through all of them each time that it is opened.
		work(200*time.Millisecond, func([]byte) error { return l.create(b) })
		work(400*time.Millisecond, func([]byte) error {
			return l.rotate([]string{p256, aes}[rand.IntN(2)], b)
		})
		work(10*time.Millisecond, func([]byte) error { return l.useMade(b) })
	}
}

// useMade uses a key that was made under load.
func (l *soak) useMade(backend string) error {
	l.mu.Lock()
	var k soakKey
	if n := len(l.made); n > 0 {
		k = l.made[rand.IntN(n)]
	}
	l.mu.Unlock()
	if k.backend != backend {
		return nil
	}
	return l.use(k)
}

func (l *soak) halt() {
	close(l.stop)
	l.wg.Wait()
	l.s.http.CloseIdleConnections()
}

// refusals gives the codes of what was refused, for the log.
func (l *soak) refusals() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := ""
	for _, code := range slices.Sorted(maps.Keys(l.codes)) {
		out += fmt.Sprintf(" %s %d", code, l.codes[code])
	}
	return out
}
