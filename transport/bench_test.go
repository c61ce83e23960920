package transport

import (
	"net/http"
	"testing"
)

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkHeaders is what the headers cost a request, on a fresh response as net/http gives it.
func BenchmarkHeaders(b *testing.B) {
	h := Headers(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), CORS{})
	r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "/", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(&discard{make(http.Header)}, r)
	}
}
