package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// qpherClient is a client of Qpher's API, written after what is public of the behaviour of its Go client 0.2.0: the headers that it sends, what
// it checks by itself, when it repeats, and how it reads answers (by the standard library's JSON, a status of 400 and more being an error). It shares no code with the service.
type qpherClient struct {
	base, key string
	sent      int // requests so far
}

func newQpherClient(key, base string) (*qpherClient, error) {
	if !strings.HasPrefix(key, "qph_") {
		return nil, errors.New("the API key must begin with qph_")
	}
	return &qpherClient{base: strings.TrimSuffix(base, "/"), key: key}, nil
}

type qpherError struct {
	status  int
	code    string
	request string
}

func (e *qpherError) Error() string { return fmt.Sprintf("%d %s (%s)", e.status, e.code, e.request) }

// qpherData is every field that any answer has. Binary fields are text here: the client decodes them by itself.
type qpherData struct {
	KeyVersion     int    `json:"key_version"`
	OldKeyVersion  int    `json:"old_key_version"`
	Algorithm      string `json:"algorithm"`
	Status         string `json:"status"`
	PublicKey      string `json:"public_key"`
	CreatedAt      string `json:"created_at"`
	Ciphertext     string `json:"ciphertext"`
	Plaintext      string `json:"plaintext"`
	KEMCiphertext  string `json:"kem_ciphertext"`
	SharedSecret   string `json:"shared_secret"`
	WrappedKey     string `json:"wrapped_key"`
	WrappingMethod string `json:"wrapping_method"`
	SymmetricKey   string `json:"symmetric_key"`
	Signature      string `json:"signature"`
	SignatureType  string `json:"signature_type"`
	HashAlgorithm  string `json:"hash_algorithm"`
	Valid          bool   `json:"valid"`
	Total          int    `json:"total"`
	Keys           []struct {
		KeyVersion int    `json:"key_version"`
		Algorithm  string `json:"algorithm"`
		Status     string `json:"status"`
		PublicKey  string `json:"public_key"`
	} `json:"keys"`
}

func (c *qpherClient) do(method, path string, query url.Values, body any) (qpherData, error) {
	var none qpherData
	target := c.base + "/api/v1" + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	for try := 0; ; try++ {
		var r io.Reader
		if body != nil {
			text, err := json.Marshal(body)
			if err != nil {
				return none, err
			}
			r = bytes.NewReader(text)
		}
		req, err := http.NewRequestWithContext(context.Background(), method, target, r)
		if err != nil {
			return none, err
		}
		req.Header.Set("x-api-key", c.key)
		req.Header.Set("Content-Type", "application/json") // also on GET
		req.Header.Set("Accept", "application/json")
		req.Header.Set("User-Agent", "qpher-go/0.2.0")
		c.sent++
		status, text, err := send(req)
		switch {
		case err != nil:
			return none, err
		case (status == 429 || status == 502 || status == 503 || status == 504) && try < 3:
			time.Sleep(min(500*time.Millisecond<<try, 10*time.Second)) // whatever Retry-After says
			continue
		}
		var answer struct {
			Data      qpherData `json:"data"`
			RequestID string    `json:"request_id"`
			Timestamp string    `json:"timestamp"`
			Error     struct {
				Code    string `json:"error_code"`
				Message string `json:"message"`
			} `json:"error"`
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			return none, err
		}
		if answer.RequestID == "" || answer.Timestamp == "" {
			return none, fmt.Errorf("%s: no request id or time", path)
		}
		if status >= 400 {
			if answer.Error.Message == "" {
				return none, fmt.Errorf("%s: %d without a message", path, status)
			}
			return none, &qpherError{status, answer.Error.Code, answer.RequestID}
		}
		return answer.Data, nil
	}
}

func send(req *http.Request) (status int, text []byte, err error) {
	resp, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	text, err = io.ReadAll(resp.Body)
	return resp.StatusCode, text, errors.Join(err, resp.Body.Close())
}

// play is a run of the client: every check panics with a judgement.
type play struct{ *qpherClient }

