package api

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"
)

// sink is a ResponseWriter that keeps nothing.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }
func (s *sink) WriteHeader(status int)      { s.status = status }

func benchmark(b *testing.B, path, body string, items int) {
	r := newRig(b, Limits{})
	h := r.Handler()
	in := bytes.NewReader(nil)
	req, err := http.NewRequest(http.MethodPost, path, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header = http.Header{"X-Api-Key": {"good"}, "Content-Type": {"application/json"}}
	req.Body, req.ContentLength = io.NopCloser(in), int64(len(body))
	w := &sink{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		in.Reset([]byte(body))
		clear(w.header)
		h.ServeHTTP(w, req)
		if w.status != http.StatusOK {
			b.Fatal(w.status)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*items), "ns/item")
}

func plaintexts(n int) string {
	item := `{"plaintext":"` + base64.StdEncoding.EncodeToString(make([]byte, 32)) + `"}`
	if n == 1 {
		return item
	}
	return `{"items":[` + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + `]}`
}

// The service behind these turns bytes around: what they measure is the front end alone.

func BenchmarkEncryptSingle(b *testing.B) {
	benchmark(b, "/api/v1/keys/k/encrypt", plaintexts(1), 1)
}

func BenchmarkEncryptBatch100(b *testing.B) {
	benchmark(b, "/api/v1/keys/k/encrypt", plaintexts(100), 100)
}

func BenchmarkDecryptBatch100(b *testing.B) {
	benchmark(b, "/api/v1/keys/k/decrypt", strings.ReplaceAll(plaintexts(100), "plaintext", "ciphertext"), 100)
}
