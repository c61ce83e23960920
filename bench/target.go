package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// target is a service under load: Keywright, or whatever speaks the transit API of Vault.
type target struct {
	name   string
	base   string
	header http.Header
	vault  bool
}

func keywrightTarget(p *process) *target {
	return &target{name: "keywright", base: p.address + "/api/v1",
		header: http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + p.key}}}
}

func vaultTarget(address, token string) *target {
	return &target{name: "transit", base: strings.TrimSuffix(address, "/") + "/v1/transit", vault: true,
		header: http.Header{"Content-Type": {"application/json"}, "X-Vault-Token": {token}}}
}

// call is one request outside the measurement.
func (t *target) call(ctx context.Context, method, path string, body any, into any) error {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, t.base+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header = t.header
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: status %d: %.200s", method, path, resp.StatusCode, out)
	}
	if into == nil || len(out) == 0 {
		return nil
	}
	return json.Unmarshal(out, into)
}

// createKey makes a key of the algorithm under the name.
func (t *target) createKey(ctx context.Context, name, algorithm string) error {
	if t.vault {
		types := map[string]string{"AES-256-GCM": "aes256-gcm96", "ECDSA-P256": "ecdsa-p256"}
		return t.call(ctx, http.MethodPost, "/keys/"+name, map[string]string{"type": types[algorithm]}, nil)
	}
	return t.call(ctx, http.MethodPost, "/keys", map[string]string{"name": name, "algorithm": algorithm}, nil)
}

var plaintext32 = base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))

// encrypt is the main work: 32 bytes under one key.
func (t *target) encrypt(key string) work {
	url, body := t.url(key, "encrypt"), []byte(`{"plaintext":"`+plaintext32+`"}`)
	return work{name: "encrypt 32 B", method: http.MethodPost, header: t.header, status: http.StatusOK, items: 1,
		next: func(uint64) (string, []byte) { return url, body }, check: hasField("ciphertext")}
}

// encryptOver spreads encrypt over n keys whose names name gives.
func (t *target) encryptOver(n uint64, name func(uint64) string) work {
	urls := make([]string, n)
	for i := range urls {
		urls[i] = t.url(name(uint64(i)), "encrypt")
	}
	w := t.encrypt("")
	body := []byte(`{"plaintext":"` + plaintext32 + `"}`)
	w.name = fmt.Sprintf("encrypt 32 B over %d keys", n)
	w.next = func(i uint64) (string, []byte) { return urls[i*2654435761%n], body }
	return w
}

func (t *target) encryptBatch(key string, n int) work {
	field, item := "items", `{"plaintext":"`+plaintext32+`"}`
	if t.vault {
		field = "batch_input"
	}
	body := []byte(`{"` + field + `":[` + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + `]}`)
	url := t.url(key, "encrypt")
	return work{name: fmt.Sprintf("encrypt batch of %d × 32 B", n), method: http.MethodPost, header: t.header,
		status: http.StatusOK, items: n, next: func(uint64) (string, []byte) { return url, body },
		check: func(b []byte) error {
			if got := bytes.Count(b, []byte(`"ciphertext"`)); got != n {
				return fmt.Errorf("%d ciphertexts in the answer to %d items", got, n)
			}
			return nil
		}}
}

func (t *target) sign(key string) work {
	field := "message"
	if t.vault {
		field = "input"
	}
	url, body := t.url(key, "sign"), []byte(`{"`+field+`":"`+plaintext32+`"}`)
	return work{name: "sign ECDSA-P256", method: http.MethodPost, header: t.header, status: http.StatusOK, items: 1,
		next: func(uint64) (string, []byte) { return url, body }, check: hasField("signature")}
}

// create makes keys named by name(i).
func (t *target) create(name func(uint64) string) work {
	return work{name: "create AES-256-GCM key", method: http.MethodPost, header: t.header, status: http.StatusCreated, items: 1,
		next: func(i uint64) (string, []byte) {
			return t.base + "/keys", []byte(`{"name":"` + name(i) + `","algorithm":"AES-256-GCM"}`)
		}, check: hasField("id")}
}

func (t *target) url(key, op string) string {
	if t.vault {
		return t.base + "/" + op + "/" + key
	}
	return t.base + "/keys/" + key + "/" + op
}

// hasField reads the answer as a client does and looks for a value.
func hasField(name string) func([]byte) error {
	return func(b []byte) error {
		var v struct {
			Data map[string]json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(b, &v); err != nil {
			return err
		}
		if len(v.Data[name]) < 3 {
			return errors.New("the answer has no " + name)
		}
		return nil
	}
}