// must is a call that succeeds.
func (p play) must(path string, body map[string]any) qpherData {
	d, err := p.do(http.MethodPost, path, nil, body)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", path, err))
	}
	return d
}

func (p play) get(path string, query url.Values) qpherData {
	d, err := p.do(http.MethodGet, path, query, nil)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", path, err))
	}
	return d
}

// fails is a call that does not.
func (p play) fails(status int, method, path string, query url.Values, body any) {
	_, err := p.do(method, path, query, body)
	var e *qpherError
	if !errors.As(err, &e) || e.status != status || !strings.HasPrefix(e.code, "ERR_") {
		panic(fmt.Sprintf("%s %s: %v, want status %d", method, path, err, status))
	}
}

func (p play) check(ok bool, what string) {
	if !ok {
		panic(what)
	}
}

func b64of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// bytesOf decodes as the client does.
func bytesOf(text string) []byte {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		panic("an answer is not standard padded base64")
	}
	return b
}

// qpherMain is the program qpher-client of the scripts: qpher-client ADDRESS KEYFILE plays through all that the client can do.
func qpherMain() {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintln(os.Stderr, "qpher-client:", r)
			os.Exit(1)
		}
	}()
	key, err := os.ReadFile(os.Args[2])
	if err != nil {
		panic(err)
	}
	c, err := newQpherClient(strings.TrimSpace(string(key)), os.Args[1]+"/")
	if err != nil {
		panic(err)
	}
	p := play{c}
	for _, a := range []string{"Kyber768", "X-Wing"} {
		p.keys(a)
		p.kem(a)
	}
	for _, a := range []string{"Dilithium3", "Composite-ML-DSA"} {
		p.keys(a)
		p.signatures(a)
	}
	l := p.get("/kms/keys", nil)
	p.check(l.Total == 8 && len(l.Keys) == 8, "the list does not have all keys")
	fmt.Printf("%d requests as expected\n", p.sent)
}

// keys leaves version 1 retired and version 2 active.
func (p play) keys(algorithm string) {
	q := url.Values{"algorithm": {algorithm}}
	named := map[string]any{"algorithm": algorithm}
	p.fails(404, "GET", "/kms/keys/active", q, nil)
	k := p.must("/kms/keys/generate", named)
	p.check(k.KeyVersion == 1 && k.Status == "active" && k.Algorithm == algorithm, "generate")
	_, err := time.Parse(time.RFC3339, k.CreatedAt)
	p.check(err == nil && len(bytesOf(k.PublicKey)) > 1000, "generate: public key and time")
	p.fails(409, "POST", "/kms/keys/generate", nil, named)
	r := p.must("/kms/keys/rotate", named)
	p.check(r.KeyVersion == 2 && r.OldKeyVersion == 1 && r.PublicKey != k.PublicKey, "rotate")
	p.check(p.get("/kms/keys/active", q).KeyVersion == 2, "active")
	for n, status := range map[int]string{1: "retired", 2: "active"} {
		got := p.get("/kms/keys/"+strconv.Itoa(n), q)
		p.check(got.Status == status && got.KeyVersion == n, "get")
		l := p.get("/kms/keys", url.Values{"algorithm": {algorithm}, "status": {status}})
		p.check(l.Total == 1 && len(l.Keys) == 1 && l.Keys[0].KeyVersion == n && l.Keys[0].PublicKey == got.PublicKey, "list")
	}
}

func (p play) kem(algorithm string) {
	salt, plaintext := bytes.Repeat([]byte{9}, 32), []byte("Hello, quantum world!")
	with := func(version int, pairs ...string) map[string]any {
		m := map[string]any{"key_version": version}
		if algorithm != "Kyber768" { // which is what absence means
			m["algorithm"] = algorithm
		}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	e := p.must("/kem/encrypt", with(2, "plaintext", b64of(plaintext), "mode", "standard"))
	d := p.must("/kem/decrypt", with(2, "ciphertext", e.Ciphertext))
	p.check(bytes.Equal(bytesOf(d.Plaintext), plaintext) && d.Algorithm == algorithm && d.KeyVersion == 2, "decrypt")
	one := p.must("/kem/encrypt", with(2, "plaintext", b64of(plaintext), "mode", "deterministic", "salt", b64of(salt)))
	two := p.must("/kem/encrypt", with(2, "plaintext", b64of(plaintext), "mode", "deterministic", "salt", b64of(salt)))
	p.check(one.Ciphertext == two.Ciphertext && one.Ciphertext != e.Ciphertext, "deterministic")
	p.check(bytes.Equal(bytesOf(p.must("/kem/decrypt", with(2, "ciphertext", one.Ciphertext)).Plaintext), plaintext), "decrypt deterministic")
	w := p.must("/kem/key/wrap", with(2, "symmetric_key", b64of(salt)))
	p.check(w.WrappingMethod == "KEM-DEM", "wrap")
	p.check(p.must("/kem/key/unwrap", with(2, "wrapped_key", w.WrappedKey)).SymmetricKey == b64of(salt), "unwrap")

	// What the client encrypts by itself: the secret is the AES key, the KEM ciphertext the associated data.
	s := p.must("/kem/encapsulate", with(2))
	iv := make([]byte, 12)
	rand.Read(iv)
	sealed := localGCM(s.SharedSecret).Seal(nil, iv, plaintext, bytesOf(s.KEMCiphertext))
	again := p.must("/kem/decapsulate", with(2, "kem_ciphertext", s.KEMCiphertext))
	opened, err := localGCM(again.SharedSecret).Open(nil, iv, sealed, bytesOf(s.KEMCiphertext))
	p.check(err == nil && bytes.Equal(opened, plaintext), "local envelope")

	p.fails(404, "POST", "/kem/encrypt", nil, with(1, "plaintext", b64of(plaintext), "mode", "standard"))
	p.fails(404, "POST", "/kem/encapsulate", nil, with(99))
	p.fails(400, "POST", "/kem/decrypt", nil, with(1, "ciphertext", e.Ciphertext))
	p.fails(422, "POST", "/kem/key/wrap", nil, with(2, "symmetric_key", b64of(salt[:15])))
	p.fails(422, "POST", "/kem/encrypt", nil, with(2, "plaintext", "", "mode", "deterministic", "salt", b64of(salt[:31])))
}

func localGCM(secret string) cipher.AEAD {
	block, err := aes.NewCipher(bytesOf(secret))
	if err != nil {
		panic("the shared secret is no AES key")
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm
}

func (p play) signatures(algorithm string) {
	message := []byte("signed by nobody else")
	with := func(version int, pairs ...string) map[string]any {
		m := map[string]any{"key_version": version, "algorithm": algorithm}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	s := p.must("/signature/sign", with(2, "message", b64of(message)))
	p.check(algorithm != "Dilithium3" || len(bytesOf(s.Signature)) == 3309, "size of a signature")
	p.check(p.must("/signature/verify", with(2, "message", b64of(message), "signature", s.Signature)).Valid, "verify")
	p.check(!p.must("/signature/verify", with(1, "message", b64of(message), "signature", s.Signature)).Valid, "verify by another version")
	p.check(!p.must("/signature/verify", with(2, "message", b64of(message[1:]), "signature", s.Signature)).Valid, "verify another message")
	digest := sha256.Sum256(message)
	h := p.must("/signature/sign-hash", with(2, "hash", b64of(digest[:]), "hash_algorithm", "SHA-256"))
	p.check(h.SignatureType == "detached" && h.HashAlgorithm == "SHA-256", "sign-hash")
	p.check(p.must("/signature/verify-hash", with(2, "hash", b64of(digest[:]), "hash_algorithm", "SHA-256", "signature", h.Signature)).Valid, "verify-hash")
	p.fails(422, "POST", "/signature/sign-hash", nil, with(2, "hash", b64of(digest[:]), "hash_algorithm", "SHA-512"))
	p.fails(404, "POST", "/signature/sign", nil, with(1, "message", b64of(message)))
	p.fails(400, "POST", "/signature/sign", nil, with(0, "message", b64of(message)))
}
